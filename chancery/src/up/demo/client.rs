//! A client as it should be: every command under a key of its own, repeated under that key until there is an answer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, header};
use hyper_util::{client::legacy, client::legacy::connect::HttpConnector, rt::TokioExecutor};
use runtime::config::Secret;
use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Requests under way at once.
const AT_ONCE: usize = 12;
/// How long one command may take, repeats included.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(15);
/// The pause before a repeat.
const PAUSE: Duration = Duration::from_millis(100);
/// Every so many commands one is posted twice at once.
const TWICE: usize = 5;

/// A command that has its answer.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) command: Uuid,
    /// The events the answer named; none for a refusal, whose answer names none.
    pub(crate) events: Option<Vec<Uuid>>,
}

/// One command as posted.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Value,
    /// False for who follows a link and has no token.
    pub(crate) signed: bool,
    /// The refusal that is the right answer, if one is.
    pub(crate) refusal: Option<&'a str>,
}

impl<'a> Order<'a> {
    /// A command that should succeed.
    pub(crate) fn post(path: &'a str, body: Value) -> Self {
        Self { method: Method::POST, path, body, signed: true, refusal: None }
    }
}

/// The client and what it was answered.
#[derive(Debug)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    gateway: String,
    token: Secret,
    /// In every key, slug and address: a demo may be played again on the same data.
    pub(crate) run: String,
    numbers: AtomicUsize,
    repeats: AtomicUsize,
    differing: AtomicUsize,
    answers: Mutex<Vec<Answered>>,
    permits: Semaphore,
}

impl Client {
    pub(crate) fn new(gateway: &str, token: &str) -> Self {
        Self {
            http: legacy::Client::builder(TokioExecutor::new()).build_http(),
            gateway: gateway.to_owned(),
            token: Secret::new(token),
            run: format!("{:08x}", rand::random::<u32>()),
            numbers: AtomicUsize::new(0),
            repeats: AtomicUsize::new(0),
            differing: AtomicUsize::new(0),
            answers: Mutex::new(Vec::new()),
            permits: Semaphore::new(AT_ONCE),
        }
    }

    /// Commands that have their answer so far.
    pub(crate) fn answered(&self) -> usize {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those answers.
    pub(crate) fn answers(&self) -> Vec<Answered> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a command was posted again because it had no answer yet.
    pub(crate) fn repeats(&self) -> usize {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Commands posted twice whose two answers were not the same.
    pub(crate) fn differing(&self) -> usize {
        self.differing.load(Ordering::Relaxed)
    }

    /// Posts one command and gives its answer's body.
    ///
    /// # Errors
    /// An answer that is none, or not the right one.
    pub(crate) async fn order(&self, order: Order<'_>) -> anyhow::Result<Value> {
        let _permit = self.permits.acquire().await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let key = format!("demo-{}-{number}", self.run);
        let (answer, body) = if number.is_multiple_of(TWICE) {
            let ((one, body), (other, _)) = tokio::try_join!(self.settled(&order, &key), self.settled(&order, &key))?;
            if one.command != other.command || one.events != other.events {
                self.differing.fetch_add(1, Ordering::Relaxed);
            }
            (one, body)
        } else {
            self.settled(&order, &key).await?
        };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        Ok(body)
    }

    /// Asks under one key until the outcome is known.
    async fn settled(&self, order: &Order<'_>, key: &str) -> anyhow::Result<(Answered, Value)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let trouble = match self.request(&order.method, order.path, order.signed, Some(key), Some(&order.body)).await {
                // Accepted and not decided yet, asked too fast, or not able to say: the key makes asking again harmless.
                Ok((202 | 429 | 503, body)) => body.to_string(),
                Ok((status, body)) => return read(status, body, order).with_context(|| format!("{} {}", order.method, order.path)),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("no outcome of {} {} within {} s: {trouble}", order.method, order.path, PATIENCE.as_secs());
            }
            self.repeats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads something.
    ///
    /// # Errors
    /// Another answer than 200.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        match self.request(&Method::GET, path, true, None, None).await? {
            (200, body) => Ok(body),
            (status, body) => bail!("GET {path}: {status} {body}"),
        }
    }

    async fn request(&self, method: &Method, path: &str, signed: bool, key: Option<&str>, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.gateway)).header(header::CONTENT_TYPE, "application/json");
        if signed {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))?;
        let exchange = async {
            let answer = self.http.request(request).await?;
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        };
        tokio::time::timeout(REQUEST, exchange).await.context("no answer in time")?
    }
}

/// Takes the ids out of an answer that is the right one.
fn read(status: u16, body: Value, order: &Order<'_>) -> anyhow::Result<(Answered, Value)> {
    let code = body.get("code").and_then(Value::as_str);
    if !matches!((status, order.refusal), (200 | 201, None)) && (order.refusal.is_none() || code != order.refusal) {
        bail!("answered {status} {body}");
    }
    let command = body.get("commandId").and_then(uuid).with_context(|| format!("no command in {body}"))?;
    let events = body.get("events").and_then(Value::as_array);
    let events = events.map(|events| events.iter().filter_map(|event| uuid(event.get("id")?)).collect());
    Ok((Answered { command, events }, body))
}

/// The UUID behind an id's prefix.
pub(crate) fn uuid(id: &Value) -> Option<Uuid> {
    Uuid::try_parse(id.as_str()?.rsplit('_').next()?).ok()
}
