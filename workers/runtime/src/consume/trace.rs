//! One span a batch, linked to the traces of its events.

use std::collections::HashMap;

use opentelemetry::{propagation::TextMapPropagator, trace::TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use subjects::header;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Event;

/// Links a span carries at most.
const LINKS: usize = 128;

/// A span over one call of the handler.
pub(crate) fn span(consumer: &'static str, stream: &'static str, events: &[Event]) -> Span {
    let span = tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.r#type = "process",
        messaging.destination.name = stream,
        messaging.consumer.group.name = consumer,
        messaging.batch.message_count = events.len()
    );
    if span.is_disabled() {
        return span;
    }
    let propagator = TraceContextPropagator::new();
    for event in events.iter().filter(|event| event.traceparent().is_some()).take(LINKS) {
        let carrier: HashMap<String, String> = [header::TRACEPARENT, header::TRACESTATE]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), event.header(name)?.to_owned())))
            .collect();
        span.add_link(propagator.extract(&carrier).span().span_context().clone());
    }
    span
}
