//! Letters of a consumer in order: its queue waits, and goes on in order after a redrive and after a discard.

use std::sync::{Arc, Mutex};

use runtime::{
    Failure,
    consume::{Event, Transaction, judge},
};
use serde_json::{Value, json};

use super::{dlq, history, letters, listed, renamed};
use crate::{
    consumers::{
        count,
        in_order::{FOLLOWER, Follower},
        tenant,
    },
    harness::{Stack, wait_until},
    recovery::command,
};

/// The name in the event that the follower cannot handle.
pub(super) type Sick = Arc<Mutex<&'static str>>;

pub(super) async fn follower(stack: &Stack) -> (Follower, Sick) {
    stack.db().await.batch_execute("CREATE TABLE effects (n bigserial PRIMARY KEY, event_id uuid, aggregate text, sequence bigint)").await.unwrap();
    let sick: Sick = Arc::new(Mutex::new("nothing"));
    let fails = sick.clone();
    let follower = Follower::of(FOLLOWER, stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        let envelope = &event.envelope;
        if envelope.data["changes"]["name"]["new"].as_str().is_some_and(|name| name.contains(*fails.lock().unwrap())) {
            return Err(Failure::poison("not this one"));
        }
        let insert = "INSERT INTO effects (event_id, aggregate, sequence) VALUES ($1, $2, $3)";
        let sequence = i64::try_from(envelope.sequence).unwrap();
        let done = transaction.execute(insert, &[&envelope.id.uuid(), &envelope.aggregate_id, &sequence]).await;
        done.map(|_| ()).map_err(|error| judge(&error))
    });
    (follower, sick)
}

