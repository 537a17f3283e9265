//! What is told to many: a row of its own remembers how far its recipients are entered, and they are entered page by page, each page with
//! the mark of how far it went in one transaction. A crash loses no page and repeats none, and no tenant is too large for one transaction.

use deadpool_postgres::{Pool, Transaction};
use runtime::{Failure, failpoint, store::describe};
use tokio_postgres::Error;
use uuid::Uuid;

use crate::ledger::{ENTER, ENTERED_ONCE, database};

/// Something to be told to many members of a tenant.
pub(crate) struct FanOut<'a> {
    /// The event and the effect: once for both, whoever is a member by then.
    pub(crate) event: Uuid,
    pub(crate) effect: &'a str,
    pub(crate) tenant: Uuid,
    pub(crate) event_type: &'a str,
    /// The event's place in the tenant's history: who joined later is not told.
    pub(crate) sequence: i64,
    /// Owners and admins only, or every member.
    pub(crate) managers: bool,
    pub(crate) criticality: &'a str,
    /// What the template needs, as JSON.
    pub(crate) context: &'a str,
    /// Whether it goes into the ledger and not out.
    pub(crate) stale: bool,
}

/// Begins, with the first page of so many recipients. An event that comes again begins nothing.
///
/// # Errors
/// The database is away.
pub(crate) async fn begin(transaction: &Transaction<'_>, told: &FanOut<'_>, page: i64) -> Result<(), Failure> {
    let statement = "INSERT INTO notifications.fanouts (event_id, effect, tenant_id, event_type, sequence, managers, criticality, context, stale)
         VALUES ($1, $2, $3, $4, $5, $6, $7, ($8::text)::json, $9) ON CONFLICT DO NOTHING";
    let statement = transaction.prepare_cached(statement).await.map_err(database)?;
    let FanOut { event, effect, tenant, event_type, sequence, managers, criticality, context, stale } = told;
    let begun = transaction
        .execute(&statement, &[event, effect, tenant, event_type, sequence, managers, criticality, context, stale])
        .await
        .map_err(database)?;
    if begun == 0 {
        return Ok(());
    }
    let progress = Progress { event: *event, effect: (*effect).to_owned(), tenant: *tenant, sequence: *sequence, managers: *managers, after: None };
    progress.enter(transaction, page).await.map_err(database)
}

/// Enters one more page of what has waited longest, among the tenants of which fewer mails than a page wait to be sent. So no ledger grows
/// ahead of what may be sent. Returns whether there was one.
///
/// # Errors
/// The database is away.
pub(crate) async fn go_on(pool: &Pool, page: i64) -> Result<bool, String> {
    let mut client = pool.get().await.map_err(|error| error.to_string())?;
    let entered = async {
        let transaction = client.transaction().await?;
        let statement = "SELECT event_id, effect, tenant_id, sequence, managers, after_user FROM notifications.fanouts f
             WHERE done_at IS NULL AND (SELECT count(*) FROM (SELECT FROM notifications.ledger l
                 WHERE l.tenant_id = f.tenant_id AND l.state = 'pending' LIMIT $1::bigint) AS waiting) < $1::bigint
             ORDER BY paged_at LIMIT 1 FOR UPDATE SKIP LOCKED";
        let statement = transaction.prepare_cached(statement).await?;
        let Some(row) = transaction.query_opt(&statement, &[&page]).await? else { return Ok(false) };
        let progress =
            Progress { event: row.get(0), effect: row.get(1), tenant: row.get(2), sequence: row.get(3), managers: row.get(4), after: row.get(5) };
        progress.enter(&transaction, page).await?;
        failpoint::hit("notifications_page");
        transaction.commit().await?;
        failpoint::hit("notifications_paged");
        Ok::<bool, Error>(true)
    };
    entered.await.map_err(|error| describe(&error))
}

/// How far it is.
struct Progress {
    event: Uuid,
    effect: String,
    tenant: Uuid,
    sequence: i64,
    managers: bool,
    /// Members up to this id are entered.
    after: Option<Uuid>,
}

impl Progress {
    /// Enters the next page and notes it.
    async fn enter(&self, transaction: &Transaction<'_>, page: i64) -> Result<(), Error> {
        // Two texts, so that each has a plan of its own: managers are few and have an index.
        let whom = if self.managers { "AND m.role IN ('owner', 'admin') AND m.role_seq < $3" } else { "" };
        let statement = format!(
            "WITH page AS (
                 SELECT m.user_id, m.email, p.full_name FROM notifications.members m LEFT JOIN notifications.people p USING (user_id)
                 WHERE m.tenant_id = $1 AND m.user_id > $2 AND m.active AND m.active_seq < $3 AND m.email IS NOT NULL {whom}
                 ORDER BY m.user_id LIMIT $4::bigint),
             entered AS ({ENTER}
                 SELECT f.event_id, f.effect, 'user_' || page.user_id AS recipient, f.tenant_id, f.event_type, NULL::uuid AS invitation_id,
                     f.criticality, page.email AS address, page.full_name AS name, f.context::text AS context, f.stale
                 FROM page CROSS JOIN notifications.fanouts f WHERE f.event_id = $5 AND f.effect = $6
             {ENTERED_ONCE})
             UPDATE notifications.fanouts SET paged_at = now(),
                 after_user = coalesce((SELECT user_id FROM page ORDER BY user_id DESC LIMIT 1), after_user),
                 done_at = CASE WHEN (SELECT count(*) FROM page) < $4::bigint THEN now() END,
                 context = CASE WHEN (SELECT count(*) FROM page) < $4::bigint THEN NULL ELSE context END
             WHERE event_id = $5 AND effect = $6"
        );
        let statement = transaction.prepare_cached(&statement).await?;
        let after = self.after.unwrap_or_default();
        transaction.execute(&statement, &[&self.tenant, &after, &self.sequence, &page, &self.event, &self.effect]).await.map(|_| ())
    }
}
