//! A dead letter as it stands in DEADLETTERS, and the event that is made of it again.

use async_nats::{HeaderMap, HeaderValue, jetstream::message::StreamMessage};
use bytes::Bytes;
use serde::Deserialize;
use subjects::{DeadLetterSubject, EventId, TenantId, header, stream as names, user};
use time::OffsetDateTime;

/// What a letter adds to the headers of its event, and an event that is tried anew has not.
const OF_THE_LETTER: [&str; 6] =
    [header::CONSUMER, header::REASON, header::ERROR, header::DELIVERIES, header::ORIGIN_STREAM, header::ORIGIN_SEQUENCE];

/// A dead letter. Who gave up, and on what type, is what the subject says, because that is what permissions were checked against.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its number: its place in DEADLETTERS.
    pub number: u64,
    /// When it was stored.
    pub at: OffsetDateTime,
    /// Who gave up: a consumer, or `worker`.
    pub consumer: String,
    /// `<topic>.<event>`; of the worker `<aggregate>.<command>`.
    pub letter_type: String,
    /// The tenant, where body or headers tell.
    pub tenant: Option<TenantId>,
    /// The event, where the body tells.
    pub event: Option<EventId>,
    /// Why, as a code.
    pub reason: String,
    /// Why, in words.
    pub error: String,
    /// How often it was tried.
    pub deliveries: u32,
    /// How often an operator has let it be tried anew.
    pub redrives: u32,
    /// The stream the message came from.
    pub origin_stream: String,
    /// Its place there; 0 where it came from the table.
    pub origin_sequence: u64,
    /// All headers.
    pub headers: HeaderMap,
    /// The message as it came.
    pub payload: Bytes,
}

