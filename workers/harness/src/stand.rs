//! The servers of one test.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, Context, consumer::pull, context::PublishAckFuture},
};
use runtime::{
    Config,
    consume::{Durable, Order},
    nats,
};
use serde::Deserialize;
use serde_json::Value;
use subjects::{header, stream};
use tokio_postgres::NoTls;

use crate::{Program, Told};

/// How long anything may take before a test calls it lost. Generous: machines that run tests are busy.
const LIMIT: Duration = Duration::from_secs(120);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(25);
/// Publishes on their way at once.
const WINDOW: usize = 256;

/// What `chancery stand` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whereabouts {
    nats_url: String,
    database_url: String,
    consumers: BTreeMap<String, BTreeMap<String, String>>,
}

/// A nats-server and a PostgreSQL, migrated and provisioned, for one consumer. They end with it.
#[derive(Debug)]
pub struct Stand {
    child: Child,
    whereabouts: Whereabouts,
    durable: Durable,
    database: tokio_postgres::Client,
    context: Context,
    folder: PathBuf,
    /// The place in the stream of the last event that the consumer wants.
    last: Mutex<u64>,
    programs: Mutex<u32>,
}

impl Stand {
    /// Starts the servers and makes everything that the manifest says. `durable` is the literal of the program: the manifest must say the same.
    ///
    /// # Panics
    /// The servers do not start, the manifest is refused, or it says something else than the literal (in order: has not its name).
    pub async fn start(manifest: impl AsRef<Path>, durable: &Durable) -> Self {
        let manifest = manifest.as_ref().to_owned();
        let (child, line) = tokio::task::spawn_blocking(move || spawn(&manifest)).await.expect("a thread");
        let whereabouts: Whereabouts = serde_json::from_str(&line).unwrap_or_else(|error| panic!("`chancery stand` did not start ({error}): {line}"));
        assert!(whereabouts.consumers.contains_key(durable.name), "the manifest declares no consumer {}", durable.name);
        let (database, connection) = tokio_postgres::connect(&whereabouts.database_url, NoTls).await.expect("the test's PostgreSQL");
        tokio::spawn(connection);
        let pairs = [("CHANCERY_NATS_URL", whereabouts.nats_url.clone()), ("DATABASE_URL", whereabouts.database_url.clone())];
        let config =
            Config::from_lookup(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())).expect("a configuration");
        nats::install_crypto();
        let client = nats::connect(&config, "test", subjects::user::OPERATOR).await.expect("the test's nats-server").client;
        let context = jetstream::new(client);
        if durable.order == Order::None {
            let standing = durable.standing(&context, &config).await.expect("the durable");
            assert!(standing.is_as_wanted(), "the manifest and the literal of {} differ: {:?} {:?}", durable.name, standing.changes, standing.fixed);
        }
        let folder = std::env::temp_dir().join(format!("chancery-harness-{}-{}", std::process::id(), child.id()));
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        Self { child, whereabouts, durable: *durable, database, context, folder, last: Mutex::new(0), programs: Mutex::new(0) }
    }

    /// Publishes events, in their order, as a worker would.
    ///
    /// # Panics
    /// The nats-server refuses.
    pub async fn give(&self, told: &Told) {
        let mut under_way: std::collections::VecDeque<(bool, PublishAckFuture)> = std::collections::VecDeque::new();
        for envelope in told.events() {
            let subject = subjects::event(envelope.tenant_id, &envelope.event_type);
            let is_wanted = self.durable.filters.iter().any(|filter| subjects::matches(filter, &subject));
            let mut headers = HeaderMap::new();
            headers.insert(header::TENANT, envelope.tenant_id.to_string());
            headers.insert(header::TYPE, envelope.event_type.as_str());
            headers.insert(header::AGGREGATE_ID, envelope.aggregate_id.as_str());
            headers.insert(header::SEQUENCE, envelope.sequence.to_string());
            let body = serde_json::to_vec(envelope).expect("an event is JSON");
            under_way.push_back((is_wanted, self.context.publish_with_headers(subject, headers, body.into()).await.expect("it is published")));
            while under_way.len() >= WINDOW {
                self.stored(under_way.pop_front()).await;
            }
        }
        while !under_way.is_empty() {
            self.stored(under_way.pop_front()).await;
        }
    }

    async fn stored(&self, publish: Option<(bool, PublishAckFuture)>) {
        let Some((is_wanted, publish)) = publish else { return };
        let sequence = publish.await.expect("it is stored").sequence;
        if is_wanted {
            *self.last.lock().expect("nobody panicked") = sequence;
        }
    }

    /// Publishes a body under a subject, whatever it is: for tests of what is no event.
    ///
    /// # Panics
    /// The nats-server refuses.
    pub async fn give_raw(&self, subject: &str, body: &str) {
        let publish = self.context.publish(subject.to_owned(), body.to_owned().into()).await.expect("it is published");
        let is_wanted = self.durable.filters.iter().any(|filter| subjects::matches(filter, subject));
        self.stored(Some((is_wanted, publish))).await;
    }

    /// The program under test, not started yet: in an integration test, `env!("CARGO_BIN_EXE_<name>")`. Called again, one more replica.
    ///
    /// # Panics
    /// Never in a test that has not panicked.
    pub fn program(&self, exe: impl AsRef<Path>) -> Program {
        let mut number = self.programs.lock().expect("nobody panicked");
        *number += 1;
        let mut variables = self.whereabouts.consumers.get(self.durable.name).cloned().unwrap_or_default();
        // Who takes over from the dead waits for its lease to end.
        variables.insert("CHANCERY_LEASE_MS".into(), "1500".into());
        Program::new(exe.as_ref(), variables, self.folder.join(format!("{}-{number}.log", self.durable.name)))
    }

    /// `chancery` with these arguments, as an operator runs it on these servers: `consumer`, `dlq`, `events` …
    pub fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(chancery());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CHANCERY") || name.starts_with("DATABASE_URL") || name.starts_with("OTEL_") {
                command.env_remove(&*name);
            }
        }
        let Whereabouts { nats_url, database_url, .. } = &self.whereabouts;
        command.args(arguments).env("CHANCERY_NATS_URL", nats_url).env("DATABASE_URL", database_url).stdin(Stdio::null());
        command
    }

    /// The variables that a program of any language is started with.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.whereabouts.consumers[self.durable.name]
    }

    /// Waits until everything that was given is handled or given up, and no effect outside is still to be sent.
    ///
    /// # Panics
    /// After two minutes.
    pub async fn settled(&self) {
        wait_until("everything to be handled", async || self.is_settled().await).await;
    }

    async fn is_settled(&self) -> bool {
        let handled = match self.durable.order {
            Order::None => {
                let stream = self.context.get_stream(self.durable.stream).await.expect("the stream");
                let info = stream.get_consumer::<pull::Config>(self.durable.name).await.expect("the durable").cached_info().clone();
                (info.num_pending, info.num_ack_pending) == (0, 0)
            }
            Order::Aggregate => {
                let last = i64::try_from(*self.last.lock().expect("nobody panicked")).expect("a place in the stream");
                let sql = "SELECT EXISTS (SELECT FROM consumer_positions WHERE consumer = $1 AND position >= $2)
                               AND NOT EXISTS (SELECT FROM (SELECT DISTINCT ON (aggregate) dead FROM consumer_parked WHERE consumer = $1
                                               ORDER BY aggregate, stream_sequence) first WHERE NOT first.dead)";
                self.database.query_one(sql, &[&self.durable.name, &last]).await.expect("the position").get(0)
            }
        };
        handled && self.open_effects().await == 0
    }

    /// Effects that are still to be sent; of a consumer that has none there is no table.
    async fn open_effects(&self) -> i64 {
        let tables =
            "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'effects' AND c.relkind = 'r'";
        let mut open = 0;
        for row in self.database.query(tables, &[]).await.expect("the catalogue") {
            open += self.number(&format!("SELECT count(*) FROM {}.effects WHERE state IN ('pending', 'sending')", row.get::<_, String>(0))).await;
        }
        open
    }

    /// Waits until a query comes to a number at least.
    ///
    /// # Panics
    /// After two minutes, or where the query is wrong.
    pub async fn reaches(&self, sql: &str, number: i64) {
        wait_until(&format!("{sql} to reach {number}"), async || self.try_number(sql).await.is_some_and(|found| found >= number)).await;
    }

    /// The number that a query comes to.
    ///
    /// # Panics
    /// The query is wrong, or comes to no whole number.
    pub async fn number(&self, sql: &str) -> i64 {
        match self.database.query_one(sql, &[]).await {
            Ok(row) => row.get(0),
            Err(error) => panic!("{sql}: {}", runtime::store::describe(&error)),
        }
    }

    /// The same while there may be no table yet.
    async fn try_number(&self, sql: &str) -> Option<i64> {
        self.database.query_one(sql, &[]).await.ok().map(|row| row.get(0))
    }

    /// The database, as its superuser.
    pub fn database(&self) -> &tokio_postgres::Client {
        &self.database
    }

    /// Waits until the consumer has given up on so many events.
    ///
    /// # Panics
    /// After two minutes.
    pub async fn gives_up(&self, number: usize) {
        wait_until(&format!("{number} dead letters"), async || self.dead_letters().await.len() >= number).await;
    }

    /// A folder for what a test writes; it goes with the stand.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the consumer gave up on, oldest first: reason and body.
    ///
    /// # Panics
    /// The stream cannot be read.
    pub async fn dead_letters(&self) -> Vec<(String, Value)> {
        let stream = self.context.get_stream(stream::DEADLETTERS).await.expect("the stream");
        let mut letters = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("a dead letter");
            let reason = message.headers.get(header::REASON).map(|reason| reason.as_str().to_owned()).unwrap_or_default();
            letters.push((reason, serde_json::from_slice(&message.payload).unwrap_or(Value::Null)));
        }
        letters
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // Its standard input ends with it: the servers end, and their folders go.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Asks again and again until `check` says yes.
///
/// # Panics
/// After two minutes, with `what` it waited for.
pub(crate) async fn wait_until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !check().await {
        assert!(begin.elapsed() < LIMIT, "waited {} s in vain for {what}", LIMIT.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts `chancery stand`; what it printed.
fn spawn(manifest: &Path) -> (Child, String) {
    let mut command = Command::new(chancery());
    command.arg("stand").arg("--manifest").arg(manifest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["CHANCERY_MANIFEST", "CHANCERY_NATS_URL", "CHANCERY_NATS_USER", "DATABASE_URL"] {
        command.env_remove(name);
    }
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("what it prints");
    let mut errors = child.stderr.take().expect("a pipe");
    if line.is_empty() {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        let _ = child.wait();
        panic!("`chancery stand` says: {text}");
    }
    // Read on, so that whatever is said later blocks nobody.
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    (child, line)
}

/// The program `chancery`: the one that is named, or the checkout's.
fn chancery() -> PathBuf {
    if let Some(named) = std::env::var_os("CHANCERY_PROGRAM") {
        return named.into();
    }
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert!(
        checkout.join("chancery/Cargo.toml").exists(),
        "set CHANCERY_PROGRAM to the program `chancery`: the checkout that this was built from is gone"
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The target folder of the crate under test is not the checkout's.
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "chancery", "--bin", "chancery"]).current_dir(&checkout).env_remove("CARGO_TARGET_DIR");
    assert!(command.status().is_ok_and(|status| status.success()), "building `chancery` in {} failed", checkout.display());
    checkout.join("target/debug/chancery")
}
