//! The delivery log: what an administrator sees of the mails, and nobody else.

use serde_json::{Value, json};

use super::{
    address, connect_as, invite,
    mail_server::MailServer,
    telling::{CONSUMERS, act, person, tenant_of},
};
use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sees_what_was_undeliverable_and_another_tenant_sees_nothing_of_it() {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let (other, stranger) = tenant_of(&stack, "starter").await;
    let member = person(&stack, &tenant, "member").await;
    let (refused, guest) = (address("refused"), address("guest"));
    let invitation = invite(&stack, &tenant, &refused).await;
    invite(&stack, &tenant, &guest).await;
    mail.received(&guest, 1).await;
    mail.received(&stranger.email, 3).await;
    mail.received(&member.email, 2).await;
    mail.quiet(&stack).await;

    let log = async |query: &str| act(&stack, &tenant, &owner.id, hyper::Method::GET, &format!("/notifications{query}"), &Value::Null).await;
    let listed = log("?state=undeliverable").await.expect(200);
    assert_eq!(listed.body["total"], 1, "{}", listed.text);
    let item = &listed.body["items"][0];
    let shown = ["state", "eventType", "template", "criticality", "invitationId", "userId", "email", "attempts", "error", "nextAttemptAt"];
    let expected = json!([
        "undeliverable",
        "invitation.sent",
        "invitation",
        "medium",
        invitation,
        null,
        refused,
        1,
        "refused: the mail server answered 550",
        null
    ]);
    assert_eq!(Value::Array(shown.iter().map(|name| item[*name].clone()).collect()), expected, "{item}");
    assert!(item["endedAt"].is_string() && item.get("address").is_none() && item.get("context").is_none(), "{item}");

    // Seven in all: three to the owner, two to the member, two invitations.
    let total = async |query: &str| log(query).await.expect(200).body["total"].as_u64().unwrap();
    assert_eq!(total("").await, 7);
    assert_eq!((total("?state=sent").await, total("?template=invitation").await, total("?eventType=invitation.sent").await), (6, 2, 2));
    assert_eq!((total(&format!("?userId={}", member.id)).await, total("?from=2020-01-01T00:00:00Z").await), (2, 7));
    let oldest = log("?orderBy=createdAt&pageSize=1").await.expect(200);
    let newest = log("?pageSize=1").await.expect(200);
    assert!(oldest.text_at("/items/0/createdAt") <= newest.text_at("/items/0/createdAt") && newest.body["total"] == 7);
    assert_eq!(log("?address=x").await.expect(400).text_at("/code"), "malformed");

    assert_eq!(act(&stack, &tenant, &member.id, hyper::Method::GET, "/notifications", &Value::Null).await.expect(403).text_at("/code"), "forbidden");
    let path = tenant.path("/notifications");
    assert_eq!(stack.get(&path, &stack.token(&stranger.id, &other.id, "")).await.expect(404).text_at("/code"), "not_found");
    let theirs = act(&stack, &other, &stranger.id, hyper::Method::GET, "/notifications?pageSize=100", &Value::Null).await.expect(200);
    assert_eq!(theirs.body["total"], 3, "{}", theirs.text);
    assert!([&refused, &guest, &member.email, &owner.email].iter().all(|email| !theirs.text.contains(email.as_str())), "{}", theirs.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_reads_no_addresses_and_no_tenant_but_its_transactions_and_every_filter_has_its_index() {
    let stack = Stack::builder().start().await;
    let (tenant, _) = tenant_of(&stack, "starter").await;
    let sql = "INSERT INTO notifications.ledger (event_id, effect, recipient, tenant_id, event_type, state, created_at)
         SELECT gen_random_uuid(), 'member_welcome', 'user_' || gen_random_uuid(), CASE WHEN n % 2 = 0 THEN $1 ELSE gen_random_uuid() END,
             'tenant.member_joined', CASE WHEN n % 100 = 0 THEN 'undeliverable' ELSE 'sent' END, now() - n * interval '1 second'
         FROM generate_series(1, 20000) n";
    let db = stack.db().await;
    db.execute(sql, &[&tenant.uuid()]).await.unwrap();
    db.batch_execute("ANALYZE notifications.ledger").await.unwrap();

    let gateway = connect_as(&stack, chancery::role::Role::Gateway).await;
    let none: i64 = gateway.query_one("SELECT count(*) FROM notification_views", &[]).await.unwrap().get(0);
    assert_eq!(none, 0, "no tenant, no rows");
    let visible =
        async || -> i64 { gateway.query_one("SELECT count(*) FILTER (WHERE effect <> '') FROM notifications.ledger", &[]).await.unwrap().get(0) };
    assert_eq!(visible().await, 0);
    for column in ["address", "name", "context"] {
        let error = gateway.query(&format!("SELECT {column} FROM notifications.ledger"), &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{column}");
    }
    assert!(gateway.query("SELECT FROM notifications.members", &[]).await.is_err());
    gateway.execute("SELECT set_config('chancery.tenant', $1, false)", &[&tenant.uuid().to_string()]).await.unwrap();
    let own: i64 = gateway.query_one("SELECT count(*) FROM notification_views", &[]).await.unwrap().get(0);
    assert_eq!((own, visible().await), (10_000, 10_000));
    let filters = [
        ("", "ledger_log"),
        ("WHERE state = 'undeliverable'", "ledger_log_state"),
        ("WHERE recipient = 'user_x'", "ledger_log_recipient"),
        ("WHERE event_type = 'user.deleted'", "ledger_log_type"),
        ("WHERE effect = 'user_deleted'", "ledger_log_effect"),
    ];
    for (filter, index) in filters {
        let sql = format!("EXPLAIN SELECT doc::text FROM notification_views {filter} ORDER BY created_at DESC, id DESC LIMIT 20");
        let plan: Vec<String> = gateway.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(&format!("using {index} on")) && !plan.contains("Sort"), "{filter}: {plan}");
    }
}
