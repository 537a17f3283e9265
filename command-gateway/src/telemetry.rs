//! The trace of a request (W3C Trace Context): taken from its headers, handed on in those of its command.

use std::collections::HashMap;

use axum::http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::policy::Policy;

/// The longest tracestate that is handed on.
const LONGEST_STATE: usize = 512;

/// A trace to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// `traceparent`.
    pub(crate) parent: String,
    /// `tracestate`.
    pub(crate) state: Option<String>,
}

/// Whether requests get spans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telemetry {
    /// Spans go somewhere; otherwise they would only cost time.
    pub(crate) spans: bool,
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

impl Telemetry {
    /// The span of a request, under its caller's trace. No address, name or token is in it.
    pub(crate) fn span(self, policy: &Policy, headers: &HeaderMap) -> Span {
        if !self.spans {
            return tracing::debug_span!("request", http.request.method = policy.method.name(), http.route = policy.path);
        }
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{} {}", policy.method.name(), policy.path),
            otel.kind = "server",
            http.request.method = policy.method.name(),
            http.route = policy.path,
            http.response.status_code = tracing::field::Empty,
        );
        let parent = opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        // A refused parent only means that the span begins a trace of its own.
        let _ = span.set_parent(parent);
        span
    }

    /// The trace to hand on: the present span's, or the caller's as it came.
    pub(crate) fn trace(self, headers: &HeaderMap) -> Option<Trace> {
        if self.spans {
            let mut carrier = HashMap::new();
            let context = Span::current().context();
            opentelemetry_propagator(&context, &mut carrier);
            if let Some(parent) = carrier.remove("traceparent") {
                return Some(Trace { parent, state: carrier.remove("tracestate").filter(|state| !state.is_empty()) });
            }
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let parent = text("traceparent").filter(|parent| is_traceparent(parent))?;
        let state = text("tracestate").filter(|state| !state.is_empty() && state.len() <= LONGEST_STATE);
        Some(Trace { parent: parent.to_owned(), state: state.map(ToOwned::to_owned) })
    }
}

fn opentelemetry_propagator(context: &opentelemetry::Context, carrier: &mut HashMap<String, String>) {
    opentelemetry::global::get_text_map_propagator(|propagator: &dyn TextMapPropagator| propagator.inject_context(context, carrier));
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, ids not all zero.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [version, trace, parent, flags] => {
            let named = |id: &str| id.bytes().any(|byte| byte != b'0');
            hex(version, 2) && version != "ff" && hex(trace, 32) && named(trace) && hex(parent, 16) && named(parent) && hex(flags, 2)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_callers_trace_is_handed_on_only_if_it_is_one() {
        let with = |parent: &str| HeaderMap::from_iter([(HeaderName::from_static("traceparent"), parent.parse().unwrap())]);
        let telemetry = Telemetry { spans: false };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(telemetry.trace(&with(good)), Some(Trace { parent: good.into(), state: None }));
        for bad in
            ["", "00-0-0-0", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"]
        {
            assert_eq!(telemetry.trace(&with(bad)), None, "{bad}");
        }
    }
}
