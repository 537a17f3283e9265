//! Publishing an event again that EVENTS has lost: beside the living owner, behind the event's successors, and marked as such.

use std::time::Duration;

use async_nats::{Client, jetstream::stream::Stream};
use bytes::Bytes;
use subjects::header;
use tokio::time::{Instant, sleep};

use crate::{
    failpoint,
    store::commit::EventRow,
    worker::{PublishError, event_headers, store_message},
};

/// Tries of one event at most, where the fence moves or an answer is lost.
const TRIES: u32 = 10;
/// The server's code for an expected sequence that is not the last.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// Longer than the server remembers an id for (and so takes what it has lost for a repeat), nothing is waited for.
const MARGIN: Duration = Duration::from_secs(30);

/// Publishes one event as a late one; the sequence it got.
///
/// It needs no fence for its order, as it has none. But it expects the fence that its partition has now: a repair that froze and wakes up in
/// another life of EVENTS, or under another owner, finds another fence there, and publishes nothing before it has looked again.
///
/// # Errors
/// It is not stored, and why.
pub(super) async fn publish(
    client: &Client,
    stream: &Stream,
    event: &EventRow,
    limit: Duration,
    still: &mut impl AsyncFnMut() -> Result<(), String>,
) -> Result<u64, String> {
    let subject = subjects::event(event.tenant, &event.event_type);
    let fence_subject = subjects::fence(event.partition);
    let patience = stream.cached_info().config.duplicate_window + MARGIN;
    let begun = Instant::now();
    let mut error = String::new();
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        still().await?;
        let fence = fence(stream, &fence_subject).await?;
        failpoint::hit("late_fence_read");
        let mut headers = event_headers(event);
        headers.insert(header::LATE, "true");
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, fence.to_string());
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, fence_subject.as_str());
        match store_message(client, limit, subject.clone(), headers, Bytes::copy_from_slice(event.body.as_bytes())).await {
            Err(unknown @ PublishError::Unknown(_)) => {
                error = unknown.to_string();
                sleep(Duration::from_millis(200) * tries).await;
            }
            Err(PublishError::Refused { code: WRONG_LAST_SEQUENCE, .. }) => error = "the partition's owner changes all the time".into(),
            Err(refused) => return Err(refused.to_string()),
            Ok(stored) if stored.duplicate => {
                // The server remembers the id. If it has the message, this is an earlier try of ours; if it has lost it, it takes it again
                // as soon as it has forgotten the id.
                if stream.get_raw_message(stored.seq).await.is_ok_and(|found| found.headers.get(header::LATE).is_some()) {
                    return Ok(stored.seq);
                }
                error = "the server still remembers the event that it has lost".into();
                if begun.elapsed() > patience {
                    return Err(error);
                }
                tries -= 1;
                sleep(Duration::from_millis(500)).await;
            }
            Ok(stored) => return Ok(stored.seq),
        }
    }
    Err(error)
}

/// The sequence of a partition's last fence; 0 when the stream has none (any more).
async fn fence(stream: &Stream, subject: &str) -> Result<u64, String> {
    use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(message.sequence),
        Err(error) if matches!(error.kind(), Kind::NoMessageFound) => Ok(0),
        Err(error) => Err(error.to_string()),
    }
}
