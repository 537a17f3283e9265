//! Sends what the ledger holds: a row is claimed, its sending is noted before it begins, and its end after.
//!
//! A crash or a lost connection between the two notes leaves a doubt. A mail in doubt is sent once more at most, with the same id.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures_util::{StreamExt, stream};
use runtime::{Config, StartError, Stop, failpoint, health, store::describe};
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    fanout,
    link::Links,
    notice::link_of,
    queue::{Queue, Row},
    templates::{Templates, criticality},
    transport::{CONNECTIONS, Mail, SendError, Transport},
};

/// How often the ledger is looked at when nothing is said.
const IDLE: Duration = Duration::from_secs(1);
/// Delays after the first, second … time in a row that the database or the mail server was away; the last one repeats.
const AWAY: [u64; 5] = [2, 5, 10, 30, 60];
/// Delays after the first, second … time a mail could not be sent; the last one repeats.
const DELAYS: [f64; 7] = [5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0];
/// After so long nobody waits for it any more.
const LATEST: time::Duration = time::Duration::hours(48);
/// A sending in all.
const SEND_LIMIT: Duration = Duration::from_secs(120);

/// Sends mails from the ledger.
pub struct Sender {
    pool: Pool,
    queue: Queue,
    transport: Arc<Transport>,
    templates: Templates,
    links: Links,
    service: String,
    page: i64,
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
        let queue = Queue::new(pool.clone(), config.mails_per_user_hour, config.mails_per_tenant_hour);
        Ok(Self { pool, queue, transport: Arc::new(transport), templates, links, service, page: i64::from(config.mail_page) })
    }

    /// Sends until `stop`; what has begun is finished and noted.
    pub async fn run(&self, work: &Notify, stop: &Stop) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            match self.round(stop).await {
                Ok(0) => failures = 0,
                Ok(_) => {
                    failures = 0;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "mails wait");
                    health::set("mail", true, format!("waiting: {error}"));
                    let seconds = AWAY[failures.min(AWAY.len() - 1)];
                    failures += 1;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = sleep(Duration::from_secs(seconds)) => {}
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

    /// One look at the ledger: a page of what is told to many, then what is due. Returns how many of these there were.
    ///
    /// # Errors
    /// The database or the mail server is away; nothing is in doubt by that.
    pub async fn round(&self, stop: &Stop) -> Result<usize, String> {
        let paged = usize::from(fanout::go_on(&self.pool, self.page).await?);
        if !self.queue.any_due().await? {
            return Ok(paged);
        }
        self.transport.ready().await.map_err(|error| error.to_string())?;
        let rows = self.queue.claim().await?;
        failpoint::hit("notifications_claimed");
        let count = rows.len();
        let sendings =
            stream::iter(rows).map(|row| async move { if stop.is_cancelled() { self.queue.give_back(&row).await } else { self.send(row).await } });
        let results: Vec<Result<(), String>> = sendings.buffer_unordered(usize::try_from(CONNECTIONS).unwrap_or(1)).collect().await;
        results.into_iter().collect::<Result<(), String>>()?;
        Ok(count + paged)
    }

    async fn send(&self, row: Row) -> Result<(), String> {
        let doubts = row.doubts + i32::from(row.in_doubt);
        let end = if doubts > 1 {
            End::Undeliverable("twice in doubt: it may have arrived".into())
        } else if row.created < time::OffsetDateTime::now_utc() - LATEST {
            End::Undeliverable("it could not be sent in time".into())
        } else if self.queue.admit(&row, doubts).await? {
            failpoint::hit("notifications_intended");
            let end = self.try_send(&row).await;
            failpoint::hit("notifications_sent");
            end
        } else {
            return Ok(());
        };
        self.note(&row, end).await
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
            replay: row.replay,
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
