//! What becomes of the items that were read: handled together, alone, or put aside.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio::time::sleep;

use super::{
    super::{Event, effects::Trouble, shared::wait, suspects::CONDEMNED},
    Item, Owned,
};
use crate::Failure;

/// Tries at once before an event is parked, and the waits between them.
const QUICK: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

impl<H> Owned<'_, H>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// An owner that is not counted out until it has come further.
    pub(super) async fn begin_life(&mut self) {
        self.doubted = true;
        self.alone = 0;
        if self.suspects.begin_life().await {
            // Had the event at fault been behind those, a life before would have come further (not so while it is fed from the table from the start).
            self.alone = self.durable.batch;
            tracing::warn!(
                consumer.name = self.durable.name,
                events = self.alone,
                "owners ended here again and again: the next events are tried alone"
            );
        }
    }

    pub(super) async fn end_doubt(&mut self) {
        if std::mem::take(&mut self.doubted) {
            self.suspects.end_doubt().await;
        }
    }

    /// Handles items in order: together first, one by one when that fails. False when the lease is lost.
    pub(in super::super) async fn work(&mut self, items: &[Item]) -> Result<bool, String> {
        if self.alone == 0 {
            match self.together(items, None).await {
                Ok(()) => {
                    self.end_doubt().await;
                    return Ok(true);
                }
                Err(Trouble::Lost) => return Ok(false),
                Err(Trouble::Database(error)) => return Err(error),
                Err(Trouble::Failed(_)) => {}
            }
        }
        for item in items {
            if !self.alone(item).await? {
                return Ok(false);
            }
            self.alone = self.alone.saturating_sub(1);
            self.end_doubt().await;
        }
        Ok(true)
    }

    async fn alone(&mut self, item: &Item) -> Result<bool, String> {
        let one = std::slice::from_ref(item);
        let mut quick = QUICK.iter();
        let mut outages = 0;
        loop {
            let failure = match self.tried(one).await {
                Ok(()) => return Ok(true),
                Err(Trouble::Lost) => return Ok(false),
                Err(Trouble::Database(error)) => return Err(error),
                Err(Trouble::Failed(failure)) => failure,
            };
            self.metrics.failed(&failure);
            match (&failure, quick.next()) {
                (Failure::Outage(error), _) => {
                    outages += 1;
                    quick = QUICK.iter();
                    tracing::warn!(consumer.name = self.durable.name, %error, "waiting for something outside");
                    tokio::select! {
                        // Nothing is lost: the position stands before this event.
                        () = self.stop.cancelled() => return Err("stopped while waiting for something outside".into()),
                        () = sleep(wait(outages)) => {}
                    }
                }
                // A suspect is parked at its first failure: only the queue remembers tries over the owners that a later one may end.
                (Failure::Retry(_), Some(pause)) if self.alone == 0 => sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await,
                _ => match self.together(one, Some(&failure)).await {
                    Ok(()) => return Ok(true),
                    Err(Trouble::Lost) => return Ok(false),
                    Err(Trouble::Database(error)) => return Err(error),
                    Err(Trouble::Failed(failure)) => return Err(failure.to_string()),
                },
            }
        }
    }

    /// One try of one item, noted before where it may be what ended the owners before.
    async fn tried(&mut self, one: &[Item]) -> Result<(), Trouble> {
        let suspect = one.first().filter(|_| self.alone > 0).map(|item| item.place);
        let Some(place) = suspect else { return self.together(one, None).await };
        if !self.suspects.may_try(place).await {
            // The note stays: in its queue it is not tried either.
            return Err(Trouble::Failed(Failure::poison(CONDEMNED)));
        }
        let result = self.together(one, None).await;
        self.suspects.clear(place).await;
        result
    }
}
