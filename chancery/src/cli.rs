//! The command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, builder::TypedValueParser as _};
use runtime::Config;
use subjects::TenantId;

use crate::{
    bench, chaos, cluster, connect, consumer, dlq, doctor, events,
    guard::Guard,
    health, init, mail,
    manifest::Manifest,
    migrate,
    patience::patiently,
    provision::{self, Sign},
    role::{self, Role},
    stand, status,
    token::{self, Claims},
    up,
};

/// What `--version` says: a build that is made to be wrong says so.
#[cfg(feature = "planted")]
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " WITH PLANTED DEFECTS: made to be caught, and good for nothing else");
/// What `--version` says.
#[cfg(not(feature = "planted"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Chancery: the multi-tenant identity backbone.
#[derive(Debug, Parser)]
#[command(name = "chancery", version = VERSION, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the whole stack for development: servers, gateway, two workers, every consumer.
    Up {
        /// Removes the data first.
        #[arg(long)]
        reset: bool,
        /// Nodes of NATS. With 3, every stream has three replicas and there are two gateways, as in the compose cluster.
        #[arg(long, default_value_t = 1, value_parser = clap::builder::PossibleValuesParser::new(["1", "3"]).map(|number| if number == "3" { 3_usize } else { 1 }))]
        nodes: usize,
        /// First posts a small scenario, kills a worker with -9 in the middle of it and prints the proof that nothing is lost and nothing
        /// happened twice; then stays up until Ctrl-C. The exit code is 1 if anything was lost or happened twice.
        #[arg(long)]
        demo: bool,
    },
    /// The HTTP gateway.
    Gateway,
    /// A worker that decides commands.
    Worker,
    /// A durable consumer; or what is done with one.
    Consumer(consumer::Options),
    /// Makes certificates, credentials and the servers' configuration for a cluster; what is there already stays.
    Init(init::Options),
    /// The cluster of compose.yaml, by Docker Compose.
    Cluster(cluster::Options),
    /// Asks a role whether it is ready; the exit code says so, for health checks of containers.
    Health {
        /// For example `http://127.0.0.1:8080/readyz`.
        url: String,
    },
    /// Brings the database up to date; with CHANCERY_ROLE_PASSWORD, or with a folder of passwords, also lets the roles log in.
    Migrate {
        /// A folder with a file for each role, named after it, that holds its password.
        #[arg(long)]
        passwords: Option<PathBuf>,
        /// Seconds to wait for a server that does not answer yet.
        #[arg(long, default_value_t = 0)]
        wait: u64,
    },
    /// Creates the streams, the bucket and what the manifest declares, or compares them with what is there; alone it is `apply`.
    Provision {
        /// Seconds to wait for servers that do not answer yet.
        #[arg(long, default_value_t = 0, global = true)]
        wait: u64,
        #[command(subcommand)]
        what: Option<Provision>,
    },
    /// Prints the AsyncAPI document of the events, as gateways serve it under /asyncapi.json.
    Asyncapi,
    /// Prints what every variable comes to and where from, without its secrets.
    Config,
    /// Access tokens for development and tests.
    #[command(subcommand)]
    Token(Token),
    /// Mails that landed in the folder of `up`.
    #[command(subcommand)]
    Mail(Mail),
    /// The audit chain.
    #[command(subcommand)]
    Audit(Audit),
    /// EVENTS and the table it must agree with.
    #[command(subcommand)]
    Events(events::Command),
    /// Shows partitions and their owners, what waits, how far every consumer is, and dead letters.
    Status(status::Options),
    /// Says what is wrong with a running cluster, and what to do about it; the exit code is 1 if anything is.
    Doctor(doctor::Options),
    /// Dead letters: what consumers and workers gave up on.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Servers for the test of a consumer, in any language: fresh, provisioned, and gone with who has started them.
    Stand(stand::Options),
    /// Measures durable commands per second on a stack of its own.
    Bench(bench::Options),
    /// Does faults to a cluster under load and says whether anything was lost, happened twice, or was out of order.
    Chaos(chaos::Options),
    /// A process of the bench's floor.
    #[command(hide = true)]
    Floor {
        /// Which one.
        part: bench::floor::Part,
    },
    /// A consumer of the bench's.
    #[command(hide = true)]
    BenchTeam {
        /// Its name.
        name: String,
    },
    /// Runs a server and ends it with its parent.
    #[command(hide = true)]
    Guard(Guard),
}

