//! A notifier that is killed, and one that hears everything again: the ledger knows what was said.

use std::collections::BTreeMap;

use chancery::role::Consumer;
use serde_json::json;

use super::{accept, address, dead_letters, followed, forget_position, invite, ledger, mail_server::MailServer, tenant};
use crate::harness::{Stack, wait_until};

const NOTIFIER: &str = "notifications";
const CONSUMERS: [Consumer; 2] = [Consumer::Notifications, Consumer::Onboarding];

/// How often each mail came, by its id.
fn by_id(mail: &MailServer) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    mail.all().iter().for_each(|mail| *counts.entry(mail.id().to_owned()).or_default() += 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_killed_in_mid_batch_sends_nothing_twice() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    mail.received(&tenant.email, 1).await;
    mail.quiet(&stack).await;
    // Written and not committed; claimed and not begun; begun, and nothing said to the mail server yet.
    for (point, guests) in [("notifications_before_commit", 5), ("notifications_claimed", 5), ("notifications_intended", 1)] {
        stack.kill9(NOTIFIER);
        let guests: Vec<String> = (0..guests).map(|_| address("guest")).collect();
        let mut invitations = Vec::new();
        for guest in &guests {
            invitations.push(invite(&stack, &tenant, guest).await);
        }
        followed(&stack, Consumer::Onboarding).await;
        let notifier = stack.process(NOTIFIER);
        notifier.set("CHANCERY_FAILPOINT", &format!("{point}=abort"));
        notifier.start();
        wait_until(&format!("the notifier dies at {point}"), async || stack.process(NOTIFIER).ended().is_some()).await;
        assert_eq!(guests.iter().map(|guest| mail.to(guest).len()).sum::<usize>(), 0, "nothing was sent before {point}");
        // A claim runs out after some minutes. They pass while nobody runs.
        stack.db().await.execute("UPDATE notifications.ledger SET next_at = now() WHERE state = 'pending'", &[]).await.unwrap();
        stack.start_again(NOTIFIER, &[("CHANCERY_FAILPOINT", "")]);
        for (guest, invitation) in guests.iter().zip(&invitations) {
            mail.received(guest, 1).await;
            wait_until("the end is noted", async || ledger(&stack, invitation).await.is_some_and(|(state, _)| state == "sent")).await;
        }
        mail.quiet(&stack).await;
    }
    assert!(by_id(&mail).values().all(|count| *count == 1), "{:?}", by_id(&mail));
}

/// Between the mail server's yes and the note of it: nobody can know. It goes once more at most, and mail programs see that it is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_in_doubt_goes_once_more_at_most_and_is_the_same_mail() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    mail.received(&tenant.email, 1).await;
    mail.quiet(&stack).await;
    stack.kill9(NOTIFIER);
    let guest = address("guest");
    let invitation = invite(&stack, &tenant, &guest).await;
    for _ in 0..2 {
        let notifier = stack.process(NOTIFIER);
        notifier.set("CHANCERY_FAILPOINT", "notifications_sent=abort");
        notifier.start();
        wait_until("the notifier dies", async || stack.process(NOTIFIER).ended().is_some()).await;
        stack.db().await.execute("UPDATE notifications.ledger SET next_at = now() WHERE state = 'pending'", &[]).await.unwrap();
    }
    stack.start_again(NOTIFIER, &[("CHANCERY_FAILPOINT", "")]);
    wait_until("it is given up", async || ledger(&stack, &invitation).await.is_some_and(|(state, _)| state == "undeliverable")).await;
    let received = mail.to(&guest);
    assert_eq!(received.len(), 2);
    assert_eq!((received[0].id(), received[0].text()), (received[1].id(), received[1].text()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_hears_everything_again_sends_no_second_mail() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    // All owners and admins hear of this one; who becomes an admin later does not.
    stack.post(&tenant.path("/suspend"), &stack.operator_token(), &json!({ "reason": "unpaid" })).await.expect(200);
    stack.post(&tenant.path("/activate"), &stack.operator_token(), &json!({})).await.expect(200);
    let guest = address("guest");
    let body = json!({ "email": guest, "role": "admin" });
    stack.post(&tenant.path("/invitations"), &stack.operator_token(), &body).await.expect(201);
    let token = mail.received(&guest, 1).await.remove(0).token().to_owned();
    accept(&stack, &token).await.expect(200);
    mail.received(&guest, 2).await;
    mail.quiet(&stack).await;
    let before: Vec<(String, String)> = mail.all().iter().map(|mail| (mail.header().to_owned(), mail.subject().to_owned())).collect();

    assert!(stack.stop(NOTIFIER));
    forget_position(&stack, Consumer::Notifications).await;
    stack.start_again(NOTIFIER, &[]);
    let next = address("guest");
    invite(&stack, &tenant, &next).await;
    // It comes after everything that came again.
    mail.received(&next, 1).await;
    mail.quiet(&stack).await;
    let after: Vec<(String, String)> = mail.all().iter().map(|mail| (mail.header().to_owned(), mail.subject().to_owned())).collect();
    let more: Vec<_> = after[before.len()..].iter().filter(|(header, _)| !header.contains(&next)).collect();
    assert!(more.is_empty(), "{more:?}");
    assert!(by_id(&mail).values().all(|count| *count == 1), "{:?}", by_id(&mail));
    assert_eq!(dead_letters(&stack).await, 0);
}
