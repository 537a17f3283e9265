//! What a consumer tells Prometheus.

use aggregates::registry;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, core::Collector};
use subjects::Envelope;
use time::OffsetDateTime;

/// From a millisecond to five minutes: what is later is late.
const BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// The figures of one consumer.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// By the type of the event, as the registry knows it: what it does not know is `other`, so that nobody makes names here.
    handled: IntCounterVec,
    pub(crate) failed: IntCounter,
    pub(crate) dead: IntCounter,
    pub(crate) gaps: IntCounter,
    pub(crate) rebuilt: IntCounter,
    pub(crate) lag: IntGauge,
    pub(crate) parked: IntGauge,
    latency: Histogram,
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
        let latency = HistogramOpts::new("chancery_consumer_latency_seconds", "From the event's time until it was handled.")
            .const_label("consumer", consumer)
            .buckets(BUCKETS.to_vec());
        Some(Self {
            handled: registered(IntCounterVec::new(options("handled_total", "Events handled, by type."), &["type"]))?,
            failed: counter("failed_total", "Calls that failed.")?,
            dead: counter("dead_lettered_total", "Events given up on.")?,
            gaps: counter("gaps_total", "Gaps in the sequence of a tenant that did not heal.")?,
            rebuilt: counter("rebuilt_total", "Subscriptions made again after silence or an error.")?,
            lag: gauge("lag", "Events in the stream that were not delivered yet.")?,
            parked: gauge("parked", "Events parked behind one that failed.")?,
            latency: registered(Histogram::with_opts(latency))?,
        })
    }

    /// Notes that an event is handled now.
    pub(crate) fn handled(&self, event: &Envelope) {
        let event_type = registry::event(&event.event_type).map_or("other", |entry| entry.event_type);
        self.handled.with_label_values(&[event_type]).inc();
        self.latency.observe((OffsetDateTime::now_utc() - event.timestamp).as_seconds_f64().max(0.0));
    }
}
