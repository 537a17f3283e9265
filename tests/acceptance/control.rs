//! Operators' hands on consumers: held, moved, and given events again, and who did it.

use chancery::role::Consumer as Ours;
use runtime::consume::{Durable, Order, Provisioned};
use serde_json::Value;
use subjects::stream as names;

use crate::{
    consumers::{
        audited, count,
        in_order::{FOLLOWER, Follower, effect, stack_with_effects},
        tenant,
    },
    harness::{Stack, wait_until},
    letters::{Consumer, OTHER, PICKY, renamed},
    recovery::{Ran, run},
};

/// `chancery consumer` with these arguments.
async fn consumer(stack: &Stack, arguments: &[&str]) -> Ran {
    run(stack, &[&["consumer"], arguments].concat()).await
}

/// What was done, the first first: who, what, and to whom.
async fn history(stack: &Stack) -> Vec<[String; 3]> {
    let rows = consumer(stack, &["history", "--json"]).await.expect(0).json();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().rev().map(|row| [text(row, "actor"), text(row, "action"), text(row, "consumer")]).collect()
}

async fn lag(stack: &Stack, name: &str) -> Value {
    consumer(stack, &["lag", name, "--json"]).await.expect(0).json()[0].clone()
}

async fn is_paused(stack: &Stack, name: &str) -> bool {
    stack.jetstream().await.get_stream(names::EVENTS).await.unwrap().consumer_info(name).await.unwrap().paused
}

/// The number of an event in EVENTS.
async fn place_of(stack: &Stack, event: &str) -> u64 {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    for number in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(number).await.unwrap();
        if message.subject.starts_with("evt.") && String::from_utf8_lossy(&message.payload).contains(event) {
            return number;
        }
    }
    panic!("EVENTS has no {event}");
}

