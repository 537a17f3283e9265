//! The reactor that sends what was created to be sent.

use async_nats::jetstream::consumer::{FromConsumer as _, pull};
use chancery::role::{Consumer, Role};
use serde_json::json;
use subjects::stream as names;

use super::{address, dead_letters, events_of, followed, forget_position, invite, tenant};
use crate::harness::{Stack, blocking, wait_until};

const REACTOR: &str = "onboarding";

#[tokio::test(flavor = "multi_thread")]
async fn a_created_invitation_is_sent_exactly_once_though_its_reactor_is_killed_and_hears_it_twice() {
    let mut stack = Stack::builder().consumers(&[Consumer::Onboarding]).start().await;
    let tenant = tenant(&stack).await;
    let mut invitations = Vec::new();
    // Killed in the middle of its work, twice; whatever it was about is delivered again.
    for number in 0..24 {
        invitations.push(invite(&stack, &tenant, &address("guest")).await);
        if number == 7 || number == 15 {
            stack.kill9(REACTOR);
        }
        if number == 11 || number == 19 {
            stack.start_again(REACTOR, &[]);
        }
    }
    let unsent = json!({ "email": address("guest"), "send": false });
    let unsent = stack.post(&tenant.path("/invitations"), &stack.operator_token(), &unsent).await.expect(201).text_at("/aggregateId");
    for invitation in &invitations {
        wait_until("it is sent", async || events_of(&stack, invitation, "invitation.sent").await > 0).await;
    }
    followed(&stack, Consumer::Onboarding).await;

    // Everything once more, to the reactor and to the stream that takes its commands.
    assert!(stack.stop(REACTOR));
    forget_position(&stack, Consumer::Onboarding).await;
    stack.start_again(REACTOR, &[]);
    let last = invite(&stack, &tenant, &address("guest")).await;
    wait_until("the last one is sent", async || events_of(&stack, &last, "invitation.sent").await > 0).await;
    followed(&stack, Consumer::Onboarding).await;
    for invitation in invitations.iter().chain([&last]) {
        assert_eq!(events_of(&stack, invitation, "invitation.sent").await, 1, "{invitation}");
        let view = stack.get(&tenant.path(&format!("/invitations/{invitation}")), &stack.operator_token()).await.expect(200);
        assert_eq!((view.text_at("/state").as_str(), view.body["resendCount"].as_u64()), ("sent", Some(0)), "{}", view.text);
    }
    assert_eq!(events_of(&stack, &unsent, "invitation.sent").await, 0, "nobody asked for it");
    assert_eq!(dead_letters(&stack).await, 0, "a repeat is no fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_an_older_version_made_with_other_filters_gets_todays_and_keeps_its_place() {
    let mut stack = Stack::builder().consumers(&[Consumer::Onboarding]).start().await;
    let tenant = tenant(&stack).await;
    let first = invite(&stack, &tenant, &address("guest")).await;
    wait_until("it is sent", async || events_of(&stack, &first, "invitation.sent").await > 0).await;
    followed(&stack, Consumer::Onboarding).await;
    assert!(stack.stop(REACTOR));
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let mut old = stream.get_consumer::<pull::Config>(REACTOR).await.unwrap();
    let place = old.info().await.unwrap().ack_floor.stream_sequence;
    let mut config = pull::Config::try_from_consumer_config(old.cached_info().config.clone()).unwrap();
    (config.filter_subject, config.filter_subjects) = ("evt.*.invitation.declined".into(), Vec::new());
    stream.update_consumer(config).await.unwrap();

    // The consumer itself may not widen it: it says who does.
    let limit = [("CHANCERY_PROVISION_WAIT_MS", "500")];
    stack.process(REACTOR).set(limit[0].0, limit[0].1);
    stack.process(REACTOR).start();
    wait_until("it gives up", async || stack.log(REACTOR).contains("takes less than this one wants; `chancery provision` makes")).await;
    assert_eq!(blocking(|| stack.provision()).widened, 1);
    stack.start_another("onboarding-2", Role::Consumer(Consumer::Onboarding), &[]);
    let second = invite(&stack, &tenant, &address("guest")).await;
    wait_until("it is sent", async || events_of(&stack, &second, "invitation.sent").await > 0).await;
    let now = stream.get_consumer::<pull::Config>(REACTOR).await.unwrap();
    assert!(now.cached_info().delivered.stream_sequence > place, "it did not begin again");
    assert_eq!(events_of(&stack, &first, "invitation.sent").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_rests_holds_up_no_reaction_in_another() {
    let mut stack = Stack::builder().consumers(&[Consumer::Onboarding]).start().await;
    let resting = tenant(&stack).await;
    let number = |id: &str| subjects::partition(id, 64);
    let going = loop {
        let other = tenant(&stack).await;
        if number(&other.id) != number(&resting.id) {
            break other;
        }
    };
    assert!(stack.stop(REACTOR));
    let items: Vec<_> = (0..60).map(|_| json!({ "email": address("guest") })).collect();
    stack.post(&resting.path("/invitations/bulk"), &stack.operator_token(), &json!({ "invitations": items })).await.expect(200);
    // A command that only a newer worker knows: until there is one, nothing is decided behind it.
    let id = subjects::CommandId::new(uuid::Uuid::now_v7());
    let unknown = json!({ "id": id, "type": "tenant.frobnicate", "tenantId": resting.id, "aggregateId": resting.id, "actor": "system",
        "authority": "system", "timestamp": "2026-11-25T00:00:00.000Z", "correlationId": id, "keyed": false, "data": {} });
    let subject = format!("cmd.{}.{}.tenant.frobnicate", number(&resting.id), resting.id);
    stack.jetstream().await.publish(subject, unknown.to_string().into()).await.unwrap().await.unwrap();

    stack.start_again(REACTOR, &[]);
    let invitation = invite(&stack, &going, &address("guest")).await;
    wait_until("it is sent", async || events_of(&stack, &invitation, "invitation.sent").await > 0).await;
}
