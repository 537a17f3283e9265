//! Sends what the ledger holds: a row is claimed, its sending is noted before it begins, and its end after.
//!
//! A crash or a lost connection between the two notes leaves a doubt. A mail in doubt is sent once more at most, with the same id.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures_util::{StreamExt, stream};
use runtime::{Config, StartError, Stop, failpoint, health, store::describe};
use serde_json::{Map, Value};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    link::Links,
    notice::link_of,
    templates::{Templates, criticality},
    transport::{CONNECTIONS, Mail, SendError, Transport},
};

/// Rows claimed at once.
const CLAIM: i64 = 32;
/// How long a claim lasts; longer than all its sendings can take.
const CLAIM_SECONDS: f64 = 300.0;
/// How often the ledger is looked at when nothing is said.
const IDLE: Duration = Duration::from_secs(1);
/// Delays after the first, second … time a mail could not be sent; the last one repeats.
const DELAYS: [f64; 7] = [5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0];
/// After so long nobody waits for it any more.
const LATEST: time::Duration = time::Duration::hours(48);
/// Rows over an hourly limit wait until its first place is free again, spread over so many seconds.
const SPREAD: f64 = 600.0;
/// A sending in all.
const SEND_LIMIT: Duration = Duration::from_secs(120);
/// The key of the lock under which limits are counted.
const LIMITS_LOCK: i64 = 0x6e6f_7469_6669_6572;

/// Sends mails from the ledger.
pub struct Sender {
    pool: Pool,
    transport: Arc<Transport>,
    templates: Templates,
    links: Links,
    service: String,
    per_user: i64,
    per_tenant: i64,
}

/// A claimed row.
struct Row {
    id: Uuid,
    effect: String,
    recipient: String,
    tenant: Uuid,
    address: String,
    name: Option<String>,
    context: Map<String, Value>,
    attempts: i32,
    doubts: i32,
    in_doubt: bool,
    created: time::OffsetDateTime,
}

/// What is noted at the end.
enum End {
    Sent,
    Undeliverable(String),
    Later { error: String, seconds: f64, doubt: bool },
}

