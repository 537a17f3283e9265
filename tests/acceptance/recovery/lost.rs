//! EVENTS lost: built anew from the table, in its order, and no effect happens again.

use chancery::role::Consumer;
use subjects::stream as names;

use super::{FIRST, SECOND, effective, follower, history, more, outward, prepare_effects, published, run, settled};
use crate::{
    consumers::{audited, count},
    harness::Stack,
};

async fn events(stack: &Stack) -> Option<u64> {
    u64::try_from(count(stack, "SELECT count(*) FROM events").await).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_lost_altogether_is_built_anew_in_its_order_and_no_effect_happens_again() {
    let consumers = [Consumer::Audit, Consumer::Notifications, Consumer::Onboarding];
    let stack = Stack::builder().workers(2).consumers(&consumers).start().await;
    prepare_effects(&stack).await;
    let first = follower(&stack, FIRST);
    let tenants = history(&stack, 4).await;
    settled(&stack).await;
    effective(&stack, FIRST).await;
    audited(&stack).await;
    let before = outward(&stack).await;
    stack.jetstream().await.delete_stream(names::EVENTS).await.unwrap();
    let made = run(&stack, &["events", "rebuild", "--json"]).await.expect(0).json();
    assert_eq!((made["events"].as_u64(), made["leftToTheTable"].as_u64()), (events(&stack).await, Some(0)), "{made}");
    let report = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!(report["matched"].as_u64(), events(&stack).await, "{report}");
    for nothing in ["missing", "outOfOrder", "repeated", "forgotten"] {
        assert_eq!(report[nothing], 0, "{report}");
    }
    // What has not begun yet finds all of it, and what goes on goes on.
    let second = follower(&stack, SECOND);
    more(&stack, &tenants).await;
    settled(&stack).await;
    audited(&stack).await;
    effective(&stack, FIRST).await;
    effective(&stack, SECOND).await;
    let chain = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(chain.broken.is_empty(), "{chain:?}");
    let after = outward(&stack).await;
    let invitations = i64::try_from(tenants.len()).unwrap();
    assert_eq!((after.0 - before.0, after.1 - before.1), (invitations, invitations), "one mail and one command for each invitation since");
    first.end();
    second.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_worker_dies_goes_on_with_the_next() {
    let mut stack = Stack::builder().start().await;
    let tenants = history(&stack, 4).await;
    published(&stack).await;
    assert!(stack.stop("worker-1"));
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "batch_acknowledged=abort@2")]);
    let rebuild = super::command(&stack, &["events", "rebuild", "--replace", "--json"], &[]);
    let rebuild = { rebuild }.stdout(std::process::Stdio::piped()).spawn().unwrap();
    crate::harness::wait_until("the worker dies in the middle", async || stack.process("worker-1").ended().is_some()).await;
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "")]);
    assert!(rebuild.wait_with_output().await.unwrap().status.success());
    let report = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((report["matched"].as_u64(), report["outOfOrder"].as_u64()), (events(&stack).await, Some(0)), "{report}");
    drop(tenants);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_leaves_older_events_to_the_table_and_consumers_find_them_there() {
    let stack = Stack::builder().start().await;
    prepare_effects(&stack).await;
    let tenants = history(&stack, 2).await;
    published(&stack).await;
    let before = events(&stack).await;
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    more(&stack, &tenants).await;
    published(&stack).await;
    run(&stack, &["events", "rebuild"]).await.expect(1);
    let made = run(&stack, &["events", "rebuild", "--replace", "--since", &now, "--json"]).await.expect(0).json();
    assert_eq!(made["leftToTheTable"].as_u64(), before, "{made}");
    let report = run(&stack, &["events", "reconcile", "--json"]).await.expect(0).json();
    assert_eq!((report["forgotten"].as_u64(), report["missing"].as_u64()), (before, Some(0)), "{report}");
    let first = follower(&stack, FIRST);
    effective(&stack, FIRST).await;
    first.end();
}
