//! The floor: the same durable work, published the same way, in the same processes, with no domain logic at all.
//!
//! HTTP POST → COMMANDS (ack awaited) → partition readers by cursor → one transaction a batch (events, states, inbox, cursors) → the
//! transaction's events as one atomic batch, overlapping the next transaction → outcomes over core NATS → HTTP answer; and a durable
//! consumer that writes each event to a table. What the product costs beyond this is what deciding, fencing and refusing cost.
//!
//! Bodies are opaque bytes, ids are numbers, nothing is parsed, checked or authenticated, and no state is read. A crash test would
//! find it wanting: it is a ruler, not a system.

mod audit;
mod gateway;
pub mod wire;
mod worker;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType},
};
use runtime::Config;
use tokio_postgres::{Client, NoTls};

use crate::connect;

/// The database of the floor, beside the product's on the same server.
pub const DATABASE: &str = "floor";
/// Commands decided or events audited in one transaction at most: the product's default.
const BATCH: usize = 256;
/// How long a publish may wait for its PubAck.
const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// The tables: a key each and nothing more, but the same number of rows and transactions as the product's hot path.
const TABLES: &str = "
    CREATE TABLE partitions (partition smallint PRIMARY KEY, cursor bigint NOT NULL, sequence bigint NOT NULL) WITH (fillfactor = 20);
    CREATE TABLE states (aggregate integer PRIMARY KEY, version bigint NOT NULL, body bytea NOT NULL) WITH (fillfactor = 80);
    CREATE TABLE events (partition smallint NOT NULL, sequence bigint NOT NULL, id uuid NOT NULL, command uuid NOT NULL, tenant integer NOT NULL,
        aggregate integer NOT NULL, body bytea NOT NULL, PRIMARY KEY (partition, sequence));
    CREATE TABLE commands (id uuid PRIMARY KEY, event uuid NOT NULL, decided_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE audit (id uuid PRIMARY KEY, subject text NOT NULL, body bytea NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now());";

/// A process of the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// HTTP in, JetStream out.
    Gateway,
    /// Writes batches and publishes events.
    Worker,
    /// Writes events to a table.
    Audit,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Worker, Self::Audit];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Audit => "audit",
        }
    }
}

/// Runs one process of the floor until its parent ends. Blocking: makes the runtime.
///
/// # Errors
/// What ended it.
pub fn run(part: Part, config: &Config) -> anyhow::Result<ExitCode> {
    // On as many threads as the product's.
    let runtime = chancery_kit::process::runtime_on(config.threads.or((part != Part::Gateway).then_some(1)))?;
    runtime.block_on(async {
        let mut parent = chancery_kit::process::parent_gone();
        let work = async {
            match part {
                Part::Gateway => gateway::run(config).await,
                Part::Worker => worker::run(config).await,
                Part::Audit => audit::run(config).await,
            }
        };
        tokio::select! {
            result = work => result,
            _ = parent.recv() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes tables and streams. The database exists and is empty.
///
/// # Errors
/// A server refuses.
pub async fn provision(nats_url: &str, database_url: &str, partitions: u16) -> anyhow::Result<()> {
    let client = database(database_url).await?;
    client.batch_execute(TABLES).await?;
    let fill = "INSERT INTO partitions SELECT p, 0, 0 FROM generate_series(0, $1::integer - 1) p";
    client.execute(fill, &[&i32::from(partitions)]).await?;
    let context = jetstream::new(nats(nats_url, "floor").await?);
    for (name, subject) in [(wire::COMMANDS, "fcmd.>"), (wire::EVENTS, "fevt.>")] {
        let stream = StreamConfig {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            num_replicas: 1,
            discard: DiscardPolicy::New,
            max_bytes: 4 << 30,
            duplicate_window: Duration::from_secs(120),
            allow_direct: true,
            allow_atomic_publish: true,
            ..StreamConfig::default()
        };
        context.create_stream(stream).await.with_context(|| format!("creating {name}"))?;
    }
    Ok(())
}

async fn nats(url: &str, name: &str) -> anyhow::Result<async_nats::Client> {
    connect::nats(url, name).await.map_err(|error| anyhow::anyhow!("connecting to NATS: {error}"))
}

async fn database(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connecting to the database")?;
    tokio::spawn(connection);
    Ok(client)
}
