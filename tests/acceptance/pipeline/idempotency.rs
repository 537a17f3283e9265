//! A key has one effect, for ever: repeated, at once, across restarts, and after a refusal.

use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    history::{assert_sound, read},
    load::{Client, fresh, person, tenant_body, tenants, without_duplicate_window},
};
use crate::harness::{Answer, Stack, wait_until};

/// What two answers to the same request must have in common.
fn same(left: &Answer, right: &Answer) -> bool {
    let etag = |answer: &Answer| answer.header("etag").map(str::to_owned);
    left.status == right.status && left.body == right.body && etag(left) == etag(right)
}

async fn ask(stack: &Stack, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    Client::of(stack).insist(method, path, &stack.operator_token(), key, body).await.answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_twice_is_one_effect_and_the_same_answer() {
    let stack = Stack::builder().gateways(2).consumers(&[Consumer::Audit]).start().await;
    let body = tenant_body();
    let first = ask(&stack, Method::POST, "/v1/tenants", "one", &body).await.expect(201);
    let second = ask(&stack, Method::POST, "/v1/tenants", "one", &body).await;
    assert!(same(&first, &second), "{first:?}\n{second:?}");

    let users = format!("/v1/tenants/{}/users", first.text_at("/aggregateId"));
    let body = person(1);
    let created = ask(&stack, Method::POST, &users, "one", &body).await.expect(201);
    assert_ne!(created.text_at("/commandId"), first.text_at("/commandId"), "a key counts for its path only");
    let again = ask(&stack, Method::POST, &users, "one", &body).await;
    assert!(same(&created, &again), "{created:?}\n{again:?}");

    let ids = [&first, &created].map(|answer| answer.text_at("/commandId")).into();
    let history = assert_sound(&stack, &ids, true).await;
    assert_eq!(history.outcomes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sent_a_hundred_times_at_once_has_one_effect() {
    let stack = Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (client, token, body) = (Client::of(&stack), stack.operator_token(), tenant_body());
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let (client, token, body) = (client.clone(), token.clone(), body.clone());
        all.spawn(async move { client.insist(Method::POST, "/v1/tenants", &token, "the-key", &body).await.answer });
    }
    let mut answers = all.join_all().await;
    // Who was told "accepted" only hears the outcome on asking again.
    for answer in &mut answers {
        if answer.status == 202 {
            *answer = ask(&stack, Method::POST, "/v1/tenants", "the-key", &body).await;
        }
    }
    let first = answers[0].clone().expect(201);
    assert!(answers.iter().all(|answer| same(answer, &first)), "{answers:?}");
    let history = assert_sound(&stack, &[first.text_at("/commandId")].into(), true).await;
    let types: Vec<&str> = history.events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["tenant.created", "user.created", "tenant.member_joined"], "one effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_repeated_across_a_nats_restart_has_one_effect() {
    let mut stack = Stack::builder().gateways(2).consumers(&[Consumer::Audit]).start().await;
    let body = tenant_body();
    let first = ask(&stack, Method::POST, "/v1/tenants", "kept", &body).await.expect(201);
    // Forty more are on their way, with and without an outcome, when the server dies.
    let (client, token) = (Client::of(&stack), stack.operator_token());
    let mut all = JoinSet::new();
    for _ in 0..40 {
        let (client, token, body) = (client.clone(), token.clone(), tenant_body());
        all.spawn(async move {
            let key = fresh("key");
            let first = client.insist(Method::POST, "/v1/tenants", &token, &key, &body).await.answer;
            (key, body, first)
        });
    }
    stack.kill_nats();
    stack.restart_nats();
    let mut ids = std::collections::BTreeSet::from([first.text_at("/commandId")]);
    for (key, body, first) in all.join_all().await {
        assert!(matches!(first.status, 201 | 202), "{first:?}");
        let again = ask(&stack, Method::POST, "/v1/tenants", &key, &body).await;
        assert_eq!(again.text_at("/commandId"), first.text_at("/commandId"));
        assert!(first.status == 202 || same(&first, &again), "{first:?}\n{again:?}");
        ids.insert(first.text_at("/commandId"));
    }
    let again = ask(&stack, Method::POST, "/v1/tenants", "kept", &body).await;
    assert!(same(&first, &again), "{first:?}\n{again:?}");
    let history = assert_sound(&stack, &ids, true).await;
    assert_eq!((ids.len(), history.outcomes.len()), (41, 41));
}

/// The server forgets message ids after a while, the inbox does not: the command is stored again and has no second effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_outlives_the_window_in_which_the_server_knows_duplicates() {
    let stack = Stack::builder().start().await;
    let body = tenant_body();
    let first = ask(&stack, Method::POST, "/v1/tenants", "old", &body).await.expect(201);
    let jetstream = stack.jetstream().await;
    let mut stream = jetstream.get_stream("COMMANDS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.duplicate_window = std::time::Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
    let before = stream.info().await.unwrap().state.last_sequence;
    wait_until("the same command is stored once more", async || {
        let again = ask(&stack, Method::POST, "/v1/tenants", "old", &body).await;
        assert!(same(&first, &again), "{first:?}\n{again:?}");
        stream.info().await.unwrap().state.last_sequence > before
    })
    .await;
    let last = ask(&stack, Method::POST, "/v1/tenants", "old", &body).await;
    assert!(same(&first, &last), "{first:?}\n{last:?}");
    // Who comes after it is decided too: the repeated command has not stopped its partition.
    let path = format!("/v1/tenants/{}", first.text_at("/aggregateId"));
    ask(&stack, Method::PATCH, &path, "after", &json!({ "name": "After" })).await.expect(200);
    let history = assert_sound(&stack, &[first.text_at("/commandId")].into(), false).await;
    assert_eq!(history.events.len(), 4, "three of the creation, one of the renaming");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_request_is_422_and_has_no_effect() {
    let stack = Stack::builder().start().await;
    let first = ask(&stack, Method::POST, "/v1/tenants", "mine", &tenant_body()).await.expect(201);
    let problem = ask(&stack, Method::POST, "/v1/tenants", "mine", &tenant_body()).await.expect(422);
    assert_eq!((problem.text_at("/code").as_str(), problem.text_at("/commandId")), ("idempotency_key_reused", first.text_at("/commandId")));
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    let path = format!("/v1/tenants/{}", first.text_at("/aggregateId"));
    ask(&stack, Method::PATCH, &path, "name", &json!({ "name": "One" })).await.expect(200);
    ask(&stack, Method::PATCH, &path, "name", &json!({ "name": "Two" })).await.expect(422);
    let history = assert_sound(&stack, &[first.text_at("/commandId")].into(), false).await;
    assert_eq!(history.events.len(), 4, "three of the creation, one of the renaming");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_outcome_too_and_is_repeated_with_its_key() {
    let stack = Stack::builder().start().await;
    let body = tenant_body();
    ask(&stack, Method::POST, "/v1/tenants", "first", &body).await.expect(201);
    let refused = ask(&stack, Method::POST, "/v1/tenants", "second", &body).await.expect(409);
    assert_eq!(refused.text_at("/code"), "slug_taken");
    let again = ask(&stack, Method::POST, "/v1/tenants", "second", &body).await;
    assert!(same(&refused, &again), "{refused:?}\n{again:?}");

    // Also when the reason for it has gone: the outcome is the first one.
    let (tenants, _) = tenants(&stack, 1).await;
    let tenant = &tenants[0];
    let path = format!("/v1/tenants/{}/members/{}", tenant.id, tenant.owner);
    let refused = ask(&stack, Method::DELETE, &path, "early", &Value::Null).await.expect(409);
    assert_eq!(refused.text_at("/code"), "last_owner");
    let mut body = person(1);
    body["role"] = "owner".into();
    ask(&stack, Method::POST, &format!("/v1/tenants/{}/users", tenant.id), "more", &body).await.expect(201);
    let again = ask(&stack, Method::DELETE, &path, "early", &Value::Null).await;
    assert!(same(&refused, &again), "{refused:?}\n{again:?}");
    ask(&stack, Method::DELETE, &path, "later", &Value::Null).await.expect(200);
    let statuses: Vec<String> = read(&stack, &[].into(), false).await.outcomes.into_iter().map(|outcome| outcome.status).collect();
    assert_eq!(statuses.iter().filter(|status| *status == "refused").count(), 2, "{statuses:?}");
}

/// Without a key, the id is fresh and nobody looks it up beforehand. It can still stand in the stream twice: a publish whose answer was
/// lost is repeated, and the server's window may be over, or the first try was in a batch without ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_key_that_stands_in_the_stream_twice_has_one_effect() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let token = stack.operator_token();
    let tenant = stack.post("/v1/tenants", &token, &tenant_body()).await.expect(201);
    let users = format!("/v1/tenants/{}/users", tenant.text_at("/aggregateId"));
    let mut ids = std::collections::BTreeSet::from([tenant.text_at("/commandId")]);
    let jetstream = stack.jetstream().await;
    let commands = jetstream.get_stream("COMMANDS").await.unwrap();
    for number in 0..3 {
        let path = format!("/v1/tenants/{}", tenant.text_at("/aggregateId"));
        let rename = async |name: &str| {
            let said = stack.call(Method::PATCH, &path, &token, &[], &json!({ "name": format!("{name} {number}") })).await;
            said.expect(200).text_at("/commandId")
        };
        ids.insert(rename("First").await);
        let last = commands.get_info().await.unwrap().state.last_sequence;
        let message = commands.get_raw_message(last).await.unwrap();
        // Done again, it would take this back.
        ids.insert(rename("Second").await);
        // As it came, but for its id in the server's window; twice, so that one meets the table and one its neighbour in the batch.
        for copy in 0..2 {
            let mut headers = message.headers.clone();
            headers.insert("Nats-Msg-Id", format!("copy-{number}-{copy}"));
            jetstream.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await.unwrap();
        }
        // Its neighbours are decided as ever.
        ids.insert(stack.post(&users, &token, &person(number)).await.expect(201).text_at("/commandId"));
    }
    let history = assert_sound(&stack, &ids, true).await;
    assert_eq!(history.outcomes.len(), ids.len());
    assert_eq!(history.events.iter().filter(|event| event.event_type == "tenant.updated").count(), 6);
}
