//! What further durable consumers cost: the product with more and more consumers of other teams, each a process of its own made with the kit
//! that takes every event and writes a row for it, and then with one of them stopped.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_nats::jetstream::{self, consumer::pull, stream::Stream};
use chancery_kit::{Durable, Event, Failure, Order, Schema, Start, Transaction};
use nix::sys::signal::Signal;
use runtime::{Config, Stop, config::Secret};
use subjects::stream as names;
use uuid::Uuid;

use super::{
    Options,
    contender::Contender,
    load::Pace,
    product::{self, Product},
    stand::Stand,
    usage::Clock,
};
use crate::{connect, manifest::Manifest, migrate::Passwords, privilege::nats::User, provision, servers::port, token};

/// How many may be asked for: each is a process and some sessions at PostgreSQL.
pub(super) const MOST: usize = 64;
/// Sessions that PostgreSQL is told to take.
pub(super) const SESSIONS: &str = "max_connections=600";
/// What the names of the product's processes begin with.
const PREFIX: &str = "product ";
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked whether every consumer is done.
const LOOK: Duration = Duration::from_millis(5);
/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5)];
/// What it makes of an event is one row.
const TABLE: &str =
    "CREATE TABLE seen (event_id uuid NOT NULL, tenant_id uuid NOT NULL, sequence bigint NOT NULL, type text NOT NULL, data jsonb NOT NULL)";

fn name(number: usize) -> String {
    format!("team-{number}")
}

/// The manifest with so many of them.
pub(super) fn manifest(number: usize) -> String {
    let entry = |number| {
        format!(
            "[[consumer]]\nname = \"team-{number}\"\nowner = \"bench\"\nabout = \"Writes a row for every event.\"\nfilters = [\"{}\"]\n\
             order = \"none\"\nstart = \"new\"\nack_wait_s = 30\nmax_deliver = 8\nmax_ack_pending = 1024\nbackoff_s = [1, 5]\nschema = \"team_{number}\"\n\n",
            names::ALL_EVENTS,
        )
    };
    (1..=number).map(entry).collect()
}

/// One of them as a process. Blocking.
pub fn run_one(name: String) -> ExitCode {
    let schema: &'static str = Box::leak(name.replace('-', "_").into_boxed_str());
    let name: &'static str = Box::leak(name.into_boxed_str());
    let durable = Durable {
        name,
        stream: names::EVENTS,
        filters: &[names::ALL_EVENTS],
        order: Order::None,
        start: Start::New,
        ack_wait: Duration::from_secs(30),
        max_deliver: 8,
        max_ack_pending: 1_024,
        batch: 256,
        backoff: BACKOFF,
    };
    let insert = format!("INSERT INTO {schema}.seen SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::jsonb[])");
    chancery_kit::run(
        durable,
        Schema { name: schema, migrations: &[("0001_seen", TABLE)] },
        async |transaction: &Transaction<'_>, events: &[Event]| write(transaction, &insert, events).await,
    )
}

/// A row for each event, in one statement.
async fn write(transaction: &Transaction<'_>, insert: &str, events: &[Event]) -> Result<(), Failure> {
    let envelopes = || events.iter().map(|event| &event.envelope);
    let ids: Vec<Uuid> = envelopes().map(|envelope| envelope.id.uuid()).collect();
    let tenants: Vec<Uuid> = envelopes().map(|envelope| envelope.tenant_id.uuid()).collect();
    let sequences: Vec<i64> = envelopes().map(|envelope| i64::try_from(envelope.sequence).unwrap_or(i64::MAX)).collect();
    let types: Vec<&str> = envelopes().map(|envelope| envelope.event_type.as_str()).collect();
    let data: Vec<&serde_json::Value> = envelopes().map(|envelope| &envelope.data).collect();
    transaction.execute(&transaction.prepare_cached(insert).await?, &[&ids, &tenants, &sequences, &types, &data]).await?;
    Ok(())
}

