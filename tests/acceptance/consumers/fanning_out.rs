//! What many are told, and what may not go out yet: nothing is lost, nothing comes twice, and nobody else waits.

use chancery::role::Consumer;
use hyper::Method;
use serde_json::json;

use super::{
    Tenant, count, followed, fresh,
    mail_server::MailServer,
    telling::{CONSUMERS, Person, act, operate, person, tenant_of},
};
use crate::harness::{Stack, wait_until};

const NOTIFIER: &str = "notifications";
const SUSPENDED: &str = "Acme was suspended";

/// How many were told of the suspension; never one of them twice.
fn told(mail: &MailServer) -> usize {
    let mut whom: Vec<String> = mail.all().iter().filter(|mail| mail.subject() == SUSPENDED).map(|mail| mail.recipients()[0].to_owned()).collect();
    let number = whom.len();
    whom.sort();
    whom.dedup();
    assert_eq!(whom.len(), number, "somebody was told twice");
    number
}

async fn people(stack: &Stack, tenant: &Tenant, number: usize) -> Vec<Person> {
    let mut people = Vec::new();
    for _ in 0..number {
        people.push(person(stack, tenant, "m").await);
    }
    people
}

/// An hour passes.
async fn hour(stack: &Stack) {
    let sql = "UPDATE notifications.ledger SET intent_at = intent_at - interval '1 hour',
         next_at = CASE WHEN state = 'pending' THEN least(next_at, now()) ELSE next_at END";
    stack.db().await.execute(sql, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_out_killed_in_the_middle_goes_on_where_it_was_and_tells_everybody_once() {
    let mail = MailServer::start().await;
    let page = ("CHANCERY_MAIL_PAGE", "4");
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env(page.0, page.1).start().await;
    let (tenant, _) = tenant_of(&stack, "starter").await;
    let people = people(&stack, &tenant, 17).await;
    mail.received(&people[16].email, 2).await;
    mail.quiet(&stack).await;
    stack.kill9(NOTIFIER);
    operate(&stack, &tenant, "/suspend", &json!({ "reason": "unpaid" })).await;
    // Before the event is written down; in the second page after it, not committed; after the third one's commit.
    for point in ["notifications_before_commit=abort", "notifications_page=abort@2", "notifications_paged=abort"] {
        let notifier = stack.process(NOTIFIER);
        notifier.set("CHANCERY_FAILPOINT", point);
        notifier.start();
        wait_until(&format!("the notifier dies at {point}"), async || stack.process(NOTIFIER).ended().is_some()).await;
        assert!(told(&mail) < 18, "{point}: nobody is left to be told");
    }
    assert!(told(&mail) >= 4, "a page was told before the end of the last one");
    stack.start_again(NOTIFIER, &[("CHANCERY_FAILPOINT", "")]);
    wait_until("everybody is told", async || told(&mail) >= 18).await;
    mail.quiet(&stack).await;
    assert_eq!(told(&mail), 18);
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.fanouts WHERE done_at IS NULL").await, 0);
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.ledger WHERE doubts > 0").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_tenants_hour_waits_and_holds_up_no_other_tenant() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let (tenant, _) = tenant_of(&stack, "starter").await;
    let people = people(&stack, &tenant, 11).await;
    mail.received(&people[10].email, 2).await;
    mail.quiet(&stack).await;
    assert!(stack.stop(NOTIFIER));
    hour(&stack).await;
    stack.start_again(NOTIFIER, &[("CHANCERY_MAILS_PER_TENANT_HOUR", "5"), ("CHANCERY_MAIL_PAGE", "4")]);
    operate(&stack, &tenant, "/suspend", &json!({})).await;
    for expected in [5, 10] {
        wait_until("the hour is full", async || told(&mail) >= expected).await;
        wait_until("the rest says why it waits", async || {
            let waiting = "SELECT count(*) FROM notifications.ledger WHERE state = 'pending' AND next_at > now() + interval '1 minute'
                 AND error = 'the hourly limit is reached'";
            count(&stack, waiting).await > 0
        })
        .await;
        // Another tenant's mails leave, and every event is acknowledged.
        let (_, other) = tenant_of(&stack, "starter").await;
        mail.received(&other.email, 3).await;
        followed(&stack, Consumer::Notifications).await;
        assert_eq!(told(&mail), expected);
        hour(&stack).await;
    }
    wait_until("everybody is told", async || told(&mail) >= 12).await;
    mail.quiet(&stack).await;
    assert_eq!(told(&mail), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_persons_hour_waits_and_others_of_the_tenant_do_not() {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_MAILS_PER_USER_HOUR", 3).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let ann = person(&stack, &tenant, "ann").await;
    mail.received(&ann.email, 2).await;
    for role in ["admin", "readonly"] {
        act(&stack, &tenant, &owner.id, Method::POST, &format!("/members/{}/role", ann.id), &json!({ "role": role })).await.expect(200);
    }
    let bea = person(&stack, &tenant, "bea").await;
    mail.received(&bea.email, 2).await;
    mail.received(&ann.email, 3).await;
    let waiting = "SELECT count(*) FROM notifications.ledger WHERE state = 'pending' AND error = 'the hourly limit is reached'";
    wait_until("the fourth waits", async || count(&stack, waiting).await == 1).await;
    assert_eq!(mail.to(&ann.email).len(), 3);
    hour(&stack).await;
    mail.received(&ann.email, 4).await;
    mail.quiet(&stack).await;
    assert_eq!(mail.to(&ann.email).len(), 4);
}

/// The members are written into the notifier's own tables: ten thousand acceptances would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_members_told_of_a_suspension_fill_no_ledger_and_hold_up_nobody() {
    let mail = MailServer::start().await;
    let mut stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let (tenant, owner) = tenant_of(&stack, "enterprise").await;
    mail.received(&owner.email, 3).await;
    mail.quiet(&stack).await;
    assert!(stack.stop(NOTIFIER));
    let (id, name) = (tenant.uuid(), fresh("k"));
    let sql = "INSERT INTO notifications.members (tenant_id, user_id, email, role, role_seq, active, active_seq)
         SELECT $1, gen_random_uuid(), $2 || n || '@example.com', 'member', 1, true, 1 FROM generate_series(1, 10000) n";
    stack.db().await.execute(sql, &[&id, &name]).await.unwrap();
    stack.start_again(NOTIFIER, &[("CHANCERY_MAILS_PER_TENANT_HOUR", "50")]);
    operate(&stack, &tenant, "/suspend", &json!({})).await;
    // Three mails of this hour have welcomed the owner.
    wait_until("the hour is full", async || told(&mail) >= 47).await;
    let (_, other) = tenant_of(&stack, "starter").await;
    mail.received(&other.email, 3).await;
    followed(&stack, Consumer::Notifications).await;
    let entered = "SELECT count(*) FROM notifications.ledger WHERE effect = 'tenant_suspended'";
    assert!(count(&stack, entered).await <= 1_000, "no more than may go out soon is entered ahead");
    assert_eq!(told(&mail), 47);
    let not_put_off = format!("{entered} AND state = 'pending' AND error IS DISTINCT FROM 'the hourly limit is reached'");
    wait_until("all that wait are put off", async || count(&stack, &not_put_off).await == 0).await;
    let looks = stack.log(NOTIFIER).matches("the hourly limit is reached").count();
    assert!((1..100).contains(&looks), "hundreds wait, and were looked at {looks} times");
    assert!(stack.stop(NOTIFIER));
    stack.start_again(NOTIFIER, &[("CHANCERY_MAILS_PER_TENANT_HOUR", "1000000"), ("CHANCERY_MAIL_PAGE", "5000")]);
    hour(&stack).await;
    wait_until("the next ones are told", async || told(&mail) >= 600).await;
}
