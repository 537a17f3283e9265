//! Dead letters: what a consumer gave up on, stored in DEADLETTERS before the original is acknowledged.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream::Context};
use bytes::Bytes;
use subjects::header;

use super::decode;
use crate::{Failure, nats};

/// The longest error text in a header.
const ERROR_LENGTH: usize = 500;

/// The reason of a letter about an event that failed for the last time.
pub(crate) const fn reason(failure: &Failure) -> &'static str {
    if matches!(failure, Failure::Poison(_)) { "poison" } else { "exhausted" }
}

/// A message to be put aside.
#[derive(Debug)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) consumer: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) reason: &'a str,
    pub(crate) error: &'a str,
    pub(crate) deliveries: u32,
    pub(crate) stream: &'a str,
    pub(crate) sequence: u64,
}

impl DeadLetter<'_> {
    /// Stores it. The id is the message's place, so that doing it twice leaves one within the server's duplicate window.
    ///
    /// # Errors
    /// It is not known to be stored: the message must not be acknowledged.
    pub(crate) async fn store(&self, context: &Context, limit: Duration) -> Result<(), String> {
        tracing::error!(
            event.r#type = self.event_type,
            stream.sequence = self.sequence,
            reason = self.reason,
            error = self.error,
            deliveries = self.deliveries,
            "dead letter"
        );
        let subject = subjects::dead_letter(self.consumer, self.event_type);
        let store = nats::store(context, subject, self.headers(), self.payload.clone());
        tokio::time::timeout(limit, store).await.unwrap_or_else(|_| Err("no PubAck in time".into()))
    }

    /// The original's headers without the server's own (an expectation or a batch id would be applied again), and why it is here.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            if !name.to_string().to_ascii_lowercase().starts_with("nats-") {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let error: String = self.error.chars().filter(|c| !c.is_control()).take(ERROR_LENGTH).collect();
        let mut id = match self.headers.get(header::MESSAGE_ID) {
            // From the table, where it has no sequence.
            Some(id) if self.sequence == 0 => format!("{}:{id}", self.consumer),
            _ => format!("{}:{}:{}", self.consumer, self.stream, self.sequence),
        };
        // An event in order keeps its place when it is tried anew, and what became of that is another letter.
        let redrives = decode::redrives(self.headers);
        if redrives > 0 {
            id.push_str(&format!(":{redrives}"));
        }
        headers.insert(header::MESSAGE_ID, id);
        headers.insert(header::CONSUMER, self.consumer);
        headers.insert(header::REASON, self.reason);
        headers.insert(header::ERROR, error);
        headers.insert(header::DELIVERIES, self.deliveries.to_string());
        headers.insert(header::ORIGIN_STREAM, self.stream);
        headers.insert(header::ORIGIN_SEQUENCE, self.sequence.to_string());
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_originals_headers_but_not_the_servers() {
        let mut original = HeaderMap::new();
        original.insert(header::TENANT, "tenant_1");
        original.insert(header::MESSAGE_ID, "evt_1");
        original.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "7");
        original.insert(header::BATCH_ID, "b");
        let letter = DeadLetter {
            consumer: "audit",
            event_type: "user.created",
            headers: &original,
            payload: Bytes::new(),
            reason: "poison",
            error: "first\r\nsecond",
            deliveries: 3,
            stream: "EVENTS",
            sequence: 12,
        };
        let headers = letter.headers();
        let get = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(get(header::TENANT).as_deref(), Some("tenant_1"));
        assert_eq!(get(header::MESSAGE_ID).as_deref(), Some("audit:EVENTS:12"));
        assert_eq!(get(header::ERROR).as_deref(), Some("firstsecond"));
        assert_eq!(get(header::EXPECTED_LAST_SUBJECT_SEQUENCE), None);
        assert_eq!(get(header::BATCH_ID), None);
        // Given up again at the same place, it is not the letter that the server remembers.
        let mut redriven = original.clone();
        redriven.insert(header::REDRIVES, "2");
        let again = DeadLetter { headers: &redriven, ..letter }.headers();
        assert_eq!(again.get(header::MESSAGE_ID).map(|id| id.as_str()), Some("audit:EVENTS:12:2"));
        assert_eq!(again.get(header::REDRIVES).map(|count| count.as_str()), Some("2"));
    }
}
