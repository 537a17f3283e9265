//! Dead letters of the worker, on their way out.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

/// A letter.
#[derive(Debug)]
pub struct Letter {
    /// Also its message id.
    pub id: Uuid,
    /// Where it goes.
    pub subject: String,
    /// Headers as JSON.
    pub headers: String,
    /// The message as it came.
    pub payload: Vec<u8>,
}

/// Letters not yet published, oldest first.
///
/// # Errors
/// Those of the connection.
pub async fn waiting(client: &Client, limit: i64) -> Result<Vec<Letter>, Error> {
    let rows = client
        .query("SELECT id, subject, headers::text, payload FROM deadletters WHERE published_at IS NULL ORDER BY created_at LIMIT $1", &[&limit])
        .await?;
    Ok(rows.iter().map(|row| Letter { id: row.get(0), subject: row.get(1), headers: row.get(2), payload: row.get(3) }).collect())
}

/// Marks a letter as published.
///
/// # Errors
/// Those of the connection.
pub async fn published(client: &Client, id: Uuid) -> Result<(), Error> {
    client.execute("UPDATE deadletters SET published_at = now() WHERE id = $1", &[&id]).await.map(|_| ())
}
