//! `chancery provision`: the streams, the bucket and the durables. Nobody else makes any.

use std::fmt;

use async_nats::jetstream;
use runtime::{Config, StartError, consume::Provisioned, nats::Access, streams};

use crate::{connect, role::Consumer};

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Streams that were missing, the bucket's among them.
    pub streams: usize,
    /// Durables that were missing.
    pub consumers: usize,
    /// Durables that took less than this version wants.
    pub widened: usize,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} streams and {} consumers created, {} widened, the others are as configured", self.streams, self.consumers, self.widened)
    }
}

/// Creates the streams, the bucket and the durables of all consumers, or checks them when they exist. Blocking: makes a small runtime for it.
///
/// # Errors
/// NATS cannot be reached, or an existing stream or durable differs from what the configuration says.
pub fn run(config: &Config) -> anyhow::Result<Made> {
    let work = async {
        let client = connect::nats_with(&Access::of(config), "chancery provision").await?;
        Ok(provision(config, &client).await?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error: Box<dyn std::error::Error + Send + Sync>| anyhow::Error::from_boxed(error))
}

/// True for an error that may be over in a moment: the servers are not there, or have no leader yet.
pub fn may_pass(error: &anyhow::Error) -> bool {
    !matches!(error.downcast_ref::<StartError>(), Some(StartError::Settings { .. } | StartError::Config(_)))
}

/// The same over a connection that there is.
///
/// # Errors
/// See [`run`].
pub async fn provision(config: &Config, client: &async_nats::Client) -> Result<Made, StartError> {
    let mut made = Made { streams: streams::ensure(config, client).await?, ..Made::default() };
    let context = jetstream::new(client.clone());
    for consumer in Consumer::ALL {
        match consumer.durable(config).provision(&context, config).await? {
            Provisioned::Created => made.consumers += 1,
            Provisioned::Widened => made.widened += 1,
            Provisioned::Found => {}
        }
    }
    Ok(made)
}
