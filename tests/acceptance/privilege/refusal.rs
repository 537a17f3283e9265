//! A right that is missing has a name, and what it held up is not lost.

use std::time::Duration;

use chancery::{
    manifest::Manifest,
    privilege::nats::{Permissions, User, permissions},
    role::{Consumer, Role},
    servers::port,
};
use hyper::Method;
use serde_json::json;

use crate::harness::{Answer, Stack, wait_until};

/// What every user may do.
fn allowed(user: User) -> Permissions {
    permissions(Manifest::with_examples(), user)
}

fn without(user: User, gone: &'static [&'static str]) -> impl Fn(User) -> Permissions {
    move |one| {
        let mut permissions = allowed(one);
        if one == user {
            let before = permissions.publish.len() + permissions.subscribe.len();
            permissions.publish.retain(|subject| !gone.contains(&subject.as_str()));
            permissions.subscribe.retain(|subject| !gone.contains(&subject.as_str()));
            assert_eq!(before, permissions.publish.len() + permissions.subscribe.len() + gone.len(), "one of {gone:?} is no right of {user:?}");
            // Empty, the list would allow everything.
            permissions.subscribe.push("_NOTHING".into());
        }
        permissions
    }
}

/// What `/readyz` of a process says.
async fn readiness(stack: &mut Stack, name: &str) -> String {
    let address = stack.process(name).address;
    tokio::task::spawn_blocking(move || port::get(address, "/readyz", Duration::from_secs(2)).map(|(_, text)| text).unwrap_or_default())
        .await
        .unwrap()
}

async fn says(stack: &mut Stack, name: &str, text: &str) {
    let address = stack.process(name).address;
    wait_until(&format!("{name} says {text}"), async || {
        let answer = tokio::task::spawn_blocking(move || port::get(address, "/readyz", Duration::from_secs(2))).await.unwrap();
        answer.is_ok_and(|(status, body)| status == 503 && body.contains(text))
    })
    .await;
}

async fn is_ready(stack: &mut Stack, name: &str) {
    let address = stack.process(name).address;
    wait_until(&format!("{name} is ready again"), async || {
        tokio::task::spawn_blocking(move || port::get(address, "/readyz", Duration::from_secs(2)))
            .await
            .unwrap()
            .is_ok_and(|(status, _)| status == 200)
    })
    .await;
}

fn tenant_body(number: usize) -> serde_json::Value {
    let slug = format!("refused-{number}");
    json!({ "slug": slug, "name": "Acme", "plan": "free", "owner": { "email": format!("{slug}@example.com"), "fullName": "Own Er" } })
}

async fn create(stack: &Stack, number: usize) -> Answer {
    let headers = [("idempotency-key", format!("key-{number}"))].map(|(name, value)| (name, value));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    stack.call(Method::POST, "/v1/tenants", &stack.operator_token(), &headers, &tenant_body(number)).await
}

/// Events written and not published.
async fn unpublished(stack: &Stack) -> i64 {
    stack.db().await.query_one("SELECT coalesce(sum(sequence - mark_sequence), 0)::bigint FROM partitions", &[]).await.unwrap().get(0)
}

