//! Faults that go through NATS itself: leaders that step down, messages that come again, messages that nobody can read.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use async_nats::{
    HeaderMap,
    jetstream::{self, message::StreamMessage},
};
use runtime::nats::Access;
use serde_json::Value;
use subjects::stream as names;

use super::{
    chance::Chance,
    history::{History, INJECTED, Injection, POISON, REPEAT},
    target::Doors,
};
use crate::{connect, servers::port};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a message of the right kind is looked for.
const LOOKS: usize = 400;
/// Headers that would make the server refuse or drop a repeat.
const EXPECTATIONS: &str = "Nats-";
/// Bytes of an oversize body: close to what the streams take at all.
const OVERSIZE: usize = 900_000;

/// The part's name of the node that leads a stream, as any node knows it.
///
/// # Errors
/// No node says so.
pub(super) async fn stream_leader(doors: &Doors, stream: &'static str) -> anyhow::Result<String> {
    ask(doors, "/jsz?streams=1", move |answer| {
        let accounts = answer.get("account_details")?.as_array()?.iter();
        let details = accounts.filter_map(|account| account.get("stream_detail")?.as_array()).flatten();
        let found = details.filter(|detail| detail.get("name").and_then(Value::as_str) == Some(stream));
        found.filter_map(|detail| detail.pointer("/cluster/leader")?.as_str()).find(|name| !name.is_empty()).map(str::to_owned)
    })
    .await
    .with_context(|| format!("{stream} has no leader"))
}

/// The same for the leader of all nodes.
///
/// # Errors
/// No node says so.
pub(super) async fn meta_leader(doors: &Doors) -> anyhow::Result<String> {
    let named = |answer: &Value| answer.pointer("/meta_cluster/leader")?.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    ask(doors, "/jsz", named).await.context("the nodes have no leader")
}

/// Asks every node in turn, until one has an answer; gives the part that has this server's name.
async fn ask(doors: &Doors, path: &'static str, read: impl Fn(&Value) -> Option<String> + Send + 'static) -> anyhow::Result<String> {
    let monitors: Vec<SocketAddr> = doors.monitors.values().copied().collect();
    let name = tokio::task::spawn_blocking(move || {
        monitors.into_iter().find_map(|monitor| {
            let (_, text) = port::get(monitor, path, LIMIT).ok()?;
            read(&serde_json::from_str(&text).ok()?)
        })
    })
    .await?
    .context("no node knows")?;
    let part = doors.monitors.keys().find(|part| name == **part || name.starts_with(&format!("{part}-")));
    part.cloned().with_context(|| format!("no part is {name}"))
}

async fn client(access: &Access) -> anyhow::Result<async_nats::Client> {
    let connecting = tokio::time::timeout(LIMIT, connect::nats_with(access, "chaos"));
    connecting.await.context("connecting to NATS takes too long")?.map_err(|error| anyhow!("connecting to NATS: {error}"))
}

/// Asks a leader to step down.
///
/// # Errors
/// There is none, or it refuses.
pub(super) async fn step_down(access: &Access, what: &str) -> anyhow::Result<()> {
    let client = client(access).await?;
    let request = client.request(format!("$JS.API.{what}"), "".into());
    let answer = tokio::time::timeout(LIMIT, request).await.context("no answer to a step-down")??;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    match answer.pointer("/error/description").and_then(Value::as_str) {
        Some(why) => bail!("{what}: {why}"),
        None => Ok(()),
    }
}

/// As whom one publishes into a stream.
fn publisher<'a>(doors: &'a Doors, stream: &str) -> &'a Access {
    if stream == names::COMMANDS { &doors.gateway } else { &doors.worker }
}

/// Some of the stored messages of a stream, any of them, but for fences and what one consumer has again.
async fn stored(doors: &Doors, stream: &str, count: usize, chance: &mut Chance) -> anyhow::Result<Vec<StreamMessage>> {
    let context = jetstream::new(client(&doors.operator).await?);
    let stream = context.get_stream(stream).await.map_err(|error| anyhow!("{error}"))?;
    let state = &stream.cached_info().state;
    let mut found = Vec::new();
    for _ in 0..LOOKS {
        if found.len() >= count || state.messages == 0 {
            break;
        }
        let sequence = chance.between(state.first_sequence, state.last_sequence);
        // A place whose message was purged is passed over.
        match stream.get_raw_message(sequence).await {
            Ok(message) if !["fence.", "redrive."].iter().any(|other| message.subject.starts_with(other)) => found.push(message),
            _ => {}
        }
    }
    if found.is_empty() { bail!("there is nothing to repeat yet") } else { Ok(found) }
}

