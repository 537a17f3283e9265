//! `chancery doctor`: what is wrong with a running cluster, and what to do about it.
//!
//! Facts are gathered by asking (`ask`), and judged without asking (`judge`). Whatever cannot be asked is a finding, never silence.

mod ask;
mod judge;

use std::{fmt, process::ExitCode};

use clap::Args;
use runtime::Config;
use serde::Serialize;

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// Where a role says how it is, as NAME=HOST:PORT; may be repeated.
    #[arg(long = "role", value_name = "NAME=HOST:PORT", env = "CHANCERY_DOCTOR_ROLES", value_delimiter = ',')]
    roles: Vec<String>,
    /// Where a nats-server's monitoring listens, HOST:PORT; may be repeated.
    #[arg(long = "monitor", value_name = "HOST:PORT", env = "CHANCERY_DOCTOR_MONITORS", value_delimiter = ',')]
    monitors: Vec<String>,
    /// Seconds for which something may wait to be decided, published or handled before that is a finding.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Could not be looked at, because nobody said where it is.
    Unknown,
    /// Works, and should not stay so.
    Warning,
    /// The promises do not hold, or will not for long.
    Wrong,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing is to be done.
    pub advice: String,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, what: what.into(), found: found.into(), advice: advice.into() }
    }

    fn fine(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Fine, what, found, "")
    }

    fn wrong(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Wrong, what, found, advice)
    }

    fn warning(what: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Warning, what, found, advice)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, what, found, advice } = self;
        let sign = match level {
            Level::Fine => "ok     ",
            Level::Unknown => "unknown",
            Level::Warning => "warning",
            Level::Wrong => "WRONG  ",
        };
        write!(f, "{sign} {what:<22} {found}")?;
        if advice.is_empty() { Ok(()) } else { write!(f, "\n        {:<22} → {advice}", "") }
    }
}

/// Looks at everything and prints what it found; the exit code is 1 if anything is wrong. Blocking.
///
/// # Errors
/// The manifest or an address cannot be read. A server that does not answer is a finding.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let findings = ask::everything(config, options)?;
    let of = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (wrong, warnings, unknown) = (of(Level::Wrong), of(Level::Warning), of(Level::Unknown));
    if options.json {
        println!("{}", serde_json::json!({ "wrong": wrong, "warnings": warnings, "unknown": unknown, "findings": findings }));
    } else {
        for finding in &findings {
            println!("{finding}");
        }
        println!("{} looked at: {wrong} wrong, {warnings} to mind, {unknown} unknown", findings.len());
    }
    Ok(if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
