//! The load: HTTP over keep-alive connections, one for each slot, everything on one thread so that it takes little from the two cores
//! it shares with what is measured. Requests are made before the clock starts.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, sync::Semaphore};
use uuid::Uuid;

/// Latencies are counted in microseconds up to a minute, to three digits.
const LONGEST: u64 = 60_000_000;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) uri: Uri,
    pub(super) body: Bytes,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    pub(super) method: Method,
    pub(super) authorization: Option<HeaderValue>,
}

/// When requests start.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// The next when the last is answered.
    Closed,
    /// So many a second, whatever is answered; latency counts from the planned start.
    Open(f64),
}

/// What an accepted command's answer says.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) command: Uuid,
    pub(super) aggregate: Option<Uuid>,
    pub(super) event: Option<Uuid>,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) begin: Instant,
    pub(super) end: Instant,
    /// Answers by place of their order, for those that were accepted.
    pub(super) accepted: Vec<(usize, Accepted)>,
    pub(super) latency: Histogram<u64>,
    /// What was not a success, by status, with one body as a sample.
    pub(super) refused: BTreeMap<String, (u64, String)>,
    /// Orders that had no answer when the time was up.
    pub(super) unanswered: usize,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        let latency = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self { begin: now, end: now, accepted: Vec::new(), latency, refused: BTreeMap::new(), unanswered: 0 })
    }

    /// A percentile in milliseconds.
    pub(super) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// Everything that was not a success, as a sentence; none when there is nothing.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut parts: Vec<String> = self.refused.iter().map(|(status, (count, sample))| format!("{count} × {status} ({sample})")).collect();
        if self.unanswered > 0 {
            parts.push(format!("{} without an answer", self.unanswered));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn refuse(&mut self, status: String, sample: &str) {
        self.refused.entry(status).or_insert_with(|| (0, sample.chars().take(200).collect())).0 += 1;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    command_id: &'a str,
    #[serde(default)]
    aggregate_id: &'a str,
    #[serde(default, borrow)]
    events: Vec<AnswerEvent<'a>>,
}

#[derive(Deserialize)]
struct AnswerEvent<'a> {
    id: &'a str,
}

fn uuid(id: &str) -> Option<Uuid> {
    Uuid::try_parse(id.rsplit('_').next()?).ok()
}

fn read(body: &[u8]) -> Option<Accepted> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    Some(Accepted {
        command: uuid(answer.command_id)?,
        aggregate: uuid(answer.aggregate_id),
        event: answer.events.first().and_then(|event| uuid(event.id)),
    })
}

/// The orders, who is next, and what came of them; shared by the slots of one thread.
struct Desk<'a> {
    door: &'a Door,
    host: HeaderValue,
    orders: &'a [Order],
    next: Cell<usize>,
    tally: RefCell<Tally>,
    pacing: Option<Pacing>,
}

/// Open pace: a thread lets requests go, because the runtime's clock is too coarse.
struct Pacing {
    permits: Arc<Semaphore>,
    gap: Duration,
    over: Arc<AtomicBool>,
}

impl Pacing {
    fn start(begin: Instant, rate: f64, count: usize) -> Self {
        let pacing = Self { permits: Arc::new(Semaphore::new(0)), gap: Duration::from_secs_f64(1.0 / rate), over: Arc::default() };
        let (permits, gap, over) = (pacing.permits.clone(), pacing.gap, pacing.over.clone());
        std::thread::spawn(move || {
            for index in 0..count {
                let planned = begin + gap.mul_f64(index as f64);
                if let Some(pause) = planned.checked_duration_since(Instant::now()) {
                    std::thread::sleep(pause);
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
                permits.add_permits(1);
            }
        });
        pacing
    }
}

impl Drop for Pacing {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Desk<'_> {
    /// The next order and when it is due. None when there is no more.
    async fn take(&self) -> Option<(usize, Instant)> {
        if let Some(pacing) = &self.pacing
            && self.next.get() < self.orders.len()
        {
            pacing.permits.acquire().await.ok()?.forget();
        }
        let index = self.next.get();
        if index >= self.orders.len() {
            // Others may be waiting for a permit that will not come.
            if let Some(pacing) = &self.pacing {
                pacing.permits.close();
            }
            return None;
        }
        self.next.set(index + 1);
        let due = match &self.pacing {
            None => Instant::now(),
            Some(pacing) => self.tally.borrow().begin + pacing.gap.mul_f64(index as f64),
        };
        if self.next.get() >= self.orders.len()
            && let Some(pacing) = &self.pacing
        {
            pacing.permits.close();
        }
        Some((index, due))
    }

