//! What waits, by partition.

use time::OffsetDateTime;
use tokio_postgres::{Client, Error};

/// What a partition has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which one.
    pub partition: u16,
    /// Up to where it is decided.
    pub cursor: u64,
    /// The life of COMMANDS that belongs to.
    pub commands_incarnation: String,
    /// Events that are committed and not marked as being in EVENTS.
    pub unpublished: u64,
    /// Since when the first of them is.
    pub unpublished_since: Option<OffsetDateTime>,
    /// Whether a living worker owns it.
    pub is_owned: bool,
}

/// Every partition. Reads only: who holds a row does not hold this up.
///
/// # Errors
/// Those of the connection.
pub async fn waiting(client: &Client) -> Result<Vec<Waiting>, Error> {
    let rows = client
        .query(
            "SELECT p.partition, p.cursor, p.commands_incarnation, p.sequence - p.mark_sequence,
                 (SELECT e.occurred_at FROM events e WHERE e.partition = p.partition AND e.partition_sequence = p.mark_sequence + 1),
                 EXISTS (SELECT FROM workers w WHERE w.id = p.owner AND w.lease_until > now())
             FROM partitions p",
            &[],
        )
        .await?;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| Waiting {
            partition: u16::try_from(row.get::<_, i16>(0)).unwrap_or_default(),
            cursor: unsigned(row.get(1)),
            commands_incarnation: row.get(2),
            unpublished: unsigned(row.get(3)),
            unpublished_since: row.get(4),
            is_owned: row.get(5),
        })
        .collect())
}
