//! Connections of the tools in this crate; the roles make their own in `runtime`.

use anyhow::{Context as _, bail};
use async_nats::Client;
use runtime::{
    Config,
    nats::{Access, Connection},
};

/// Refuses to begin without a database.
///
/// # Errors
/// None is named.
pub fn needs_database(config: &Config) -> anyhow::Result<()> {
    if config.database_url.expose().is_empty() {
        bail!("DATABASE_URL is not set (`. .chancery/env` sets it for `up`)");
    }
    Ok(())
}

/// Does an operator's work, at NATS and in the database. Blocking: makes a small runtime.
///
/// # Errors
/// NATS or the database cannot be used, or the work fails.
pub fn as_operator<T>(config: &Config, name: &str, work: impl AsyncFnOnce(Connection) -> anyhow::Result<T>) -> anyhow::Result<T> {
    needs_database(config)?;
    runtime::failpoint::arm(config.failpoint.as_deref());
    chancery_kit::process::runtime_on(Some(1))?.block_on(async { work(runtime::nats::connect(config, name, subjects::user::OPERATOR).await?).await })
}

/// A session of PostgreSQL for tools that are not async, with a limit for connecting. Blocking.
///
/// # Errors
/// It is no URL.
pub(crate) fn database_session(url: &str, name: &str) -> anyhow::Result<postgres::Config> {
    let mut session: postgres::Config = url.parse().context("DATABASE_URL is not a PostgreSQL URL")?;
    session.application_name(name).connect_timeout(std::time::Duration::from_secs(10));
    Ok(session)
}

/// Connects to NATS with the user and password that the URL carries, which the client library itself leaves aside.
///
/// # Errors
/// A URL that cannot be read, or a server that does not answer or refuses.
pub async fn nats(url: &str, name: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    nats_with(&Access::at(url), name).await
}

/// Connects to NATS, with TLS and as a user of its own where that is asked for. Replies come to the user's own inbox.
///
/// # Errors
/// See [`nats`].
pub async fn nats_with(access: &Access, name: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let (mut options, addresses) = access.options()?;
    let user = access.user.clone().or_else(|| addresses.iter().find_map(|address| address.username().map(str::to_owned)));
    if let Some(user) = user {
        options = options.custom_inbox_prefix(subjects::user::inbox(&user)).event_callback(move |event| {
            runtime::nats::hear(&event, &user);
            std::future::ready(())
        });
    }
    Ok(options.name(name).connect(addresses).await?)
}
