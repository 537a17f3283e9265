//! One session's process of PostgreSQL.

use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{self, Signal};
use postgres::NoTls;
use runtime::config::Secret;

use crate::child;

/// How long PostgreSQL may take to say which sessions there are.
const LIMIT: Duration = Duration::from_secs(5);

/// The process of a worker's session, as PostgreSQL numbers it. Blocking.
///
/// # Errors
/// PostgreSQL cannot be asked, or no worker has a session.
pub(super) fn session(url: &Secret) -> anyhow::Result<u32> {
    let mut config: postgres::Config = url.expose().parse()?;
    let mut client = config.connect_timeout(LIMIT).connect(NoTls).context("asking for the sessions")?;
    let workers = "SELECT pid FROM pg_stat_activity WHERE usename = 'chancery_worker' ORDER BY state = 'active' DESC, pid LIMIT 1";
    let pid: i32 = client.query_opt(workers, &[])?.context("no worker has a session")?.try_get(0)?;
    Ok(u32::try_from(pid)?)
}

/// kill -9 of a worker's session, as the kernel does when memory ends; on this machine. Blocking.
///
/// # Errors
/// As for [`session`].
pub(super) fn kill9(url: &Secret) -> anyhow::Result<()> {
    signal::kill(child::pid(session(url)?), Signal::SIGKILL).context("kill -9 of the session")
}
