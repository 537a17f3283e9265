//! Traces: what headers carry (W3C Trace Context), and the spans that continue it.
//!
//! Whoever began a trace has decided whether it is kept. Where it is not, the headers are handed on as they came and no span is made; to
//! find that out costs a look at one byte.

use std::borrow::Cow;

use async_nats::{HeaderMap, HeaderName};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, Status, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use subjects::{CommandMessage, header, stream};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The names of the two headers, made once.
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static(header::TRACEPARENT);
pub(crate) static TRACESTATE: HeaderName = HeaderName::from_static(header::TRACESTATE);
/// The longest tracestate that is handed on.
const LONGEST_STATE: usize = 512;
/// Links that a span carries at most.
const LINKS: usize = 128;

/// A trace to continue, as headers carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`.
    pub state: Option<String>,
}

impl Trace {
    /// What headers carry; none where it is no trace.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let parent = header(header::TRACEPARENT).filter(|parent| is_traceparent(parent))?;
        let state = header(header::TRACESTATE).filter(|state| !state.is_empty() && state.len() <= LONGEST_STATE);
        Some(Self { parent: parent.to_owned(), state: state.map(ToOwned::to_owned) })
    }

    /// What the headers of a message carry, if it is kept.
    pub fn kept(headers: &HeaderMap) -> Option<Self> {
        let parent = headers.get(TRACEPARENT.clone())?;
        if !is_kept(parent.as_str()) {
            return None;
        }
        Self::read(|name| headers.get(name).map(async_nats::HeaderValue::as_str))
    }

    /// What a span hands on. None where there is no such span: it is filtered out, or spans go nowhere.
    pub fn of(span: &Span) -> Option<Self> {
        if span.is_none() {
            return None;
        }
        let context = span.context();
        let span = context.span();
        let it = span.span_context();
        let state = it.trace_state().header();
        it.is_valid().then(|| Self {
            parent: format!("00-{}-{}-{:02x}", it.trace_id(), it.span_id(), it.trace_flags().to_u8() & 1),
            state: (!state.is_empty()).then_some(state),
        })
    }

    /// Whether spans of it are kept.
    pub fn is_kept(&self) -> bool {
        is_kept(&self.parent)
    }

    /// Writes it into the headers of a message.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT.clone(), self.parent.as_str());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE.clone(), state.as_str());
        }
    }

    /// Puts a span below it.
    pub fn continue_with(&self, span: &Span) {
        // Refused where there is no such span: it is filtered out.
        let _ = span.set_parent(TraceContextPropagator::new().extract_with_context(&Context::new(), self));
    }

    fn context(&self) -> SpanContext {
        TraceContextPropagator::new().extract_with_context(&Context::new(), self).span().span_context().clone()
    }
}

impl Extractor for Trace {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            header::TRACEPARENT => Some(&self.parent),
            header::TRACESTATE => self.state.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![header::TRACEPARENT, header::TRACESTATE]
    }
}

/// Whether a traceparent says that its trace is kept.
pub(crate) fn is_kept(traceparent: &str) -> bool {
    let flags = traceparent.as_bytes().get(54).copied().and_then(|digit| char::from(digit).to_digit(16));
    flags.is_some_and(|flags| flags & 1 == 1)
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

/// What is done for several at once: below theirs where they are of one, else a trace of its own that is linked to all of theirs. Call it
/// before anything else happens to the span, since it decides whether it is kept.
pub(crate) fn share(span: &Span, of: &[Trace]) {
    match of {
        [] => {}
        [first, rest @ ..] if rest.iter().all(|other| other == first) => first.continue_with(span),
        several => several.iter().take(LINKS).for_each(|trace| span.add_link(trace.context())),
    }
}

/// Links a span to what was done for it and others at once.
pub(crate) fn link(span: &Span, to: &Trace) {
    span.add_link(to.context());
}

/// A subject of COMMANDS without what is different in each message.
pub(crate) fn command_template(command_type: &str) -> String {
    format!("cmd.{{partition}}.{{tenant}}.{command_type}")
}

/// A subject of EVENTS without what is different in each message.
pub(crate) fn event_template(event_type: &str) -> String {
    format!("evt.{{tenant}}.{event_type}")
}

/// The span of giving a command: the command is stored when the span ends. Nothing of its data is in it.
pub fn giving(command: &CommandMessage, partition: u16, size: usize, below: &Trace) -> Span {
    let template = command_template(&command.command_type);
    let span = info_span!(
        "publish",
        otel.name = format!("publish {template}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        "messaging.operation.type" = "send",
        messaging.destination.name = stream::COMMANDS,
        messaging.destination.template = template,
        messaging.destination.partition.id = partition.to_string(),
        messaging.message.id = %command.id,
        messaging.message.conversation_id = command.correlation_id,
        messaging.message.body.size = size,
        tenant.id = %command.tenant_id,
    );
    below.continue_with(&span);
    span
}

/// Says on a span how its work failed, by a word of a closed set: an error's text may quote somebody.
pub fn failed(span: &Span, error: impl Into<Cow<'static, str>>) {
    span.set_attribute("error.type", error.into());
    span.set_status(Status::error(""));
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_is_handed_on_only_if_it_is_one() {
        let read = |parent: &'static str| Trace::read(|name| (name == header::TRACEPARENT).then_some(parent));
        assert_eq!(read(KEPT), Some(Trace { parent: KEPT.into(), state: None }));
        for bad in
            ["", "00-0-0-0", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_trace_is_kept_if_its_flags_say_so() {
        assert!(is_kept(KEPT) && is_kept(&KEPT.replace("-01", "-03")));
        for not in ["", "00", &KEPT.replace("-01", "-00"), &KEPT.replace("-01", "-02"), &KEPT[..54]] {
            assert!(!is_kept(not), "{not}");
        }
    }

    #[test]
    fn what_headers_carry_is_what_they_are_given() {
        let trace = Trace { parent: KEPT.into(), state: Some("vendor=something".into()) };
        let mut headers = HeaderMap::new();
        trace.write(&mut headers);
        assert_eq!(Trace::kept(&headers), Some(trace));
        headers.insert(header::TRACEPARENT, KEPT.replace("-01", "-00"));
        assert_eq!(Trace::kept(&headers), None);
    }
}
