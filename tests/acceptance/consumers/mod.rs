//! What the consumers make of the events: mails, the audit, the log, the answering command; whatever is down, killed, poisonous or repeated.

mod answering;
mod auditing;
mod catalogue;
mod crashing;
mod delivery_log;
mod expiry;
mod fanning_out;
mod guests;
pub(crate) mod in_order;
pub(crate) mod mail_server;
mod mailing;
mod outages;
mod poison;
mod replay;
pub(crate) mod telling;
mod the_log;
mod timeline;
mod withdrawals;

use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream::consumer::pull;
use chancery::role::{Consumer, Role};
use hyper::Method;
use serde_json::{Value, json};
use subjects::{InvitationId, TenantId, UserId, stream as names};

use crate::harness::{Stack, wait_until};

/// A tenant with its owner.
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// The owner's address.
    email: String,
}

impl Tenant {
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}{rest}", self.id)
    }

    fn uuid(&self) -> uuid::Uuid {
        self.id.parse::<TenantId>().unwrap().uuid()
    }
}

/// Letters that no other call has given: slugs and addresses are unique on the platform.
fn fresh(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}{}y{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An address nobody has.
pub(crate) fn address(what: &str) -> String {
    format!("{}@example.com", fresh(what))
}

pub(crate) async fn tenant(stack: &Stack) -> Tenant {
    let slug = fresh("c");
    let email = format!("{slug}@example.com");
    let body = json!({ "slug": slug, "name": "Acme & Sons", "plan": "enterprise", "owner": { "email": email, "fullName": "Own Er" } });
    let id = stack.post("/v1/tenants", &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    let uuid = id.parse::<TenantId>().unwrap().uuid();
    let sql = "SELECT id FROM aggregates WHERE tenant_id = $1 AND kind = 'membership'";
    let row = stack.db().await.query_one(sql, &[&uuid]).await.unwrap();
    Tenant { id, owner: UserId::new(row.get(0)).to_string(), email }
}

/// Invites an address; the invitation's id.
pub(crate) async fn invite(stack: &Stack, tenant: &Tenant, email: &str) -> String {
    let body = json!({ "email": email, "role": "member" });
    stack.post(&tenant.path("/invitations"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId")
}

pub(crate) async fn rename(stack: &Stack, tenant: &Tenant, name: &str) {
    stack.call(Method::PATCH, &tenant.path(""), &stack.operator_token(), &[], &json!({ "name": name })).await.expect(200);
}

/// How many events of a type an invitation has.
async fn events_of(stack: &Stack, invitation: &str, event_type: &str) -> i64 {
    let id = invitation.parse::<InvitationId>().unwrap().uuid();
    let sql = "SELECT count(*) FROM events WHERE aggregate_id = $1 AND type = $2";
    stack.db().await.query_one(sql, &[&id, &event_type]).await.unwrap().get(0)
}

/// A number from the database.
pub(crate) async fn count(stack: &Stack, sql: &str) -> i64 {
    stack.db().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until the audit has a row for every event.
pub(crate) async fn audited(stack: &Stack) {
    wait_until("an audit row for every event", async || {
        count(stack, "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM audit_log)").await == 0
    })
    .await;
}

/// Waits until everything written is published, and a consumer has acknowledged what of it is for it.
pub(crate) async fn followed(stack: &Stack, consumer: Consumer) {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    wait_until(&format!("{} has followed", consumer.name()), async || {
        let published = count(stack, "SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await == 0;
        let found = stream.get_consumer::<pull::Config>(consumer.name()).await;
        published && found.is_ok_and(|found| found.cached_info().num_pending == 0 && found.cached_info().num_ack_pending == 0)
    })
    .await;
}

/// Lets a consumer that is not running begin at the first event again.
async fn forget_position(stack: &Stack, consumer: Consumer) {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    assert!(stream.delete_consumer(consumer.name()).await.unwrap().success);
    crate::harness::blocking(|| stack.provision());
}

pub(crate) async fn dead_letters(stack: &Stack) -> u64 {
    stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap().cached_info().state.messages
}

/// The test's connection as a role of the product has it.
async fn connect_as(stack: &Stack, role: Role) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config = stack.database_url().parse().unwrap();
    config.user(role.database_role()).password(crate::harness::PASSWORD);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How a mail of the ledger stands: its state and how often it was tried.
async fn ledger(stack: &Stack, invitation: &str) -> Option<(String, i32)> {
    let id = invitation.parse::<InvitationId>().unwrap().uuid();
    let sql = "SELECT l.state, l.attempts FROM notifications.ledger l JOIN events e ON e.id = l.event_id
         WHERE e.aggregate_id = $1 AND e.type = 'invitation.sent'";
    let row = stack.db().await.query_opt(sql, &[&id]).await.unwrap();
    row.map(|row| (row.get(0), row.get(1)))
}

/// Accepts an invitation as somebody new.
async fn accept(stack: &Stack, token: &str) -> crate::harness::Answer {
    let body: Value = json!({ "token": token, "fullName": "New Comer" });
    stack.send(Method::POST, "/v1/invitations/accept", &[("content-type", "application/json")], body.to_string().into_bytes()).await.unwrap()
}