async fn everything_is_audited(stack: &Stack) {
    wait_until("every event is audited", async || {
        let sql = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM audit_log)";
        let row = stack.db().await.query_one(sql, &[]).await.unwrap();
        row.get::<_, i64>(0) == row.get::<_, i64>(1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_publish_says_so_and_publishes_when_it_may_again() {
    let mut stack = Stack::builder().patient().consumers(&[Consumer::Audit]).start().await;
    create(&stack, 1).await.expect(201);
    everything_is_audited(&stack).await;
    stack.nats.reload(&without(User::Worker, &["evt.*.*.*"])).unwrap();
    // The reload takes a moment. Decided is what is not published all the same, and told to who waits.
    let number = std::cell::Cell::new(100);
    wait_until("a right is missing", async || {
        number.set(number.get() + 1);
        create(&stack, number.get()).await.expect(201);
        stack.log("worker-1").contains("NATS does not let user worker publish to evt.")
    })
    .await;
    says(&mut stack, "worker-1", "NATS does not let user worker publish to evt.").await;
    create(&stack, 2).await.expect(201);
    stack.nats.reload(&allowed).unwrap();
    is_ready(&mut stack, "worker-1").await;
    wait_until("everything is published", async || unpublished(&stack).await == 0).await;
    everything_is_audited(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_may_not_publish_says_so_at_once_and_takes_the_command_when_it_may_again() {
    let mut stack = Stack::builder().patient().env("CHANCERY_ACCEPT_DEADLINE_MS", 600_000).env("CHANCERY_PUBLISH_TIMEOUT_MS", 600_000).start().await;
    create(&stack, 1).await.expect(201);
    stack.nats.reload(&without(User::Gateway, &["cmd.*.*.*.*"])).unwrap();
    let mut number = 100;
    // The reload takes a moment. Were the refusal a timeout, no answer would come for ten minutes.
    let refused = loop {
        number += 1;
        let answer = create(&stack, number).await;
        if answer.status != 201 {
            break answer;
        }
    };
    assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("not_accepted")), "{}", refused.body);
    assert!(!refused.body.to_string().contains("cmd."), "{}", refused.body);
    assert!(stack.log("gateway").contains("NATS does not let user gateway publish to cmd."));
    says(&mut stack, "gateway", "\"rights\":\"not_ready\"").await;
    stack.nats.reload(&allowed).unwrap();
    is_ready(&mut stack, "gateway").await;
    create(&stack, number).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_may_not_read_says_so_and_goes_on_when_it_may_again() {
    let mut stack = Stack::builder().patient().consumers(&[Consumer::Audit]).start().await;
    create(&stack, 1).await.expect(201);
    everything_is_audited(&stack).await;
    stack.nats.reload(&without(User::Consumer(Consumer::Audit), &["$JS.API.CONSUMER.MSG.NEXT.EVENTS.audit"])).unwrap();
    stack.kill9("audit");
    stack.process("audit").start();
    create(&stack, 2).await.expect(201);
    says(&mut stack, "audit", "NATS does not let user audit publish to $JS.API.CONSUMER.MSG.NEXT.EVENTS.audit").await;
    stack.nats.reload(&allowed).unwrap();
    is_ready(&mut stack, "audit").await;
    everything_is_audited(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_hear_its_answers_says_so_and_goes_on_when_it_may_again() {
    let mut stack = Stack::builder().patient().workers(0).start().await;
    stack.nats.reload(&without(User::Worker, &["_INBOX_worker.>"])).unwrap();
    let environment: [(&str, &str); 0] = [];
    stack.add_unstarted("worker-1", Role::Worker, &environment);
    stack.process("worker-1").start();
    says(&mut stack, "worker-1", "NATS does not let user worker subscribe to _INBOX_worker.").await;
    stack.nats.reload(&allowed).unwrap();
    is_ready(&mut stack, "worker-1").await;
    create(&stack, 1).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_says_so() {
    let mut stack = Stack::builder().patient().workers(0).start().await;
    stack.add_unstarted("worker-1", Role::Worker, &[("CHANCERY_NATS_USER", "worker"), ("CHANCERY_NATS_PASSWORD", "wrong")]);
    stack.process("worker-1").start();
    says(&mut stack, "worker-1", "NATS does not let user worker in").await;
    assert!(!readiness(&mut stack, "worker-1").await.contains("wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_provisioner_a_role_says_what_is_missing_and_gives_up() {
    let mut stack = Stack::builder().patient().gateways(0).workers(0).start().await;
    let jetstream = stack.jetstream().await;
    jetstream.get_stream("EVENTS").await.unwrap().delete_consumer("audit").await.unwrap();
    jetstream.delete_stream("COMMANDS").await.unwrap();
    for (name, role, missing) in [
        ("audit", Role::Consumer(Consumer::Audit), "consumer audit of EVENTS does not exist; `chancery provision` makes"),
        ("worker-1", Role::Worker, "stream COMMANDS does not exist; `chancery provision` makes"),
    ] {
        stack.add_unstarted(name, role, &[("CHANCERY_PROVISION_WAIT_MS", "4000")]);
        stack.process(name).start();
        says(&mut stack, name, missing).await;
        wait_until("it gives up", async || stack.process(name).ended().is_some_and(|status| !status.success())).await;
        assert!(stack.log(name).contains(&format!("role failed role=\"{}\" error={missing}", role.name())), "{}", stack.log(name));
    }
    assert!(jetstream.get_stream("COMMANDS").await.is_err(), "nobody but the provisioner makes it");
}
