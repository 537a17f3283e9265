//! One transaction of a consumer that asks for order: effects, queues, marks and the position.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use deadpool_postgres::Transaction;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use subjects::TenantId;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tracing::Instrument as _;

use super::{
    Event, feed,
    handling::Handling,
    lease::{self, Position},
    marks::Marks,
    ordered::{Item, Owned},
    panicking::caught,
    parked::{self, Waiting},
    sql::judge,
};
use crate::{
    Failure, failpoint,
    store::{commit::EventRow, describe},
    trace,
};

/// A call that takes longer has failed.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Aggregates of one batch that are worked on at the same time.
const CONCURRENT: usize = 32;

/// Why work on a batch did not come to its end.
pub(super) enum Trouble {
    /// The handler failed.
    Failed(Failure),
    /// The lease is another's.
    Lost,
    /// The database; a COMMIT may or may not have happened.
    Database(String),
}

impl Trouble {
    /// What a failure of the handler is: not its doing where the connection is gone.
    pub(super) fn of(failure: Failure, transaction: &Transaction<'_>) -> Self {
        if transaction.client().is_closed() { Self::Database(failure.to_string()) } else { Self::Failed(failure) }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        // The handler's doing, also where it shows in a later statement or in COMMIT: a failed statement that it went on after, or what a deferred
        // constraint refuses.
        if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) {
            return Self::Failed(Failure::poison("the function went on after an error of the database"));
        }
        match judge(&error) {
            failure @ Failure::Poison(_) => Self::Failed(failure),
            _ => Self::Database(describe(&error)),
        }
    }
}

impl<H> Owned<'_, H>
where
    H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure>,
{
    /// One transaction: effects (or queues) and the position. `parking` puts the one item aside instead of handling it.
    pub(super) async fn together(&mut self, items: &[Item], parking: Option<&Failure>) -> Result<(), Trouble> {
        let Some(last) = items.last() else { return Ok(()) };
        let name = self.durable.name;
        let mut client = self.pool.get().await.map_err(|error| Trouble::Database(error.to_string()))?;
        let transaction = client.transaction().await?;
        let mut marks = Marks::read(&transaction, name, items.iter().filter_map(|item| item.event.as_ref().ok())).await?;
        let passed = marks.passed_over(&transaction, self.durable.filters, items.iter().filter_map(|item| item.event.as_ref().ok())).await?;
        let filled;
        let items = if passed.is_empty() {
            items
        } else {
            filled = self.fill(items, passed);
            &filled
        };
        let mut newly_parked = HashSet::new();
        let mut ready: Vec<(String, Vec<&Event>)> = Vec::new();
        for item in items {
            let event = match &item.event {
                Ok(event) => event,
                Err(error) => {
                    self.bury_undecodable(item, error).await.map_err(Trouble::Database)?;
                    continue;
                }
            };
            if !marks.is_news(event) {
                continue;
            }
            let key = event.aggregate_key();
            let waiting = if let Some(failure) = parking {
                let error = failure.to_string();
                tracing::warn!(consumer.name = name, event.id = %event.envelope.id, event.r#type = event.envelope.event_type, %error, "parked");
                let delay = if matches!(failure, Failure::Poison(_)) { Duration::ZERO } else { self.durable.delay(1) };
                newly_parked.insert(key.clone());
                Some((1, delay, error))
            } else if self.parked.contains(&key) {
                Some((0, Duration::ZERO, "waits behind an earlier event".to_owned()))
            } else {
                None
            };
            match waiting {
                Some((attempts, delay, error)) => {
                    let body = String::from_utf8_lossy(&item.payload);
                    parked::park(&transaction, name, event, item.place, &body, Waiting { attempts, delay, error: &error }).await?;
                }
                None => match ready.iter_mut().find(|(of, _)| *of == key) {
                    Some((_, events)) => events.push(event),
                    None => ready.push((key, vec![event])),
                },
            }
        }
        let begun = Instant::now();
        let handled: Vec<&Event> = ready.iter().flat_map(|(_, events)| events).copied().collect();
        self.call_each(&transaction, ready).await?;
        marks.write(&transaction, name).await?;
        let position = Position { sequence: last.sequence, incarnation: self.position.incarnation.clone() };
        if !lease::advance(&transaction, name, self.lease, &position).await? {
            return Err(Trouble::Lost);
        }
        failpoint::hit("consumer_before_commit");
        // With an unknown end the position is read again before anything is repeated.
        transaction.commit().await?;
        failpoint::hit("consumer_committed");
        self.metrics.called(handled.len(), begun);
        self.position = position;
        handled.iter().for_each(|event| self.metrics.handled(&event.envelope));
        self.notes.handled(handled);
        self.parked.extend(newly_parked);
        self.metrics.parked.set(i64::try_from(self.parked.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Puts what the stream lacks before the events that follow it.
    fn fill(&self, items: &[Item], mut passed: HashMap<(TenantId, u64), Vec<EventRow>>) -> Vec<Item> {
        let mut filled = Vec::with_capacity(items.len());
        let mut position = self.position.sequence;
        for item in items {
            let lacking = item.event.as_ref().ok().and_then(|event| passed.remove(&(event.envelope.tenant_id, event.envelope.sequence)));
            for row in lacking.into_iter().flatten() {
                self.metrics.gaps.inc();
                tracing::error!(
                    consumer.name = self.durable.name,
                    tenant.id = %row.tenant,
                    event.id = %row.id,
                    "an event is missing in the stream and was read from the table: `chancery events reconcile` mends the stream"
                );
                filled.push(feed::Row::from(row).item(position));
            }
            position = item.sequence;
            filled.push(item.clone());
        }
        filled
    }

    /// Calls the handler for the events of each aggregate in order, for several aggregates at a time. The first failure ends it: the
    /// transaction is gone with it.
    async fn call_each(&self, transaction: &Transaction<'_>, ready: Vec<(String, Vec<&Event>)>) -> Result<(), Trouble> {
        let aggregates = stream::iter(ready).map(Ok::<_, Failure>);
        let work = aggregates.try_for_each_concurrent(CONCURRENT, |(_, events)| async move {
            for event in events {
                self.call(transaction, event).await?;
            }
            Ok(())
        });
        work.await.map_err(|failure| Trouble::of(failure, transaction))
    }

    /// One call of the handler.
    pub(super) async fn call(&self, transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
        let mut event = Cow::Borrowed(event);
        let makes_spans = self.config.makes_spans() && event.traceparent().is_some_and(trace::is_kept);
        let handling = if makes_spans { Handling::begin(true, &self.durable, std::slice::from_mut(event.to_mut())) } else { Handling::none() };
        let call = timeout(CALL_LIMIT, caught(async { (self.handler)(transaction, &event).await })).instrument(handling.call()).await;
        let result = call.unwrap_or_else(|_| Err(Failure::retry(format!("it took longer than {} s", CALL_LIMIT.as_secs()))));
        handling.end(&result);
        result
    }
}
