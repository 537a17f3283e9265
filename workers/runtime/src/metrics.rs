//! Metrics in Prometheus' default registry, made from literals. One that cannot be registered is logged and counts for nobody; it never
//! ends the process.

use prometheus::{HistogramOpts, core::Collector};

/// Only rises.
pub struct Counter(Option<prometheus::IntCounter>);
/// Rises and falls.
pub struct Gauge(Option<prometheus::IntGauge>);
/// How values spread.
pub struct Histogram(Option<prometheus::Histogram>);

fn registered<C: Collector + Clone + 'static>(made: prometheus::Result<C>) -> Option<C> {
    let registered = made.and_then(|collector| prometheus::register(Box::new(collector.clone())).map(|()| collector));
    registered.inspect_err(|error| tracing::error!(%error, "a metric cannot be registered")).ok()
}

/// A counter.
pub fn counter(name: &str, help: &str) -> Counter {
    Counter(registered(prometheus::IntCounter::new(name, help)))
}

/// A gauge.
pub fn gauge(name: &str, help: &str) -> Gauge {
    Gauge(registered(prometheus::IntGauge::new(name, help)))
}

/// A histogram with these upper bounds.
pub fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    Histogram(registered(prometheus::Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))))
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
}

impl Histogram {
    /// One value.
    pub fn observe(&self, value: f64) {
        if let Some(histogram) = &self.0 {
            histogram.observe(value);
        }
    }
}
