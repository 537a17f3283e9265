//! `chancery chaos`: load, faults and checkers, which together prove (or refute) what the product promises.
//!
//! A run is: a load that records all it did ([`load`], [`history`]), faults that record when they began and ended, then quiet, then the
//! facts ([`facts`]): what the database, every replica of the streams and every consumer hold. Checkers ([`check`]) are pure functions over
//! the two.

pub mod chance;
pub mod chart;
pub mod check;
pub mod collect;
#[cfg(feature = "planted")]
mod defect;
mod execute;
pub mod facts;
pub mod fault;
pub mod history;
mod inject;
pub mod kind;
pub mod load;
pub mod plan;
pub mod power;
mod probe;
pub mod proxy;
pub mod reach;
pub mod report;
mod run;
pub mod target;

use std::path::PathBuf;

pub use run::run;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Every kind of fault once, close together: about five minutes.
    #[arg(long, conflicts_with_all = ["minutes", "scenario"])]
    quick: bool,
    /// Faults by chance for so many minutes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_440))]
    minutes: Option<u64>,
    /// A worst case by its name instead of chance.
    #[arg(long, value_name = "NAME", conflicts_with = "minutes")]
    scenario: Option<String>,
    /// Plays the scenario that must convict a planted defect (or `all`), with the defect and without it: exit code 0 when each was convicted
    /// by its checker, and acquitted without it.
    #[cfg(feature = "planted")]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["quick", "minutes", "scenario", "target", "only", "json", "out", "list"])]
    planted: Option<String>,
    /// What it is done to.
    #[arg(long, value_enum, default_value_t = On::Processes)]
    target: On,
    /// Repeats the faults of an earlier run; by chance when none is given, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults of this kind, again and again (may be given several times).
    #[arg(long, value_name = "KIND")]
    only: Vec<String>,
    /// Commands that arrive in a second.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Where history, report, picture and logs are left. Default: a folder of the run in CHANCERY_DATA.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Prints the kinds of faults and the scenarios, or with a length or a scenario the plan, and does nothing.
    #[arg(long)]
    list: bool,
}

/// What faults are done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum On {
    /// Processes of this machine, made for the run.
    Processes,
    /// The containers of `compose.yaml`, under a project of the run.
    Compose,
}
