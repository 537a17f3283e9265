//! `Order::None`: replicas share one durable with explicit acknowledgements.

use std::{
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self, Context, Message,
    consumer::{Consumer, pull},
};
use bytes::Bytes;
use deadpool_postgres::Pool;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::Instrument;

use super::{
    Durable, Event, Order,
    deadletter::DeadLetter,
    decode,
    gap::Watch,
    halving::Halving,
    handling::Handling,
    metrics::{Metrics, Oldest},
    notes::Notes,
    progress::{Batch, Unsettled},
    pull::take_ready,
    suspects::Suspects,
};
use crate::{
    Config, Failure, StartError, Stop, failpoint, health, nats, planted, store,
    streams::{self, Provisioning},
};

/// How long a pull request stays at the server.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server shows life this often; two silent ones and the subscription is made again.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often lag and gaps are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// A call that takes longer has failed.
const CALL_LIMIT: Duration = Duration::from_secs(300);
/// The longest wait for something outside.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows a durable until `stop`, then finishes the call it is in, settles, and returns. The handler runs in this task: it needs not be
/// `Send`, and one call is made at a time.
///
/// # Errors
/// Settings that contradict each other or those of the existing durable. Everything that may pass is waited for.
pub async fn consume<H>(durable: Durable, config: &Config, stop: Stop, handler: H) -> Result<(), StartError>
where
    H: AsyncFnMut(&[Event]) -> Result<(), Failure>,
{
    durable.check(Order::None)?;
    let client = nats::connect(config, durable.name, durable.name).await?.client;
    let metrics = Metrics::new(durable.name).ok_or_else(|| StartError::Setup(format!("{} is no name for a consumer", durable.name)))?;
    let context = jetstream::new(client.clone());
    health::set(durable.name, false, "connecting");
    let watch = durable.takes_everything().then(|| Watch::new(durable.ack_wait * 3));
    let pool = store::pool(config, &format!("chancery {} reader", durable.name)).ok();
    let suspects = Suspects::new(durable.name, config, pool.clone());
    let notes = Notes::new(durable.name, config, pool.clone());
    let mut shared = Shared {
        durable,
        config,
        context,
        stop: stop.clone(),
        oldest: Oldest::new(&metrics),
        metrics,
        pool,
        watch,
        suspects,
        notes,
        handler,
        ages: false,
        had: None,
        behind: false,
    };
    let mut failures = 0;
    let mut provisioning = Provisioning::new(config);
    while !stop.is_cancelled() {
        let started = Instant::now();
        let broken = match shared.durable.find(&shared.context, config).await {
            Ok(consumer) => {
                provisioning.is_done();
                shared.follow(&consumer).await
            }
            Err(error @ StartError::Settings { .. }) => return Err(error),
            Err(error) if provisioning.is_overdue(&error) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        let Err(error) = broken else { break };
        let error = nats::named(error, started);
        // After a while of work it is news; at once again it is the same trouble.
        failures = if started.elapsed() > EXPIRES { 0 } else { failures + 1_u32 };
        tracing::warn!(consumer.name = durable.name, %error, "subscribing again");
        health::set(durable.name, false, error);
        shared.metrics.rebuilt.inc();
        if let Some(watch) = &mut shared.watch {
            watch.restart();
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(wait(failures)) => {}
        }
    }
    shared.notes.finish().await;
    // What was acknowledged last must leave before the process does.
    if timeout(Duration::from_secs(2), client.flush()).await.is_err() {
        tracing::warn!(consumer.name = durable.name, "the last acknowledgements may come again");
    }
    Ok(())
}

/// Growing, jittered, bounded.
pub(super) fn wait(failures: u32) -> Duration {
    let ceiling = (Duration::from_millis(50) * 2_u32.pow(failures.min(10))).min(LONGEST_WAIT);
    ceiling.mul_f64(rand::random_range(0.5..=1.0))
}

pub(super) struct Shared<'a, H> {
    pub(super) durable: Durable,
    pub(super) config: &'a Config,
    pub(super) context: Context,
    pub(super) stop: Stop,
    pub(super) metrics: Metrics,
    oldest: Oldest,
    /// Where events stand that the stream does not have; none without a database.
    pub(super) pool: Option<Pool>,
    watch: Option<Watch>,
    suspects: Suspects,
    notes: Notes,
    handler: H,
    /// Whether the stream forgets by age.
    ages: bool,
    /// How far deliveries were at the last look.
    had: Option<u64>,
    /// Set when the stream has forgotten what was not delivered: the table is read before anything else.
    pub(super) behind: bool,
}

