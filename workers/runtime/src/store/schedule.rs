//! Deadlines that are due.

use aggregates::Key;
use subjects::{Kind, TenantId};
use tokio_postgres::{Client, Error};

/// An aggregate whose deadline has passed.
#[derive(Debug)]
pub struct Due {
    /// Which one.
    pub key: Key,
    /// Its state as JSON.
    pub state: String,
}

/// Due aggregates, longest due first.
///
/// # Errors
/// Those of the connection.
pub async fn due(client: &Client, limit: i64) -> Result<Vec<Due>, Error> {
    let rows =
        client.query("SELECT tenant_id, kind, id, state::text FROM aggregates WHERE due_at <= now() ORDER BY due_at LIMIT $1", &[&limit]).await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            // A kind this version does not know has deadlines only a newer one understands.
            let kind: Kind = row.get::<_, &str>(1).parse().ok()?;
            Some(Due { key: Key { tenant: TenantId::new(row.get(0)), kind, id: row.get(2) }, state: row.get(3) })
        })
        .collect())
}
