//! A notifier that is killed, and one that hears everything again: the ledger knows what was said.

use std::collections::BTreeMap;

use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};

use super::{
    accept, address, dead_letters, followed, forget_position, invite, ledger,
    mail_server::MailServer,
    telling::{act, operate, person, tenant_of},
    tenant,
};
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

/// Everything again from the first event, after changes that would put other people, or more of them, in the place of those who were told:
/// more managers, somebody who left and came back, an inviter who has become a member, switches that are on now.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_replay_of_notifications_sends_no_mail() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let (ann, bob) = (person(&stack, &tenant, "ann").await, person(&stack, &tenant, "bob").await);
    let by_owner = async |method: Method, path: &str, body: Value| act(&stack, &tenant, &owner.id, method, path, &body).await;
    // What nobody is told while it is switched off; what managers are told; what everybody is told.
    by_owner(Method::PATCH, &format!("/users/{}", ann.id), json!({ "fullName": "Ann Other" })).await.expect(200);
    by_owner(Method::POST, "/plan", json!({ "plan": "professional" })).await.expect(200);
    operate(&stack, &tenant, "/suspend", &json!({})).await;
    operate(&stack, &tenant, "/activate", &json!({})).await;
    let team = by_owner(Method::POST, "/teams", json!({ "name": "Design" })).await.expect(201).text_at("/aggregateId");
    by_owner(Method::POST, &format!("/teams/{team}/members"), json!({ "userIds": [ann.id, bob.id] })).await.expect(200);
    // An operator's invitation has no inviter among the members.
    let guest = address("guest");
    invite(&stack, &tenant, &guest).await;
    accept(&stack, mail.received(&guest, 1).await.remove(0).token()).await.expect(200);
    by_owner(Method::POST, &format!("/members/{}/role", bob.id), json!({ "role": "readonly" })).await.expect(200);
    by_owner(Method::DELETE, &format!("/members/{}", bob.id), Value::Null).await.expect(200);
    // Eve invites and is gone when it is accepted.
    let (eve, late) = (person(&stack, &tenant, "eve").await, address("late"));
    by_owner(Method::POST, &format!("/members/{}/role", eve.id), json!({ "role": "admin" })).await.expect(200);
    act(&stack, &tenant, &eve.id, Method::POST, "/invitations", &json!({ "email": late, "role": "member" })).await.expect(201);
    let token = mail.received(&late, 1).await.remove(0).token().to_owned();
    by_owner(Method::DELETE, &format!("/members/{}", eve.id), Value::Null).await.expect(200);
    accept(&stack, &token).await.expect(200);
    mail.quiet(&stack).await;
    for step in ["suspend", "deactivate"] {
        by_owner(Method::POST, &format!("/users/{}/{step}", ann.id), json!({})).await.expect(200);
    }
    // The changes.
    by_owner(Method::POST, &format!("/users/{}/reactivate", ann.id), json!({})).await.expect(200);
    by_owner(Method::POST, &format!("/members/{}/role", ann.id), json!({ "role": "admin" })).await.expect(200);
    for back in [&bob, &eve] {
        by_owner(Method::POST, "/members", json!({ "userId": back.id, "role": "admin" })).await.expect(201);
    }
    let settings = json!({ "settings": { "notifyProfileUpdated": true, "notifyInvitationExpired": true } });
    by_owner(Method::PATCH, "", settings).await.expect(200);
    let last = person(&stack, &tenant, "last").await;
    mail.received(&last.email, 2).await;
    mail.quiet(&stack).await;

    for round in 0..2 {
        let before: Vec<String> = mail.all().iter().map(|mail| format!("{} {}", mail.header(), mail.subject())).collect();
        let rows = super::count(&stack, "SELECT count(*) FROM notifications.ledger").await;
        assert!(stack.stop(NOTIFIER));
        forget_position(&stack, Consumer::Notifications).await;
        stack.start_again(NOTIFIER, &[]);
        mail.quiet(&stack).await;
        let after: Vec<String> = mail.all().iter().map(|mail| format!("{} {}", mail.header(), mail.subject())).collect();
        assert_eq!(after[before.len()..], [] as [String; 0]);
        assert_eq!(super::count(&stack, "SELECT count(*) FROM notifications.ledger").await, rows);
        // A deletion, so that the second time hears of somebody who is gone.
        if round == 1 {
            break;
        }
        for step in ["deactivate", ""] {
            let (method, path) = if step.is_empty() { (Method::DELETE, String::new()) } else { (Method::POST, format!("/{step}")) };
            act(&stack, &tenant, &owner.id, method, &format!("/users/{}{path}", last.id), &Value::Null).await.expect(200);
        }
        mail.received(&last.email, 5).await;
        mail.quiet(&stack).await;
    }
    assert!(by_id(&mail).values().all(|count| *count == 1), "{:?}", by_id(&mail));
    assert_eq!(dead_letters(&stack).await, 0);
}