impl<H> Shared<'_, H>
where
    H: AsyncFnMut(&[Event]) -> Result<(), Failure>,
{
    /// Reads until stopped (`Ok`) or until the subscription must be made again.
    async fn follow(&mut self, consumer: &Consumer<pull::Config>) -> Result<(), String> {
        let stream = streams::get(&self.context, self.durable.stream).await?;
        if !self.feed_if_older(consumer.cached_info(), stream.cached_info()).await? {
            return Ok(());
        }
        self.notes.follow(&streams::incarnation(stream.cached_info()));
        self.ages = !stream.cached_info().config.max_age.is_zero();
        self.had = None;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(self.durable.batch)
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| error.to_string())?;
        health::set(self.durable.name, true, "following");
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let stop = self.stop.clone();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                message = messages.next() => message,
                _ = look.tick() => {
                    if self.look(consumer, heard).await? {
                        // Silence is as it should be.
                        heard = Instant::now();
                    }
                    continue;
                }
            };
            let mut taken = vec![first.ok_or("the subscription ended")?.map_err(|error| error.to_string())?];
            let broken = take_ready(&mut messages, &mut taken, self.durable.batch).await;
            self.work(taken).await;
            heard = Instant::now();
            if let Some(error) = broken {
                return Err(error);
            }
        }
        // What was read ahead goes back at once, for a replica or the next start.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            Unsettled::new(message.split().1).later(Duration::ZERO).await;
        }
        Ok(())
    }

    /// Looks at the lag, and at a silence that should not be. Whether an operator has paused it.
    async fn look(&mut self, consumer: &Consumer<pull::Config>, heard: Instant) -> Result<bool, String> {
        if let Some(watch) = &mut self.watch {
            for gap in watch.overdue(Instant::now()) {
                self.metrics.gaps.inc();
                tracing::error!(consumer.name = self.durable.name, tenant.id = %gap.tenant, from = gap.from, to = gap.to, "events are missing in the stream");
            }
        }
        let info = consumer.get_info().await.map_err(|error| error.to_string())?;
        self.metrics.lag.set(i64::try_from(info.num_pending).unwrap_or(i64::MAX));
        self.metrics.unanswered.set(i64::try_from(info.num_ack_pending).unwrap_or(i64::MAX));
        self.oldest.looked(self.metrics.lag.get(), info.ack_floor.stream_sequence);
        let full = info.num_ack_pending >= usize::try_from(self.durable.max_ack_pending).unwrap_or(usize::MAX);
        health::set(self.durable.name, true, if info.paused { "paused by an operator" } else { "following" });
        if info.num_pending > 0 && !full && !info.paused && heard.elapsed() > LOOK {
            return Err(format!("{} events are waiting and none arrives", info.num_pending));
        }
        // The server skips silently what it has forgotten while we were slow.
        let had = self.had.replace(info.delivered.stream_sequence);
        if self.ages && had.is_some() {
            let stream = streams::get(&self.context, self.durable.stream).await?;
            let stream = stream.cached_info();
            self.behind |= streams::has_forgotten(stream) && had.is_some_and(|had| had + 1 < stream.state.first_sequence);
            if self.behind {
                return Err("the stream has forgotten events while they were waited for".into());
            }
        }
        Ok(info.paused)
    }

    /// Handles and settles what was taken. Returns with messages unsettled only when stopped while waiting for something outside.
    async fn work(&mut self, taken: Vec<Message>) {
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
            let sequence = suspect.events[0].stream_sequence;
            if self.suspects.may_try(sequence).await {
                self.work_batch(&mut suspect).await;
            } else {
                self.bury_event(&mut suspect, 0, "condemned", "it ended the process whenever it was tried").await;
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
    pub(super) async fn call(&mut self, batch: &mut Batch, range: Range<usize>) -> Result<(), Failure> {
        let handling = Handling::begin(self.config.makes_spans(), &self.durable, &mut batch.events[range.clone()]);
        let result = self.call_extending(batch, range).instrument(handling.call()).await;
        handling.end(&result);
        result
    }

    async fn call_extending(&mut self, batch: &Batch, range: Range<usize>) -> Result<(), Failure> {
        let events = &batch.events[range];
        let mut work = pin!(timeout(CALL_LIMIT, (self.handler)(events)));
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
        let reason = if poison { "poison" } else { "exhausted" };
        self.bury_event(batch, place, reason, &failure.to_string()).await;
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
