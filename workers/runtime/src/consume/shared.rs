//! `Order::None`: replicas share one durable with explicit acknowledgements.

mod work;

use std::time::{Duration, Instant};

use async_nats::jetstream::{
    self, Context,
    consumer::{Consumer, pull},
};
use deadpool_postgres::Pool;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{
    Durable, Event, Order,
    gap::Watch,
    metrics::{Metrics, Oldest},
    notes::Notes,
    progress::Unsettled,
    pull::take_ready,
    suspects::Suspects,
};
use crate::{
    Config, Failure, StartError, Stop, health, nats, store,
    streams::{self, Provisioning},
};

/// How long a pull request stays at the server.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server shows life this often; two silent ones and the subscription is made again.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often lag and gaps are looked at.
const LOOK: Duration = Duration::from_secs(10);
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
}
