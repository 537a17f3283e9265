//! What is the case when the faults are over: waits until nothing is on its way any more, then reads everything there is to read.

mod database;
mod quiet;
mod streams;
mod traces;
mod watch;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream;
use runtime::nats::Access;
use tokio_postgres::{Client, NoTls};

use super::{
    facts::Facts,
    history::History,
    reach::{NatsReach, Reach},
};
use crate::connect;
pub use watch::Watch;

/// The doors of the thing under test, open.
struct Doors<'a> {
    reach: &'a Reach,
    database: Client,
    jetstream: jetstream::Context,
}

impl<'a> Doors<'a> {
    async fn open(reach: &'a Reach) -> anyhow::Result<Self> {
        let (database, connection) = tokio_postgres::connect(reach.database_url.expose(), NoTls).await.context("connecting to the database")?;
        tokio::spawn(connection);
        let client = connect::nats_with(&access(&reach.nats), "chaos").await.map_err(|error| anyhow::anyhow!("connecting to NATS: {error}"))?;
        Ok(Self { reach, database, jetstream: jetstream::new(client) })
    }
}

/// How an operator connects.
pub fn access(nats: &NatsReach) -> Access {
    Access { url: nats.urls.clone(), user: nats.user.clone(), password: nats.password.clone(), ca_file: nats.ca.clone() }
}

/// Waits at most `limit` until everything that was accepted has arrived everywhere, then reads. What had not is in [`Facts::unquiet`].
///
/// # Errors
/// The database or a stream cannot be read.
pub async fn collect(reach: &Reach, history: &History, watch: Option<Watch>, limit: Duration) -> anyhow::Result<Facts> {
    let begin = Instant::now();
    let (doors, unquiet) = quiet::wait(reach, history, limit).await?;
    let quiet_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Now, when no client holds anything of the processes any more.
    let resources = match watch {
        Some(watch) => watch.end().await?,
        None => Vec::new(),
    };
    let mut facts = Facts { unquiet, quiet_ms, resources, ..Facts::default() };
    database::read(&doors, &mut facts).await?;
    let subjects = streams::read(&doors, &mut facts).await?;
    facts.replicas = streams::settled_replicas(&doors).await?;
    traces::read(&doors, &subjects, &mut facts).await?;
    Ok(facts)
}