/// As much of a body as tells what it is about.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Letter {
    /// Reads a message of DEADLETTERS.
    pub(super) fn read(message: StreamMessage) -> Self {
        let StreamMessage { subject, sequence, headers, payload, time } = message;
        let text = |name: &str| headers.get(name).map(HeaderValue::as_str).unwrap_or_default();
        let (consumer, letter_type) = match DeadLetterSubject::parse(&subject) {
            Ok(parsed) => (parsed.consumer.to_owned(), parsed.letter_type.to_owned()),
            Err(_) => (text(header::CONSUMER).to_owned(), "unknown.unknown".to_owned()),
        };
        let said: Said = serde_json::from_slice(&payload).unwrap_or(Said { id: None, tenant_id: None });
        let tenant = said.tenant_id.as_deref().unwrap_or_else(|| text(header::TENANT)).parse().ok();
        let number = |name: &str| text(name).parse().unwrap_or_default();
        Self {
            number: sequence,
            at: time,
            tenant,
            event: said.id.and_then(|id| id.parse().ok()),
            reason: text(header::REASON).to_owned(),
            error: text(header::ERROR).to_owned(),
            deliveries: text(header::DELIVERIES).parse().unwrap_or_default(),
            redrives: text(header::REDRIVES).parse().unwrap_or_default(),
            origin_stream: text(header::ORIGIN_STREAM).to_owned(),
            origin_sequence: number(header::ORIGIN_SEQUENCE),
            consumer,
            letter_type,
            headers,
            payload,
        }
    }

    /// Whether a command has failed, and not an event.
    pub fn is_command(&self) -> bool {
        self.consumer == user::WORKER
    }

    /// Whether nobody could read an event in it.
    pub fn is_unreadable(&self) -> bool {
        ["undecodable", "mismatch"].contains(&self.reason.as_str())
    }

    /// Where the event goes to be tried anew by its consumer alone.
    ///
    /// # Errors
    /// Why nothing can be made of it.
    pub(super) fn redrive_subject(&self) -> Result<String, String> {
        // It stood under a subject that was not its own, which is what permissions are given for.
        if self.reason == "mismatch" {
            return Err("its body is not what its subject said, so nobody may take it for an event; discard it".into());
        }
        let tenant = self.tenant.ok_or("neither its body nor its headers name a tenant; discard it")?;
        Ok(subjects::redrive(&self.consumer, tenant, &self.letter_type))
    }

    /// The headers of the event that is tried anew: its own, how often that was, and an id of this try. The same letter is the same try.
    pub(super) fn redrive_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let text = name.to_string();
            if !text.to_ascii_lowercase().starts_with("nats-") && !OF_THE_LETTER.iter().any(|own| own.eq_ignore_ascii_case(&text)) {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        let redrives = self.redrives + 1;
        headers.insert(header::REDRIVES, redrives.to_string());
        if headers.get(header::FIRST_SEQUENCE).is_none() && self.origin_stream == names::EVENTS && self.origin_sequence > 0 {
            headers.insert(header::FIRST_SEQUENCE, self.origin_sequence.to_string());
        }
        // With its time, because numbers begin again where DEADLETTERS is made anew.
        let id = format!("redrive:{}:{}:{}:{redrives}", self.consumer, self.number, self.at.unix_timestamp_nanos());
        headers.insert(header::MESSAGE_ID, id);
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";

    fn letter(subject: &str, headers: &[(&str, &str)], body: &str) -> Letter {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let (payload, time) = (Bytes::from(body.to_owned()), OffsetDateTime::UNIX_EPOCH);
        Letter::read(StreamMessage { subject: subject.into(), sequence: 7, headers: map, payload, time })
    }

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(HeaderValue::as_str)
    }

    #[test]
    fn an_event_that_is_tried_anew_has_its_own_headers_and_says_how_often() {
        let headers = [
            (header::MESSAGE_ID, "audit:EVENTS:12"),
            (header::TENANT, TENANT),
            (header::REASON, "poison"),
            (header::ORIGIN_STREAM, "EVENTS"),
            (header::ORIGIN_SEQUENCE, "12"),
            ("Nats-Expected-Stream", "DEADLETTERS"),
        ];
        let first = letter("dlq.audit.user.created", &headers, "{}");
        assert_eq!(first.redrive_subject(), Ok(format!("redrive.audit.{TENANT}.user.created")));
        let again = first.redrive_headers();
        assert_eq!(get(&again, header::MESSAGE_ID), Some("redrive:audit:7:0:1"));
        assert_eq!((get(&again, header::REDRIVES), get(&again, header::FIRST_SEQUENCE)), (Some("1"), Some("12")));
        assert_eq!((get(&again, header::TENANT), get(&again, header::REASON), get(&again, "Nats-Expected-Stream")), (Some(TENANT), None, None));
        // Given up once more, from the place of the second try.
        let headers = [(header::REDRIVES, "1"), (header::FIRST_SEQUENCE, "12"), (header::ORIGIN_STREAM, "EVENTS"), (header::ORIGIN_SEQUENCE, "40")];
        let again = letter("dlq.audit.user.created", &headers, "{}").redrive_headers();
        assert_eq!((get(&again, header::REDRIVES), get(&again, header::FIRST_SEQUENCE)), (Some("2"), Some("12")));
    }

    #[test]
    fn whose_it_is_says_the_subject_and_never_a_header() {
        let forged = letter("dlq.sample-team.user.created", &[(header::CONSUMER, "audit"), (header::TENANT, TENANT)], "no JSON");
        assert_eq!(forged.redrive_subject(), Ok(format!("redrive.sample-team.{TENANT}.user.created")));
    }

    #[test]
    fn what_stood_under_anothers_subject_or_has_no_tenant_is_not_made_an_event() {
        let mismatch = letter("dlq.audit.user.created", &[(header::REASON, "mismatch"), (header::TENANT, TENANT)], "{}");
        assert!(mismatch.redrive_subject().is_err());
        assert!(letter("dlq.audit.user.created", &[(header::REASON, "undecodable")], "no JSON").redrive_subject().is_err());
    }

    #[test]
    fn a_letter_of_the_worker_is_a_command() {
        let body = format!(r#"{{"id":"cmd_01890a5d-ac96-774b-bcce-b302099a8057","tenantId":"{TENANT}"}}"#);
        let command = letter("dlq.worker.user.create", &[(header::CONSUMER, "worker")], &body);
        assert!(command.is_command() && command.event.is_none() && command.tenant.is_some());
    }
}
