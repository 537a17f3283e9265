//! `chancery consumer pause` and `resume`: a durable is paused at nats-server, which keeps it over restarts; one in order by a row that whoever
//! owns it obeys when it renews its lease.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use runtime::Config;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    control::{Control, Standing, failed},
    place,
};
use crate::{connect, dlq::Who};

/// A longer pause is somebody's mistake: what is forgotten meanwhile has to come from the table.
const LONGEST: Duration = Duration::days(30);

/// What is to be paused.
#[derive(Debug, Args)]
pub struct Options {
    /// Its name.
    name: String,
    /// Until when, for example 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = place::time, required_unless_present = "length", conflicts_with = "length")]
    until: Option<OffsetDateTime>,
    /// For how long, for example 90s, 15m, 2h or 3d.
    #[arg(long = "for", id = "length", value_name = "TIME", value_parser = length)]
    length: Option<Duration>,
    #[command(flatten)]
    who: Who,
}

/// What is to go on.
#[derive(Debug, Args)]
pub struct ResumeOptions {
    /// Its name.
    name: String,
    #[command(flatten)]
    who: Who,
}

/// A length of time with a unit.
fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time (90s, 15m, 2h, 3d)");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::seconds(i64::from(number) * unit))
}

/// Pauses. Blocking: makes a small runtime.
pub(super) fn run(config: &Config, options: Options) -> anyhow::Result<ExitCode> {
    let Options { name, until, length, who } = options;
    let now = OffsetDateTime::now_utc();
    let until = until.or_else(|| length.and_then(|length| now.checked_add(length))).context("until when?")?;
    if until <= now {
        bail!("{until} is over");
    }
    if until > now + LONGEST {
        bail!("a pause is {} days long at most", LONGEST.whole_days());
    }
    let (who, text) = (who.name()?, until.format(&Rfc3339)?);
    connect::as_operator(config, "consumer", async |connection| {
        let control = Control::open(config, &connection).await?;
        let standing = control.standing(&name).await?;
        control.note(&who, "pause", &name, &format!("until {text}")).await?;
        match standing {
            Standing::Durable(_) => {
                let paused = control.events.pause_consumer(&name, until).await.with_context(|| format!("pausing the durable {name}"))?;
                if !paused.paused {
                    bail!("nats-server did not pause {name}: is its clock ahead?");
                }
            }
            Standing::InOrder(_) => {
                let row = "INSERT INTO consumer_pauses (consumer, until) VALUES ($1, $2) ON CONFLICT (consumer) DO UPDATE SET until = excluded.until";
                control.database.execute(row, &[&name, &until]).await.map_err(|error| failed(&error))?;
            }
        }
        println!("{name} is paused until {text}");
        Ok(ExitCode::SUCCESS)
    })
}

/// Ends a pause. Blocking: makes a small runtime.
pub(super) fn resume(config: &Config, options: ResumeOptions) -> anyhow::Result<ExitCode> {
    let ResumeOptions { name, who } = options;
    let who = who.name()?;
    connect::as_operator(config, "consumer", async |connection| {
        let control = Control::open(config, &connection).await?;
        let standing = control.standing(&name).await?;
        control.note(&who, "resume", &name, "at once").await?;
        match standing {
            Standing::Durable(_) => {
                control.events.resume_consumer(&name).await.with_context(|| format!("resuming the durable {name}"))?;
            }
            Standing::InOrder(_) => {
                control.database.execute("DELETE FROM consumer_pauses WHERE consumer = $1", &[&name]).await.map_err(|error| failed(&error))?;
            }
        }
        println!("{name} goes on");
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        assert_eq!(length("90s"), Ok(Duration::seconds(90)));
        assert_eq!(length("2h"), Ok(Duration::hours(2)));
        assert_eq!(length("3d"), Ok(Duration::days(3)));
        for wrong in ["", "90", "-1s", "1w", "s", "1µ"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }
}
