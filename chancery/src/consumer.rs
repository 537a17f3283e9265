//! `chancery consumer`: runs one of our durable consumers, and what an operator or another team does with any.

mod control;
mod effects;
mod history;
mod lag;
mod new;
mod pause;
mod place;
mod replay;
mod seek;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use runtime::Config;

use crate::role::{self, Consumer, Role};

/// What is asked for: a consumer to run, or something to be done.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    /// Runs this one.
    #[arg(required = true)]
    name: Option<Consumer>,
    #[command(subcommand)]
    what: Option<Command>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes the crate of a new consumer in Rust, which compiles, passes its test and stands in a manifest.
    New(new::Options),
    /// Shows how far declared consumers are.
    Lag(lag::Options),
    /// Holds a consumer for a while: it has no events until then.
    Pause(pause::Options),
    /// Lets a paused consumer go on.
    Resume(pause::ResumeOptions),
    /// Lets one consumer have events again. Effects that are kept by the event's id stay once: it fills in what is missing. With
    /// `--effects` what they did outside is sent again instead.
    Replay(replay::Options),
    /// Moves a consumer: it goes on with another event. Effects that are kept by the event's id stay once.
    Seek(seek::Options),
    /// Shows who has done what to consumers, the last first.
    History(history::Options),
}

/// Does what is asked.
///
/// # Errors
/// What ended the consumer, or what could not be done.
pub fn run(config: Config, options: Options) -> anyhow::Result<ExitCode> {
    match options.what {
        Some(Command::New(options)) => new::run(&config, &options),
        Some(Command::Lag(options)) => lag::run(&config, &options),
        Some(Command::Pause(options)) => pause::run(&config, options),
        Some(Command::Resume(options)) => pause::resume(&config, options),
        Some(Command::Replay(options)) => replay::run(&config, options),
        Some(Command::Seek(options)) => seek::run(&config, options),
        Some(Command::History(options)) => history::run(&config, &options),
        None => role::run(Role::Consumer(options.name.context("which consumer?")?), config),
    }
}
