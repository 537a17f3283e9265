//! Lists of many: what was created is in them at once, and an index leads to each.

use chancery::bench::stock;
use hyper::Method;
use serde_json::{Value, json};
use subjects::{TenantId, UserId};

use super::load::{fresh, tenants};
use crate::harness::Stack;

/// Enough for an index to be worth it, in this tenant and around it.
const INVITATIONS: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_invitations_is_read_by_an_index_whatever_it_is_asked_for() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 4).await;
    let db = stack.db().await;
    for tenant in &tenants {
        stock::fill(&db, tenant.id.parse().unwrap(), UserId::new(uuid::Uuid::now_v7()), INVITATIONS).await.unwrap();
    }
    let id: TenantId = tenants[0].id.parse().unwrap();
    let mut wrong = Vec::new();
    for question in stock::QUESTIONS {
        let plans = stock::plans(&db, id, question).await.unwrap();
        // Beside what is looked up by id for the rows shown.
        let by_an_index = |plan: &String| plan.contains("Index") && !plan.contains("Seq Scan");
        wrong.extend(plans.iter().filter(|plan| !by_an_index(plan)).map(|plan| format!("{question:?}: {plan}")));
        // An order that an index has is not made by reading all; some of it may be put right among equals.
        let is_ordered = question.is_empty() || question.iter().any(|(name, _)| *name == "orderBy") && question.len() == 1;
        if is_ordered && plans[0].contains("< Sort") {
            wrong.push(format!("{question:?}: {}", plans[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A page far in, which is read in another way, goes on where the one before it ended.
    let page = async |number: u64| {
        let path = format!("/v1/tenants/{id}/invitations?orderBy=email&pageSize=100&page={number}");
        let answer = stack.get(&path, &stack.operator_token()).await.expect(200);
        answer.body["items"].as_array().unwrap().iter().map(|item| item["email"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for number in 1..=5 {
        all.extend(page(number).await);
    }
    assert_eq!(all.len(), 500);
    assert!(all.is_sorted_by(|one, next| one < next), "each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_found_by_its_attributes_as_they_are_now_and_in_every_order() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 2).await;
    let operator = stack.operator_token();
    let path = format!("/v1/tenants/{}/invitations", tenants[0].id);
    let found = async |query: &str| -> Vec<String> {
        let answer = stack.get(&format!("{path}?{query}"), &operator).await.expect(200);
        answer.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut ids = Vec::new();
    for (number, attributes) in [json!({ "floor": 3, "desk": "3", "on": true }), json!({ "floor": "3", "list": ["3"] }), json!({})].iter().enumerate()
    {
        let body = json!({ "email": format!("{number}{}@example.com", fresh("l")), "send": false, "attributes": attributes,
            "expiresAt": format!("2099-0{}-01T00:00:00Z", 3 - number) });
        let answer = stack.post(&path, &operator, &body).await.expect(201);
        ids.push(answer.text_at("/aggregateId"));
        // Of another tenant: never found here.
        stack.post(&format!("/v1/tenants/{}/invitations", tenants[1].id), &operator, &body).await.expect(201);
    }
    let newest_first = |places: &[usize]| places.iter().map(|place| ids[*place].clone()).collect::<Vec<_>>();
    // What reads as a number is both, a number is one however it is written, and a list is no simple value.
    assert_eq!(found("attr.floor=3").await, newest_first(&[1, 0]));
    assert_eq!(found("attr.floor=3.0").await, newest_first(&[0]));
    assert_eq!(found("attr.on=true&attr.desk=3").await, newest_first(&[0]));
    assert_eq!(found("attr.list=3").await, newest_first(&[]));
    for (order, expected) in [("email", [0, 1, 2]), ("-email", [2, 1, 0]), ("createdAt", [0, 1, 2]), ("state", [0, 1, 2]), ("-state", [2, 1, 0])] {
        assert_eq!(found(&format!("orderBy={order}")).await, newest_first(&expected), "{order}");
    }
    // All ends were cut to the longest life, so they follow the creation.
    assert_eq!(found("orderBy=expiresAt").await, newest_first(&[0, 1, 2]));

    let one = format!("{path}/{}", ids[0]);
    stack.call(Method::PUT, &format!("{one}/attributes/floor"), &operator, &[], &json!({ "value": 4 })).await.expect(200);
    assert_eq!((found("attr.floor=4").await, found("attr.floor=3").await), (newest_first(&[0]), newest_first(&[1])));
    stack.call(Method::DELETE, &format!("{one}/attributes/floor"), &operator, &[], &Value::Null).await.expect(200);
    assert_eq!((found("attr.floor=4").await, found("attr.desk=3").await), (newest_first(&[]), newest_first(&[0])));
}
