//! Operators' hands on consumers: held, moved, and given events again, and who did it.

use chancery::role::Consumer as Ours;
use runtime::consume::{Durable, Order, Provisioned, Start};
use serde_json::Value;
use subjects::stream as names;
use time::OffsetDateTime;

use crate::{
    consumers::{
        address, audited, count,
        in_order::{FOLLOWER, Follower, effect, forget, stack_with_effects},
        invite,
        mail_server::MailServer,
        tenant,
    },
    harness::{Stack, wait_until},
    letters::{Consumer, OTHER, PICKY, renamed},
    recovery::{Ran, run, run_with},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_fills_in_what_one_consumer_lacks_and_nobody_else_has_it() {
    let stack = Stack::builder().consumers(&[Ours::Audit]).start().await;
    let tenant = tenant(&stack).await;
    let (picky, other) = (Consumer::start(&stack, PICKY).await, Consumer::start(&stack, OTHER).await);
    let first = renamed(&stack, &tenant, "First").await.1;
    wait_until("it works", async || picky.handled().len() == 1).await;
    consumer(&stack, &["pause", "picky", "--for", "1h"]).await.expect(0);
    let lost: Vec<String> = [renamed(&stack, &tenant, "Second").await.1, renamed(&stack, &tenant, "Third").await.1].into();
    wait_until("they are there", async || other.handled().len() == 3).await;
    consumer(&stack, &["seek", "picky", "--to", "end", "--skip"]).await.expect(0);
    consumer(&stack, &["resume", "picky"]).await.expect(0);
    let last = renamed(&stack, &tenant, "Last").await.1;
    wait_until("it has gone on without them", async || picky.handled().len() == 2).await;

    let (from, to) = (place_of(&stack, &lost[0]).await.to_string(), place_of(&stack, &last).await.to_string());
    let range = ["replay", "picky", "--from", &from, "--to", &to];
    let dry = consumer(&stack, &[&range[..], &["--dry-run"]].concat()).await.expect(0);
    assert!(dry.out.contains("picky would have 2 events"), "{}", dry.out);
    // Killed behind the first of them, and said again.
    let killed = run_with(&stack, &[&["consumer"], &range[..]].concat(), &[("CHANCERY_FAILPOINT", "consumer_replayed=abort")]).await;
    assert_ne!(killed.code, Some(0));
    consumer(&stack, &[&range[..], &["--as", "ada"]].concat()).await.expect(0);
    let standing = async || {
        let info = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap().consumer_info("picky").await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    };
    wait_until("it has everything", async || standing().await && picky.handled().len() >= 4).await;
    let handled = picky.handled();
    for event in [&first, &last] {
        assert_eq!(handled.iter().filter(|(id, _)| id == event).count(), 1, "{handled:?}");
    }
    for event in &lost {
        assert!(handled.iter().any(|(id, redrives)| id == event && *redrives == 1), "{handled:?}");
    }
    renamed(&stack, &tenant, "Afterwards").await;
    wait_until("others go on", async || other.handled().len() == 5).await;
    // To whoever else reads EVENTS a replay is no event, and effects that are there stay once.
    audited(&stack).await;
    consumer(&stack, &["replay", "audit", "--from", "start"]).await.expect(0);
    wait_until("audit has handled it", async || {
        let info = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap().consumer_info("audit").await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    let events = count(&stack, "SELECT count(*) FROM events").await;
    assert_eq!(count(&stack, "SELECT count(*) FROM audit_log").await, events);
    run(&stack, &["events", "reconcile"]).await.expect(0);
    assert_eq!(history(&stack).await.iter().filter(|[_, action, _]| action == "replay").count(), 3);
}

/// A stack that has sent every mail there is to send, one of them to this guest.
pub(crate) async fn mailed() -> (MailServer, Stack, String) {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&[Ours::Notifications, Ours::Onboarding]).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    let guest = address("guest");
    invite(&stack, &tenant, &guest).await;
    mail.received(&guest, 1).await;
    mail.quiet(&stack).await;
    (mail, stack, guest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_notifications_sends_no_mail() {
    let (mail, stack, _) = mailed().await;
    let before = mail.all().len();
    let told = consumer(&stack, &["replay", "notifications", "--from", "2020-01-01T00:00:00Z"]).await.expect(0);
    assert!(!told.out.contains(" 0 events"), "{}", told.out);
    wait_until("it has handled them", async || {
        let info = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap().consumer_info("notifications").await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    mail.quiet(&stack).await;
    assert_eq!(mail.all().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_begins_at_a_time_has_what_came_then_from_the_stream_or_from_the_table() {
    let stack = stack_with_effects(&[]).await;
    let tenant = tenant(&stack).await;
    let witness = Consumer::start(&stack, OTHER).await;
    renamed(&stack, &tenant, "Before").await;
    wait_until("it is stored", async || witness.handled().len() == 1).await;
    let start = Start::At(OffsetDateTime::now_utc());
    let after = renamed(&stack, &tenant, "After").await.1;
    wait_until("it is stored", async || witness.handled().len() == 2).await;
    let picky = Consumer::start(&stack, Durable { start, ..PICKY }).await;
    wait_until("it has what came then", async || picky.handled().len() == 1).await;
    assert_eq!(ids(&picky.handled()), [after.as_str()]);
    // Found again as it is.
    let again = Durable { start, ..PICKY }.provision(&stack.jetstream().await, &stack.config()).await.unwrap();
    assert_eq!(again, Provisioned::Found);

    forget(&stack).await;
    let late = Consumer::start(&stack, Durable { name: "late", start, ..PICKY }).await;
    // What comes while it is fed may come twice, so it comes later.
    wait_until("it is fed", async || ids(&late.handled()).contains(&after.as_str())).await;
    let last = renamed(&stack, &tenant, "Last").await.1;
    wait_until("it has both", async || ids(&late.handled()).contains(&last.as_str())).await;
    assert_eq!(ids(&late.handled()), [after.as_str(), last.as_str()]);
}
