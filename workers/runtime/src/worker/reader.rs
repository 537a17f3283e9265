//! Reads one partition: an ephemeral pull consumer without acknowledgements from the cursor on. The cursor in PostgreSQL is the only
//! delivery state; whatever goes wrong here, the consumer is made again after the last message handed over. A reconnect is enough: what
//! was on its way is gone, and where it was the last there is, no gap shows.

use std::{pin::pin, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use rand::Rng;
use subjects::{command_filter, stream as names};
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc};

use crate::{
    Stop,
    nats::{Connection, Life},
    streams,
};

/// A command message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// Sequence in COMMANDS.
    pub(crate) sequence: u64,
    /// Its subject.
    pub(crate) subject: String,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) payload: Bytes,
    /// When the server stored it.
    pub(crate) stored_at: OffsetDateTime,
}

/// What a reader hands over.
#[derive(Debug)]
pub(crate) enum Read {
    /// A message; sequences only rise.
    Message(Incoming),
    /// COMMANDS was created anew (or lost its tail): from here on sequences start again.
    Restart {
        /// The new life of the stream.
        incarnation: String,
    },
}

/// What a reader needs.
pub(crate) struct Reader {
    pub(crate) connection: Connection,
    pub(crate) context: jetstream::Context,
    pub(crate) partition: u16,
    /// The last sequence that was decided or handed over.
    pub(crate) position: u64,
    /// The life of COMMANDS the position belongs to; empty for any.
    pub(crate) incarnation: String,
    pub(crate) buffer: usize,
    pub(crate) out: mpsc::Sender<Read>,
    pub(crate) ready: Arc<Notify>,
    pub(crate) stop: Stop,
}

/// Why a consumer has to be made again.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Nats(String),
    #[error("a gap in the consumer's sequence: {expected} expected, {found} found")]
    Gap { expected: u64, found: u64 },
    #[error("the stream ended")]
    Ended,
    #[error("the connection broke, and what was on its way is lost")]
    Reconnect,
}

impl Reader {
    /// Reads until stopped.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        while !self.stop.is_cancelled() {
            let before = self.position;
            let stop = self.stop.clone();
            let broken = tokio::select! {
                () = stop.cancelled() => return,
                broken = self.read() => broken,
            };
            match broken {
                Ok(()) => return,
                Err(error) => {
                    failures = if self.position > before { 0 } else { failures.saturating_add(1) };
                    tracing::debug!(partition = self.partition, position = self.position, %error, "reading again");
                }
            }
            let ceiling = (50_u64 << failures.min(5)).min(1_000);
            let pause = Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads through one consumer until it breaks. `Ok` means that nobody listens any more.
    async fn read(&mut self) -> Result<(), Broken> {
        let mut life = self.connection.life();
        let stream = streams::get(&self.context, names::COMMANDS).await.map_err(Broken::Nats)?;
        let info = stream.cached_info();
        let incarnation = streams::incarnation(info);
        let truncated = info.state.last_sequence < self.position;
        if truncated || (!self.incarnation.is_empty() && self.incarnation != incarnation) || self.incarnation.is_empty() && self.position == 0 {
            let known = !self.incarnation.is_empty() || truncated;
            if known {
                tracing::error!(partition = self.partition, "COMMANDS was created anew or truncated: reading it from its first message");
            }
            self.position = 0;
            self.incarnation.clone_from(&incarnation);
            if self.out.send(Read::Restart { incarnation }).await.is_err() {
                return Ok(());
            }
            self.ready.notify_one();
        }
        let wanted = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.position + 1 },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: command_filter(self.partition),
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = streams::reader(&stream, wanted).await.map_err(Broken::Nats)?;
        let result = self.follow(&consumer, &mut life).await;
        // A consumer that is gone or unreachable ends by its inactivity limit.
        if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
            tracing::trace!(%error, "consumer not deleted");
        }
        result
    }

    async fn follow(&mut self, consumer: &jetstream::consumer::Consumer<pull::Config>, life: &mut Life) -> Result<(), Broken> {
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(self.buffer)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(2))
            .messages()
            .await
            .map_err(|error| Broken::Nats(error.to_string()))?;
        let mut expected = 1;
        let mut over = pin!(life.over());
        loop {
            let next = tokio::select! {
                biased;
                next = messages.next() => next,
                () = &mut over => return Err(Broken::Reconnect),
            };
            let message = next.ok_or(Broken::Ended)?.map_err(|error| Broken::Nats(error.to_string()))?;
            let info = message.info().map_err(|error| Broken::Nats(error.to_string()))?;
            if info.consumer_sequence != expected {
                return Err(Broken::Gap { expected, found: info.consumer_sequence });
            }
            expected += 1;
            let (sequence, stored_at) = (info.stream_sequence, info.published);
            let (message, _acker) = message.split();
            let (subject, headers) = (message.subject.to_string(), message.headers.unwrap_or_default());
            let incoming = Incoming { sequence, subject, headers, payload: message.payload, stored_at };
            if self.out.send(Read::Message(incoming)).await.is_err() {
                return Ok(());
            }
            self.position = sequence;
            self.ready.notify_one();
        }
    }
}
