//! Every metric is there before anything happens, and moves when it does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use chancery::role::{Consumer, Role};
use prometheus::{Encoder as _, TextEncoder};
use runtime::{
    Failure, Stop,
    consume::{Durable, Event, Order, consume, each},
};
use subjects::partition;

use super::{moves, samples, shows, value};
use crate::{
    consumers::{Tenant, audited, in_order::FOLLOWER, invite, rename, tenant},
    harness::{Stack, wait_until},
};

/// By role: a metric and the values of its label that must be there from the start, at 0 or not.
const FROM_THE_START: &[(&str, &str, &str, &[&str])] = &[
    ("gateway", "chancery_command_stage_seconds_count", "stage", &["accept", "outcome"]),
    ("gateway", "chancery_commands_sent_total", "fate", &["decided", "pending", "unwaited", "full", "not_accepted", "unknown"]),
    ("gateway", "chancery_http_requests_in_flight", "", &[]),
    ("gateway", "chancery_http_connections", "", &[]),
    ("gateway", "chancery_event_streams", "", &[]),
    ("gateway", "chancery_authz_lookups_total", "from", &["memory", "postgres"]),
    ("worker-1", "chancery_command_stage_seconds_count", "stage", &["queue", "load", "decide", "commit", "tell", "publish"]),
    ("worker-1", "chancery_batch_commands_count", "", &[]),
    ("worker-1", "chancery_commands_decided_total", "", &[]),
    ("worker-1", "chancery_commands_dead_lettered_total", "reason", &["undecodable", "mismatch", "unknown", "poison", "condemned"]),
    ("worker-1", "chancery_commands_tried_with_care_total", "", &[]),
    ("worker-1", "chancery_batches_repeated_total", "reason", &["ownership", "conflict", "data", "transient"]),
    ("worker-1", "chancery_outbox_batch_events_count", "", &[]),
    ("worker-1", "chancery_outbox_in_doubt_total", "", &[]),
    ("worker-1", "chancery_outbox_events", "", &[]),
    ("worker-1", "chancery_outbox_oldest_age_seconds", "", &[]),
    ("worker-1", "chancery_undecided_commands", "", &[]),
    ("worker-1", "chancery_undecided_oldest_age_seconds", "", &[]),
    ("worker-1", "chancery_undecided_overdue_partitions", "", &[]),
    ("worker-1", "chancery_partitions_owned", "", &[]),
    ("worker-1", "chancery_partitions_without_owner", "", &[]),
    ("worker-1", "chancery_lease_changes_total", "change", &["taken", "taken_over", "lost", "shed"]),
    ("worker-1", "chancery_stream_bytes", "stream", &["COMMANDS", "EVENTS"]),
    ("worker-1", "chancery_stream_max_bytes", "stream", &["COMMANDS", "EVENTS"]),
    ("worker-1", "chancery_backlog_looked_timestamp_seconds", "", &[]),
    ("worker-1", "chancery_advisories_total", "", &[]),
    ("audit", "chancery_consumer_lag", "", &[]),
    ("audit", "chancery_consumer_unanswered", "", &[]),
    ("audit", "chancery_consumer_oldest_age_seconds", "", &[]),
    ("audit", "chancery_consumer_parked", "", &[]),
    ("audit", "chancery_consumer_feeding", "", &[]),
    ("audit", "chancery_consumer_redelivered_total", "", &[]),
    ("audit", "chancery_consumer_gaps_total", "", &[]),
    ("audit", "chancery_consumer_rebuilt_total", "", &[]),
    ("audit", "chancery_consumer_failed_total", "failure", &["outage", "retry", "poison"]),
    ("audit", "chancery_consumer_dead_lettered_total", "reason", &["undecodable", "mismatch", "poison", "exhausted", "condemned"]),
    ("audit", "chancery_consumer_lease_changes_total", "change", &["acquired", "lost", "released"]),
    ("audit", "chancery_consumer_latency_seconds_count", "", &[]),
    ("audit", "chancery_consumer_handling_seconds_count", "", &[]),
    ("audit", "chancery_consumer_batch_events_count", "", &[]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_from_the_start_and_counts_what_happens() {
    let stack = Stack::builder().patient().consumers(&[Consumer::Audit]).env("CHANCERY_BACKLOG_LOOK_MS", 50).start().await;
    for (role, name, label, values) in FROM_THE_START {
        let labels: Vec<Vec<(&str, &str)>> =
            if values.is_empty() { vec![vec![]] } else { values.iter().map(|value| vec![(*label, *value)]).collect() };
        for labels in labels {
            wait_until(&format!("{name}{labels:?} of {role}"), async || value(&stack.metrics(role), name, &labels).is_some()).await;
        }
    }

    let tenant = tenant(&stack).await;
    rename(&stack, &tenant, "Another").await;
    invite(&stack, &tenant, "guest@example.com").await;
    audited(&stack).await;
    for (role, stages) in [("gateway", &["accept", "outcome"][..]), ("worker-1", &["queue", "load", "decide", "commit", "tell", "publish"])] {
        for stage in stages {
            moves(&stack, role, "chancery_command_stage_seconds_count", &[("stage", stage)]).await;
        }
    }
    let answered = [("method", "PATCH"), ("route", "/v1/tenants/{t}"), ("class", "2xx")];
    moves(&stack, "gateway", "chancery_http_request_duration_seconds_count", &answered).await;
    moves(&stack, "gateway", "chancery_commands_sent_total", &[("fate", "decided")]).await;
    for name in ["chancery_batch_commands_sum", "chancery_commands_decided_total", "chancery_outbox_batch_events_sum"] {
        shows(&stack, "worker-1", name, &[], |value| value >= 3.0).await;
    }
    moves(&stack, "worker-1", "chancery_backlog_looked_timestamp_seconds", &[]).await;
    moves(&stack, "worker-1", "chancery_stream_bytes", &[("stream", "EVENTS")]).await;
    for name in ["latency_seconds_count", "handling_seconds_count", "batch_events_sum", "handled_total"] {
        moves(&stack, "audit", &format!("chancery_consumer_{name}"), &[("consumer", "audit")]).await;
    }

    // What is no command, and what is no event.
    put(&stack, format!("cmd.{}.{}.tenant.update", partition(&tenant.id, 64), tenant.id)).await;
    moves(&stack, "worker-1", "chancery_commands_dead_lettered_total", &[("reason", "undecodable")]).await;
    put(&stack, format!("evt.{}.tenant.updated", tenant.id)).await;
    moves(&stack, "audit", "chancery_consumer_dead_lettered_total", &[("consumer", "audit"), ("reason", "undecodable")]).await;
    shows(&stack, "audit", "chancery_consumer_oldest_age_seconds", &[("consumer", "audit")], |value| value == 0.0).await;

    no_label_names_a_tenant(&stack, &tenant);
}

/// Puts into a stream what nobody can read.
async fn put(stack: &Stack, subject: String) {
    stack.jetstream().await.publish(subject, "no message at all".into()).await.unwrap().await.unwrap();
}

/// Nothing of a tenant is in any label, and no metric has more series than what it is about allows.
fn no_label_names_a_tenant(stack: &Stack, tenant: &Tenant) {
    for role in ["gateway", "worker-1", "audit"] {
        let text = stack.metrics(role);
        let uuid = tenant.id.trim_start_matches("tenant_");
        assert!(!text.contains(uuid) && !text.contains(tenant.owner.trim_start_matches("user_")), "{text}");
        for sample in samples(&text) {
            let known =
                ["stage", "fate", "method", "route", "status", "class", "from", "reason", "change", "stream", "consumer", "type", "failure", "le"];
            assert!(sample.labels.keys().all(|label| known.contains(&label.as_str())), "{sample:?} has a label that nobody has bounded");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_come_and_go_are_counted_by_what_happened_to_them_and_another_worker_looks() {
    let mut stack = Stack::builder().patient().env("CHANCERY_BACKLOG_LOOK_MS", 50).start().await;
    let lease = "chancery_lease_changes_total";
    shows(&stack, "worker-1", lease, &[("change", "taken")], |value| value == 64.0).await;
    moves(&stack, "worker-1", "chancery_backlog_looked_timestamp_seconds", &[]).await;
    stack.start_another("worker-2", Role::Worker, &[]);
    shows(&stack, "worker-1", lease, &[("change", "shed")], |value| value == 32.0).await;
    shows(&stack, "worker-2", lease, &[("change", "taken")], |value| value == 32.0).await;
    // Only one of them looks; the other one shows nothing.
    shows(&stack, "worker-2", "chancery_backlog_looked_timestamp_seconds", &[], |value| value == 0.0).await;

    stack.freeze("worker-1");
    shows(&stack, "worker-2", lease, &[("change", "taken_over")], |value| value == 32.0).await;
    moves(&stack, "worker-2", "chancery_backlog_looked_timestamp_seconds", &[]).await;
    stack.thaw("worker-1");
    shows(&stack, "worker-1", lease, &[("change", "lost")], |value| value == 32.0).await;
    shows(&stack, "worker-1", "chancery_partitions_owned", &[], |value| value == 32.0).await;
}

/// A consumer of this test alone, in this process.
const MEASURED: Durable = Durable { name: "measured", filters: &["evt.*.tenant.updated"], order: Order::None, ..FOLLOWER };

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_tries_again_and_gives_up_is_counted_and_its_age_grows_meanwhile() {
    let stack = Stack::builder().patient().start().await;
    let tenant = tenant(&stack).await;
    MEASURED.provision(&stack.jetstream().await, &stack.config()).await.unwrap();
    let (held, calls, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)), Stop::new());
    let (holds, counts, stopped, config) = (held.clone(), calls.clone(), stop.clone(), stack.config());
    let thread = std::thread::spawn(move || {
        let handler = each(async |_: &Event| {
            counts.fetch_add(1, Ordering::SeqCst);
            while holds.load(Ordering::SeqCst) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(Failure::retry("never"))
        });
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(consume(MEASURED, &config, stopped, handler)).unwrap();
    });
    let of = |name: &str, labels: &[(&str, &str)]| {
        let labels = [&[("consumer", MEASURED.name)], labels].concat();
        value(&here(), &format!("chancery_consumer_{name}"), &labels).unwrap_or_default()
    };
    rename(&stack, &tenant, "Held").await;
    wait_until("it has it in hand", async || calls.load(Ordering::SeqCst) == 1).await;
    wait_until("its age grows although the loop waits for the call", async || of("oldest_age_seconds", &[]) > 0.2).await;

    held.store(false, Ordering::SeqCst);
    wait_until("it is given up", async || of("dead_lettered_total", &[("reason", "exhausted")]) == 1.0).await;
    assert_eq!(of("redelivered_total", &[]), 2.0, "delivered three times, twice of them again");
    assert_eq!(of("failed_total", &[("failure", "retry")]), 3.0);
    assert_eq!((of("handling_seconds_count", &[]), of("batch_events_sum", &[])), (3.0, 3.0));
    wait_until("nothing is left", async || of("oldest_age_seconds", &[]) == 0.0).await;
    stop.cancel();
    thread.join().unwrap();
}

/// What this process tells Prometheus.
fn here() -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(&prometheus::gather(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}
