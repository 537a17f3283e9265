//! Two who want what only one can have; and who asks right after an answer sees what was answered.

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    history::assert_sound,
    load::{Client, fresh, person, tenants},
};
use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn two_owners_who_remove_each_other_at_the_same_moment_leave_one() {
    let stack = Stack::builder().gateways(2).workers(2).start().await;
    let (tenants, mut ids) = tenants(&stack, 8).await;
    let client = Client::of(&stack);
    for tenant in &tenants {
        let mut body = person(1);
        body["role"] = "owner".into();
        let users = format!("/v1/tenants/{}/users", tenant.id);
        let second = client.insist(Method::POST, &users, &stack.operator_token(), &fresh("key"), &body).await.answer.expect(201);
        ids.insert(second.text_at("/commandId"));
        let (one, two) = (tenant.owner.clone(), second.text_at("/aggregateId"));
        let mut both = JoinSet::new();
        for (actor, target) in [(&one, &two), (&two, &one)] {
            let (client, token) = (client.clone(), stack.token(actor, &tenant.id, ""));
            let path = format!("/v1/tenants/{}/members/{target}", tenant.id);
            both.spawn(async move { client.insist(Method::DELETE, &path, &token, &fresh("key"), &Value::Null).await.answer });
        }
        let answers = both.join_all().await;
        let removed = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(removed, 1, "{answers:?}");
        let codes = ["forbidden", "not_found", "last_owner", "owner_required"];
        assert!(answers.iter().any(|answer| answer.status != 200 && codes.contains(&answer.text_at("/code").as_str())), "{answers:?}");
        ids.extend(answers.iter().filter(|answer| answer.status == 200).map(|answer| answer.text_at("/commandId")));
        let members = stack.get(&format!("/v1/tenants/{}/members", tenant.id), &stack.operator_token()).await.expect(200);
        let owners = members.body["items"].as_array().unwrap().iter().filter(|member| member["role"] == "owner").count();
        assert_eq!(owners, 1, "{}", members.text);
    }
    assert_sound(&stack, &ids, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_address_in_two_tenants_at_once_is_given_once() {
    let stack = Stack::builder().gateways(2).workers(2).start().await;
    let (tenants, mut ids) = tenants(&stack, 8).await;
    let (client, token) = (Client::of(&stack), stack.operator_token());
    for pair in tenants.chunks(2) {
        for _ in 0..5 {
            let body = person(1);
            let mut both = JoinSet::new();
            for tenant in pair {
                let (client, token, body) = (client.clone(), token.clone(), body.clone());
                let path = format!("/v1/tenants/{}/users", tenant.id);
                both.spawn(async move { client.insist(Method::POST, &path, &token, &fresh("key"), &body).await.answer });
            }
            let mut answers = both.join_all().await;
            answers.sort_by_key(|answer| answer.status);
            assert_eq!([answers[0].status, answers[1].status], [201, 409], "{answers:?}");
            assert_eq!(answers[1].text_at("/code"), "email_taken");
            ids.extend(answers.iter().map(|answer| answer.text_at("/commandId")));
        }
    }
    let history = assert_sound(&stack, &ids, false).await;
    assert_eq!(history.events.iter().filter(|event| event.event_type == "user.created").count(), 8 + 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_slug_ten_times_at_once_is_given_once() {
    let stack = Stack::builder().gateways(2).workers(2).start().await;
    let (client, token, slug) = (Client::of(&stack), stack.operator_token(), fresh("slug"));
    let mut all = JoinSet::new();
    for _ in 0..10 {
        let owner = json!({ "email": format!("{}@example.com", fresh("o")), "fullName": "Own Er" });
        let body = json!({ "slug": slug, "name": "Tenant", "owner": owner });
        let (client, token) = (client.clone(), token.clone());
        all.spawn(async move { client.insist(Method::POST, "/v1/tenants", &token, &fresh("key"), &body).await.answer });
    }
    let answers = all.join_all().await;
    let mut codes: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409, 409, 409], "{answers:?}");
    let ids = answers.iter().map(|answer| answer.text_at("/commandId")).collect();
    let history = assert_sound(&stack, &ids, false).await;
    assert_eq!(history.events.len(), 3, "who was refused has left nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_after_an_answer_sees_its_effect() {
    let stack = Stack::builder().gateways(2).workers(2).start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let (token, tenant) = (stack.operator_token(), &tenants[0].id);
    let users = format!("/v1/tenants/{tenant}/users");
    for number in 0..50 {
        let created = stack.post(&users, &token, &person(number)).await.expect(201);
        let id = created.text_at("/aggregateId");
        // Another gateway is asked than the one that answered.
        let list = stack.get(&format!("{users}?pageSize=100&orderBy=-createdAt"), &token).await.expect(200);
        let items = list.body["items"].as_array().unwrap();
        assert!(items.iter().any(|user| user["id"] == id.as_str()), "{id} is not in {}", list.text);
        let name = format!("Renamed {number}");
        let renamed = stack.call(Method::PATCH, &format!("{users}/{id}"), &token, &[], &json!({ "fullName": name })).await.expect(200);
        let user = stack.get(&format!("{users}/{id}"), &token).await.expect(200);
        assert_eq!(user.body["fullName"], name.as_str());
        assert_eq!(user.header("etag"), renamed.header("etag"));
        let command = stack.get(&format!("/v1/commands/{}", renamed.text_at("/commandId")), &token).await.expect(200);
        assert_eq!(command.body["status"], "succeeded");
    }
}
