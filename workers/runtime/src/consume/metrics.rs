//! What a consumer tells Prometheus.

use std::{collections::BTreeMap, time::Instant};

use aggregates::registry;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, core::Collector};
use subjects::Envelope;
use time::OffsetDateTime;

use crate::{
    Failure,
    metrics::{BATCH, SECONDS, Since},
};

/// From a millisecond to five minutes: what is later is late.
const BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
/// Why events are given up on.
const REASONS: [&str; 5] = ["undecodable", "mismatch", "poison", "exhausted", "condemned"];
/// What a lease does.
const CHANGES: [&str; 3] = ["acquired", "lost", "released"];
/// Events that are to be tried later, remembered with their time at most: more than may be unanswered.
const DELAYED: usize = 10_000;

/// The figures of one consumer.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// By the type of the event, as the registry knows it: what it does not know is `other`, so that nobody makes names here.
    handled: IntCounterVec,
    failed: IntCounterVec,
    dead: IntCounterVec,
    leases: IntCounterVec,
    pub(crate) redelivered: IntCounter,
    pub(crate) gaps: IntCounter,
    pub(crate) rebuilt: IntCounter,
    pub(crate) lag: IntGauge,
    pub(crate) unanswered: IntGauge,
    pub(crate) parked: IntGauge,
    pub(crate) feeding: IntGauge,
    oldest: Since,
    latency: Histogram,
    handling: Histogram,
    batch: Histogram,
}

fn registered<C: Collector + Clone + 'static>(made: prometheus::Result<C>) -> Option<C> {
    let collector = made.inspect_err(|error| tracing::error!(%error, "a metric cannot be made")).ok()?;
    if let Err(error) = prometheus::register(Box::new(collector.clone())) {
        tracing::debug!(%error, "a metric counts without being shown");
    }
    Some(collector)
}

impl Metrics {
    /// Registers them. `None` only if the names were no metric names.
    pub(crate) fn new(consumer: &str) -> Option<Self> {
        let options = |name: &str, help: &str| Opts::new(format!("chancery_consumer_{name}"), help).const_label("consumer", consumer);
        let counter = |name: &str, help: &str| registered(IntCounter::with_opts(options(name, help)));
        let gauge = |name: &str, help: &str| registered(IntGauge::with_opts(options(name, help)));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let name = format!("chancery_consumer_{name}");
            registered(Histogram::with_opts(HistogramOpts::new(name, help).const_label("consumer", consumer).buckets(buckets.to_vec())))
        };
        // What can be known beforehand is shown before it happens.
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let family = registered(IntCounterVec::new(options(name, help), &[label]))?;
            values.iter().for_each(|value| drop(family.with_label_values(&[value])));
            Some(family)
        };
        Some(Self {
            handled: counters("handled_total", "Events handled, by type.", "type", &[])?,
            failed: counters("failed_total", "Calls that failed.", "failure", &["outage", "retry", "poison"])?,
            dead: counters("dead_lettered_total", "Events given up on.", "reason", &REASONS)?,
            leases: counters("lease_changes_total", "Leases of a consumer in order that came to this process or left it.", "change", &CHANGES)?,
            redelivered: counter("redelivered_total", "Events delivered again.")?,
            gaps: counter("gaps_total", "Gaps in the sequence of a tenant that did not heal.")?,
            rebuilt: counter("rebuilt_total", "Subscriptions made again after silence or an error.")?,
            lag: gauge("lag", "Events in the stream that were not delivered yet.")?,
            unanswered: gauge("unanswered", "Events delivered and not acknowledged, at all replicas.")?,
            parked: gauge("parked", "Aggregates with events that wait behind one that failed.")?,
            feeding: gauge("feeding", "1 while events are read from the table that the stream does not have.")?,
            oldest: registered(Since::new(options(
                "oldest_age_seconds",
                "For how long the oldest event that is not handled has been in the stream.",
            )))?,
            latency: histogram("latency_seconds", "From the event's time until it was handled.", &BUCKETS)?,
            handling: histogram("handling_seconds", "A call of the function, or in order a transaction with its calls.", &SECONDS)?,
            batch: histogram("batch_events", "Events of a call, or in order of a transaction.", &BATCH)?,
        })
    }

    /// Notes that an event is handled now.
    pub(crate) fn handled(&self, event: &Envelope) {
        let event_type = registry::event(&event.event_type).map_or("other", |entry| entry.event_type);
        self.handled.with_label_values(&[event_type]).inc();
        self.latency.observe((OffsetDateTime::now_utc() - event.timestamp).as_seconds_f64().max(0.0));
    }

    /// A call, or in order a transaction, with so many events is over.
    pub(crate) fn called(&self, events: usize, begun: Instant) {
        self.handling.observe(begun.elapsed().as_secs_f64());
        self.batch.observe(events as f64);
    }

    /// A call has failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.failed.with_label_values(&[failure.kind()]).inc();
    }

    /// An event is given up on. Its reason is one of ours.
    pub(crate) fn dead(&self, reason: &str) {
        if let Some(known) = REASONS.iter().find(|known| **known == reason) {
            self.dead.with_label_values(&[known]).inc();
        }
    }

    /// A lease came or went; one of [`CHANGES`].
    pub(crate) fn lease(&self, change: &'static str) {
        self.leases.with_label_values(&[change]).inc();
    }
}

