//! The span of a request, and the trace that its command continues.

use axum::http::HeaderMap;
use runtime::trace::{self, Trace};
use tracing::{Span, field::Empty};

use crate::policy::Policy;

/// Whether requests get spans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telemetry {
    /// Spans go somewhere; otherwise they would only cost time.
    pub(crate) spans: bool,
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
            http.response.status_code = Empty,
        );
        // Without a caller's, it begins a trace of its own.
        if let Some(trace) = callers(headers) {
            trace.continue_with(&span);
        }
        span
    }

    /// Notes how a request was answered.
    pub(crate) fn answered(self, span: &Span, status: u16) {
        if !self.spans {
            return;
        }
        span.record("http.response.status_code", status);
        if status >= 500 {
            trace::failed(span, status.to_string());
        }
    }

    /// The trace to hand on: the present span's, or the caller's as it came.
    pub(crate) fn trace(self, headers: &HeaderMap) -> Option<Trace> {
        if self.spans { Trace::of(&Span::current()).or_else(|| callers(headers)) } else { callers(headers) }
    }
}

fn callers(headers: &HeaderMap) -> Option<Trace> {
    Trace::read(|name| headers.get(name).and_then(|value| value.to_str().ok()))
}
