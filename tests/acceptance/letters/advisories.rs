//! What nats-server gives up delivering to a durable that leaves it to the server alarms: nothing else would tell.

use std::time::Duration;

use async_nats::jetstream::{AckKind, consumer::pull};
use futures_util::StreamExt as _;
use subjects::stream as names;

use super::renamed;
use crate::{
    consumers::tenant,
    harness::{Stack, wait_until},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_gave_up_delivering_is_kept_and_alarms_once() {
    let stack = Stack::builder().env("CHANCERY_ADVISORIES_LOOK_MS", 100).start().await;
    let tenant = tenant(&stack).await;
    let jetstream = stack.jetstream().await;
    let events = jetstream.get_stream(names::EVENTS).await.unwrap();
    let careless = pull::Config {
        durable_name: Some("careless".into()),
        max_deliver: 1,
        ack_wait: Duration::from_millis(200),
        filter_subject: "evt.*.tenant.updated".into(),
        ..pull::Config::default()
    };
    let consumer = events.create_consumer(careless).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let advisories = jetstream.get_stream(names::ADVISORIES).await.unwrap();
    let kept = async || advisories.get_info().await.unwrap().state.messages;
    let told = |count: u64| stack.metrics("worker-1").lines().any(|line| line == format!("chancery_advisories_total {count}"));
    assert!(told(0), "{}", stack.metrics("worker-1"));

    // Said to be hopeless, and never answered.
    renamed(&stack, &tenant, "First").await;
    messages.next().await.unwrap().unwrap().ack_with(AckKind::Term).await.unwrap();
    wait_until("it is kept", async || kept().await == 1).await;
    renamed(&stack, &tenant, "Second").await;
    let _unanswered = messages.next().await.unwrap().unwrap();
    wait_until("both are kept", async || kept().await == 2).await;
    wait_until("the worker alarms", async || told(2)).await;
    let log = stack.log("worker-1");
    let lines = log.lines().filter(|line| line.contains("nats-server has given up delivering messages")).collect::<Vec<_>>();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("ERROR") && line.contains("careless")), "{log}");
}
