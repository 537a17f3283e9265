//! Rules that others got wrong, from HTTP to the audit. Every branch of them has a test beside the decision; these show the whole path.

use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};

use super::load::{Tenant, fresh, tenants};
use crate::harness::{Answer, Stack, wait_until};

/// A tenant, and whom it has.
struct Scene {
    stack: Stack,
    tenant: Tenant,
}

impl Scene {
    async fn new(consumers: &[Consumer]) -> Self {
        let stack = Stack::builder().consumers(consumers).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
        let tenant = tenants(&stack, 1).await.0.remove(0);
        Self { stack, tenant }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}{rest}", self.tenant.id)
    }

    fn token(&self, user: &str) -> String {
        self.stack.token(user, &self.tenant.id, "")
    }

    async fn person(&self, role: &str) -> String {
        let body = json!({ "email": format!("{}@example.com", fresh("p")), "fullName": "Per Son", "role": role });
        self.stack.post(&self.path("/users"), &self.stack.operator_token(), &body).await.expect(201).text_at("/aggregateId")
    }

    async fn ask(&self, by: &str, method: Method, rest: &str, body: Value) -> Answer {
        self.stack.call(method, &self.path(rest), &self.token(by), &[], &body).await
    }

    async fn invite(&self, email: &str) -> (String, String) {
        let body = json!({ "email": email, "invitationType": "link" });
        let answer = self.ask(&self.tenant.owner, Method::POST, "/invitations", body).await.expect(201);
        (answer.text_at("/aggregateId"), token(&answer))
    }

    /// Accepts, as nobody in particular or as a user of some tenant.
    async fn accept(&self, bearer: Option<&str>, token: &str) -> Answer {
        let bearer = bearer.map(|bearer| format!("Bearer {bearer}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        let body = json!({ "token": token }).to_string().into_bytes();
        self.stack.send(Method::POST, "/v1/invitations/accept", &headers, body).await.unwrap()
    }

    async fn members(&self) -> Vec<Value> {
        let page = self.stack.get(&self.path("/members?pageSize=100"), &self.stack.operator_token()).await.expect(200);
        page.body["items"].as_array().unwrap().clone()
    }
}

fn token(answer: &Answer) -> String {
    answer.text_at("/link").split_once("#token=").unwrap().1.to_owned()
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_whether_by_removal_demotion_suspension_or_deletion() {
    let scene = Scene::new(&[]).await;
    let owner = scene.tenant.owner.clone();
    let operator = scene.stack.operator_token();
    let roads = [
        (Method::DELETE, format!("/members/{owner}"), Value::Null),
        (Method::DELETE, "/members/me".to_owned(), Value::Null),
        (Method::POST, format!("/members/{owner}/role"), json!({ "role": "admin" })),
        (Method::POST, format!("/members/{owner}/role/revoke"), json!({ "role": "owner" })),
        (Method::POST, format!("/users/{owner}/suspend"), Value::Null),
        // Whoever is deleted was deactivated before.
        (Method::POST, format!("/users/{owner}/deactivate"), Value::Null),
    ];
    for (method, rest, body) in &roads {
        let refused = scene.ask(&owner, method.clone(), rest, body.clone()).await;
        assert_eq!(said(&refused), (409, "last_owner".into()), "{rest}");
        if !rest.ends_with("me") {
            let refused = scene.stack.call(method.clone(), &scene.path(rest), &operator, &[], body).await;
            assert_eq!(said(&refused), (409, "last_owner".into()), "{rest} by an operator");
        }
    }
    let deleted = scene.ask(&owner, Method::DELETE, &format!("/users/{owner}"), Value::Null).await;
    assert_eq!(said(&deleted), (409, "invalid_transition".into()));
    // A second owner who is shut out is none.
    let second = scene.person("owner").await;
    scene.ask(&owner, Method::POST, &format!("/users/{second}/suspend"), Value::Null).await.expect(200);
    assert_eq!(said(&scene.ask(&owner, Method::DELETE, "/members/me", Value::Null).await), (409, "last_owner".into()));
    scene.ask(&owner, Method::POST, &format!("/users/{second}/reactivate"), Value::Null).await.expect(200);
    scene.ask(&owner, Method::DELETE, "/members/me", Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_owner_makes_an_owner_nobody_raises_their_own_role_and_the_attempts_are_in_the_audit() {
    let scene = Scene::new(&[Consumer::Audit]).await;
    let (admin, member) = (scene.person("admin").await, scene.person("member").await);
    let assign =
        async |by: &str, to: &str, role: &str| said(&scene.ask(by, Method::POST, &format!("/members/{to}/role"), json!({ "role": role })).await);
    assert_eq!(assign(&admin, &member, "owner").await, (403, "owner_required".into()));
    assert_eq!(assign(&admin, &admin, "owner").await, (403, "own_role".into()));
    assert_eq!(assign(&member, &member, "admin").await, (403, "own_role".into()));
    assert_eq!(assign(&member, &admin, "readonly").await, (403, "forbidden".into()));
    assert_eq!(assign(&admin, &scene.tenant.owner, "member").await, (403, "owner_required".into()));
    let body = json!({ "email": format!("{}@example.com", fresh("o")), "role": "owner", "fullName": "O" });
    assert_eq!(said(&scene.ask(&admin, Method::POST, "/users", body).await), (403, "forbidden".into()));
    let body = json!({ "email": format!("{}@example.com", fresh("o")), "role": "owner" });
    assert_eq!(said(&scene.ask(&admin, Method::POST, "/invitations", body).await), (403, "forbidden".into()));
    assert_eq!(assign(&scene.tenant.owner, &member, "owner").await.0, 200);

    let owner = scene.token(&scene.tenant.owner);
    let failed = async || {
        let page = scene.stack.get(&scene.path("/audit?action=ROLE_ASSIGNMENT_FAILED&orderBy=occurredAt"), &owner).await.expect(200);
        page.body["items"].as_array().unwrap().clone()
    };
    wait_until("the attempts are in the audit", async || failed().await.len() == 5).await;
    let told: Vec<_> = failed().await.iter().map(|row| (row["performedBy"].clone(), row["after"]["reason"].clone())).collect();
    let expected = [(&admin, "owner_required"), (&admin, "own_role"), (&member, "own_role"), (&member, "forbidden"), (&admin, "owner_required")];
    assert_eq!(told, expected.map(|(by, reason)| (Value::from(by.as_str()), Value::from(reason))));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_team_invitation_or_member_is_404_in_a_body_as_in_a_path() {
    let scene = Scene::new(&[]).await;
    let other = tenants(&scene.stack, 1).await.0.remove(0);
    let operator = scene.stack.operator_token();
    let theirs = scene.stack.post(&format!("/v1/tenants/{}/teams", other.id), &operator, &json!({ "name": "Theirs" })).await.expect(201);
    let theirs = theirs.text_at("/aggregateId");
    let ours = scene.ask(&scene.tenant.owner, Method::POST, "/teams", json!({ "name": "Ours" })).await.expect(201).text_at("/aggregateId");
    let not_found = (404, "not_found".to_owned());
    let owner = &scene.tenant.owner;
    let body = json!({ "email": format!("{}@example.com", fresh("x")), "teamIds": [ours, theirs] });
    assert_eq!(said(&scene.ask(owner, Method::POST, "/invitations", body).await), not_found);
    let body = json!({ "name": "Below", "parentTeamId": theirs });
    assert_eq!(said(&scene.ask(owner, Method::POST, "/teams", body).await), not_found);
    let body = json!({ "parentTeamId": theirs });
    assert_eq!(said(&scene.ask(owner, Method::PATCH, &format!("/teams/{ours}"), body).await), not_found);
    assert_eq!(said(&scene.ask(owner, Method::GET, &format!("/teams/{theirs}"), Value::Null).await), not_found);
    let body = json!({ "userIds": [other.owner] });
    assert_eq!(said(&scene.ask(owner, Method::POST, &format!("/teams/{ours}/members"), body).await), (409, "not_a_member".into()));
    // A role has no id of a tenant: its name is all that a request takes.
    let body = json!({ "role": "role_01900000-0000-7000-8000-000000000001" });
    let assigned = scene.ask(owner, Method::POST, &format!("/members/{owner}/role"), body).await;
    assert_eq!(said(&assigned), (422, "validation_failed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_accepted_by_its_own_address_with_its_newest_token_and_once() {
    let scene = Scene::new(&[]).await;
    let other = tenants(&scene.stack, 1).await.0.remove(0);
    let address = format!("{}@example.com", fresh("guest"));
    let person = json!({ "email": address, "fullName": "Gue St" });
    let operator = scene.stack.operator_token();
    let guest = scene.stack.post(&format!("/v1/tenants/{}/users", other.id), &operator, &person).await.expect(201).text_at("/aggregateId");
    let (guest, stranger) = (scene.stack.token(&guest, &other.id, ""), scene.stack.token(&other.owner, &other.id, ""));
    let (invitation, old) = scene.invite(&address).await;
    assert_eq!(said(&scene.accept(Some(&stranger), &old).await), (403, "email_mismatch".into()));
    assert_eq!(said(&scene.accept(None, &old).await), (409, "sign_in_required".into()));
    scene.ask(&scene.tenant.owner, Method::POST, &format!("/invitations/{invitation}/send"), Value::Null).await.expect(200);
    let again = scene.ask(&scene.tenant.owner, Method::POST, &format!("/invitations/{invitation}/send"), Value::Null).await.expect(200);
    assert_eq!(said(&scene.accept(Some(&guest), &old).await), (409, "invalid_token".into()));
    let newest = token(&again);
    let before = scene.members().await.len();
    let accepted = scene.accept(Some(&guest), &newest).await.expect(200);
    assert_eq!(accepted.body["events"].as_array().unwrap().len(), 2);
    let twice = scene.accept(Some(&guest), &newest).await.expect(200);
    assert_eq!(twice.body["events"], json!([]), "so already");
    assert_eq!(scene.members().await.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_accepts_nobody() {
    let scene = Scene::new(&[]).await;
    let (_, token) = scene.invite(&format!("{}@example.com", fresh("guest"))).await;
    let operator = scene.stack.operator_token();
    scene.stack.post(&scene.path("/suspend"), &operator, &Value::Null).await.expect(200);
    assert_eq!(said(&scene.accept(None, &token).await), (409, "tenant_not_active".into()));
    scene.stack.post(&scene.path("/activate"), &operator, &Value::Null).await.expect(200);
    scene.accept(None, &token).await.expect(200);
}
