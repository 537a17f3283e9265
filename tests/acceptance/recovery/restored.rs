//! A database that went back: nobody decides or consumes until an operator has chosen.

use chancery::role::Consumer;
use hyper::Method;
use serde_json::json;
use uuid::Uuid;

use super::{FIRST, effective, follower, history, more, prepare_effects, run, settled};
use crate::{
    consumers::{audited, count},
    harness::{Stack, wait_until},
};

async fn decided(stack: &Stack) -> Vec<Uuid> {
    stack.db().await.query("SELECT id FROM commands", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_stops_everybody_until_events_is_built_anew_and_what_it_lost_is_decided_again() {
    let consumers = [Consumer::Audit, Consumer::Notifications, Consumer::Onboarding];
    let mut stack = Stack::builder().own_postgres().workers(2).consumers(&consumers).start().await;
    prepare_effects(&stack).await;
    let first = follower(&stack, FIRST);
    let tenants = history(&stack, 2).await;
    settled(&stack).await;
    effective(&stack, FIRST).await;
    audited(&stack).await;
    let copy = stack.back_up_postgres();
    // A mere restart stops nobody.
    let kept = decided(&stack).await;
    more(&stack, &tenants).await;
    settled(&stack).await;
    audited(&stack).await;
    let lost: Vec<Uuid> = decided(&stack).await.into_iter().filter(|id| !kept.contains(id)).collect();
    let had = count(&stack, "SELECT count(*) FROM events").await;

    stack.restore_postgres(&copy);
    let left = count(&stack, "SELECT count(*) FROM events").await;
    assert!(left < had && !lost.is_empty(), "the copy is as new: {left} of {had}");
    for worker in ["worker-1", "worker-2"] {
        wait_until("a worker says that EVENTS is ahead", async || stack.readiness(worker).contains("the database went back")).await;
    }
    wait_until("a consumer says what it waits for", async || stack.readiness("notifications").contains("no worker has compared EVENTS")).await;
    // Accepted, and not decided.
    let change = json!({"name": "Meanwhile"});
    let asked = stack.call(Method::PATCH, &tenants[0].path(""), &stack.operator_token(), &[("Prefer", "respond-async")], &change).await.expect(202);
    let told = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(1).json();
    assert_eq!(told["extra"].as_i64(), Some(had - left), "{told}");
    let refused = run(&stack, &["events", "rebuild"]).await.expect(1);
    assert!(refused.err.contains("--replace"), "{refused:?}");
    assert_eq!(count(&stack, "SELECT count(*) FROM events").await, left, "somebody decided");

    run(&stack, &["events", "rebuild", "--replace"]).await.expect(0);
    let again = format!("SELECT count(*) FROM commands WHERE id IN ({})", lost.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", "));
    // What reactors had given is in COMMANDS, too.
    wait_until("every lost command has an outcome again", async || count(&stack, &again).await == i64::try_from(lost.len()).unwrap()).await;
    let path = format!("/v1/commands/{}", asked.text_at("/commandId"));
    wait_until("what was asked meanwhile has one", async || stack.get(&path, &stack.operator_token()).await.text_at("/status") == "succeeded").await;
    settled(&stack).await;
    audited(&stack).await;
    effective(&stack, FIRST).await;
    let chain = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(chain.broken.is_empty(), "{chain:?}");
    let report = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((report["extra"].as_u64(), report["outOfOrder"].as_u64()), (Some(0), Some(0)), "{report}");
    first.end();
}
