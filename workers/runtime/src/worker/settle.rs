//! Settling: what a predecessor, or a publish with an unknown end, left behind.

use std::{
    collections::{BTreeSet, HashSet},
    pin::pin,
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::consumer::{AckPolicy, DeliverPolicy, pull},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use subjects::{EventId, header, stream as names};

use super::outbox::{Outbox, PublishError, partition_of};
use crate::{
    failpoint,
    store::{
        lease::Mark,
        outbox::{OwnedPartition, begin_life, owned_marks, unpublished},
    },
    streams,
};

/// Events read from the table in one go.
const PAGE: i64 = 500;

/// Why settling has to start again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    #[error("database: {0}")]
    Database(String),
    #[error("NATS: {0}")]
    Nats(String),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

fn database(error: impl std::fmt::Display) -> SettleError {
    SettleError::Database(error.to_string())
}

fn nats(error: impl std::fmt::Display) -> SettleError {
    SettleError::Nats(error.to_string())
}

/// Brings EVENTS up to what the table has for these partitions. Those that are not ours any more are dropped from the lane.
pub(crate) async fn settle(outbox: &mut Outbox, partitions: &BTreeSet<u16>) -> Result<(), SettleError> {
    let connection = outbox.pool.get().await.map_err(database)?;
    let rows = owned_marks(&connection, outbox.worker, partitions).await.map_err(database)?;
    let ours: Vec<OwnedPartition> =
        rows.into_iter().filter(|row| outbox.fenced.get(&row.partition).is_some_and(|fenced| fenced.epoch == row.epoch)).collect();
    for partition in partitions {
        if !ours.iter().any(|row| row.partition == *partition) {
            tracing::info!(partition, "partition has another owner: its events are the successor's");
            outbox.fenced.remove(partition);
            outbox.marks.forget(*partition);
        }
    }
    if ours.is_empty() {
        return Ok(());
    }

    let stream = streams::get(&outbox.context, names::EVENTS).await.map_err(nats)?;
    let info = stream.cached_info();
    let life = streams::life(info);
    let last_sequence = info.state.last_sequence;
    let another: Vec<(u16, i64)> = ours.iter().filter(|row| row.mark.life != life).map(|row| (row.partition, row.epoch)).collect();
    if !another.is_empty() {
        begin_life(&connection, outbox.worker, &another, life).await.map_err(database)?;
    }

    // From here on a zombie's publishes expect a fence that is not the last any more.
    let fences = try_join_all(ours.iter().map(|row| outbox.request(subjects::fence(row.partition), HeaderMap::new(), Bytes::new()))).await?;
    failpoint::hit("fenced");
    // Deleted and built anew since it was looked at, our fences are in another life, in which what is older may have to come first.
    if streams::life(streams::get(&outbox.context, names::EVENTS).await.map_err(nats)?.cached_info()) != life {
        return Err(nats("EVENTS was created anew meanwhile"));
    }
    let starts: Vec<u64> = ours.iter().map(|row| start_after(row, life, last_sequence)).collect();
    let from = starts.iter().copied().min().unwrap_or(0) + 1;
    let to = fences.iter().copied().max().unwrap_or(0);
    // Nothing is left behind when all that was written is marked: then there is nothing to look for.
    let behind = ours.iter().any(|row| row.sequence > row.mark.sequence);
    let stored = if behind { stored_events(outbox, &stream, from, to, partitions).await? } else { HashSet::new() };
    failpoint::hit("fence_read");

    for ((row, start), fence) in ours.iter().zip(starts).zip(fences) {
        let mut published = row.mark.sequence;
        if let Some(fenced) = outbox.fenced.get_mut(&row.partition) {
            (fenced.fence, fenced.life, fenced.published) = (fence, life, published);
        }
        // Where unmarked events may be stored, the mark stays before them: it is written down while we publish, and settling again reads
        // from it.
        let place = if row.sequence > published { start } else { fence };
        outbox.marks.set(row.partition, row.epoch, Mark { sequence: published, stream: place, life });
        loop {
            let page = unpublished(&connection, row.partition, published, PAGE).await.map_err(database)?;
            let Some(last) = page.last() else { break };
            published = last.partition_sequence;
            let missing: Vec<_> = page.iter().filter(|event| !stored.contains(&event.id)).collect();
            if missing.len() < page.len() {
                let known = page.iter().take_while(|event| stored.contains(&event.id)).count();
                if known + missing.len() != page.len() {
                    tracing::error!(partition = row.partition, "EVENTS has a hole: an event is stored while one before it is not");
                }
            }
            outbox.send(&missing).await?;
            if let Some(fenced) = outbox.fenced.get_mut(&row.partition) {
                fenced.published = published;
                if missing.is_empty() {
                    outbox.marks.set(row.partition, row.epoch, Mark { sequence: published, stream: fence, life });
                }
            }
        }
    }
    Ok(())
}

/// The sequence in EVENTS after which this partition's unmarked events can be.
fn start_after(row: &OwnedPartition, life: i64, last_sequence: u64) -> u64 {
    if row.mark.life == life && row.mark.stream <= last_sequence {
        row.mark.stream
    } else {
        if row.mark.life != 0 {
            tracing::error!(partition = row.partition, "EVENTS was created anew or truncated: reading it from its first message");
        }
        0
    }
}

/// The ids of the events of these partitions that EVENTS has between two sequences.
async fn stored_events(
    outbox: &Outbox,
    stream: &async_nats::jetstream::stream::Stream,
    from: u64,
    to: u64,
    partitions: &BTreeSet<u16>,
) -> Result<HashSet<uuid::Uuid>, SettleError> {
    let mut life = outbox.connection.life();
    let mut over = pin!(life.over());
    let wanted = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
        ack_policy: AckPolicy::None,
        headers_only: true,
        inactive_threshold: Duration::from_secs(30),
        num_replicas: 1,
        memory_storage: true,
        ..pull::Config::default()
    };
    let consumer = streams::reader(stream, wanted).await.map_err(nats)?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(1_000)
        .expires(Duration::from_secs(10))
        .heartbeat(Duration::from_secs(1))
        .messages()
        .await
        .map_err(nats)?;
    let mut stored = HashSet::new();
    let mut expected = 1;
    loop {
        let next = tokio::select! {
            biased;
            next = messages.next() => next,
            // The last fence may have been on its way, and then it never comes.
            () = &mut over => return Err(nats("the connection broke, and what was on its way is lost")),
        };
        let message = next.ok_or_else(|| nats("the stream ended"))?.map_err(nats)?;
        let info = message.info().map_err(nats)?;
        if info.consumer_sequence != expected {
            return Err(nats("a gap in the consumer's sequence"));
        }
        expected += 1;
        let of_interest = partition_of(&message.subject, outbox.partitions).is_some_and(|(_, partition)| partitions.contains(&partition));
        let id = message.headers.as_ref().and_then(|headers| headers.get(header::MESSAGE_ID)).and_then(|id| id.as_str().parse::<EventId>().ok());
        if let (true, Some(id)) = (of_interest, id) {
            stored.insert(id.uuid());
        }
        // The fences themselves are in the stream: the last of them is always delivered.
        if info.stream_sequence >= to {
            return Ok(stored);
        }
    }
}
