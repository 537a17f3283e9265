//! A consumer that was away has everything in the end, each event once.

use chancery::role::Consumer;

use super::{
    history::assert_sound,
    load::{Load, accepted, commands, tenants},
};
use crate::harness::{Stack, wait_until};

async fn rows(stack: &Stack) -> i64 {
    stack.db().await.query_one("SELECT count(*) FROM audit_log", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_stopped_for_thousands_of_events_catches_up() {
    let count = commands(2_000) / 2;
    let mut stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, 40).await;
    ids = accepted(&Load::start(&stack, &tenants, 50).finish().await).into_iter().chain(ids).collect();
    assert_sound(&stack, &ids, true).await;
    assert!(stack.stop("audit"), "a drain ends in success:\n{}", stack.log("audit"));
    let before = rows(&stack).await;
    ids.extend(accepted(&Load::start(&stack, &tenants, count).finish().await));
    let missed = assert_sound(&stack, &ids, false).await.events.len() as i64 - before;
    assert!(missed as usize >= count, "{missed} events were missed");
    assert_eq!(rows(&stack).await, before, "who is stopped writes nothing");
    stack.start_again("audit", &[]);
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_killed_in_mid_batch_has_each_effect_once() {
    let count = commands(2_000) / 2;
    // Small batches, so that it is killed between many of them.
    let mut stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).env("CHANCERY_CONSUMER_BATCH", 8).start().await;
    let (tenants, mut ids) = tenants(&stack, 40).await;
    stack.kill9("audit");
    ids.extend(accepted(&Load::start(&stack, &tenants, count).finish().await));
    let all = assert_sound(&stack, &ids, false).await.events.len() as i64;
    for part in 1..=3 {
        stack.start_again("audit", &[]);
        wait_until("a part of the events is written", async || rows(&stack).await >= all * part / 5).await;
        stack.kill9("audit");
        assert!(rows(&stack).await < all, "it was done before it was killed: nothing was proved");
    }
    // Two at once share what is left.
    stack.start_again("audit", &[]);
    stack.start_another("audit-2", chancery::role::Role::Consumer(Consumer::Audit), &[]);
    assert_sound(&stack, &ids, true).await;
}

/// Between any two steps of a consumer: what was handled and not acknowledged comes again, and has its effect once.
#[tokio::test(flavor = "multi_thread")]
async fn every_crash_point_of_a_consumer_leaves_each_effect_once() {
    let mut stack = Stack::builder().consumers(&[Consumer::Audit]).env("CHANCERY_CONSUMER_BATCH", 8).start().await;
    let (tenants, mut ids) = tenants(&stack, 10).await;
    for point in ["consumer_taken=abort@3", "audit_numbered=abort@3", "consumer_handled=abort@3"] {
        stack.kill9("audit");
        ids.extend(accepted(&Load::start(&stack, &tenants, 60).finish().await));
        let audit = stack.process("audit");
        audit.set("CHANCERY_FAILPOINT", point);
        audit.start();
        wait_until(&format!("the crash at {point}"), async || stack.process("audit").ended().is_some()).await;
        stack.start_again("audit", &[("CHANCERY_FAILPOINT", "")]);
        assert_sound(&stack, &ids, true).await;
    }
}
