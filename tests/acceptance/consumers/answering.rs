//! The reactor that sends what was created to be sent.

use chancery::role::Consumer;
use serde_json::json;

use super::{address, dead_letters, events_of, followed, forget_position, invite, tenant};
use crate::harness::{Stack, wait_until};

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