/// Waits until all events but so many had their effect, each once and in the order of its aggregate.
async fn effective(stack: &Stack, but: i64) {
    let left = "SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects)";
    wait_until("every event has its effect", async || count(stack, left).await == but).await;
    assert_eq!(count(stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0, "an event took effect twice");
    let disorder =
        "SELECT count(*) FROM (SELECT sequence < lag(sequence) OVER (PARTITION BY aggregate ORDER BY n) AS back FROM effects) e WHERE back";
    assert_eq!(count(stack, disorder).await, 0, "an aggregate's events took effect out of order");
    assert_eq!(count(stack, "SELECT count(*) FROM consumer_parked").await, 0, "something still waits");
}

async fn waiting(stack: &Stack, number: i64) {
    wait_until(&format!("{number} wait"), async || count(stack, "SELECT count(*) FROM consumer_parked").await == number).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_drains_in_order_after_a_redrive_and_one_that_fails_again_is_a_letter_again() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (follower, sick) = follower(&stack).await;
    *sick.lock().unwrap() = "Sick";
    let (_, event) = renamed(&stack, &tenant, "Sick").await;
    letters(&stack, 1).await;
    for name in ["Second", "Third", "Fourth"] {
        renamed(&stack, &tenant, name).await;
    }
    waiting(&stack, 4).await;
    let shown = dlq(&stack, &["show", "1", "--json"]).await.expect(0).json();
    let standing = &shown["standing"];
    assert_eq!((&standing["kind"], &standing["behind"], &standing["givenUp"]), (&json!("waiting"), &json!(3), &json!(true)), "{shown}");
    assert_eq!(standing["first"][0]["type"], "tenant.updated", "{shown}");
    let text = dlq(&stack, &["show", "1"]).await.expect(0);
    assert!(text.out.contains("and 3 behind it"), "{}", text.out);

    // At the same place of the stream, within the window in which the server remembers the first letter.
    for redrives in 1..=2_u64 {
        let number = listed(&stack).await[0]["number"].to_string();
        dlq(&stack, &["redrive", &number]).await.expect(0);
        wait_until("it is a letter again", async || listed(&stack).await.iter().any(|letter| letter["redrives"] == redrives)).await;
        assert_eq!((listed(&stack).await.len(), &listed(&stack).await[0]["eventId"]), (1, &json!(event)));
    }
    waiting(&stack, 4).await;
    *sick.lock().unwrap() = "nothing";
    let done = dlq(&stack, &["redrive", "3"]).await.expect(0);
    assert_eq!(done.out, "3: follower tries it again, and then the 3 behind it\n");
    effective(&stack, 0).await;
    letters(&stack, 0).await;
    renamed(&stack, &tenant, "Fifth").await;
    effective(&stack, 0).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_an_event_goes_on_in_order_when_it_is_discarded() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (follower, sick) = follower(&stack).await;
    *sick.lock().unwrap() = "Sick";
    let (_, event) = renamed(&stack, &tenant, "Sick").await;
    letters(&stack, 1).await;
    for name in ["Second", "Third"] {
        renamed(&stack, &tenant, name).await;
    }
    waiting(&stack, 3).await;
    let done = dlq(&stack, &["discard", "1", "--reason", "nobody needs it", "--as", "ada"]).await.expect(0);
    assert_eq!(done.out, "1: follower goes on with the 2 behind it\n");
    effective(&stack, 1).await;
    let discarded = format!("SELECT count(*) FROM effects WHERE 'evt_' || event_id = '{event}'");
    assert_eq!(count(&stack, &discarded).await, 0);
    letters(&stack, 0).await;
    assert_eq!(history(&stack).await, [("ada".into(), "discard".into(), json!("nobody needs it"))]);
    // The same where nothing waits behind it.
    renamed(&stack, &tenant, "Sick again").await;
    letters(&stack, 1).await;
    dlq(&stack, &["discard", "2", "--reason", "nor this"]).await.expect(0);
    *sick.lock().unwrap() = "nothing";
    renamed(&stack, &tenant, "Well").await;
    effective(&stack, 2).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_between_the_queue_and_the_letter_does_it_again() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (follower, sick) = follower(&stack).await;
    let mut discarded = 0;
    for action in [&["redrive"][..], &["discard", "--reason", "a test"]] {
        for point in ["letter_acted", "letter_noted"] {
            *sick.lock().unwrap() = "Sick";
            renamed(&stack, &tenant, "Sick").await;
            letters(&stack, 1).await;
            renamed(&stack, &tenant, "Behind").await;
            *sick.lock().unwrap() = "nothing";
            let number = listed(&stack).await[0]["number"].to_string();
            let arguments = [&["dlq"], action, &[number.as_str()]].concat();
            let armed = format!("{point}=abort");
            let killed = command(&stack, &arguments, &[("CHANCERY_FAILPOINT", &armed)]).output().await.unwrap();
            assert_eq!(killed.status.code(), None, "{point}: it was not killed");
            assert_eq!(listed(&stack).await.len(), 1, "{point}");
            dlq(&stack, &arguments[1..]).await.expect(0);
            discarded += i64::from(action[0] == "discard");
            effective(&stack, discarded).await;
            letters(&stack, 0).await;
        }
    }
    assert_eq!(count(&stack, "SELECT count(DISTINCT letter) FROM deadletter_actions").await, 4);
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_redriven_before_does_nothing_to_the_try_that_followed() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (follower, sick) = follower(&stack).await;
    *sick.lock().unwrap() = "Sick";
    renamed(&stack, &tenant, "Sick").await;
    renamed(&stack, &tenant, "Behind").await;
    letters(&stack, 1).await;
    let given_up =
        async |redrives: i64| count(&stack, &format!("SELECT count(*) FROM consumer_parked WHERE dead AND redrives = {redrives}")).await == 1;
    for (number, arguments, what) in [
        (1, &["redrive"][..], "it was redriven already"),
        (2, &["discard", "--reason", "a test"], "the letter is gone; its event was redriven before"),
    ] {
        // Killed when its queue goes on, and the event fails once more: two letters about it.
        let redriven = number.to_string();
        let killed = command(&stack, &["dlq", "redrive", &redriven], &[("CHANCERY_FAILPOINT", "letter_acted=abort")]).output().await.unwrap();
        assert_eq!(killed.status.code(), None, "it was not killed");
        letters(&stack, 2).await;
        wait_until("it is given up again", async || given_up(number).await).await;
        let done = dlq(&stack, &[arguments, &[redriven.as_str()]].concat()).await.expect(0);
        assert_eq!(done.out, format!("{number}: {what}\n"));
        letters(&stack, 1).await;
        assert!(given_up(number).await, "it did something to the event");
    }
    dlq(&stack, &["discard", "3", "--reason", "nobody needs it"]).await.expect(0);
    effective(&stack, 1).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_in_order_could_not_read_waits_nowhere_and_is_not_redriven() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let (follower, _) = follower(&stack).await;
    let subject = format!("evt.{}.tenant.updated", tenant.id);
    stack.jetstream().await.publish(subject, "no event".into()).await.unwrap().await.unwrap();
    letters(&stack, 1).await;
    let refused = dlq(&stack, &["redrive", "1"]).await.expect(1);
    assert!(refused.err.contains("could not read it, and has gone on behind it"), "{refused:?}");
    dlq(&stack, &["discard", "1", "--reason", "no event"]).await.expect(0);
    assert_eq!(listed(&stack).await, [Value::Null; 0]);
    effective(&stack, 0).await;
    follower.end();
}
