//! Tenants.

use aggregates::{
    tenant::{Create, Nothing, Owner, Plan, SettingsPatch, Sso, Update, UpgradePlan, WithReason},
    text::{Email, Issuer, Line, Slug},
};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use subjects::{Kind, TenantId, derive};
use utoipa::ToSchema;

use super::{Endpoint, Order};
use crate::{
    answer::{Created, Succeeded},
    body::{Body, Fields, Form},
    gateway::Gateway,
    guard::{Access, Signed},
    list::{Compare, Listing, Params},
    policy::{Policy, Verb},
    problem::Problem,
    request::Meta,
    store::Sight,
    view::{self, SsoView, TenantView},
};

static CREATE: Policy = Policy::command(Verb::Post, "/v1/tenants", Kind::Tenant, "create", "tenants:write");
static LIST: Policy = Policy::query("/v1/tenants", "tenants:read");
static GET: Policy = Policy::query("/v1/tenants/{t}", "tenant:read");
static UPDATE: Policy = Policy::command(Verb::Patch, "/v1/tenants/{t}", Kind::Tenant, "update", "tenant:write");
static ACTIVATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/activate", Kind::Tenant, "activate", "tenants:write");
static SUSPEND: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/suspend", Kind::Tenant, "suspend", "tenants:write");
static CANCEL: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/cancel", Kind::Tenant, "cancel", "tenants:write");
static PLAN: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/plan", Kind::Tenant, "upgrade_plan", "tenant:write");
static SSO: Policy = Policy::query("/v1/tenants/{t}/sso", "sso:read");
static CONFIGURE_SSO: Policy = Policy::command(Verb::Put, "/v1/tenants/{t}/sso", Kind::Tenant, "configure_sso", "sso:write");
static DISABLE_SSO: Policy = Policy::command(Verb::Delete, "/v1/tenants/{t}/sso", Kind::Tenant, "disable_sso", "sso:write");

/// The routes of tenants.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(&CREATE, create),
        Endpoint::new(&LIST, list),
        Endpoint::new(&GET, get),
        Endpoint::new(&UPDATE, update),
        Endpoint::new(&ACTIVATE, activate),
        Endpoint::new(&SUSPEND, suspend),
        Endpoint::new(&CANCEL, cancel),
        Endpoint::new(&PLAN, plan),
        Endpoint::new(&SSO, sso),
        Endpoint::new(&CONFIGURE_SSO, configure_sso),
        Endpoint::new(&DISABLE_SSO, disable_sso),
    ]
}

/// A new tenant and its first owner.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateTenant {
    /// Short name, unique for ever: 3 to 63 lower-case letters or digits with single hyphens between them.
    #[schema(value_type = String, pattern = "^[a-z0-9](-?[a-z0-9]){2,62}$", example = "acme")]
    slug: Slug,
    /// Full name.
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Acme Ltd")]
    name: Line,
    /// `free`, `starter`, `professional` or `enterprise`; `free` unless given.
    #[schema(value_type = Option<String>, example = "starter")]
    #[serde(default)]
    plan: Option<Plan>,
    /// The first owner.
    owner: NewOwner,
}

/// The first owner; a user who has the address already becomes the owner.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewOwner {
    /// Address.
    #[schema(value_type = String, format = Email, max_length = 254)]
    email: Email,
    /// Name.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    full_name: Line,
}

impl Form for CreateTenant {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Slug>("slug");
        fields.required::<Line>("name");
        fields.optional::<Plan>("plan");
        fields.object("owner", |fields| {
            fields.required::<Email>("email");
            fields.required::<Line>("fullName");
        });
    }
}

/// What changes; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateTenant {
    /// New full name.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    name: Option<Line>,
    /// Settings that change; what is missing stays.
    #[serde(default)]
    settings: Option<UpdateSettings>,
}

/// Settings of a tenant that change; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateSettings {
    /// Whether people are told that their profile was changed; `false` until it is switched on.
    #[serde(default)]
    notify_profile_updated: Option<bool>,
    /// Whether an inviter is told that their invitation expired; `false` until it is switched on.
    #[serde(default)]
    notify_invitation_expired: Option<bool>,
}

impl Form for UpdateTenant {
    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Line>("name");
        fields.optional_object("settings", |fields| {
            fields.optional::<bool>("notifyProfileUpdated");
            fields.optional::<bool>("notifyInvitationExpired");
        });
    }
}

/// Where the people of a tenant sign in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SsoBody {
    /// The provider's name, for people.
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "okta")]
    provider: Line,
    /// The issuer's identifier: an https URL without user, query or fragment.
    #[schema(value_type = String, max_length = 512, example = "https://acme.okta.example")]
    issuer: Issuer,
    /// What the provider knows us by. Its secret is configured with the gateway, never sent here.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    client_id: Line,
}

impl Form for SsoBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Line>("provider");
        fields.required::<Issuer>("issuer");
        fields.required::<Line>("clientId");
    }
}

/// Why; may be left out together with the body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReasonBody {
    /// In words.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    pub(super) reason: Option<Line>,
}

impl Form for ReasonBody {
    const OPTIONAL: bool = true;

    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Line>("reason");
    }
}

/// Nothing; the body may be left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoBody {}

