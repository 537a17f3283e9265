//! The streams: every message of EVENTS and DEADLETTERS, how far consumers are, and what each node holds.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use async_nats::{
    HeaderMap,
    jetstream::{Message, consumer::pull::OrderedConfig},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1::handshake, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use subjects::{Envelope, header, stream as names};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::{Doors, database::hash};
use crate::chaos::{
    check::replicas::agree,
    facts::{ConsumerRow, DeadLetter, Facts, ReplicaRow, StreamRow},
    history::{INJECTED, Injection, POISON},
    reach::Part,
};

/// How long the next message of a stream that has one may take.
const NEXT: Duration = Duration::from_secs(30);
/// How long a node's monitoring port may take.
const MONITOR: Duration = Duration::from_secs(5);

/// How often nodes that differ are asked, and how long between.
const TRIES: usize = 5;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_millis(500);

/// A consumer, and how many events it has not been given.
pub(super) struct Consumer {
    pub(super) row: ConsumerRow,
    pub(super) waiting: u64,
}

/// EVENTS, DEADLETTERS and the consumers. Gives the subjects of EVENTS by place.
pub(super) async fn read(doors: &Doors<'_>, facts: &mut Facts) -> anyhow::Result<Vec<(u64, String)>> {
    let mut subjects = Vec::new();
    for message in messages(doors, names::EVENTS, names::ALL_EVENTS).await? {
        let place = place(&message)?;
        subjects.push((place, message.subject.to_string()));
        facts.injected.extend(message.headers.as_ref().and_then(|headers| injected(names::EVENTS, place, headers)));
        facts.stream.push(event(place, &message));
    }
    for message in messages(doors, names::DEADLETTERS, names::DEADLETTERS_SUBJECTS[0]).await? {
        subjects.push((0, message.subject.to_string()));
        facts.dead_letters.push(letter(&message));
    }
    // Of COMMANDS only what became a dead letter matters; the rest has outcomes.
    let commands = doors.jetstream.get_stream(names::COMMANDS).await.context("looking for COMMANDS")?;
    for letter in facts.dead_letters.iter().filter(|letter| letter.origin_stream == names::COMMANDS) {
        // What is purged tells nothing any more.
        if let Ok(message) = commands.get_raw_message(letter.origin_sequence).await {
            facts.injected.extend(injected(names::COMMANDS, letter.origin_sequence, &message.headers));
        }
    }
    facts.consumers = consumers(doors, &subjects).await?.into_iter().map(|consumer| consumer.row).collect();
    Ok(subjects)
}

/// What a message says of itself.
fn injected(stream: &str, sequence: u64, headers: &HeaderMap) -> Option<Injection> {
    let value = headers.get(INJECTED)?.as_str();
    Some(Injection { stream: stream.to_owned(), sequence, poison: value == POISON, detail: "by its header".to_owned() })
}

fn place(message: &Message) -> anyhow::Result<u64> {
    Ok(message.info().map_err(|error| anyhow::anyhow!("a message without its place: {error}"))?.stream_sequence)
}

/// Every message of a stream on these subjects, in order.
async fn messages(doors: &Doors<'_>, stream: &str, filter: &str) -> anyhow::Result<Vec<Message>> {
    let handle = doors.jetstream.get_stream(stream).await.with_context(|| format!("looking for {stream}"))?;
    let config = OrderedConfig { filter_subject: filter.to_owned(), ..OrderedConfig::default() };
    let mut consumer = handle.create_consumer(config).await.with_context(|| format!("reading {stream}"))?;
    let count = usize::try_from(consumer.info().await?.num_pending)?;
    let mut messages = consumer.messages().await?.take(count);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        match tokio::time::timeout(NEXT, messages.next()).await {
            Ok(Some(message)) => all.push(message.with_context(|| format!("reading {stream}"))?),
            Ok(None) => break,
            Err(_) => bail!("{stream} says it has {count} messages and gave {} in {} s", all.len(), NEXT.as_secs()),
        }
    }
    Ok(all)
}