#[derive(Debug, Subcommand)]
enum Provision {
    /// Tells what `apply` would do; changes nothing.
    Plan,
    /// Makes what is missing and changes what differs, PostgreSQL's part too where DATABASE_URL says where it is.
    Apply {
        /// A folder with a file for each role, named after it, that holds its password.
        #[arg(long)]
        passwords: Option<PathBuf>,
    },
    /// Tells what `apply` would do, and fails if that is anything.
    Verify,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Signs a token with CHANCERY_TOKEN_PRIVATE_KEY (or _FILE).
    Mint {
        /// The tenant, or `platform`.
        #[arg(long)]
        tenant: String,
        /// `user_…` or `svc_…`.
        #[arg(long)]
        subject: String,
        /// Scopes, separated by spaces.
        #[arg(long, default_value = "")]
        scope: String,
        /// Seconds until it ends.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
    },
    /// Signs a platform operator's token with CHANCERY_TOKEN_PRIVATE_KEY (or _FILE): the first token of a cluster.
    Operator {
        /// Seconds until it ends.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
    },
    /// Writes a fresh Ed25519 key pair, `token.pem` and `token.pub.pem`, into a folder.
    Keygen {
        /// The folder.
        #[arg(long)]
        into: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Mail {
    /// Prints the newest mail; waits up to 10 s for one.
    Latest {
        /// Only mail to this address.
        #[arg(long)]
        to: Option<String>,
        /// Prints only the token of its link.
        #[arg(long)]
        token: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Checks the chain of every tenant and names the first broken row, if there is one; then the exit code is 1.
    Verify {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// A file of heads printed earlier and kept where the database's owner cannot write: against it the loss of the newest rows
        /// shows, too.
        #[arg(long)]
        heads: Option<PathBuf>,
    },
}

/// Runs the command line; the program's `main`.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chancery: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let command = match cli.command {
        // A guard needs no configuration, and must start whatever the environment holds.
        Command::Guard(guard) => return guard.run(),
        Command::Token(Token::Keygen { into }) => return keygen(&into),
        Command::BenchTeam { name } => return Ok(bench::teams::run_one(name)),
        Command::Init(options) => return initialise(&options),
        Command::Cluster(options) => return cluster::run(options),
        Command::Health { url } => return health::run(&url),
        Command::Asyncapi => {
            println!("{:#}", command_gateway::asyncapi());
            return Ok(ExitCode::SUCCESS);
        }
        other => other,
    };
    let config = Config::from_env()?;
    match command {
        Command::Up { reset, nodes, demo } => return up::run(config, up::Options { reset, nodes, demo }),
        Command::Gateway => return role::run(Role::Gateway, config),
        Command::Worker => return role::run(Role::Worker, config),
        Command::Consumer(options) => return consumer::run(config, options),
        Command::Events(command) => return events::run(&config, command),
        Command::Dlq(command) => return dlq::run(&config, command),
        Command::Stand(options) => return stand::run(&config, &options),
        Command::Doctor(options) => return doctor::run(&config, &options),
        Command::Status(options) => return status::run(&config, &options),
        Command::Bench(options) => return bench::run(config, options),
        Command::Chaos(options) => return chaos::run(config, &options),
        Command::Floor { part } => return bench::floor::run(part, &config),
        Command::Migrate { passwords, wait } => migrate(&config, passwords.as_deref(), Duration::from_secs(wait))?,
        Command::Provision { wait, what } => return provide(&config, Duration::from_secs(wait), what),
        Command::Config => {
            for setting in Config::settings(&|name| std::env::var(name).ok())? {
                println!("{}={} ({})", setting.name, setting.value.unwrap_or_default(), setting.source);
            }
        }
        Command::Token(Token::Operator { seconds }) => {
            let key = config.token_private_key.as_ref().context("CHANCERY_TOKEN_PRIVATE_KEY is not set")?;
            println!("{}", token::operator(key.expose(), Duration::from_secs(seconds))?);
        }
        Command::Token(Token::Mint { tenant, subject, scope, seconds }) => {
            let key = config.token_private_key.as_ref().context("CHANCERY_TOKEN_PRIVATE_KEY is not set (`. .chancery/env` sets it for `up`)")?;
            println!("{}", token::mint(key.expose(), &Claims::new(&subject, &tenant, &scope, Duration::from_secs(seconds)))?);
        }
        Command::Mail(Mail::Latest { token: true, to }) => println!("{}", mail::latest_token(&mail::folder(&config), to.as_deref())?),
        Command::Mail(Mail::Latest { token: false, to }) => println!("{}", mail::latest(&mail::folder(&config), to.as_deref())?),
        Command::Audit(Audit::Verify { tenant, heads }) => return verify(&config, tenant, heads.as_deref()),
        Command::Guard(_)
        | Command::Asyncapi
        | Command::Token(Token::Keygen { .. })
        | Command::Init(_)
        | Command::BenchTeam { .. }
        | Command::Cluster(_)
        | Command::Health { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn provide(config: &Config, wait: Duration, what: Option<Provision>) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "planted")]
    runtime::planted::arm_as_told()?;
    let what = what.unwrap_or(Provision::Apply { passwords: None });
    if let Provision::Apply { passwords } = what {
        let passwords = role_passwords(config, passwords.as_deref())?;
        let made = patiently(wait, provision::may_pass, || provision::apply(config, &passwords))?;
        println!("{made}");
        return Ok(ExitCode::SUCCESS);
    }
    let items = patiently(wait, provision::may_pass, || provision::plan(config))?;
    for item in &items {
        println!("{item}");
    }
    if config.database_url.expose().is_empty() {
        println!("PostgreSQL was not looked at: DATABASE_URL is not set");
    }
    let open = items.iter().filter(|item| matches!(item.sign, Sign::Add | Sign::Change | Sign::Refused)).count();
    println!("{} as declared, {open} not", items.len() - open);
    Ok(if open > 0 && matches!(what, Provision::Verify) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The passwords that the database roles are to have.
fn role_passwords(config: &Config, folder: Option<&Path>) -> anyhow::Result<migrate::Passwords> {
    let file = std::env::var("CHANCERY_ROLE_PASSWORD_FILE").ok().map(std::fs::read_to_string).transpose().context("CHANCERY_ROLE_PASSWORD_FILE")?;
    let password = std::env::var("CHANCERY_ROLE_PASSWORD").ok().or(file).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    match folder {
        Some(folder) => migrate::Passwords::from_folder(folder, Manifest::of(config)?),
        None => Ok(password.map_or(migrate::Passwords::None, migrate::Passwords::One)),
    }
}

fn migrate(config: &Config, passwords: Option<&Path>, wait: Duration) -> anyhow::Result<()> {
    connect::needs_database(config)?;
    let passwords = role_passwords(config, passwords)?;
    let report = patiently(wait, migrate::may_pass, || migrate::with_passwords(config.database_url.expose(), &passwords))?;
    for name in &report.applied {
        println!("applied {name}");
    }
    println!("{} applied", report.applied.len());
    let teams = Manifest::of(config)?;
    if teams.of_teams().next().is_some() {
        let made = provision::teams(config, teams, &passwords)?;
        println!("{made} of the manifest's roles, schemas and policies made or changed");
    }
    Ok(())
}

/// Prints a line for every whole chain, its head, and one for every broken one.
fn verify(config: &Config, tenant: Option<TenantId>, heads: Option<&Path>) -> anyhow::Result<ExitCode> {
    connect::needs_database(config)?;
    let published = match heads {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            // The lines of an earlier run, whatever else it printed.
            text.lines().filter(|line| line.starts_with("tenant_")).map(str::parse).collect::<Result<Vec<audit::Head>, _>>()?
        }
    };
    let report = chancery_kit::process::runtime_on(Some(1))?.block_on(audit::verify(config.database_url.expose(), tenant, &published))?;
    for head in &report.heads {
        println!("{head}");
    }
    for broken in &report.broken {
        println!("broken: {} row {}: {}", broken.tenant, broken.n, broken.what);
    }
    println!("{} rows, {} chains whole, {} broken", report.rows, report.heads.len(), report.broken.len());
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn initialise(options: &init::Options) -> anyhow::Result<ExitCode> {
    let written = init::run(options)?;
    for path in &written {
        println!("wrote {}", path.display());
    }
    if written.is_empty() {
        println!("everything is there");
    }
    Ok(ExitCode::SUCCESS)
}

fn keygen(folder: &Path) -> anyhow::Result<ExitCode> {
    use crate::servers::place::write_private;
    let (private, public) = token::keygen()?;
    let target = folder.join("token.pem");
    if target.exists() {
        bail!("{} exists already", target.display());
    }
    std::fs::create_dir_all(folder)?;
    write_private(&target, &private)?;
    std::fs::write(folder.join("token.pub.pem"), public)?;
    println!("{}", target.display());
    Ok(ExitCode::SUCCESS)
}
