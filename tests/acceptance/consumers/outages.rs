//! A mail server that is away, or says no.

use chancery::role::Consumer;

use super::{address, audited, followed, invite, ledger, mail_server::MailServer, rename, tenant};
use crate::harness::{Stack, wait_until};

const CONSUMERS: [Consumer; 3] = [Consumer::Notifications, Consumer::Onboarding, Consumer::Audit];

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_waits_for_its_server_and_nothing_waits_for_the_mail() {
    let mut mail = MailServer::reserved();
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    let guest = address("guest");
    let invitation = invite(&stack, &tenant, &guest).await;
    wait_until("the mail stands in the ledger", async || ledger(&stack, &invitation).await.is_some()).await;
    wait_until("the notifier says that it waits", async || stack.log("notifications").contains("mails wait")).await;
    for number in 0..5 {
        rename(&stack, &tenant, &format!("Name {number}")).await;
    }
    // Every event is acknowledged by all of them although no mail can leave.
    audited(&stack).await;
    followed(&stack, Consumer::Notifications).await;
    assert_eq!(ledger(&stack, &invitation).await, Some(("pending".into(), 0)));

    mail.go().await;
    mail.received(&guest, 1).await;
    mail.quiet(&stack).await;
    assert_eq!(mail.to(&guest).len(), 1, "once");
    assert_eq!(ledger(&stack, &invitation).await, Some(("sent".into(), 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_address_is_undeliverable_a_later_one_is_tried_again_and_the_others_get_their_mail() {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let tenant = tenant(&stack).await;
    let guests = [address("refused"), address("later"), address("guest")];
    let mut invitations = Vec::new();
    for guest in &guests {
        invitations.push(invite(&stack, &tenant, guest).await);
    }
    mail.received(&guests[1], 1).await;
    mail.received(&guests[2], 1).await;
    mail.quiet(&stack).await;
    assert_eq!(ledger(&stack, &invitations[0]).await, Some(("undeliverable".into(), 1)), "not tried again");
    assert_eq!(ledger(&stack, &invitations[1]).await, Some(("sent".into(), 2)), "refused for now, then taken");
    assert_eq!(ledger(&stack, &invitations[2]).await, Some(("sent".into(), 1)));
    assert_eq!(guests.each_ref().map(|guest| mail.to(guest).len()), [0, 1, 1]);
    let log = stack.log("notifications");
    guests.iter().for_each(|guest| assert!(!log.contains(guest.as_str()), "the log names nobody"));
}
