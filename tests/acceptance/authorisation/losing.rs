//! Who loses a right is refused by every gateway in time, whatever is broken.

use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};

use super::{admins_only, ask, assert_refused_in_time, command, member, tenant, two_gateways, warm};
use crate::harness::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_lost_is_refused_by_every_gateway_within_a_second() {
    let stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let ways: [(&str, Method, &str, Value); 5] = [
        ("revoked", Method::POST, "/members/{u}/role/revoke", json!({ "role": "admin" })),
        ("demoted", Method::POST, "/members/{u}/role", json!({ "role": "readonly" })),
        ("removed", Method::DELETE, "/members/{u}", Value::Null),
        ("suspended", Method::POST, "/users/{u}/suspend", json!({})),
        ("deactivated", Method::POST, "/users/{u}/deactivate", json!({})),
    ];
    for (what, method, path, body) in ways {
        let admin = member(&stack, &tenant, "admin").await;
        warm(&stack, &admins_only(&tenant), &admin.token).await;
        let answered = command(&stack, method, &tenant.path(&path.replace("{u}", &admin.id)), &body).await;
        assert_refused_in_time(&stack, what, &admins_only(&tenant), &admin.token, answered).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_lost_is_refused_in_time_though_nobody_drops_what_is_remembered() {
    let mut stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let (first, second) = (member(&stack, &tenant, "admin").await, member(&stack, &tenant, "admin").await);
    let revoke = |id: &str| tenant.path(&format!("/members/{id}/role/revoke"));

    warm(&stack, &admins_only(&tenant), &first.token).await;
    stack.freeze("authz-cache");
    let answered = command(&stack, Method::POST, &revoke(&first.id), &json!({ "role": "admin" })).await;
    assert_refused_in_time(&stack, "frozen", &admins_only(&tenant), &first.token, answered).await;
    stack.thaw("authz-cache");

    warm(&stack, &admins_only(&tenant), &second.token).await;
    stack.kill9("authz-cache");
    let answered = command(&stack, Method::POST, &revoke(&second.id), &json!({ "role": "admin" })).await;
    assert_refused_in_time(&stack, "killed", &admins_only(&tenant), &second.token, answered).await;

    // Back, it drops what it missed before it lets anybody believe what is remembered.
    stack.start_again("authz-cache", &[]);
    let third = member(&stack, &tenant, "admin").await;
    warm(&stack, &admins_only(&tenant), &third.token).await;
    for gateway in stack.gateways() {
        ask(gateway, &admins_only(&tenant), &second.token).await.expect(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_postgres_is_asked_and_the_bucket_comes_back() {
    let stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let admin = member(&stack, &tenant, "admin").await;
    warm(&stack, &admins_only(&tenant), &admin.token).await;
    stack.jetstream().await.delete_key_value("authz").await.unwrap();
    let answered = command(&stack, Method::POST, &tenant.path(&format!("/members/{}/role", admin.id)), &json!({ "role": "member" })).await;
    assert_refused_in_time(&stack, "deleted", &admins_only(&tenant), &admin.token, answered).await;
    let other = member(&stack, &tenant, "admin").await;
    assert_eq!(crate::harness::blocking(|| stack.provision()).streams, 1, "nobody but the provisioner makes it");
    warm(&stack, &admins_only(&tenant), &other.token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_postgres_is_asked_and_reads_go_on() {
    let mut stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let (admin, other) = (member(&stack, &tenant, "admin").await, member(&stack, &tenant, "admin").await);
    warm(&stack, &admins_only(&tenant), &admin.token).await;
    warm(&stack, &admins_only(&tenant), &other.token).await;
    stack.kill_nats();
    // Nobody can tell of it: only the table knows.
    let user: subjects::UserId = admin.id.parse().unwrap();
    let sql = r#"UPDATE aggregates SET state = jsonb_set(state, '{role}', '"readonly"') WHERE kind = 'membership' AND id = $1"#;
    assert_eq!(stack.db().await.execute(sql, &[&user.uuid()]).await.unwrap(), 1);
    let answered = Instant::now();
    assert_refused_in_time(&stack, "no NATS", &admins_only(&tenant), &admin.token, answered).await;
    for gateway in stack.gateways() {
        ask(gateway, &admins_only(&tenant), &other.token).await.expect(200);
    }
    stack.restart_nats();
    warm(&stack, &admins_only(&tenant), &other.token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_commands_of_whom_gateways_remember_are_accepted() {
    let mut stack = two_gateways().own_postgres().start().await;
    let tenant = tenant(&stack).await;
    let (admin, stranger) = (member(&stack, &tenant, "admin").await, member(&stack, &tenant, "admin").await);
    warm(&stack, &admins_only(&tenant), &admin.token).await;
    stack.kill_postgres();
    let body = json!({ "email": super::address("late"), "send": false });
    let path = tenant.path("/invitations");
    let asking = |token: String| {
        let (stack, path, body) = (&stack, &path, &body);
        async move { stack.call(Method::POST, path, &token, &[("prefer", "respond-async")], body).await.status }
    };
    assert_eq!((asking(admin.token.clone()).await, asking(stranger.token.clone()).await), (202, 503));
    stack.restart_postgres();
    wait_until("the command is decided", async || {
        let sql = "SELECT count(*) FROM aggregates WHERE kind = 'invitation'";
        stack.db().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_gained_counts_at_once_on_every_gateway() {
    let stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let member = member(&stack, &tenant, "readonly").await;
    warm(&stack, &tenant.path("/members?pageSize=1"), &member.token).await;
    command(&stack, Method::POST, &tenant.path(&format!("/members/{}/role", member.id)), &json!({ "role": "admin" })).await;
    // One of them may still remember the lesser role: what is remembered says yes and never no.
    for gateway in stack.gateways() {
        ask(gateway, &admins_only(&tenant), &member.token).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_lost_is_refused_though_its_worker_dies_before_it_tells_anybody() {
    let mut stack = two_gateways().start().await;
    let tenant = tenant(&stack).await;
    let admin = member(&stack, &tenant, "admin").await;
    assert!(stack.stop("worker-1"));
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "committed=abort")]);
    warm(&stack, &admins_only(&tenant), &admin.token).await;
    // Decided, and its event is in the table alone: no drop will come, and nobody takes the partition over.
    command(&stack, Method::POST, &tenant.path(&format!("/members/{}/role/revoke", admin.id)), &json!({ "role": "admin" })).await;
    for gateway in stack.gateways() {
        wait_until("the gateway says no", async || ask(gateway, &admins_only(&tenant), &admin.token).await.status == 403).await;
    }
}
