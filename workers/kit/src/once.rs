//! `Order::None`: the ids of the events are committed with their effects, so that each takes effect once, over all replicas.

use std::collections::HashSet;

use deadpool_postgres::Pool;
use runtime::{
    Failure,
    consume::{Event, Transaction},
    failpoint,
};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::Schema;

/// Lets `handler` have those of the events that have taken no effect yet, in a transaction with their ids.
///
/// # Errors
/// The handler's, and those of the database.
pub(crate) async fn apply<H>(pool: &Pool, schema: Schema, events: &[Event], handler: &H) -> Result<(), Failure>
where
    H: AsyncFn(&Transaction<'_>, &[Event]) -> Result<(), Failure>,
{
    let mut client = pool.get().await.map_err(Failure::outage)?;
    let transaction = client.transaction().await?;
    let ids: Vec<Uuid> = events.iter().map(|event| event.envelope.id.uuid()).collect();
    // In one order for everybody: two replicas that were given the same events wait for each other instead of deadlocking.
    let statement = transaction
        .prepare_cached(&format!(
            "INSERT INTO {}.handled (event_id) SELECT DISTINCT id FROM unnest($1::uuid[]) id ORDER BY id ON CONFLICT DO NOTHING RETURNING event_id",
            schema.name
        ))
        .await?;
    let mut fresh: HashSet<Uuid> = transaction.query(&statement, &[&ids]).await?.iter().map(|row| row.get(0)).collect();
    if fresh.len() == events.len() {
        handler(&transaction, events).await?;
    } else if !fresh.is_empty() {
        // Removed with its first occurrence, so that one that stands twice among the events is handled once.
        let events: Vec<Event> = events.iter().filter(|event| fresh.remove(&event.envelope.id.uuid())).cloned().collect();
        handler(&transaction, &events).await?;
    }
    // A transaction in which a statement has failed is rolled back by its COMMIT, without an error: nobody may take that for done.
    if let Err(error) = transaction.batch_execute("SELECT").await {
        let is_failed = error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION);
        return Err(if is_failed { Failure::poison("the function went on after an error of the database") } else { error.into() });
    }
    failpoint::hit("consumer_before_commit");
    // With an unknown end the events come again, and their ids tell. What a deferred constraint refuses is the fault of the data.
    transaction.commit().await?;
    failpoint::hit("consumer_committed");
    Ok(())
}
