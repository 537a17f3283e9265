//! `Order::Aggregate`: one active owner, a position in the handler's own transaction, and queues behind events that fail.

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
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::Instrument;

use super::{
    Durable, Event, Order, Start, decode,
    gap::Watch,
    lease::{self, Lease, Position},
    metrics::Metrics,
    parked::{self, Waiting},
    shared::{named, wait},
    trace,
};
use crate::{Config, Failure, StartError, Stop, failpoint, health, nats, store, store::describe, streams};

const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often parked events are looked at.
const PARKED_LOOK: Duration = Duration::from_millis(500);
/// Aggregates that may be parked at once. Beyond, the trouble is not theirs, and reading waits.
const PARKED_AGGREGATES: usize = 10_000;
/// Tries at once before an event is parked, and the waits between them.
const QUICK: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// A call that takes longer has failed.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Follows a stream in the order of each aggregate until `stop`. The handler's effects go through the transaction it is given, and are
/// committed together with the position: each event takes effect exactly once.
///
/// # Errors
/// Settings that contradict each other, or an address that cannot be read. Everything that may pass is waited for.
pub async fn consume_in_order<H>(durable: Durable, config: &Config, stop: Stop, handler: H) -> Result<(), StartError>
where
    H: AsyncFnMut(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    durable.check(Order::Aggregate)?;
    let connection = nats::connect(config, durable.name, &format!("_INBOX_{}", durable.name)).await?;
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
        metrics,
        watch,
        handler,
        lease: Lease { owner: uuid::Uuid::nil(), epoch: 0 },
        position: Position { sequence: 0, incarnation: String::new() },
        parked: HashSet::new(),
    };
    while let Some((lease, position)) = lease::acquire(&pool, &durable, config, &stop).await {
        tracing::info!(consumer.name = durable.name, epoch = lease.epoch, position = position.sequence, "consumer owned");
        owned.lease = lease;
        owned.position = position;
        tokio::select! {
            () = owned.run() => {}
            () = lease::keep(&pool, durable.name, lease, config.lease) => {
                tracing::warn!(consumer.name = durable.name, epoch = lease.epoch, "another owner has taken over");
            }
        }
        if stop.is_cancelled()
            && let Err(error) = lease::release(&pool, durable.name, lease).await
        {
            tracing::warn!(consumer.name = durable.name, %error, "the lease runs out by itself");
        }
    }
    Ok(())
}

/// Why work on a batch did not come to its end.
pub(super) enum Trouble {
    /// The handler failed.
    Failed(Failure),
    /// The lease is another's.
    Lost,
    /// The database; a COMMIT may or may not have happened.
    Database(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(describe(&error))
    }
}

/// Why reading ended.
enum End {
    Stopped,
    Lost,
}

/// A message on its way through.
pub(super) struct Item {
    pub(super) sequence: u64,
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
    event: Result<Event, decode::DecodeError>,
}

pub(super) struct Owned<'a, H> {
    pub(super) durable: Durable,
    pub(super) config: &'a Config,
    connection: nats::Connection,
    pub(super) context: Context,
    pub(super) pool: Pool,
    stop: Stop,
    pub(super) metrics: Metrics,
    watch: Option<Watch>,
    pub(super) handler: H,
    pub(super) lease: Lease,
    position: Position,
    pub(super) parked: HashSet<String>,
}

