//! What gateways remember of a member's rights: that they do, that they forget in time, and that nothing that happens to the bucket, to
//! its consumer or to a connection lets anybody in.

mod bucket;
mod losing;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use async_nats::jetstream::kv;
use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    consumers::{Tenant, address, tenant},
    harness::{Answer, Builder, Http, Stack, wait_until},
};

/// How long a lost right may still count, from the answer to the command that took it.
const PROMISED: Duration = Duration::from_secs(1);
/// How long a test goes on asking afterwards.
const LONGER: Duration = Duration::from_millis(1_500);

/// Two gateways that remember.
fn two_gateways() -> Builder {
    Stack::builder().gateways(2).consumers(&[Consumer::AuthzCache])
}

/// A member with a role.
struct Member {
    id: String,
    token: String,
}

async fn member(stack: &Stack, tenant: &Tenant, role: &str) -> Member {
    let body = json!({ "email": address("m"), "fullName": "Mem Ber", "role": role });
    let id = stack.post(&tenant.path("/users"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    Member { token: stack.token(&id, &tenant.id, ""), id }
}

/// Asks one gateway.
async fn ask(gateway: SocketAddr, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    Http::new().send(gateway, Method::GET, path, &[("authorization", &bearer)], Vec::new()).await.unwrap()
}

/// What only an admin of the tenant may read.
fn admins_only(tenant: &Tenant) -> String {
    tenant.path("/invitations?pageSize=1")
}

/// How often a gateway answered from memory.
async fn remembered(gateway: SocketAddr) -> u64 {
    let text = ask(gateway, "/metrics", "").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(r#"chancery_authz_lookups_total{from="memory"} "#));
    line.expect("the gateway counts its lookups").parse().unwrap()
}

/// Asks every gateway until each answers from memory.
async fn warm(stack: &Stack, path: &str, token: &str) {
    for gateway in stack.gateways() {
        wait_until("the gateway remembers", async || {
            let before = remembered(gateway).await;
            ask(gateway, path, token).await.expect(200);
            remembered(gateway).await > before
        })
        .await;
    }
}

/// Asks every gateway again and again from `answered` on: within what is promised it says no, and does not say yes any more.
async fn assert_refused_in_time(stack: &Stack, what: &str, path: &str, token: &str, answered: Instant) {
    let gateways = stack.gateways().into_iter().map(async |gateway| {
        while answered.elapsed() < LONGER {
            let asked = answered.elapsed();
            let answer = ask(gateway, path, token).await;
            assert!([200, 403, 404].contains(&answer.status), "{what}: {} {}", answer.status, answer.text);
            assert!(answer.status != 200 || asked < PROMISED, "{what}: {gateway} still says yes {asked:?} after the answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    futures_util::future::join_all(gateways).await;
}

/// A command by an operator through one gateway, where another must not be asked.
async fn through(gateway: SocketAddr, stack: &Stack, path: &str, body: &Value) {
    let bearer = format!("Bearer {}", stack.operator_token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Http::new().send(gateway, Method::POST, path, &headers, body.to_string().into_bytes()).await.unwrap().expect(200);
}

/// A command by an operator; when its answer came.
async fn command(stack: &Stack, method: Method, path: &str, body: &Value) -> Instant {
    stack.call(method, path, &stack.operator_token(), &[], body).await.expect(200);
    Instant::now()
}

async fn the_bucket(stack: &Stack) -> kv::Store {
    stack.jetstream().await.get_key_value("authz").await.unwrap()
}

/// The key of a member.
fn key(tenant: &Tenant, member: &Member) -> String {
    format!("{}.{}", tenant.id, member.id)
}