fn event(stream_sequence: u64, message: &Message) -> StreamRow {
    let body = String::from_utf8_lossy(&message.payload);
    let late = message.headers.as_ref().is_some_and(|headers| headers.get(header::LATE).is_some());
    match serde_json::from_str::<Envelope>(&body) {
        Ok(envelope) => StreamRow {
            stream_sequence,
            id: Some(envelope.id.uuid()),
            tenant: envelope.tenant_id.uuid(),
            sequence: i64::try_from(envelope.sequence).unwrap_or(i64::MAX),
            kind: envelope.aggregate.to_string(),
            aggregate: envelope.aggregate_id.rsplit('_').next().and_then(|id| Uuid::try_parse(id).ok()).unwrap_or_default(),
            version: i64::try_from(envelope.aggregate_version).unwrap_or(i64::MAX),
            body: hash(&body),
            late,
        },
        Err(_) => StreamRow {
            stream_sequence,
            id: None,
            tenant: Uuid::nil(),
            sequence: 0,
            kind: String::new(),
            aggregate: Uuid::nil(),
            version: 0,
            body: hash(&body),
            late,
        },
    }
}

fn letter(message: &Message) -> DeadLetter {
    let text = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned()).unwrap_or_default();
    DeadLetter {
        subject: message.subject.to_string(),
        consumer: text(header::CONSUMER),
        reason: text(header::REASON),
        error: text(header::ERROR),
        origin_stream: text(header::ORIGIN_STREAM),
        origin_sequence: text(header::ORIGIN_SEQUENCE).parse().unwrap_or_default(),
    }
}

/// Whether a consumer is one of those that run; every one where nobody says which do. Durables are made for all of them.
fn runs(parts: &[Part], consumer: &str) -> bool {
    let is = |part: &Part| part.name.strip_prefix(consumer).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    parts.is_empty() || parts.iter().any(is)
}

