//! What the tables say.

use std::collections::BTreeMap;

use runtime::{Config, store};
use serde::Serialize;
use tokio_postgres::Client;

use super::Waiting;

/// Who decides what.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Partitions {
    /// How many there are.
    pub total: u64,
    /// Those whose owner is gone or has let its lease run out, and those that nobody has.
    pub without_owner: u64,
    /// Events that were ever decided.
    pub events: u64,
    /// The workers that have a lease, by name.
    pub owners: Vec<Owner>,
}

/// A worker with a lease.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// What it calls itself.
    pub name: String,
    /// Partitions it decides.
    pub partitions: u64,
    /// Seconds its lease has left; negative when it ran out.
    pub lease_seconds: f64,
}

/// How far somebody who asks for order is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ordered {
    /// The last number of EVENTS it has handled.
    pub(super) position: u64,
    /// Whether a replica has the lease.
    pub(super) is_owned: bool,
    /// Events that wait behind one that failed, and those that failed.
    pub(super) parked: u64,
    pub(super) paused_seconds: Option<f64>,
}

/// The number of COMMANDS up to which a partition is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) partition: u16,
    pub(super) cursor: u64,
    /// The life of COMMANDS it belongs to.
    pub(super) life: i64,
}

pub(super) struct Tables {
    pub(super) partitions: Partitions,
    pub(super) unpublished: Waiting,
    pub(super) cursors: Vec<Cursor>,
    pub(super) ordered: BTreeMap<String, Ordered>,
}

const OWNERS: &str = "SELECT w.name, count(p.partition), extract(epoch FROM w.lease_until - now())::float8
    FROM workers w LEFT JOIN partitions p ON p.owner = w.id GROUP BY w.id ORDER BY w.name, w.id";
const PARTITIONS: &str = "SELECT p.partition, p.cursor, p.commands_incarnation, p.sequence, p.sequence - p.mark_sequence,
        EXISTS (SELECT FROM workers w WHERE w.id = p.owner AND w.lease_until > now()),
        extract(epoch FROM now() - (SELECT e.occurred_at FROM events e WHERE e.partition = p.partition AND e.partition_sequence = p.mark_sequence + 1))::float8
    FROM partitions p ORDER BY p.partition";
const ORDERED: &str = "SELECT p.consumer, p.position, coalesce(l.owner IS NOT NULL AND l.lease_until > now(), false),
        (SELECT count(*) FROM consumer_parked k WHERE k.consumer = p.consumer),
        (SELECT extract(epoch FROM u.until - now())::float8 FROM consumer_pauses u WHERE u.consumer = p.consumer AND u.until > now())
    FROM consumer_positions p LEFT JOIN consumer_leases l ON l.consumer = p.consumer";

pub(super) async fn look(client: &Client, config: &Config) -> anyhow::Result<Tables> {
    let failed = |error: tokio_postgres::Error| anyhow::anyhow!("asking PostgreSQL: {}", store::describe(&error));
    let mut owners = Vec::new();
    for row in client.query(OWNERS, &[]).await.map_err(failed)? {
        let partitions: i64 = row.try_get(1)?;
        owners.push(Owner { name: row.try_get(0)?, partitions: partitions.unsigned_abs(), lease_seconds: row.try_get(2)? });
    }
    let mut partitions = Partitions { total: config.partitions.into(), without_owner: 0, events: 0, owners };
    let (mut unpublished, mut cursors, mut owned) = (Waiting::default(), Vec::new(), 0_u64);
    for row in client.query(PARTITIONS, &[]).await.map_err(failed)? {
        let (partition, cursor, life): (i16, i64, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (sequence, waiting, has_owner): (i64, i64, bool) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        partitions.events += sequence.unsigned_abs();
        owned += u64::from(has_owner);
        unpublished.count += waiting.unsigned_abs();
        if waiting > 0 {
            let age: Option<f64> = row.try_get(6)?;
            unpublished.oldest_seconds = [unpublished.oldest_seconds, age].into_iter().flatten().reduce(f64::max);
        }
        cursors.push(Cursor { partition: partition.unsigned_abs(), cursor: cursor.unsigned_abs(), life: life.parse().unwrap_or_default() });
    }
    partitions.without_owner = partitions.total.saturating_sub(owned);
    let mut ordered = BTreeMap::new();
    for row in client.query(ORDERED, &[]).await.map_err(failed)? {
        let (position, parked): (i64, i64) = (row.try_get(1)?, row.try_get(3)?);
        let state =
            Ordered { position: position.unsigned_abs(), is_owned: row.try_get(2)?, parked: parked.unsigned_abs(), paused_seconds: row.try_get(4)? };
        ordered.insert(row.try_get(0)?, state);
    }
    Ok(Tables { partitions, unpublished, cursors, ordered })
}
