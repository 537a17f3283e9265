//! What the publishing lane reads: marks, and events not yet known to be in EVENTS.

use std::collections::BTreeSet;

use subjects::{Kind, TenantId};
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use super::{
    commit::EventRow,
    lease::{Mark, life},
};

/// A partition we own, as far as the lane is concerned.
#[derive(Debug, Clone)]
pub struct OwnedPartition {
    /// Which one.
    pub partition: u16,
    /// The fencing epoch.
    pub epoch: i64,
    /// Its last event.
    pub sequence: u64,
    /// How far EVENTS is known to be.
    pub mark: Mark,
}

/// Those of the partitions that are ours, with their marks.
///
/// # Errors
/// Those of the connection.
pub async fn owned_marks(client: &Client, worker: Uuid, partitions: &BTreeSet<u16>) -> Result<Vec<OwnedPartition>, Error> {
    let wanted: Vec<i16> = partitions.iter().map(|partition| *partition as i16).collect();
    let rows = client
        .query(
            "SELECT partition, epoch, sequence, mark_sequence, mark_stream, events_incarnation FROM partitions
             WHERE owner = $1 AND partition = ANY ($2) ORDER BY partition",
            &[&worker, &wanted],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| OwnedPartition {
            partition: row.get::<_, i16>(0) as u16,
            epoch: row.get(1),
            sequence: row.get::<_, i64>(2) as u64,
            mark: Mark { sequence: row.get::<_, i64>(3) as u64, stream: row.get::<_, i64>(4) as u64, life: life(row, 5) },
        })
        .collect())
}

/// Begins another life of EVENTS for partitions that are ours: what was marked in the one before is not in this one, unless the row names
/// none (the first life, or one that is built anew from the table). Nothing else changes the life of a row. Returns how many rows it was.
///
/// # Errors
/// Those of the connection.
pub async fn begin_life(client: &Client, worker: Uuid, partitions: &[(u16, i64)], life: i64) -> Result<u64, Error> {
    let ids: Vec<i16> = partitions.iter().map(|(partition, _)| *partition as i16).collect();
    let epochs: Vec<i64> = partitions.iter().map(|(_, epoch)| *epoch).collect();
    client
        .execute(
            "UPDATE partitions p SET events_incarnation = $4::bigint::text, mark_stream = 0,
                 events_base = CASE WHEN p.events_incarnation = '' THEN p.events_base ELSE p.mark_sequence END
             FROM unnest($2::smallint[], $3::bigint[]) u (partition, epoch)
             WHERE p.partition = u.partition AND p.epoch = u.epoch AND p.owner = $1 AND p.events_incarnation <> $4::bigint::text",
            &[&worker, &ids, &epochs, &life],
        )
        .await
}

/// Committed events after a partition sequence, in order.
///
/// # Errors
/// Those of the connection.
pub async fn unpublished(client: &Client, partition: u16, after: u64, limit: i64) -> Result<Vec<EventRow>, Error> {
    let rows = client
        .query(
            "SELECT partition_sequence, tenant_id, sequence, id, type, kind, aggregate_id, command_id, occurred_at, meta::text, body::text
             FROM events WHERE partition = $1 AND partition_sequence > $2 ORDER BY partition_sequence LIMIT $3",
            &[&(partition as i16), &(after as i64), &limit],
        )
        .await?;
    Ok(rows.iter().map(|row| event_row(partition, row)).collect())
}

/// A row of `events` whose columns from the first on are those that [`unpublished`] selects.
pub(super) fn event_row(partition: u16, row: &Row) -> EventRow {
    EventRow {
        partition,
        partition_sequence: row.get::<_, i64>(0) as u64,
        tenant: TenantId::new(row.get(1)),
        sequence: row.get::<_, i64>(2) as u64,
        id: row.get(3),
        event_type: row.get(4),
        kind: row.get::<_, &str>(5).parse::<Kind>().map_or("unknown", Kind::name),
        aggregate_id: row.get(6),
        command: row.get(7),
        occurred_at: row.get(8),
        meta: row.get(9),
        body: row.get(10),
    }
}
