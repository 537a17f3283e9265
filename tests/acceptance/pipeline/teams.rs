//! Teams over the whole path: what a decision needs to know of other teams comes from the tables, and from the batch it stands in.

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    history::assert_sound,
    load::{Client, Tenant, fresh, tenants},
};
use crate::harness::{Answer, Stack};

async fn team(stack: &Stack, tenant: &Tenant, name: &str, parent: Option<&str>) -> Answer {
    let body = json!({ "name": name, "parentTeamId": parent });
    stack.post(&format!("/v1/tenants/{}/teams", tenant.id), &stack.operator_token(), &body).await
}

/// A new member of the tenant.
async fn member(stack: &Stack, tenant: &Tenant) -> String {
    let body = json!({ "email": format!("{}@example.com", fresh("m")), "fullName": "Mem Ber", "role": "member" });
    stack.post(&format!("/v1/tenants/{}/users", tenant.id), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId")
}

/// The types of a command's events.
fn types(answer: &Answer) -> Vec<String> {
    answer.body["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_lands_in_the_tenant_its_role_and_its_teams_in_one_transaction_and_leaves_them_all() {
    let mut stack = Stack::builder().start().await;
    let (tenants, mut ids) = tenants(&stack, 1).await;
    let (tenant, operator) = (&tenants[0], stack.operator_token());
    let above = team(&stack, tenant, "Design", None).await.expect(201);
    let above_id = above.text_at("/aggregateId");
    let below = team(&stack, tenant, "Icons", Some(&above_id)).await.expect(201);
    let below_id = below.text_at("/aggregateId");
    let body =
        json!({ "email": format!("{}@example.com", fresh("g")), "invitationType": "link", "role": "readonly", "teamIds": [below_id, above_id] });
    let invited = stack.post(&format!("/v1/tenants/{}/invitations", tenant.id), &operator, &body).await.expect(201);
    let path = format!("/v1/tenants/{}/invitations/{}", tenant.id, invited.text_at("/aggregateId"));
    let names = |view: &Value| view["teams"].as_array().unwrap().iter().map(|team| team["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&stack.get(&path, &operator).await.expect(200).body), ["Icons", "Design"]);

    let token = invited.text_at("/link").split_once("#token=").unwrap().1.to_owned();
    let body = json!({ "token": token }).to_string().into_bytes();
    let accepted = stack.send(Method::POST, "/v1/invitations/accept", &[("content-type", "application/json")], body).await.unwrap().expect(200);
    let expected = ["invitation.accepted", "user.created", "tenant.member_joined", "team.members_added", "team.members_added"];
    assert_eq!(types(&accepted), expected);
    let db = stack.db().await;
    let command: subjects::CommandId = accepted.text_at("/commandId").parse().unwrap();
    let rows = db.query("SELECT DISTINCT xmin::text FROM events WHERE command_id = $1", &[&command.uuid()]).await.unwrap();
    assert_eq!(rows.len(), 1, "one transaction wrote all of them");

    let me = stack.get("/v1/me", &accepted.text_at("/accessToken")).await.expect(200).text_at("/id");
    let path = format!("/v1/tenants/{}/members/{me}", tenant.id);
    let view = stack.get(&path, &operator).await.expect(200).body;
    assert_eq!((view["role"].as_str(), names(&view)), (Some("readonly"), vec!["Design".to_owned(), "Icons".to_owned()]));
    let inside = stack.get(&format!("/v1/tenants/{}/members?team={below_id}", tenant.id), &operator).await.expect(200);
    assert_eq!((inside.body["total"].as_u64(), inside.text_at("/items/0/userId")), (Some(1), me.clone()));

    // Whoever decides next has it all from the tables.
    assert!(stack.stop("worker-1"));
    stack.start_again("worker-1", &[]);
    let cycle = json!({ "parentTeamId": below_id });
    let above_path = format!("/v1/tenants/{}/teams/{above_id}", tenant.id);
    let refused = stack.call(Method::PATCH, &above_path, &operator, &[], &cycle).await.expect(409);
    assert_eq!(refused.text_at("/code"), "parent_cycle");
    assert_eq!(stack.call(Method::DELETE, &above_path, &operator, &[], &Value::Null).await.expect(409).text_at("/code"), "has_subteams");
    let left = stack.call(Method::DELETE, &path, &operator, &[], &Value::Null).await.expect(200);
    assert_eq!(types(&left), ["team.members_removed", "team.members_removed", "tenant.member_removed"]);
    for id in [&above_id, &below_id] {
        let view = stack.get(&format!("/v1/tenants/{}/teams/{id}", tenant.id), &operator).await.expect(200);
        assert_eq!(view.body["memberCount"], 0, "{}", view.text);
    }
    let below_path = format!("/v1/tenants/{}/teams/{below_id}", tenant.id);
    let free = stack.call(Method::PATCH, &below_path, &operator, &[], &json!({ "parentTeamId": null })).await.expect(200);
    let gone = stack.call(Method::DELETE, &above_path, &operator, &[], &Value::Null).await.expect(200);
    stack.get(&above_path, &operator).await.expect(404);
    assert_eq!(stack.get(&format!("/v1/tenants/{}/teams", tenant.id), &operator).await.expect(200).body["total"], 1);
    ids.extend([&above, &below, &invited, &accepted, &refused, &left, &free, &gone].map(|answer| answer.text_at("/commandId")));
    assert_sound(&stack, &ids, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn teams_put_below_each_other_and_joined_and_left_at_the_same_moment_stay_sound() {
    let stack = Stack::builder().gateways(2).workers(2).start().await;
    let (tenants, _) = tenants(&stack, 4).await;
    let client = Client::of(&stack);
    let operator = stack.operator_token();
    for tenant in &tenants {
        let one = team(&stack, tenant, "One", None).await.expect(201).text_at("/aggregateId");
        let two = team(&stack, tenant, "Two", None).await.expect(201).text_at("/aggregateId");
        let person = member(&stack, tenant).await;
        let base = format!("/v1/tenants/{}", tenant.id);
        let requests = [
            (Method::PATCH, format!("{base}/teams/{one}"), json!({ "parentTeamId": two })),
            (Method::PATCH, format!("{base}/teams/{two}"), json!({ "parentTeamId": one })),
            (Method::POST, format!("{base}/teams/{one}/members"), json!({ "userIds": [person] })),
            (Method::POST, format!("{base}/teams/{two}/members"), json!({ "userIds": [person] })),
            (Method::DELETE, format!("{base}/members/{person}"), Value::Null),
            (Method::POST, format!("{base}/teams"), json!({ "name": "Three" })),
            (Method::POST, format!("{base}/teams"), json!({ "name": "THREE" })),
        ];
        let mut all = JoinSet::new();
        for (method, path, body) in requests {
            let (client, token) = (client.clone(), operator.clone());
            all.spawn(async move { (path.clone(), client.insist(method, &path, &token, &fresh("key"), &body).await.answer) });
        }
        let answers = all.join_all().await;
        let refused = |code: &str| answers.iter().filter(|(_, answer)| answer.status == 409 && answer.text_at("/code") == code).count();
        assert_eq!((refused("parent_cycle"), refused("name_taken")), (1, 1), "{answers:?}");
        for (path, answer) in &answers {
            let told = answer.status < 300 || ["parent_cycle", "name_taken", "not_a_member"].contains(&answer.text_at("/code").as_str());
            assert!(told, "{path}: {} {}", answer.status, answer.text);
        }
        // Whichever order they were decided in: who has left is in no team.
        for id in [&one, &two] {
            let view = stack.get(&format!("{base}/teams/{id}"), &operator).await.expect(200);
            assert_eq!(view.body["memberCount"], 0, "{}", view.text);
        }
    }
    let db = stack.db().await;
    let named: i64 = db.query_one("SELECT count(*) FROM team_names", &[]).await.unwrap().get(0);
    assert_eq!(named, 4, "each tenant has one team below another, and nobody in any");
}
