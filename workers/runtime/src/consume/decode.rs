//! From a message to an [`Event`].

use aggregates::registry;
use async_nats::HeaderMap;
use serde::de::DeserializeOwned;
use subjects::{Envelope, EventSubject, RedriveSubject, header};

use crate::{Failure, trace::Trace};

/// An event as a consumer's function sees it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event.
    pub envelope: Envelope,
    /// Its place in the stream.
    pub stream_sequence: u64,
    /// Which delivery this is, from 1.
    pub delivered: u32,
    /// Its place in the consumer's own sequence; 0 where it has none.
    pub(crate) consumer_sequence: u64,
    pub(crate) headers: HeaderMap,
    /// The trace of its handling, where that has a span.
    pub(crate) handling: Option<Trace>,
}

impl Event {
    /// An event outside a stream: for tests of handlers, and for events fed from elsewhere.
    pub fn new(envelope: Envelope, stream_sequence: u64, headers: HeaderMap) -> Self {
        Self { envelope, stream_sequence, delivered: 1, consumer_sequence: 0, headers, handling: None }
    }

    /// What happened, as a type that the consumer knows: one of its own with the fields that it wants, or one of `aggregates`.
    ///
    /// # Errors
    /// [`Failure::Poison`]: the data has not this form. The text names the place and quotes nothing.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.envelope.data).map_err(|_| Failure::poison(format!("the data of {} has another form", self.envelope.event_type)))
    }

    /// The event as the domain's closed list has it; none for a type that this version does not know.
    ///
    /// # Errors
    /// [`Failure::Poison`]: the type is known, and the data has not its form.
    pub fn known(&self) -> Result<Option<aggregates::Event>, Failure> {
        let event_type = &self.envelope.event_type;
        if registry::event(event_type).is_none() {
            return Ok(None);
        }
        let event = serde_json::json!({ "type": event_type, "data": self.envelope.data });
        serde_json::from_value(event).map(Some).map_err(|_| Failure::poison(format!("the data of {event_type} has another form")))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The trace it belongs to (W3C).
    pub fn traceparent(&self) -> Option<&str> {
        self.header(header::TRACEPARENT)
    }

    /// The trace that goes on with what is done because of it.
    pub fn trace(&self) -> Option<Trace> {
        self.handling.clone().or_else(|| Trace::read(|name| self.header(name)))
    }

    /// Whether a repair published it, behind its successors.
    pub(crate) fn is_late(&self) -> bool {
        self.header(header::LATE).is_some()
    }

    /// How often an operator has let it be tried anew.
    pub fn redrives(&self) -> u32 {
        redrives(&self.headers)
    }

    /// Whether it may come behind its successors: published by a repair, or tried anew.
    pub(crate) fn is_out_of_turn(&self) -> bool {
        self.is_late() || self.redrives() > 0
    }

    /// Its place in EVENTS for who asks what became of it: that of the event, also where it is tried anew from another.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.header(header::FIRST_SEQUENCE).and_then(|place| place.parse().ok()).unwrap_or(self.stream_sequence)
    }

    /// Names its aggregate within the whole platform: order is kept among the events of one.
    pub(crate) fn aggregate_key(&self) -> String {
        format!("{}/{}/{}", self.envelope.tenant_id, self.envelope.aggregate, self.envelope.aggregate_id)
    }
}

/// How often a message was let be tried anew, by its headers.
pub(crate) fn redrives(headers: &HeaderMap) -> u32 {
    headers.get(header::REDRIVES).and_then(|count| count.as_str().parse().ok()).unwrap_or(0)
}

/// Why a message is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("the body is no event: {0}")]
    Undecodable(String),
    #[error("the subject is not the event's own")]
    Mismatch,
}

impl DecodeError {
    /// The code in a dead letter.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Mismatch => "mismatch",
        }
    }
}