impl<H> Owned<'_, H>
where
    H: AsyncFnMut(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// Reads until stopped or until the lease is lost.
    async fn run(&mut self) {
        let mut failures = 0;
        loop {
            let (before, started) = (self.position.sequence, Instant::now());
            let error = match self.read().await {
                Ok(End::Stopped | End::Lost) => return,
                Err(error) => named(error, started),
            };
            failures = if self.position.sequence > before { 0 } else { failures + 1_u32 };
            tracing::warn!(consumer.name = self.durable.name, position = self.position.sequence, %error, "reading again");
            health::set(self.durable.name, false, error);
            self.metrics.rebuilt.inc();
            tokio::select! {
                () = self.stop.cancelled() => return,
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
        let stream = self.context.get_stream(self.durable.stream).await.map_err(|error| error.to_string())?;
        self.place(stream.cached_info());
        let consumer = stream.create_consumer(self.durable.reader(self.position.sequence)).await.map_err(|error| error.to_string())?;
        let end = self.follow(&consumer, life).await;
        // One that is out of reach ends by its inactivity limit.
        if let Err(error) = stream.delete_consumer(&consumer.cached_info().name).await {
            tracing::trace!(%error, "reader not deleted");
        }
        end
    }

    /// Compares the position with the stream's present life.
    fn place(&mut self, info: &jetstream::stream::Info) {
        let incarnation = streams::incarnation(info);
        let state = &info.state;
        if self.position.incarnation.is_empty() {
            self.position.sequence = if self.durable.start == Start::New { state.last_sequence } else { 0 };
        } else if self.position.incarnation != incarnation || self.position.sequence > state.last_sequence {
            tracing::error!(
                consumer.name = self.durable.name,
                stream = self.durable.stream,
                "the stream was created anew or truncated: reading it from its first message"
            );
            self.metrics.gaps.inc();
            self.position.sequence = 0;
        } else if state.messages > 0 && self.position.sequence + 1 < state.first_sequence {
            tracing::error!(
                consumer.name = self.durable.name,
                position = self.position.sequence,
                first = state.first_sequence,
                "the stream has forgotten events that were not handled"
            );
            self.metrics.gaps.inc();
        }
        self.position.incarnation = incarnation;
    }

    async fn follow(&mut self, consumer: &jetstream::consumer::Consumer<pull::Config>, mut life: nats::Life) -> Result<End, String> {
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
            if !self.work(&items).await? {
                return Ok(End::Lost);
            }
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
        let (message, _) = message.split();
        let headers = message.headers.unwrap_or_default();
        let event = decode::envelope(&message.subject, &message.payload).map(|envelope| Event {
            envelope,
            stream_sequence: sequence,
            delivered: 1,
            headers: headers.clone(),
        });
        if let (Some(watch), Ok(event)) = (&mut self.watch, &event) {
            watch.see(place, 1, event.envelope.tenant_id, event.envelope.sequence, Instant::now());
            for gap in watch.overdue(Instant::now()) {
                self.metrics.gaps.inc();
                tracing::error!(consumer.name = self.durable.name, tenant.id = %gap.tenant, from = gap.from, to = gap.to, "events are missing in the stream");
            }
        }
        Ok(Item { sequence, subject: message.subject.to_string(), headers, payload: message.payload, event })
    }

    /// Handles items in order: together first, one by one when that fails. False when the lease is lost.
    async fn work(&mut self, items: &[Item]) -> Result<bool, String> {
        match self.together(items, None).await {
            Ok(()) => return Ok(true),
            Err(Trouble::Lost) => return Ok(false),
            Err(Trouble::Database(error)) => return Err(error),
            Err(Trouble::Failed(_)) => {}
        }
        for item in items {
            if !self.alone(item).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn alone(&mut self, item: &Item) -> Result<bool, String> {
        let one = std::slice::from_ref(item);
        let mut quick = QUICK.iter();
        let mut outages = 0;
        loop {
            let failure = match self.together(one, None).await {
                Ok(()) => return Ok(true),
                Err(Trouble::Lost) => return Ok(false),
                Err(Trouble::Database(error)) => return Err(error),
                Err(Trouble::Failed(failure)) => failure,
            };
            self.metrics.failed.inc();
            match (&failure, quick.next()) {
                (Failure::Outage(error), _) => {
                    outages += 1;
                    quick = QUICK.iter();
                    tracing::warn!(consumer.name = self.durable.name, %error, "waiting for something outside");
                    tokio::select! {
                        // Nothing is lost: the position stands before this event.
                        () = self.stop.cancelled() => return Err("stopped while waiting for something outside".into()),
                        () = sleep(wait(outages)) => {}
                    }
                }
                (Failure::Retry(_), Some(pause)) => sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await,
                _ => match self.together(one, Some(&failure)).await {
                    Ok(()) => return Ok(true),
                    Err(Trouble::Lost) => return Ok(false),
                    Err(Trouble::Database(error)) => return Err(error),
                    Err(Trouble::Failed(failure)) => return Err(failure.to_string()),
                },
            }
        }
    }

    /// One transaction: effects (or queues) and the position. `parking` puts the one item aside instead of handling it.
    async fn together(&mut self, items: &[Item], parking: Option<&Failure>) -> Result<(), Trouble> {
        let Some(last) = items.last() else { return Ok(()) };
        let mut client = self.pool.get().await.map_err(|error| Trouble::Database(error.to_string()))?;
        let transaction = client.transaction().await?;
        let mut newly_parked = HashSet::new();
        for item in items {
            let event = match &item.event {
                Ok(event) => event,
                Err(error) => {
                    self.bury_undecodable(item, error).await.map_err(Trouble::Database)?;
                    continue;
                }
            };
            let key = event.aggregate_key();
            let body = String::from_utf8_lossy(&item.payload);
            if let Some(failure) = parking {
                let poison = matches!(failure, Failure::Poison(_));
                let error = failure.to_string();
                tracing::warn!(consumer.name = self.durable.name, event.id = %event.envelope.id, event.r#type = event.envelope.event_type, %error, "parked");
                let delay = if poison { Duration::ZERO } else { self.durable.delay(1) };
                parked::park(&transaction, self.durable.name, event, &body, Waiting { attempts: 1, delay, error: &error }).await?;
                newly_parked.insert(key);
            } else if self.parked.contains(&key) {
                let waiting = Waiting { attempts: 0, delay: Duration::ZERO, error: "waits behind an earlier event" };
                parked::park(&transaction, self.durable.name, event, &body, waiting).await?;
            } else {
                let span = trace::span(self.durable.name, self.durable.stream, std::slice::from_ref(event));
                let call = timeout(CALL_LIMIT, (self.handler)(&transaction, event)).instrument(span).await;
                let result = call.unwrap_or_else(|_| Err(Failure::retry(format!("it took longer than {} s", CALL_LIMIT.as_secs()))));
                if let Err(failure) = result {
                    if transaction.client().is_closed() {
                        return Err(Trouble::Database(failure.to_string()));
                    }
                    return Err(Trouble::Failed(failure));
                }
            }
        }
        let position = Position { sequence: last.sequence, incarnation: self.position.incarnation.clone() };
        if !lease::advance(&transaction, self.durable.name, self.lease, &position).await? {
            return Err(Trouble::Lost);
        }
        failpoint::hit("consumer_before_commit");
        // With an unknown end the position is read again before anything is repeated.
        transaction.commit().await?;
        failpoint::hit("consumer_committed");
        self.position = position;
        for event in items.iter().filter_map(|item| item.event.as_ref().ok()) {
            if !self.parked.contains(&event.aggregate_key()) && !newly_parked.contains(&event.aggregate_key()) {
                self.metrics.handled(event.envelope.timestamp);
            }
        }
        self.parked.extend(newly_parked);
        self.metrics.parked.set(i64::try_from(self.parked.len()).unwrap_or(i64::MAX));
        Ok(())
    }
}
