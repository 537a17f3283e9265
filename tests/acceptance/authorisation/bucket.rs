//! What is in the bucket, and that a stale answer does not stay in it.

use async_nats::jetstream::kv::Operation;
use chancery::role::Role;
use futures_util::TryStreamExt as _;
use hyper::Method;
use serde_json::{Value, json};

use super::{admins_only, ask, command, key, member, remembered, tenant, the_bucket, through, two_gateways, warm};
use crate::harness::{Stack, wait_until};

/// One more gateway that freezes once it has read what a member may, and tells what it does with it after its thaw.
fn freezing(stack: &mut Stack) {
    let environment = [("CHANCERY_FAILPOINT", "standing_read=stop"), ("CHANCERY_LOG", "info,command_gateway=debug")];
    stack.start_another("gateway-late", Role::Gateway, &environment);
}

async fn believes(gateway: std::net::SocketAddr) {
    wait_until("the gateway believes its memory", async || ask(gateway, "/readyz", "").await.body["parts"]["authz"] == "ready").await;
}

/// Lets the late gateway read what a member may, and freeze before it puts it.
async fn read_and_freeze(stack: &mut Stack, path: &str, token: &str) -> tokio::task::JoinHandle<()> {
    let late = stack.process("gateway-late").address;
    believes(late).await;
    let (path, token) = (path.to_owned(), token.to_owned());
    let asking = tokio::spawn(async move {
        ask(late, &path, &token).await.expect(200);
    });
    wait_until("it is frozen", async || stack.log("gateway-late").contains("failpoint standing_read: stop")).await;
    asking
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_is_not_put_over_a_drop() {
    let mut stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let admin = member(&stack, &tenant, "admin").await;
    freezing(&mut stack);
    let asking = read_and_freeze(&mut stack, &admins_only(&tenant), &admin.token).await;
    let bucket = the_bucket(&stack).await;
    let before = bucket.entry(key(&tenant, &admin)).await.unwrap().map_or(0, |entry| entry.revision);
    let revoke = tenant.path(&format!("/members/{}/role/revoke", admin.id));
    through(stack.gateways()[0], &stack, &revoke, &json!({ "role": "admin" })).await;
    wait_until("it is dropped", async || {
        let entry = bucket.entry(key(&tenant, &admin)).await.unwrap();
        entry.is_some_and(|entry| entry.revision > before && entry.operation == Operation::Delete)
    })
    .await;
    stack.thaw("gateway-late");
    asking.await.unwrap();
    wait_until("it has tried to put what it read", async || stack.log("gateway-late").contains("an answer was not put")).await;
    let entry = bucket.entry(key(&tenant, &admin)).await.unwrap().unwrap();
    assert_eq!(entry.operation, Operation::Delete, "{}", String::from_utf8_lossy(&entry.value));
    for gateway in stack.gateways() {
        wait_until("it is refused", async || ask(gateway, &admins_only(&tenant), &admin.token).await.status == 403).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_that_is_put_after_its_tenant_was_dropped_is_not_believed() {
    let mut stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let (admin, other) = (member(&stack, &tenant, "admin").await, member(&stack, &tenant, "admin").await);
    let bucket = the_bucket(&stack).await;
    let gone = async || bucket.entry(key(&tenant, &admin)).await.unwrap().is_none();
    // So that the key has no revision, as it had none when the drop of its joining had been forgotten.
    wait_until("its joining is dropped", async || !gone().await).await;
    command(&stack, Method::POST, &tenant.path("/suspend"), &json!({})).await;
    command(&stack, Method::POST, &tenant.path("/activate"), &json!({})).await;
    wait_until("the key is gone", gone).await;
    freezing(&mut stack);
    let asking = read_and_freeze(&mut stack, &admins_only(&tenant), &admin.token).await;
    let gateway = stack.gateways()[0];
    let before = bucket.entry(tenant.id.clone()).await.unwrap().unwrap().revision;
    through(gateway, &stack, &tenant.path(&format!("/members/{}/role/revoke", admin.id)), &json!({ "role": "admin" })).await;
    through(gateway, &stack, &tenant.path("/suspend"), &json!({})).await;
    // The tenant's drop takes the member's with it: nothing stands in the way of the late answer.
    wait_until("the tenant is dropped", async || {
        bucket.entry(tenant.id.clone()).await.unwrap().is_some_and(|entry| entry.revision > before) && gone().await
    })
    .await;
    stack.thaw("gateway-late");
    asking.await.unwrap();
    wait_until("the late answer is in the bucket", async || {
        bucket.entry(key(&tenant, &admin)).await.unwrap().is_some_and(|entry| entry.operation == Operation::Put)
    })
    .await;
    // Somebody who is remembered later: then the late answer has been heard everywhere, too.
    warm(&stack, &admins_only(&tenant), &other.token).await;
    for gateway in &stack.gateways()[..2] {
        ask(*gateway, &admins_only(&tenant), &admin.token).await.expect(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_changes_is_dropped_as_a_whole_and_no_other() {
    let stack = two_gateways().start().await;
    let (tenant, other) = (tenant(&stack).await, tenant(&stack).await);
    let mut members = Vec::new();
    for role in ["owner", "admin", "admin"] {
        members.push(member(&stack, &tenant, role).await);
    }
    let elsewhere = member(&stack, &other, "admin").await;
    for member in &members {
        warm(&stack, &admins_only(&tenant), &member.token).await;
    }
    warm(&stack, &admins_only(&other), &elsewhere.token).await;
    let bucket = the_bucket(&stack).await;
    let keys = async || {
        let mut keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort();
        keys
    };
    let mut expected: Vec<String> = members.iter().map(|member| key(&tenant, member)).chain([key(&other, &elsewhere)]).collect();
    expected.sort();
    assert_eq!(keys().await, expected);

    command(&stack, Method::POST, &tenant.path("/suspend"), &json!({})).await;
    wait_until("only the other tenant's is left", async || keys().await == [key(&other, &elsewhere)]).await;
    // About another member each: what the first asks for, the second hears of.
    for (gateway, member) in stack.gateways().into_iter().zip(&members) {
        let before = remembered(gateway).await;
        ask(gateway, &admins_only(&tenant), &member.token).await.expect(200);
        assert_eq!(remembered(gateway).await, before, "PostgreSQL was asked");
        ask(gateway, &admins_only(&other), &elsewhere.token).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_a_tenant_says_nothing_about_another() {
    let stack = two_gateways().start().await;
    let (tenant, other) = (tenant(&stack).await, tenant(&stack).await);
    let admin = member(&stack, &tenant, "admin").await;
    warm(&stack, &admins_only(&tenant), &admin.token).await;
    // The same user, remembered as an admin of one tenant, is nobody in the other, with either tenant in the token.
    for token in [&admin.token, &stack.token(&admin.id, &other.id, "")] {
        for gateway in stack.gateways() {
            let status = ask(gateway, &admins_only(&other), token).await.status;
            assert!([403, 404].contains(&status), "{status}");
        }
    }
    // And what stands in the bucket names nobody: ids in the key, the role and two numbers in the value.
    // The drop of the joining may come after the first answer was put: whoever asks then puts it again.
    let (bucket, mut kept) = (the_bucket(&stack).await, None);
    wait_until("it is in the bucket", async || {
        ask(stack.gateways()[0], &admins_only(&tenant), &admin.token).await.expect(200);
        kept = bucket.entry(key(&tenant, &admin)).await.unwrap().filter(|entry| entry.operation == Operation::Put);
        kept.is_some()
    })
    .await;
    let entry = kept.unwrap();
    let value: Value = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["after", "at", "role"]);
    assert_eq!(value["role"], "admin");
}
