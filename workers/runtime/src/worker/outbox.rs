//! The one publishing lane of a worker: the events of one transaction (or of several that wait) are one atomic batch, and nothing else
//! is in flight.
//!
//! Publishes are fenced. At takeover the owner publishes on `fence.<partition>`, and the first event of a partition in every batch
//! expects that fence to be the last, so that a resumed zombie's events are refused. Takeover and every publish with an unknown end
//! settle the same way: check the epoch, fence, read headers from the mark to the fence, skip what is stored, go on. Correctness needs
//! no duplicate window.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Request, jetstream};
use bytes::Bytes;
use deadpool_postgres::Pool;
use serde::Deserialize;
use subjects::TenantId;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    backoff::{self, Backoff},
    headers::{event_headers, names},
    metrics::METRICS,
    settle, traces,
};
use crate::{
    Stop, failpoint,
    nats::{self, Connection},
    planted,
    store::{commit::EventRow, lease::Mark},
    trace,
};

/// Messages an atomic batch may have (server limit).
const BATCH: usize = 1_000;
/// Transactions that may wait for the lane: a bound on what is in memory, not on what is safe, for the table has it all.
pub(crate) const WAITING: usize = 8;

/// Work for the lane.
#[derive(Debug)]
pub(crate) enum Job {
    /// The events of one committed transaction, in order.
    Publish(Vec<EventRow>),
    /// A partition was taken over: settle what the predecessor left.
    Take {
        /// Partition and epoch.
        partitions: Vec<(u16, i64)>,
    },
    /// Partitions are not ours any more.
    Forget(Vec<u16>),
    /// Tells when everything before it is done.
    Flush(oneshot::Sender<()>),
}

/// How far each owned partition is published; read by the batch loop, which writes it down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks(Arc<Mutex<MarksInner>>);

#[derive(Debug, Default)]
struct MarksInner {
    /// Each with the epoch under which it was reached: under another, the row may have been set back.
    marks: HashMap<u16, (i64, Mark)>,
    dirty: BTreeSet<u16>,
}

impl Marks {
    fn with<T>(&self, change: impl FnOnce(&mut MarksInner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, partition: u16, epoch: i64, mark: Mark) {
        self.with(|inner| {
            inner.marks.insert(partition, (epoch, mark));
            inner.dirty.insert(partition);
        });
    }

    /// The mark reached under this epoch; one of no life, which nobody writes down, when there is none.
    pub(crate) fn get(&self, partition: u16, epoch: i64) -> Mark {
        self.with(|inner| inner.marks.get(&partition).filter(|(of, _)| *of == epoch).map(|(_, mark)| *mark).unwrap_or_default())
    }

    pub(crate) fn forget(&self, partition: u16) {
        self.with(|inner| {
            inner.marks.remove(&partition);
            inner.dirty.remove(&partition);
        });
    }

    /// The marks that moved since the last call: partition, epoch, mark.
    pub(crate) fn take_dirty(&self) -> Vec<(u16, i64, Mark)> {
        self.with(|inner| {
            let dirty = std::mem::take(&mut inner.dirty);
            dirty.into_iter().filter_map(|partition| inner.marks.get(&partition).map(|(epoch, mark)| (partition, *epoch, *mark))).collect()
        })
    }

    /// These could not be written down; those that moved on meanwhile are written as they are then.
    pub(crate) fn again(&self, marks: &[(u16, i64, Mark)]) {
        self.with(|inner| inner.dirty.extend(marks.iter().map(|(partition, ..)| *partition)));
    }
}

/// A partition as the lane knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fenced {
    pub(crate) epoch: i64,
    /// Sequence of our fence in EVENTS.
    pub(crate) fence: u64,
    /// The life of EVENTS it is in.
    pub(crate) life: i64,
    /// The last partition sequence that is stored.
    pub(crate) published: u64,
}

