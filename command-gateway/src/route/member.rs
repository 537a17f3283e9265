//! Members and their roles.

use aggregates::{
    membership::{Add, AssignRole, RevokeRole},
    tenant::Nothing,
    text::Line,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use subjects::{Kind, Role, UserId};
use utoipa::ToSchema;

use super::{Endpoint, Order, tenant::NoBody};
use crate::{
    access::forbidden,
    answer::{Created, Succeeded},
    body::{Body, Fields, Form},
    gateway::Gateway,
    guard::Access,
    list::{Compare, Listing, Params},
    policy::{Policy, Verb},
    problem::Problem,
    request::Meta,
    store::Sight,
    view::{self, MemberView},
};

static LIST: Policy = Policy::query("/v1/tenants/{t}/members", "members:read");
static GET: Policy = Policy::query("/v1/tenants/{t}/members/{u}", "members:read");
static ADD: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/members", Kind::Membership, "add", "members:write");
static REMOVE: Policy = Policy::command(Verb::Delete, "/v1/tenants/{t}/members/{u}", Kind::Membership, "remove", "membership:end");
static LEAVE: Policy = Policy::command(Verb::Delete, "/v1/tenants/{t}/members/me", Kind::Membership, "remove", "membership:leave");
static ASSIGN: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/members/{u}/role", Kind::Membership, "assign_role", "roles:write");
static REVOKE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/members/{u}/role/revoke", Kind::Membership, "revoke_role", "roles:write");

/// The routes of members.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(&LIST, list),
        Endpoint::new(&GET, get),
        Endpoint::new(&ADD, add),
        Endpoint::new(&REMOVE, remove),
        Endpoint::new(&LEAVE, leave),
        Endpoint::new(&ASSIGN, assign),
        Endpoint::new(&REVOKE, revoke),
    ]
}

/// A user of this tenant becomes a member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AddMember {
    /// The user; whose home is another tenant is invited instead.
    #[schema(value_type = String, example = "user_01890a5d-ac96-774b-bcce-b302099a8057")]
    user_id: UserId,
    /// `owner`, `admin`, `member` or `readonly`.
    #[schema(value_type = String, example = "member")]
    role: Role,
}

impl Form for AddMember {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<UserId>("userId");
        fields.required::<Role>("role");
    }
}

/// The role to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssignBody {
    /// `owner`, `admin`, `member` or `readonly`.
    #[schema(value_type = String, example = "admin")]
    role: Role,
}

impl Form for AssignBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Role>("role");
    }
}

/// The role to take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeBody {
    /// The role the member is believed to have.
    #[schema(value_type = String, example = "admin")]
    role: Role,
    /// Why.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    reason: Option<Line>,
}

impl Form for RevokeBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Role>("role");
        fields.optional::<Line>("reason");
    }
}

/// A command to the membership of a user.
async fn command(gateway: &Gateway, access: &Access, meta: &Meta, bytes: &[u8], user: UserId, data: &impl Serialize) -> Result<Response, Problem> {
    Order::to(access, meta, user.to_string()).send(gateway, meta, bytes, data).await
}

/// Make a user of this tenant a member.
#[utoipa::path(post, path = "/v1/tenants/{t}/members", tag = "membership", request_body = AddMember, responses((status = 201, body = Succeeded)))]
pub(crate) async fn add(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<AddMember>) -> Result<Response, Problem> {
    let AddMember { user_id, role } = body.data;
    let mut order = Order::to(&access, &meta, user_id.to_string());
    order.created = Created::At(format!("/v1/tenants/{}/members/{user_id}", access.tenant));
    order.send(&gateway, &meta, &body.bytes, &Add { role }).await
}

/// Remove a member.
#[utoipa::path(delete, path = "/v1/tenants/{t}/members/{u}", tag = "membership", responses((status = 200, body = Succeeded)))]
pub(crate) async fn remove(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    let user = access.path.id("u")?;
    command(&gateway, &access, &meta, &body.bytes, user, &Nothing {}).await
}

/// Leave a tenant.
#[utoipa::path(delete, path = "/v1/tenants/{t}/members/me", tag = "membership", responses((status = 200, body = Succeeded)))]
pub(crate) async fn leave(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    let user = access.caller.user().ok_or_else(forbidden)?;
    command(&gateway, &access, &meta, &body.bytes, user, &Nothing {}).await
}

/// Give a member a role. A refusal leaves `role.assignment_failed` behind.
#[utoipa::path(post, path = "/v1/tenants/{t}/members/{u}/role", tag = "membership", request_body = AssignBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn assign(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<AssignBody>) -> Result<Response, Problem> {
    let user = access.path.id("u")?;
    command(&gateway, &access, &meta, &body.bytes, user, &AssignRole { role: body.data.role }).await
}

/// Take a member's role. A refusal leaves `role.revocation_failed` behind.
#[utoipa::path(post, path = "/v1/tenants/{t}/members/{u}/role/revoke", tag = "membership", request_body = RevokeBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn revoke(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<RevokeBody>) -> Result<Response, Problem> {
    let user = access.path.id("u")?;
    let RevokeBody { role, reason } = body.data;
    command(&gateway, &access, &meta, &body.bytes, user, &RevokeRole { role, reason }).await
}

const MEMBERS: Listing = Listing {
    view: "member_views",
    orders: &[("createdAt", "created_at"), ("email", "email"), ("role", "role")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[
        ("role", "role", Compare::Text),
        ("email", "email", Compare::Email),
        ("state", "state", Compare::Text),
        ("team", "id", Compare::InTeam),
    ],
    attributes: false,
};

/// List the members.
#[utoipa::path(get, path = "/v1/tenants/{t}/members", tag = "membership",
    params(crate::openapi::Page, ("role" = Option<String>, Query), ("email" = Option<String>, Query),
        ("team" = Option<String>, Query, description = "the id of a team: who is in it")),
    responses((status = 200, body = crate::view::MemberPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    MEMBERS.answer(&gateway, Sight::of(access.tenant), &params).await
}

/// Read a membership, for its ETag.
#[utoipa::path(get, path = "/v1/tenants/{t}/members/{u}", tag = "membership", responses((status = 200, body = MemberView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, access: Access, headers: HeaderMap) -> Result<Response, Problem> {
    let user: UserId = access.path.id("u")?;
    view::one(&gateway, &headers, Sight::of(access.tenant), "member_views", user.uuid()).await
}
