//! The ledger: one row for each thing that one person is to be told about one event.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::{Pool, Transaction};
use runtime::{
    Failure,
    consume::{Event, judge},
    failpoint,
};
use serde_json::{Map, Value};
use subjects::{Actor, Envelope, UserId};
use time::{Duration, OffsetDateTime};
use tokio_postgres::{Error, types::ToSql};
use uuid::Uuid;

use crate::{
    link::Links,
    notice::{Audience, Notice, Switch, notices},
    projection,
};

/// What is older is history to its recipient: it goes into the ledger and not out. Keeps a notifier that is new from mailing the past.
const STALE: Duration = Duration::days(3);

/// What an error of the database means.
pub(crate) fn database(error: Error) -> Failure {
    judge(&error)
}

/// Follows events and writes down who is to be told, all in one transaction. Repeated, it changes nothing.
///
/// # Errors
/// The database is away, an address is not known yet, or an event's data is not its own.
pub async fn record(pool: &Pool, links: &Links, events: &[Event]) -> Result<(), Failure> {
    let mut client = pool.get().await.map_err(Failure::outage)?;
    let transaction = client.transaction().await.map_err(database)?;
    let mut told = Vec::with_capacity(events.len());
    for event in events.iter().filter(|event| aggregates::registry::event(&event.envelope.event_type).is_some()) {
        told.push((&event.envelope, notices(&event.envelope)?));
    }
    let switches = Switches::read(&transaction, &told).await?;
    // Events that tell nobody anything are only followed: their statements leave together and are answered in one round trip.
    let mut quiet = Vec::new();
    for (envelope, mut notices) in told {
        notices.retain(|notice| switches.are_on(envelope, notice.switch));
        // The last mail to somebody needs the address that the event takes away.
        let last = envelope.event_type == "user.deleted";
        if notices.is_empty() && !last {
            quiet.push(envelope);
            continue;
        }
        projection::follow_all(&transaction, &std::mem::take(&mut quiet)).await?;
        if !last {
            projection::follow(&transaction, envelope).await?;
        }
        for notice in notices {
            enter(&transaction, links, envelope, notice).await?;
        }
        if last {
            projection::follow(&transaction, envelope).await?;
        }
    }
    projection::follow_all(&transaction, &quiet).await?;
    failpoint::hit("notifications_before_commit");
    transaction.commit().await.map_err(database)
}

