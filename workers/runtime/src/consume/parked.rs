//! What waits behind an event that failed: rows, in order, one queue for each aggregate.

use async_nats::HeaderMap;
use deadpool_postgres::{Pool, Transaction};
use std::{collections::HashSet, time::Duration};
use subjects::header;
use tokio_postgres::Error;

use super::Event;
use crate::store::describe;

/// Why and how long an event waits.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pub(crate) attempts: u32,
    pub(crate) delay: Duration,
    pub(crate) error: &'a str,
}

/// The first event of a queue.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) aggregate: String,
    pub(crate) attempts: u32,
    /// The body and the headers as they were published, and the event if it can still be read. Where an operator has let it be tried anew, the
    /// headers say how often.
    pub(crate) body: String,
    pub(crate) headers: HeaderMap,
    pub(crate) event: Result<Event, String>,
    /// Its place: that in the stream, or a negative one for an event from the table.
    pub(crate) place: i64,
}

/// Puts an event at the end of its aggregate's queue. Twice is once.
pub(crate) async fn park(
    transaction: &Transaction<'_>,
    consumer: &str,
    event: &Event,
    place: i64,
    body: &str,
    waiting: Waiting<'_>,
) -> Result<(), Error> {
    let statement = transaction
        .prepare_cached(
            "INSERT INTO consumer_parked (consumer, stream_sequence, aggregate, tenant_id, envelope, headers, attempts, next_at, error)
             VALUES ($1, $2, $3, $4, ($5::text)::json, ($6::text)::json, $7, now() + make_interval(secs => $8), $9) ON CONFLICT DO NOTHING",
        )
        .await?;
    let attempts = i32::try_from(waiting.attempts).unwrap_or(i32::MAX);
    transaction
        .execute(
            &statement,
            &[
                &consumer,
                &place,
                &event.aggregate_key(),
                &event.envelope.tenant_id.uuid(),
                &body,
                &headers_text(&event.headers),
                &attempts,
                &waiting.delay.as_secs_f64(),
                &waiting.error,
            ],
        )
        .await
        .map(|_| ())
}

/// The aggregates that have a queue.
pub(crate) async fn aggregates(pool: &Pool, consumer: &str) -> Result<HashSet<String>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let rows = client.query("SELECT DISTINCT aggregate FROM consumer_parked WHERE consumer = $1", &[&consumer]).await;
    Ok(rows.map_err(|error| describe(&error))?.iter().map(|row| row.get(0)).collect())
}

/// The first events of queues that are due and not given up.
pub(crate) async fn due(pool: &Pool, consumer: &str, limit: i64) -> Result<Vec<Head>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let rows = client
        .query(
            "SELECT aggregate, stream_sequence, envelope::text, headers::text, attempts, redrives FROM (
                 SELECT DISTINCT ON (aggregate) * FROM consumer_parked WHERE consumer = $1 ORDER BY aggregate, stream_sequence) head
             WHERE NOT dead AND next_at <= now() ORDER BY next_at LIMIT $2",
            &[&consumer, &limit],
        )
        .await
        .map_err(|error| describe(&error))?;
    Ok(rows
        .iter()
        .map(|row| {
            let place: i64 = row.get(1);
            let attempts = u32::try_from(row.get::<_, i32>(4)).unwrap_or_default();
            let body: String = row.get(2);
            let (mut headers, redrives) = (headers_of(row.get(3)), row.get::<_, i32>(5));
            if redrives > 0 {
                headers.insert(header::REDRIVES, redrives.to_string());
            }
            let event = serde_json::from_str(&body).map_err(|error| error.to_string()).map(|envelope| Event {
                envelope,
                stream_sequence: u64::try_from(place).unwrap_or_default(),
                delivered: attempts + 1,
                consumer_sequence: 0,
                headers: headers.clone(),
                handling: None,
            });
            Head { aggregate: row.get(0), attempts, body, headers, event, place }
        })
        .collect())
}

/// Takes an event out of its queue, in the transaction that handled it.
pub(crate) async fn leave(transaction: &Transaction<'_>, consumer: &str, place: i64) -> Result<(), Error> {
    transaction.execute("DELETE FROM consumer_parked WHERE consumer = $1 AND stream_sequence = $2", &[&consumer, &place]).await.map(|_| ())
}

/// Whether an aggregate has no queue any more.
pub(crate) async fn is_empty(pool: &Pool, consumer: &str, aggregate: &str) -> Result<bool, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let row = client.query_opt("SELECT FROM consumer_parked WHERE consumer = $1 AND aggregate = $2 LIMIT 1", &[&consumer, &aggregate]).await;
    Ok(row.map_err(|error| describe(&error))?.is_none())
}

/// Notes another failure; with `dead` nothing happens to it any more until an operator redrives it (`letters`).
pub(crate) async fn failed(pool: &Pool, consumer: &str, place: i64, waiting: Waiting<'_>, dead: bool) -> Result<(), String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let attempts = i32::try_from(waiting.attempts).unwrap_or(i32::MAX);
    client
        .execute(
            "UPDATE consumer_parked SET attempts = $3, next_at = now() + make_interval(secs => $4), error = $5, dead = $6
             WHERE consumer = $1 AND stream_sequence = $2",
            &[&consumer, &place, &attempts, &waiting.delay.as_secs_f64(), &waiting.error, &dead],
        )
        .await
        .map(|_| ())
        .map_err(|error| describe(&error))
}

fn headers_text(headers: &HeaderMap) -> String {
    let pairs = headers.iter().filter_map(|(name, values)| Some((name.to_string(), serde_json::Value::from(values.first()?.as_str()))));
    serde_json::Value::Object(pairs.collect()).to_string()
}

pub(crate) fn headers_of(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(serde_json::Value::Object(pairs)) = serde_json::from_str(text) {
        for (name, value) in &pairs {
            if let Some(value) = value.as_str() {
                headers.insert(name.as_str(), value);
            }
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_parking() {
        let mut headers = HeaderMap::new();
        headers.insert("Chancery-Ip", "192.0.2.1");
        assert_eq!(headers_of(&headers_text(&headers)).get("Chancery-Ip").map(|value| value.as_str()), Some("192.0.2.1"));
        assert_eq!(headers_of("no json").len(), 0);
    }
}