impl Form for NoBody {
    const OPTIONAL: bool = true;

    fn check(_fields: &mut Fields<'_>) {}
}

/// The plan wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanBody {
    /// Higher than the present one.
    #[schema(value_type = String, example = "professional")]
    plan: Plan,
}

impl Form for PlanBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Plan>("plan");
    }
}

/// Create a tenant and its first owner.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenant", request_body = CreateTenant, responses((status = 201, body = Succeeded)))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    Signed(caller): Signed,
    meta: Meta,
    body: Body<CreateTenant>,
) -> Result<Response, Problem> {
    let scope = caller.tenant.map_or_else(|| subjects::PLATFORM.to_owned(), |tenant| tenant.to_string());
    let id = meta.command_id(&scope, &caller.principal);
    let tenant: TenantId = derive(id.uuid(), "tenant");
    let CreateTenant { slug, name, plan, owner: NewOwner { email, full_name } } = body.data;
    let data = Create { slug, name, plan: plan.unwrap_or_default(), owner: Owner { email, full_name } };
    let order = Order { id, tenant, aggregate: tenant.to_string(), caller: &caller, created: Created::At(format!("/v1/tenants/{tenant}")) };
    order.send(&gateway, &meta, &body.bytes, &data).await
}

/// A command to the tenant of the path.
async fn command(gateway: &Gateway, access: &Access, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Response, Problem> {
    Order::to(access, meta, access.tenant.to_string()).send(gateway, meta, bytes, data).await
}

/// Change a tenant.
#[utoipa::path(patch, path = "/v1/tenants/{t}", tag = "tenant", request_body = UpdateTenant, responses((status = 200, body = Succeeded)))]
pub(crate) async fn update(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<UpdateTenant>) -> Result<Response, Problem> {
    let UpdateTenant { name, settings } = body.data;
    let settings = settings.map(|UpdateSettings { notify_profile_updated, notify_invitation_expired }| SettingsPatch {
        notify_profile_updated,
        notify_invitation_expired,
    });
    command(&gateway, &access, &meta, &body.bytes, &Update { name, settings }).await
}

/// End a suspension.
#[utoipa::path(post, path = "/v1/tenants/{t}/activate", tag = "tenant", request_body = Option<NoBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn activate(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

/// Suspend a tenant.
#[utoipa::path(post, path = "/v1/tenants/{t}/suspend", tag = "tenant", request_body = Option<ReasonBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn suspend(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<ReasonBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &WithReason { reason: body.data.reason }).await
}

/// End a tenant for ever.
#[utoipa::path(post, path = "/v1/tenants/{t}/cancel", tag = "tenant", request_body = Option<ReasonBody>, responses((status = 200, body = Succeeded)))]
pub(crate) async fn cancel(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<ReasonBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &WithReason { reason: body.data.reason }).await
}

/// Go to a higher plan.
#[utoipa::path(post, path = "/v1/tenants/{t}/plan", tag = "tenant", request_body = PlanBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn plan(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<PlanBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &UpgradePlan { plan: body.data.plan }).await
}

/// Read where the people of a tenant sign in.
#[utoipa::path(get, path = "/v1/tenants/{t}/sso", tag = "tenant", responses((status = 200, body = SsoView)))]
pub(crate) async fn sso(State(gateway): State<Gateway>, access: Access, headers: axum::http::HeaderMap) -> Result<Response, Problem> {
    view::one(&gateway, &headers, Sight::of(access.tenant), "sso_views", access.tenant.uuid()).await
}

/// Say where the people of a tenant sign in.
#[utoipa::path(put, path = "/v1/tenants/{t}/sso", tag = "tenant", request_body = SsoBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn configure_sso(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<SsoBody>) -> Result<Response, Problem> {
    let SsoBody { provider, issuer, client_id } = body.data;
    command(&gateway, &access, &meta, &body.bytes, &Sso { provider, issuer, client_id }).await
}

/// No longer let the people of a tenant sign in elsewhere.
#[utoipa::path(delete, path = "/v1/tenants/{t}/sso", tag = "tenant", responses((status = 200, body = Succeeded)))]
pub(crate) async fn disable_sso(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

const TENANTS: Listing = Listing {
    view: "all_tenant_views",
    orders: &[("createdAt", "created_at"), ("name", "name"), ("slug", "slug"), ("state", "state")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[("state", "state", Compare::Text), ("slug", "slug", Compare::Text), ("plan", "plan", Compare::Text)],
    attributes: false,
};

/// List the tenants.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenant", params(crate::openapi::Page, ("slug" = Option<String>, Query), ("plan" = Option<String>, Query)),
    responses((status = 200, body = crate::view::TenantPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, _caller: Signed, params: Params) -> Result<Response, Problem> {
    TENANTS.answer(&gateway, Sight { operator: true, ..Sight::default() }, &params).await
}

/// Read a tenant.
#[utoipa::path(get, path = "/v1/tenants/{t}", tag = "tenant", responses((status = 200, body = TenantView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, access: Access, headers: axum::http::HeaderMap) -> Result<Response, Problem> {
    view::one(&gateway, &headers, Sight::of(access.tenant), "tenant_views", access.tenant.uuid()).await
}
