//! `chancery dlq`: what an operator does about dead letters.

mod show;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use runtime::{
    Config,
    letters::{Done, LetterError, Letters, Wanted},
};
use subjects::TenantId;

use crate::connect;

/// Letters that are redriven in one go, unless all are asked for.
const AT_ONCE: usize = 100;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists dead letters: how many there are of each consumer and type, then each with its number.
    Ls {
        /// Which letters.
        #[command(flatten)]
        only: Only,
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only those with a higher number.
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        after: u64,
        /// Letters that are listed, at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows a dead letter: headers, body, what waits behind it, and what was done about its event before.
    Show {
        /// Its number.
        number: u64,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lets events be tried anew by the consumers that gave them up. The exit code is 1 if one was refused or failed.
    Redrive {
        /// The numbers of the letters.
        #[arg(required_unless_present = "consumer", conflicts_with = "consumer")]
        numbers: Vec<u64>,
        /// Which letters.
        #[command(flatten)]
        only: Only,
        /// All of that consumer, and not only the first hundred.
        #[arg(long, requires = "consumer")]
        all: bool,
        /// Says what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Who does it.
        #[command(flatten)]
        who: Who,
    },
    /// Gives events up for good. The exit code is 1 if one was refused or failed.
    Discard {
        /// The numbers of the letters.
        #[arg(required = true)]
        numbers: Vec<u64>,
        /// Why; it is written down.
        #[arg(long)]
        reason: String,
        /// Who does it.
        #[command(flatten)]
        who: Who,
    },
    /// Shows who has redriven or discarded what, the last first.
    History {
        /// Rows that are shown, at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which letters.
#[derive(Debug, Args)]
pub struct Only {
    /// Only those of this consumer, or of `worker`.
    #[arg(long)]
    consumer: Option<String>,
    /// Only those of this type, for example `user.created`.
    #[arg(long = "type", value_name = "TYPE")]
    letter_type: Option<String>,
}

impl Only {
    fn wanted(self, tenant: Option<TenantId>) -> Wanted {
        Wanted { consumer: self.consumer, letter_type: self.letter_type, tenant }
    }
}

/// Who does it.
#[derive(Debug, Args)]
pub struct Who {
    /// Who is written down; the user of the operating system unless given.
    #[arg(id = "who", long = "as", value_name = "NAME")]
    name: Option<String>,
}

impl Who {
    pub(crate) fn name(self) -> anyhow::Result<String> {
        if let Some(name) = self.name {
            return if name.trim().is_empty() { bail!("--as needs a name") } else { Ok(name) };
        }
        let id = nix::unistd::Uid::current();
        let user = nix::unistd::User::from_uid(id).ok().flatten();
        Ok(user.map_or_else(|| format!("uid {id}"), |user| user.name))
    }
}

/// Runs one. Blocking: makes a small runtime.
///
/// # Errors
/// NATS or the database cannot be used.
pub fn run(config: &Config, command: Command) -> anyhow::Result<ExitCode> {
    connect::as_operator(config, "dlq", async |connection| {
        let letters = Letters::open(config, &connection.client, "chancery dlq").await?;
        match command {
            Command::Ls { only, tenant, after, limit, json } => {
                let wanted = only.wanted(tenant);
                let (counts, page) = (letters.counts(&wanted).await?, letters.list(&wanted, after, limit.into()).await?);
                show::list(&counts, &page, json);
            }
            Command::Show { number, json } => {
                let letter = letters.get(number).await?;
                show::letter(&letter, &letters.standing(&letter).await?, &letters.history_of(&letter).await?, json);
            }
            Command::Redrive { numbers, only, all, dry_run, who } => {
                if !numbers.is_empty() && only.letter_type.is_some() {
                    bail!("--type goes with --consumer");
                }
                let who = who.name()?;
                let told = async |number| tell(number, redrive(&letters, number, &who, dry_run).await);
                return Ok(if numbers.is_empty() { each_of(&letters, &only.wanted(None), all, told).await? } else { each(numbers, told).await });
            }
            Command::Discard { numbers, reason, who } => {
                let who = who.name()?;
                return Ok(each(numbers, async |number| tell(number, letters.discard(number, &who, &reason).await.map(|done| done.what))).await);
            }
            Command::History { limit, json } => show::history(&letters.history(limit.into()).await?, json),
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn redrive(letters: &Letters, number: u64, who: &str, dry_run: bool) -> Result<String, LetterError> {
    if dry_run {
        return letters.would_redrive(&letters.get(number).await?).await;
    }
    letters.redrive(number, who).await.map(|Done { what, .. }| what)
}

/// Says what became of a letter. Whether it is done.
fn tell(number: u64, done: Result<String, LetterError>) -> bool {
    match &done {
        Ok(what) => println!("{number}: {}", show::plain(what)),
        Err(error) => eprintln!("{number}: {}", show::plain(&error.to_string())),
    }
    done.is_ok()
}

/// Does it with each, whatever becomes of the others.
async fn each(numbers: Vec<u64>, does: impl AsyncFn(u64) -> bool) -> ExitCode {
    let mut all = true;
    for number in numbers {
        all &= does(number).await;
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does it with the letters that are there now: what fails again meanwhile is another letter, and another day's.
async fn each_of(letters: &Letters, wanted: &Wanted, all: bool, does: impl AsyncFn(u64) -> bool) -> anyhow::Result<ExitCode> {
    let (last, mut after, mut well, mut found) = (letters.last(), 0, true, 0);
    loop {
        let page = letters.list(wanted, after, AT_ONCE).await?;
        for number in page.letters.iter().map(|letter| letter.number).take_while(|number| *number <= last) {
            well &= does(number).await;
            found += 1;
        }
        match page.next {
            Some(next) if all && next < last => after = next,
            Some(_) if !all => {
                println!("there are more: say it again, or `--all`");
                break;
            }
            _ => break,
        }
    }
    if found == 0 {
        println!("there are none");
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
