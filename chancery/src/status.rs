//! `chancery status`: partitions and owners, rates, how far consumers are, dead letters; once, or again and again.

mod show;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use runtime::Config;

use self::show::table;
pub(crate) use self::show::{age, consumers};
use crate::overview::{Observer, Overview};

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// Looks again every so many seconds, until Ctrl-C; shows rates, too.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
    /// Prints JSON, one line for each look.
    #[arg(long)]
    json: bool,
}

/// Looks and prints. Blocking: makes a small runtime.
///
/// # Errors
/// Without `--watch`, that something does not answer; with it, only what no waiting mends.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    chancery_kit::process::runtime_on(Some(1))?.block_on(async {
        let Some(seconds) = options.watch else {
            let now = Observer::connect(config).await?.look().await?;
            print(options, &now, None)?;
            return Ok(ExitCode::SUCCESS);
        };
        tokio::select! {
            result = watch(config, options, Duration::from_secs(seconds)) => result.map(|()| ExitCode::SUCCESS),
            stopped = tokio::signal::ctrl_c() => stopped.map(|()| ExitCode::SUCCESS).context("waiting for Ctrl-C"),
        }
    })
}

/// Looks again and again. What does not answer is told and asked again: whoever watches wants to see it come back.
async fn watch(config: &Config, options: &Options, pause: Duration) -> anyhow::Result<()> {
    let mut observer = Observer::connect(config).await?;
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        match observer.look().await {
            Ok(now) => {
                print(options, &now, before.as_ref())?;
                before = Some(now);
            }
            Err(error) => eprintln!("chancery: {error:#}"),
        }
    }
}

fn print(options: &Options, now: &Overview, before: Option<&Overview>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string(now)?)?;
    } else {
        if options.watch.is_some() && out.is_terminal() {
            // To the top of a screen that is empty.
            write!(out, "\x1b[2J\x1b[H")?;
        }
        write!(out, "{}", table(now, before))?;
    }
    // Whoever reads through a pipe wants each look at once.
    Ok(out.flush()?)
}
