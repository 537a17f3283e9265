//! `chancery consumer history`: who has done what to consumers.

use std::process::ExitCode;

use clap::Args;
use runtime::Config;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::control::{Control, failed};
use crate::connect;

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// Rows that are shown, at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Shows. Blocking: makes a small runtime.
pub(super) fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    connect::as_operator(config, "consumer", async |connection| {
        let control = Control::open(config, &connection).await?;
        let select = "SELECT acted_at, actor, action, consumer, what FROM consumer_actions ORDER BY n DESC LIMIT $1";
        let mut rows = Vec::new();
        for row in control.database.query(select, &[&i64::from(options.limit)]).await.map_err(|error| failed(&error))? {
            let at = row.try_get::<_, OffsetDateTime>(0)?.format(&Rfc3339)?;
            let texts: [String; 4] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?];
            rows.push((at, texts));
        }
        if options.json {
            let rows = rows.iter().map(
                |(at, [actor, action, consumer, what])| json!({ "at": at, "actor": actor, "action": action, "consumer": consumer, "what": what }),
            );
            println!("{}", rows.collect::<serde_json::Value>());
        } else {
            for (at, [actor, action, consumer, what]) in rows {
                println!("{at}  {actor}  {action} {consumer}  {what}");
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
