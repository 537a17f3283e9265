//! HTTP as a client speaks it, and what an answer says.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Incoming, header};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use uuid::Uuid;

use crate::chaos::history::{Answer, EventName, History};

/// How long one try may take; a gateway answers 202 well before.
const TRY: Duration = Duration::from_secs(12);
/// The longest answer that is read.
const MAX_ANSWER: usize = 4 << 20;

/// One try.
#[derive(Debug, Clone)]
pub(super) struct Try<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// None for who holds a link and no token.
    pub(super) token: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) if_match: Option<u64>,
    pub(super) body: Option<&'a Value>,
}

impl<'a> Try<'a> {
    /// A read.
    pub(super) fn get(path: &'a str, token: &'a str) -> Self {
        Self { method: Method::GET, path, token: Some(token), key: None, if_match: None, body: None }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) answer: Answer,
    /// The body as JSON; null when it is none.
    pub(super) body: Value,
    /// The body as it came.
    pub(super) text: String,
}

/// A client with connections of its own, which asks the gateways in turn.
#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    gateways: Vec<SocketAddr>,
    next: AtomicUsize,
    history: History,
}

impl Client {
    pub(super) fn new(gateways: Vec<SocketAddr>, first: usize, history: History) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(3)));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(20)).build(connector);
        Self { http, gateways, next: AtomicUsize::new(first), history }
    }

    fn gateway(&self) -> (usize, Option<SocketAddr>) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.gateways.len().max(1);
        (place, self.gateways.get(place).copied())
    }

    /// One try at the next gateway. That no answer came is an answer, too.
    pub(super) async fn send(&self, attempt: &Try<'_>) -> Said {
        let (place, address) = self.gateway();
        let sent = self.history.now();
        let exchange = async {
            let answer = self.open(address, attempt).await?;
            let status = answer.status().as_u16();
            let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
        };
        match tokio::time::timeout(TRY, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {} s", TRY.as_secs()))) {
            Ok((status, text)) => {
                let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                Said { answer: Answer { gateway: place, sent, ..read(status, &body) }, body, text }
            }
            Err(error) => Said { answer: Answer { gateway: place, sent, error: Some(error), ..Answer::default() }, ..Said::default() },
        }
    }

    /// An answer whose body is read as it comes: an event stream.
    pub(super) async fn stream(&self, path: &str, token: &str, last: Option<&str>) -> Result<hyper::Response<Incoming>, String> {
        let (_, address) = self.gateway();
        let mut request = Request::get(uri(address, path)?).header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(TRY, self.http.request(request)).await.map_err(|_| "no answer in time".to_owned())?;
        answer.map_err(|error| error.to_string())
    }

    async fn open(&self, address: Option<SocketAddr>, attempt: &Try<'_>) -> Result<hyper::Response<Incoming>, String> {
        let mut request = Request::builder().method(attempt.method.clone()).uri(uri(address, attempt.path)?);
        if let Some(token) = attempt.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = attempt.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(version) = attempt.if_match {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        if attempt.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = attempt.body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        self.http.request(request).await.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

fn uri(address: Option<SocketAddr>, path: &str) -> Result<String, String> {
    address.map(|address| format!("http://{address}{path}")).ok_or_else(|| "there is no gateway".to_owned())
}

/// The UUID behind an id's prefix.
pub(super) fn uuid(id: Option<&Value>) -> Option<Uuid> {
    Uuid::try_parse(id?.as_str()?.rsplit('_').next()?).ok()
}

/// What an answer says: of a command (its success, its problem, or its view) or of anything else.
fn read(status: u16, body: &Value) -> Answer {
    let problem = body.get("problem").unwrap_or(body);
    let events = body.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let event = |event: &Value| {
        Some(EventName { id: uuid(event.get("id"))?, event_type: event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned() })
    };
    let mut answer = Answer {
        status: Some(status),
        code: problem.get("code").and_then(Value::as_str).map(str::to_owned),
        command: uuid(body.get("commandId")),
        decided: body.get("status").and_then(Value::as_str).map(str::to_owned),
        aggregate: uuid(body.get("aggregateId")),
        version: body.get("version").and_then(Value::as_u64),
        sequence: body.get("sequence").and_then(Value::as_u64),
        events: events.iter().filter_map(event).collect(),
        ..Answer::default()
    };
    answer.same = same(&answer);
    answer
}

/// What must not change when a key is repeated, of an answer that is final. A refusal names its command and its code; where the answer
/// was read (first, by the key again, or from the command's view) makes no difference.
fn same(answer: &Answer) -> Option<u64> {
    let status = answer.status?;
    let succeeded = matches!(status, 200 | 201) && matches!(answer.decided.as_deref(), None | Some("succeeded"));
    let refused = status / 100 == 4 && !matches!(status, 408 | 429) || matches!(answer.decided.as_deref(), Some("refused" | "failed"));
    let mut hasher = DefaultHasher::new();
    answer.command?.hash(&mut hasher);
    if succeeded {
        (answer.aggregate, answer.version, answer.sequence).hash(&mut hasher);
        answer.events.iter().for_each(|event| (event.id, &event.event_type).hash(&mut hasher));
    } else if refused {
        answer.code.hash(&mut hasher);
    } else {
        return None;
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(prefix: &str, number: u128) -> String {
        format!("{prefix}_{}", Uuid::from_u128(number))
    }

    fn success(sequence: u64) -> Value {
        let events = json!([{ "id": id("evt", 3), "type": "user.created" }]);
        json!({ "commandId": id("cmd", 1), "aggregateId": id("user", 2), "version": 1, "sequence": sequence, "events": events })
    }

    #[test]
    fn a_success_is_the_same_whether_it_was_answered_at_once_or_read_later() {
        let first = read(201, &success(7));
        let mut view = success(7);
        view["status"] = "succeeded".into();
        assert_eq!(first.same, read(200, &view).same);
        assert!(first.same.is_some());
        assert_ne!(first.same, read(201, &success(8)).same);
    }

    #[test]
    fn a_refusal_is_the_same_whether_it_was_answered_at_once_or_read_later() {
        let at_once = read(409, &json!({ "code": "slug_taken", "commandId": id("cmd", 1) }));
        let later = read(200, &json!({ "commandId": id("cmd", 1), "status": "refused", "problem": { "code": "slug_taken" } }));
        assert_eq!(at_once.same, later.same);
        assert!(at_once.same.is_some());
    }

    #[test]
    fn what_is_not_final_is_not_compared() {
        for (status, decided) in [(202, "pending"), (503, "x"), (429, "x"), (408, "x"), (200, "pending")] {
            assert_eq!(read(status, &json!({ "commandId": id("cmd", 1), "status": decided })).same, None, "{status} {decided}");
        }
    }
}
