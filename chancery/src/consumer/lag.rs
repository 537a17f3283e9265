//! `chancery consumer lag`: how far declared consumers are.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use runtime::Config;

use crate::{overview::Observer, status};

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this one.
    name: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Looks once. Blocking: makes a small runtime.
pub(super) fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let mut now = chancery_kit::process::runtime_on(Some(1))?.block_on(async { Observer::connect(config).await?.look().await })?;
    if let Some(name) = &options.name {
        now.consumers.retain(|consumer| consumer.name == name);
        if now.consumers.is_empty() {
            bail!("the manifest declares no consumer {name}");
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&now.consumers)?);
    } else {
        print!("{}", status::consumers(&now, None));
    }
    Ok(ExitCode::SUCCESS)
}
