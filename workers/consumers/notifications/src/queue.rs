//! Which mail goes next: every tenant has a share of each round, and whatever is over an hourly limit waits without being looked at.

use std::sync::Mutex;

use deadpool_postgres::{Pool, Transaction};
use runtime::store::describe;
use serde_json::{Map, Value};
use tokio_postgres::Error;
use uuid::Uuid;

/// Rows claimed at once, and tenants served in one round.
const CLAIM: i64 = 16;
/// How long a claim lasts; longer than all its sendings can take.
const CLAIM_SECONDS: f64 = 300.0;
/// Rows over an hourly limit wait until its first place is free again, spread over so many seconds.
const SPREAD: f64 = 600.0;
/// The key of the lock under which limits are counted.
const LIMITS_LOCK: i64 = 0x6e6f_7469_6669_6572;

/// A claimed row.
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) effect: String,
    pub(crate) recipient: String,
    pub(crate) tenant: Uuid,
    pub(crate) address: String,
    pub(crate) name: Option<String>,
    pub(crate) context: Map<String, Value>,
    pub(crate) attempts: i32,
    /// Earlier sendings whose end is not known, and whether the last one is such.
    pub(crate) doubts: i32,
    pub(crate) in_doubt: bool,
    /// When it was entered, or an operator had it sent again.
    pub(crate) created: time::OffsetDateTime,
    /// Which replay it is sent again for; 0 for its first time.
    pub(crate) replay: i64,
}

/// The mails that wait.
pub(crate) struct Queue {
    pool: Pool,
    per_user: i64,
    per_tenant: i64,
    /// The last tenant served; the next round begins after it.
    served: Mutex<Uuid>,
}

impl Queue {
    pub(crate) fn new(pool: Pool, per_user: u32, per_tenant: u32) -> Self {
        Self { pool, per_user: i64::from(per_user), per_tenant: i64::from(per_tenant), served: Mutex::default() }
    }

