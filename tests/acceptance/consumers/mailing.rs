//! From a POST to a letter box, and back with the token.

use std::collections::BTreeSet;

use chancery::role::Consumer;
use serde_json::{Value, json};

use super::{accept, address, count, events_of, invite, mail_server::MailServer, tenant};
use crate::harness::Stack;

const CONSUMERS: [Consumer; 2] = [Consumer::Notifications, Consumer::Onboarding];

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_goes_from_http_to_a_mail_and_its_token_makes_one_member() {
    let mail = MailServer::start().await;
    let public = "https://id.example";
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_PUBLIC_URL", public).start().await;
    let tenant = tenant(&stack).await;
    let guest = address("guest");
    let invitation = invite(&stack, &tenant, &guest).await;

    let received = mail.received(&guest, 1).await.remove(0);
    assert_eq!(received.content_type(), "multipart/alternative");
    assert!(received.header().contains(&guest) && received.subject().contains("Acme & Sons"), "{received:?}");
    assert!(received.text().contains("Acme & Sons invites you"), "{}", received.text());
    assert!(received.html().contains("Acme &amp; Sons invites you"), "{}", received.html());
    // Nothing before the fragment reaches a server or a log, and nothing there is about anybody.
    let (before, token) = received.link().split_once('#').unwrap();
    assert_eq!(before, format!("{public}/invite"));
    // A slash may be written as a character reference.
    assert!(
        received.html().replace("&#x2f;", "/").contains(&format!("href=\"{}\"", received.link())),
        "both parts have the same link: {}",
        received.html()
    );
    assert!(
        token.strip_prefix("token=").is_some_and(|token| token.len() == 43 && token.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
    );

    let shown = accept(&stack, received.token()).await.expect(200);
    assert!(shown.text_at("/accessToken").len() > 20, "whoever is new is let in");
    accept(&stack, received.token()).await.expect(409);
    let id: uuid::Uuid = tenant.uuid();
    let sql = "SELECT count(*) FROM aggregates WHERE tenant_id = $1 AND kind = 'membership'";
    let members: i64 = stack.db().await.query_one(sql, &[&id]).await.unwrap().get(0);
    assert_eq!(members, 2, "the owner and the guest");
    assert_eq!(events_of(&stack, &invitation, "invitation.accepted").await, 1);
    let listed = stack.get(&tenant.path("/members"), &stack.operator_token()).await.expect(200);
    assert_eq!(listed.body["total"], 2, "{}", listed.text);

    mail.received(&guest, 2).await;
    mail.quiet(&stack).await;
    let subjects: Vec<String> = mail.to(&guest).iter().map(|mail| mail.subject().to_owned()).collect();
    assert_eq!(subjects.len(), 2, "the invitation and one welcome: {subjects:?}");
    let ids: BTreeSet<String> = mail.all().iter().map(|mail| mail.id().to_owned()).collect();
    assert_eq!(ids.len(), mail.all().len(), "no mail came twice");
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.ledger WHERE coalesce(address, name, context::text) IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_ends_the_old_token_and_a_signed_in_guest_may_accept_twice() {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let (tenant, home) = (tenant(&stack).await, tenant(&stack).await);
    // The owner of another tenant has an account already.
    let invitation = invite(&stack, &tenant, &home.email).await;
    let invitations = async |number: usize| {
        let is_invitation = |mail: &super::mail_server::Received| mail.text().contains("#token=");
        crate::harness::wait_until("the invitation's mail", async || {
            mail.to(&home.email).iter().filter(|mail| is_invitation(mail)).count() >= number
        })
        .await;
        mail.to(&home.email).into_iter().filter(is_invitation).collect::<Vec<_>>()
    };
    let first = invitations(1).await.remove(0);
    stack.post(&tenant.path(&format!("/invitations/{invitation}/send")), &stack.operator_token(), &Value::Null).await.expect(200);
    let second = invitations(2).await.remove(1);
    assert_ne!((first.token(), first.id()), (second.token(), second.id()));

    let user = stack.token(&home.owner, &home.id, "");
    let accept_as_user = async |token: &str| stack.post("/v1/invitations/accept", &user, &json!({ "token": token })).await;
    assert_eq!(accept_as_user(first.token()).await.expect(409).text_at("/code"), "invalid_token");
    assert_eq!(accept(&stack, second.token()).await.expect(409).text_at("/code"), "sign_in_required");
    accept_as_user(second.token()).await.expect(200);
    let again = accept_as_user(second.token()).await.expect(200);
    assert_eq!(again.body["events"], json!([]), "already so: {}", again.text);
    assert_eq!(events_of(&stack, &invitation, "invitation.accepted").await, 1);
    assert_eq!(count(&stack, "SELECT count(*) FROM events WHERE type = 'tenant.member_joined'").await, 3, "two owners and the guest, once");
    mail.quiet(&stack).await;
    assert_eq!(invitations(2).await.len(), 2);
}
