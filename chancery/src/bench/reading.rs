//! Read your writes: every connection creates an invitation, lists the tenant's at once, and looks for it, over and over.

use std::{cell::RefCell, time::Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    client::conn::http1::SendRequest,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Options, contender::Contender, load};

/// Latencies are counted in microseconds up to a minute, to three digits.
const LONGEST: u64 = 60_000_000;
/// Samples of what went wrong that are printed.
const SAMPLES: usize = 5;

/// One connection, as a client has it.
pub(super) struct Caller {
    connection: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Caller {
    pub(super) async fn connect(contender: &Contender) -> anyhow::Result<Self> {
        let door = &contender.door;
        let connection = load::connect(door.address).await?;
        Ok(Self { connection, host: HeaderValue::try_from(door.address.to_string())?, authorization: door.authorization.clone() })
    }

    /// One request, its answer and how long that took in microseconds.
    pub(super) async fn call(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<(u16, Value, u64)> {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host.clone());
        if !body.is_null() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        self.connection.ready().await?;
        let begin = Instant::now();
        let answer = self.connection.send_request(request.body(Full::new(bytes))?).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default(), micros))
    }
}

/// What came of the pairs.
struct Tally {
    next: usize,
    creates: Histogram<u64>,
    lists: Histogram<u64>,
    /// Created and not in the list.
    missing: Vec<String>,
    /// Not answered as it should be.
    failed: Vec<String>,
}

/// Latencies from nothing.
pub(super) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

/// A percentile in milliseconds.
pub(super) fn ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1_000.0
}

/// Runs so many pairs and prints; true when everything created was in its list.
///
/// # Errors
/// A connection cannot be made, or breaks.
pub(super) async fn run(contender: &Contender, tenants: &[Uuid], pairs: usize, options: &Options) -> anyhow::Result<bool> {
    eprintln!("{pairs} pairs of create and list over {} connections …", options.concurrency);
    let callers = join_all((0..options.concurrency).map(|_| Caller::connect(contender))).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let tally = RefCell::new(Tally { next: 0, creates: latencies()?, lists: latencies()?, missing: Vec::new(), failed: Vec::new() });
    let begin = Instant::now();
    let slots = callers.into_iter().map(|mut caller| {
        let tally = &tally;
        async move {
            loop {
                let number = tally.borrow().next;
                if number >= pairs {
                    return anyhow::Ok(());
                }
                tally.borrow_mut().next += 1;
                pair(&mut caller, tenants[number % tenants.len()], number, tally).await?;
            }
        }
    });
    join_all(slots).await.into_iter().collect::<anyhow::Result<Vec<()>>>().context("a connection broke")?;
    let (tally, seconds) = (tally.into_inner(), begin.elapsed().as_secs_f64());
    let (missing, failed) = (tally.missing.len(), tally.failed.len());
    let figures = json!({
        "pairs": pairs, "connections": options.concurrency, "pairsPerSecond": (pairs as f64 / seconds).round(),
        "createP50Ms": ms(&tally.creates, 0.5), "createP99Ms": ms(&tally.creates, 0.99),
        "listP50Ms": ms(&tally.lists, 0.5), "listP99Ms": ms(&tally.lists, 0.99), "missing": missing, "failed": failed,
    });
    if options.json {
        println!("{figures}");
    } else {
        println!("| pairs | connections | pairs/s | create p50/p99 ms | list p50/p99 ms | created and not listed | failed |");
        println!("|---|---|---|---|---|---|---|");
        let (creates, lists) = (&tally.creates, &tally.lists);
        println!(
            "| {pairs} | {} | {:.0} | {:.1} / {:.1} | {:.1} / {:.1} | {missing} | {failed} |",
            options.concurrency,
            pairs as f64 / seconds,
            ms(creates, 0.5),
            ms(creates, 0.99),
            ms(lists, 0.5),
            ms(lists, 0.99)
        );
    }
    for sample in tally.missing.iter().chain(&tally.failed).take(SAMPLES) {
        eprintln!("{sample}");
    }
    Ok(missing + failed == 0)
}

/// Creates one and lists: the newest of the tenant, or by its address, in turn.
async fn pair(caller: &mut Caller, tenant: Uuid, number: usize, tally: &RefCell<Tally>) -> anyhow::Result<()> {
    let path = format!("/v1/tenants/tenant_{tenant}/invitations");
    let email = format!("pair{number}@bench.example");
    let body = json!({ "email": email, "send": false });
    let (status, answer, micros) = caller.call(Method::POST, &path, &body).await?;
    let Some(id) = answer["aggregateId"].as_str().filter(|_| status == 201) else {
        tally.borrow_mut().failed.push(format!("create {email}: {status} {answer}"));
        return Ok(());
    };
    tally.borrow_mut().creates.saturating_record(micros);
    let query = if number.is_multiple_of(2) { "pageSize=100".to_owned() } else { format!("email={email}&state=created") };
    let (status, answer, micros) = caller.call(Method::GET, &format!("{path}?{query}"), &Value::Null).await?;
    let mut tally = tally.borrow_mut();
    match answer["items"].as_array().filter(|_| status == 200) {
        None => tally.failed.push(format!("list after {id}: {status} {answer}")),
        Some(items) => {
            tally.lists.saturating_record(micros);
            if !items.iter().any(|item| item["id"] == id) {
                tally.missing.push(format!("{id} is not in the list asked for with {query}"));
            }
        }
    }
    Ok(())
}
