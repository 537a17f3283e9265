//! The spans of handling: one for each event whose trace is kept, below the command that caused it, so that the trace shows every consumer.
//!
//! Where the handler gets several of them at once, the call has a span and a trace of its own, linked with theirs both ways.

use tracing::{Span, info_span};

use super::{Durable, Event};
use crate::{
    Failure,
    trace::{self, Trace},
};

/// The spans of one call of the handler. Without an allocation where no trace is kept.
#[derive(Debug)]
pub(crate) struct Handling {
    /// That of the call.
    call: Span,
    /// Those of the events, where the call has one of its own.
    events: Vec<Span>,
}

impl Handling {
    /// Of a call that has no spans.
    pub(crate) const fn none() -> Self {
        Self { call: Span::none(), events: Vec::new() }
    }

    /// Of a call that is about to be made. What the handler does because of an event goes on below the event's span, which is noted there.
    pub(crate) fn begin(makes_spans: bool, durable: &Durable, events: &mut [Event]) -> Self {
        let mut handling = Self::none();
        if !makes_spans {
            return handling;
        }
        let count = events.len();
        let mut kept = Vec::new();
        for event in events {
            let Some(came) = Trace::kept(&event.headers) else { continue };
            let span = one(durable, event, count, &came);
            // Filtered out: the trace is handed on as it came.
            let Some(trace) = Trace::of(&span) else { continue };
            event.handling = Some(trace.clone());
            handling.events.push(span);
            kept.push(trace);
        }
        match kept.len() {
            0 => {}
            1 => handling.call = handling.events.pop().unwrap_or_else(Span::none),
            _ => handling.together(durable, count, &kept),
        }
        handling
    }

    fn together(&mut self, durable: &Durable, count: usize, kept: &[Trace]) {
        self.call = info_span!(
            parent: None,
            "process",
            otel.name = format!("process {}", durable.stream),
            otel.kind = "consumer",
            messaging.system = "nats",
            messaging.operation.name = "process",
            "messaging.operation.type" = "process",
            messaging.destination.name = durable.stream,
            messaging.consumer.group.name = durable.name,
            messaging.batch.message_count = count,
        );
        trace::share(&self.call, kept);
        if let Some(call) = Trace::of(&self.call) {
            self.events.iter().for_each(|span| trace::link(span, &call));
        }
    }

    /// The span of the call.
    pub(crate) fn call(&self) -> Span {
        self.call.clone()
    }

    /// Ends the spans with the call.
    pub(crate) fn end(self, result: &Result<(), Failure>) {
        if let Err(failure) = result {
            self.events.iter().chain([&self.call]).for_each(|span| trace::failed(span, failure.kind()));
        }
    }
}

fn one(durable: &Durable, event: &Event, count: usize, came: &Trace) -> Span {
    let envelope = &event.envelope;
    let template = trace::event_template(&envelope.event_type);
    let span = info_span!(
        parent: None,
        "process",
        otel.name = format!("process {template}"),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.name = "process",
        "messaging.operation.type" = "process",
        messaging.destination.name = durable.stream,
        messaging.destination.template = template,
        messaging.consumer.group.name = durable.name,
        messaging.message.id = %envelope.id,
        messaging.message.conversation_id = envelope.correlation_id,
        messaging.nats.sequence = event.stream_sequence,
        messaging.nats.delivery_count = event.delivered,
        messaging.batch.message_count = (count > 1).then_some(count),
        tenant.id = %envelope.tenant_id,
    );
    came.continue_with(&span);
    span
}
