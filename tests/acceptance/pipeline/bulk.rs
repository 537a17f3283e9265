//! Many invitations in one request, and how a tenant is set up.

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::{Value, json};

use super::load::{fresh, tenants};
use crate::harness::{Answer, Stack};

fn invitation() -> Value {
    json!({ "email": format!("{}@example.com", fresh("b")), "invitationType": "link" })
}

async fn bulk(stack: &Stack, tenant: &str, key: Option<&str>, items: &[Value]) -> Answer {
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let path = format!("/v1/tenants/{tenant}/invitations/bulk");
    stack.call(Method::POST, &path, &stack.operator_token(), &headers, &json!({ "invitations": items })).await
}

fn statuses(answer: &Answer) -> Vec<u64> {
    answer.body["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_with_bad_lines_does_the_others_and_says_of_each_what_became_of_it() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let tenant = tenants[0].id.as_str();
    let mut items: Vec<Value> = (0..100).map(|_| invitation()).collect();
    items[17] = json!({ "email": "nobody" });
    items[18]["surprise"] = true.into();
    items[19]["email"] = "a\0b@example.com".into();
    items[20]["teamIds"] = json!([format!("team_{}", uuid::Uuid::now_v7())]);
    items[21] = Value::Null;
    // The same address twice: the second ends the first, as two requests would.
    items[31] = items[30].clone();
    let answer = bulk(&stack, tenant, None, &items).await.expect(200);
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 100);
    let mut expected = vec![201; 100];
    (expected[17], expected[18], expected[19], expected[20], expected[21]) = (422, 400, 422, 404, 400);
    assert_eq!(statuses(&answer), expected, "{}", answer.text);
    assert_eq!(results[17]["problem"]["errors"][0]["pointer"], "/email");
    assert_eq!(results[18]["problem"]["errors"][0]["pointer"], "/surprise");
    assert!(results.iter().enumerate().all(|(at, result)| result["index"] == at && result["link"].is_string() == (expected[at] == 201)));
    let ids: BTreeSet<&str> = results.iter().filter_map(|result| result["commandId"].as_str()).collect();
    assert_eq!(ids.len(), 96, "one command each, and none for what was never one");
    let open = stack.get(&format!("/v1/tenants/{tenant}/invitations?state=created"), &stack.operator_token()).await.expect(200);
    assert_eq!(open.body["total"], 94);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_under_a_key_has_one_effect_and_another_under_it_has_none() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let tenant = tenants[0].id.as_str();
    let items: Vec<Value> = (0..10).map(|_| invitation()).collect();
    let first = bulk(&stack, tenant, Some("monday"), &items).await.expect(200);
    let again = bulk(&stack, tenant, Some("monday"), &items).await.expect(200);
    assert_eq!(again.body, first.body);
    // With more items, too: the key stands for the whole body.
    for count in [3, 10, 25] {
        let other: Vec<Value> = (0..count).map(|_| invitation()).collect();
        let reused = bulk(&stack, tenant, Some("monday"), &other).await.expect(422);
        assert_eq!(reused.text_at("/code"), "idempotency_key_reused");
    }
    let all = stack.get(&format!("/v1/tenants/{tenant}/invitations"), &stack.operator_token()).await.expect(200);
    assert_eq!(all.body["total"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_counts_as_many_requests_as_it_has_items_and_has_1_to_100() {
    let stack = Stack::builder().env("CHANCERY_RATE_PER_SECOND", "20").start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let tenant = tenants[0].id.as_str();
    for count in [0, 101] {
        let items: Vec<Value> = (0..count).map(|_| invitation()).collect();
        bulk(&stack, tenant, None, &items).await.expect(422);
    }
    let items: Vec<Value> = (0..100).map(|_| invitation()).collect();
    let answer = bulk(&stack, tenant, None, &items).await.expect(200);
    let (done, limited) = (statuses(&answer).iter().filter(|status| **status == 201).count(), statuses(&answer).contains(&429));
    assert!(done < 100 && limited, "{}", answer.text);
    // Under a key it is finished bit by bit: what is done is not counted again.
    let mut left = 100;
    for _ in 0..30 {
        let answer = bulk(&stack, tenant, Some("bit-by-bit"), &items).await;
        if answer.status == 200 {
            left = statuses(&answer).iter().filter(|status| **status != 201).count();
        }
        if left == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    panic!("{left} items are never done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_set_up_by_its_owner_and_its_sign_in_by_an_admin() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 1).await;
    let (tenant, operator) = (&tenants[0], stack.operator_token());
    let base = format!("/v1/tenants/{}", tenant.id);
    let mut body = json!({ "email": format!("{}@example.com", fresh("a")), "fullName": "Ad Min", "role": "admin" });
    let admin = stack.post(&format!("{base}/users"), &operator, &body).await.expect(201).text_at("/aggregateId");
    let (owner, admin) = (stack.token(&tenant.owner, &tenant.id, ""), stack.token(&admin, &tenant.id, ""));

    body = json!({ "settings": { "notifyInvitationExpired": true } });
    assert_eq!(stack.call(Method::PATCH, &base, &admin, &[], &body).await.expect(403).text_at("/code"), "forbidden");
    stack.call(Method::PATCH, &base, &owner, &[], &body).await.expect(200);
    let view = stack.get(&base, &owner).await.expect(200);
    assert_eq!(view.body["settings"], json!({ "notifyProfileUpdated": false, "notifyInvitationExpired": true }));
    let wrong = json!({ "settings": { "notifyInvitationExpired": "yes", "other": 1 } });
    let wrong = stack.call(Method::PATCH, &base, &owner, &[], &wrong).await.expect(400);
    assert_eq!(wrong.body["errors"].as_array().unwrap().len(), 2, "{}", wrong.text);

    let sso = format!("{base}/sso");
    stack.get(&sso, &admin).await.expect(404);
    let insecure = json!({ "provider": "okta", "issuer": "http://acme.okta.example", "clientId": "c" });
    let refused = stack.call(Method::PUT, &sso, &admin, &[], &insecure).await.expect(422);
    assert_eq!(refused.text_at("/errors/0/pointer"), "/issuer");
    body = json!({ "provider": "okta", "issuer": "https://acme.okta.example", "clientId": "c" });
    stack.call(Method::PUT, &sso, &admin, &[], &body).await.expect(200);
    assert_eq!(stack.get(&sso, &admin).await.expect(200).body, body);
    assert_eq!(stack.get(&base, &owner).await.expect(200).body["sso"], body);
    stack.call(Method::DELETE, &sso, &admin, &[], &Value::Null).await.expect(200);
    stack.get(&sso, &admin).await.expect(404);
}
