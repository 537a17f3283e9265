//! Events from the table, for a consumer that is older than the stream's first message: what the stream has forgotten, or never had
//! because it was created anew. The table has every event there ever was, partition by partition in order.

use std::collections::HashMap;

use bytes::Bytes;
use deadpool_postgres::{Pool, Transaction};
use time::OffsetDateTime;

use super::{
    Event, decode,
    ordered::{Item, Owned},
};
use crate::{
    Failure,
    store::{commit::EventRow, describe, outbox::unpublished},
    worker::event_headers,
};

/// Events read in one go.
const PAGE: i64 = 256;

/// An event as the table has it.
#[derive(Debug)]
pub(crate) struct Row {
    /// When it happened.
    pub(crate) occurred_at: OffsetDateTime,
    /// Its place in the table: above that of every earlier event of its partition, and unlike any other's or any place in the stream.
    pub(crate) place: i64,
    pub(crate) subject: String,
    pub(crate) headers: async_nats::HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) event: Result<Event, decode::DecodeError>,
}

impl Row {
    /// As something to be handled, with the position once it is.
    pub(super) fn item(self, sequence: u64) -> Item {
        let Self { place, subject, headers, payload, event, .. } = self;
        Item { sequence, place, subject, headers, payload, event }
    }

    pub(super) fn from(row: EventRow) -> Self {
        let subject = subjects::event(row.tenant, &row.event_type);
        let headers = event_headers(&row);
        let event = decode::envelope(&subject, row.body.as_bytes()).map(|envelope| Event {
            envelope,
            stream_sequence: 0,
            // It may well have been handled before.
            delivered: 2,
            consumer_sequence: 0,
            headers: headers.clone(),
            handling: None,
        });
        Self {
            occurred_at: row.occurred_at,
            place: place(row.partition, row.partition_sequence),
            subject,
            headers,
            payload: Bytes::from(row.body),
            event,
        }
    }
}

/// Below every place in a stream; rising with each partition's own order.
fn place(partition: u16, partition_sequence: u64) -> i64 {
    let rank = i64::try_from(partition_sequence).unwrap_or(i64::MAX).saturating_mul(1 << 10).saturating_add(i64::from(partition));
    (i64::MIN / 2).saturating_add(rank)
}

/// Whether the table has events that this life of EVENTS never had. One that was built anew from the table has all of them.
pub(crate) async fn is_older(pool: &Pool, incarnation: &str) -> Result<bool, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let row = client.query_one("SELECT events_begin_later($1)", &[&incarnation]).await.map_err(|error| describe(&error))?;
    Ok(row.get(0))
}

/// The partitions that have events.
pub(crate) async fn partitions(pool: &Pool) -> Result<Vec<u16>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let select = "SELECT p FROM generate_series(0, 1023) p WHERE EXISTS (SELECT FROM events WHERE partition = p OFFSET 0)";
    let rows = client.query(select, &[]).await.map_err(|error| describe(&error))?;
    Ok(rows.iter().filter_map(|row| u16::try_from(row.get::<_, i32>(0)).ok()).collect())
}

/// Notes that a consumer begins behind everything the table has now.
pub(crate) async fn begin(pool: &Pool, consumer: &str) -> Result<(), String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let insert = "INSERT INTO consumer_begins (consumer, partition, partition_sequence)
         SELECT $1, p, coalesce(e.last, 0) FROM generate_series(0, 1023) p
         LEFT JOIN LATERAL (SELECT max(partition_sequence) AS last FROM events WHERE partition = p) e ON true ON CONFLICT DO NOTHING";
    client.execute(insert, &[&consumer]).await.map(|_| ()).map_err(|error| describe(&error))
}

/// Where a consumer has begun, by partition; nothing for one that takes all there ever was.
async fn begins(pool: &Pool, consumer: &str) -> Result<HashMap<u16, u64>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let select = "SELECT partition, partition_sequence FROM consumer_begins WHERE consumer = $1";
    let rows = client.query(select, &[&consumer]).await.map_err(|error| describe(&error))?;
    Ok(rows.iter().map(|row| (row.get::<_, i16>(0) as u16, row.get::<_, i64>(1) as u64)).collect())
}

/// The next events of a partition that a consumer wants, and the place up to which they were looked at; none at the partition's end.
pub(crate) async fn page(pool: &Pool, filters: &[&str], partition: u16, after: u64) -> Result<Option<(Vec<Row>, u64)>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let rows = unpublished(&client, partition, after, PAGE).await.map_err(|error| describe(&error))?;
    let Some(last) = rows.last().map(|row| row.partition_sequence) else { return Ok(None) };
    let wanted = rows.into_iter().map(Row::from).filter(|row| filters.iter().any(|filter| subjects::matches(filter, &row.subject)));
    Ok(Some((wanted.collect(), last)))
}

/// How far a feeding came.
pub(crate) enum Fed {
    /// The table has nothing more.
    Everything,
    /// The lease is another's.
    Lost,
    /// The process is to end.
    Stopped,
}

impl<H> Owned<'_, H>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// Handles what the table has and the marks do not know. What is fed here and comes in the stream again is known by its mark.
    pub(super) async fn feed(&mut self) -> Result<Fed, String> {
        tracing::warn!(consumer.name = self.durable.name, "reading from the table what the stream does not have");
        let start = self.position.sequence;
        let begins = begins(&self.pool, self.durable.name).await?;
        for partition in partitions(&self.pool).await? {
            let mut after = begins.get(&partition).copied().unwrap_or_default();
            while let Some((rows, last)) = page(&self.pool, self.durable.filters, partition, after).await? {
                after = last;
                let items: Vec<Item> = rows.into_iter().map(|row| row.item(start)).collect();
                for batch in items.chunks(self.durable.batch) {
                    if self.stop.is_cancelled() {
                        return Ok(Fed::Stopped);
                    }
                    if !self.work(batch).await? {
                        return Ok(Fed::Lost);
                    }
                }
            }
        }
        Ok(Fed::Everything)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_table_is_below_the_stream_and_keeps_the_partitions_order() {
        assert!(place(0, 1) < place(0, 2) && place(63, 1) < place(0, 2) && place(0, 1) != place(1, 1));
        assert!(place(1_023, 1 << 40) < 0);
    }
}
