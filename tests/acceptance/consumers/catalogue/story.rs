//! A story in which everything happens that can: each command of the registry, given over HTTP by those who would give it, or caused as it
//! is caused in life (time lets an invitation expire, a reactor sends one).
//!
//! Whoever adds a command adds the sentence in which it is given; the test says which are missing.

use hyper::Method;
use serde_json::{Value, json};
use subjects::timestamp;
use time::{Duration, OffsetDateTime};

use super::super::{Tenant, accept, address, count, events_of, fresh, tenant};
use crate::harness::{Answer, Stack, wait_until};

/// How long the invitation lasts that is to expire.
const SOON: Duration = Duration::seconds(2);

/// Tells all of it; everything that follows by itself has followed when it returns.
pub(super) async fn tell(stack: &Stack) {
    let tenant = tenant(stack).await;
    let told = Told { stack, owner: stack.token(&tenant.owner, &tenant.id, ""), operator: stack.operator_token(), tenant };
    let expiring = told.an_invitation_that_will_expire().await;
    told.the_tenant_goes_up_is_shut_and_opened().await;
    told.a_user_comes_changes_and_goes().await;
    told.a_member_is_given_roles_and_removed().await;
    let team = told.teams_are_made_changed_and_ended().await;
    told.an_invitation_is_sent_described_and_taken_back(&team).await;
    told.an_invitation_is_accepted_and_one_declined(&team).await;
    told.a_guest_is_suspended_at_home_and_back().await;
    told.another_tenant_ends().await;
    told.it_has_expired(&expiring).await;
}

/// The story so far: a tenant and who acts in it.
struct Told<'a> {
    stack: &'a Stack,
    tenant: Tenant,
    owner: String,
    operator: String,
}

