//! `chancery consumer seek`: another event is next.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use runtime::Config;

use super::{
    control::{Control, Standing, failed, filters},
    place::Place,
};
use crate::{connect, dlq::Who};

/// What is to be moved.
#[derive(Debug, Args)]
pub struct Options {
    /// Its name.
    name: String,
    /// The event that is next: its number in EVENTS, the first of a time (2026-11-01T00:00:00Z), `start`, or `end` for what comes from now on.
    #[arg(long, value_name = "PLACE")]
    to: Place,
    /// Says what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Gives up what lies between: the consumer never has it.
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    who: Who,
}

/// Moves a consumer. Blocking: makes a small runtime.
pub(super) fn run(config: &Config, options: Options) -> anyhow::Result<ExitCode> {
    let Options { name, to, dry_run, skip, who } = options;
    let who = who.name()?;
    connect::as_operator(config, "consumer", async |connection| {
        let control = Control::open(config, &connection).await?;
        let standing = control.standing(&name).await?;
        let next = control.number(to).await?;
        let what = match &standing {
            Standing::Durable(info) => {
                let (taken, handled) = (filters(info), info.ack_floor.stream_sequence);
                let (now, then) = (control.behind(&taken, handled).await?, control.behind(&taken, next - 1).await?);
                if now > then && !(skip || dry_run) {
                    bail!("{name} would never have {} events that it has not answered yet; say `--skip` if that is meant", now - then);
                }
                if now > then {
                    format!("goes on with {next} and never has {} events", now - then)
                } else {
                    format!("goes on with {next} and has {} events again", then - now)
                }
            }
            Standing::InOrder(position) if next > position + 1 => bail!(
                "{name} asks for order and has handled everything up to {position}: what is left out it would read from the table before the next event of its tenant"
            ),
            Standing::InOrder(_) => format!("reads on from {next}; what it has handled it knows by its marks"),
        };
        if dry_run {
            println!("{name} {what}: not done");
            return Ok(ExitCode::SUCCESS);
        }
        control.note(&who, "seek", &name, &what).await?;
        match standing {
            Standing::Durable(_) => {
                let reset = control.events.reset_consumer(&name, Some(next)).await;
                reset.with_context(|| {
                    format!("moving the durable {name} (nats-server 2.14 or newer does it, for one that does not begin with `new`)")
                })?;
            }
            Standing::InOrder(_) => place(&control, &name, next - 1).await?,
        }
        println!("{name} {what}");
        Ok(ExitCode::SUCCESS)
    })
}

/// Moves a position, under an epoch of its own: the owner of now finds that the lease is not its own any more, and whoever is next reads from there.
async fn place(control: &Control, name: &str, position: u64) -> anyhow::Result<()> {
    let position = i64::try_from(position).context("no such place")?;
    // The lease first, as an owner does.
    let moved = "WITH lease AS (UPDATE consumer_leases SET owner = NULL, epoch = epoch + 1, lease_until = now() WHERE consumer = $1 RETURNING epoch)
         UPDATE consumer_positions p SET epoch = lease.epoch, position = $2 FROM lease WHERE p.consumer = $1";
    let moved = control.database.execute(moved, &[&name, &position]).await.map_err(|error| failed(&error))?;
    if moved == 1 { Ok(()) } else { bail!("{name} has never run") }
}