/// Every durable consumer of EVENTS that runs. With the subjects of all messages also what the last message is that each takes.
pub(super) async fn consumers(doors: &Doors<'_>, subjects: &[(u64, String)]) -> anyhow::Result<Vec<Consumer>> {
    let stream = doors.jetstream.get_stream(names::EVENTS).await.context("looking for EVENTS")?;
    let parts = doors.reach.parts.clone();
    let parts = tokio::task::spawn_blocking(move || parts.now()).await?;
    let mut infos = stream.consumers();
    let mut all = Vec::new();
    while let Some(info) = infos.try_next().await? {
        let Some(name) = info.config.durable_name.filter(|name| runs(&parts, name)) else { continue };
        let mut filters = info.config.filter_subjects;
        filters.extend(Some(info.config.filter_subject).filter(|filter| !filter.is_empty()));
        let takes = |subject: &str| filters.is_empty() || filters.iter().any(|filter| subjects::matches(filter, subject));
        let last = subjects.iter().rev().find(|(place, subject)| *place > 0 && takes(subject)).map_or(0, |(place, _)| *place);
        let pending = u64::try_from(info.num_ack_pending)?;
        let row = ConsumerRow { name, position: info.ack_floor.stream_sequence, last, pending, effects: None, repeats: false };
        all.push(Consumer { row, waiting: info.num_pending });
    }
    // Those that ask for order keep their positions and what they have parked in the database.
    let end = subjects.iter().map(|(place, _)| *place).max().unwrap_or_default();
    const ORDERED: &str =
        "SELECT p.consumer, p.position, (SELECT count(*) FROM consumer_parked k WHERE k.consumer = p.consumer) FROM consumer_positions p";
    for row in doors.database.query(ORDERED, &[]).await? {
        let (name, position, parked): (String, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let position = position.unsigned_abs();
        let row = ConsumerRow { name, position, last: end, pending: parked.unsigned_abs(), effects: None, repeats: false };
        all.push(Consumer { row, waiting: 0 });
    }
    Ok(all)
}

/// What a node's monitoring port says of JetStream, as far as it matters here.
#[derive(Deserialize)]
struct Jsz {
    #[serde(default)]
    account_details: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    stream_detail: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    name: String,
    state: State,
    config: Option<Settings>,
}

#[derive(Deserialize)]
struct Settings {
    num_replicas: u64,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
    #[serde(default)]
    num_deleted: u64,
}

/// Every stream on every node, sorted by stream. Without monitoring ports what each stream's leader says.
pub(super) async fn replicas(doors: &Doors<'_>) -> anyhow::Result<Vec<ReplicaRow>> {
    let mut rows = Vec::new();
    for (node, address) in doors.reach.nats.monitors.clone() {
        let jsz = jsz(address).await.with_context(|| format!("asking {node}"))?;
        for Detail { name, state, config } in jsz.account_details.into_iter().flat_map(|account| account.stream_detail) {
            let State { messages, first_seq: first, last_seq: last, num_deleted: deleted } = state;
            let wanted = config.map_or(1, |config| config.num_replicas);
            rows.push(ReplicaRow { stream: name, node: node.clone(), messages, first, last, deleted, wanted });
        }
    }
    if doors.reach.nats.monitors.is_empty() {
        let mut infos = doors.jetstream.streams();
        while let Some(info) = infos.try_next().await? {
            let state = info.state;
            let deleted = state.deleted_count.unwrap_or_default();
            let (first, last) = (state.first_sequence, state.last_sequence);
            let (stream, node) = (info.config.name, "leader".to_owned());
            rows.push(ReplicaRow { stream, node, messages: state.messages, first, last, deleted, wanted: 1 });
        }
    }
    rows.sort_by(|one, other| (&one.stream, &one.node).cmp(&(&other.stream, &other.node)));
    Ok(rows)
}

/// The streams over which the nodes differ, or that some node does not have.
pub(super) fn differing(rows: &[ReplicaRow]) -> Vec<String> {
    let streams = rows.chunk_by(|one, other| one.stream == other.stream);
    let differ = |rows: &&[ReplicaRow]| {
        let all: Vec<&ReplicaRow> = rows.iter().collect();
        !agree(&all) || rows.iter().any(|row| row.wanted > rows.len() as u64)
    };
    streams.filter(differ).map(|rows| rows[0].stream.clone()).collect()
}

/// What every node says when all say the same; after some tries, what they say. A message or a purge may fall between two answers.
pub(super) async fn settled_replicas(doors: &Doors<'_>) -> anyhow::Result<Vec<ReplicaRow>> {
    for _ in 1..TRIES {
        let rows = replicas(doors).await?;
        if differing(&rows).is_empty() {
            return Ok(rows);
        }
        tokio::time::sleep(PAUSE).await;
    }
    replicas(doors).await
}

async fn jsz(address: SocketAddr) -> anyhow::Result<Jsz> {
    let ask = async {
        let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        let connection = tokio::spawn(connection);
        let path = "/jsz?accounts=true&streams=true&config=true&limit=1024";
        let answer = sender.send_request(Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        if status != 200 {
            bail!("/jsz answers {status}");
        }
        serde_json::from_slice(&body).context("/jsz is not what it was")
    };
    tokio::time::timeout(MONITOR, ask).await.with_context(|| format!("/jsz takes more than {} s", MONITOR.as_secs()))?
}

/// How often each event is in a list of ids.
pub(super) fn counted(ids: impl IntoIterator<Item = Uuid>) -> std::collections::BTreeMap<Uuid, u32> {
    let mut counts: HashMap<Uuid, u32> = HashMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_runs_when_a_process_has_its_name_or_its_name_and_a_number() {
        let part = |name: &str| Part { name: name.into(), admin: None, pid: None, log: None };
        let parts = [part("gateway"), part("audit"), part("guests-2")];
        assert_eq!(["audit", "guests", "authz-cache", "notifications"].map(|name| runs(&parts, name)), [true, true, false, false]);
        assert!(runs(&[], "notifications"));
    }

    #[test]
    fn a_message_that_a_fault_put_there_says_so_itself() {
        let mut headers = HeaderMap::new();
        assert_eq!(injected("EVENTS", 7, &headers), None);
        headers.insert(INJECTED, "repeat");
        assert_eq!(injected("EVENTS", 7, &headers).map(|injection| (injection.sequence, injection.poison)), Some((7, false)));
        headers.insert(INJECTED, POISON);
        assert!(injected("EVENTS", 7, &headers).is_some_and(|injection| injection.poison));
    }

    #[test]
    fn nodes_differ_over_a_stream_that_one_of_them_lacks_or_has_less_of() {
        let row = |stream: &str, node: &str, last| ReplicaRow {
            stream: stream.into(),
            node: node.into(),
            messages: last,
            first: 1,
            last,
            deleted: 0,
            wanted: 2,
        };
        let rows = [row("A", "1", 5), row("A", "2", 5), row("B", "1", 5), row("B", "2", 4), row("C", "1", 5)];
        assert_eq!(differing(&rows), ["B", "C"]);
    }
}
