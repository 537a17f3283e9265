//! The timeline of a command: accepted, decided, published, and what each consumer made of it.

use chancery::role::Consumer;
use serde_json::{Value, json};
use subjects::stream as names;

use super::{address, count, followed, tenant};
use crate::harness::{Stack, wait_until};

async fn timeline(stack: &Stack, command: &str) -> Value {
    stack.get(&format!("/v1/commands/{command}/timeline"), &stack.operator_token()).await.expect(200).body
}

/// The consumers of an event with what they made of it.
fn made(event: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    event["consumers"].as_array().unwrap().iter().map(|handling| (text(&handling["consumer"]), text(&handling["state"]))).collect()
}

fn all(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(consumer, state)| ((*consumer).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_is_complete_when_every_consumer_has_handled_each_event() {
    let stack = Stack::builder().consumers(&Consumer::ALL).start().await;
    let tenant = tenant(&stack).await;
    let body = json!({ "email": address("guest"), "role": "member" });
    // One whose id tells the time, and one whose id does not.
    for headers in [&[][..], &[("idempotency-key", "the-key")][..]] {
        let body = if headers.is_empty() { body.clone() } else { json!({ "email": address("guest"), "role": "member" }) };
        let answer = stack.call(hyper::Method::POST, &tenant.path("/invitations"), &stack.operator_token(), headers, &body).await.expect(201);
        let command = answer.text_at("/commandId");
        wait_until("the timeline is complete", async || timeline(&stack, &command).await["complete"] == true).await;
        let view = timeline(&stack, &command).await;
        assert_eq!((view["status"].as_str(), view["command"].as_str()), (Some("succeeded"), Some("invitation.create")), "{view}");
        let (accepted, decided) = (view["acceptedAt"].as_str().unwrap(), view["decidedAt"].as_str().unwrap());
        assert!(accepted <= decided, "{view}");
        let event = &view["events"][0];
        assert_eq!(event["id"], answer.body["events"][0]["id"]);
        assert_eq!(made(event), all(&[("audit", "handled"), ("logging", "handled"), ("onboarding", "handled")]), "{view}");
        // Where and when the stream says it was stored.
        let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
        let message = stream.get_raw_message(event["published"]["streamSequence"].as_u64().unwrap()).await.unwrap();
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), event["id"].as_str().unwrap());
        assert_eq!(event["published"]["at"], subjects::timestamp::format(message.time));
        wait_until("the notes are written", async || {
            let view = timeline(&stack, &command).await;
            view["events"][0]["consumers"].as_array().unwrap().iter().all(|one| one["attempts"] == 1 && one["at"].is_string())
        })
        .await;
    }
    // A tenant's creation is several events, and they stand one after the other.
    let body = json!({ "slug": super::fresh("c"), "name": "Several", "plan": "free", "owner": { "email": address("o"), "fullName": "Own Er" } });
    let command = stack.post("/v1/tenants", &stack.operator_token(), &body).await.expect(201).text_at("/commandId");
    wait_until("the timeline is complete", async || timeline(&stack, &command).await["complete"] == true).await;
    let view = timeline(&stack, &command).await;
    let types: Vec<&str> = view["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["tenant.created", "user.created", "tenant.member_joined"]);
    assert_eq!(made(&view["events"][1]), all(&[("audit", "handled"), ("logging", "handled"), ("notifications", "handled")]));

    // Without notes it is known that they are handled, and not when.
    wait_until("everything is acknowledged and noted", async || {
        for consumer in Consumer::ALL {
            followed(&stack, consumer).await;
        }
        count(&stack, "SELECT count(*) FROM consumer_notes").await > 0
    })
    .await;
    stack.db().await.execute("DELETE FROM consumer_notes", &[]).await.unwrap();
    let view = timeline(&stack, &command).await;
    assert!(view["complete"] == true && view["events"][0]["consumers"][0].get("at").is_none(), "{view}");

    // Who may not know of the command sees what they would of none.
    let stranger = stack.token(&tenant.owner, &tenant.id, "");
    let nothing = "cmd_01890a5d-ac96-774b-bcce-b302099a8057";
    let theirs = stack.get(&format!("/v1/commands/{command}/timeline"), &stranger).await.expect(200);
    let none = stack.get(&format!("/v1/commands/{nothing}/timeline"), &stranger).await.expect(200);
    assert_eq!(theirs.text.replace(&command, ""), none.text.replace(nothing, ""));
    assert_eq!((&none.body["status"], &none.body["complete"]), (&json!("pending"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_tells_a_dead_letter_and_who_has_not_handled_an_event_yet() {
    let mut stack = Stack::builder().consumers(&[Consumer::Logging, Consumer::Onboarding]).start().await;
    let tenant = tenant(&stack).await;
    followed(&stack, Consumer::Onboarding).await;
    assert!(stack.stop("onboarding"));
    let body = json!({ "email": address("guest"), "role": "member" });
    let command = stack.post(&tenant.path("/invitations"), &stack.operator_token(), &body).await.expect(201).text_at("/commandId");
    wait_until("the log has it", async || made(&timeline(&stack, &command).await["events"][0]).contains(&("logging".into(), "handled".into()))).await;
    let view = timeline(&stack, &command).await;
    // The audit does not even run.
    assert_eq!(made(&view["events"][0]), all(&[("audit", "pending"), ("logging", "handled"), ("onboarding", "pending")]), "{view}");
    assert_eq!(view["complete"], false);
    // Its answering command will be refused, which is a dead letter.
    stack.post(&tenant.path("/suspend"), &stack.operator_token(), &json!({ "reason": "unpaid" })).await.expect(200);
    stack.start_again("onboarding", &[]);
    let dead = ("onboarding".to_owned(), "dead_letter".to_owned());
    wait_until("the dead letter shows", async || made(&timeline(&stack, &command).await["events"][0]).contains(&dead)).await;
    let view = timeline(&stack, &command).await;
    let handling = &view["events"][0]["consumers"][2];
    assert!(handling["attempts"] == 1 && handling["at"].is_string(), "{view}");
    // Also when nobody has noted it: the letter itself tells.
    stack.db().await.execute("DELETE FROM consumer_notes", &[]).await.unwrap();
    assert!(made(&timeline(&stack, &command).await["events"][0]).contains(&dead));
}
