//! What waits for too long is told: by a gauge, and by a line in the log.

use async_nats::jetstream::stream;
use hyper::Method;
use serde_json::json;
use subjects::stream as names;

use super::{moves, shows, value};
use crate::{
    consumers::{Tenant, count, rename, tenant},
    harness::{Stack, wait_until},
};

const OVERDUE: &str = "chancery_undecided_overdue_partitions";

/// Renames a tenant without waiting for the outcome.
async fn send(stack: &Stack, tenant: &Tenant, name: &str) {
    let answer = stack.call(Method::PATCH, &tenant.path(""), &stack.operator_token(), &[("prefer", "respond-async")], &json!({ "name": name })).await;
    answer.expect(202);
}

/// The worker lives, and cannot decide: somebody holds the rows of the partitions. It looks all the same.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_undecided_past_their_deadline_alarm_until_they_are_decided() {
    let stack = Stack::builder().patient().env("CHANCERY_BACKLOG_LOOK_MS", 50).env("CHANCERY_UNDECIDED_AFTER_MS", 500).start().await;
    let tenant = tenant(&stack).await;
    moves(&stack, "worker-1", "chancery_backlog_looked_timestamp_seconds", &[]).await;
    let told = |words: &str| stack.log("worker-1").lines().filter(|line| line.contains(words)).count();
    let (begins, ends) = ("commands are undecided past their deadline", "no command is undecided past its deadline any more");
    // On a slow machine the tenant's own creation may have been overdue.
    shows(&stack, "worker-1", OVERDUE, &[], |value| value == 0.0).await;
    wait_until("every alarm is over", async || told(begins) == told(ends)).await;
    let before = told(begins);
    let db = stack.db().await;
    db.batch_execute("BEGIN; SELECT FROM partitions FOR UPDATE").await.unwrap();
    send(&stack, &tenant, "First").await;
    send(&stack, &tenant, "Second").await;
    shows(&stack, "worker-1", "chancery_undecided_commands", &[], |value| value == 2.0).await;
    shows(&stack, "worker-1", OVERDUE, &[], |value| value == 1.0).await;
    let age = value(&stack.metrics("worker-1"), "chancery_undecided_oldest_age_seconds", &[]).unwrap();
    assert!(age > 0.5, "it is overdue, and {age} s old");
    moves(&stack, "gateway", "chancery_commands_sent_total", &[("fate", "unwaited")]).await;
    wait_until("the alarm is in the log", async || told(begins) > before).await;
    let log = stack.log("worker-1");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(begins)), "{log}");
    assert_eq!((told(begins), told(ends)), (before + 1, before), "it is told once, not with every look, and not that it is over");

    db.batch_execute("ROLLBACK").await.unwrap();
    shows(&stack, "worker-1", OVERDUE, &[], |value| value == 0.0).await;
    shows(&stack, "worker-1", "chancery_undecided_commands", &[], |value| value == 0.0).await;
    shows(&stack, "worker-1", "chancery_undecided_oldest_age_seconds", &[], |value| value == 0.0).await;
    wait_until("the end is in the log", async || told(ends) == before + 1).await;
}

/// Nobody lives who could look. Whoever starts sees what is overdue, since when the server has it, and decides it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_gateway_counts_what_stays_undecided_and_the_next_worker_how_long_it_waited() {
    let mut stack = Stack::builder().patient().env("CHANCERY_BACKLOG_LOOK_MS", 50).start().await;
    let tenant = tenant(&stack).await;
    stack.kill9("worker-1");
    let answer = stack.call(Method::PATCH, &tenant.path(""), &stack.operator_token(), &[("prefer", "wait=1")], &json!({ "name": "Later" })).await;
    answer.expect(202);
    moves(&stack, "gateway", "chancery_commands_sent_total", &[("fate", "pending")]).await;
    stack.start_again("worker-1", &[]);
    // It was accepted a second before the worker started.
    shows(&stack, "worker-1", "chancery_command_stage_seconds_sum", &[("stage", "queue")], |value| value > 1.0).await;
    shows(&stack, "worker-1", "chancery_undecided_commands", &[], |value| value == 0.0).await;
    moves(&stack, "worker-1", "chancery_backlog_looked_timestamp_seconds", &[]).await;
    let taken_over = value(&stack.metrics("worker-1"), "chancery_lease_changes_total", &[("change", "taken_over")]);
    assert_eq!(taken_over, Some(64.0), "the worker before ended without handing over");
    moves(&stack, "worker-1", "chancery_commands_tried_with_care_total", &[]).await;
}

/// EVENTS takes nothing: what is decided waits in the table, and its age grows.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_cannot_be_published_are_counted_until_they_are() {
    let stack = Stack::builder().patient().env("CHANCERY_BACKLOG_LOOK_MS", 50).start().await;
    let tenant = tenant(&stack).await;
    let jetstream = stack.jetstream().await;
    let unpublished = "SELECT count(*) FROM partitions WHERE mark_sequence < sequence";
    wait_until("the tenant's own events are published", async || count(&stack, unpublished).await == 0).await;
    shows(&stack, "worker-1", "chancery_outbox_events", &[], |value| value == 0.0).await;
    let before = jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().clone();
    let full = i64::try_from(before.state.bytes).unwrap();
    jetstream.update_stream(stream::Config { max_bytes: full, ..before.config.clone() }).await.unwrap();
    rename(&stack, &tenant, "Decided all the same").await;
    shows(&stack, "worker-1", "chancery_outbox_events", &[], |value| value == 1.0).await;
    shows(&stack, "worker-1", "chancery_outbox_oldest_age_seconds", &[], |value| value > 0.2).await;
    moves(&stack, "worker-1", "chancery_outbox_in_doubt_total", &[]).await;
    shows(&stack, "worker-1", "chancery_stream_max_bytes", &[("stream", "EVENTS")], |value| value == full as f64).await;
    jetstream.update_stream(before.config).await.unwrap();
    shows(&stack, "worker-1", "chancery_outbox_events", &[], |value| value == 0.0).await;
    shows(&stack, "worker-1", "chancery_outbox_oldest_age_seconds", &[], |value| value == 0.0).await;
}