/// Publishes stored messages again in another order, without what the server would know them by.
///
/// # Errors
/// There are none, or the server takes none of them.
pub(super) async fn repeat(doors: &Doors, history: &History, stream: &'static str, count: usize, seed: u64) -> anyhow::Result<usize> {
    let mut chance = Chance::new(seed);
    let mut messages = stored(doors, stream, count, &mut chance).await?;
    chance.shuffle(&mut messages);
    let context = jetstream::new(client(publisher(doors, stream)).await?);
    let mut done = 0;
    for message in messages {
        let mut headers = HeaderMap::new();
        let kept = message.headers.iter().filter(|(name, _)| !name.to_string().starts_with(EXPECTATIONS));
        kept.for_each(|(name, values)| values.iter().for_each(|value| headers.append(name.clone(), value.clone())));
        let detail = format!("{} again", message.sequence);
        // Poison is poison when it comes again.
        let poison = is_poison(&headers);
        done += usize::from(put(&context, history, stream, message.subject.to_string(), headers, message.payload, poison, detail).await.is_ok());
    }
    if done == 0 { bail!("{stream} takes no repeat") } else { Ok(done) }
}

/// Publishes messages that are neither command nor event, on subjects where such belong.
///
/// # Errors
/// There is no subject yet to put them on, or the server takes none.
pub(super) async fn poison(doors: &Doors, history: &History, stream: &'static str, count: usize, seed: u64) -> anyhow::Result<usize> {
    let mut chance = Chance::new(seed);
    let samples = stored(doors, stream, count, &mut chance).await?;
    let context = jetstream::new(client(publisher(doors, stream)).await?);
    let mut done = 0;
    for (number, sample) in samples.iter().enumerate() {
        let half = sample.payload.len() / 2;
        let (what, body): (&str, Vec<u8>) = match number % 5 {
            0 => ("no JSON", b"this is no JSON".to_vec()),
            1 => ("no UTF-8", vec![0xff, 0x00, 0xfe]),
            2 => ("another shape", b"[]".to_vec()),
            3 => ("half of a message", sample.payload[..half].to_vec()),
            _ => ("oversize", vec![b'x'; OVERSIZE]),
        };
        let subject = sample.subject.to_string();
        done += usize::from(put(&context, history, stream, subject, HeaderMap::new(), body.into(), true, what.to_owned()).await.is_ok());
    }
    if done == 0 { bail!("{stream} takes no poison") } else { Ok(done) }
}

/// Whether a message is one that a fault made up.
fn is_poison(headers: &HeaderMap) -> bool {
    headers.get(INJECTED).is_some_and(|value| value.as_str() == POISON)
}

#[expect(clippy::too_many_arguments, reason = "a message and what is recorded of it")]
async fn put(
    context: &jetstream::Context,
    history: &History,
    stream: &str,
    subject: String,
    mut headers: HeaderMap,
    body: bytes::Bytes,
    poison: bool,
    detail: String,
) -> anyhow::Result<()> {
    // It may be stored though the acknowledgement is lost.
    headers.insert(INJECTED, if poison { POISON } else { REPEAT });
    let publish = async { context.publish_with_headers(subject, headers, body).await?.await };
    let ack = tokio::time::timeout(LIMIT, publish).await.context("no acknowledgement")?.map_err(|error| anyhow!("{error}"))?;
    history.injected(Injection { stream: stream.to_owned(), sequence: ack.sequence, poison, detail });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_that_is_repeated_stays_poison() {
        let headers = |mark: &str| HeaderMap::from_iter([(INJECTED.parse().unwrap(), mark.parse().unwrap())]);
        assert!(is_poison(&headers(POISON)));
        assert!(!is_poison(&headers(REPEAT)) && !is_poison(&HeaderMap::new()));
    }
}