/// The lane.
pub(crate) struct Outbox {
    pub(crate) connection: Connection,
    pub(crate) context: jetstream::Context,
    pub(crate) pool: Pool,
    pub(crate) worker: Uuid,
    pub(crate) partitions: u16,
    pub(crate) marks: Marks,
    pub(crate) timeout: Duration,
    pub(crate) makes_spans: bool,
    /// How long events wait for each other at most, counted from the start of the last batch.
    pub(crate) pace: Duration,
    pub(crate) fenced: BTreeMap<u16, Fenced>,
    pub(crate) stop: Stop,
}

/// Why a publish has no known end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("no PubAck: {0}")]
    Unknown(String),
    #[error("refused: {description} ({code})")]
    Refused { code: u64, description: String },
}

impl PublishError {
    /// Its word in a span.
    const fn name(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Refused { .. } => "refused",
        }
    }
}

/// A message that is stored.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    /// Its place in the stream.
    #[serde(default)]
    pub(crate) seq: u64,
    /// The server remembers the id of an earlier one, and has stored nothing now.
    #[serde(default)]
    pub(crate) duplicate: bool,
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(flatten)]
    stored: Stored,
    error: Option<PubAckError>,
}

#[derive(Deserialize)]
struct PubAckError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Outbox {
    /// Works until the jobs end. `stop` ends it in the middle of an endless retry: the successor settles.
    pub(crate) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        planted!(OutboxById => { return self.relay(jobs).await });
        let mut next = None;
        // The first batch after a pause waits for nothing.
        let mut due = Instant::now();
        while let Some(job) = match next.take() {
            Some(job) => Some(job),
            None => jobs.recv().await,
        } {
            match job {
                Job::Publish(mut events) => {
                    // What was committed while the last batch was on its way goes as one: a batch costs the server much, a message little.
                    while events.len() < BATCH {
                        match timeout_at(due, jobs.recv()).await {
                            Ok(Some(Job::Publish(more))) => events.extend(more),
                            Ok(Some(other)) => {
                                next = Some(other);
                                break;
                            }
                            Ok(None) | Err(_) => break,
                        }
                    }
                    let begun = Instant::now();
                    self.publish(events).await;
                    due = begun + backoff::rest(begun.elapsed(), self.pace);
                }
                Job::Take { partitions } => {
                    for (partition, epoch) in &partitions {
                        self.fenced.insert(*partition, Fenced { epoch: *epoch, fence: 0, life: 0, published: 0 });
                    }
                    self.settle(partitions.into_iter().map(|(partition, _)| partition).collect()).await;
                }
                Job::Forget(partitions) => {
                    for partition in partitions {
                        self.fenced.remove(&partition);
                        self.marks.forget(partition);
                    }
                }
                Job::Flush(done) => {
                    // Nobody waits any more: nothing to tell.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Publishes until every event is stored, or its partition is not ours any more, or the process has to end.
    async fn publish(&mut self, events: Vec<EventRow>) {
        planted!(PipelinedOutbox => { return self.pipeline(events).await });
        let mut rest: &[EventRow] = &events;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(BATCH));
            rest = later;
            let wanted: Vec<&EventRow> = batch
                .iter()
                .filter(|event| self.fenced.get(&event.partition).is_some_and(|fenced| fenced.published < event.partition_sequence))
                .collect();
            if let Err(error) = self.send(&wanted).await {
                METRICS.in_doubt.inc();
                tracing::warn!(%error, events = wanted.len(), "a publish has no known end: settling");
                self.settle(wanted.iter().map(|event| event.partition).collect()).await;
            }
        }
    }

    /// Settles until it works, the partitions are lost, or the process has to end.
    async fn settle(&mut self, mut partitions: BTreeSet<u16>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            partitions.retain(|partition| self.fenced.contains_key(partition));
            if partitions.is_empty() {
                return;
            }
            match settle::settle(self, &partitions).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "settling again"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {
                    // Nothing later may follow what is not settled: all of it is the successor's.
                    self.fenced.retain(|partition, _| !partitions.contains(partition));
                    return;
                }
                () = backoff.wait() => {}
            }
        }
    }

    /// Publishes events of owned partitions as one atomic batch (or one message) and notes their place.
    pub(crate) async fn send(&mut self, events: &[&EventRow]) -> Result<(), PublishError> {
        let span = traces::publishing(self.makes_spans, events);
        let sent = self.send_all(events).instrument(span.clone()).await;
        if let Err(error) = &sent {
            trace::failed(&span, error.name());
        }
        sent
    }

    async fn send_all(&mut self, events: &[&EventRow]) -> Result<(), PublishError> {
        let Some((last, before)) = events.split_last() else { return Ok(()) };
        let begun = std::time::Instant::now();
        let batch = (!before.is_empty()).then(|| Uuid::now_v7().simple().to_string());
        let mut seen = HashSet::new();
        for (index, event) in before.iter().enumerate() {
            let headers = self.headers(event, seen.insert(event.partition), batch.as_deref(), index + 1, false);
            self.connection
                .client
                .publish_with_headers(subject(event), headers, Bytes::copy_from_slice(event.body.as_bytes()))
                .await
                .map_err(|error| PublishError::Unknown(error.to_string()))?;
        }
        failpoint::hit("batch_sent");
        let headers = self.headers(last, seen.insert(last.partition), batch.as_deref(), events.len(), true);
        let stream = self.request(subject(last), headers, Bytes::copy_from_slice(last.body.as_bytes())).await?;
        METRICS.publish.lap(begun);
        METRICS.published.observe(events.len() as f64);
        failpoint::hit("batch_acknowledged");
        for event in events {
            if let Some(fenced) = self.fenced.get_mut(&event.partition) {
                fenced.published = fenced.published.max(event.partition_sequence);
                self.marks.set(event.partition, fenced.epoch, Mark { sequence: fenced.published, stream, life: fenced.life });
            }
        }
        Ok(())
    }

    /// One message with its PubAck; returns the sequence.
    pub(crate) async fn request(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, PublishError> {
        request_on(&self.connection.client, self.timeout, subject, headers, payload).await
    }

    pub(super) fn headers(&self, event: &EventRow, first: bool, batch: Option<&str>, place: usize, last: bool) -> HeaderMap {
        let mut headers = event_headers(event);
        if first
            && !planted!(NoFence)
            && let Some(fenced) = self.fenced.get(&event.partition)
        {
            headers.insert(names::EXPECTED.clone(), fenced.fence.to_string());
            headers.insert(names::EXPECTED_SUBJECT.clone(), subjects::fence(event.partition));
        }
        if let Some(batch) = batch {
            headers.insert(names::BATCH_ID.clone(), batch);
            headers.insert(names::BATCH_SEQUENCE.clone(), place.to_string());
            if last {
                headers.insert(names::BATCH_COMMIT.clone(), "1");
            }
        }
        headers
    }
}

