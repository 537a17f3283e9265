//! From what Prometheus' registry gathers to the message of OTLP.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
        number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use uuid::Uuid;

/// Whose metrics these are.
#[derive(Debug, Clone)]
pub(super) struct Process {
    attributes: Vec<KeyValue>,
    /// Everything is counted from here, in nanoseconds since 1970.
    began: u64,
}

impl Process {
    /// This process in a role. Two of the same role are told apart by an id that is new with every start.
    pub(super) fn new(role: &str) -> Self {
        let attributes = [
            ("service.name", format!("chancery-{role}")),
            ("service.namespace", "chancery".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", Uuid::new_v4().to_string()),
        ];
        Self { attributes: attributes.map(|(name, value)| text(name, value)).into(), began: nanos(SystemTime::now()) }
    }
}

/// All metrics in one message.
pub(super) fn of(families: &[MetricFamily], process: &Process, now: SystemTime) -> ExportMetricsServiceRequest {
    let times = Times { began: process.began, now: nanos(now) };
    let scope = InstrumentationScope { name: "chancery".into(), version: env!("CARGO_PKG_VERSION").into(), ..InstrumentationScope::default() };
    let metrics = families.iter().filter_map(|family| metric(family, times)).collect();
    let resource = Resource { attributes: process.attributes.clone(), ..Resource::default() };
    let of_scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource: Some(resource), scope_metrics: vec![of_scope], ..ResourceMetrics::default() }],
    }
}

/// Since when it is counted, and until when.
#[derive(Debug, Clone, Copy)]
struct Times {
    began: u64,
    now: u64,
}

fn metric(family: &MetricFamily, times: Times) -> Option<Metric> {
    let series = family.get_metric();
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.get_field_type() {
        MetricType::COUNTER => {
            let data_points = series.iter().map(|one| number(one, one.get_counter().get_value(), times)).collect();
            metric::Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
        }
        MetricType::GAUGE => {
            metric::Data::Gauge(Gauge { data_points: series.iter().map(|one| number(one, one.get_gauge().get_value(), times)).collect() })
        }
        MetricType::HISTOGRAM => {
            let data_points = series.iter().map(|one| histogram(one, times)).collect();
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
        }
        // Nobody here makes these.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    let (name, description) = (family.name().to_owned(), family.help().to_owned());
    Some(Metric { unit: unit(&name).into(), name, description, data: Some(data), ..Metric::default() })
}

/// The unit as UCUM has it, of which the name ends.
fn unit(name: &str) -> &'static str {
    match name {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    }
}

fn number(series: &proto::Metric, value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: times.began,
        time_unix_nano: times.now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// OTLP counts what is in each bucket, Prometheus what is in it and in those before; the last one has no bound.
fn histogram(series: &proto::Metric, times: Times) -> HistogramDataPoint {
    let found = series.get_histogram();
    let (mut explicit_bounds, mut bucket_counts, mut before) = (Vec::new(), Vec::new(), 0);
    for bucket in found.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        explicit_bounds.push(bucket.upper_bound());
        bucket_counts.push(bucket.cumulative_count().saturating_sub(before));
        before = bucket.cumulative_count();
    }
    bucket_counts.push(found.get_sample_count().saturating_sub(before));
    HistogramDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: times.began,
        time_unix_nano: times.now,
        count: found.get_sample_count(),
        sum: Some(found.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    labels.iter().map(|label| text(label.name(), label.value().to_owned())).collect()
}

fn text(name: &str, value: String) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }), ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, core::Collector as _};

    use super::*;

    const TIMES: Times = Times { began: 5, now: 7 };

    #[test]
    fn a_counter_is_a_monotonic_sum_with_its_labels() {
        let counter = IntCounterVec::new(Opts::new("things_total", "Things."), &["kind"]).unwrap();
        counter.with_label_values(&["good"]).inc_by(3);
        let metric = metric(&counter.collect()[0], TIMES).unwrap();
        assert_eq!((metric.name.as_str(), metric.unit.as_str(), metric.description.as_str()), ("things_total", "", "Things."));
        let Some(metric::Data::Sum(sum)) = metric.data else { panic!("{metric:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == i32::from(AggregationTemporality::Cumulative));
        let [point] = &sum.data_points[..] else { panic!("{sum:?}") };
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 7));
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!(point.attributes, [text("kind", "good".into())]);
    }

    #[test]
    fn a_histogram_counts_each_bucket_by_itself_and_what_is_above_all_bounds() {
        let histogram = Histogram::with_opts(HistogramOpts::new("waits_seconds", "Waits.").buckets(vec![1.0, 2.0, 4.0])).unwrap();
        [0.5, 1.5, 1.5, 3.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
        let metric = metric(&histogram.collect()[0], TIMES).unwrap();
        assert_eq!(metric.unit, "s");
        let Some(metric::Data::Histogram(found)) = metric.data else { panic!("{metric:?}") };
        let [point] = &found.data_points[..] else { panic!("{found:?}") };
        assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[1.0, 2.0, 4.0][..], &[1, 2, 1, 1][..]));
        assert_eq!((point.count, point.sum), (5, Some(15.5)));
    }
}
