//! Users, in their home tenant.

use aggregates::{
    tenant::{Nothing, WithReason},
    text::{Email, Line},
    user::{Create, UpdateProfile},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use subjects::{Kind, Role, UserId, derive};
use utoipa::ToSchema;

use super::{
    Endpoint, Order,
    tenant::{NoBody, ReasonBody},
};
use crate::{
    answer::{Created, Succeeded},
    body::{Body, Fields, Form},
    gateway::Gateway,
    guard::Access,
    list::{Compare, Listing, Params},
    policy::{Policy, Verb},
    problem::Problem,
    request::Meta,
    store::Sight,
    view::{self, UserView},
};

static CREATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/users", Kind::User, "create", "users:write");
static LIST: Policy = Policy::query("/v1/tenants/{t}/users", "users:read");
static GET: Policy = Policy::query("/v1/tenants/{t}/users/{u}", "profile:read");
static UPDATE: Policy = Policy::command(Verb::Patch, "/v1/tenants/{t}/users/{u}", Kind::User, "update_profile", "profile:write");
static SUSPEND: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/users/{u}/suspend", Kind::User, "suspend", "users:write");
static DEACTIVATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/users/{u}/deactivate", Kind::User, "deactivate", "profile:write");
static REACTIVATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/users/{u}/reactivate", Kind::User, "reactivate", "users:write");
static DELETE: Policy = Policy::command(Verb::Delete, "/v1/tenants/{t}/users/{u}", Kind::User, "delete", "users:write");

/// The routes of users.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(&CREATE, create),
        Endpoint::new(&LIST, list),
        Endpoint::new(&GET, get),
        Endpoint::new(&UPDATE, update),
        Endpoint::new(&SUSPEND, suspend),
        Endpoint::new(&DEACTIVATE, deactivate),
        Endpoint::new(&REACTIVATE, reactivate),
        Endpoint::new(&DELETE, delete),
    ]
}

/// A new user whose home is this tenant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateUser {
    /// Address, unique on the platform.
    #[schema(value_type = String, format = Email, max_length = 254)]
    email: Email,
    /// Name.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    full_name: Line,
    /// With a role the user becomes a member at once: `owner`, `admin`, `member` or `readonly`.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    role: Option<Role>,
}

impl Form for CreateUser {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Email>("email");
        fields.required::<Line>("fullName");
        fields.optional::<Role>("role");
    }
}

/// What changes; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateUser {
    /// New name.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    full_name: Option<Line>,
}

impl Form for UpdateUser {
    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Line>("fullName");
    }
}

/// Create a user.
#[utoipa::path(post, path = "/v1/tenants/{t}/users", tag = "user", request_body = CreateUser, responses((status = 201, body = Succeeded)))]
pub(crate) async fn create(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<CreateUser>) -> Result<Response, Problem> {
    let mut order = Order::to(&access, &meta, String::new());
    let user: UserId = derive(order.id.uuid(), "user");
    order.aggregate = user.to_string();
    order.created = Created::At(format!("/v1/tenants/{}/users/{user}", access.tenant));
    let CreateUser { email, full_name, role } = body.data;
    order.send(&gateway, &meta, &body.bytes, &Create { email, full_name, role }).await
}

/// A command to the user of the path.
async fn command(gateway: &Gateway, access: &Access, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Response, Problem> {
    let user: UserId = access.path.id("u")?;
    Order::to(access, meta, user.to_string()).send(gateway, meta, bytes, data).await
}

/// Change a profile.
#[utoipa::path(patch, path = "/v1/tenants/{t}/users/{u}", tag = "user", request_body = UpdateUser, responses((status = 200, body = Succeeded)))]
pub(crate) async fn update(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<UpdateUser>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &UpdateProfile { full_name: body.data.full_name }).await
}

/// Shut a user out for now.
#[utoipa::path(post, path = "/v1/tenants/{t}/users/{u}/suspend", tag = "user", request_body = Option<ReasonBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn suspend(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<ReasonBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &WithReason { reason: body.data.reason }).await
}

/// Retire a user: the first step to deletion.
#[utoipa::path(post, path = "/v1/tenants/{t}/users/{u}/deactivate", tag = "user", request_body = Option<NoBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn deactivate(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

/// Let a user in again.
#[utoipa::path(post, path = "/v1/tenants/{t}/users/{u}/reactivate", tag = "user", request_body = Option<NoBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn reactivate(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

/// End a deactivated user for ever.
#[utoipa::path(delete, path = "/v1/tenants/{t}/users/{u}", tag = "user", responses((status = 200, body = Succeeded)))]
pub(crate) async fn delete(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

const USERS: Listing = Listing {
    view: "user_views",
    orders: &[("createdAt", "created_at"), ("email", "email"), ("fullName", "full_name"), ("state", "state")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[("state", "state", Compare::Text), ("email", "email", Compare::Email)],
    attributes: false,
};

/// List the users whose home this tenant is.
#[utoipa::path(get, path = "/v1/tenants/{t}/users", tag = "user", params(crate::openapi::Page, ("email" = Option<String>, Query)),
    responses((status = 200, body = crate::view::UserPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    USERS.answer(&gateway, Sight::of(access.tenant), &params).await
}

/// Read a user.
#[utoipa::path(get, path = "/v1/tenants/{t}/users/{u}", tag = "user", responses((status = 200, body = UserView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, access: Access, headers: HeaderMap) -> Result<Response, Problem> {
    let user: UserId = access.path.id("u")?;
    view::one(&gateway, &headers, Sight::of(access.tenant), "user_views", user.uuid()).await
}
