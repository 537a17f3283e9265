//! What a stream has behind a number, asked for without making anything at the server.

use std::time::Duration;

use async_nats::{Client, StatusCode};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout;

use crate::nats;

/// How long the question may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How many messages of a subject a stream has behind a number, and since when it has the first of them; none if there is none. The server
/// counts them with the answer to a batch of one (ADR-31).
///
/// # Errors
/// In words, with the right that is missing where it is one.
pub async fn after_of(client: &Client, stream: &str, subject: &str, after: u64) -> Result<Option<(u64, OffsetDateTime)>, String> {
    let question = serde_json::json!({ "seq": after + 1, "next_by_subj": subject, "batch": 1 }).to_string();
    let request = format!("$JS.API.DIRECT.GET.{stream}");
    let asked = timeout(LIMIT, nats::ask(&request, client.request(request.clone(), question.into()))).await;
    let answer = asked.map_err(|_| format!("{stream} does not answer"))?.map_err(|error| format!("asking {stream}: {error}"))?;
    if answer.status == Some(StatusCode::NOT_FOUND) {
        return Ok(None);
    }
    let header = |name: &str| answer.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned());
    let (Some(pending), Some(stored)) = (header("Nats-Num-Pending"), header("Nats-Time-Stamp")) else {
        return Err(format!("{stream} answers {:?} {}", answer.status, answer.description.unwrap_or_default()));
    };
    let behind: u64 = pending.parse().map_err(|error| format!("{stream} counts {pending:?}: {error}"))?;
    let since = OffsetDateTime::parse(&stored, &Rfc3339).map_err(|error| format!("{stream} says {stored:?}: {error}"))?;
    Ok(Some((behind + 1, since)))
}
