//! The reactor that repeats in every guest tenant what a user's home tenant did.

use chancery::role::{Consumer, Role};
use hyper::Method;
use serde_json::{Value, json};
use subjects::{UserId, header, stream as names};

use super::{Tenant, address, dead_letters, followed, forget_position, tenant};
use crate::{
    harness::{Builder, Stack, wait_until},
    pipeline::without_duplicate_window,
};

const REACTOR: &str = "guests";

/// Small pages, so that a few tenants are several; nobody waits before a user may be deleted.
fn stack() -> Builder {
    Stack::builder()
        .consumers(&[Consumer::Guests])
        .env("CHANCERY_REACTION_PAGE", 4)
        .env("CHANCERY_REACTIONS_AT_ONCE", 2)
        .env("CHANCERY_SOFT_DELETION_S", 0)
        .env("CHANCERY_PUBLIC_RATE_PER_MINUTE", 100_000)
}

/// A user whose home is this tenant: id and address.
async fn user(stack: &Stack, home: &Tenant) -> (String, String) {
    let email = address("guest");
    let body = json!({ "email": email, "fullName": "Gus Guest", "role": "member" });
    (stack.post(&home.path("/users"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId"), email)
}

/// Makes a user of another tenant a guest of this one, as an admin.
async fn join(stack: &Stack, home: &Tenant, (user, email): &(String, String), guest: &Tenant) {
    let body = json!({ "email": email, "invitationType": "link", "role": "admin" });
    let link = stack.post(&guest.path("/invitations"), &stack.operator_token(), &body).await.expect(201).text_at("/link");
    let token = link.split_once("#token=").unwrap().1;
    stack.post("/v1/invitations/accept", &stack.token(user, &home.id, ""), &json!({ "token": token })).await.expect(200);
}

async fn tenants(stack: &Stack, number: usize) -> Vec<Tenant> {
    let mut made = Vec::new();
    for _ in 0..number {
        made.push(tenant(stack).await);
    }
    made
}

/// Something the home tenant does to a user.
async fn at_home(stack: &Stack, home: &Tenant, user: &str, what: &str) {
    stack.post(&home.path(&format!("/users/{user}/{what}")), &stack.operator_token(), &json!({})).await.expect(200);
}

async fn delete(stack: &Stack, home: &Tenant, user: &str) {
    stack.call(Method::DELETE, &home.path(&format!("/users/{user}")), &stack.operator_token(), &[], &Value::Null).await.expect(200);
}

/// How a tenant shows a member: `active`, `suspended`, or nothing.
async fn state(stack: &Stack, tenant: &Tenant, user: &str) -> Option<String> {
    let answer = stack.get(&tenant.path(&format!("/members/{user}")), &stack.operator_token()).await;
    (answer.status == 200).then(|| answer.text_at("/state"))
}

async fn shown_everywhere(stack: &Stack, tenants: &[Tenant], user: &str, wanted: Option<&str>) {
    for tenant in tenants {
        wait_until(&format!("{wanted:?} in every tenant"), async || state(stack, tenant, user).await.as_deref() == wanted).await;
    }
}

/// How often an event of this type happened to a user's memberships.
async fn told(stack: &Stack, user: &str, event_type: &str) -> i64 {
    let id = user.parse::<UserId>().unwrap().uuid();
    let sql = "SELECT count(*) FROM events WHERE kind = 'membership' AND aggregate_id = $1 AND type = $2";
    stack.db().await.query_one(sql, &[&id, &event_type]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_home_tenant_does_reaches_every_tenant_where_the_user_is_a_guest() {
    let stack = stack().start().await;
    let (home, guests) = (tenant(&stack).await, tenants(&stack, 6).await);
    let person = user(&stack, &home).await;
    for guest in &guests {
        join(&stack, &home, &person, guest).await;
    }
    let id = person.0.as_str();
    let token = stack.token(id, &home.id, "");
    let (invitations, body) = (guests[5].path("/invitations"), || json!({ "email": address("any"), "role": "member" }));
    stack.post(&invitations, &token, &body()).await.expect(201);

    at_home(&stack, &home, id, "suspend").await;
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    followed(&stack, Consumer::Guests).await;
    // The gateway may remember a role for a second; the worker does not.
    assert_eq!(stack.post(&invitations, &token, &body()).await.expect(403).text_at("/code"), "forbidden");
    let me = guests[5].path("/members/me");
    stack.call(Method::DELETE, &me, &token, &[], &Value::Null).await.expect(403);
    let role = guests[5].path(&format!("/members/{}/role", guests[5].owner));
    stack.post(&role, &token, &json!({ "role": "readonly" })).await.expect(403);
    wait_until("it reads nothing", async || stack.get(&guests[5].path("/members"), &token).await.status == 403).await;
    assert_eq!(told(&stack, id, "tenant.member_suspended").await, 6, "the home tenant's own membership is not among them");

    at_home(&stack, &home, id, "reactivate").await;
    shown_everywhere(&stack, &guests, id, Some("active")).await;
    wait_until("it reads again", async || stack.get(&guests[5].path("/members"), &token).await.status == 200).await;
    stack.post(&invitations, &token, &body()).await.expect(201);

    at_home(&stack, &home, id, "deactivate").await;
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    delete(&stack, &home, id).await;
    shown_everywhere(&stack, &guests, id, None).await;
    followed(&stack, Consumer::Guests).await;
    assert_eq!((told(&stack, id, "tenant.member_reactivated").await, told(&stack, id, "tenant.member_removed").await), (6, 7));
    let sql = "SELECT DISTINCT body -> 'data' ->> 'reason' FROM events WHERE type = 'tenant.member_removed'";
    let reasons: Vec<String> = stack.db().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, ["user_deleted"]);
    assert_eq!(dead_letters(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_out_that_is_killed_in_the_middle_misses_nothing_and_doubles_nothing() {
    let mut stack = stack().start().await;
    without_duplicate_window(&stack).await;
    let (home, guests) = (tenant(&stack).await, tenants(&stack, 10).await);
    let person = user(&stack, &home).await;
    for guest in &guests {
        join(&stack, &home, &person, guest).await;
    }
    let id = person.0.as_str();
    followed(&stack, Consumer::Guests).await;
    assert!(stack.stop(REACTOR));
    // Twice in the middle of a page, whichever that is.
    for (n, point) in ["reaction_decided=abort@3", "reaction_decided=abort@4"].into_iter().enumerate() {
        if n == 0 {
            at_home(&stack, &home, id, "suspend").await;
        }
        let reactor = stack.process(REACTOR);
        reactor.set("CHANCERY_FAILPOINT", point);
        reactor.start();
        wait_until("the reactor dies", async || stack.process(REACTOR).ended().is_some()).await;
        let so_far = told(&stack, id, "tenant.member_suspended").await;
        assert!((1..10).contains(&so_far), "{so_far}: it was not in the middle");
    }
    stack.start_again(REACTOR, &[("CHANCERY_FAILPOINT", "")]);
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    followed(&stack, Consumer::Guests).await;
    assert_eq!(told(&stack, id, "tenant.member_suspended").await, 10);

    // Everything once more: nothing is news, also after the change is no longer what the home tenant says.
    at_home(&stack, &home, id, "reactivate").await;
    shown_everywhere(&stack, &guests, id, Some("active")).await;
    followed(&stack, Consumer::Guests).await;
    let before = (told(&stack, id, "tenant.member_suspended").await, told(&stack, id, "tenant.member_reactivated").await);
    assert_eq!(before, (10, 10));
    for inbox_is_kept in [true, false] {
        assert!(stack.stop(REACTOR));
        forget_position(&stack, Consumer::Guests).await;
        if !inbox_is_kept {
            stack.db().await.execute("DELETE FROM commands WHERE actor = 'system'", &[]).await.unwrap();
        }
        stack.start_again(REACTOR, &[]);
        followed(&stack, Consumer::Guests).await;
    }
    assert_eq!((told(&stack, id, "tenant.member_suspended").await, told(&stack, id, "tenant.member_reactivated").await), before);
    assert_eq!(dead_letters(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_quick_succession_end_as_the_home_tenant_says_though_two_reactors_share_them() {
    let mut stack = stack().workers(2).start().await;
    without_duplicate_window(&stack).await;
    stack.start_another("guests-2", Role::Consumer(Consumer::Guests), &[]);
    let (home, guests) = (tenant(&stack).await, tenants(&stack, 3).await);
    let mut people = Vec::new();
    for _ in 0..4 {
        let person = user(&stack, &home).await;
        for guest in &guests {
            join(&stack, &home, &person, guest).await;
        }
        people.push(person);
    }
    // Not one by one: all that happened to one of them is on its way at the same time.
    for round in 0..6 {
        for (n, (id, _)) in people.iter().enumerate() {
            if round < 4 + n % 2 {
                at_home(&stack, &home, id, if round % 2 == 0 { "suspend" } else { "reactivate" }).await;
            }
        }
    }
    followed(&stack, Consumer::Guests).await;
    for (n, (id, _)) in people.iter().enumerate() {
        shown_everywhere(&stack, &guests, id, Some(if n % 2 == 0 { "active" } else { "suspended" })).await;
    }
    assert_eq!(dead_letters(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_as_a_guest_while_their_home_shuts_them_out_is_suspended_there_too() {
    let mut stack = stack().start().await;
    let (home, guests) = (tenant(&stack).await, tenants(&stack, 2).await);
    let person = user(&stack, &home).await;
    let id = person.0.as_str();
    join(&stack, &home, &person, &guests[0]).await;
    at_home(&stack, &home, id, "suspend").await;
    shown_everywhere(&stack, &guests[..1], id, Some("suspended")).await;
    followed(&stack, Consumer::Guests).await;
    // The suspension has been repeated everywhere when this membership begins.
    join(&stack, &home, &person, &guests[1]).await;
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    // And a guest who was removed and comes back is looked at again.
    let member = guests[0].path(&format!("/members/{id}"));
    stack.call(Method::DELETE, &member, &stack.operator_token(), &[], &Value::Null).await.expect(200);
    join(&stack, &home, &person, &guests[0]).await;
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    at_home(&stack, &home, id, "reactivate").await;
    shown_everywhere(&stack, &guests, id, Some("active")).await;

    // Deleted before anybody looked at the last joining.
    followed(&stack, Consumer::Guests).await;
    let late = tenants(&stack, 1).await;
    assert!(stack.stop(REACTOR));
    join(&stack, &home, &person, &late[0]).await;
    at_home(&stack, &home, id, "deactivate").await;
    delete(&stack, &home, id).await;
    stack.start_again(REACTOR, &[]);
    shown_everywhere(&stack, &late, id, None).await;
    shown_everywhere(&stack, &guests, id, None).await;
    followed(&stack, Consumer::Guests).await;
    assert_eq!(dead_letters(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_put_aside_and_no_other_tenant_waits_for_it() {
    let stack = stack().start().await;
    let (home, guests) = (tenant(&stack).await, tenants(&stack, 5).await);
    let person = user(&stack, &home).await;
    for guest in &guests {
        join(&stack, &home, &person, guest).await;
    }
    let id = person.0.as_str();
    // A membership of a tenant that does not exist, before all the others.
    let uuid = id.parse::<UserId>().unwrap().uuid();
    let sql = "INSERT INTO aggregates (tenant_id, kind, id, version, schema_version, state, created_at, updated_at)
               VALUES ('00000000-0000-7000-8000-000000000001', 'membership', $1, 1, 1, '{\"active\": true, \"role\": \"member\"}', now(), now())";
    stack.db().await.execute(sql, &[&uuid]).await.unwrap();
    at_home(&stack, &home, id, "suspend").await;
    shown_everywhere(&stack, &guests, id, Some("suspended")).await;
    let letters = stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap();
    let subject = "dlq.guests.user.suspended";
    wait_until("it is put aside", async || letters.get_last_raw_message_by_subject(subject).await.is_ok()).await;
    let letter = letters.get_last_raw_message_by_subject(subject).await.unwrap();
    let head = |name: &str| letter.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    assert_eq!((head(header::REASON), head(header::ERROR)), ("poison".into(), "membership.suspend was refused: not_found".into()));
    followed(&stack, Consumer::Guests).await;
    assert_eq!(dead_letters(&stack).await, 1);
}