/// See [`Outbox::request`].
pub(super) async fn request_on(client: &Client, limit: Duration, subject: String, headers: HeaderMap, payload: Bytes) -> Result<u64, PublishError> {
    store(client, limit, subject, headers, payload).await.map(|stored| stored.seq)
}

/// One message, and what its PubAck says.
pub(crate) async fn store(client: &Client, limit: Duration, subject: String, headers: HeaderMap, payload: Bytes) -> Result<Stored, PublishError> {
    let request = Request::new().headers(headers).payload(payload).timeout(Some(limit));
    let answer = nats::ask(&subject, client.send_request(subject.clone(), request)).await.map_err(PublishError::Unknown)?;
    let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|error| PublishError::Unknown(format!("unreadable PubAck: {error}")))?;
    match ack.error {
        None => Ok(ack.stored),
        Some(error) => Err(PublishError::Refused { code: error.err_code, description: error.description }),
    }
}

pub(super) fn subject(event: &EventRow) -> String {
    subjects::event(event.tenant, &event.event_type)
}

/// The tenant and partition of an event's subject; `None` for a fence.
pub(crate) fn partition_of(subject: &str, partitions: u16) -> Option<(TenantId, u16)> {
    let parsed = subjects::EventSubject::parse(subject).ok()?;
    Some((parsed.tenant.parse().ok()?, subjects::partition(parsed.tenant, partitions)))
}
