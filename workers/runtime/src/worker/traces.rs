//! The spans of a batch: one for each command whose trace is kept, and one for what is done for all of them together.
//!
//! What a command leads to goes on below its span, so the context that is stored with its events is that of the span, made before it is
//! known whether the batch is written. A batch that is not written ends its spans as failed, and is decided again under others.

use std::collections::HashMap;

use subjects::stream as names;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{batch::Item, event, parse::Parsed};
use crate::{
    store::commit::EventRow,
    trace::{self, Trace},
};

/// The spans of one batch. Empty, and without an allocation, where no trace is kept.
#[derive(Debug)]
pub(crate) struct Traces {
    commands: HashMap<(u16, u64), Traced>,
    together: Span,
}

#[derive(Debug)]
struct Traced {
    span: Span,
    /// What is stored with the command's events instead of what came with it.
    meta: Option<String>,
}

impl Traces {
    /// Of a batch that is about to be decided.
    pub(crate) fn begin(makes_spans: bool, items: &[Item]) -> Self {
        let mut traces = Self { commands: HashMap::new(), together: Span::none() };
        if !makes_spans {
            return traces;
        }
        let mut kept = Vec::new();
        for item in items {
            let Some(came) = Trace::kept(&item.incoming.headers) else { continue };
            let span = command(item, &came);
            // Filtered out: the trace is handed on as it came.
            let Some(trace) = Trace::of(&span) else { continue };
            let meta = match &item.parsed {
                Parsed::Command(readable) => event::meta(&readable.message, Some(&trace.parent), trace.state.as_deref()),
                Parsed::Dead(_) | Parsed::Unknown(_) => None,
            };
            traces.commands.insert(key(item), Traced { span, meta });
            kept.push(trace);
        }
        if kept.is_empty() {
            return traces;
        }
        traces.together = info_span!(parent: None, "batch", messaging.batch.message_count = items.len());
        trace::share(&traces.together, &kept);
        if kept.len() > 1
            && let Some(together) = Trace::of(&traces.together)
        {
            traces.commands.values().for_each(|traced| trace::link(&traced.span, &together));
        }
        traces
    }

    /// The span of what is done for all commands at once.
    pub(crate) fn together(&self) -> Span {
        self.together.clone()
    }

    /// What is stored with the events of a command, if it is something else than what came with it.
    pub(crate) fn meta(&self, item: &Item) -> Option<&str> {
        self.of(item)?.meta.as_deref()
    }

    /// Notes how a command ended: `succeeded`, `refused`, `failed`, or `repeated` for one that was decided before.
    pub(crate) fn decided(&self, item: &Item, outcome: &'static str, code: Option<&'static str>) {
        let Some(traced) = self.of(item) else { return };
        traced.span.set_attribute("chancery.command.outcome", outcome);
        if let Some(code) = code {
            traced.span.set_attribute("chancery.command.code", code);
        }
    }

    /// The same for one that could not be decided.
    pub(crate) fn failed(&self, item: &Item, reason: &'static str) {
        let Some(traced) = self.of(item) else { return };
        self.decided(item, "failed", None);
        trace::failed(&traced.span, reason);
    }

    /// Ends the spans of a batch that was not written, and leads to nothing.
    pub(crate) fn undone(self, why: &'static str) {
        self.commands.values().map(|traced| &traced.span).chain([&self.together]).for_each(|span| trace::failed(span, why));
    }

    fn of(&self, item: &Item) -> Option<&Traced> {
        if self.commands.is_empty() { None } else { self.commands.get(&key(item)) }
    }
}

const fn key(item: &Item) -> (u16, u64) {
    (item.partition, item.incoming.sequence)
}

/// The span of a command, from the beginning of its batch to the end of the transaction.
fn command(item: &Item, came: &Trace) -> Span {
    let (name, template) = match &item.parsed {
        Parsed::Command(readable) => {
            let template = trace::command_template(&readable.message.command_type);
            (format!("process {template}"), Some(template))
        }
        // Whoever may publish must not make names of spans.
        Parsed::Dead(_) | Parsed::Unknown(_) => (format!("process {}", names::COMMANDS), None),
    };
    let span = info_span!(
        parent: None,
        "process",
        otel.name = name,
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.name = "process",
        "messaging.operation.type" = "process",
        messaging.destination.name = names::COMMANDS,
        messaging.destination.template = template,
        messaging.destination.partition.id = item.partition.to_string(),
        messaging.consumer.group.name = "worker",
        messaging.nats.sequence = item.incoming.sequence,
    );
    if let Parsed::Command(readable) = &item.parsed {
        let message = &readable.message;
        span.set_attribute("messaging.message.id", message.id.to_string());
        span.set_attribute("messaging.message.conversation_id", message.correlation_id.clone());
        span.set_attribute("tenant.id", message.tenant_id.to_string());
    }
    came.continue_with(&span);
    span
}

/// The span of publishing events: below their command's where they are of one, else linked to their commands'.
pub(crate) fn publishing(makes_spans: bool, events: &[&EventRow]) -> Span {
    if !makes_spans {
        return Span::none();
    }
    let mut kept: Vec<Trace> = Vec::new();
    for event in events {
        // The events of a command follow each other.
        if let Some(trace) = event.meta.as_deref().and_then(event::kept).filter(|trace| kept.last() != Some(trace)) {
            kept.push(trace);
        }
    }
    if kept.is_empty() {
        return Span::none();
    }
    let template = if let [event] = events { Some(trace::event_template(&event.event_type)) } else { None };
    let span = info_span!(
        parent: None,
        "publish",
        otel.name = format!("publish {}", template.as_deref().unwrap_or(names::EVENTS)),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        "messaging.operation.type" = "send",
        messaging.destination.name = names::EVENTS,
        messaging.destination.template = template,
        messaging.batch.message_count = events.len(),
    );
    trace::share(&span, &kept);
    span
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use async_nats::HeaderMap;
    use bytes::Bytes;
    use subjects::header;
    use tracing::span::{Attributes, Id, Record};

    use super::{super::reader::Incoming, *};

    fn items(flags: &str) -> Vec<Item> {
        let item = |sequence| {
            let mut headers = HeaderMap::new();
            headers.insert(header::TRACEPARENT, format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"));
            let incoming = Incoming {
                sequence,
                subject: "cmd.1.t.team.create".into(),
                headers,
                payload: Bytes::new(),
                stored_at: time::OffsetDateTime::UNIX_EPOCH,
            };
            Item { partition: 1, incoming, parsed: Parsed::Unknown("team.create".into()), condemned: None }
        };
        (1..=256).map(item).collect()
    }

    /// Counts the spans that are made.
    struct Counting(Arc<AtomicU64>);

    impl tracing::Subscriber for Counting {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn where_no_trace_is_kept_no_span_is_made() {
        let made = |makes_spans, flags| {
            let count = Arc::new(AtomicU64::new(0));
            let items = items(flags);
            tracing::subscriber::with_default(Counting(count.clone()), || drop(Traces::begin(makes_spans, &items)));
            count.load(Ordering::Relaxed)
        };
        assert_eq!((made(true, "00"), made(false, "01")), (0, 0));
        assert_eq!(made(true, "01"), 256);
    }
}