fn ids(handled: &[(String, u32)]) -> Vec<&str> {
    handled.iter().map(|(id, _)| id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_durable_has_nothing_and_provisioning_leaves_it_so_until_it_is_resumed() {
    let mut stack = Stack::builder().consumers(&[Ours::Audit]).start().await;
    let tenant = tenant(&stack).await;
    audited(&stack).await;
    let (picky, other) = (Consumer::start(&stack, PICKY).await, Consumer::start(&stack, OTHER).await);
    let first = renamed(&stack, &tenant, "First").await.1;
    wait_until("both work", async || picky.handled().len() == 1 && other.handled().len() == 1).await;
    for name in ["audit", "picky"] {
        consumer(&stack, &["pause", name, "--for", "1h", "--as", "ada"]).await.expect(0);
    }
    stack.kill_nats();
    stack.restart_nats();
    let second = renamed(&stack, &tenant, "Second").await.1;
    wait_until("others have what follows", async || other.handled().len() == 2).await;
    assert_eq!(ids(&picky.handled()), [first.as_str()]);

    wait_until("it knows why it has nothing", async || stack.readiness("audit").contains("paused by an operator")).await;

    let held = lag(&stack, "audit").await;
    assert!(held["pausedSeconds"].as_f64().unwrap() > 3_000.0 && held["pending"].as_u64().unwrap() > 0, "{held}");
    assert!(consumer(&stack, &["lag"]).await.expect(0).out.contains("paused"));
    run(&stack, &["provision", "apply"]).await.expect(0);
    run(&stack, &["provision", "verify"]).await.expect(0);
    // A release that has another limit finds it paused, and leaves it so.
    let later = Durable { ack_wait: PICKY.ack_wait * 2, ..PICKY };
    assert_eq!(later.provision(&stack.jetstream().await, &stack.config()).await.unwrap(), Provisioned::Changed);
    assert!(is_paused(&stack, "audit").await && is_paused(&stack, "picky").await);
    assert_eq!(PICKY.provision(&stack.jetstream().await, &stack.config()).await.unwrap(), Provisioned::Changed);

    for name in ["audit", "picky"] {
        consumer(&stack, &["resume", name, "--as", "bob"]).await.expect(0);
    }
    wait_until("it goes on", async || picky.handled().len() == 2).await;
    assert_eq!(ids(&picky.handled()), [first.as_str(), second.as_str()]);
    audited(&stack).await;
    let told = history(&stack).await;
    let told: Vec<[&str; 3]> = told.iter().map(|row| [row[0].as_str(), row[1].as_str(), row[2].as_str()]).collect();
    assert_eq!(told, [["ada", "pause", "audit"], ["ada", "pause", "picky"], ["bob", "resume", "audit"], ["bob", "resume", "picky"]]);
    for wrong in [["pause", "picky", "--for", "31d"], ["pause", "nobody", "--for", "1h"], ["pause", "picky", "--until", "2020-01-01T00:00:00Z"]] {
        consumer(&stack, &wrong).await.expect(1);
    }
    assert_eq!(history(&stack).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_order_is_paused_by_a_row_and_goes_on_where_it_was() {
    let stack = stack_with_effects(&[]).await;
    let tenant = tenant(&stack).await;
    let follower = Follower::of(FOLLOWER, stack.config(), effect);
    let effects = "SELECT count(*) FROM effects";
    let lacking = "SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects)";
    wait_until("it has everything", async || count(&stack, lacking).await == 0).await;
    consumer(&stack, &["pause", "follower", "--for", "1h"]).await.expect(0);
    wait_until("nobody owns it", async || {
        count(&stack, "SELECT count(*) FROM consumer_leases WHERE consumer = 'follower' AND owner IS NULL").await == 1
    })
    .await;
    let before = count(&stack, effects).await;
    renamed(&stack, &tenant, "Meanwhile").await;
    // One that is started meanwhile obeys, too.
    let second = Follower::of(FOLLOWER, stack.config(), effect);
    let other = Consumer::start(&stack, OTHER).await;
    wait_until("others have it", async || !other.handled().is_empty()).await;
    assert_eq!(count(&stack, effects).await, before);
    let owned = "SELECT count(*) FROM consumer_leases WHERE consumer = 'follower' AND owner IS NOT NULL";
    assert_eq!(count(&stack, owned).await, 0);

    consumer(&stack, &["resume", "follower"]).await.expect(0);
    wait_until("it has what came meanwhile", async || count(&stack, lacking).await == 0).await;
    assert_eq!(count(&stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0);
    follower.end();
    second.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_is_moved_back_has_events_again_and_forward_only_if_that_is_meant() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (picky, other) = (Consumer::start(&stack, PICKY).await, Consumer::start(&stack, OTHER).await);
    let mut events = Vec::new();
    for name in ["First", "Second", "Third"] {
        events.push(renamed(&stack, &tenant, name).await.1);
    }
    wait_until("both have everything", async || picky.handled().len() == 3 && other.handled().len() == 3).await;
    let dry = consumer(&stack, &["seek", "picky", "--to", "start", "--dry-run"]).await.expect(0);
    assert!(dry.out.contains("has 3 events again: not done"), "{}", dry.out);
    let place = place_of(&stack, &events[1]).await;
    consumer(&stack, &["seek", "picky", "--to", &place.to_string(), "--as", "ada"]).await.expect(0);
    wait_until("it has two again", async || picky.handled().len() == 5).await;
    assert_eq!(ids(&picky.handled())[3..], [events[1].as_str(), events[2].as_str()]);
    assert_eq!(other.handled().len(), 3);

    // Held, so that there is something that it would never have.
    consumer(&stack, &["pause", "picky", "--for", "1h"]).await.expect(0);
    events.push(renamed(&stack, &tenant, "Fourth").await.1);
    wait_until("it is there", async || other.handled().len() == 4).await;
    let refused = consumer(&stack, &["seek", "picky", "--to", "end"]).await.expect(1);
    assert!(refused.err.contains("would never have 1 events"), "{}", refused.err);
    consumer(&stack, &["seek", "picky", "--to", "end", "--skip"]).await.expect(0);
    consumer(&stack, &["resume", "picky"]).await.expect(0);
    events.push(renamed(&stack, &tenant, "Fifth").await.1);
    wait_until("it goes on behind it", async || picky.handled().len() == 6).await;
    assert_eq!(ids(&picky.handled())[5], events[4]);
    let told: Vec<String> = history(&stack).await.into_iter().map(|[_, action, _]| action).collect();
    assert_eq!(told, ["seek", "pause", "seek", "resume"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_order_that_is_moved_back_does_nothing_twice_and_is_never_moved_forward() {
    let stack = stack_with_effects(&[]).await;
    let tenant = tenant(&stack).await;
    let follower = Follower::of(Durable { order: Order::Aggregate, ..FOLLOWER }, stack.config(), effect);
    let lacking = "SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects)";
    wait_until("it has everything", async || count(&stack, lacking).await == 0).await;
    let epoch = "SELECT epoch FROM consumer_positions WHERE consumer = 'follower'";
    let before = count(&stack, epoch).await;
    consumer(&stack, &["seek", "follower", "--to", "1"]).await.expect(0);
    wait_until("it is owned anew", async || count(&stack, epoch).await > before + 1).await;
    renamed(&stack, &tenant, "Afterwards").await;
    wait_until("it has what follows", async || count(&stack, lacking).await == 0).await;
    assert_eq!(count(&stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0);
    consumer(&stack, &["pause", "follower", "--for", "1h"]).await.expect(0);
    wait_until("nobody owns it", async || {
        count(&stack, "SELECT count(*) FROM consumer_leases WHERE consumer = 'follower' AND owner IS NULL").await == 1
    })
    .await;
    renamed(&stack, &tenant, "Meanwhile").await;
    let other = Consumer::start(&stack, OTHER).await;
    wait_until("it is there", async || other.handled().len() == 2).await;
    let refused = consumer(&stack, &["seek", "follower", "--to", "end", "--skip"]).await.expect(1);
    assert!(refused.err.contains("asks for order"), "{}", refused.err);
    follower.end();
}
