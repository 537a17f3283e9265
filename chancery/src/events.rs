//! `chancery events`: what an operator does when EVENTS and the database do not agree.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Subcommand;
use runtime::{
    Config, nats,
    repair::{self, Rebuild, Rebuilt, Report, Wanted},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{connect, manifest::Manifest, provision};

/// How often a rebuild looks how far the workers are.
const LOOK: Duration = Duration::from_millis(500);
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
    /// Builds EVENTS anew from the database, in its old order, and makes its consumers anew: after it was lost, or when it is not what the
    /// database says. The workers publish; every effect that has happened is known by its event and does not happen again.
    Rebuild {
        /// Deletes an EVENTS that is there, with its consumers.
        #[arg(long)]
        replace: bool,
        /// Leaves older events to the table (RFC 3339). As far back as CHANCERY_EVENTS_MAX_AGE_S by default, where there is one.
        #[arg(long, value_name = "TIME", value_parser = time)]
        since: Option<OffsetDateTime>,
        /// Says what it would do.
        #[arg(long)]
        dry_run: bool,
        /// Prints what was done as JSON, and nothing else.
        #[arg(long)]
        json: bool,
    },
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("{error}; a time looks like 2026-11-25T00:00:00Z"))
}

/// Runs one. Blocking: makes a small runtime.
///
/// # Errors
/// NATS or the database cannot be used, or there is nothing to say that could be relied on.
pub fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    connect::as_operator(config, "events", async |connection| match command {
        Command::Reconcile { dry_run, json } => {
            let report = repair::reconcile(config, &connection, !dry_run).await?;
            if json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                show(&report);
            }
            Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Rebuild { replace, since, dry_run, json } => {
            let wanted = Wanted { replace: replace || dry_run, since };
            rebuild(config, &connection, wanted, dry_run, json).await.map(|()| ExitCode::SUCCESS)
        }
    })
}

async fn rebuild(config: &Config, connection: &nats::Connection, wanted: Wanted, dry_run: bool, json: bool) -> anyhow::Result<()> {
    let mut rebuild = Rebuild::look(config, connection, wanted).await?;
    let Rebuilt { events, left_to_the_table, bytes, replaces, .. } = rebuild.plan;
    if !json {
        let what = if replaces { "EVENTS is deleted, and built anew" } else { "EVENTS is built anew" };
        let end = if dry_run { " (nothing was done)" } else { "" };
        println!("{what} with {events} events, about {bytes} bytes; {left_to_the_table} older ones are left to the table{end}");
    }
    if !dry_run {
        rebuild.run().await?;
        let made = provision::provision(config, Manifest::of(config)?, &connection.client)
            .await
            .context("EVENTS is there again; `chancery provision` makes the rest")?;
        if !json {
            println!("{made}; the workers publish, also when this command is ended");
        }
        let mut told = events;
        loop {
            let left = rebuild.left().await?;
            if left == 0 {
                break;
            }
            if !json && left < told {
                told = left;
                println!("{left} events are left");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    if json {
        println!("{}", serde_json::to_string(&rebuild.plan)?);
    }
    Ok(())
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
