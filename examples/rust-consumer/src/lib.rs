//! Keeps who is a member of which tenant, and has a letter printed for each who joins. A repeat is harmless: the kit commits the position together
//! with the rows, and a letter is written down before it is printed.

use std::{path::Path, time::Duration};

use chancery_kit::{
    Durable, EVENTS, Effect, Event, Failure, Order, Outside, Schema, Start, Transaction,
    subjects::{TenantId, UserId},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{fs::OpenOptions, io::AsyncWriteExt as _};

/// Its settings; `consumer.toml` says the same. In order, because who leaves and comes back is a member in the end.
pub const CONSUMER: Durable = Durable {
    name: "welcome",
    stream: EVENTS,
    filters: &["evt.*.tenant.>"],
    order: Order::Aggregate,
    start: Start::All,
    ack_wait: Duration::from_secs(5),
    max_deliver: 8,
    max_ack_pending: 256,
    batch: 100,
    backoff: &[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)],
};

/// Its tables.
pub const SCHEMA: Schema = Schema { name: "welcome", migrations: &[("0001_members", include_str!("../migrations/0001_members.sql"))] };

/// How letters are printed: eight at a time, each within two seconds.
pub const LETTERS: Outside = Outside { at_once: 8, limit: Duration::from_secs(2) };

/// What is wanted of `tenant.member_joined`; whatever else stands there is ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Joined {
    tenant_id: TenantId,
    user_id: UserId,
    email: String,
}

/// What is wanted of `tenant.member_removed`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Removed {
    tenant_id: TenantId,
    user_id: UserId,
}

/// Follows who joins and who goes.
///
/// # Errors
/// An event's data has another form, or the database refuses.
pub async fn handle(transaction: &Transaction<'_>, events: &[Event]) -> Result<(), Failure> {
    for event in events {
        match event.envelope.event_type.as_str() {
            "tenant.member_joined" => {
                let Joined { tenant_id, user_id, email } = event.data()?;
                let insert = "INSERT INTO welcome.members (tenant_id, user_id, email) VALUES ($1, $2, $3)
                              ON CONFLICT (tenant_id, user_id) DO UPDATE SET email = excluded.email";
                transaction.execute(insert, &[&tenant_id.uuid(), &user_id.uuid(), &email]).await?;
                SCHEMA.intend(transaction, event, "letter", &json!({ "userId": user_id })).await?;
            }
            "tenant.member_removed" => {
                let Removed { tenant_id, user_id } = event.data()?;
                let delete = "DELETE FROM welcome.members WHERE tenant_id = $1 AND user_id = $2";
                transaction.execute(delete, &[&tenant_id.uuid(), &user_id.uuid()]).await?;
            }
            // The filter brings what happens to tenants, too.
            _ => {}
        }
    }
    Ok(())
}

/// Has a letter printed: the printer takes a line of a file. Its key says which are the same.
///
/// # Errors
/// The printer is away.
pub async fn print(printer: &Path, effect: &Effect) -> Result<(), Failure> {
    let line = format!("{} {}\n", effect.key(), effect.payload["userId"]);
    let mut file = OpenOptions::new().create(true).append(true).open(printer).await.map_err(Failure::outage)?;
    file.write_all(line.as_bytes()).await.map_err(Failure::outage)?;
    file.flush().await.map_err(Failure::outage)
}
