//! Whether the history that EVENTS has is the database's: which start of PostgreSQL was found well, and from where on to look.

use tokio_postgres::{Client, Error};

/// Whether this start of the server was found well.
///
/// # Errors
/// Those of the connection.
pub async fn is_checked(client: &Client) -> Result<bool, Error> {
    Ok(client.query_one("SELECT history_is_checked()", &[]).await?.get(0))
}

/// Notes that it was, in place of earlier ones.
///
/// # Errors
/// Those of the connection.
pub async fn note_checked(client: &Client) -> Result<(), Error> {
    let note = "WITH gone AS (DELETE FROM history_checks WHERE start <> history_start())
         INSERT INTO history_checks (start) SELECT history_start() ON CONFLICT DO NOTHING";
    client.execute(note, &[]).await.map(|_| ())
}

/// How far the database knows this life of EVENTS to be. What was written after a backup was published after everything the backup has marked.
///
/// # Errors
/// Those of the connection.
pub async fn known_until(client: &Client, life: i64) -> Result<u64, Error> {
    let select = "SELECT coalesce(max(mark_stream), 0) FROM partitions WHERE events_incarnation = $1";
    let row = client.query_one(select, &[&life.to_string()]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}
