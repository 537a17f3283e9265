//! Invitations, as those see them who invite.

use aggregates::{
    attributes::Attributes,
    invitation::{Create, InvitationType, RemoveAttribute, Send, SetAttribute, Update},
    tenant::Nothing,
    text::{AttributeKey, Email},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subjects::{InvitationId, Kind, Role, TeamId, TenantId, derive};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{Endpoint, Order, tenant::NoBody};
use crate::{
    answer::{Created, Extra, Succeeded, answer_with},
    body::{Body, Fields, Form},
    gateway::Gateway,
    guard::Access,
    link::token_hash,
    list::{Compare, Listing, Params},
    policy::{Policy, Verb},
    problem::{Code, FieldError, Problem},
    request::Meta,
    store::{Sight, StoreError},
    view::{self, InvitationView},
};

const ONE: &str = "/v1/tenants/{t}/invitations/{i}";
const ATTRIBUTE: &str = "/v1/tenants/{t}/invitations/{i}/attributes/{key}";

static CREATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/invitations", Kind::Invitation, "create", "invitations:write");
static LIST: Policy = Policy::query("/v1/tenants/{t}/invitations", "invitations:read");
static GET: Policy = Policy::query(ONE, "invitations:read");
static UPDATE: Policy = Policy::command(Verb::Patch, ONE, Kind::Invitation, "update", "invitations:write");
static REMOVE: Policy = Policy::command(Verb::Delete, ONE, Kind::Invitation, "remove", "invitations:write");
static SEND: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/invitations/{i}/send", Kind::Invitation, "send", "invitations:write");
static SET: Policy = Policy::command(Verb::Put, ATTRIBUTE, Kind::Invitation, "set_attribute", "invitations:write");
static UNSET: Policy = Policy::command(Verb::Delete, ATTRIBUTE, Kind::Invitation, "remove_attribute", "invitations:write");

/// The routes of invitations.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(&CREATE, create),
        Endpoint::new(&LIST, list),
        Endpoint::new(&GET, get),
        Endpoint::new(&UPDATE, update),
        Endpoint::new(&REMOVE, remove),
        Endpoint::new(&SEND, send),
        Endpoint::new(&SET, set_attribute),
        Endpoint::new(&UNSET, remove_attribute),
    ]
}

/// A time of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
struct Time(#[serde(with = "subjects::timestamp")] OffsetDateTime);

/// A new invitation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateInvitation {
    /// Who is invited.
    #[schema(value_type = String, format = Email, max_length = 254)]
    email: Email,
    /// `email` (we mail it) or `link` (the answer carries the link once); `email` unless given.
    #[schema(value_type = Option<String>, example = "email")]
    #[serde(default)]
    invitation_type: Option<InvitationType>,
    /// `owner`, `admin`, `member` or `readonly`; `member` unless given.
    #[schema(value_type = Option<String>, example = "member")]
    #[serde(default)]
    role: Option<Role>,
    /// The teams the person will be in.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default)]
    team_ids: Option<Vec<TeamId>>,
    /// Free JSON values under keys `[A-Za-z0-9_.-]{1,64}`; 64 at most, 8 KiB together.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    attributes: Option<Attributes>,
    /// When it ends: 7 days from now unless given and 30 at most; a link 48 hours at most.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    expires_at: Option<Time>,
    /// Whether to mail it at once; a link never is. `true` unless given.
    #[serde(default)]
    send: Option<bool>,
}

impl Form for CreateInvitation {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Email>("email");
        fields.optional::<InvitationType>("invitationType");
        fields.optional::<Role>("role");
        fields.optional::<Vec<TeamId>>("teamIds");
        fields.optional::<Attributes>("attributes");
        fields.optional::<Time>("expiresAt");
        fields.optional::<bool>("send");
    }
}

/// What changes; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateInvitation {
    /// Instead of all present ones.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    attributes: Option<Attributes>,
}

impl Form for UpdateInvitation {
    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Attributes>("attributes");
    }
}

/// How to send; the body may be left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SendInvitation {
    /// When it ends now.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    expires_at: Option<Time>,
}

impl Form for SendInvitation {
    const OPTIONAL: bool = true;

    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Time>("expiresAt");
    }
}

/// The value of an attribute.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributeBody {
    /// Any JSON.
    #[schema(value_type = Object)]
    value: Value,
}

