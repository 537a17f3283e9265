//! `chancery events`: what an operator does when EVENTS and the database do not agree.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use runtime::{
    Config, nats,
    repair::{self, Report},
};

/// Whose rights these commands need.
const USER: &str = subjects::user::OPERATOR;
/// Findings shown one by one; `--json` has more of them.
const SHOWN: usize = 20;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compares the database with EVENTS while the system runs, and publishes again what is missing. The exit code is 1 if something is wrong
    /// that is not mended.
    Reconcile {
        /// Publishes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Prints the report as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one. Blocking: makes a small runtime.
///
/// # Errors
/// NATS or the database cannot be used, or there is nothing to say that could be relied on.
pub fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    if config.database_url.expose().is_empty() {
        bail!("DATABASE_URL is not set (`. .chancery/env` sets it for `up`)");
    }
    runtime::failpoint::arm(config.failpoint.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let connection = nats::connect(config, "events", USER).await?;
        match command {
            Command::Reconcile { dry_run, json } => {
                let report = repair::reconcile(config, &connection, !dry_run).await?;
                if json {
                    println!("{}", serde_json::to_string(&report)?);
                } else {
                    show(&report);
                }
                Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    })
}

fn show(report: &Report) {
    for wrong in report.findings.iter().take(SHOWN) {
        let place = wrong.stream_sequence.map(|place| format!(" at {place}")).unwrap_or_default();
        let end = match (&wrong.error, wrong.mended) {
            (_, true) => ", published again".to_owned(),
            (Some(error), false) => format!(": {error}"),
            (None, false) => String::new(),
        };
        println!("{}: {} {} of {} (partition {}){place}{end}", wrong.what, wrong.event_id, wrong.sequence, wrong.tenant_id, wrong.partition);
    }
    if report.findings.len() > SHOWN {
        println!("… and more; `--json` lists a thousand");
    }
    let Report { messages, matched, missing, mended, extra, out_of_order, differs, repeated, unreadable, forgotten, unpublished, .. } = report;
    println!(
        "{messages} messages, {matched} as in the database, {missing} missing ({mended} published again), {extra} extra, {out_of_order} out of order, \
         {differs} differ, {repeated} repeated, {unreadable} unreadable; {forgotten} forgotten by age or limit, {unpublished} not published yet"
    );
    if !report.is_well() {
        println!("not well: see docs/operations.md, \"Reconcile\"");
    }
}
