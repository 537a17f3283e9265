//! The queues behind events that failed: tried again in order, given up after the last try.

use std::time::{Duration, Instant};

use bytes::Bytes;
use deadpool_postgres::Transaction;

use super::{
    Event,
    deadletter::{self, DeadLetter},
    decode,
    effects::Trouble,
    lease,
    ordered::{Item, Owned},
    parked::{self, Waiting},
    suspects::CONDEMNED,
};
use crate::Failure;

/// Queues read in one go.
const PARKED_BATCH: i64 = 64;
/// How long one look may take: the stream must flow meanwhile.
const PARKED_TIME: Duration = Duration::from_millis(250);

impl<H> Owned<'_, H>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// Tries parked events that are due, each queue in order. False when the lease is lost.
    pub(super) async fn retry_parked(&mut self) -> Result<bool, String> {
        if self.parked.is_empty() {
            return Ok(true);
        }
        let started = Instant::now();
        loop {
            let heads = parked::due(&self.pool, self.durable.name, PARKED_BATCH).await?;
            if heads.is_empty() || started.elapsed() > PARKED_TIME {
                break;
            }
            for head in heads {
                if !self.retry_head(&head).await? {
                    return Ok(false);
                }
            }
        }
        self.metrics.parked.set(i64::try_from(self.parked.len()).unwrap_or(i64::MAX));
        Ok(true)
    }

    async fn retry_head(&mut self, head: &parked::Head) -> Result<bool, String> {
        let (failure, reason) = match &head.event {
            Err(error) => (Failure::poison(error), "poison"),
            // Whether it may end the process shows only by what was noted before each try.
            Ok(_) if !self.suspects.may_try(head.place).await => (Failure::poison(CONDEMNED), "condemned"),
            Ok(event) => {
                let unparked = self.unpark(head.place, event).await;
                self.suspects.clear(head.place).await;
                match unparked {
                    Ok(()) => {
                        self.metrics.handled(&event.envelope);
                        self.notes.handled([event]);
                        if parked::is_empty(&self.pool, self.durable.name, &head.aggregate).await? {
                            self.parked.remove(&head.aggregate);
                        }
                        return Ok(true);
                    }
                    Err(Trouble::Lost) => return Ok(false),
                    Err(Trouble::Database(error)) => return Err(error),
                    Err(Trouble::Failed(failure)) => {
                        let reason = deadletter::reason(&failure);
                        (failure, reason)
                    }
                }
            }
        };
        self.metrics.failed(&failure);
        self.postpone(head, &failure, reason).await?;
        if reason == "condemned" {
            // Whoever redrives it wants it tried.
            self.suspects.clear(head.place).await;
        }
        Ok(true)
    }

    async fn unpark(&mut self, place: i64, event: &Event) -> Result<(), Trouble> {
        let mut client = self.pool.get().await.map_err(|error| Trouble::Database(error.to_string()))?;
        let transaction = client.transaction().await?;
        if !lease::check(&transaction, self.durable.name, self.lease).await? {
            return Err(Trouble::Lost);
        }
        self.call(&transaction, event).await.map_err(|failure| Trouble::of(failure, &transaction))?;
        parked::leave(&transaction, self.durable.name, place).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Later, or, after the last try, a dead letter for a reason: then its aggregate waits until somebody redrives it.
    async fn postpone(&self, head: &parked::Head, failure: &Failure, reason: &str) -> Result<(), String> {
        let error = failure.to_string();
        let attempts = if matches!(failure, Failure::Outage(_)) { head.attempts } else { head.attempts + 1 };
        let dead = matches!(failure, Failure::Poison(_)) || attempts >= self.durable.max_deliver;
        if dead {
            let letter = DeadLetter {
                consumer: self.durable.name,
                event_type: head.event.as_ref().map_or("unknown.unknown", |event| event.envelope.event_type.as_str()),
                headers: &head.headers,
                payload: Bytes::from(head.body.clone()),
                reason,
                error: &error,
                deliveries: attempts,
                stream: self.durable.stream,
                sequence: u64::try_from(head.place).unwrap_or(0),
            };
            letter.store(&self.context, self.config.publish_timeout).await?;
            self.metrics.dead(reason);
        }
        let waiting = Waiting { attempts, delay: self.durable.delay(attempts), error: &error };
        parked::failed(&self.pool, self.durable.name, head.place, waiting, dead).await
    }

    /// What cannot be an event has no aggregate to wait behind.
    pub(super) async fn bury_undecodable(&self, item: &Item, error: &decode::DecodeError) -> Result<(), String> {
        let text = error.to_string();
        let letter = DeadLetter {
            consumer: self.durable.name,
            event_type: decode::type_of(&item.subject),
            headers: &item.headers,
            payload: item.payload.clone(),
            reason: error.reason(),
            error: &text,
            deliveries: 1,
            stream: self.durable.stream,
            sequence: u64::try_from(item.place).unwrap_or(0),
        };
        letter.store(&self.context, self.config.publish_timeout).await?;
        self.metrics.dead(error.reason());
        Ok(())
    }
}
