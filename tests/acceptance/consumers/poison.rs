//! A message that is no event: everybody who hears it puts it aside, and goes on.

use chancery::role::Consumer;
use subjects::{header, stream as names};

use super::{address, audited, events_of, followed, invite, tenant};
use crate::harness::{Stack, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn every_consumer_puts_a_poisonous_event_aside_and_handles_its_neighbours() {
    let all = [Consumer::Logging, Consumer::Audit, Consumer::Notifications, Consumer::Onboarding];
    let stack = Stack::builder().consumers(&all).start().await;
    let tenant = tenant(&stack).await;
    let jetstream = stack.jetstream().await;
    let mut sequences = Vec::new();
    let mut invitations = Vec::new();
    for event_type in ["user.created", "invitation.created"] {
        invitations.push(invite(&stack, &tenant, &address("guest")).await);
        let subject = format!("evt.{}.{event_type}", tenant.id);
        let ack = jetstream.publish(subject, "no event at all".into()).await.unwrap();
        sequences.push((event_type, ack.await.unwrap().sequence));
        invitations.push(invite(&stack, &tenant, &address("guest")).await);
    }
    let letters = jetstream.get_stream(names::DEADLETTERS).await.unwrap();
    // Whom the subject's filter leaves out never saw it.
    let heard = [("user.created", &["logging", "audit", "notifications"]), ("invitation.created", &["logging", "audit", "onboarding"])];
    for ((event_type, sequence), (_, consumers)) in sequences.into_iter().zip(heard) {
        for consumer in consumers {
            let subject = format!("dlq.{consumer}.{event_type}");
            wait_until(&subject, async || letters.get_last_raw_message_by_subject(&subject).await.is_ok()).await;
            let letter = letters.get_last_raw_message_by_subject(&subject).await.unwrap();
            let head = |name: &str| letter.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
            assert_eq!((head(header::CONSUMER).as_str(), head(header::REASON).as_str()), (*consumer, "undecodable"), "{letter:?}");
            assert_eq!((head(header::ORIGIN_STREAM), head(header::ORIGIN_SEQUENCE)), ("EVENTS".into(), sequence.to_string()), "{letter:?}");
            assert!(head(header::DELIVERIES).parse::<u32>().is_ok_and(|count| count > 0) && !head(header::ERROR).is_empty(), "{letter:?}");
            assert_eq!(letter.payload.as_ref(), b"no event at all", "the letter is the message as it came");
        }
    }
    audited(&stack).await;
    for consumer in [Consumer::Logging, Consumer::Notifications, Consumer::Onboarding] {
        followed(&stack, consumer).await;
    }
    for invitation in &invitations {
        wait_until("its neighbour is sent", async || events_of(&stack, invitation, "invitation.sent").await == 1).await;
        wait_until("its neighbour is mailed", async || super::ledger(&stack, invitation).await.is_some_and(|(state, _)| state == "sent")).await;
    }
    audited(&stack).await;
    let report = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(report.broken.is_empty(), "{report:?}");
    assert_eq!(super::dead_letters(&stack).await, 6);
}
