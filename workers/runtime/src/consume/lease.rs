//! The one active owner of a consumer that asks for order: a lease row with an epoch. The epoch also stands in the position's row, and
//! every transaction checks it there: a resumed former owner finds no row to update. A consumer that an operator has paused has no owner.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use tokio::time::sleep;
use uuid::Uuid;

use super::{Durable, shared::wait};
use crate::{Config, Stop, health, store::describe};

/// What an owner holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) owner: Uuid,
    pub(crate) epoch: i64,
}

/// Where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last sequence that was handled or parked.
    pub(crate) sequence: u64,
    /// The life of the stream it belongs to; empty before the first event.
    pub(crate) incarnation: String,
}

/// Waits until the lease is ours. `None` when stopped.
pub(crate) async fn acquire(pool: &Pool, durable: &Durable, config: &Config, stop: &Stop) -> Option<(Lease, Position)> {
    let owner = Uuid::now_v7();
    // After an outage everybody's lease has run out. Who takes over must have seen the owner silent for a lease time.
    let mut connected: Option<Instant> = None;
    let mut failures = 0;
    while !stop.is_cancelled() {
        let patient = connected.is_some_and(|since| since.elapsed() >= config.lease);
        let pause = match try_acquire(pool, durable, config.lease, owner, patient).await {
            Ok(Tried::Won(lease, position)) => return Some((lease, position)),
            Ok(Tried::StandBy(why)) => {
                failures = 0;
                connected.get_or_insert_with(Instant::now);
                health::set(durable.name, true, why);
                config.lease / 4
            }
            Err(error) => {
                connected = None;
                failures += 1;
                tracing::warn!(consumer.name = durable.name, %error, "no database: waiting");
                health::set(durable.name, false, error);
                wait(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
    None
}

/// What an attempt to own a consumer came to.
enum Tried {
    Won(Lease, Position),
    /// Not now, and why.
    StandBy(&'static str),
}

async fn try_acquire(pool: &Pool, durable: &Durable, length: Duration, owner: Uuid, expired: bool) -> Result<Tried, String> {
    let mut client = pool.get().await.map_err(|error| error.to_string())?;
    let transaction = client.transaction().await.map_err(|error| describe(&error))?;
    // Whoever pauses it in this moment is obeyed at the first renewal.
    let paused = "SELECT FROM consumer_pauses WHERE consumer = $1 AND until > now()";
    if transaction.query_opt(paused, &[&durable.name]).await.map_err(|error| describe(&error))?.is_some() {
        return Ok(Tried::StandBy("paused by an operator"));
    }
    let row = transaction
        .query_opt(
            "INSERT INTO consumer_leases AS l (consumer, owner, epoch, lease_until) VALUES ($1, $2, 1, now() + make_interval(secs => $3))
             ON CONFLICT (consumer) DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, lease_until = excluded.lease_until
             WHERE l.owner IS NULL OR ($4 AND l.lease_until < now()) RETURNING epoch",
            &[&durable.name, &owner, &length.as_secs_f64(), &expired],
        )
        .await
        .map_err(|error| describe(&error))?;
    let Some(row) = row else { return Ok(Tried::StandBy("standing by")) };
    let epoch: i64 = row.get(0);
    // The former owner's open transaction may hold this row; the server ends a frozen one after a lease time.
    let row = transaction
        .query_one(
            "INSERT INTO consumer_positions (consumer, epoch, position, incarnation) VALUES ($1, $2, 0, '')
             ON CONFLICT (consumer) DO UPDATE SET epoch = excluded.epoch RETURNING position, incarnation",
            &[&durable.name, &epoch],
        )
        .await
        .map_err(|error| describe(&error))?;
    transaction.commit().await.map_err(|error| describe(&error))?;
    let position = Position { sequence: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(), incarnation: row.get(1) };
    Ok(Tried::Won(Lease { owner, epoch }, position))
}

/// Why an owner is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Somebody else is, or nobody is meant to be for a moment: an operator has moved the position.
    Taken,
    /// An operator has paused the consumer. The lease is still held, to be handed over.
    Paused,
}

/// Renews until somebody else has it, or it is paused. A lease that ran out during an outage is still ours as long as nobody took it.
pub(crate) async fn keep(pool: &Pool, consumer: &str, lease: Lease, length: Duration) -> Over {
    loop {
        sleep(length / 3).await;
        match renew(pool, consumer, lease, length).await {
            Ok(None) => {}
            Ok(Some(over)) => return over,
            Err(error) => tracing::warn!(consumer.name = consumer, %error, "the lease could not be renewed"),
        }
    }
}

/// Why it is over, if it is.
async fn renew(pool: &Pool, consumer: &str, lease: Lease, length: Duration) -> Result<Option<Over>, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let row = client
        .query_opt(
            "UPDATE consumer_leases SET lease_until = now() + make_interval(secs => $4) WHERE consumer = $1 AND owner = $2 AND epoch = $3
             RETURNING EXISTS (SELECT FROM consumer_pauses p WHERE p.consumer = $1 AND p.until > now())",
            &[&consumer, &lease.owner, &lease.epoch, &length.as_secs_f64()],
        )
        .await
        .map_err(|error| describe(&error))?;
    Ok(match row {
        None => Some(Over::Taken),
        Some(row) => row.get::<_, bool>(0).then_some(Over::Paused),
    })
}

/// Hands over at once.
pub(crate) async fn release(pool: &Pool, consumer: &str, lease: Lease) -> Result<(), String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    client
        .execute(
            "UPDATE consumer_leases SET owner = NULL, lease_until = now() WHERE consumer = $1 AND owner = $2 AND epoch = $3",
            &[&consumer, &lease.owner, &lease.epoch],
        )
        .await
        .map(|_| ())
        .map_err(|error| describe(&error))
}

/// The position as committed.
pub(crate) async fn position(pool: &Pool, consumer: &str) -> Result<Position, String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let row = client
        .query_one("SELECT position, incarnation FROM consumer_positions WHERE consumer = $1", &[&consumer])
        .await
        .map_err(|error| describe(&error))?;
    Ok(Position { sequence: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(), incarnation: row.get(1) })
}

/// Moves the position inside a transaction. False when the lease is another's: the transaction must not be committed.
pub(crate) async fn advance(
    transaction: &deadpool_postgres::Transaction<'_>,
    consumer: &str,
    lease: Lease,
    position: &Position,
) -> Result<bool, tokio_postgres::Error> {
    let statement =
        transaction.prepare_cached("UPDATE consumer_positions SET position = $3, incarnation = $4 WHERE consumer = $1 AND epoch = $2").await?;
    let sequence = i64::try_from(position.sequence).unwrap_or(i64::MAX);
    let changed = transaction.execute(&statement, &[&consumer, &lease.epoch, &sequence, &position.incarnation]).await?;
    Ok(changed == 1)
}

/// Moves the position alone. False when the lease is another's.
pub(crate) async fn place(pool: &Pool, consumer: &str, lease: Lease, position: &Position) -> Result<bool, String> {
    let mut client = pool.get().await.map_err(|error| error.to_string())?;
    let transaction = client.transaction().await.map_err(|error| describe(&error))?;
    let ours = advance(&transaction, consumer, lease, position).await.map_err(|error| describe(&error))?;
    transaction.commit().await.map_err(|error| describe(&error))?;
    Ok(ours)
}

/// Checks inside a transaction that the lease is ours, and holds off a successor until its end.
pub(crate) async fn check(transaction: &deadpool_postgres::Transaction<'_>, consumer: &str, lease: Lease) -> Result<bool, tokio_postgres::Error> {
    let statement = transaction.prepare_cached("SELECT FROM consumer_positions WHERE consumer = $1 AND epoch = $2 FOR UPDATE").await?;
    Ok(transaction.query_opt(&statement, &[&consumer, &lease.epoch]).await?.is_some())
}