/// The start of every insertion; what follows selects event, recipient, address and name.
const INSERT: &str = "INSERT INTO notifications.ledger (event_id, effect, recipient, tenant_id, address, name, context, state, error, ended_at)
     SELECT r.event_id, $2::text, r.recipient, $3::uuid, CASE WHEN NOT $5::bool THEN r.address END, CASE WHEN NOT $5 THEN r.name END,
         CASE WHEN NOT $5 THEN ($4::text)::json END, CASE WHEN $5 THEN 'undeliverable' ELSE 'pending' END,
         CASE WHEN $5 THEN 'too old to be told' END, CASE WHEN $5 THEN now() END
     FROM (";
const ONCE: &str = ") r ON CONFLICT DO NOTHING";

async fn enter(transaction: &Transaction<'_>, links: &Links, envelope: &Envelope, mut notice: Notice) -> Result<(), Failure> {
    look_up_actor(transaction, envelope, &mut notice.context).await?;
    let row = Row {
        event: envelope.id.uuid(),
        effect: notice.effect,
        tenant: envelope.tenant_id.uuid(),
        context: Value::Object(notice.context).to_string(),
        stale: envelope.timestamp < OffsetDateTime::now_utc() - STALE,
    };
    let sequence = i64::try_from(envelope.sequence).unwrap_or(i64::MAX);
    match notice.audience {
        Audience::User(user) => {
            let select = "SELECT $1::uuid AS event_id, $6::text AS recipient, email AS address, full_name AS name
                 FROM notifications.people WHERE user_id = $7 AND email IS NOT NULL";
            if row.insert(transaction, select, &[&user.to_string(), &user.uuid()]).await? == 0 {
                must_be_known(transaction, &row, user, "SELECT FROM notifications.people WHERE user_id = $1 AND (gone OR email IS NOT NULL)").await?;
            }
        }
        // An operator who invited is no member: they are told nothing.
        Audience::Inviter(user) => {
            row.insert(transaction, MEMBER, &[&user.to_string(), &user.uuid()]).await?;
        }
        Audience::Member(user) => {
            if row.insert(transaction, MEMBER, &[&user.to_string(), &user.uuid()]).await? == 0 {
                // Somebody who has left meanwhile is told nothing; somebody not heard of yet is waited for.
                must_be_known(transaction, &row, user, "SELECT FROM notifications.members WHERE user_id = $1 AND active_seq > 0").await?;
            }
        }
        // All are entered at once: whoever has become one of them since then is not told of the past when the event comes again.
        Audience::Managers | Audience::Everyone if told(transaction, &row).await? => {}
        Audience::Managers => {
            row.insert(transaction, &format!("{MEMBERS} AND m.role IN ('owner', 'admin')"), &[&sequence]).await?;
        }
        Audience::Everyone => {
            row.insert(transaction, MEMBERS, &[&sequence]).await?;
        }
        Audience::Address(address, user) => {
            let recipient = user.map_or_else(|| links.alias(&address), |user| user.to_string());
            let select = "SELECT $1::uuid AS event_id, $6::text AS recipient, $7::text AS address,
                 (SELECT full_name FROM notifications.people WHERE user_id = $8) AS name";
            row.insert(transaction, select, &[&recipient, &address, &user.map(|user| user.uuid())]).await?;
        }
        Audience::FirstOwner => {
            // Whichever of the two events comes second finds the other.
            let select = "SELECT t.created_event AS event_id, 'user_' || m.user_id AS recipient, m.email AS address, p.full_name AS name
                 FROM notifications.tenants t JOIN notifications.members m ON m.tenant_id = t.tenant_id AND m.joined_cause = t.created_cause
                 LEFT JOIN notifications.people p USING (user_id) WHERE t.tenant_id = $3 AND m.email IS NOT NULL AND $1::uuid IS NOT NULL";
            row.insert(transaction, select, &[]).await?;
        }
    }
    Ok(())
}

const MEMBERS: &str = "SELECT $1::uuid AS event_id, 'user_' || m.user_id AS recipient, m.email AS address, p.full_name AS name
     FROM notifications.members m LEFT JOIN notifications.people p USING (user_id) WHERE m.tenant_id = $3 AND m.active AND m.active_seq < $6
         AND m.email IS NOT NULL";

const MEMBER: &str = "SELECT $1::uuid AS event_id, $6::text AS recipient, m.email AS address, p.full_name AS name
     FROM notifications.members m LEFT JOIN notifications.people p USING (user_id)
     WHERE m.tenant_id = $3 AND m.user_id = $7 AND m.email IS NOT NULL";

/// What all recipients of a notice share.
struct Row {
    event: Uuid,
    effect: &'static str,
    tenant: Uuid,
    context: String,
    stale: bool,
}

impl Row {
    async fn insert(&self, transaction: &Transaction<'_>, select: &str, further: &[&(dyn ToSql + Sync)]) -> Result<u64, Failure> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.event, &self.effect, &self.tenant, &self.context, &self.stale];
        parameters.extend_from_slice(further);
        let statement = transaction.prepare_cached(&format!("{INSERT}{select}{ONCE}")).await.map_err(database)?;
        transaction.execute(&statement, &parameters).await.map_err(database)
    }
}

/// Whether somebody was entered before.
async fn told(transaction: &Transaction<'_>, row: &Row) -> Result<bool, Failure> {
    let statement = "SELECT FROM notifications.ledger WHERE event_id = $1 AND effect = $2 LIMIT 1";
    Ok(!query(transaction, statement, &[&row.event, &row.effect]).await?.is_empty())
}

/// Nobody was entered: that is in order when they were entered before, or are known to be out of reach. Otherwise the event that tells
/// of them is still on its way.
async fn must_be_known(transaction: &Transaction<'_>, row: &Row, user: UserId, known: &str) -> Result<(), Failure> {
    let told = told(transaction, row).await?;
    let known = query(transaction, known, &[&user.uuid()]).await?;
    if told || !known.is_empty() || row.stale {
        return Ok(());
    }
    Err(Failure::retry("the recipient is not known yet"))
}

/// What the tenants of a batch have switched on, of what must be.
#[derive(Default)]
struct Switches(HashMap<Uuid, (bool, bool)>);

impl Switches {
    async fn read(transaction: &Transaction<'_>, told: &[(&Envelope, Vec<Notice>)]) -> Result<Self, Failure> {
        let asks = |notices: &[Notice]| notices.iter().any(|notice| notice.switch != Switch::Always);
        let tenants: HashSet<Uuid> = told.iter().filter(|(_, notices)| asks(notices)).map(|(envelope, _)| envelope.tenant_id.uuid()).collect();
        if tenants.is_empty() {
            return Ok(Self::default());
        }
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        let select = "SELECT tenant_id, profile_updated, invitation_expired FROM notifications.switches WHERE tenant_id = ANY ($1)";
        let rows = query(transaction, select, &[&tenants]).await?;
        Ok(Self(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()))
    }

    fn are_on(&self, envelope: &Envelope, switch: Switch) -> bool {
        // No row: nothing is on.
        let (profile_updated, invitation_expired) = self.0.get(&envelope.tenant_id.uuid()).copied().unwrap_or_default();
        match switch {
            Switch::Always => true,
            Switch::ProfileUpdated => profile_updated,
            Switch::InvitationExpired => invitation_expired,
        }
    }
}

async fn query(transaction: &Transaction<'_>, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<tokio_postgres::Row>, Failure> {
    let statement = transaction.prepare_cached(statement).await.map_err(database)?;
    transaction.query(&statement, parameters).await.map_err(database)
}

/// Replaces the id of who did something by a name that the tenant's members may see.
async fn look_up_actor(transaction: &Transaction<'_>, envelope: &Envelope, context: &mut Map<String, Value>) -> Result<(), Failure> {
    let Some(by) = context.get("by") else { return Ok(()) };
    let user = by.as_str().and_then(|by| by.parse::<Actor>().ok()).and_then(Actor::user);
    let mut name = None;
    if let Some(user) = user {
        let statement = "SELECT p.full_name FROM notifications.members m JOIN notifications.people p USING (user_id)
             WHERE m.tenant_id = $1 AND m.user_id = $2";
        let rows = query(transaction, statement, &[&envelope.tenant_id.uuid(), &user.uuid()]).await?;
        name = rows.first().and_then(|row| row.get::<_, Option<String>>(0));
    }
    context.insert("by".into(), Value::from(name.unwrap_or_else(|| "an administrator".to_owned())));
    Ok(())
}
