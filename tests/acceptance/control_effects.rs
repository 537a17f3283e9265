//! What an operator has sent again: counted first, once more each, and only for who has a ledger. What the kit's ledger does, the example tests.

use std::collections::HashSet;

use chancery::role::Consumer as Ours;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    consumers::{
        count,
        mail_server::MailServer,
        telling::{act, person, tenant_of},
        tenant,
    },
    control::mailed,
    harness::Stack,
    letters::{Consumer, PICKY, renamed},
    recovery::{Ran, run_with},
};

/// `chancery consumer replay` of everything, with effects and these arguments, killed at a point.
async fn replay(stack: &Stack, name: &str, arguments: &[&str], killed_at: Option<&str>) -> Ran {
    let point = killed_at.map(|point| format!("{point}=abort"));
    let environment: Vec<(&str, &str)> = point.iter().map(|point| ("CHANCERY_FAILPOINT", point.as_str())).collect();
    run_with(stack, &[&["consumer", "replay", name, "--from", "start", "--effects"], arguments].concat(), &environment).await
}

/// The number that it said.
fn number(said: &Ran) -> String {
    said.out.split("--replay ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{said:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_are_sent_again_with_another_id_once_and_only_when_that_is_meant() {
    let (mail, stack, guest) = mailed().await;
    let before = mail.all();
    // As old as a mail can be: an operator who says so means it.
    count(&stack, "WITH old AS (UPDATE notifications.ledger SET created_at = now() - interval '90 days' RETURNING 1) SELECT count(*) FROM old").await;

    let dry = replay(&stack, "notifications", &["--dry-run"], None).await.expect(0);
    assert!(dry.out.contains("  invitation  sent  1\n") && dry.out.contains("nothing is done"), "{}", dry.out);
    let asked = replay(&stack, "notifications", &[], None).await.expect(1);
    assert!(asked.out.contains(&format!("{} effects would be sent again", before.len())), "{}", asked.out);
    let again = ["--yes", "--replay", &number(&asked)];
    replay(&stack, "notifications", &again, Some("consumer_effects_before_commit")).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.ledger WHERE replay > 0 OR state = 'pending'").await, 0, "all or nothing");
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_actions").await, 0);

    replay(&stack, "notifications", &again, Some("consumer_effects_committed")).await;
    mail.received(&guest, 2).await;
    mail.quiet(&stack).await;
    let repeated = replay(&stack, "notifications", &again, None).await.expect(0);
    assert!(repeated.out.contains("was done before"), "{}", repeated.out);
    mail.quiet(&stack).await;
    let after = mail.all();
    assert_eq!(after.len(), 2 * before.len());
    let ids: HashSet<&str> = after.iter().map(|mail| mail.id()).collect();
    assert_eq!(ids.len(), after.len(), "no mail server takes one for another");
    for first in &before {
        let same = |mail: &&crate::consumers::mail_server::Received| {
            mail.subject() == first.subject() && mail.recipients() == first.recipients() && mail.text() == first.text()
        };
        assert_eq!(after.iter().filter(same).count(), 2 * before.iter().filter(same).count(), "{first:?}");
    }
    let erased =
        "SELECT count(*) FROM notifications.ledger WHERE state = 'sent' AND (address IS NOT NULL OR context IS NOT NULL OR name IS NOT NULL)";
    assert_eq!(count(&stack, erased).await, 0);
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_actions WHERE action = 'replay' AND what LIKE 'with effects, %'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_deleted_is_told_nothing_again_and_too_much_at_once_is_refused() {
    let mail = MailServer::start().await;
    let consumers = [Ours::Notifications, Ours::Onboarding];
    let stack = Stack::builder().consumers(&consumers).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let (stays, goes) = (person(&stack, &tenant, "stays").await, person(&stack, &tenant, "goes").await);
    mail.received(&goes.email, 2).await;
    mail.received(&stays.email, 2).await;
    act(&stack, &tenant, &owner.id, Method::POST, &format!("/users/{}/deactivate", goes.id), &json!({})).await.expect(200);
    act(&stack, &tenant, &owner.id, Method::DELETE, &format!("/users/{}", goes.id), &Value::Null).await.expect(200);
    mail.received(&goes.email, 5).await;
    mail.quiet(&stack).await;
    let (all, told) = (mail.all().len(), mail.to(&goes.email).len());

    let asked = replay(&stack, "notifications", &[], None).await.expect(1);
    let said = format!("{} effects would be sent again as replay {}; {told} are not: out of reach by now", all - told, number(&asked));
    assert!(asked.out.contains(&said), "{said}: {}", asked.out);
    replay(&stack, "notifications", &["--yes", "--replay", &number(&asked)], None).await.expect(0);
    mail.received(&stays.email, 4).await;
    mail.quiet(&stack).await;
    assert_eq!((mail.all().len(), mail.to(&goes.email).len()), (2 * all - told, told));

    let many = "INSERT INTO notifications.ledger (event_id, effect, recipient, tenant_id, state)
         SELECT event_id, effect, 'nobody_' || n, tenant_id, 'sent' FROM (SELECT * FROM notifications.ledger LIMIT 1) l, generate_series(1, 100000) n";
    stack.db().await.batch_execute(many).await.unwrap();
    let refused = replay(&stack, "notifications", &["--yes"], None).await.expect(1);
    assert!(refused.err.contains("more than the 100000 that one command sends again; take a smaller range"), "{}", refused.err);
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.ledger WHERE state = 'pending'").await, 0, "some of it was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_a_ledger_is_refused() {
    let stack = Stack::builder().consumers(&[Ours::Audit]).start().await;
    let tenant = tenant(&stack).await;
    let _picky = Consumer::start(&stack, PICKY).await;
    renamed(&stack, &tenant, "First").await;
    for name in ["picky", "audit"] {
        let refused = replay(&stack, name, &["--yes"], None).await.expect(1);
        assert!(refused.err.contains("has no ledger"), "{}", refused.err);
    }
    replay(&stack, "audit", &["--yes", "--dry-run"], None).await.expect(2);
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_actions").await, 0);
}