    async fn slot(&self, mut connection: SendRequest<Full<Bytes>>) {
        while let Some((index, due)) = self.take().await {
            match self.send(&mut connection, &self.orders[index]).await {
                Ok((status, body)) => {
                    let mut tally = self.tally.borrow_mut();
                    tally.end = Instant::now();
                    let micros = tally.end.saturating_duration_since(due).as_micros().min(u128::from(LONGEST)) as u64;
                    match read(&body).filter(|_| (200..300).contains(&status)) {
                        Some(accepted) => {
                            tally.latency.saturating_record(micros.max(1));
                            tally.accepted.push((index, accepted));
                        }
                        None => tally.refuse(status.to_string(), &String::from_utf8_lossy(&body)),
                    }
                }
                Err(error) => {
                    self.tally.borrow_mut().refuse("no answer".into(), &error.to_string());
                    match connect(self.door.address).await {
                        Ok(again) => connection = again,
                        Err(_) => return,
                    }
                }
            }
        }
    }

    async fn send(&self, connection: &mut SendRequest<Full<Bytes>>, order: &Order) -> anyhow::Result<(u16, Bytes)> {
        let mut request = Request::new(Full::new(order.body.clone()));
        *request.method_mut() = self.door.method.clone();
        *request.uri_mut() = order.uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.door.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// A connection of its own.
///
/// # Errors
/// Nobody listens.
pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends every order over so many connections, within a limit of time.
///
/// # Errors
/// No connection at all; what is refused or unanswered is in the tally.
pub(super) async fn run(door: &Door, orders: &[Order], pace: Pace, slots: usize, limit: Duration) -> anyhow::Result<Tally> {
    let connections = join_all((0..slots.max(1)).map(|_| connect(door.address))).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut tally = Tally::new()?;
    tally.accepted.reserve(orders.len());
    let begin = tally.begin;
    let pacing = match pace {
        Pace::Closed => None,
        Pace::Open(rate) => Some(Pacing::start(begin, rate, orders.len())),
    };
    let host = HeaderValue::try_from(door.address.to_string())?;
    let desk = Desk { door, host, orders, next: Cell::new(0), tally: RefCell::new(tally), pacing };
    // What has no answer in time shows in the tally.
    let _ = tokio::time::timeout(limit, join_all(connections.into_iter().map(|connection| desk.slot(connection)))).await;
    let mut tally = desk.tally.into_inner();
    let answered = tally.accepted.len() as u64 + tally.refused.values().map(|(count, _)| count).sum::<u64>();
    tally.unanswered = orders.len().saturating_sub(answered as usize);
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_the_ids_of_command_aggregate_and_first_event() {
        let id = |n: u128| Uuid::from_u128(n);
        let body = format!(
            r#"{{"commandId":"cmd_{}","aggregateId":"user_{}","version":2,"sequence":9,"events":[{{"id":"evt_{}","type":"user.profile_updated"}}]}}"#,
            id(1),
            id(2),
            id(3)
        );
        let accepted = read(body.as_bytes()).unwrap();
        assert_eq!((accepted.command, accepted.aggregate, accepted.event), (id(1), Some(id(2)), Some(id(3))));
        assert!(read(b"{}").is_none());
    }
}
