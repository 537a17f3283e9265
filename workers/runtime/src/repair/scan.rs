//! Reading a part of EVENTS from one place to another, once, in order, without leaving anything out unseen.

use std::{pin::pin, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull},
        stream::Stream,
    },
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use subjects::{EventId, TenantId, header};

use super::compare::Seen;
use crate::{
    nats::{Connection, Life},
    streams,
};

/// Messages asked for at a time.
const AHEAD: usize = 1_000;
/// A reader that hears nothing for so long asks whether anything is left.
const SILENCE: Duration = Duration::from_secs(15);

/// A message of EVENTS.
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Stored {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Whether a repair published it.
    pub(crate) fn is_late(&self) -> bool {
        self.header(header::LATE).is_some()
    }

    /// Where it says it belongs: tenant, sequence and id; nothing where it does not, as nobody of ours would write it.
    pub(crate) fn place(&self) -> Option<(TenantId, u64, uuid::Uuid)> {
        let subject = subjects::EventSubject::parse(&self.subject).ok()?;
        let tenant: TenantId = subject.tenant.parse().ok()?;
        let sequence = self.header(header::SEQUENCE)?.parse().ok()?;
        let id = self.header(header::MESSAGE_ID)?.parse::<EventId>().ok()?;
        Some((tenant, sequence, id.uuid()))
    }

    /// The message as it is compared.
    pub(crate) fn seen(&self, partitions: u16) -> Option<Seen> {
        let (tenant, sequence, id) = self.place()?;
        let digest = super::compare::digest(&self.subject, |name| self.header(name), &self.payload);
        let partition = subjects::partition(&tenant.to_string(), partitions);
        Some(Seen { partition, stream_sequence: self.sequence, tenant, sequence, id, digest, late: self.is_late() })
    }
}

/// A reading under way.
pub(crate) struct Scan {
    messages: Option<pull::Stream>,
    consumer: async_nats::jetstream::consumer::Consumer<pull::Config>,
    life: Life,
    expected: u64,
    to: u64,
}

impl Scan {
    /// Reads from one sequence to another, both included. `filter` is a subject, or empty for all; bodies are left out unless wanted.
    pub(crate) async fn open(connection: &Connection, stream: &Stream, from: u64, to: u64, filter: &str, bodies: bool) -> Result<Self, String> {
        let life = connection.life();
        let wanted = pull::Config {
            description: Some("chancery reading EVENTS once".into()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: filter.to_owned(),
            headers_only: !bodies,
            inactive_threshold: Duration::from_secs(30),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = streams::reader(stream, wanted).await?;
        let messages = if consumer.cached_info().num_pending == 0 || from > to {
            None
        } else {
            let reading = consumer.stream().max_messages_per_batch(AHEAD).expires(Duration::from_secs(10)).heartbeat(Duration::from_secs(1));
            Some(reading.messages().await.map_err(|error| error.to_string())?)
        };
        Ok(Self { messages, consumer, life, expected: 1, to })
    }

    /// The next message; none at the end.
    ///
    /// # Errors
    /// The connection broke, or something went another way: what was read so far is not everything.
    pub(crate) async fn next(&mut self) -> Result<Option<Stored>, String> {
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let message = loop {
            let mut over = pin!(self.life.over());
            tokio::select! {
                biased;
                message = messages.next() => break message.ok_or("the reading ended")?.map_err(|error| error.to_string())?,
                // The last message may have been on its way, and then it never comes.
                () = &mut over => return Err("the connection broke, and what was on its way is lost".into()),
                () = tokio::time::sleep(SILENCE) => {
                    // What was still counted when it began may have been forgotten by age since.
                    if self.consumer.get_info().await.map_err(|error| error.to_string())?.num_pending == 0 {
                        self.messages = None;
                        return Ok(None);
                    }
                }
            }
        };
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, place, pending) = (info.stream_sequence, info.consumer_sequence, info.pending);
        if place != self.expected {
            return Err("a gap in the reader's sequence".into());
        }
        self.expected += 1;
        if pending == 0 || sequence >= self.to {
            self.messages = None;
        }
        if sequence > self.to {
            return Ok(None);
        }
        let (message, _) = message.split();
        let stored =
            Stored { sequence, subject: message.subject.to_string(), headers: message.headers.unwrap_or_default(), payload: message.payload };
        Ok(Some(stored))
    }
}
