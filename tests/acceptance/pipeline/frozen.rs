//! A worker that is frozen (SIGSTOP, as by a hypervisor) and resumes when others have long gone on: it writes and publishes nothing.

use std::collections::BTreeSet;

use chancery::role::{Consumer, Role};

use super::{
    check::History,
    history::assert_sound,
    load::{Load, Tenant, accepted, tenants, without_duplicate_window},
};
use crate::harness::{Stack, wait_until};

const TENANTS: usize = 40;
/// The worker that freezes.
const ZOMBIE: &str = "worker-2";

/// How many partitions the worker of that name owns, and the sum of all epochs.
async fn owned(stack: &Stack, name: &str) -> (i64, i64) {
    let count = "SELECT count(*) FILTER (WHERE w.name = $1), sum(p.epoch)::bigint FROM partitions p LEFT JOIN workers w ON w.id = p.owner";
    let row = stack.db().await.query_one(count, &[&name]).await.unwrap();
    (row.get(0), row.get(1))
}

/// A stack with load and a second worker armed with a failpoint, or none.
async fn begin(failpoint: &str) -> (Stack, Vec<Tenant>, BTreeSet<String>, Load) {
    let mut stack = Stack::builder().gateways(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, ids) = tenants(&stack, TENANTS).await;
    stack.start_another(ZOMBIE, Role::Worker, &[("CHANCERY_FAILPOINT", failpoint)]);
    let load = Load::endless(&stack, &tenants);
    (stack, tenants, ids, load)
}

async fn wait_for_log(stack: &Stack, words: &str) {
    wait_until(&format!("{words:?} in the log of the zombie"), async || stack.log(ZOMBIE).contains(words)).await;
}

/// From the freeze on: the successor takes everything and goes on; then the zombie is let go, and gets partitions and work again.
async fn outlive(stack: &mut Stack, tenants: &[Tenant], mut ids: BTreeSet<String>, load: Load) -> History {
    wait_until("the successor owns everything", async || owned(stack, "worker-1").await.0 == 64).await;
    load.goes_on(200).await;
    let (_, before) = owned(stack, ZOMBIE).await;
    stack.thaw(ZOMBIE);
    load.goes_on(50).await;
    let live = stack.process(ZOMBIE).ended().is_none();
    assert!(live, "to be late is no reason to die:\n{}", stack.log(ZOMBIE));
    // It owns some again, under new epochs, and decides: so it is done with what it was doing when it froze.
    wait_until("the zombie lives again", async || {
        let (partitions, epochs) = owned(stack, ZOMBIE).await;
        partitions >= 16 && epochs > before
    })
    .await;
    ids.extend(accepted(&load.finish().await));
    ids.extend(accepted(&Load::start(stack, tenants, 4 * TENANTS).finish().await));
    assert_sound(stack, &ids, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_past_its_lease_writes_and_publishes_nothing() {
    let (mut stack, tenants, ids, load) = begin("").await;
    wait_until("both own their share", async || owned(&stack, ZOMBIE).await.0 == 32).await;
    load.goes_on(100).await;
    stack.freeze(ZOMBIE);
    outlive(&mut stack, &tenants, ids, load).await;
}

/// Everything is decided in memory and nothing sent: it sends it all when it resumes.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_after_deciding_writes_nothing_of_it_afterwards() {
    let (mut stack, tenants, ids, load) = begin("decided=stop@5").await;
    wait_for_log(&stack, "failpoint decided: stop").await;
    outlive(&mut stack, &tenants, ids, load).await;
}

/// It holds row locks: whoever waited for them would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_its_transaction_writes_nothing_afterwards() {
    let (mut stack, tenants, ids, load) = begin("before_commit=stop@5").await;
    wait_for_log(&stack, "failpoint before_commit: stop").await;
    outlive(&mut stack, &tenants, ids, load).await;
    assert!(stack.log("worker-1").contains("ended sessions of workers whose lease ran out"), "{}", stack.log("worker-1"));
}

/// All of an atomic batch but its last message was sent: the rest comes when the successor has published these events.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_mid_publish_publishes_nothing_afterwards() {
    let (mut stack, tenants, ids, load) = begin("batch_sent=stop@5").await;
    wait_for_log(&stack, "failpoint batch_sent: stop").await;
    outlive(&mut stack, &tenants, ids, load).await;
    // The server has refused it, in an ordinary publish or in that of its first settling, and the table has said whose events they are.
    wait_for_log(&stack, "settling").await;
}

/// It is about to publish what its crashed predecessor left unpublished, and freezes: the successor's fence is newer, and the successor
/// has published all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_its_takeover_publishes_nothing_afterwards() {
    let mut stack = Stack::builder().gateways(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, ids) = tenants(&stack, TENANTS).await;
    stack.start_another(ZOMBIE, Role::Worker, &[]);
    stack.kill9(ZOMBIE);
    stack.kill9("worker-1");
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "batch_sent=abort@5")]);
    let load = Load::endless(&stack, &tenants);
    wait_until("the predecessor crashes", async || stack.process("worker-1").ended().is_some()).await;
    let zombie = stack.process(ZOMBIE);
    zombie.set("CHANCERY_FAILPOINT", "batch_sent=stop@1");
    zombie.start();
    wait_for_log(&stack, "failpoint batch_sent: stop").await;
    assert_eq!(owned(&stack, ZOMBIE).await.0, 64);
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "")]);
    outlive(&mut stack, &tenants, ids, load).await;
    wait_for_log(&stack, "settling again").await;
}
