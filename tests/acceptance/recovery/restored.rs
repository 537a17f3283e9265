//! A database that went back: nobody decides or consumes until an operator has chosen.

use chancery::role::{Consumer, Role};
use hyper::Method;
use serde_json::json;
use subjects::stream as names;
use uuid::Uuid;

use super::{FIRST, effective, events_in, follower, history, more, prepare_effects, published, run, settled};
use crate::{
    consumers::{audited, count, tenant},
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
    let asked = ask(&stack, &tenants[0]).await;
    let told = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(1).json();
    assert_eq!(told["extra"].as_i64(), Some(had - left), "{told}");
    let refused = run(&stack, &["events", "rebuild"]).await.expect(1);
    assert!(refused.err.contains("--replace"), "{refused:?}");
    assert_eq!(count(&stack, "SELECT count(*) FROM events").await, left, "somebody decided");

    run(&stack, &["events", "rebuild", "--replace"]).await.expect(0);
    let again = format!("SELECT count(*) FROM commands WHERE id IN ({})", lost.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", "));
    // What reactors had given is in COMMANDS, too.
    wait_until("every lost command has an outcome again", async || count(&stack, &again).await == i64::try_from(lost.len()).unwrap()).await;
    wait_until("what was asked meanwhile has one", async || done(&stack, &asked).await).await;
    settled(&stack).await;
    audited(&stack).await;
    effective(&stack, FIRST).await;
    let chain = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(chain.broken.is_empty(), "{chain:?}");
    let report = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((report["extra"].as_u64(), report["outOfOrder"].as_u64()), (Some(0), Some(0)), "{report}");
    first.end();
}

/// Changes a tenant's name without waiting for it; the path of what becomes of that.
async fn ask(stack: &Stack, tenant: &crate::consumers::Tenant) -> String {
    let later = [("prefer", "respond-async")];
    let asked = stack.call(Method::PATCH, &tenant.path(""), &stack.operator_token(), &later, &json!({"name": "Later"})).await.expect(202);
    format!("/v1/commands/{}", asked.text_at("/commandId"))
}

/// Whether what was asked has been done. A database that went back has not heard of it for a while.
async fn done(stack: &Stack, path: &str) -> bool {
    stack.get(path, &stack.operator_token()).await.body["status"] == "succeeded"
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_say_nothing_of_this_stream_hide_nothing_that_the_database_does_not_know() {
    let mut stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    published(&stack).await;
    let events = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap().cached_info().clone();
    let db = stack.db().await;
    let ahead = "CREATE TABLE kept AS SELECT * FROM events ORDER BY partition_sequence DESC LIMIT 1;
         DELETE FROM events USING kept WHERE events.id = kept.id";
    stack.kill9("worker-1");
    db.batch_execute(ahead).await.unwrap();
    // Of an earlier life that was longer, and of a stream that has lost its end.
    let marks = [("1".to_owned(), events.state.last_sequence), (runtime::streams::incarnation(&events), 1_000_000)];
    for (life, mark) in marks {
        let mark = i64::try_from(mark).unwrap();
        db.execute("UPDATE partitions SET events_incarnation = $1, mark_stream = $2", &[&life, &mark]).await.unwrap();
        db.batch_execute("DELETE FROM history_checks").await.unwrap();
        stack.process("worker-1").start();
        let what = format!("the worker finds what is ahead of a mark {mark} in the life {life}");
        wait_until(&what, async || stack.readiness("worker-1").contains("EVENTS has 1 events that it does not know")).await;
        stack.kill9("worker-1");
    }
    db.batch_execute("INSERT INTO events SELECT * FROM kept").await.unwrap();
    stack.start_again("worker-1", &[]);
    crate::consumers::rename(&stack, &tenant, "Known").await;
}

/// A worker freezes before it publishes what it has committed, the database goes back behind that, and the worker goes on when another one has
/// looked and nobody has taken its partitions yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_that_is_no_more_had_decided_does_not_arrive_after_the_look() {
    let mut stack = Stack::builder().own_postgres().start().await;
    let tenant = tenant(&stack).await;
    published(&stack).await;
    assert!(stack.stop("worker-1"), "{}", stack.log("worker-1"));
    let copy = stack.back_up_postgres();
    stack.start_again("worker-1", &[("CHANCERY_FAILPOINT", "batch_sent=stop")]);
    let later = ask(&stack, &tenant).await;
    wait_until("the worker freezes", async || stack.log("worker-1").contains("failpoint batch_sent: stop")).await;
    let before = events_in(&stack).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM events").await, i64::try_from(before).unwrap() + 1, "it had published");

    stack.restore_postgres(&copy);
    let busy = "INSERT INTO workers VALUES (gen_random_uuid(), 'nobody', now() + interval '1 day');
         UPDATE partitions SET owner = (SELECT id FROM workers WHERE name = 'nobody'), epoch = epoch + 1";
    stack.db().await.batch_execute(busy).await.unwrap();
    stack.add_unstarted("worker-2", Role::Worker, &[]);
    stack.process("worker-2").start();
    let well = "EVENTS has nothing that the database does not know";
    wait_until("another worker has looked", async || stack.log("worker-2").contains(well)).await;
    let settled = stack.log("worker-1").matches("settling").count();
    stack.thaw("worker-1");
    wait_until("it publishes", async || stack.log("worker-1").matches("settling").count() > settled || events_in(&stack).await != before).await;
    assert_eq!(events_in(&stack).await, before, "EVENTS is ahead, and nobody looks any more");

    stack.db().await.batch_execute("UPDATE partitions SET owner = NULL; DELETE FROM workers WHERE name = 'nobody'").await.unwrap();
    // The command is in COMMANDS, and the cursor is before it.
    wait_until("it is decided again", async || done(&stack, &later).await).await;
    published(&stack).await;
    let report = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!((report["extra"].as_u64(), report["matched"].as_u64()), (Some(0), Some(before + 1)), "{report}");
}
