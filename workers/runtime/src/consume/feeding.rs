//! Feeding a consumer without order from the table, before it pulls for the first time. Nobody pulls before it is done, so the durable's
//! own state tells that it is needed; how far it is stands in `consumer_feeds`. Replicas may do it at the same time, and an interrupted
//! one goes on: a repeat is harmless to such a consumer, and what is fed is marked as a repeat (`Event::delivered`).

use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use bytes::Bytes;
use deadpool_postgres::Pool;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::{
    Event, Start,
    deadletter::{self, DeadLetter},
    decode,
    feed::{self, Row},
    halving::Halving,
    progress::{Batch, Unsettled},
    shared::{Shared, wait},
};
use crate::{Failure, store::describe, streams};

/// An event is in the table a little after its time; by so much a later feeding begins before the start of the one before.
const MARGIN: time::Duration = time::Duration::hours(1);

/// Where a feeding goes on.
struct Place {
    partition: u16,
    partition_sequence: u64,
    /// Older events were read by a feeding before.
    since: OffsetDateTime,
}

/// Notes that a feeding has begun, for a consumer that begins at a time from then on, or finds one that is not done. None when the durable was fed already.
async fn begin(
    pool: &Pool,
    consumer: &str,
    durable_created: OffsetDateTime,
    is_new: bool,
    start: Option<OffsetDateTime>,
) -> Result<Option<Place>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let row = client
        .query_opt(
            "INSERT INTO consumer_feeds AS f (consumer, since, started_at) VALUES ($1, coalesce($5::timestamptz, '-infinity'), now())
             ON CONFLICT (consumer) DO UPDATE SET done = false,
                 partition = CASE WHEN f.done THEN 0 ELSE f.partition END,
                 partition_sequence = CASE WHEN f.done THEN 0 ELSE f.partition_sequence END,
                 since = CASE WHEN NOT f.done THEN f.since WHEN $3 THEN coalesce($5::timestamptz, '-infinity')
                     ELSE f.started_at - $4::float8 * interval '1 second' END,
                 started_at = CASE WHEN f.done THEN now() ELSE f.started_at END
             WHERE NOT (f.done AND $3 AND f.started_at > $2)
             RETURNING partition, partition_sequence, CASE WHEN since = '-infinity' THEN 'epoch' ELSE since END",
            &[&consumer, &durable_created, &is_new, &MARGIN.as_seconds_f64(), &start],
        )
        .await
        .map_err(|error| describe(&error))?;
    Ok(row.map(|row| Place {
        partition: u16::try_from(row.get::<_, i16>(0)).unwrap_or_default(),
        partition_sequence: u64::try_from(row.get::<_, i64>(1)).unwrap_or_default(),
        since: row.get(2),
    }))
}

/// Notes how far it is; `None` when it is done.
async fn note(pool: &Pool, consumer: &str, place: Option<(u16, u64)>) -> Result<(), String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let update = "UPDATE consumer_feeds SET partition = coalesce($2, partition), partition_sequence = coalesce($3, partition_sequence), done = $4
         WHERE consumer = $1";
    let partition = place.and_then(|(partition, _)| i16::try_from(partition).ok());
    let sequence = place.and_then(|(_, sequence)| i64::try_from(sequence).ok());
    client.execute(update, &[&consumer, &partition, &sequence, &place.is_none()]).await.map(|_| ()).map_err(|error| describe(&error))
}