impl Told<'_> {
    /// The owner does something in the tenant, and succeeds.
    async fn owner(&self, method: Method, path: &str, body: Value) -> Answer {
        let answer = self.stack.call(method, &self.tenant.path(path), &self.owner, &[], &body).await;
        assert!(answer.status == 200 || answer.status == 201, "{path}: {} {}", answer.status, answer.text);
        answer
    }

    /// An operator of the platform does.
    async fn operator(&self, method: Method, path: &str, body: Value) -> Answer {
        self.stack.call(method, &self.tenant.path(path), &self.operator, &[], &body).await.expect(200)
    }

    /// A new user of the tenant.
    async fn user(&self, role: Option<&str>) -> String {
        let body = json!({ "email": address("person"), "fullName": "Some Body", "role": role });
        self.owner(Method::POST, "/users", body).await.text_at("/aggregateId")
    }

    /// A link, and the token behind it.
    async fn link(&self, more: Value) -> (String, String) {
        let mut body = json!({ "email": address("guest"), "invitationType": "link", "role": "member" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.owner(Method::POST, "/invitations", body).await;
        (answer.text_at("/aggregateId"), answer.text_at("/link").split_once("#token=").unwrap().1.to_owned())
    }

    async fn the_tenant_goes_up_is_shut_and_opened(&self) {
        self.owner(Method::PATCH, "", json!({ "name": "Acme Ltd" })).await;
        let sso = json!({ "provider": "okta", "issuer": "https://acme.okta.example", "clientId": "0oa1b2c3" });
        self.owner(Method::PUT, "/sso", sso).await;
        self.owner(Method::DELETE, "/sso", Value::Null).await;
        self.operator(Method::POST, "/suspend", json!({ "reason": "unpaid" })).await;
        self.operator(Method::POST, "/activate", Value::Null).await;
    }

    async fn a_user_comes_changes_and_goes(&self) {
        let user = self.user(Some("member")).await;
        self.owner(Method::PATCH, &format!("/users/{user}"), json!({ "fullName": "Any Body" })).await;
        self.owner(Method::POST, &format!("/users/{user}/suspend"), json!({ "reason": "on leave" })).await;
        self.owner(Method::POST, &format!("/users/{user}/reactivate"), Value::Null).await;
        self.owner(Method::POST, &format!("/users/{user}/deactivate"), Value::Null).await;
        self.owner(Method::DELETE, &format!("/users/{user}"), Value::Null).await;
    }

    async fn a_member_is_given_roles_and_removed(&self) {
        let user = self.user(None).await;
        self.owner(Method::POST, "/members", json!({ "userId": user, "role": "member" })).await;
        self.owner(Method::POST, &format!("/members/{user}/role"), json!({ "role": "admin" })).await;
        // Nobody raises their own role, and the attempt leaves its trace; so does taking a role that is not there.
        let member = self.stack.token(&user, &self.tenant.id, "");
        let path = self.tenant.path(&format!("/members/{user}/role"));
        self.stack.post(&path, &member, &json!({ "role": "owner" })).await.expect(403);
        let revoke = json!({ "role": "admin", "reason": "another task" });
        self.owner(Method::POST, &format!("/members/{user}/role/revoke"), revoke.clone()).await;
        self.stack.post(&format!("{path}/revoke"), &self.owner, &revoke).await.expect(409);
        self.owner(Method::DELETE, &format!("/members/{user}"), Value::Null).await;
    }

    /// A team that stays.
    async fn teams_are_made_changed_and_ended(&self) -> String {
        let stays = self.owner(Method::POST, "/teams", json!({ "name": "Design" })).await.text_at("/aggregateId");
        let below = self.owner(Method::POST, "/teams", json!({ "name": "Icons", "parentTeamId": stays })).await.text_at("/aggregateId");
        let member = self.user(Some("readonly")).await;
        self.owner(Method::PATCH, &format!("/teams/{below}"), json!({ "name": "Emblems" })).await;
        self.owner(Method::POST, &format!("/teams/{below}/members"), json!({ "userIds": [member] })).await;
        self.owner(Method::DELETE, &format!("/teams/{below}/members/{member}"), Value::Null).await;
        self.owner(Method::DELETE, &format!("/teams/{below}"), Value::Null).await;
        stays
    }

    async fn an_invitation_is_sent_described_and_taken_back(&self, team: &str) {
        let body = json!({ "email": address("guest"), "role": "member", "teamIds": [team], "attributes": { "department": "research" } });
        let invitation = self.owner(Method::POST, "/invitations", body).await.text_at("/aggregateId");
        // The reactor sends what was created to be sent; then the owner sends it again.
        wait_until("it is sent", async || events_of(self.stack, &invitation, "invitation.sent").await == 1).await;
        let path = format!("/invitations/{invitation}");
        self.owner(Method::POST, &format!("{path}/send"), Value::Null).await;
        self.owner(Method::PUT, &format!("{path}/attributes/floor"), json!({ "value": 3 })).await;
        self.owner(Method::DELETE, &format!("{path}/attributes/floor"), Value::Null).await;
        self.owner(Method::PATCH, &path, json!({ "attributes": { "desk": "7b" } })).await;
        self.owner(Method::DELETE, &path, Value::Null).await;
    }

    async fn an_invitation_is_accepted_and_one_declined(&self, team: &str) {
        let (_, token) = self.link(json!({ "teamIds": [team] })).await;
        accept(self.stack, &token).await.expect(200);
        let (_, token) = self.link(json!({})).await;
        let body = json!({ "token": token }).to_string().into_bytes();
        let declined = self.stack.send(Method::POST, "/v1/invitations/decline", &[("content-type", "application/json")], body).await;
        declined.unwrap().expect(200);
    }

    /// The reactor repeats here what the home tenant did.
    async fn a_guest_is_suspended_at_home_and_back(&self) {
        let home = tenant(self.stack).await;
        let email = address("guest");
        let body = json!({ "email": email, "fullName": "Gus Guest", "role": "member" });
        let guest = self.stack.post(&home.path("/users"), &self.operator, &body).await.expect(201).text_at("/aggregateId");
        let (_, token) = self.link(json!({ "email": email })).await;
        let signed_in = self.stack.token(&guest, &home.id, "");
        self.stack.post("/v1/invitations/accept", &signed_in, &json!({ "token": token })).await.expect(200);
        for (step, event) in [("suspend", "tenant.member_suspended"), ("reactivate", "tenant.member_reactivated")] {
            self.stack.post(&home.path(&format!("/users/{guest}/{step}")), &self.operator, &Value::Null).await.expect(200);
            let repeated = format!("SELECT count(*) FROM events WHERE type = '{event}'");
            wait_until(event, async || count(self.stack, &repeated).await == 1).await;
        }
    }

    /// One that starts small, so that it can go up, and is then ended for ever.
    async fn another_tenant_ends(&self) {
        let slug = fresh("ends");
        let owner = json!({ "email": address("founder"), "fullName": "Own Er" });
        let body = json!({ "slug": slug, "name": "Short Lived", "plan": "free", "owner": owner });
        let created = self.stack.post("/v1/tenants", &self.operator, &body).await.expect(201);
        let path = format!("/v1/tenants/{}", created.text_at("/aggregateId"));
        for (step, body) in [("plan", json!({ "plan": "starter" })), ("suspend", json!({ "reason": "unpaid" })), ("cancel", Value::Null)] {
            self.stack.post(&format!("{path}/{step}"), &self.operator, &body).await.expect(200);
        }
    }

    async fn an_invitation_that_will_expire(&self) -> String {
        let soon = OffsetDateTime::now_utc() + SOON;
        self.link(json!({ "expiresAt": timestamp::format(soon) })).await.0
    }

    async fn it_has_expired(&self, invitation: &str) {
        wait_until("it has expired", async || events_of(self.stack, invitation, "invitation.expired").await == 1).await;
    }
}