/// Reads a body. The subject is what permissions were checked against, so the body must say the same.
pub(crate) fn envelope(subject: &str, payload: &[u8]) -> Result<Envelope, DecodeError> {
    // The error's own text may quote the body; its category and place do not.
    let envelope: Envelope = serde_json::from_slice(payload)
        .map_err(|error| DecodeError::Undecodable(format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())))?;
    let said = event_of(subject).is_some_and(|said| said.tenant == envelope.tenant_id.to_string() && said.event_type == envelope.event_type);
    if said { Ok(envelope) } else { Err(DecodeError::Mismatch) }
}

/// What a subject says about the event, published for all or for one consumer.
fn event_of(subject: &str) -> Option<EventSubject<'_>> {
    EventSubject::parse(subject).ok().or_else(|| RedriveSubject::parse(subject).ok().map(|parsed| parsed.event))
}

/// The event type for the subject of a dead letter: what the subject says, whatever the body is.
pub(crate) fn type_of(subject: &str) -> &str {
    event_of(subject).map_or("unknown.unknown", |parsed| parsed.event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"id":"evt_00000000-0000-7000-8000-000000000001","type":"tenant.activated","timestamp":"2026-11-22T10:00:00.123Z",
        "version":"1.0","source":"chancery","tenantId":"tenant_00000000-0000-7000-8000-000000000002","userId":null,"aggregate":"tenant",
        "aggregateId":"tenant_00000000-0000-7000-8000-000000000002","aggregateVersion":3,"sequence":9,"correlationId":"c",
        "causationId":"cmd_00000000-0000-7000-8000-000000000003","data":{},"later":"ignored"}"#;

    #[test]
    fn an_event_is_read_when_its_subject_agrees() {
        let subject = "evt.tenant_00000000-0000-7000-8000-000000000002.tenant.activated";
        assert_eq!(envelope(subject, BODY.as_bytes()).map(|envelope| envelope.sequence), Ok(9));
    }

    #[test]
    fn an_event_that_is_tried_anew_is_read_under_its_own_tenant_and_type_alone() {
        let subject = |rest: &str| format!("redrive.audit.tenant_00000000-0000-7000-8000-00000000000{rest}");
        assert!(envelope(&subject("2.tenant.activated"), BODY.as_bytes()).is_ok());
        for other in ["9.tenant.activated", "2.tenant.suspended"] {
            assert_eq!(envelope(&subject(other), BODY.as_bytes()), Err(DecodeError::Mismatch));
        }
    }

    #[test]
    fn what_a_repair_published_and_what_is_tried_anew_may_come_behind_its_successors() {
        let out_of_turn = |name: &str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            serde_json::from_str(BODY).map(|envelope| Event::new(envelope, 40, headers).is_out_of_turn()).ok()
        };
        assert_eq!(out_of_turn(header::TENANT, "tenant_1"), Some(false));
        assert_eq!(out_of_turn(header::LATE, "true"), Some(true));
        assert_eq!(out_of_turn(header::REDRIVES, "1"), Some(true));
    }

    #[test]
    fn a_body_under_another_tenants_subject_is_a_mismatch() {
        let subject = "evt.tenant_00000000-0000-7000-8000-000000000009.tenant.activated";
        assert_eq!(envelope(subject, BODY.as_bytes()), Err(DecodeError::Mismatch));
    }

    #[test]
    fn a_broken_body_is_undecodable_and_not_quoted() {
        let error = envelope("evt.platform.a.b", b"{\"secret\"").err();
        assert_eq!(error.map(|error| error.to_string()), Some("the body is no event: Eof error at line 1 column 9".into()));
    }

    #[test]
    fn a_dead_letters_type_comes_from_the_subject() {
        assert_eq!(type_of("evt.platform.user.created"), "user.created");
        assert_eq!(type_of("redrive.audit.platform.user.created"), "user.created");
        assert_eq!(type_of("elsewhere"), "unknown.unknown");
    }
}
