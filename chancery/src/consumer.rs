//! `chancery consumer`: runs one of our durable consumers, and what an operator or another team does with any.

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
pub enum Command {}

/// Does what is asked.
///
/// # Errors
/// What ended the consumer, or what could not be done.
pub fn run(config: Config, guarded: bool, options: Options) -> anyhow::Result<ExitCode> {
    match options.what {
        Some(command) => match command {},
        None => role::run(Role::Consumer(options.name.context("which consumer?")?), config, guarded),
    }
}
