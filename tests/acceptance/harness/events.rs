//! Server-sent events as a client would read them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use hyper::{HeaderMap, body::Incoming};
use serde_json::Value;

use super::{http::Http, stack::Stack};

/// How long a stream may stay silent before a test calls it lost.
const LIMIT: Duration = Duration::from_secs(60);

/// An event as it was received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: Value,
}

impl Received {
    /// Its place in the tenant's history.
    pub(crate) fn sequence(&self) -> u64 {
        self.data["sequence"].as_u64().unwrap()
    }
}

/// An open stream.
pub(crate) struct EventStream {
    body: Incoming,
    text: String,
    /// The headers of the answer.
    pub(crate) headers: HeaderMap,
    /// The last id, whether an event or only life came with it.
    pub(crate) last_id: String,
    /// How often it has shown life without an event.
    pub(crate) alive: usize,
}

impl EventStream {
    /// Opens a stream at a gateway, after an id unless it is empty, and reads how it begins.
    ///
    /// # Errors
    /// The status and the body of an answer that is none.
    pub(crate) async fn open(gateway: SocketAddr, path: &str, token: &str, after: &str) -> Result<Self, (u16, String)> {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend((!after.is_empty()).then_some(("last-event-id", after)));
        let answer = Http::new().open(gateway, path, &headers).await.unwrap();
        let (head, body) = answer.into_parts();
        if head.status != 200 {
            let text = body.collect().await.unwrap().to_bytes();
            return Err((head.status.as_u16(), String::from_utf8_lossy(&text).into_owned()));
        }
        let mut stream = Self { body, text: String::new(), headers: head.headers, last_id: String::new(), alive: 0 };
        assert!(stream.block().await.is_some_and(|block| block.contains("retry: ")), "a stream begins with when to come again");
        Ok(stream)
    }

    /// The next block of lines; none when the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                if let Some(id) = field(&block, "id") {
                    self.last_id = id;
                }
                return Some(block);
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await.expect("the stream is silent for a minute");
            let data = frame?.ok()?.into_data().ok()?;
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next event; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < LIMIT, "no event within a minute");
            let block = self.block().await?;
            match field(&block, "data") {
                Some(data) => {
                    let data = serde_json::from_str(&data).unwrap();
                    return Some(Received { id: self.last_id.clone(), event: field(&block, "event").unwrap(), data });
                }
                None => self.alive += 1,
            }
        }
    }

    /// The next events, so many.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.next().await.expect("the stream has ended"));
        }
        all
    }

    /// Reads until it has shown life without an event.
    pub(crate) async fn lives(&mut self) {
        let block = self.block().await.expect("the stream has ended");
        assert!(field(&block, "data").is_none() && block.contains("\n: "), "{block}");
        self.alive += 1;
    }
}

fn field(block: &str, name: &str) -> Option<String> {
    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(ToOwned::to_owned)
}

impl Stack {
    /// Opens the event stream of a tenant at the first gateway.
    pub(crate) async fn events(&self, tenant: &str, token: &str, query: &str, after: &str) -> EventStream {
        let path = format!("/v1/tenants/{tenant}/events{query}");
        EventStream::open(self.gateways()[0], &path, token, after).await.unwrap()
    }
}