/// The times of what is not handled, as far as this process has seen it: what it has in hand, what is to be tried later, and, while more
/// waits in the stream, what was handled last. It is written to the age once a batch.
#[derive(Debug)]
pub(crate) struct Oldest {
    shown: Since,
    in_hand: Option<OffsetDateTime>,
    last: Option<OffsetDateTime>,
    /// By their place in the stream.
    delayed: BTreeMap<u64, OffsetDateTime>,
    waiting_since: Option<OffsetDateTime>,
}

impl Oldest {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self { shown: metrics.oldest.clone(), in_hand: None, last: None, delayed: BTreeMap::new(), waiting_since: None }
    }

    /// An event is here that the server stored then.
    pub(crate) fn read(&mut self, stored: OffsetDateTime) {
        self.in_hand = Some(self.in_hand.map_or(stored, |oldest| oldest.min(stored)));
        self.last = Some(stored);
    }

    /// What was read is worked on now.
    pub(crate) fn begin(&mut self) {
        self.show(self.in_hand);
    }

    /// An event of what is in hand is to be tried later.
    pub(crate) fn delay(&mut self, place: u64) {
        if let (true, Some(since)) = (self.delayed.len() < DELAYED, self.in_hand) {
            self.delayed.entry(place).or_insert(since);
        }
    }

    /// An event that may have been delayed is settled.
    pub(crate) fn settled(&mut self, place: u64) {
        if !self.delayed.is_empty() {
            self.delayed.remove(&place);
        }
    }

    /// What was read is done with, and so many events wait in the stream.
    pub(crate) fn done(&mut self, pending: i64) {
        self.in_hand = None;
        // What comes next is no older than what came last.
        self.waiting_since = self.last.filter(|_| pending > 0);
        self.show(self.waiting_since);
    }

    /// Looked at from outside: so many wait, and everything up to a place is settled, by whichever replica.
    pub(crate) fn looked(&mut self, pending: i64, settled: u64) {
        self.delayed = self.delayed.split_off(&(settled + 1));
        self.waiting_since = if pending > 0 { self.waiting_since.or_else(|| Some(OffsetDateTime::now_utc())) } else { None };
        self.show(self.waiting_since);
    }

    fn show(&self, other: Option<OffsetDateTime>) {
        self.shown.set(self.delayed.values().copied().chain(other).min());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;

    use super::*;

    fn age(oldest: &Oldest) -> f64 {
        oldest.shown.collect()[0].get_metric()[0].get_gauge().get_value()
    }

    fn hours_ago(hours: i64) -> OffsetDateTime {
        OffsetDateTime::now_utc() - time::Duration::hours(hours)
    }

    #[test]
    fn the_oldest_is_what_is_in_hand_or_delayed_or_still_in_the_stream() {
        let mut oldest = Oldest::new(&Metrics::new("oldest-test").unwrap());
        let about = |oldest: &Oldest, hours: i64| (age(oldest) / 3_600.0).round() as i64 == hours;
        assert_eq!(age(&oldest), 0.0);
        oldest.read(hours_ago(5));
        oldest.read(hours_ago(4));
        oldest.begin();
        assert!(about(&oldest, 5));
        // The second is to come again; more waits, and is no older than what came last.
        oldest.delay(12);
        oldest.done(3);
        assert!(about(&oldest, 5), "a delayed one counts from when its batch began");
        oldest.settled(12);
        oldest.done(3);
        assert!(about(&oldest, 4));
        oldest.looked(0, 12);
        assert_eq!(age(&oldest), 0.0);
    }

    #[test]
    fn what_another_replica_has_settled_is_not_waited_for() {
        let mut oldest = Oldest::new(&Metrics::new("oldest-test-replica").unwrap());
        oldest.read(hours_ago(2));
        oldest.delay(7);
        oldest.done(0);
        oldest.looked(0, 6);
        assert!(age(&oldest) > 0.0);
        oldest.looked(0, 7);
        assert_eq!(age(&oldest), 0.0);
        // Paused from the start: nobody knows since when it waits, but from now on it does.
        oldest.looked(5, 7);
        oldest.waiting_since = oldest.waiting_since.map(|since| since - time::Duration::hours(1));
        oldest.looked(5, 7);
        assert!(age(&oldest) >= 3_600.0);
    }
}
