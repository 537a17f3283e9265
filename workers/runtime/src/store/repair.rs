//! What repairs read and write: positions of all partitions, events by their place, and which of some messages the table knows.

use subjects::TenantId;
use time::OffsetDateTime;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::{
    commit::EventRow,
    lease::{Mark, life},
    outbox::event_row,
};

/// The key of the advisory lock that lets one repair run at a time in a database.
const LOCK: i64 = 0x7265_7061_6972_0001;

/// How a partition stands towards EVENTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which one.
    pub partition: u16,
    /// Its last event.
    pub sequence: u64,
    /// How far EVENTS is known to be.
    pub mark: Mark,
    /// The events of this partition that this life of EVENTS begins behind.
    pub base: u64,
}

/// Every partition's mark.
///
/// # Errors
/// Those of the connection.
pub async fn published(client: &Client) -> Result<Vec<Published>, Error> {
    let select = "SELECT partition, sequence, mark_sequence, mark_stream, events_incarnation, events_base FROM partitions ORDER BY partition";
    let rows = client.query(select, &[]).await?;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| Published {
            partition: row.get::<_, i16>(0) as u16,
            sequence: unsigned(row.get(1)),
            mark: Mark { sequence: unsigned(row.get(2)), stream: unsigned(row.get(3)), life: life(row, 4) },
            base: unsigned(row.get(5)),
        })
        .collect())
}

/// Takes the lock of repairs for as long as the session lasts. False when another has it.
///
/// # Errors
/// Those of the connection.
pub async fn lock(client: &Client) -> Result<bool, Error> {
    Ok(client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.get(0))
}

/// Events by partition and place, in that order.
///
/// # Errors
/// Those of the connection.
pub async fn events_at(client: &Client, places: &[(u16, u64)]) -> Result<Vec<EventRow>, Error> {
    let partitions: Vec<i16> = places.iter().map(|(partition, _)| *partition as i16).collect();
    let sequences: Vec<i64> = places.iter().map(|(_, sequence)| *sequence as i64).collect();
    let rows = client
        .query(
            "SELECT e.partition_sequence, e.tenant_id, e.sequence, e.id, e.type, e.kind, e.aggregate_id, e.command_id, e.occurred_at, e.meta::text,
                    e.body::text, u.partition
             FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY u (partition, place, ord)
             JOIN events e ON e.partition = u.partition AND e.partition_sequence = u.place ORDER BY u.ord",
            &[&partitions, &sequences],
        )
        .await?;
    Ok(rows.iter().map(|row| event_row(row.get::<_, i16>(11) as u16, row)).collect())
}

/// For each place in a tenant's history the id that the table has there, and the event's place in its partition; none where it has none.
///
/// # Errors
/// Those of the connection.
pub async fn known(client: &Client, places: &[(TenantId, u64)]) -> Result<Vec<Option<(Uuid, u64)>>, Error> {
    let tenants: Vec<Uuid> = places.iter().map(|(tenant, _)| tenant.uuid()).collect();
    let sequences: Vec<i64> = places.iter().map(|(_, sequence)| *sequence as i64).collect();
    let rows = client
        .query(
            "SELECT u.ord, e.id, e.partition_sequence FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY u (tenant, sequence, ord)
             CROSS JOIN LATERAL (SELECT id, partition_sequence FROM events WHERE tenant_id = u.tenant AND sequence = u.sequence OFFSET 0) e",
            &[&tenants, &sequences],
        )
        .await?;
    let mut known = vec![None; places.len()];
    for row in &rows {
        let index = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default().saturating_sub(1);
        if let Some(place) = known.get_mut(index) {
            *place = Some((row.get(1), row.get::<_, i64>(2) as u64));
        }
    }
    Ok(known)
}

/// How many events of a partition are older than a time, by bisection: their times rise with their places, give or take what clocks differ.
///
/// # Errors
/// Those of the connection.
pub async fn older_than(client: &Client, partition: u16, last: u64, since: OffsetDateTime) -> Result<u64, Error> {
    let statement = client.prepare("SELECT occurred_at < $3 FROM events WHERE partition = $1 AND partition_sequence = $2").await?;
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = client.query_opt(&statement, &[&(partition as i16), &(middle as i64 + 1), &since]).await?;
        if row.is_some_and(|row| row.get(0)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Where a partition's part of a new life of EVENTS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Which one.
    pub partition: u16,
    /// The last event that is left to the table.
    pub base: u64,
}

/// How large the bodies of the events behind these places are.
///
/// # Errors
/// Those of the connection.
pub async fn bytes_after(client: &Client, bases: &[Base]) -> Result<u64, Error> {
    let (partitions, places) = columns(bases);
    let select = "SELECT coalesce(sum(octet_length(e.body::text)), 0)::bigint FROM unnest($1::smallint[], $2::bigint[]) u (partition, base)
         JOIN events e ON e.partition = u.partition AND e.partition_sequence > u.base";
    Ok(client.query_one(select, &[&partitions, &places]).await?.get::<_, i64>(0) as u64)
}

/// Sets the marks back to these places, in no life of EVENTS, and takes every partition from its owner: whoever takes it next publishes what is
/// behind its mark. Nothing that was reached under an earlier epoch is written down any more.
///
/// # Errors
/// Those of the connection; then nothing has changed.
pub async fn set_back(client: &mut Client, bases: &[Base]) -> Result<(), Error> {
    let (partitions, places) = columns(bases);
    let transaction = client.transaction().await?;
    let update = "UPDATE partitions p SET owner = NULL, epoch = p.epoch + 1, events_incarnation = '', mark_stream = 0,
             mark_sequence = least(u.base, p.sequence), events_base = least(u.base, p.sequence)
         FROM unnest($1::smallint[], $2::bigint[]) u (partition, base) WHERE p.partition = u.partition";
    transaction.execute(update, &[&partitions, &places]).await?;
    transaction.commit().await
}

fn columns(bases: &[Base]) -> (Vec<i16>, Vec<i64>) {
    (bases.iter().map(|row| row.partition as i16).collect(), bases.iter().map(|row| row.base as i64).collect())
}