    pub(crate) async fn any_due(&self) -> Result<bool, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let row = client.query_opt("SELECT FROM notifications.ledger WHERE state = 'pending' AND next_at <= now() LIMIT 1", &[]).await;
        row.map(|row| row.is_some()).map_err(|error| describe(&error))
    }

    /// Claims what is due: the same number of rows of each of the next tenants, in turn.
    pub(crate) async fn claim(&self) -> Result<Vec<Row>, String> {
        let served = self.served.lock().map_or_else(|poisoned| *poisoned.into_inner(), |served| *served);
        let mut rows = self.claim_after(served).await?;
        if rows.is_empty() && !served.is_nil() {
            rows = self.claim_after(Uuid::nil()).await?;
        }
        let last = rows.iter().map(|row| row.tenant).max().unwrap_or_default();
        *self.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = last;
        Ok(rows)
    }

    async fn claim_after(&self, served: Uuid) -> Result<Vec<Row>, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        // The index of what is due begins with the tenant: each step of the recursion skips to the next one.
        let statement = "WITH RECURSIVE due (tenant_id) AS (
                 (SELECT l.tenant_id FROM notifications.ledger l WHERE l.state = 'pending' AND l.next_at <= now() AND l.tenant_id > $3::uuid
                  ORDER BY l.tenant_id LIMIT 1)
                 UNION ALL
                 SELECT (SELECT l.tenant_id FROM notifications.ledger l WHERE l.state = 'pending' AND l.next_at <= now()
                             AND l.tenant_id > due.tenant_id ORDER BY l.tenant_id LIMIT 1)
                   FROM due WHERE due.tenant_id IS NOT NULL),
             served AS MATERIALIZED (SELECT tenant_id FROM due WHERE tenant_id IS NOT NULL LIMIT $1::bigint),
             mine AS (
                 SELECT row.id FROM served CROSS JOIN LATERAL (
                     SELECT l.id FROM notifications.ledger l WHERE l.tenant_id = served.tenant_id AND l.state = 'pending' AND l.next_at <= now()
                      ORDER BY l.next_at LIMIT (SELECT greatest(1, $1::bigint / greatest(1, count(*))) FROM served) FOR UPDATE SKIP LOCKED) row)
             UPDATE notifications.ledger l SET next_at = now() + make_interval(secs => $2) FROM mine WHERE l.id = mine.id
             RETURNING l.id, l.effect, l.recipient, l.tenant_id, coalesce(l.address, ''), l.name, coalesce(l.context::text, '{}'),
                 l.attempts, l.doubts, l.intent_at IS NOT NULL, coalesce(l.again_at, l.created_at), l.replay";
        let rows = client.query(statement, &[&CLAIM, &CLAIM_SECONDS, &served]).await.map_err(|error| describe(&error))?;
        Ok(rows
            .iter()
            .map(|row| Row {
                id: row.get(0),
                effect: row.get(1),
                recipient: row.get(2),
                tenant: row.get(3),
                address: row.get(4),
                name: row.get(5),
                context: serde_json::from_str(row.get(6)).unwrap_or_default(),
                attempts: row.get(7),
                doubts: row.get(8),
                in_doubt: row.get(9),
                created: row.get(10),
                replay: row.get(11),
            })
            .collect())
    }

    /// Ends a claim that is not used.
    pub(crate) async fn give_back(&self, row: &Row) -> Result<(), String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let statement = "UPDATE notifications.ledger SET next_at = now() WHERE id = $1 AND state = 'pending'";
        client.execute(statement, &[&row.id]).await.map(|_| ()).map_err(|error| describe(&error))
    }

    /// Notes that the sending begins, unless the hour is full: then the row waits, and with it all that is due and under the same limit.
    /// Counted under a lock: the limits are exact.
    pub(crate) async fn admit(&self, row: &Row, doubts: i32) -> Result<bool, String> {
        let mut client = self.pool.get().await.map_err(|error| error.to_string())?;
        let admitted = async {
            let transaction = client.transaction().await?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LIMITS_LOCK]).await?;
            let full = match self.full_until(&transaction, "tenant_id = $1", &row.tenant, self.per_tenant).await? {
                Some(free) => Some(("tenant_id = $1", free)),
                None => self.full_until(&transaction, "recipient = $1", &row.recipient, self.per_user).await?.map(|free| ("recipient = $1", free)),
            };
            let admitted = match full {
                None => {
                    let statement = "UPDATE notifications.ledger SET intent_at = now(), attempts = attempts + 1, doubts = $2
                         WHERE id = $1 AND state = 'pending'";
                    transaction.execute(statement, &[&row.id, &doubts]).await? == 1
                }
                Some((whose, free)) => {
                    let key: &(dyn tokio_postgres::types::ToSql + Sync) = if whose.starts_with('t') { &row.tenant } else { &row.recipient };
                    let statement = format!(
                        "UPDATE notifications.ledger SET next_at = $2::timestamptz + random() * make_interval(secs => $3), error = 'the hourly limit is reached'
                         WHERE state = 'pending' AND {whose} AND (next_at <= now() OR id = $4)"
                    );
                    let waiting = transaction.execute(&statement, &[key, &free, &SPREAD, &row.id]).await?;
                    tracing::info!(tenant.id = %row.tenant, waiting, "mails wait: the hourly limit is reached");
                    false
                }
            };
            transaction.commit().await?;
            Ok::<bool, Error>(admitted)
        };
        admitted.await.map_err(|error| describe(&error))
    }

    /// When the next place of an hour that is full is free.
    async fn full_until<K: tokio_postgres::types::ToSql + Sync>(
        &self,
        transaction: &Transaction<'_>,
        whose: &str,
        key: &K,
        limit: i64,
    ) -> Result<Option<time::OffsetDateTime>, Error> {
        let statement = format!(
            "SELECT intent_at + interval '1 hour' FROM notifications.ledger WHERE {whose} AND intent_at > now() - interval '1 hour'
             ORDER BY intent_at DESC OFFSET $2::bigint - 1 LIMIT 1"
        );
        let statement = transaction.prepare_cached(&statement).await?;
        Ok(transaction.query_opt(&statement, &[key, &limit]).await?.map(|row| row.get(0)))
    }
}
