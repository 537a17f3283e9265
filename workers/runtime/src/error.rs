//! Two failures: what keeps a role from starting, and what a handler could not do. (A refusal is neither: it is an answer.)

use std::fmt;

/// What keeps a role from starting or going on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// NATS cannot be used.
    #[error("cannot use NATS: {0}")]
    Nats(String),
    /// PostgreSQL cannot be used.
    #[error("cannot use PostgreSQL: {0}")]
    Postgres(String),
    /// A stream or durable exists with other settings than ours.
    #[error("{name} exists with other settings: {difference}; change it on purpose or use another account")]
    Settings {
        /// The stream or durable.
        name: String,
        /// What differs, wanted and found.
        difference: String,
    },
    /// A stream or durable is not (yet) as this version needs it. Roles make none themselves.
    #[error("{name} {what}; `chancery provision` makes the streams, the bucket and the consumers")]
    NotProvisioned {
        /// The stream or durable.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The database has no rows for the partitions, or another number of them.
    #[error("{0}")]
    Setup(String),
}

/// Why work on a message failed, and what happens next. Only the loop acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Something outside is missing, the message is not at fault: waited for without limit, at no cost to the message.
    Outage(String),
    /// It may succeed later.
    Retry(String),
    /// It never will.
    Poison(String),
}

impl Failure {
    /// Its word in metrics and spans.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Outage(_) => "outage",
            Self::Retry(_) => "retry",
            Self::Poison(_) => "poison",
        }
    }

    /// Something outside is missing: a connection, a pool, a disk.
    pub fn outage(error: impl fmt::Display) -> Self {
        Self::Outage(error.to_string())
    }

    /// It may succeed later, and may be the message's own fault.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry(error.to_string())
    }

    /// It never will: the message itself is at fault.
    pub fn poison(error: impl fmt::Display) -> Self {
        Self::Poison(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outage(error) | Self::Retry(error) | Self::Poison(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for Failure {}
