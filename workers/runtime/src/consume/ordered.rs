//! `Order::Aggregate`: one active owner, a position in the handler's own transaction, and queues behind events that fail.

mod work;

use std::{
    collections::HashSet,
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, Context, consumer::pull},
};
use bytes::Bytes;
use deadpool_postgres::{Pool, Transaction};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Durable, Event, Order, Start, decode,
    feed::{self, Fed},
    gap::Watch,
    lease::{self, Lease, Position},
    metrics::{Metrics, Oldest},
    notes::Notes,
    parked,
    shared::wait,
    suspects::Suspects,
};
use crate::{Config, Failure, StartError, Stop, health, nats, store, streams};

const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often parked events are looked at.
const PARKED_LOOK: Duration = Duration::from_millis(500);
/// Aggregates that may be parked at once. Beyond, the trouble is not theirs, and reading waits.
const PARKED_AGGREGATES: usize = 10_000;

/// Follows a stream in the order of each aggregate until `stop`. The handler's effects go through the transaction it is given, and are
/// committed together with the position: each event takes effect exactly once, also where the stream is created anew or has forgotten
/// events that the table still has. Within a batch the aggregates are worked on at the same time, so a call may find the effects of
/// another aggregate's events not there yet, even of the same tenant.
///
/// # Errors
/// Settings that contradict each other, or an address that cannot be read. Everything that may pass is waited for.
pub async fn consume_in_order<H>(durable: Durable, config: &Config, stop: Stop, handler: H) -> Result<(), StartError>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    durable.check(Order::Aggregate)?;
    let connection = nats::connect(config, durable.name, durable.name).await?;
    let pool = store::pool(config, &format!("chancery {}", durable.name))?;
    let metrics = Metrics::new(durable.name).ok_or_else(|| StartError::Setup(format!("{} is no name for a consumer", durable.name)))?;
    let watch = durable.takes_everything().then(|| Watch::new(Duration::from_secs(60)));
    let context = jetstream::new(connection.client.clone());
    let mut owned = Owned {
        durable,
        config,
        connection,
        context,
        pool: pool.clone(),
        stop: stop.clone(),
        oldest: Oldest::new(&metrics),
        metrics,
        notes: Notes::new(durable.name, config, Some(pool.clone())),
        suspects: Suspects::new(durable.name, config, Some(pool.clone())),
        alone: 0,
        doubted: false,
        watch,
        handler,
        lease: Lease { owner: uuid::Uuid::nil(), epoch: 0 },
        position: Position { sequence: 0, incarnation: String::new() },
        parked: HashSet::new(),
    };
    while let Some((lease, position)) = lease::acquire(&pool, &durable, config, &stop).await {
        tracing::info!(consumer.name = durable.name, epoch = lease.epoch, position = position.sequence, "consumer owned");
        owned.metrics.lease("acquired");
        owned.lease = lease;
        owned.position = position;
        owned.begin_life().await;
        let mut is_paused = false;
        let is_lost;
        tokio::select! {
            end = owned.run() => is_lost = matches!(end, End::Lost),
            over = lease::keep(&pool, durable.name, lease, config.lease) => {
                is_paused = over == lease::Over::Paused;
                is_lost = !is_paused;
                let why = if is_paused { "an operator has paused it" } else { "another owner has taken over" };
                tracing::warn!(consumer.name = durable.name, epoch = lease.epoch, "{why}");
            }
        }
        owned.metrics.lease(if is_lost { "lost" } else { "released" });
        if is_paused || stop.is_cancelled() {
            owned.end_doubt().await;
            if let Err(error) = lease::release(&pool, durable.name, lease).await {
                tracing::warn!(consumer.name = durable.name, %error, "the lease runs out by itself");
            }
        }
    }
    owned.notes.finish().await;
    Ok(())
}

/// Why reading ended.
enum End {
    Stopped,
    Lost,
}

/// A message on its way through.
#[derive(Clone)]
pub(super) struct Item {
    /// The position once it is dealt with.
    pub(super) sequence: u64,
    /// Its place in a queue, should it have to wait: that in the stream, or one before all of those.
    pub(super) place: i64,
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
    pub(super) event: Result<Event, decode::DecodeError>,
}

