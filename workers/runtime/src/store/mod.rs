//! Everything said to PostgreSQL by the worker. SQL stands here and nowhere else in the runtime.

pub mod backlog;
pub mod commit;
pub mod deadletter;
pub mod history;
pub mod janitor;
pub mod lease;
pub mod letters;
pub mod load;
pub mod outbox;
pub mod repair;
mod rows;
pub mod schedule;

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;

use crate::{Config, error::StartError, health};

/// Why there is no connection for now.
const UNCHECKED: &str = "PostgreSQL has started anew, and no worker has compared EVENTS with it yet";

/// A pool of connections, bounded in size and in the time spent waiting for one. None is used before a worker has seen that EVENTS is not
/// ahead of the database (`history`): effects of events that the database does not know would be a second history over the first.
///
/// # Errors
/// An address that cannot be read.
pub fn pool(config: &Config, application_name: &str) -> Result<Pool, StartError> {
    let manager = Manager::from_config(session(config, application_name, "")?, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(config.database_pool)
        .wait_timeout(Some(config.database_timeout))
        .create_timeout(Some(Duration::from_secs(5)))
        .recycle_timeout(Some(Duration::from_secs(5)))
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                let checked = history::is_checked(client).await.map_err(HookError::Backend)?;
                health::set("history", checked, if checked { "compared with EVENTS" } else { UNCHECKED });
                if checked { Ok(()) } else { Err(HookError::message(UNCHECKED)) }
            })
        }))
        .build()
        .map_err(|error| StartError::Postgres(error.to_string()))
}

/// Settings of one session: named, with time limits, and ended by the server when it freezes inside a transaction.
///
/// # Errors
/// An address that cannot be read.
pub fn session(config: &Config, application_name: &str, further: &str) -> Result<tokio_postgres::Config, StartError> {
    let url = config.database_url.expose();
    if url.is_empty() {
        return Err(StartError::Config(crate::config::ConfigError::Missing("DATABASE_URL")));
    }
    let mut session: tokio_postgres::Config =
        url.parse().map_err(|error: tokio_postgres::Error| StartError::Postgres(format!("DATABASE_URL: {error}")))?;
    let timeout = config.database_timeout.as_millis();
    let idle = config.lease.as_millis();
    session
        .application_name(application_name)
        .connect_timeout(Duration::from_secs(5))
        .keepalives_idle(Duration::from_secs(5))
        .tcp_user_timeout(Duration::from_secs(10))
        .options(format!(
            "-c statement_timeout={timeout} -c idle_in_transaction_session_timeout={idle} -c tcp_user_timeout=10000 -c timezone=UTC {further}"
        ));
    Ok(session)
}

/// One connection outside the pool, driven by a task of its own until it ends.
///
/// # Errors
/// Why there is none, without the password.
pub async fn connect(config: &Config, application_name: &str, further: &str) -> Result<tokio_postgres::Client, String> {
    let session = session(config, application_name, further).map_err(|error| error.to_string())?;
    let (client, connection) = session.connect(NoTls).await.map_err(|error| describe(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %describe(&error), "database connection ended");
        }
    });
    Ok(client)
}

/// An error with its cause: `tokio_postgres` shows only "db error" otherwise.
pub fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(database), _) => format!("{} ({})", database.message(), database.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
