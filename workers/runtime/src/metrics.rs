//! Metrics in Prometheus' default registry, made from literals. One that cannot be registered is logged and counts for nobody; it never
//! ends the process.
//!
//! What a label can be is known when it is made: each value is a metric of its own from then on, so that counting is an addition to an
//! atomic, without a look-up, a lock or an allocation, and a value that was never counted is shown as 0.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use time::OffsetDateTime;

/// Upper bounds for what takes between a tenth of a millisecond and a minute, in seconds.
pub const SECONDS: [f64; 18] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds for how many there are in a batch.
pub const BATCH: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];
/// The stages that a command passes on its way, one histogram for all roles.
pub const STAGES: &str = "chancery_command_stage_seconds";
/// What [`STAGES`] is.
pub const STAGES_HELP: &str = "How long the stages of commands took: accept, queue and outcome once a command, the others once a batch.";

/// Only rises.
pub struct Counter(Option<prometheus::IntCounter>);
/// Rises and falls.
pub struct Gauge(Option<prometheus::IntGauge>);
/// How values spread.
pub struct Histogram(Option<prometheus::Histogram>);
/// How long ago something began.
pub struct Age(Option<Since>);

fn registered<C: Collector + Clone + 'static>(made: prometheus::Result<C>) -> Option<C> {
    let registered = made.and_then(|collector| prometheus::register(Box::new(collector.clone())).map(|()| collector));
    registered.inspect_err(|error| tracing::error!(%error, "a metric cannot be registered")).ok()
}

/// A counter.
pub fn counter(name: &str, help: &str) -> Counter {
    Counter(registered(prometheus::IntCounter::new(name, help)))
}

/// Counters of one name, one for each value of a label, in that order.
pub fn counters<const N: usize>(name: &str, help: &str, label: &str, values: [&str; N]) -> [Counter; N] {
    let family = registered(IntCounterVec::new(Opts::new(name, help), &[label]));
    values.map(|value| Counter(family.as_ref().map(|family| family.with_label_values(&[value]))))
}

/// A gauge.
pub fn gauge(name: &str, help: &str) -> Gauge {
    Gauge(registered(prometheus::IntGauge::new(name, help)))
}

/// Gauges of one name, one for each value of a label, in that order.
pub fn gauges<const N: usize>(name: &str, help: &str, label: &str, values: [&str; N]) -> [Gauge; N] {
    let family = registered(IntGaugeVec::new(Opts::new(name, help), &[label]));
    values.map(|value| Gauge(family.as_ref().map(|family| family.with_label_values(&[value]))))
}

/// A histogram with these upper bounds.
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    Histogram(registered(prometheus::Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))))
}

/// Histograms of one name, one for each value of a label, in that order.
pub fn histograms<const N: usize>(name: &str, help: &str, label: &str, values: [&str; N], buckets: &[f64]) -> [Histogram; N] {
    let family = registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &[label]));
    values.map(|value| Histogram(family.as_ref().map(|family| family.with_label_values(&[value]))))
}

/// An age in seconds.
pub fn age(name: &str, help: &str) -> Age {
    Age(registered(Since::new(Opts::new(name, help))))
}

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// So many more.
    pub fn inc_by(&self, count: u64) {
        if let Some(counter) = &self.0 {
            counter.inc_by(count);
        }
    }
}

impl Gauge {
    /// It is so much now.
    pub fn set(&self, value: i64) {
        if let Some(gauge) = &self.0 {
            gauge.set(value);
        }
    }

    /// The same for what is counted without a sign.
    pub fn set_count(&self, value: u64) {
        self.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

impl Histogram {
    /// One value.
    pub fn observe(&self, value: f64) {
        if let Some(histogram) = &self.0 {
            histogram.observe(value);
        }
    }

    /// A time that it took.
    pub fn took(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// The time since then; returns the present one, from which the next is counted.
    pub fn lap(&self, since: Instant) -> Instant {
        let now = Instant::now();
        self.took(now.duration_since(since));
        now
    }
}

impl Age {
    /// It began then; none when there is nothing of the kind now.
    pub fn set(&self, since: Option<OffsetDateTime>) {
        if let Some(age) = &self.0 {
            age.set(since);
        }
    }
}

/// The seconds since a moment, 0 for none. They are counted when somebody asks, so that they grow though nobody works any more.
#[derive(Debug, Clone)]
pub(crate) struct Since {
    /// In milliseconds since 1970; 0 for none.
    moment: Arc<AtomicI64>,
    shown: prometheus::Gauge,
}

impl Since {
    pub(crate) fn new(options: Opts) -> prometheus::Result<Self> {
        Ok(Self { moment: Arc::default(), shown: prometheus::Gauge::with_opts(options)? })
    }

    pub(crate) fn set(&self, since: Option<OffsetDateTime>) {
        self.moment.store(since.map_or(0, millis), Ordering::Relaxed);
    }
}

/// Milliseconds since 1970, never 0.
fn millis(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).max(1)
}

impl Collector for Since {
    fn desc(&self) -> Vec<&Desc> {
        self.shown.desc()
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds for people and alarms")]
    fn collect(&self) -> Vec<MetricFamily> {
        let moment = self.moment.load(Ordering::Relaxed);
        // Of clocks that differ the slower one counts nothing.
        let age = if moment == 0 { 0 } else { (millis(OffsetDateTime::now_utc()) - moment).max(0) };
        self.shown.set(age as f64 / 1_000.0);
        self.shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_grows_while_nobody_sets_it_and_is_nothing_without_a_beginning() {
        let since = Since::new(Opts::new("test_age_seconds", "An age.")).unwrap();
        let shown = || since.collect()[0].get_metric()[0].get_gauge().get_value();
        assert_eq!(shown(), 0.0);
        since.set(Some(OffsetDateTime::now_utc() - time::Duration::minutes(2)));
        let first = shown();
        assert!(first >= 120.0, "{first}");
        while shown() <= first {
            std::thread::yield_now();
        }
        since.set(Some(OffsetDateTime::now_utc() + time::Duration::hours(1)));
        assert_eq!(shown(), 0.0, "what comes from a faster clock is not negative");
        since.set(None);
        assert_eq!(shown(), 0.0);
    }

    #[test]
    fn a_label_that_was_never_counted_is_shown() {
        let [_first, second] = counters("test_labelled_total", "Counted.", "which", ["first", "second"]);
        second.inc();
        let family = prometheus::gather().into_iter().find(|family| family.name() == "test_labelled_total").unwrap();
        let values: Vec<f64> = family.get_metric().iter().map(|metric| metric.get_counter().get_value()).collect();
        assert_eq!(values, [0.0, 1.0]);
    }
}
