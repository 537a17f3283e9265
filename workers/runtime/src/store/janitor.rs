//! What the janitor reads and deletes.

use std::time::Duration;

use tokio_postgres::{Client, Error};

/// Every partition's cursor and the life of COMMANDS it belongs to.
///
/// # Errors
/// Those of the connection.
pub async fn cursors(client: &Client) -> Result<Vec<(u16, u64, String)>, Error> {
    let rows = client.query("SELECT partition, cursor, commands_incarnation FROM partitions", &[]).await?;
    Ok(rows.iter().map(|row| (row.get::<_, i16>(0) as u16, row.get::<_, i64>(1) as u64, row.get(2))).collect())
}

/// Deletes consumers' notes that are older than the retention.
///
/// # Errors
/// Those of the connection.
pub async fn forget_notes(client: &Client, retention: Duration, limit: i64) -> Result<u64, Error> {
    client
        .execute(
            "DELETE FROM consumer_notes WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM consumer_notes WHERE noted_at < now() - make_interval(secs => $1) LIMIT $2))",
            &[&retention.as_secs_f64(), &limit],
        )
        .await
}

/// Deletes outcomes that were given no key and are older than the retention.
///
/// # Errors
/// Those of the connection.
pub async fn forget_outcomes(client: &Client, retention: Duration, limit: i64) -> Result<u64, Error> {
    client
        .execute(
            "DELETE FROM commands WHERE id IN (
                 SELECT id FROM commands WHERE NOT keyed AND decided_at < now() - make_interval(secs => $1) LIMIT $2)",
            &[&retention.as_secs_f64(), &limit],
        )
        .await
}
