//! The tables.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::pin,
};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use serde_json::Value;
use subjects::Outcome;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::Doors;
use crate::chaos::{
    facts::{AggregateRow, AuditRow, CommandRow, EventRow, Facts, Mails},
    history::Effect,
};

const EVENTS: &str = "SELECT id, partition, partition_sequence, tenant_id, sequence, type, kind, aggregate_id, command_id, body::text FROM events";
const COMMANDS: &str = "SELECT id, tenant_id, outcome::text FROM commands";
const AGGREGATES: &str = "SELECT tenant_id, kind, id, version, state ->> 'fullName', state ->> 'name' FROM aggregates";
const AUDIT: &str = "SELECT tenant_id, n, event_id FROM audit_log";
const LEDGER: &str = "SELECT id, state, attempts FROM notifications.ledger";
/// What the notifier always tells, whoever it is and whatever is switched on.
const UNTOLD: &str = "SELECT e.id, e.type FROM events e
    WHERE (e.type = 'user.created' AND e.body -> 'data' ->> 'emailVerified' IS DISTINCT FROM 'true'
        OR e.type = 'invitation.sent' AND e.body -> 'data' ->> 'invitationType' = 'email')
      AND NOT EXISTS (SELECT FROM notifications.ledger l WHERE l.event_id = e.id)";

/// A hash of an event's body, the same for the table's and the stream's.
pub(super) fn hash(body: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// Reads a table row by row: a long run has many.
async fn each<T>(database: &Client, query: &str, read: impl Fn(&Row) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    let rows = database.query_raw(query, std::iter::empty::<&str>()).await.with_context(|| format!("reading: {query}"))?;
    let mut rows = pin!(rows);
    let mut all = Vec::new();
    while let Some(row) = rows.try_next().await? {
        all.push(read(&row)?);
    }
    Ok(all)
}

/// Everything in the tables.
pub(super) async fn read(doors: &Doors<'_>, facts: &mut Facts) -> anyhow::Result<()> {
    let database = &doors.database;
    facts.events = each(database, EVENTS, event).await?;
    facts.commands = each(database, COMMANDS, command).await?;
    facts.aggregates = each(database, AGGREGATES, aggregate).await?;
    facts.audit = each(database, AUDIT, |row| Ok(AuditRow { tenant: row.try_get(0)?, n: row.try_get(1)?, event: row.try_get(2)? })).await?;
    let report = audit::verify(doors.reach.database_url.expose(), None, &[]).await.context("verifying the audit")?;
    facts.audit_broken = report.broken.iter().map(|broken| format!("{} row {}: {}", broken.tenant, broken.n, broken.what)).collect();
    Ok(())
}

fn event(row: &Row) -> anyhow::Result<EventRow> {
    let body: &str = row.try_get(9)?;
    let parsed: Value = serde_json::from_str(body)?;
    let event_type: String = row.try_get(5)?;
    Ok(EventRow {
        id: row.try_get(0)?,
        partition: row.try_get(1)?,
        partition_sequence: row.try_get(2)?,
        tenant: row.try_get(3)?,
        sequence: row.try_get(4)?,
        value: told(&event_type, &parsed["data"]),
        event_type,
        kind: row.try_get(6)?,
        aggregate: row.try_get(7)?,
        version: parsed["aggregateVersion"].as_i64().unwrap_or_default(),
        command: row.try_get(8)?,
        body: hash(body),
    })
}

/// The value that an event tells.
fn told(event_type: &str, data: &Value) -> Option<String> {
    data.pointer(Effect::place(event_type)?)?.as_str().map(str::to_owned)
}

fn command(row: &Row) -> anyhow::Result<CommandRow> {
    let outcome: Outcome = serde_json::from_str(row.try_get(2)?)?;
    let status = serde_json::to_value(outcome.status)?;
    Ok(CommandRow {
        id: row.try_get(0)?,
        tenant: row.try_get(1)?,
        status: status.as_str().unwrap_or_default().to_owned(),
        reason: outcome.code,
        aggregate: outcome.aggregate_id.rsplit('_').next().and_then(|id| Uuid::try_parse(id).ok()),
        events: outcome.events.iter().map(|event| event.id.uuid()).collect(),
    })
}

fn aggregate(row: &Row) -> anyhow::Result<AggregateRow> {
    let mut fields = BTreeMap::new();
    for (place, name) in [(4, "fullName"), (5, "name")] {
        if let Some(value) = row.try_get::<_, Option<String>>(place)? {
            fields.insert(name.to_owned(), value);
        }
    }
    Ok(AggregateRow { tenant: row.try_get(0)?, kind: row.try_get(1)?, id: row.try_get(2)?, version: row.try_get(3)?, fields })
}

/// The notifier's ledger, compared with the folder of mails where there is one.
pub(super) async fn mails(doors: &Doors<'_>) -> anyhow::Result<Mails> {
    let mut mails = Mails {
        untold: each(&doors.database, UNTOLD, |row| Ok(format!("evt_{} ({})", row.try_get::<_, Uuid>(0)?, row.try_get::<_, &str>(1)?))).await?,
        ..Mails::default()
    };
    let folder = match &doors.reach.mail {
        None => None,
        Some(folder) => {
            let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
            Some(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>().join("\n"))
        }
    };
    let ledger =
        each(&doors.database, LEDGER, |row| Ok((row.try_get::<_, Uuid>(0)?, row.try_get::<_, String>(1)?, row.try_get::<_, i32>(2)?))).await?;
    for (id, state, attempts) in ledger {
        match state.as_str() {
            "sent" => {
                mails.sent += 1;
                mails.again += u64::try_from(attempts - 1).unwrap_or_default();
                if folder.as_ref().is_some_and(|names| !names.contains(&format!("-{id}.eml"))) {
                    mails.missing.push(id);
                }
            }
            "pending" => mails.pending += 1,
            _ => {}
        }
    }
    Ok(mails)
}