/// What one step has shown.
struct Step {
    /// Durable consumers that run, the audit among them.
    consumers: usize,
    stopped: bool,
    /// Commands a second until the last audit row, as without teams.
    commands: f64,
    /// Commands a second until the last consumer that runs was done.
    delivered: f64,
    /// CPU seconds for 1000 commands, over all processes but the load.
    cpu: f64,
    /// The same for nats-server, PostgreSQL, gateway with worker, and all consumers' processes.
    parts: [f64; 4],
    /// CPU microseconds for each event that one consumer has had.
    cpu_per_event: f64,
}

/// Which of [`Step::parts`] a process belongs to.
fn part(process: &str) -> usize {
    match process {
        "nats-server" => 0,
        "postgres" => 1,
        name if name == "gateway" || name.starts_with("worker") => 2,
        _ => 3,
    }
}

/// Measures step by step: `counts` of durable consumers, the audit among them; then the last of them with one consumer stopped.
///
/// # Errors
/// A part cannot be started, or could not be measured.
pub(super) fn run(
    config: &Config,
    options: &Options,
    counts: &[usize],
    stand: &mut Stand,
    product: &Product,
    stop: &Stop,
) -> anyhow::Result<ExitCode> {
    let manifest = Manifest::of(config)?;
    let password = token::secret();
    let database = Config { database_url: Secret::new(product.database_url()), ..config.clone() };
    provision::teams(&database, manifest, &Passwords::One(password.clone()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    eprintln!("creating {} tenants and {} users …", options.tenants, options.aggregates);
    let mut contender = runtime.block_on(product::fill(product, options))?;
    let events = runtime.block_on(async {
        let client = connect::nats(&stand.nats.url(), "bench").await.map_err(|error| anyhow::anyhow!(error))?;
        jetstream::new(client).get_stream(names::EVENTS).await.context("looking at EVENTS")
    })?;
    let (mut steps, mut running) = (Vec::new(), 0);
    for count in counts {
        while running + 1 < *count {
            running += 1;
            start(stand, running, product, &password, stop)?;
        }
        for _ in 0..options.rounds {
            let step = runtime.block_on(async {
                tokio::select! { step = measure(&mut contender, stand, options, &events, running, None) => step, () = stop.cancelled() => bail!("stopped") }
            })?;
            say(&step);
            steps.push(step);
        }
    }
    if running > 0 {
        stand.signal(&format!("{PREFIX}{}", name(running)), Signal::SIGSTOP);
        for _ in 0..options.rounds {
            let step = runtime.block_on(async {
                tokio::select! { step = measure(&mut contender, stand, options, &events, running, Some(running)) => step, () = stop.cancelled() => bail!("stopped") }
            })?;
            say(&step);
            steps.push(step);
        }
    }
    println!("{}", table(&steps, options));
    Ok(ExitCode::SUCCESS)
}

/// Starts one and waits until it is ready.
fn start(stand: &mut Stand, number: usize, product: &Product, password: &str, stop: &Stop) -> anyhow::Result<()> {
    let team = name(number);
    let leaked: &'static str = Box::leak(team.clone().into_boxed_str());
    let admin = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
    let environment = [
        ("DATABASE_URL", product.database_url_as(&stand.postgres, &format!("chancery_team_{number}"), password)),
        ("CHANCERY_NATS_URL", stand.nats.url_as(User::Team(leaked))),
        ("CHANCERY_ADMIN_LISTEN", admin.to_string()),
        ("CHANCERY_DATABASE_POOL", "2".into()),
    ];
    stand.spawn(&format!("{PREFIX}{team}"), &["bench-team", &team], &environment, Some(admin), stop)
}

async fn measure(
    contender: &mut Contender,
    stand: &mut Stand,
    options: &Options,
    events: &Stream,
    running: usize,
    stopped: Option<usize>,
) -> anyhow::Result<Step> {
    let followed: Vec<usize> = (1..=running).filter(|number| Some(*number) != stopped).collect();
    contender.drive(1_000, Pace::Closed, options.concurrency, LIMIT).await?;
    done(events, &followed).await?;
    stand.check()?;
    let watched = stand.watched(PREFIX)?;
    let before = Clock::read(&watched);
    let (tally, rows) = contender.drive(options.commands, Pace::Closed, options.concurrency, LIMIT).await?;
    if let Some(trouble) = tally.trouble() {
        bail!("{trouble}");
    }
    if rows.missing > 0 {
        bail!("{} audit rows are missing", rows.missing);
    }
    let complete = done(events, &followed).await?.max(rows.complete);
    let commands = tally.accepted.len() as f64;
    let mut parts = [0.0; 4];
    for (name, seconds) in Clock::read(&watched).since(&before).iter().filter(|(name, _)| *name != super::LOAD) {
        parts[part(name)] += seconds / commands * 1_000.0;
    }
    let cpu: f64 = parts.iter().sum();
    let consumers = followed.len() + 1;
    Ok(Step {
        consumers,
        stopped: stopped.is_some(),
        commands: commands / rows.complete.saturating_duration_since(tally.begin).as_secs_f64(),
        delivered: commands / complete.saturating_duration_since(tally.begin).as_secs_f64(),
        cpu,
        parts,
        // A command of the bench is one event.
        cpu_per_event: cpu / consumers as f64 * 1e3,
    })
}

/// Waits until all of them have had and acknowledged everything; when that was.
async fn done(events: &Stream, teams: &[usize]) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + LIMIT;
    for number in teams {
        loop {
            let info = events.get_consumer::<pull::Config>(&name(*number)).await.map_err(|error| anyhow::anyhow!("{error}"))?.cached_info().clone();
            if (info.num_pending, info.num_ack_pending) == (0, 0) {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} still has {} events to come after {} s", name(*number), info.num_pending, LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(Instant::now())
}

fn say(step: &Step) {
    eprintln!(
        "{} consumers{}: {:.0} commands/s, {:.0} with every consumer, {:.3} CPU-s per 1000 {:.3?}, {:.0} CPU-µs per event delivered",
        step.consumers,
        if step.stopped { " and one stopped" } else { "" },
        step.commands,
        step.delivered,
        step.cpu,
        step.parts,
        step.cpu_per_event
    );
}

/// Medians of each step.
fn table(steps: &[Step], options: &Options) -> String {
    let mut out = format!(
        "\n {} commands × {} rounds a step, medians; the audit is one of the consumers\n\n {:<20}{:>12}{:>17}{:>16}{:>21}   {}\n",
        options.commands,
        options.rounds,
        "consumers",
        "commands/s",
        "all delivered/s",
        "CPU-s per 1000",
        "CPU-µs per delivery",
        "CPU-s: nats-server, PostgreSQL, gateway + worker, consumers"
    );
    for group in steps.chunk_by(|one, other| (one.consumers, one.stopped) == (other.consumers, other.stopped)) {
        let middle = |value: &dyn Fn(&Step) -> f64| super::report::middle(group.iter().map(value).collect()).unwrap_or_default();
        let parts = [0, 1, 2, 3].map(|part| format!("{:.3}", middle(&|step| step.parts[part]))).join("  ");
        let Some(first) = group.first() else { continue };
        let what = if first.stopped { format!("{} and one stopped", first.consumers) } else { first.consumers.to_string() };
        let _ = writeln!(
            out,
            " {what:<20}{:>12.0}{:>17.0}{:>16.3}{:>21.0}   {parts}",
            middle(&|step| step.commands),
            middle(&|step| step.delivered),
            middle(&|step| step.cpu),
            middle(&|step| step.cpu_per_event)
        );
    }
    out
}

/// Where the manifest is written for the servers to read.
pub(super) fn write_manifest(folder: &Path, teams: usize) -> anyhow::Result<std::path::PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(format!("bench-teams-{}.toml", std::process::id()));
    std::fs::write(&path, manifest(teams)).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_the_most_teams_is_accepted() -> anyhow::Result<()> {
        Manifest::check(&manifest(MOST))
    }
}