impl Form for AttributeBody {
    fn check(fields: &mut Fields<'_>) {
        fields.any("value");
    }
}

/// The address a person opens. The token stands behind `#`: browsers do not send it, so it reaches no log.
fn link(gateway: &Gateway, invitation: InvitationId, version: u32) -> String {
    format!("{}/invite#token={}", gateway.config.public_url.trim_end_matches('/'), gateway.links.invitation_token(invitation, version))
}

/// Invite somebody.
#[utoipa::path(post, path = "/v1/tenants/{t}/invitations", tag = "invitation", request_body = CreateInvitation, responses((status = 201, body = Succeeded)))]
pub(crate) async fn create(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<CreateInvitation>) -> Result<Response, Problem> {
    let mut order = Order::to(&access, &meta, String::new());
    let (id, invitation): (_, InvitationId) = (order.id, derive(order.id.uuid(), "invitation"));
    order.aggregate = invitation.to_string();
    let (data, link) = invite(&gateway, invitation, body.data)?;
    let fate = order.carry_out(&gateway, &meta, &body.bytes, &data).await?;
    let place = Created::At(format!("/v1/tenants/{}/invitations/{invitation}", access.tenant));
    answer_with(fate, id, &meta, place, Extra { link, ..Extra::default() })
}

/// The command that makes out an invitation, and its link where it has one.
///
/// # Errors
/// What the form alone does not tell.
pub(super) fn invite(gateway: &Gateway, invitation: InvitationId, form: CreateInvitation) -> Result<(Create, Option<String>), Problem> {
    let CreateInvitation { email, invitation_type, role, team_ids, attributes, expires_at, send } = form;
    let invitation_type = invitation_type.unwrap_or_default();
    if team_ids.as_ref().is_some_and(|teams| teams.len() > aggregates::invitation::MAX_TEAMS) {
        let many = FieldError::new("/teamIds", format!("must be at most {} teams", aggregates::invitation::MAX_TEAMS));
        return Err(Problem::new(Code::ValidationFailed).errors(vec![many]));
    }
    let data = Create {
        email,
        invitation_type,
        role: role.unwrap_or(Role::Member),
        team_ids: team_ids.unwrap_or_default(),
        attributes: attributes.unwrap_or_default(),
        expires_at: expires_at.map(|time| time.0),
        token_hash: token_hash(&gateway.links.invitation_token(invitation, 1)),
        send: send.unwrap_or(true),
    };
    Ok((data, (invitation_type == InvitationType::Link).then(|| link(gateway, invitation, 1))))
}

/// A command to the invitation of the path.
async fn command(gateway: &Gateway, access: &Access, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Response, Problem> {
    let invitation: InvitationId = access.path.id("i")?;
    Order::to(access, meta, invitation.to_string()).send(gateway, meta, bytes, data).await
}

/// What sending needs to know of an invitation.
struct Sending {
    version: u32,
    state: String,
    invitation_type: String,
}

async fn sending(gateway: &Gateway, tenant: TenantId, invitation: InvitationId) -> Result<Sending, Problem> {
    const SQL: &str = "SELECT token_version, state, invitation_type FROM invitation_views WHERE id = $1";
    let rows = gateway.store.rows(Sight::of(tenant), SQL, &[&invitation.uuid()]).await?;
    let row = rows.first().ok_or_else(Problem::not_found)?;
    let read = || -> Result<Sending, tokio_postgres::Error> {
        let version: i64 = row.try_get(0)?;
        Ok(Sending { version: u32::try_from(version).unwrap_or(u32::MAX), state: row.try_get(1)?, invitation_type: row.try_get(2)? })
    };
    Ok(read().map_err(StoreError::from)?)
}

/// Send an invitation, for the first time or again; again with a new link that ends the old one.
#[utoipa::path(post, path = "/v1/tenants/{t}/invitations/{i}/send", tag = "invitation", request_body = Option<SendInvitation>,
    responses((status = 200, body = Succeeded)))]
