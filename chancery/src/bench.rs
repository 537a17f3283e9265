//! `chancery bench`: how many commands a second become durable, from the first request to the last audit row, and what that costs.
//!
//! It starts servers of its own with fresh data, every role as a process of its own, fills 10,000 users in 200 tenants through the
//! pipeline, and then changes the name of one of them by chance with every command: as fast as it goes over so many connections (closed
//! loop), then at half of that rate with latency counted from the planned start (open loop, no coordinated omission). With `--floor`
//! the same durable work is done without domain logic ([`floor`]), round by round in turn on the same servers, and the rate is a ratio.
//! `--read-your-writes` and `--list` measure queries instead ([`reading`], [`listing`]).
//! Rates move with the machine by a third; ratios and CPU time for 1000 commands do not.
//!
//! # Profiling a worker
//! The release profile keeps line tables. Start a long run, find the process, record it:
//! ```text
//! chancery bench --commands 200000 --rounds 1 &
//! perf record -F 499 --call-graph dwarf,16384 -p $(pgrep -f 'chancery worker') -- sleep 10
//! perf report --no-children
//! ```
//! Without perf: `valgrind --tool=callgrind chancery worker` with the variables that `/proc/<pid>/environ` of the bench's worker shows
//! counts instructions (it is fifty times slower, so ask for 500 commands). For PostgreSQL's part, `pg_stat_statements` or
//! `perf record -p <pid of the session named chancery worker>`. The floor's processes are profiled the same way: `chancery floor worker`.

mod contender;
pub mod floor;
mod histogram;
mod listing;
mod load;
mod measure;
mod product;
mod reading;
mod report;
mod ruler;
mod stand;
pub mod stock;
pub mod teams;
mod usage;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use runtime::{Config, Stop};

use crate::servers::nats;
use measure::Round;
use report::Report;
use stand::Stand;

/// The name of this program in reports.
const LOAD: &str = "load generator";
/// How many commands make a group when `--sync always` asks for group commit.
const GROUP: usize = 16;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// When nats-server calls fsync: before every acknowledgement, or every two minutes, as it does by itself.
    #[arg(long, value_enum, default_value_t = Sync::Default)]
    sync: Sync,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Durable consumers that run.
    #[arg(long, value_enum, default_value_t = Consumers::Audit)]
    consumers: Consumers,
    /// Worker processes.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Users that are created and then changed.
    #[arg(long, default_value_t = 10_000)]
    aggregates: usize,
    /// Tenants they belong to.
    #[arg(long, default_value_t = 200)]
    tenants: usize,
    /// How often everything is measured; the medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Commands in a round.
    #[arg(long, default_value_t = 20_000)]
    commands: usize,
    /// Measures the same durable work without domain logic, too, in turn.
    #[arg(long)]
    floor: bool,
    /// Bytes of a body that the floor is sent. What the product makes of its 200 bytes is larger (an event names the old and the new value
    /// and much else: about 1000 bytes); with as many here the floor stores and carries about the same.
    #[arg(long, default_value_t = contender::BODY, requires = "floor")]
    floor_body: usize,
    /// Measures only that.
    #[arg(long, hide = true)]
    floor_only: bool,
    /// Instead: creates so many invitations over all connections, lists at once after each, and looks whether it is in the list.
    #[arg(long, value_name = "PAIRS", conflicts_with_all = ["floor", "floor_only", "list"])]
    read_your_writes: Option<usize>,
    /// Instead: lists so many invitations of a tenant by state, order and attribute, and says by which indexes.
    #[arg(long, value_name = "INVITATIONS", conflicts_with_all = ["floor", "floor_only"])]
    list: Option<usize>,
    /// Instead: measures with so many durable consumers, step by step, the audit and then other teams' made with the kit, which take every event; and
    /// the last step once more with one of them stopped. For example `1,5,10,20`.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', conflicts_with_all = ["floor", "floor_only", "list", "read_your_writes", "json"])]
    teams: Vec<usize>,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Runs in a debug build, to see that it runs; the figures mean nothing.
    #[arg(long, hide = true)]
    quick_debug: bool,
}

/// See [`Options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sync {
    Always,
    Default,
}

impl Sync {
    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Default => "default",
        }
    }
}

impl From<Sync> for nats::Sync {
    fn from(sync: Sync) -> Self {
        match sync {
            Sync::Always => Self::Always,
            Sync::Default => Self::Default,
        }
    }
}

/// See [`Options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Consumers {
    Audit,
    All,
}

impl Consumers {
    fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::All => "all",
        }
    }
}

impl Options {
    /// With `--sync always` the gateway sends waiting commands as one atomic batch.
    fn group_commit(&self) -> usize {
        match self.sync {
            Sync::Always => GROUP,
            Sync::Default => 0,
        }
    }
}

