//! A team's consumer in Python survives what ours survive: every effect once, in order per aggregate, whatever kills it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use hyper::Method;
use serde_json::{Value, json};
use subjects::stream as names;

use super::python::{Python, event};
use crate::{
    harness::{Stack, wait_until},
    recovery::run,
};

const TENANTS: u128 = 10;
const INVITATIONS: u128 = 2_000;
const CHANGES: u64 = 5;
/// Invitations whose events follow each other closely, so that an event that overtakes another is one of the same invitation.
const BLOCK: u128 = 20;
/// One invitation in so many has its events published twice.
const REPEATED: u128 = 7;
const EVENTS: i64 = (INVITATIONS as i64) * (CHANGES as i64);

/// Effects that did not happen in the order of their invitation, each once.
const OUT_OF_ORDER: &str = "SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY tenant_id, invitation_id ORDER BY n) AS place \
                            FROM story) WHERE version <> place";

/// What the durable has delivered and not heard of, what is still to come, and what was delivered again.
async fn durable(stack: &Stack) -> (usize, u64, u64) {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let info = stream.consumer_info("sample-team").await.unwrap();
    (info.num_ack_pending, info.num_pending, info.delivered.consumer_sequence)
}

async fn settled(stack: &Stack) {
    wait_until("everything is acknowledged", async || {
        let (unanswered, to_come, _) = durable(stack).await;
        (unanswered, to_come) == (0, 0)
    })
    .await;
}

/// Publishes the events of many invitations, block by block: all created, all changed, all changed again. How many messages that were.
async fn publish(stack: &Stack) -> u64 {
    let client = stack.nats().await;
    let mut sequences: BTreeMap<u128, u64> = BTreeMap::new();
    let mut messages = 0;
    for block in 0..INVITATIONS / BLOCK {
        for version in 1..=CHANGES {
            for invitation in block * BLOCK..(block + 1) * BLOCK {
                let sequence = sequences.entry(invitation % TENANTS).or_default();
                *sequence += 1;
                let (subject, body) = event(1 + invitation % TENANTS, 1 + invitation, version, *sequence);
                // Some come twice, as after a repair.
                for _ in 0..if invitation % REPEATED == 0 { 2 } else { 1 } {
                    client.publish(subject.clone(), body.to_string().into()).await.unwrap();
                    messages += 1;
                }
            }
        }
    }
    client.flush().await.unwrap();
    messages
}

