//! The metrics over OTLP are those of `/metrics`, whoever is away meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use chancery::role::Consumer;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric, number_data_point},
};
use prost::Message as _;

use super::{samples, value};
use crate::{
    consumers::{audited, tenant},
    harness::{Stack, wait_until},
};

/// By service, the metrics of its last message.
type Heard = BTreeMap<String, Vec<Metric>>;

/// A collector that takes metrics, and can be away.
#[derive(Clone, Default)]
struct Collector {
    heard: Arc<Mutex<Heard>>,
    away: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/v1/metrics", post(take)).route("/v1/traces", post(async || StatusCode::OK)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        address
    }

    /// A service's metric as it was sent last.
    fn metric(&self, service: &str, name: &str) -> Option<Metric> {
        self.heard.lock().unwrap().get(service)?.iter().find(|metric| metric.name == name).cloned()
    }

    fn names(&self, service: &str) -> BTreeSet<String> {
        self.heard.lock().unwrap().get(service).into_iter().flatten().map(|metric| metric.name.clone()).collect()
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) -> StatusCode {
    if collector.away.load(Ordering::SeqCst) {
        collector.refused.store(true, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    for of_process in ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics {
        let about = of_process.resource.unwrap().attributes;
        let service = text(&about, "service.name").unwrap();
        assert!(text(&about, "service.instance.id").is_some_and(|id| id.parse::<uuid::Uuid>().is_ok()), "{about:?}");
        let metrics = of_process.scope_metrics.into_iter().flat_map(|scope| scope.metrics).collect();
        collector.heard.lock().unwrap().insert(service, metrics);
    }
    StatusCode::OK
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The sum over all series, of a histogram the number of its values.
fn sum(metric: &Metric) -> f64 {
    let of = |points: &[opentelemetry_proto::tonic::metrics::v1::NumberDataPoint]| {
        points.iter().map(|point| if let Some(number_data_point::Value::AsDouble(value)) = point.value { value } else { f64::NAN }).sum()
    };
    match metric.data.as_ref().unwrap() {
        metric::Data::Sum(sum) => of(&sum.data_points),
        metric::Data::Gauge(gauge) => of(&gauge.data_points),
        metric::Data::Histogram(histogram) => histogram.data_points.iter().map(|point| point.count as f64).sum(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_sent_what_the_roles_show_and_what_it_missed_while_it_was_away() {
    let collector = Collector::default();
    collector.away.store(true, Ordering::SeqCst);
    let address = collector.start().await;
    let builder = Stack::builder().patient().consumers(&[Consumer::Audit]).env("OTEL_METRIC_EXPORT_INTERVAL", 100);
    let stack = builder.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}/")).start().await;
    tenant(&stack).await;
    audited(&stack).await;
    wait_until("it has refused something", async || collector.refused.load(Ordering::SeqCst)).await;
    wait_until("that is told", async || stack.log("worker-1").contains("the collector does not take metrics")).await;
    collector.away.store(false, Ordering::SeqCst);

    let counted = [
        ("gateway", "chancery-gateway", "chancery_commands_sent_total", ""),
        ("worker-1", "chancery-worker", "chancery_commands_decided_total", ""),
        ("worker-1", "chancery-worker", "chancery_command_stage_seconds", "_count"),
        ("worker-1", "chancery-worker", "chancery_partitions_owned", ""),
        ("audit", "chancery-audit", "chancery_consumer_handled_total", ""),
        ("audit", "chancery-audit", "chancery_consumer_latency_seconds", "_count"),
    ];
    for (role, service, name, suffix) in counted {
        wait_until(&format!("{name} of {service}"), async || {
            let shown = value(&stack.metrics(role), &format!("{name}{suffix}"), &[]).unwrap();
            shown > 0.0 && collector.metric(service, name).is_some_and(|metric| sum(&metric) == shown)
        })
        .await;
    }
    // No metric has its own way: what is shown is sent, and nothing else.
    for (role, service) in [("gateway", "chancery-gateway"), ("worker-1", "chancery-worker"), ("audit", "chancery-audit")] {
        let shown: BTreeSet<String> = samples(&stack.metrics(role)).into_iter().map(|sample| family(&sample.name)).collect();
        let sent: BTreeSet<String> = collector.names(service).iter().map(|name| family(name)).collect();
        assert_eq!(sent, shown, "{service}");
    }
    wait_until("the end of its absence is told", async || stack.log("worker-1").contains("the collector takes metrics again")).await;
}

/// A histogram's name without what its lines add.
fn family(name: &str) -> String {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_ends_sends_its_last_figures_first() {
    let collector = Collector::default();
    let address = collector.start().await;
    let builder = Stack::builder().patient().env("OTEL_METRIC_EXPORT_INTERVAL", 3_600_000);
    let mut stack = builder.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")).start().await;
    tenant(&stack).await;
    let shown = value(&stack.metrics("worker-1"), "chancery_commands_decided_total", &[]).unwrap();
    assert!(collector.heard.lock().unwrap().is_empty(), "an hour is not over");
    assert!(stack.stop("worker-1"), "{}", stack.log("worker-1"));
    let sent = collector.metric("chancery-worker", "chancery_commands_decided_total").expect("it was sent");
    assert_eq!((shown, sum(&sent)), (1.0, 1.0));
}
