//! What becomes of the messages that were taken: handled, and settled one by one.

use std::{
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use tokio::time::{interval, sleep, timeout};
use tracing::Instrument as _;

use super::{
    super::{
        Event,
        deadletter::{self, DeadLetter},
        decode,
        halving::Halving,
        handling::Handling,
        metrics::Metrics,
        panicking::caught,
        progress::{Batch, Unsettled},
        suspects::CONDEMNED,
    },
    Shared, wait,
};
use crate::{Failure, failpoint, health, planted};

/// A call that takes longer has failed.
const CALL_LIMIT: Duration = Duration::from_secs(300);

impl<H> Shared<'_, H>
where
    H: AsyncFnMut(&[Event]) -> Result<(), Failure>,
{
    /// Handles and settles what was taken. Returns with messages unsettled only when stopped while waiting for something outside.
    pub(super) async fn work(&mut self, taken: Vec<Message>) {
        failpoint::hit("consumer_taken");
        let mut ordinary = Batch::default();
        let mut suspects: Vec<Batch> = Vec::new();
        for message in taken {
            let Some((event, payload, open)) = self.read(message).await else { continue };
            // Delivered that often without an answer: it may be what ends the process. Alone and last, it takes nobody along.
            if self.suspects.is_one(event.delivered) {
                let mut alone = Batch::default();
                alone.push(event, payload, open);
                suspects.push(alone);
            } else {
                ordinary.push(event, payload, open);
            }
        }
        self.oldest.begin();
        self.work_batch(&mut ordinary).await;
        for mut suspect in suspects {
            let sequence = i64::try_from(suspect.events[0].stream_sequence).unwrap_or(i64::MAX);
            if self.suspects.may_try(sequence).await {
                self.work_batch(&mut suspect).await;
            } else {
                self.bury_event(&mut suspect, 0, "condemned", CONDEMNED).await;
            }
            if suspect.open[0].is_settled() {
                self.suspects.clear(sequence).await;
            }
        }
        self.oldest.done(self.metrics.lag.get());
    }

    /// Decodes a message; what cannot be an event is put aside here.
    async fn read(&mut self, message: Message) -> Option<(Event, Bytes, Unsettled)> {
        let info = message.info().map(|info| (info.stream_sequence, info.consumer_sequence, info.delivered, info.pending, info.published));
        let (message, acker) = message.split();
        let mut open = Unsettled::new(acker);
        let (stream_sequence, consumer_sequence, delivered, pending, stored) = match info {
            Ok(info) => info,
            Err(error) => {
                tracing::error!(consumer.name = self.durable.name, %error, "a message that is not from a stream");
                return None;
            }
        };
        let delivered = u32::try_from(delivered).unwrap_or(u32::MAX);
        self.metrics.lag.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.oldest.read(stored);
        if delivered > 1 {
            self.metrics.redelivered.inc();
        }
        let headers = message.headers.unwrap_or_default();
        let decoded = decode::envelope(&message.subject, &message.payload);
        let error = match decoded {
            Ok(envelope) => {
                let event = Event { envelope, stream_sequence, delivered, consumer_sequence, headers, handling: None };
                if let Some(watch) = &mut self.watch {
                    let (tenant, sequence) = (event.envelope.tenant_id, event.envelope.sequence);
                    watch.see(consumer_sequence, delivered > 1 || event.is_out_of_turn(), tenant, sequence, Instant::now());
                }
                return Some((event, message.payload, open));
            }
            Err(error) => error,
        };
        planted!(SkipUndecodable => {
            open.ack().await;
            return None;
        });
        let text = error.to_string();
        let letter = DeadLetter {
            consumer: self.durable.name,
            event_type: decode::type_of(&message.subject),
            headers: &headers,
            payload: message.payload,
            reason: error.reason(),
            error: &text,
            deliveries: delivered,
            stream: self.durable.stream,
            sequence: stream_sequence,
        };
        bury(&letter, &mut open, &self.context, &self.metrics, self.config.publish_timeout, self.durable.delay(delivered)).await;
        None
    }

    async fn work_batch(&mut self, batch: &mut Batch) {
        let mut halving = Halving::new(batch.events.len());
        let mut outages = 0;
        let mut asked = false;
        while let Some(range) = halving.next() {
            // A drain finishes the call it is in, not the search for an event at fault.
            if asked && self.stop.is_cancelled() {
                return batch.give_back().await;
            }
            asked = true;
            let result = self.call(batch, range.clone()).await;
            let failure = match result {
                Ok(()) => {
                    outages = 0;
                    failpoint::hit("consumer_handled");
                    self.notes.handled(&batch.events[range.clone()]);
                    for place in range {
                        self.metrics.handled(&batch.events[place].envelope);
                        self.oldest.settled(batch.events[place].stream_sequence);
                        batch.open[place].ack().await;
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            self.metrics.failed(&failure);
            if let Failure::Outage(error) = &failure {
                outages += 1;
                tracing::warn!(consumer.name = self.durable.name, %error, events = range.len(), "waiting for something outside");
                health::set(self.durable.name, false, error.clone());
                if !self.hold(batch, wait(outages)).await {
                    return batch.give_back().await;
                }
                health::set(self.durable.name, true, "following");
                halving.again(range);
            } else if let Some(place) = halving.failed(range) {
                self.settle_failed(batch, place, failure).await;
            }
        }
    }

    /// One call of the handler. Everything unsettled of the batch is extended while it runs.
    pub(in super::super) async fn call(&mut self, batch: &mut Batch, range: Range<usize>) -> Result<(), Failure> {
        let handling = Handling::begin(self.config.makes_spans(), &self.durable, &mut batch.events[range.clone()]);
        let result = self.call_extending(batch, range).instrument(handling.call()).await;
        handling.end(&result);
        result
    }

    async fn call_extending(&mut self, batch: &Batch, range: Range<usize>) -> Result<(), Failure> {
        let events = &batch.events[range];
        let mut work = pin!(timeout(CALL_LIMIT, caught(async { (self.handler)(events).await })));
        let mut extend = interval(self.durable.ack_wait / 3);
        extend.reset();
        let begun = Instant::now();
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    self.metrics.called(events.len(), begun);
                    return result.unwrap_or_else(|_| Err(Failure::retry(format!("it took longer than {} s", CALL_LIMIT.as_secs()))));
                }
                _ = extend.tick() => batch.extend().await,
            }
        }
    }

    /// Keeps a batch for a while. False when stopped.
    async fn hold(&self, batch: &Batch, pause: Duration) -> bool {
        let mut extend = interval(self.durable.ack_wait / 3);
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = &mut pause => return true,
                _ = extend.tick() => batch.extend().await,
            }
        }
    }

    /// The one event at fault: later, or never.
    async fn settle_failed(&mut self, batch: &mut Batch, place: usize, failure: Failure) {
        let event = &batch.events[place];
        let poison = matches!(failure, Failure::Poison(_));
        let delay = self.durable.delay(event.delivered);
        if !poison && event.delivered < self.durable.max_deliver {
            tracing::warn!(
                consumer.name = self.durable.name,
                event.id = %event.envelope.id,
                event.r#type = event.envelope.event_type,
                delivered = event.delivered,
                error = %failure,
                "an event is tried again later"
            );
            self.notes.failed(event.first_sequence(), event.delivered);
            self.oldest.delay(event.stream_sequence);
            return batch.open[place].later(delay).await;
        }
        self.bury_event(batch, place, deadletter::reason(&failure), &failure.to_string()).await;
    }

    async fn bury_event(&mut self, batch: &mut Batch, place: usize, reason: &str, error: &str) {
        let event = &batch.events[place];
        let letter = DeadLetter {
            consumer: self.durable.name,
            event_type: &event.envelope.event_type,
            headers: &event.headers,
            payload: batch.payloads[place].clone(),
            reason,
            error,
            deliveries: event.delivered,
            stream: self.durable.stream,
            sequence: event.stream_sequence,
        };
        let delay = self.durable.delay(event.delivered);
        if bury(&letter, &mut batch.open[place], &self.context, &self.metrics, self.config.publish_timeout, delay).await {
            self.notes.dead(event.first_sequence(), event.delivered);
            self.oldest.settled(event.stream_sequence);
        }
    }
}

/// Stores a dead letter, and only then acknowledges the original. Whether it is stored.
async fn bury(letter: &DeadLetter<'_>, open: &mut Unsettled, context: &Context, metrics: &Metrics, limit: Duration, delay: Duration) -> bool {
    match letter.store(context, limit).await {
        Ok(()) => {
            metrics.dead(letter.reason);
            failpoint::hit("consumer_buried");
            open.ack().await;
            true
        }
        Err(error) => {
            tracing::error!(consumer.name = letter.consumer, stream.sequence = letter.sequence, %error, "a dead letter could not be stored and comes again");
            open.later(delay).await;
            false
        }
    }
}
