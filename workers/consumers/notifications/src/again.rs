//! Mails that are over and sent again because an operator says so.
//!
//! A row that is over has lost its address and what was said. Both are derived once more, from the event and from who is known now: nobody gets a
//! mail whom the event has not told before, and whoever is out of reach by now gets none.

use runtime::{Failure, consume::judge};
use serde_json::Value;
use subjects::{Actor, Envelope};
use tokio_postgres::Transaction;

use crate::notice::{Audience, Notice, notices};

/// Makes the mails about an event that are over due again, for the replay of this number, however old the event is. Those of this replay or a later
/// one stay as they are. Returns how many they were.
///
/// # Errors
/// The database is away, or the event's data is not its own.
pub async fn send_again(transaction: &Transaction<'_>, replay: i64, envelope: &Envelope) -> Result<u64, Failure> {
    let mut count = 0;
    for notice in notices(envelope)? {
        count += again(transaction, replay, envelope, notice).await?;
    }
    Ok(count)
}

async fn again(transaction: &Transaction<'_>, replay: i64, envelope: &Envelope, mut notice: Notice) -> Result<u64, Failure> {
    name_actor(transaction, envelope, &mut notice).await?;
    // Somebody who has left is told what concerns them alone; what many are told is for members.
    let (address, known) = match &notice.audience {
        Audience::Address(address, _) => (Some(address.as_str()), "$6::text"),
        Audience::User(_) => (None, "coalesce(p.email, $6::text)"),
        Audience::Member(_) => (None, "coalesce(m.email, p.email, $6::text)"),
        Audience::Inviter(_) | Audience::Managers | Audience::Everyone | Audience::FirstOwner => (None, "coalesce(m.email, $6::text)"),
    };
    let statement = format!(
        "UPDATE notifications.ledger l SET state = 'pending', replay = $1, again_at = now(), attempts = 0, doubts = 0, intent_at = NULL, next_at = now(),
             ended_at = NULL, error = NULL, context = $5::text::json, address = who.address, name = who.full_name
         FROM (SELECT r.id, p.full_name, CASE WHEN NOT coalesce(p.gone, false) THEN {known} END AS address
                 FROM (SELECT id, CASE WHEN recipient LIKE 'user\\_%' THEN substr(recipient, 6)::uuid END AS user_id FROM notifications.ledger
                        WHERE event_id = $2 AND effect = $3 AND state IN ('sent', 'undeliverable') AND replay < $1) r
                 LEFT JOIN notifications.people p ON p.user_id = r.user_id
                 LEFT JOIN notifications.members m ON m.tenant_id = $4 AND m.user_id = r.user_id) who
         WHERE l.id = who.id AND who.address IS NOT NULL AND l.state IN ('sent', 'undeliverable')"
    );
    // A map of JSON values is always written.
    let context = serde_json::to_string(&notice.context).unwrap_or_default();
    let (event, tenant) = (envelope.id.uuid(), envelope.tenant_id.uuid());
    let done = transaction.execute(&statement, &[&replay, &event, &notice.effect, &tenant, &context, &address]).await;
    done.map_err(|error| judge(&error))
}

/// Replaces the id of who did it by the name that the tenant's members may see, as at the first time.
async fn name_actor(transaction: &Transaction<'_>, envelope: &Envelope, notice: &mut Notice) -> Result<(), Failure> {
    let Some(by) = notice.context.get("by") else { return Ok(()) };
    let user = by.as_str().and_then(|by| by.parse::<Actor>().ok()).and_then(|actor| actor.user().map(|user| user.uuid()));
    let statement = "SELECT p.full_name FROM notifications.members m JOIN notifications.people p USING (user_id)
         WHERE m.tenant_id = $1 AND m.user_id = $2 AND p.full_name IS NOT NULL";
    let row = transaction.query_opt(statement, &[&envelope.tenant_id.uuid(), &user]).await.map_err(|error| judge(&error))?;
    let name: Option<String> = row.map(|row| row.get(0));
    notice.context.insert("by".into(), Value::from(name.unwrap_or_else(|| "an administrator".to_owned())));
    Ok(())
}