/// Measures and prints. Fails when a row is missing, or anything was refused or not answered.
///
/// # Errors
/// A part cannot be started, has ended, or could not be measured.
pub fn run(mut config: Config, options: Options) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) && !options.quick_debug {
        bail!("this is a debug build, whose figures mean nothing: run `cargo run --release -- bench`");
    }
    if options.read_your_writes == Some(0) || options.list == Some(0) {
        bail!("every number must be at least 1");
    }
    if [options.aggregates, options.tenants, options.rounds, options.commands, options.concurrency, options.workers].contains(&0) {
        bail!("every number must be at least 1");
    }
    if let Some(most) = options.teams.iter().max() {
        if options.teams.contains(&0) || !options.teams.is_sorted() || *most > teams::MOST {
            bail!("--teams has rising numbers from 1 to {}", teams::MOST);
        }
        // Read, and kept, before the folder goes.
        config.manifest = Some(teams::write_manifest(&config.data, most - 1)?);
    }
    let side = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting the runtime")?;
    let stop = Stop::new();
    side.block_on(async { crate::signals::watch_signals(&stop) })?;
    let machine = usage::machine();
    eprintln!("starting servers and processes ({machine}) …");
    let mut stand = Stand::start(&config, &options)?;
    if options.read_your_writes.is_some() || options.list.is_some() {
        let product = product::start(&config, &options, &mut stand, &stop)?;
        let result = queries(&product, &options, &stop);
        let complaints = stand.complaints();
        if !complaints.is_empty() {
            eprintln!("from the logs:\n{complaints}");
        }
        return result;
    }
    if !options.teams.is_empty() {
        let product = product::start(&config, &options, &mut stand, &stop)?;
        let result = teams::run(&config, &options, &options.teams, &mut stand, &product, &stop);
        let complaints = stand.complaints();
        if !complaints.is_empty() {
            eprintln!("from the logs:\n{complaints}");
        }
        if let Some(path) = &config.manifest {
            let _ = std::fs::remove_file(path);
        }
        return result;
    }
    let product = if options.floor_only { None } else { Some(product::start(&config, &options, &mut stand, &stop)?) };
    let floor = if options.floor || options.floor_only { Some(ruler::start(&config, &options, &mut stand, &stop)?) } else { None };

    let work = async {
        let mut report = Report { machine, ..Report::default() };
        let mut product = match &product {
            None => None,
            Some(product) => {
                eprintln!("creating {} tenants and {} users …", options.tenants, options.aggregates);
                Some(product::fill(product, &options).await?)
            }
        };
        let mut floor = match floor {
            None => None,
            Some(listen) => Some(ruler::contender(listen, &options, &stand).await?),
        };
        eprintln!("measuring …");
        for number in 1..=options.rounds {
            if let Some(contender) = &mut product {
                report.product.push(measure::round(contender, &mut stand, &options).await?);
                say(number, contender.name, report.product.last());
            }
            if let Some(contender) = &mut floor {
                report.floor.push(measure::round(contender, &mut stand, &options).await?);
                say(number, contender.name, report.floor.last());
            }
        }
        report.rows_missing = report.product.iter().chain(&report.floor).map(|round| round.rows_missing).sum();
        if let Some(contender) = &product {
            let (missing, findings) = product::check(contender).await?;
            report.rows_missing = report.rows_missing.max(missing);
            report.findings = findings;
        }
        Ok(report)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = work => report,
            () = stop.cancelled() => bail!("stopped"),
        }
    });
    let complaints = stand.complaints();
    if !complaints.is_empty() {
        eprintln!("from the logs:\n{complaints}");
    }
    let report = report?;
    drop(stand);
    if options.json {
        println!("{}", report.json(&options));
    } else {
        println!("{}", report.table(&options));
    }
    Ok(if report.sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The modes that read.
fn queries(product: &product::Product, options: &Options, stop: &Stop) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        let (contender, tenants) = product::with_tenants(product, options).await?;
        match (options.read_your_writes, options.list) {
            (Some(pairs), _) => reading::run(&contender, &tenants, pairs, options).await,
            (None, Some(count)) => listing::run(&contender, tenants[0], count, options).await,
            (None, None) => Ok(true),
        }
    };
    let sound = runtime.block_on(async {
        tokio::select! {
            sound = work => sound,
            () = stop.cancelled() => bail!("stopped"),
        }
    })?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(number: usize, name: &str, round: Option<&Round>) {
    if let Some(round) = round {
        eprintln!(
            "round {number} {name}: {:.0} durable/s, p99 {:.1} ms at half load, {:.3} CPU-s per 1000, {} rows missing",
            round.durable_per_s,
            round.half_p99_ms,
            round.cpu(),
            round.rows_missing
        );
    }
}
