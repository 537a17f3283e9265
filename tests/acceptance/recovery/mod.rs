//! What an operator mends: EVENTS with holes, EVENTS lost, a database that went back behind its stream, releases that follow each other.

mod frozen;
mod holes;
mod lost;
mod restored;
mod upgrade;

use std::process::Stdio;

use async_nats::jetstream::stream;
use chancery::role::Consumer;
use futures_util::TryStreamExt as _;
use runtime::{
    Failure,
    consume::{Durable, Event, Transaction, judge},
};
use serde_json::Value;
use subjects::stream as names;

use crate::{
    consumers::{
        Tenant, address, count,
        in_order::{FOLLOWER, Follower},
        invite, rename, tenant,
    },
    harness::{Stack, exe, wait_until},
};

/// What a command of the program printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

/// A command of the program as an operator of this stack runs it.
pub(crate) fn command(stack: &Stack, arguments: &[&str], environment: &[(&str, &str)]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(exe());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CHANCERY") || name.starts_with("DATABASE_URL") || name.starts_with("OTEL_") {
            command.env_remove(&*name);
        }
    }
    let config = stack.config();
    command
        .args(arguments)
        .env("DATABASE_URL", config.database_url.expose())
        .env("CHANCERY_NATS_URL", config.nats_url.expose())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn run(stack: &Stack, arguments: &[&str]) -> Ran {
    run_with(stack, arguments, &[]).await
}

/// The same with variables of its own.
pub(crate) async fn run_with(stack: &Stack, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let output = command(stack, arguments, environment).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Waits until everything written is in the stream.
async fn published(stack: &Stack) {
    wait_until("everything is published", async || count(stack, "SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await == 0).await;
}

/// A table for the effects of consumers in order. It does not mind a repeat, so that one would show.
async fn prepare_effects(stack: &Stack) {
    let table = "CREATE TABLE IF NOT EXISTS effects (n bigserial PRIMARY KEY, consumer text, event_id uuid, aggregate text, sequence bigint)";
    stack.db().await.batch_execute(table).await.unwrap();
}

/// A consumer in order with one effect a call.
fn follower(stack: &Stack, durable: Durable) -> Follower {
    let name = durable.name;
    Follower::of(durable, stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        let envelope = &event.envelope;
        let sequence = i64::try_from(envelope.sequence).unwrap();
        let aggregate = format!("{}/{}/{}", envelope.tenant_id, envelope.aggregate, envelope.aggregate_id);
        let insert = "INSERT INTO effects (consumer, event_id, aggregate, sequence) VALUES ($1, $2, $3, $4)";
        let effect = transaction.execute(insert, &[&name, &envelope.id.uuid(), &aggregate, &sequence]).await;
        effect.map(|_| ()).map_err(|error: tokio_postgres::Error| -> Failure { judge(&error) })
    })
}

const FIRST: Durable = Durable { name: "first-follower", ..FOLLOWER };
const SECOND: Durable = Durable { name: "second-follower", ..FOLLOWER };

/// Waits until a consumer in order had its effect of every event, and checks that each happened once and in its turn.
async fn effective(stack: &Stack, durable: Durable) {
    let name = durable.name;
    let left = format!("SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects WHERE consumer = '{name}')");
    wait_until("every event has its effect", async || count(stack, &left).await == 0).await;
    let twice = format!("SELECT count(*) - count(DISTINCT event_id) FROM effects WHERE consumer = '{name}'");
    assert_eq!(count(stack, &twice).await, 0, "an event took effect twice");
    let disorder = format!(
        "SELECT count(*) FROM (SELECT sequence < lag(sequence) OVER (PARTITION BY aggregate ORDER BY n) AS back FROM effects WHERE consumer = '{name}') e
         WHERE back"
    );
    assert_eq!(count(stack, &disorder).await, 0, "an aggregate's events took effect out of order");
}

/// So many tenants with a history of everything that consumers react to.
async fn history(stack: &Stack, tenants: usize) -> Vec<Tenant> {
    let mut made = Vec::new();
    for _ in 0..tenants {
        made.push(tenant(stack).await);
    }
    more(stack, &made).await;
    made
}

/// A round of events for each tenant.
async fn more(stack: &Stack, tenants: &[Tenant]) {
    for tenant in tenants {
        rename(stack, tenant, "Once").await;
        invite(stack, tenant, &address("guest")).await;
        rename(stack, tenant, "Twice").await;
        rename(stack, tenant, "Thrice").await;
    }
}

/// What must not happen again when events come again: mails, and the commands of reactors.
async fn outward(stack: &Stack) -> (i64, i64, usize) {
    let mails = count(stack, "SELECT count(*) FROM notifications.ledger").await;
    let reactions = count(stack, "SELECT count(*) FROM commands WHERE actor = 'system'").await;
    (mails, reactions, std::fs::read_dir(stack.mail_folder()).unwrap().count())
}

/// Waits until each invitation was sent and mailed, so that what comes later is a repeat.
async fn settled(stack: &Stack) {
    let left =
        "SELECT (SELECT count(*) FROM events WHERE type = 'invitation.created') - (SELECT count(*) FROM events WHERE type = 'invitation.sent')";
    wait_until("every invitation is sent", async || count(stack, left).await == 0).await;
    published(stack).await;
    for consumer in [Consumer::Notifications, Consumer::Onboarding] {
        crate::consumers::followed(stack, consumer).await;
    }
    wait_until("every mail has left", async || {
        count(stack, "SELECT count(*) FROM notifications.ledger WHERE state NOT IN ('sent', 'dead')").await == 0
    })
    .await;
}

/// Makes holes in EVENTS, with the provisioner's right: of each subject the newest message is left, and the server remembers ids for so long.
/// Returns how many events were lost.
pub(crate) async fn make_holes(stack: &Stack, remembered: std::time::Duration) -> u64 {
    let jetstream = stack.jetstream().await;
    let before = jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().config.clone();
    let had = events_in(stack).await;
    let one = stream::Config { max_messages_per_subject: 1, duplicate_window: remembered, ..before.clone() };
    jetstream.update_stream(one).await.unwrap();
    jetstream.update_stream(stream::Config { duplicate_window: remembered, ..before }).await.unwrap();
    had - events_in(stack).await
}

/// How many events EVENTS has.
async fn events_in(stack: &Stack) -> u64 {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let subjects: Vec<(String, usize)> = stream.info_with_subjects(names::ALL_EVENTS).await.unwrap().try_collect().await.unwrap();
    subjects.iter().map(|(_, count)| *count as u64).sum()
}
