//! Letters of consumers without order, of reactors, and of the worker.

use chancery::role::Consumer as Ours;
use serde_json::{Value, json};
use subjects::header;

use super::{Consumer, OTHER, PICKY, dlq, history, letters, listed, renamed};
use crate::{
    consumers::{address, audited, count, invite, tenant},
    harness::{Stack, wait_until},
    recovery::{command, run},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_redriven_to_its_consumer_alone_and_handled_once() {
    let stack = Stack::builder().consumers(&[Ours::Audit]).start().await;
    let tenant = tenant(&stack).await;
    let (picky, other) = (Consumer::start(&stack, PICKY).await, Consumer::start(&stack, OTHER).await);
    picky.breaks(true);
    let (given, first) = renamed(&stack, &tenant, "First").await;
    letters(&stack, 1).await;
    let table = dlq(&stack, &["ls", "--consumer", "picky", "--type", "tenant.updated", "--tenant", &tenant.id]).await.expect(0);
    assert!(table.out.contains("not today") && table.out.contains("picky") && table.out.contains(&tenant.id), "{}", table.out);
    let shown = dlq(&stack, &["show", "1", "--json"]).await.expect(0).json();
    assert_eq!((&shown["body"]["id"], &shown["standing"]["kind"]), (&json!(first), &json!("unordered")), "{shown}");
    assert!(dlq(&stack, &["show", "1"]).await.expect(0).out.contains("has gone on without it"));

    picky.breaks(false);
    let dry = dlq(&stack, &["redrive", "--consumer", "picky", "--dry-run"]).await.expect(0);
    assert_eq!((dry.out.as_str(), listed(&stack).await.len()), ("1: picky would have it again\n", 1));
    let done = dlq(&stack, &["redrive", "--consumer", "picky", "--type", "tenant.updated", "--as", "ada"]).await.expect(0);
    assert_eq!(done.out, "1: picky has it again\n");
    wait_until("it is handled", async || !picky.handled().is_empty()).await;
    let (_, second) = renamed(&stack, &tenant, "Second").await;
    wait_until("what follows is handled", async || picky.handled().len() == 2 && other.handled().len() == 2).await;
    assert_eq!(picky.handled(), [(first.clone(), 1), (second.clone(), 0)]);
    assert_eq!(other.handled(), [(first, 0), (second, 0)]);
    audited(&stack).await;
    assert_eq!(listed(&stack).await, [Value::Null; 0]);
    assert_eq!(history(&stack).await, [("ada".into(), "redrive".into(), Value::Null)]);
    let none = dlq(&stack, &["redrive", "1"]).await.expect(1);
    assert!(none.err.contains("1: there is no dead letter 1"), "{none:?}");

    // The event was handled, as far as its command is concerned; and to whoever else reads EVENTS the redrive is no event.
    wait_until("the timeline says so", async || {
        let path = format!("/v1/commands/{given}/timeline");
        let timeline = stack.get(&path, &stack.operator_token()).await.expect(200);
        let consumers = timeline.body["events"][0]["consumers"].as_array().unwrap().clone();
        consumers.iter().any(|handling| handling["consumer"] == "picky" && handling["state"] == "handled")
    })
    .await;
    let well = run(&stack, &["events", "reconcile", "--json"]).await.expect(0).json();
    let events = count(&stack, "SELECT count(*) FROM events").await;
    assert_eq!((well["messages"].as_i64(), well["matched"].as_i64()), (Some(events), Some(events)), "{well}");
    assert_eq!(count(&stack, "SELECT count(*) FROM audit_log").await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_again_is_a_new_letter_that_says_how_often() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let picky = Consumer::start(&stack, PICKY).await;
    picky.breaks(true);
    let (_, event) = renamed(&stack, &tenant, "First").await;
    letters(&stack, 1).await;
    let place = listed(&stack).await[0]["originSequence"].clone();
    for redrives in 1..=2_u64 {
        dlq(&stack, &["redrive", &redrives.to_string()]).await.expect(0);
        wait_until("it is a letter again", async || listed(&stack).await.iter().any(|letter| letter["redrives"] == redrives)).await;
        let all = listed(&stack).await;
        assert_eq!((all.len(), &all[0]["number"], &all[0]["eventId"]), (1, &json!(redrives + 1), &json!(event)), "{all:?}");
        let shown = dlq(&stack, &["show", &(redrives + 1).to_string(), "--json"]).await.expect(0).json();
        assert_eq!(shown["headers"][header::FIRST_SEQUENCE].as_str(), Some(place.to_string().as_str()), "{shown}");
        assert_eq!(shown["history"].as_array().unwrap().len() as u64, redrives, "{shown}");
    }
    picky.breaks(false);
    dlq(&stack, &["redrive", "--consumer", "picky", "--all"]).await.expect(0);
    wait_until("it is handled", async || picky.handled() == [(event.clone(), 3)]).await;
    assert!(dlq(&stack, &["ls"]).await.expect(0).out.contains("there are none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_between_its_steps_is_done_again_and_leaves_no_letter_without_a_row() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let picky = Consumer::start(&stack, PICKY).await;
    for (number, point) in ["letter_acted", "letter_noted", "letter_deleted"].into_iter().enumerate() {
        picky.breaks(true);
        let (_, event) = renamed(&stack, &tenant, point).await;
        letters(&stack, 1).await;
        picky.breaks(false);
        let letter = listed(&stack).await[0]["number"].to_string();
        let armed = [("CHANCERY_FAILPOINT", format!("{point}=abort"))];
        let armed = [(armed[0].0, armed[0].1.as_str())];
        let killed = command(&stack, &["dlq", "redrive", &letter], &armed).output().await.unwrap();
        assert_eq!(killed.status.code(), None, "{point}: it was not killed");
        let rows = count(&stack, "SELECT count(DISTINCT letter) FROM deadletter_actions").await;
        let gone = listed(&stack).await.is_empty();
        assert_eq!((rows, gone), (number as i64 + i64::from(point != "letter_acted"), point == "letter_deleted"), "{point}");
        dlq(&stack, &["redrive", &letter]).await.expect(i32::from(gone));
        assert!(listed(&stack).await.is_empty(), "{point}");
        assert_eq!(count(&stack, "SELECT count(DISTINCT letter) FROM deadletter_actions").await, number as i64 + 1, "{point}");
        // The server knows the second publish by its id.
        wait_until("it is handled", async || picky.handled().len() == number + 1).await;
        assert_eq!(picky.handled()[number], (event, 1), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_that_was_refused_is_tried_anew_and_not_answered_with_what_it_was_told() {
    let mut stack = Stack::builder().consumers(&[Ours::Onboarding]).start().await;
    let tenant = tenant(&stack).await;
    assert!(stack.stop("onboarding"));
    invite(&stack, &tenant, &address("guest")).await;
    let operator = stack.operator_token();
    stack.post(&tenant.path("/suspend"), &operator, &json!({})).await.expect(200);
    stack.start_again("onboarding", &[]);
    letters(&stack, 1).await;
    stack.post(&tenant.path("/activate"), &operator, &json!({})).await.expect(200);
    dlq(&stack, &["redrive", "1"]).await.expect(0);
    wait_until("it is sent", async || count(&stack, "SELECT count(*) FROM events WHERE type = 'invitation.sent'").await == 1).await;
    letters(&stack, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_has_failed_is_not_redriven_and_can_be_discarded() {
    let stack = Stack::builder().start().await;
    let tenant = tenant(&stack).await;
    let subject = format!("cmd.{}.{}.tenant.update", subjects::partition(&tenant.id, 64), tenant.id);
    stack.jetstream().await.publish(subject, "no command".into()).await.unwrap().await.unwrap();
    letters(&stack, 1).await;
    for arguments in [&["redrive", "1", "--dry-run"][..], &["redrive", "1"], &["redrive", "--consumer", "worker"]] {
        let refused = dlq(&stack, arguments).await.expect(1);
        assert!(refused.err.contains("a command has exactly one outcome"), "{refused:?}");
    }
    let refused = dlq(&stack, &["discard", "1", "--reason", " "]).await.expect(1);
    assert!(refused.err.contains("a reason is needed"), "{refused:?}");
    letters(&stack, 1).await;
    assert_eq!(history(&stack).await, []);
    dlq(&stack, &["discard", "1", "--reason", "a test sent it", "--as", "ada"]).await.expect(0);
    letters(&stack, 0).await;
    assert_eq!(history(&stack).await, [("ada".into(), "discard".into(), json!("a test sent it"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_redriven_to_nobody_and_what_stood_under_anothers_subject_is_never_made_an_event() {
    let stack = Stack::builder().consumers(&[Ours::Onboarding]).start().await;
    let (ours, theirs) = (tenant(&stack).await, tenant(&stack).await);
    let jetstream = stack.jetstream().await;
    let select = "SELECT body::text FROM events WHERE type = 'tenant.created' LIMIT 1";
    let body: String = stack.db().await.query_one(select, &[]).await.unwrap().get(0);
    // A letter of a consumer that there is not.
    jetstream.publish("dlq.stranger.tenant.created", body.clone().into()).await.unwrap().await.unwrap();
    let refused = dlq(&stack, &["redrive", "1"]).await.expect(1);
    assert!(refused.err.contains("no consumer of that name takes anything again"), "{refused:?}");
    // An event of one tenant under the subject of another.
    let invitation = json!({ "id": "evt_01890a5d-ac96-774b-bcce-b302099a8057", "tenantId": ours.id }).to_string();
    let mut event: Value = serde_json::from_str(&body).unwrap();
    event.as_object_mut().unwrap().extend(serde_json::from_str::<Value>(&invitation).unwrap().as_object().unwrap().clone());
    event["type"] = "invitation.created".into();
    let subject = format!("evt.{}.invitation.created", theirs.id);
    jetstream.publish(subject, event.to_string().into()).await.unwrap().await.unwrap();
    letters(&stack, 2).await;
    let refused = dlq(&stack, &["redrive", "2"]).await.expect(1);
    assert!(refused.err.contains("nobody may take it for an event"), "{refused:?}");
    letters(&stack, 2).await;
}
