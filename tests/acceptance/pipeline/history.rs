//! Reads what a run left behind in PostgreSQL and in EVENTS, and waits until nothing of it is still on its way.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt as _;
use serde_json::Value;
use subjects::{CommandId, EventId, TenantId, stream as names};
use uuid::Uuid;

use super::check::{Audited, History, Outcome, Published, Recorded};
use crate::harness::Stack;

/// How long nothing may move before a test calls it stuck. Longer than every wait of the product.
const STUCK: Duration = Duration::from_secs(60);

/// How much of a run has arrived where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    decided: i64,
    written: i64,
    published: u64,
    audited: i64,
}

/// Waits until every accepted command is decided and its events are everywhere, then reads everything.
///
/// # Panics
/// When nothing moves for a minute, with what is missing.
pub(super) async fn settled(stack: &Stack, accepted: &BTreeSet<String>, audit: bool) -> History {
    let ids: Vec<Uuid> = accepted.iter().map(|id| id.parse::<CommandId>().unwrap().uuid()).collect();
    let mut before = None;
    let mut moved = Instant::now();
    loop {
        let now = progress(stack, &ids).await;
        // More than was written is no reason to wait: it will not become less.
        let everywhere = now.published >= now.written as u64 && (!audit || now.audited == now.written);
        if now.decided == ids.len() as i64 && everywhere && before == Some(now) {
            return read(stack, accepted, audit).await;
        }
        if before != Some(now) {
            (before, moved) = (Some(now), Instant::now());
        }
        if moved.elapsed() > STUCK {
            let faults = read(stack, accepted, audit).await.faults().join("\n");
            panic!("nothing moves any more: {now:?}, accepted {}\n{faults}", ids.len());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits and checks.
///
/// # Panics
/// With everything that is wrong.
pub(crate) async fn assert_sound(stack: &Stack, accepted: &BTreeSet<String>, audit: bool) -> History {
    let history = settled(stack, accepted, audit).await;
    let mut faults = history.faults();
    if audit {
        let report = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
        faults.extend(report.broken.iter().map(|broken| format!("the audit's chain: {broken:?}")));
    }
    let count = faults.len();
    faults.truncate(30);
    assert!(faults.is_empty(), "{count} faults:\n{}", faults.join("\n"));
    history
}

async fn progress(stack: &Stack, ids: &[Uuid]) -> Progress {
    let count = "SELECT (SELECT count(*) FROM commands WHERE id = ANY ($1)), (SELECT count(*) FROM events), (SELECT count(*) FROM audit_log)";
    let row = stack.db().await.query_one(count, &[&ids]).await.unwrap();
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let mut subjects = stream.info_with_subjects(names::ALL_EVENTS).await.unwrap();
    let mut published = 0;
    while let Some(subject) = subjects.next().await {
        published += subject.unwrap().1 as u64;
    }
    Progress { decided: row.get(0), written: row.get(1), published, audited: row.get(2) }
}

/// Everything as it is now.
pub(super) async fn read(stack: &Stack, accepted: &BTreeSet<String>, audit: bool) -> History {
    let db = stack.db().await;
    let rows = db.query("SELECT id, outcome::text FROM commands ORDER BY id", &[]).await.unwrap();
    let outcomes = rows.iter().map(|row| outcome(row.get(0), row.get(1))).collect();
    let rows = db
        .query("SELECT command_id, id, tenant_id, sequence, kind, aggregate_id, type, body::text FROM events ORDER BY tenant_id, sequence", &[])
        .await
        .unwrap();
    let events = rows.iter().map(recorded).collect();
    let rows = db.query("SELECT tenant_id, kind, id, version FROM aggregates", &[]).await.unwrap();
    let key = |row: &tokio_postgres::Row| (tenant(row.get(0)), row.get::<_, String>(1), row.get::<_, Uuid>(2).to_string());
    let versions = rows.iter().map(|row| (key(row), row.get::<_, i64>(3) as u64)).collect();
    let audit = if audit {
        let rows = db.query("SELECT tenant_id, n, event_id FROM audit_log ORDER BY tenant_id, n", &[]).await.unwrap();
        let audited = |row: &tokio_postgres::Row| Audited {
            tenant: tenant(row.get(0)),
            n: row.get::<_, i64>(1) as u64,
            event: EventId::new(row.get(2)).to_string(),
        };
        Some(rows.iter().map(audited).collect())
    } else {
        None
    };
    History { accepted: accepted.clone(), outcomes, events, stream: stream(stack).await, audit, versions }
}

fn tenant(id: Uuid) -> String {
    TenantId::new(id).to_string()
}

fn outcome(id: Uuid, text: &str) -> Outcome {
    let body: Value = serde_json::from_str(text).unwrap();
    let events = body["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    Outcome { command: CommandId::new(id).to_string(), status: body["status"].as_str().unwrap().to_owned(), events }
}

fn recorded(row: &tokio_postgres::Row) -> Recorded {
    let body: String = row.get(7);
    let parsed: Value = serde_json::from_str(&body).unwrap();
    let (id, sequence) = (EventId::new(row.get(1)).to_string(), row.get::<_, i64>(3) as u64);
    // The columns must say what the body says: everybody downstream reads the body only.
    assert_eq!((parsed["id"].as_str(), parsed["sequence"].as_u64()), (Some(id.as_str()), Some(sequence)), "{body}");
    assert_eq!(parsed["type"].as_str(), Some(row.get::<_, &str>(6)), "{body}");
    Recorded {
        tenant: tenant(row.get(2)),
        sequence,
        id,
        command: CommandId::new(row.get(0)).to_string(),
        event_type: row.get(6),
        aggregate: (row.get(4), row.get::<_, Uuid>(5).to_string()),
        version: parsed["aggregateVersion"].as_u64().unwrap(),
        body,
    }
}

/// EVENTS from its first message to its last, without the fences.
async fn stream(stack: &Stack) -> Vec<Published> {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let mut consumer = stream.create_consumer(OrderedConfig { filter_subject: names::ALL_EVENTS.into(), ..OrderedConfig::default() }).await.unwrap();
    let count = consumer.info().await.unwrap().num_pending;
    let mut published = Vec::new();
    let mut messages = consumer.messages().await.unwrap().take(usize::try_from(count).unwrap());
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let body = String::from_utf8(message.payload.to_vec()).unwrap();
        let parsed: Value = serde_json::from_str(&body).unwrap();
        published.push(Published {
            subject: message.subject.to_string(),
            tenant: parsed["tenantId"].as_str().unwrap().to_owned(),
            sequence: parsed["sequence"].as_u64().unwrap(),
            id: parsed["id"].as_str().unwrap().to_owned(),
            body,
        });
    }
    published
}