impl Sender {
    /// Over this ledger, by this way.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn new(pool: Pool, transport: Transport, links: Links, config: &Config) -> Result<Self, StartError> {
        let templates = Templates::new().map_err(|error| StartError::Setup(format!("a mail template cannot be read: {error:#}")))?;
        let service = config.mail_from.split('<').next().map(str::trim).filter(|name| !name.is_empty()).unwrap_or("Chancery").to_owned();
        let (per_user, per_tenant) = (i64::from(config.mails_per_user_hour), i64::from(config.mails_per_tenant_hour));
        Ok(Self { pool, transport: Arc::new(transport), templates, links, service, per_user, per_tenant })
    }

    /// Sends until `stop`; what has begun is finished and noted.
    pub async fn run(&self, work: &Notify, stop: &Stop) {
        while !stop.is_cancelled() {
            match self.round(stop).await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "mails wait");
                    health::set("mail", true, format!("waiting: {error}"));
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = sleep(IDLE * 5) => {}
                    }
                    continue;
                }
            }
            health::set("mail", true, "delivering");
            tokio::select! {
                () = stop.cancelled() => {}
                () = work.notified() => {}
                () = sleep(IDLE) => {}
            }
        }
    }

    /// One look at the ledger. Returns how many rows were due.
    ///
    /// # Errors
    /// The database or the mail server is away; nothing is in doubt by that.
    pub async fn round(&self, stop: &Stop) -> Result<usize, String> {
        if !self.any_due().await? {
            return Ok(0);
        }
        self.transport.ready().await.map_err(|error| error.to_string())?;
        let rows = self.claim().await?;
        failpoint::hit("notifications_claimed");
        let count = rows.len();
        let sendings = stream::iter(rows).map(|row| async move {
            // A claim that is not used runs out by itself.
            if stop.is_cancelled() { Ok(()) } else { self.send(row).await }
        });
        let results: Vec<Result<(), String>> = sendings.buffer_unordered(usize::try_from(CONNECTIONS).unwrap_or(1)).collect().await;
        results.into_iter().collect::<Result<(), String>>()?;
        Ok(count)
    }

    async fn any_due(&self) -> Result<bool, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let row = client.query_opt("SELECT FROM notifications.ledger WHERE state = 'pending' AND next_at <= now() LIMIT 1", &[]).await;
        row.map(|row| row.is_some()).map_err(|error| describe(&error))
    }

    async fn claim(&self) -> Result<Vec<Row>, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let rows = client
            .query(
                "WITH due AS (
                     SELECT id FROM notifications.ledger WHERE state = 'pending' AND next_at <= now() ORDER BY next_at LIMIT $1
                     FOR UPDATE SKIP LOCKED)
                 UPDATE notifications.ledger l SET next_at = now() + make_interval(secs => $2) FROM due WHERE l.id = due.id
                 RETURNING l.id, l.effect, l.recipient, l.tenant_id, coalesce(l.address, ''), l.name, coalesce(l.context::text, '{}'),
                     l.attempts, l.doubts, l.intent_at IS NOT NULL, l.created_at",
                &[&CLAIM, &CLAIM_SECONDS],
            )
            .await
            .map_err(|error| describe(&error))?;
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
            })
            .collect())
    }

    async fn send(&self, row: Row) -> Result<(), String> {
        let doubts = row.doubts + i32::from(row.in_doubt);
        let end = if doubts > 1 {
            End::Undeliverable("twice in doubt: it may have arrived".into())
        } else if row.created < time::OffsetDateTime::now_utc() - LATEST {
            End::Undeliverable("it could not be sent in time".into())
        } else if !self.admit(&row, doubts).await? {
            End::Later {
                error: "the hourly limit is reached".into(),
                seconds: self.until_free(&row).await? + rand::random_range(1.0..=SPREAD),
                doubt: false,
            }
        } else {
            failpoint::hit("notifications_intended");
            let end = self.try_send(&row).await;
            failpoint::hit("notifications_sent");
            end
        };
        self.note(&row, end).await
    }

    /// Notes that the sending begins, unless the hour is full. Counted under a lock: the limit is exact.
    async fn admit(&self, row: &Row, doubts: i32) -> Result<bool, String> {
        let mut client = self.pool.get().await.map_err(|error| error.to_string())?;
        let admitted = async {
            let transaction = client.transaction().await?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LIMITS_LOCK]).await?;
            let admitted = transaction
                .execute(
                    "UPDATE notifications.ledger SET intent_at = now(), attempts = attempts + 1, doubts = $6
                     WHERE id = $1 AND state = 'pending'
                     AND (SELECT count(*) FROM notifications.ledger WHERE recipient = $2 AND intent_at > now() - interval '1 hour') < $4
                     AND (SELECT count(*) FROM notifications.ledger WHERE tenant_id = $3 AND intent_at > now() - interval '1 hour') < $5",
                    &[&row.id, &row.recipient, &row.tenant, &self.per_user, &self.per_tenant, &doubts],
                )
                .await?;
            transaction.commit().await?;
            Ok::<bool, tokio_postgres::Error>(admitted == 1)
        };
        admitted.await.map_err(|error| describe(&error))
    }

    /// Seconds until the oldest mail of the hour does not count any more.
    async fn until_free(&self, row: &Row) -> Result<f64, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let statement = "SELECT coalesce(extract(epoch FROM min(intent_at) + interval '1 hour' - now()), 0)::float8 FROM notifications.ledger
             WHERE intent_at > now() - interval '1 hour' AND (recipient = $1 OR tenant_id = $2)";
        let row = client.query_one(statement, &[&row.recipient, &row.tenant]).await.map_err(|error| describe(&error))?;
        Ok(row.get::<_, f64>(0).max(0.0))
    }

    async fn try_send(&self, row: &Row) -> End {
        let tenant = self.tenant_name(row.tenant).await;
        let mut context = row.context.clone();
        if let Some((invitation, version)) = link_of(&context) {
            context.insert("link".into(), Value::from(self.links.invitation(invitation, version)));
        }
        context.insert("service".into(), Value::from(self.service.as_str()));
        context.insert("name".into(), Value::from(row.name.clone()));
        context.insert("tenant".into(), Value::from(tenant));
        let rendered = match self.templates.render(&row.effect, &context) {
            Ok(rendered) => rendered,
            Err(error) => return End::Undeliverable(format!("the template {} cannot be filled in: {}", row.effect, error.kind())),
        };
        let mail = Mail {
            id: row.id,
            created: row.created,
            address: &row.address,
            name: row.name.as_deref(),
            criticality: criticality(&row.effect),
            rendered,
        };
        let result = timeout(SEND_LIMIT, self.transport.send(&mail)).await;
        let error = match result.unwrap_or_else(|_| Err(SendError::InDoubt("it took too long".into()))) {
            Ok(()) => return End::Sent,
            Err(error) => error,
        };
        let text = error.to_string();
        match error {
            SendError::Refused(_) => End::Undeliverable(text),
            SendError::NotSent(_) => End::Later { error: text, seconds: delay(row.attempts), doubt: false },
            SendError::InDoubt(_) => End::Later { error: text, seconds: delay(row.attempts), doubt: true },
        }
    }

    /// The tenant's present name.
    async fn tenant_name(&self, tenant: Uuid) -> String {
        let unknown = "your organisation".to_owned();
        let Ok(client) = self.pool.get().await else { return unknown };
        match client.query_opt("SELECT name FROM notifications.tenants WHERE tenant_id = $1", &[&tenant]).await {
            Ok(row) => row.and_then(|row| row.get::<_, Option<String>>(0)).unwrap_or(unknown),
            Err(_) => unknown,
        }
    }

    /// Notes the end. What is over loses its address and everything that was said.
    async fn note(&self, row: &Row, end: End) -> Result<(), String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let over = "ended_at = now(), address = NULL, name = NULL, context = NULL";
        let result = match end {
            End::Sent => {
                tracing::info!(mail.id = %row.id, effect = row.effect, attempts = row.attempts + 1, "mail sent");
                client.execute(&format!("UPDATE notifications.ledger SET state = 'sent', error = NULL, {over} WHERE id = $1"), &[&row.id]).await
            }
            End::Undeliverable(error) => {
                tracing::warn!(mail.id = %row.id, effect = row.effect, error, "mail undeliverable");
                let statement = format!("UPDATE notifications.ledger SET state = 'undeliverable', error = $2, {over} WHERE id = $1");
                client.execute(&statement, &[&row.id, &error]).await
            }
            End::Later { error, seconds, doubt } => {
                tracing::info!(mail.id = %row.id, effect = row.effect, error, seconds, "mail waits");
                // The mark of a begun sending stays where there is a doubt.
                let statement = "UPDATE notifications.ledger SET next_at = now() + make_interval(secs => $2), error = $3,
                     intent_at = CASE WHEN $4 THEN intent_at END WHERE id = $1";
                client.execute(statement, &[&row.id, &seconds, &error, &doubt]).await
            }
        };
        result.map(|_| ()).map_err(|error| describe(&error))
    }
}

fn delay(attempts: i32) -> f64 {
    let index = usize::try_from(attempts).unwrap_or(0).min(DELAYS.len() - 1);
    DELAYS[index] * rand::random_range(0.75..=1.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_end_at_an_hour() {
        assert!(delay(0) < 7.0 && delay(3) > 200.0);
        assert!((2_600.0..=4_600.0).contains(&delay(1_000)));
    }
}
