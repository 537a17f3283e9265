//! A crash between any two steps: whatever was half done has one outcome in the end.

use chancery::role::{Consumer, Role};
use hyper::Method;
use serde_json::json;

use super::{
    history::assert_sound,
    load::{Client, Load, accepted, tenants, without_duplicate_window},
};
use crate::harness::{Stack, Then, wait_until};

/// Every point a worker passes, with the passage at which it dies. Those of a takeover are passed when it takes its share.
const POINTS: [&str; 11] = [
    "loaded=abort@3",
    "decided=abort@3",
    "before_commit=abort@3",
    "after_commit=abort@3",
    "committed=abort@3",
    "handed_to_lane=abort@3",
    "batch_sent=abort@3",
    "batch_acknowledged=abort@3",
    "fenced=abort@1",
    "fence_read=abort@1",
    // Passed by who takes over from somebody that crashed a moment ago.
    "trying=abort@1",
];
const VICTIM: &str = "worker-2";

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_point_leaves_one_outcome() {
    let mut stack = Stack::builder().gateways(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, 40).await;
    stack.start_another(VICTIM, Role::Worker, &[]);
    for point in POINTS {
        // Commands are tried with care by whoever takes over from a crash: that must be the victim, however late it is.
        let must_take_over = point.starts_with("trying");
        if must_take_over {
            stack.freeze("worker-1");
        }
        stack.kill9(VICTIM);
        let victim = stack.process(VICTIM);
        victim.set("CHANCERY_FAILPOINT", point);
        victim.start();
        let load = Load::endless(&stack, &tenants);
        wait_until(&format!("the crash at {point}"), async || stack.process(VICTIM).ended().is_some()).await;
        if must_take_over {
            stack.thaw("worker-1");
        }
        let name = point.split_once('=').unwrap().0;
        assert!(stack.log(VICTIM).contains(&format!("failpoint {name}: abort")), "{}", stack.log(VICTIM));
        // It comes back without the failpoint, as under a supervisor.
        stack.start_again(VICTIM, &[("CHANCERY_FAILPOINT", "")]);
        load.goes_on(20).await;
        ids.extend(accepted(&load.finish().await));
        let history = assert_sound(&stack, &ids, true).await;
        assert!(history.outcomes.iter().all(|outcome| outcome.status == "succeeded"), "after {point}");
    }
}

/// With nobody to take over, the same process finds everything again when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_worker_that_crashes_again_and_again_finishes_what_it_began() {
    let mut stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, 20).await;
    for point in ["after_commit=abort@2", "batch_sent=abort@2", "batch_acknowledged=abort@2"] {
        stack.kill9("worker-1");
        let worker = stack.process("worker-1");
        worker.set("CHANCERY_FAILPOINT", point);
        worker.start();
        let load = Load::endless(&stack, &tenants);
        wait_until(&format!("the crash at {point}"), async || stack.process("worker-1").ended().is_some()).await;
        stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "")]);
        load.goes_on(20).await;
        ids.extend(accepted(&load.finish().await));
    }
    assert_sound(&stack, &ids, true).await;
}

/// The predecessor left events that are stored and not marked, and one that is not stored. The successor's publish of that one has no
/// known end either, and a transaction is written meanwhile: it must still know which were stored before its own fence.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_is_cut_off_in_its_publish_settles_again() {
    // One partition: with more, those that are not settled yet make it read from further back than it must.
    let mut stack = Stack::builder()
        .consumers(&[Consumer::Audit])
        .proxied_nats()
        .env("CHANCERY_PARTITIONS", 1)
        .env("CHANCERY_PUBLISH_TIMEOUT_MS", 3_000)
        // Each command's event is a batch: the crash comes after so many of them.
        .env("CHANCERY_PUBLISH_PACE_MS", 0)
        .start()
        .await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, 1).await;
    stack.kill9("worker-1");
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "batch_sent=abort@6")]);
    let path = format!("/v1/tenants/{}", tenants[0].id);
    let (client, token) = (Client::of(&stack), stack.operator_token());
    let rename = async |number: usize| {
        let name = json!({ "name": format!("Name {number}") });
        client.insist(Method::PATCH, &path, &token, &format!("key-{number}"), &name).await.answer.text_at("/commandId")
    };
    let mut number = 0;
    while stack.process("worker-1").ended().is_none() {
        ids.insert(rename(number).await);
        number += 1;
        assert!(number < 20, "the worker does not crash");
    }
    // Marks may be as far behind as they like.
    stack.db().await.batch_execute("UPDATE partitions SET mark_sequence = 0, mark_stream = 0").await.unwrap();
    stack.nats_proxy().at(b"Nats-Expected-Last-Subject-Sequence-Subject", Then::CutAfter);
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "")]);
    wait_until("the takeover's publish is cut off", async || stack.nats_proxy().caught() == 1).await;
    // The mark that the settling has moved is written down, by itself or by a transaction, before it settles again.
    let marked = "SELECT mark_stream FROM partitions";
    wait_until("a mark is written", async || stack.db().await.query_one(marked, &[]).await.unwrap().get::<_, i64>(0) > 0).await;
    for number in 100..110 {
        ids.insert(rename(number).await);
    }
    assert_sound(&stack, &ids, true).await;
}
