//! Who is told what: every rule over HTTP and a real mail server, and nobody anything else.

use std::collections::BTreeMap;

use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};
use subjects::timestamp;
use time::{Duration, OffsetDateTime};

use super::{Tenant, accept, address, count, events_of, fresh, mail_server::MailServer};
use crate::harness::{Answer, Stack, wait_until};

pub(super) const CONSUMERS: [Consumer; 2] = [Consumer::Notifications, Consumer::Onboarding];

/// A person of a tenant.
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
}

/// A tenant of a plan, with its owner.
pub(crate) async fn tenant_of(stack: &Stack, plan: &str) -> (Tenant, Person) {
    let slug = fresh("t");
    let email = format!("{slug}@example.com");
    let body = json!({ "slug": slug, "name": "Acme", "plan": plan, "owner": { "email": email, "fullName": "Own Er" } });
    let id = stack.post("/v1/tenants", &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    let members = stack.get(&format!("/v1/tenants/{id}/members"), &stack.operator_token()).await.expect(200);
    let owner = members.text_at("/items/0/userId");
    (Tenant { id, owner: owner.clone(), email: email.clone() }, Person { id: owner, email })
}

/// Somebody new whose home the tenant is.
pub(crate) async fn person(stack: &Stack, tenant: &Tenant, what: &str) -> Person {
    let email = address(what);
    let body = json!({ "email": email, "fullName": format!("Somebody {what}"), "role": "member" });
    let id = stack.post(&tenant.path("/users"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    Person { id, email }
}

/// What somebody does in their tenant.
pub(crate) async fn act(stack: &Stack, tenant: &Tenant, who: &str, method: Method, path: &str, body: &Value) -> Answer {
    stack.call(method, &tenant.path(path), &stack.token(who, &tenant.id, ""), &[], body).await
}

pub(super) async fn operate(stack: &Stack, tenant: &Tenant, path: &str, body: &Value) {
    stack.post(&tenant.path(path), &stack.operator_token(), body).await.expect(200);
}

/// Every mail: address and subject, sorted.
fn told(mail: &MailServer) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mail in mail.all() {
        told.entry(mail.recipients()[0].to_owned()).or_default().push(mail.subject().to_owned());
    }
    told.values_mut().for_each(|subjects| subjects.sort());
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_tells_whom_it_names_once_and_nobody_else() {
    let mail = MailServer::start().await;
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut expect = |who: &str, subjects: &[&str]| expected.entry(who.into()).or_default().extend(subjects.iter().map(|s| (*s).to_owned()));
    expect(&owner.email, &["Welcome to Chancery", "Acme is ready", "Welcome to Acme"]);

    let mut people = Vec::new();
    for what in ["ada", "bob", "cleo", "dan", "eve", "fay"] {
        people.push(person(&stack, &tenant, what).await);
        expect(&people.last().unwrap().email, &["Welcome to Chancery", "Welcome to Acme"]);
    }
    let [ada, bob, cleo, dan, eve, fay] = people.as_slice() else { unreachable!() };

    // Roles, and what a role makes them hear later.
    act(&stack, &tenant, &owner.id, Method::POST, &format!("/members/{}/role", ada.id), &json!({ "role": "admin" })).await.expect(200);
    expect(&ada.email, &["Your role at Acme was changed"]);

    // Profiles, while it is switched off, on, and off again.
    let rename = async |name: &str| {
        act(&stack, &tenant, &owner.id, Method::PATCH, &format!("/users/{}", bob.id), &json!({ "fullName": name })).await.expect(200);
    };
    let switch = async |on: bool| {
        let settings = json!({ "settings": { "notifyProfileUpdated": on, "notifyInvitationExpired": on } });
        act(&stack, &tenant, &owner.id, Method::PATCH, "", &settings).await.expect(200);
    };
    rename("Bob One").await;
    switch(true).await;
    rename("Bob Two").await;
    expect(&bob.email, &["Your profile was changed"]);

    // Invitations: a guest with a team, and one that nobody answers.
    let team = act(&stack, &tenant, &owner.id, Method::POST, "/teams", &json!({ "name": "Design" })).await.expect(201).text_at("/aggregateId");
    let guest = address("guest");
    let body = json!({ "email": guest, "role": "member", "teamIds": [team] });
    act(&stack, &tenant, &ada.id, Method::POST, "/invitations", &body).await.expect(201);
    let soon = timestamp::format(OffsetDateTime::now_utc() + Duration::seconds(2));
    let body = json!({ "email": address("nobody"), "invitationType": "link", "expiresAt": soon });
    let unanswered = act(&stack, &tenant, &ada.id, Method::POST, "/invitations", &body).await.expect(201).text_at("/aggregateId");
    accept(&stack, mail.received(&guest, 1).await.remove(0).token()).await.expect(200);
    expect(&guest, &["Invitation to Acme", "Welcome to Acme"]);
    wait_until("it has expired", async || events_of(&stack, &unanswered, "invitation.expired").await == 1).await;
    expect(&ada.email, &["Your invitation was accepted", "Your invitation has expired"]);
    switch(false).await;
    rename("Bob Three").await;

    // Teams: once for each who was not in it.
    let members = format!("/teams/{team}/members");
    act(&stack, &tenant, &owner.id, Method::POST, &members, &json!({ "userIds": [ada.id, fay.id] })).await.expect(200);
    act(&stack, &tenant, &owner.id, Method::POST, &members, &json!({ "userIds": [fay.id] })).await.expect(200);
    expect(&ada.email, &["You are in the team Design"]);
    expect(&fay.email, &["You are in the team Design"]);
    act(&stack, &tenant, &owner.id, Method::DELETE, &format!("{members}/{}", fay.id), &Value::Null).await.expect(200);

    // Accounts.
    for step in ["suspend", "reactivate", "deactivate"] {
        act(&stack, &tenant, &owner.id, Method::POST, &format!("/users/{}/{step}", bob.id), &json!({})).await.expect(200);
    }
    act(&stack, &tenant, &owner.id, Method::DELETE, &format!("/users/{}", bob.id), &Value::Null).await.expect(200);
    let deactivated = ["Your account was deactivated", "Security alert: your account was deactivated", "Your account was deleted"];
    expect(&bob.email, &["Your account was suspended", "Welcome back"]);
    expect(&bob.email, &deactivated);
    act(&stack, &tenant, &cleo.id, Method::POST, &format!("/users/{}/deactivate", cleo.id), &json!({})).await.expect(200);
    expect(&cleo.email, &deactivated[..1]);

    // Going, and being made to go.
    act(&stack, &tenant, &dan.id, Method::DELETE, "/members/me", &Value::Null).await.expect(200);
    act(&stack, &tenant, &ada.id, Method::DELETE, &format!("/members/{}", eve.id), &Value::Null).await.expect(200);
    expect(&dan.email, &["Goodbye from Acme"]);
    expect(&eve.email, &["You were removed from Acme"]);

    // The tenant itself: its managers, and everybody when it is suspended.
    let sso = json!({ "provider": "Keycloak", "issuer": "https://login.example", "clientId": "chancery" });
    act(&stack, &tenant, &ada.id, Method::PUT, "/sso", &sso).await.expect(200);
    act(&stack, &tenant, &ada.id, Method::DELETE, "/sso", &Value::Null).await.expect(200);
    act(&stack, &tenant, &owner.id, Method::POST, "/plan", &json!({ "plan": "professional" })).await.expect(200);
    operate(&stack, &tenant, "/suspend", &json!({ "reason": "unpaid" })).await;
    operate(&stack, &tenant, "/activate", &json!({})).await;
    operate(&stack, &tenant, "/suspend", &json!({})).await;
    operate(&stack, &tenant, "/cancel", &json!({})).await;
    for who in [&owner.email, &ada.email] {
        expect(who, &["Signing in to Acme was changed", "Single sign-on of Acme was switched off", "Acme has a new plan"]);
        expect(who, &["Acme is active again", "Acme was cancelled"]);
    }
    for who in [&owner.email, &ada.email, &cleo.email, &fay.email, &guest] {
        expect(who, &["Acme was suspended", "Acme was suspended"]);
    }

    let expected: BTreeMap<String, Vec<String>> = expected
        .into_iter()
        .map(|(who, mut subjects)| {
            (who, {
                subjects.sort();
                subjects
            })
        })
        .collect();
    let number: usize = expected.values().map(Vec::len).sum();
    wait_until("all mails", async || mail.all().len() >= number).await;
    mail.quiet(&stack).await;
    assert_eq!(told(&mail), expected);
    let by_ada = mail.to(&ada.email).into_iter().find(|mail| mail.subject().contains("role")).unwrap();
    assert!(by_ada.text().contains("was member and is now admin. It was changed by Own Er."), "{}", by_ada.text());

    // The notifier keeps no copy of what it needs no more.
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.ledger WHERE coalesce(address, name, context::text) IS NOT NULL").await, 0);
    let id: subjects::UserId = bob.id.parse().unwrap();
    let sql = "SELECT count(*) FROM notifications.people p FULL JOIN notifications.members m USING (user_id)
         WHERE user_id = $1 AND coalesce(p.email, p.full_name, m.email) IS NOT NULL";
    assert_eq!(stack.db().await.query_one(sql, &[&id.uuid()]).await.unwrap().get::<_, i64>(0), 0);
    // The log names everybody whom the tenant still knows, and nobody else.
    let log = stack.get(&tenant.path("/notifications?pageSize=100"), &stack.operator_token()).await.expect(200);
    assert_eq!(log.body["total"].as_u64(), Some(number as u64), "{}", log.text);
    assert!(log.text.contains(&ada.email) && log.text.contains(&guest) && !log.text.contains(&bob.email), "{}", log.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_mail_to_somebody_deleted_keeps_the_address_until_it_has_left_and_no_longer() {
    let mut mail = MailServer::reserved();
    let stack = Stack::builder().consumers(&CONSUMERS).env("CHANCERY_MAIL", mail.url()).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let (tenant, owner) = tenant_of(&stack, "starter").await;
    let mut gone = Vec::new();
    for what in ["gone", "refused"] {
        let person = person(&stack, &tenant, what).await;
        act(&stack, &tenant, &owner.id, Method::POST, &format!("/users/{}/deactivate", person.id), &json!({})).await.expect(200);
        act(&stack, &tenant, &owner.id, Method::DELETE, &format!("/users/{}", person.id), &Value::Null).await.expect(200);
        gone.push(person);
    }
    let copies = |state: &'static str| {
        format!(
            "SELECT count(*) FROM notifications.ledger WHERE effect = 'user_deleted' AND state = '{state}' AND (address IS NULL) = (state <> 'pending')"
        )
    };
    wait_until("the last mails wait, with their addresses", async || count(&stack, &copies("pending")).await == 2).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM notifications.people WHERE gone AND email IS NOT NULL").await, 0);
    mail.go().await;
    mail.received(&gone[0].email, 5).await;
    mail.quiet(&stack).await;
    let last = mail.to(&gone[0].email);
    assert_eq!(last.iter().filter(|mail| mail.subject() == "Your account was deleted").count(), 1, "{last:?}");
    assert_eq!((count(&stack, &copies("sent")).await, count(&stack, &copies("undeliverable")).await), (1, 1));
    assert!(mail.to(&gone[1].email).is_empty());
}