impl<H> Shared<'_, H>
where
    H: AsyncFnMut(&[Event]) -> Result<(), Failure>,
{
    /// Feeds the consumer where it is older than what the stream has. False when stopped.
    pub(super) async fn feed_if_older(&mut self, consumer: &consumer::Info, stream: &stream::Info) -> Result<bool, String> {
        let is_new = consumer.delivered.consumer_sequence == 0;
        if self.durable.stream != subjects::stream::EVENTS || is_new && self.durable.start == Start::New {
            return Ok(true);
        }
        let (had, first) = (consumer.delivered.stream_sequence, stream.state.first_sequence);
        let start = if let Start::At(start) = self.durable.start { Some(start) } else { None };
        // The server begins with what is left, and says so in no number.
        let began_later = is_new && start.is_some_and(|start| stream.state.messages == 0 || stream.state.first_timestamp > start);
        let forgotten = streams::has_forgotten(stream) && (had + 1 < first || began_later) || self.behind;
        let Some(pool) = self.pool.clone() else {
            if forgotten {
                self.metrics.gaps.inc();
                tracing::error!(
                    consumer.name = self.durable.name,
                    had,
                    first,
                    "the stream has forgotten events, and there is no database to read them from"
                );
            }
            self.behind = false;
            return Ok(true);
        };
        if !(forgotten || is_new && feed::is_older(&pool, &streams::incarnation(stream)).await?) {
            return Ok(true);
        }
        let Some(place) = begin(&pool, self.durable.name, consumer.created, is_new, start).await? else { return Ok(true) };
        tracing::warn!(consumer.name = self.durable.name, had, first, "reading from the table what the stream does not have");
        self.metrics.feeding.set(1);
        let fed = self.feed_all(&pool, &place).await;
        self.metrics.feeding.set(0);
        fed
    }

    /// Reads the table from a place on. False when stopped.
    async fn feed_all(&mut self, pool: &Pool, place: &Place) -> Result<bool, String> {
        for partition in feed::partitions(pool).await?.into_iter().filter(|partition| *partition >= place.partition) {
            let mut after = if partition == place.partition { place.partition_sequence } else { 0 };
            while let Some((mut rows, last)) = feed::page(pool, self.durable.filters, partition, after).await? {
                rows.retain(|row| row.occurred_at >= place.since);
                if !self.feed_rows(rows).await? {
                    return Ok(false);
                }
                after = last;
                note(pool, self.durable.name, Some((partition, after))).await?;
            }
        }
        note(pool, self.durable.name, None).await?;
        self.behind = false;
        tracing::info!(consumer.name = self.durable.name, "the table has nothing more");
        Ok(true)
    }

    async fn feed_rows(&mut self, rows: Vec<Row>) -> Result<bool, String> {
        let mut batch = Batch::default();
        for row in rows {
            match row.event {
                Ok(event) => batch.push(event, row.payload, Unsettled::nothing()),
                Err(error) => self.give_up(&row.headers, decode::type_of(&row.subject), row.payload, error.reason(), &error.to_string(), 1).await?,
            }
        }
        let mut halving = Halving::new(batch.events.len());
        let mut outages = 0;
        while let Some(range) = halving.next() {
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            let Err(failure) = self.call(&mut batch, range.clone()).await else {
                outages = 0;
                batch.events[range].iter().for_each(|event| self.metrics.handled(&event.envelope));
                continue;
            };
            self.metrics.failed(&failure);
            if let Failure::Outage(error) = &failure {
                outages += 1;
                tracing::warn!(consumer.name = self.durable.name, %error, "waiting for something outside");
                self.pause(wait(outages)).await;
                halving.again(range);
            } else if let Some(place) = halving.failed(range)
                && !self.feed_one(&mut batch, place, failure).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The one event at fault: again and again, then a dead letter. False when stopped.
    async fn feed_one(&mut self, batch: &mut Batch, place: usize, mut failure: Failure) -> Result<bool, String> {
        let mut tries = 1;
        loop {
            match &failure {
                Failure::Outage(_) => {}
                Failure::Retry(_) if tries < self.durable.max_deliver => tries += 1,
                Failure::Retry(_) | Failure::Poison(_) => break,
            }
            self.pause(self.durable.delay(tries)).await;
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            match self.call(batch, place..place + 1).await {
                Ok(()) => return Ok(true),
                Err(again) => failure = again,
            }
        }
        let event = &batch.events[place];
        let reason = deadletter::reason(&failure);
        let payload = batch.payloads[place].clone();
        self.give_up(&event.headers, &event.envelope.event_type, payload, reason, &failure.to_string(), tries).await?;
        Ok(true)
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }

    async fn give_up(
        &self,
        headers: &async_nats::HeaderMap,
        event_type: &str,
        payload: Bytes,
        reason: &str,
        error: &str,
        deliveries: u32,
    ) -> Result<(), String> {
        let (consumer, stream) = (self.durable.name, self.durable.stream);
        let letter = DeadLetter { consumer, event_type, headers, payload, reason, error, deliveries, stream, sequence: 0 };
        letter.store(&self.context, self.config.publish_timeout).await?;
        self.metrics.dead(reason);
        Ok(())
    }
}