pub(super) struct Owned<'a, H> {
    pub(super) durable: Durable,
    pub(super) config: &'a Config,
    connection: nats::Connection,
    pub(super) context: Context,
    pub(super) pool: Pool,
    pub(super) stop: Stop,
    pub(super) metrics: Metrics,
    oldest: Oldest,
    pub(super) notes: Notes,
    pub(super) suspects: Suspects,
    /// So many events are still tried alone, each noted before: owners before this one have ended among them.
    alone: usize,
    /// Whether this life is counted as one that came no further.
    doubted: bool,
    watch: Option<Watch>,
    pub(super) handler: H,
    pub(super) lease: Lease,
    pub(super) position: Position,
    pub(super) parked: HashSet<String>,
}

impl<H> Owned<'_, H>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// Reads until stopped or until the lease is lost.
    async fn run(&mut self) -> End {
        let mut failures = 0;
        loop {
            let (before, started) = (self.position.sequence, Instant::now());
            let error = match self.read().await {
                Ok(end) => return end,
                Err(error) => nats::named(error, started),
            };
            failures = if self.position.sequence > before { 0 } else { failures + 1_u32 };
            tracing::warn!(consumer.name = self.durable.name, position = self.position.sequence, %error, "reading again");
            health::set(self.durable.name, false, error);
            self.metrics.rebuilt.inc();
            tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                () = sleep(wait(failures)) => {}
            }
        }
    }

    /// Reads through one ephemeral consumer, from the committed position on, until it breaks.
    async fn read(&mut self) -> Result<End, String> {
        self.position = lease::position(&self.pool, self.durable.name).await?;
        self.parked = parked::aggregates(&self.pool, self.durable.name).await?;
        if let Some(watch) = &mut self.watch {
            watch.restart();
        }
        let life = self.connection.life();
        let stream = streams::get(&self.context, self.durable.stream).await?;
        let info = stream.cached_info();
        if self.place(info).await? {
            // Until it is done the position names the life before: whoever is interrupted begins again, and the marks know what is done.
            self.metrics.feeding.set(1);
            let fed = self.feed().await;
            self.metrics.feeding.set(0);
            match fed? {
                Fed::Everything => self.position.sequence = self.position.sequence.max(info.state.first_sequence.saturating_sub(1)),
                Fed::Lost => return Ok(End::Lost),
                Fed::Stopped => return Ok(End::Stopped),
            }
        }
        let incarnation = streams::incarnation(info);
        self.notes.follow(&incarnation);
        if self.position.incarnation != incarnation {
            self.position.incarnation = incarnation;
            // At once: what comes from now on is wanted, whenever the next start is.
            if !lease::place(&self.pool, self.durable.name, self.lease, &self.position).await? {
                return Ok(End::Lost);
            }
        }
        let consumer = streams::reader(&stream, self.durable.reader(self.position.sequence)).await?;
        let ages = !info.config.max_age.is_zero();
        let end = self.follow(&consumer, life, ages).await;
        // One that is out of reach ends by its inactivity limit.
        if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
            tracing::trace!(%error, "reader not deleted");
        }
        end
    }

    /// Compares the position with the stream's present life. Returns whether events that are wanted are not in it (any more).
    async fn place(&mut self, info: &jetstream::stream::Info) -> Result<bool, String> {
        let incarnation = streams::incarnation(info);
        let state = &info.state;
        let is_new = self.position.incarnation.is_empty();
        if is_new {
            self.position.sequence = if self.durable.start == Start::New { state.last_sequence } else { 0 };
            if self.durable.start == Start::New && self.durable.stream == subjects::stream::EVENTS {
                // After the stream was looked at: whatever is decided from here on is behind that place, too.
                feed::begin(&self.pool, self.durable.name).await?;
            }
        }
        let truncated = !is_new && self.position.incarnation == incarnation && self.position.sequence > state.last_sequence;
        let other_life = !is_new && (self.position.incarnation != incarnation || truncated);
        if other_life {
            tracing::error!(
                consumer.name = self.durable.name,
                stream = self.durable.stream,
                "the stream was created anew or truncated: reading it from its first message"
            );
            self.metrics.gaps.inc();
            self.position.sequence = 0;
        }
        if self.durable.stream != subjects::stream::EVENTS {
            return Ok(false);
        }
        let forgotten = streams::has_forgotten(info) && self.position.sequence + 1 < state.first_sequence;
        if forgotten {
            tracing::warn!(
                consumer.name = self.durable.name,
                position = self.position.sequence,
                first = state.first_sequence,
                "the stream has forgotten events that were not handled"
            );
        }
        // A life that was built anew from the table has all of it, and is read like any other.
        let begins = truncated || if is_new { self.durable.start == Start::All } else { other_life };
        Ok(forgotten || begins && (truncated || feed::is_older(&self.pool, &incarnation).await?))
    }

    async fn follow(&mut self, consumer: &jetstream::consumer::Consumer<pull::Config>, mut life: nats::Life, ages: bool) -> Result<End, String> {
        let ahead = usize::try_from(self.durable.max_ack_pending).unwrap_or(usize::MAX).max(self.durable.batch);
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(ahead)
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| error.to_string())?;
        health::set(self.durable.name, true, "following");
        let mut look = interval(PARKED_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut expected = 1;
        let mut over = pin!(life.over());
        let stop = self.stop.clone();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(End::Stopped),
                _ = look.tick() => {
                    if !self.retry_parked().await? {
                        return Ok(End::Lost);
                    }
                    continue;
                }
                message = messages.next(), if self.parked.len() < PARKED_AGGREGATES => message,
                // What was on its way is lost, and where it was the last there is, no gap shows.
                () = &mut over => return Err("the connection broke".into()),
            };
            let mut items = vec![self.item(first.ok_or("the subscription ended")?.map_err(|error| error.to_string())?, &mut expected)?];
            let mut broken = None;
            while items.len() < self.durable.batch && broken.is_none() {
                match tokio::task::unconstrained(messages.next()).now_or_never() {
                    None => break,
                    Some(Some(Ok(message))) => match self.item(message, &mut expected) {
                        Ok(item) => items.push(item),
                        Err(error) => broken = Some(error),
                    },
                    Some(Some(Err(error))) => broken = Some(error.to_string()),
                    Some(None) => broken = Some("the subscription ended".to_owned()),
                }
            }
            // The server skips silently what it has forgotten while we were slow. Nothing after it may be handled before it.
            let mut before = self.position.sequence;
            let skips = items.iter().any(|item| item.sequence > std::mem::replace(&mut before, item.sequence) + 1);
            if ages && skips {
                let stream = streams::get(&self.context, self.durable.stream).await?;
                if streams::has_forgotten(stream.cached_info()) && self.position.sequence + 1 < stream.cached_info().state.first_sequence {
                    return Err("the stream has forgotten events while they were waited for".into());
                }
            }
            self.oldest.begin();
            if !self.work(&items).await? {
                return Ok(End::Lost);
            }
            self.oldest.done(self.metrics.lag.get());
            if let Some(error) = broken {
                return Err(error);
            }
        }
    }

    /// Reads a message. A hole in the reader's own sequence means that one was lost on the way.
    fn item(&mut self, message: jetstream::Message, expected: &mut u64) -> Result<Item, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, place, pending) = (info.stream_sequence, info.consumer_sequence, info.pending);
        if place != *expected {
            return Err(format!("a gap in the reader's sequence: {expected} expected, {place} found"));
        }
        *expected += 1;
        self.metrics.lag.set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.oldest.read(info.published);
        let (message, _) = message.split();
        let headers = message.headers.unwrap_or_default();
        let event = decode::envelope(&message.subject, &message.payload).map(|envelope| Event {
            envelope,
            stream_sequence: sequence,
            delivered: 1,
            consumer_sequence: place,
            headers: headers.clone(),
            handling: None,
        });
        if let (Some(watch), Ok(event)) = (&mut self.watch, &event) {
            watch.see(place, event.is_late(), event.envelope.tenant_id, event.envelope.sequence, Instant::now());
            for gap in watch.overdue(Instant::now()) {
                self.metrics.gaps.inc();
                tracing::error!(consumer.name = self.durable.name, tenant.id = %gap.tenant, from = gap.from, to = gap.to, "events are missing in the stream");
            }
        }
        let place = i64::try_from(sequence).unwrap_or(i64::MAX);
        Ok(Item { sequence, place, subject: message.subject.to_string(), headers, payload: message.payload, event })
    }
}
