//! What is counted: requests by route template and status, and what becomes of commands. No tenant, no principal.

use std::{sync::LazyLock, time::Duration};

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, TextEncoder,
    core::{AtomicU64, GenericCounter},
};
use runtime::metrics::{self, Counter, Histogram, SECONDS, STAGES, STAGES_HELP};

use crate::policy::Policy;

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What the sender of commands counts.
pub(crate) struct Sending {
    /// From the first try until a command is stored, however many it takes.
    pub(crate) accept: Histogram,
    /// From then until its outcome is heard.
    pub(crate) outcome: Histogram,
    /// Commands whose outcome was told.
    pub(crate) decided: Counter,
    /// Commands that are stored, and whose outcome did not come in time.
    pub(crate) pending: Counter,
    /// Commands that are stored, and whose outcome nobody wanted to wait for.
    pub(crate) unwaited: Counter,
    /// Commands that COMMANDS had no room for.
    pub(crate) full: Counter,
    /// Commands that are surely not stored.
    pub(crate) not_accepted: Counter,
    /// Commands of which nobody knows whether they are stored.
    pub(crate) unknown: Counter,
}

/// See [`Sending`].
pub(crate) static SENDING: LazyLock<Sending> = LazyLock::new(|| {
    let [accept, outcome] = metrics::histograms(STAGES, STAGES_HELP, "stage", ["accept", "outcome"], &SECONDS);
    let fates = ["decided", "pending", "unwaited", "full", "not_accepted", "unknown"];
    let [decided, pending, unwaited, full, not_accepted, unknown] =
        metrics::counters("chancery_commands_sent_total", "Commands that clients sent, by what they were told.", "fate", fates);
    Sending { accept, outcome, decided, pending, unwaited, full, not_accepted, unknown }
});

/// Where the standing of a caller was looked up.
#[derive(Clone)]
pub(crate) struct Lookups {
    /// In what gateways remember together.
    pub(crate) remembered: GenericCounter<AtomicU64>,
    /// In PostgreSQL.
    pub(crate) asked: GenericCounter<AtomicU64>,
}

/// The gateway's own metrics, in the process's registry.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    /// Lookups of callers' standings.
    pub(crate) lookups: Lookups,
    /// Requests being worked on.
    pub(crate) in_flight: IntGauge,
    /// Connections that are open.
    pub(crate) connections: IntGauge,
    /// Event streams that are open.
    pub(crate) streams: IntGauge,
}

impl Metrics {
    /// Registers them with the process, once.
    ///
    /// # Errors
    /// The process has others of the same name.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let lookups = IntCounterVec::new(Opts::new("chancery_authz_lookups_total", "Lookups of what a caller may."), &["from"])?;
        let metrics = Self {
            lookups: Lookups { remembered: lookups.with_label_values(&["memory"]), asked: lookups.with_label_values(&["postgres"]) },
            requests: IntCounterVec::new(Opts::new("chancery_http_requests_total", "Requests answered."), &["method", "route", "status"])?,
            latency: HistogramVec::new(
                HistogramOpts::new("chancery_http_request_duration_seconds", "Time to the answer.").buckets(BUCKETS.to_vec()),
                &["method", "route", "class"],
            )?,
            in_flight: IntGauge::new("chancery_http_requests_in_flight", "Requests being worked on.")?,
            connections: IntGauge::new("chancery_http_connections", "Open connections.")?,
            streams: IntGauge::new("chancery_event_streams", "Open event streams.")?,
        };
        let registry = prometheus::default_registry();
        for collector in [
            Box::new(metrics.requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(metrics.latency.clone()),
            Box::new(lookups),
            Box::new(metrics.in_flight.clone()),
            Box::new(metrics.connections.clone()),
            Box::new(metrics.streams.clone()),
        ] {
            match registry.register(collector) {
                // A second gateway in one process (tests) counts for itself.
                Ok(()) | Err(prometheus::Error::AlreadyReg) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(metrics)
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, policy: &Policy, status: u16, took: Duration) {
        let method = policy.method.name();
        self.counter(method, policy.path, status).inc();
        self.latency.with_label_values(&[method, policy.path, class(status)]).observe(took.as_secs_f64());
    }

    /// Counts an answer to what is no route of ours.
    pub(crate) fn unmatched(&self, status: u16) {
        self.counter("other", "unmatched", status).inc();
    }

    fn counter(&self, method: &str, route: &str, status: u16) -> GenericCounter<AtomicU64> {
        let mut buffer = [0; 3];
        let digits = [status / 100 % 10, status / 10 % 10, status % 10];
        for (place, digit) in buffer.iter_mut().zip(digits) {
            *place = b'0' + digit as u8;
        }
        self.requests.with_label_values(&[method, route, std::str::from_utf8(&buffer).unwrap_or("000")])
    }
}

/// The class of a status, as alarms ask for it.
fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// Everything the process counts, as Prometheus reads it.
pub(crate) fn text() -> Result<Vec<u8>, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&prometheus::gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn answers_are_counted_by_route_and_status() {
        static POLICY: Policy = Policy::query("/v1/metrics-test/{t}", "me:read");
        let metrics = Metrics::new().unwrap();
        metrics.answered(&POLICY, 404, Duration::from_millis(3));
        assert_eq!(metrics.counter("GET", "/v1/metrics-test/{t}", 404).get(), 1);
        let took = metrics.latency.with_label_values(&["GET", "/v1/metrics-test/{t}", "4xx"]);
        assert_eq!((took.get_sample_count(), took.get_sample_sum()), (1, 0.003));
    }
}