pub(crate) async fn send(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<SendInvitation>) -> Result<Response, Problem> {
    let invitation: InvitationId = access.path.id("i")?;
    let Sending { version, state, invitation_type } = sending(&gateway, access.tenant, invitation).await?;
    // The first sending mails the link of the creation.
    let version = if state == "created" { version } else { version.saturating_add(1) };
    let order = Order::to(&access, &meta, invitation.to_string());
    let (id, created) = (order.id, order.created.clone());
    let data = Send {
        token_version: version,
        token_hash: token_hash(&gateway.links.invitation_token(invitation, version)),
        expires_at: body.data.expires_at.map(|time| time.0),
    };
    let fate = order.carry_out(&gateway, &meta, &body.bytes, &data).await?;
    // Read again: a repeated request has the first one's outcome, and the link of that.
    let link = match invitation_type == "link" && matches!(fate, crate::submit::Fate::Decided(_)) {
        true => Some(link(&gateway, invitation, sending(&gateway, access.tenant, invitation).await?.version)),
        false => None,
    };
    answer_with(fate, id, &meta, created, Extra { link, ..Extra::default() })
}

/// Change an invitation.
#[utoipa::path(patch, path = "/v1/tenants/{t}/invitations/{i}", tag = "invitation", request_body = UpdateInvitation, responses((status = 200, body = Succeeded)))]
pub(crate) async fn update(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<UpdateInvitation>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Update { attributes: body.data.attributes }).await
}

/// Take an invitation back.
#[utoipa::path(delete, path = "/v1/tenants/{t}/invitations/{i}", tag = "invitation", responses((status = 200, body = Succeeded)))]
pub(crate) async fn remove(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

/// Attach an attribute.
#[utoipa::path(put, path = "/v1/tenants/{t}/invitations/{i}/attributes/{key}", tag = "invitation", request_body = AttributeBody,
    responses((status = 200, body = Succeeded)))]
pub(crate) async fn set_attribute(
    State(gateway): State<Gateway>,
    access: Access,
    meta: Meta,
    body: Body<AttributeBody>,
) -> Result<Response, Problem> {
    let invalid = |pointer: &str, detail: String| Problem::new(Code::ValidationFailed).errors(vec![FieldError::new(pointer, detail)]);
    let key: AttributeKey = access.path.text("key")?.parse().map_err(|error: aggregates::text::TextError| invalid("{key}", error.to_string()))?;
    let value = body.data.value;
    Attributes::default().with(key.clone(), value.clone()).map_err(|error| invalid("/value", error.to_string()))?;
    command(&gateway, &access, &meta, &body.bytes, &SetAttribute { key, value }).await
}

/// Detach an attribute.
#[utoipa::path(delete, path = "/v1/tenants/{t}/invitations/{i}/attributes/{key}", tag = "invitation", responses((status = 200, body = Succeeded)))]
pub(crate) async fn remove_attribute(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    let key: AttributeKey = access.path.text("key")?.parse().map_err(|_| Problem::not_found())?;
    command(&gateway, &access, &meta, &body.bytes, &RemoveAttribute { key }).await
}

const INVITATIONS: Listing = Listing {
    view: "invitation_views",
    orders: &[("createdAt", "created_at"), ("email", "email"), ("state", "state, created_at"), ("expiresAt", "expires")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[
        ("state", "state", Compare::Text),
        ("email", "email", Compare::Email),
        ("role", "role", Compare::Text),
        ("invitationType", "invitation_type", Compare::Text),
    ],
    attributes: true,
};

/// How PostgreSQL reads the invitations that a query asks for: the plans of the page and of the count, as JSON.
///
/// # Errors
/// The query is none of this list, or the database refuses.
pub async fn explain(client: &tokio_postgres::Client, query: &[(&str, &str)]) -> Result<Vec<Value>, crate::list::ExplainError> {
    INVITATIONS.explain(client, &Params::new(query)).await
}

/// List the invitations.
#[utoipa::path(get, path = "/v1/tenants/{t}/invitations", tag = "invitation",
    params(crate::openapi::Page, ("email" = Option<String>, Query), ("role" = Option<String>, Query), ("invitationType" = Option<String>, Query),
        ("attr.<key>" = Option<String>, Query, description = "the value of an attribute; may be given for several keys")),
    responses((status = 200, body = crate::view::InvitationPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    INVITATIONS.answer(&gateway, Sight::of(access.tenant), &params).await
}

/// Read an invitation.
#[utoipa::path(get, path = "/v1/tenants/{t}/invitations/{i}", tag = "invitation", responses((status = 200, body = InvitationView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, access: Access, headers: HeaderMap) -> Result<Response, Problem> {
    let invitation: InvitationId = access.path.id("i")?;
    view::one(&gateway, &headers, Sight::of(access.tenant), "invitation_views", invitation.uuid()).await
}
