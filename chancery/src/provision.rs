//! `chancery provision`: the streams.

use anyhow::anyhow;
use runtime::{Config, nats::Access, streams};

use crate::connect;

/// Creates the streams, or checks them when they exist; tells how many were created. Blocking: makes a small runtime for it.
///
/// # Errors
/// NATS cannot be reached, or an existing stream differs from what the configuration says.
pub fn run(config: &Config) -> anyhow::Result<usize> {
    let work = async {
        let client = connect::nats_with(&Access::of(config), "chancery provision").await?;
        Ok(streams::ensure(config, &client).await?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error: Box<dyn std::error::Error + Send + Sync>| anyhow!("{error}"))
}
