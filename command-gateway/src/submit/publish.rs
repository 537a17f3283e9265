//! Storing one command: the same id again and again, with jittered back-off, until it is surely stored or the time is up.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, HeaderMap, HeaderName, RequestErrorKind, client::Request, connection::State};
use axum::body::Bytes;
use rand::Rng as _;
use runtime::{nats, trace::Trace};
use serde::Deserialize;
use subjects::header;
use tokio::time::Instant;

/// Names of headers, made once.
static REPLY: HeaderName = HeaderName::from_static(header::REPLY);
static MESSAGE_ID: HeaderName = HeaderName::from_static(header::MESSAGE_ID);
/// The first and the longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How often a try looks whether its connection is still the one it was sent over.
const LOOK: Duration = Duration::from_millis(250);
/// What the server says when a stream with discard=new is full, or the account's storage is.
const FULL: [u64; 3] = [10_077, 10_002, 10_047];

/// A command as it is published.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// The command's id as text.
    pub(crate) id: String,
    /// Where to.
    pub(crate) subject: String,
    /// The message.
    pub(crate) body: Bytes,
    /// The trace it belongs to.
    pub(crate) trace: Option<Trace>,
}

/// It is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// It was already.
    pub(crate) duplicate: bool,
}

/// It is not stored, as far as anybody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// The stream is full.
    Full,
    /// No try can have been stored.
    Surely,
    /// Some try may have been stored.
    Unknown,
}

impl NotStored {
    /// Its word in a span.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Surely => "not_stored",
            Self::Unknown => "unknown",
        }
    }
}

/// What the stream answers.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<ServerError>,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Debug, Deserialize)]
struct ServerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Try {
    /// It is stored.
    Stored(Ack),
    /// The stream is full.
    Full,
    /// This try is not stored.
    Not,
    /// We may not do it: no other try will be stored either.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Publishes to COMMANDS.
pub(crate) struct Publisher {
    client: Client,
    reply: async_nats::HeaderValue,
    timeout: Duration,
}

impl Publisher {
    pub(crate) fn new(client: Client, inbox: &str, timeout: Duration) -> Self {
        Self { client, reply: inbox.into(), timeout }
    }

    /// The headers every command carries; its id too, unless it travels in a batch, where one duplicate would reject them all.
    pub(crate) fn headers(&self, letter: &Letter) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REPLY.clone(), self.reply.clone());
        if let Some(trace) = &letter.trace {
            trace.write(&mut headers);
        }
        headers
    }

    /// Stores a command before the deadline. `doubtful` says that an earlier try may have been stored.
    pub(crate) async fn store(&self, letter: &Letter, deadline: Instant, mut doubtful: bool) -> Result<Ack, NotStored> {
        let mut pause = PAUSE.0;
        loop {
            // Without a connection the client would keep the message and send it when nobody waits any more.
            if self.connected() {
                let mut headers = self.headers(letter);
                headers.insert(MESSAGE_ID.clone(), letter.id.as_str());
                let limit = self.timeout.min(deadline.saturating_duration_since(Instant::now()));
                if limit.is_zero() {
                    return Err(if doubtful { NotStored::Unknown } else { NotStored::Surely });
                }
                match self.request(&letter.subject, headers, letter.body.clone(), limit).await {
                    Try::Stored(ack) => return Ok(ack),
                    Try::Full => return Err(if doubtful { NotStored::Unknown } else { NotStored::Full }),
                    Try::Refused => return Err(if doubtful { NotStored::Unknown } else { NotStored::Surely }),
                    Try::Not => {}
                    Try::Unknown => doubtful = true,
                }
            }
            let rest = rand::rng().random_range(pause / 2..=pause);
            if Instant::now() + rest >= deadline {
                return Err(if doubtful { NotStored::Unknown } else { NotStored::Surely });
            }
            tokio::time::sleep(rest).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One message and what the stream says to it.
    pub(crate) async fn request(&self, subject: &str, headers: HeaderMap, body: Bytes, limit: Duration) -> Try {
        let statistics = self.client.statistics();
        let connects = statistics.connects.load(Ordering::Relaxed);
        let request = Request::new().headers(headers).payload(body).timeout(Some(limit));
        let answer = self.client.send_request(subject.to_owned(), request);
        let refused = nats::refused(subject);
        tokio::pin!(answer, refused);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                _ = &mut refused => return Try::Refused,
                () = tokio::time::sleep(LOOK) => {
                    // The answer would have come over the old connection.
                    if statistics.connects.load(Ordering::Relaxed) != connects {
                        return Try::Unknown;
                    }
                }
            }
        };
        match answer {
            Ok(message) => read(&message.payload),
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders | RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Try::Not,
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Try::Unknown,
            },
        }
    }

    /// One message without an answer.
    pub(crate) async fn send(&self, subject: &str, headers: HeaderMap, body: Bytes) -> bool {
        self.client.publish_with_headers(subject.to_owned(), headers, body).await.is_ok()
    }

    /// How long one try may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether there is a connection.
    pub(crate) fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Asks the stream with a message that it must refuse: it names another stream. The answer shows a stream with a leader, and the
    /// gateway needs no further right for it.
    pub(crate) async fn stream_answers(&self) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", "none");
        let request = Request::new().headers(headers).payload(Bytes::new()).timeout(Some(Duration::from_secs(1)));
        match nats::ask(subjects::PROBE, self.client.send_request(subjects::PROBE, request)).await {
            Ok(message) => serde_json::from_slice::<Answer>(&message.payload).is_ok(),
            Err(_) => false,
        }
    }

    /// Waits until what was handed over is sent.
    pub(crate) async fn flush(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.flush()).await;
    }
}

fn read(payload: &[u8]) -> Try {
    match serde_json::from_slice::<Answer>(payload) {
        Ok(Answer { error: None, duplicate }) => Try::Stored(Ack { duplicate }),
        Ok(Answer { error: Some(error), .. }) if FULL.contains(&error.err_code) => Try::Full,
        Ok(Answer { error: Some(error), .. }) => {
            tracing::debug!(code = error.err_code, error = error.description, "COMMANDS refused a message");
            Try::Not
        }
        Err(error) => {
            tracing::warn!(%error, "an answer of COMMANDS cannot be read");
            Try::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_answers_are_told_apart() {
        assert_eq!(read(br#"{"stream":"COMMANDS","seq":7}"#), Try::Stored(Ack { duplicate: false }));
        assert_eq!(read(br#"{"stream":"COMMANDS","seq":7,"duplicate":true}"#), Try::Stored(Ack { duplicate: true }));
        assert_eq!(read(br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"COMMANDS","seq":0}"#), Try::Full);
        assert_eq!(read(br#"{"error":{"code":503,"err_code":10008,"description":"system temporarily unavailable"}}"#), Try::Not);
        assert_eq!(read(b"+OK"), Try::Unknown);
    }
}
