//! HTTP as a client would speak it: JSON in, JSON out, one answer type.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What the gateway said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The body as JSON, null when it is none.
    pub(crate) body: Value,
    /// The body as it came.
    pub(crate) text: String,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A text at a pointer (`/aggregateId`) of the body.
    ///
    /// # Panics
    /// When it is not there; the message shows the whole answer.
    pub(crate) fn text_at(&self, pointer: &str) -> String {
        let found = self.body.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_else(|| panic!("no text at {pointer} in {} {}", self.status, self.text)).to_owned()
    }

    /// This answer, which must have the status.
    ///
    /// # Panics
    /// When it has another; the message shows the whole answer.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

/// A client with a pool of connections.
#[derive(Clone)]
pub(crate) struct Http(Client<HttpConnector, Full<Bytes>>);

impl Http {
    pub(crate) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    /// A GET whose answer is read as it comes. An error means that no answer began.
    pub(super) async fn open(&self, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<hyper::Response<Incoming>, String> {
        let mut request = Request::builder().uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(LIMIT, self.0.request(request)).await.map_err(|_| "no answer in time".to_owned())?;
        answer.map_err(|error| format!("{error:?}"))
    }

    /// One request. An error means that no answer came.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.0.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = answer.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, text })
        };
        tokio::time::timeout(LIMIT, exchange).await.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?
    }
}
