//! The history of one thing: its events in order, each with what the thing was before and after it.

use hyper::Method;
use serde_json::{Value, json};

use super::load::{Tenant, fresh, person, tenants};
use crate::harness::Stack;

async fn history(stack: &Stack, tenant: &Tenant, thing: &str, query: &str) -> Value {
    let token = stack.token(&tenant.owner, &tenant.id, "");
    stack.get(&format!("/v1/tenants/{}/{thing}/history{query}", tenant.id), &token).await.expect(200).body
}

/// Type, before and after of each.
fn told(page: &Value, pointer: &str) -> Vec<(String, Value, Value)> {
    let at = |item: &Value, side: &str| item[side].pointer(pointer).cloned().unwrap_or(Value::Null);
    let told = |item: &Value| (item["type"].as_str().unwrap().to_owned(), at(item, "before"), at(item, "after"));
    page["items"].as_array().unwrap().iter().map(told).collect()
}

fn row(event: &str, before: impl Into<Value>, after: impl Into<Value>) -> (String, Value, Value) {
    (event.to_owned(), before.into(), after.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_shows_what_a_thing_was_before_and_after_each_event() {
    let stack = Stack::builder().env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    let operator = stack.operator_token();
    let path = |rest: String| format!("/v1/tenants/{}/{rest}", tenant.id);
    let mut body = person(1);
    body["role"] = "member".into();
    let created = stack.post(&path("users".into()), &operator, &body).await.expect(201);
    let user = created.text_at("/aggregateId");
    stack.call(Method::PATCH, &path(format!("users/{user}")), &operator, &[], &json!({ "fullName": "Another Name" })).await.expect(200);
    stack.post(&path(format!("members/{user}/role")), &operator, &json!({ "role": "admin" })).await.expect(200);
    let address = json!({ "email": format!("{}@example.com", fresh("i")) });
    let invitation = stack.post(&path("invitations".into()), &operator, &address).await.expect(201).text_at("/aggregateId");
    let attribute = path(format!("invitations/{invitation}/attributes/a.b"));
    stack.call(Method::PUT, &attribute, &operator, &[], &json!({ "value": 7 })).await.expect(200);

    let page = history(&stack, &tenant, &format!("users/{user}"), "?orderBy=sequence").await;
    let nothing = Value::Null;
    assert_eq!(told(&page, "/fullName"), [row("user.created", nothing.clone(), "Person 1"), row("user.profile_updated", "Person 1", "Another Name")]);
    let first = &page["items"][0];
    assert_eq!((first["before"].clone(), page["total"].clone()), (nothing.clone(), json!(2)));
    assert_eq!(first["commandId"], created.text_at("/commandId"));
    assert_eq!(first["actor"], "svc_01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!((&first["aggregateVersion"], &first["data"]["fullName"]), (&json!(1), &json!("Person 1")));
    assert!(first["timestamp"].is_string() && first["sequence"].is_u64() && first["correlationId"].is_string(), "{first}");

    let page = history(&stack, &tenant, &format!("members/{user}"), "?orderBy=sequence").await;
    let expected = [
        row("tenant.member_joined", nothing.clone(), "member"),
        row("role.assignment_attempted", "member", "member"),
        row("role.assignment_succeeded", "member", "member"),
        row("tenant.member_role_changed", "member", "admin"),
    ];
    assert_eq!(told(&page, "/role"), expected);
    // The newest first unless asked otherwise, page by page, and each page follows all that went before.
    let page = history(&stack, &tenant, &format!("members/{user}"), "?pageSize=1&page=1").await;
    assert_eq!(told(&page, "/role"), expected[3..]);
    let page = history(&stack, &tenant, &format!("members/{user}"), "?pageSize=2&page=2").await;
    assert_eq!(told(&page, "/role"), [expected[1].clone(), expected[0].clone()]);

    let page = history(&stack, &tenant, &format!("invitations/{invitation}"), "?orderBy=sequence").await;
    assert_eq!(
        told(&page, "/attributes"),
        [row("invitation.created", nothing.clone(), json!({})), row("invitation.attribute_set", json!({}), json!({ "a.b": 7 }))]
    );
    let hashes = "SELECT count(*) FROM events WHERE body::text LIKE '%tokenHash%'";
    assert_eq!(stack.db().await.query_one(hashes, &[]).await.unwrap().get::<_, i64>(0), 1, "there is a secret to be hidden");
    assert!(!page.to_string().contains("tokenHash"), "{page}");

    let page = history(&stack, &tenant, &format!("tenants/{}", tenant.id), "").await;
    assert_eq!(told(&page, "/status"), [row("tenant.created", nothing.clone(), "active")]);

    // Who is gone has left no name and no address behind.
    stack.post(&path(format!("users/{user}/deactivate")), &operator, &json!({})).await.expect(200);
    stack.call(Method::DELETE, &path(format!("users/{user}")), &operator, &[], &Value::Null).await.expect(200);
    for thing in ["users", "members"] {
        let page = history(&stack, &tenant, &format!("{thing}/{user}"), "").await;
        assert!(page["total"].as_u64().unwrap() >= 4, "{page}");
        for personal in ["@example.com", "Person 1", "Another Name"] {
            assert!(!page.to_string().contains(personal), "{personal} in {page}");
        }
    }
    for nobody in ["users/user_01890a5d-ac96-774b-bcce-b302099a8057", "people/x", "users/x"] {
        stack.get(&path(format!("{nobody}/history")), &operator).await.expect(404);
    }
    stack.get(&path(format!("users/{user}/history?state=x")), &operator).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_longer_than_is_followed_shows_the_later_events_alone() {
    let stack = Stack::builder().env("CHANCERY_HISTORY_EVENTS", 2).start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    for name in ["One", "Two"] {
        let path = format!("/v1/tenants/{}", tenant.id);
        stack.call(Method::PATCH, &path, &stack.operator_token(), &[], &json!({ "name": name })).await.expect(200);
    }
    let page = history(&stack, &tenant, &format!("tenants/{}", tenant.id), "?orderBy=sequence").await;
    let nothing = Value::Null;
    let expected =
        [row("tenant.created", nothing.clone(), "Tenant"), row("tenant.updated", "Tenant", "One"), row("tenant.updated", nothing.clone(), nothing)];
    assert_eq!(told(&page, "/name"), expected);
}