/// Waits for the moment in which the events of a batch are being acknowledged.
async fn acknowledgements(stack: &Stack) {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let floor = async || stream.consumer_info("sample-team").await.unwrap().ack_floor.stream_sequence;
    let before = floor().await;
    wait_until("acknowledgements", async || floor().await != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_that_is_killed_again_and_again_has_every_effect_once_and_in_order() {
    let stack = Stack::builder().start().await;
    stack.provision_sample();
    let messages = publish(&stack).await;
    // A millisecond each, so that there is a middle to be killed in.
    let mut python = Python::of(&stack, &["--work-seconds", "0.001"]);
    python.start();
    for kill in 1..=5 {
        let wanted = EVENTS * kill / 7;
        wait_until(&format!("{wanted} effects"), async || python.number("SELECT count(*) FROM story") >= wanted).await;
        if kill % 2 == 0 {
            acknowledgements(&stack).await;
        }
        python.kill9();
        python.start();
    }
    wait_until("every effect", async || python.number("SELECT count(*) FROM story") >= EVENTS).await;
    settled(&stack).await;

    assert!(python.stop(), "it drains and ends well");
    assert!(python.log().contains("everything that was begun is done"));
    assert_eq!(python.number("SELECT count(*) FROM story"), EVENTS);
    assert_eq!(python.number("SELECT count(DISTINCT event_id) FROM story"), EVENTS, "no event had its effect twice");
    assert_eq!(python.number(&format!("SELECT count(*) FROM invitations WHERE changes <> {CHANGES}")), 0);
    assert_eq!(python.number(OUT_OF_ORDER), 0);
    let in_the_middle = python.log().lines().filter(|line| line.contains("following") && !line.ends_with(" 0 not acknowledged")).count();
    assert!(in_the_middle > 0, "it was never killed in the middle of its work");
    let (.., deliveries) = durable(&stack).await;
    assert!(deliveries > messages, "nothing was delivered twice, so nothing was shown");
}

/// The dead letters, oldest first.
async fn letters(stack: &Stack) -> Vec<(String, HeaderMap, Vec<u8>)> {
    let stream = stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap();
    let mut letters = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        letters.push((message.subject.to_string(), message.headers, message.payload.to_vec()));
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_puts_poison_aside_and_handles_what_the_stack_decides() {
    let stack = Stack::builder().start().await;
    stack.provision_sample();
    let client = stack.nats().await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "evt_of_nobody");
    headers.insert("Chancery-Tenant", "tenant_of_nobody");
    let jetstream = stack.jetstream().await;
    let (subject, body) = event(1, 1, 1, 1);
    jetstream.publish_with_headers(subject.clone(), headers, "{no".into()).await.unwrap().await.unwrap();
    let (_, elsewhere) = event(2, 2, 1, 1);
    jetstream.publish(subject.clone(), elsewhere.to_string().into()).await.unwrap().await.unwrap();
    let mut nameless = body.clone();
    nameless["data"] = json!({});
    jetstream.publish(subject.clone(), nameless.to_string().into()).await.unwrap().await.unwrap();
    client.flush().await.unwrap();
    let mut python = Python::of(&stack, &[]);
    python.start();

    let owner = json!({ "email": "ada@acme.example", "fullName": "Ada" });
    let tenant = json!({ "slug": "acme", "name": "Acme", "plan": "starter", "owner": owner });
    let tenant = stack.post("/v1/tenants", &stack.operator_token(), &tenant).await.expect(201).text_at("/aggregateId");
    let path = format!("/v1/tenants/{tenant}/invitations");
    let body = json!({ "email": "bob@acme.example", "role": "member", "send": false });
    let invitation = stack.post(&path, &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    for floor in 1..=3 {
        let path = format!("{path}/{invitation}/attributes/floor");
        stack.call(Method::PUT, &path, &stack.operator_token(), &[], &json!({ "value": floor })).await.expect(200);
    }
    stack.call(Method::DELETE, &format!("{path}/{invitation}"), &stack.operator_token(), &[], &Value::Null).await.expect(200);

    wait_until("the invitation's end", async || python.number("SELECT count(*) FROM invitations WHERE state = 'removed' AND changes = 5") == 1).await;
    settled(&stack).await;
    assert_eq!(python.number("SELECT count(*) FROM story"), 5, "what is poison has no effect");
    assert_eq!(python.number(OUT_OF_ORDER), 0);

    let letters = letters(&stack).await;
    let reasons: Vec<_> = letters.iter().map(|(_, headers, _)| headers.get("Chancery-Reason").unwrap().as_str()).collect();
    assert_eq!(reasons, ["undecodable", "mismatch", "poison"]);
    let first = durable_place(&stack, &subject).await;
    let (at, headers, payload) = &letters[0];
    assert_eq!((at.as_str(), payload.as_slice()), ("dlq.sample-team.invitation.created", b"{no".as_slice()));
    for (name, value) in [
        ("Nats-Msg-Id", format!("sample-team:EVENTS:{first}")),
        ("Chancery-Consumer", "sample-team".into()),
        ("Chancery-Reason", "undecodable".into()),
        ("Chancery-Error", "the body is no JSON".into()),
        ("Chancery-Deliveries", "1".into()),
        ("Chancery-Origin-Stream", "EVENTS".into()),
        ("Chancery-Origin-Sequence", first.to_string()),
        ("Chancery-Tenant", "tenant_of_nobody".into()),
    ] {
        assert_eq!(headers.get(name).map(async_nats::HeaderValue::as_str), Some(value.as_str()), "{name}");
    }
    // What an operator lets be tried again comes on a subject of its own, and is told the same about.
    run(&stack, &["dlq", "redrive", "3"]).await.expect(0);
    let stream = jetstream.get_stream(names::DEADLETTERS).await.unwrap();
    wait_until("the letter of the second try", async || stream.get_raw_message(4).await.is_ok()).await;
    let again = stream.get_raw_message(4).await.unwrap();
    let header = |name: &str| again.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!((header("Chancery-Redrives").as_deref(), header("Chancery-Reason").as_deref()), (Some("1"), Some("poison")));
    assert!(python.stop());
}

/// Where the first message of a subject stands in EVENTS.
async fn durable_place(stack: &Stack, subject: &str) -> u64 {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let mut sequence = 0;
    loop {
        sequence += 1;
        if stream.get_raw_message(sequence).await.is_ok_and(|message| message.subject.as_str() == subject) {
            return sequence;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_that_works_longer_than_the_ack_wait_is_not_given_the_event_again() {
    let stack = Stack::builder().start().await;
    stack.provision_sample();
    let (subject, body) = event(1, 1, 1, 1);
    stack.jetstream().await.publish(subject, body.to_string().into()).await.unwrap().await.unwrap();
    // The durable's ack wait is five seconds.
    let mut python = Python::of(&stack, &["--work-seconds", "8"]);
    python.start();
    wait_until("the effect", async || python.number("SELECT count(*) FROM story") == 1).await;
    settled(&stack).await;
    assert_eq!(durable(&stack).await, (0, 0, 1), "it was delivered once");
    assert!(python.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_goes_on_when_there_was_nothing_to_do_and_nats_was_killed() {
    let mut stack = Stack::builder().start().await;
    stack.provision_sample();
    let mut python = Python::of(&stack, &[]);
    python.start();
    for version in 1..=2 {
        let (subject, body) = event(1, 1, version, version);
        wait_until("it is published", async || match stack.jetstream().await.publish(subject.clone(), body.to_string().into()).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        })
        .await;
        wait_until("the effect", async || python.number("SELECT count(*) FROM story") == version as i64).await;
        // It asks in vain, a second each time.
        let begin = Instant::now();
        wait_until("it has had nothing to do for a while", async || begin.elapsed() > Duration::from_secs(3)).await;
        stack.kill_nats();
        stack.restart_nats();
    }
    settled(&stack).await;
    assert_eq!(python.number(OUT_OF_ORDER), 0);
    assert!(python.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_names_the_right_it_lacks_and_there_is_one_owner_at_a_time() {
    let stack = Stack::builder().start().await;
    stack.provision_sample();
    let mut python = Python::of(&stack, &["--durable", "audit"]);
    python.start();
    assert!(!python.wait());
    let log = python.log();
    assert!(log.contains("user audit may not do this") && log.contains("permissions violation"), "{log}");

    let mut first = Python::of(&stack, &[]);
    first.start();
    wait_until("it follows", async || first.log().contains("following sample-team")).await;
    first.second_is_refused();
    assert!(first.stop());
}
