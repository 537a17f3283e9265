//! Invitations, as those see them who hold a link. The token is in the body, never in a URL; the routes are open to everybody and
//! counted by address and by invitation.

use aggregates::{
    Reason,
    invitation::{Accept, Decline},
    text::{Email, Line},
};
use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subjects::{Actor, Authority, CommandId, InvitationId, Kind, Status, TenantId, UserId, derive};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Endpoint;
use crate::{
    access::forbidden,
    answer::{Created, Extra, Succeeded, answer, answer_with, json as json_response},
    auth::SHORT,
    body::{Body, Fields, Form},
    gateway::Gateway,
    link::token_hash,
    policy::{Does, Policy, Verb},
    problem::{Code, Problem},
    request::Meta,
    store::{Sight, StoreError},
    submit::{Draft, Fate},
    view::Named,
};

static LOOKUP: Policy = Policy::lookup("/v1/invitations/lookup", "links:use");
static ACCEPT: Policy = Policy::command(Verb::Post, "/v1/invitations/accept", Kind::Invitation, "accept", "links:use");
static DECLINE: Policy = Policy::command(Verb::Post, "/v1/invitations/decline", Kind::Invitation, "decline", "links:use");

/// The routes for who holds a link.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&LOOKUP, lookup), Endpoint::new(&ACCEPT, accept), Endpoint::new(&DECLINE, decline)]
}

/// The token of a link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenBody {
    /// As it stands behind `#token=` in the link.
    token: String,
}

impl Form for TokenBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<String>("token");
    }
}

/// The token of a link, and who accepts.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AcceptBody {
    /// As it stands behind `#token=` in the link.
    token: String,
    /// The name of a new person; the first part of the address unless given.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    full_name: Option<Line>,
}

impl Form for AcceptBody {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<String>("token");
        fields.optional::<Line>("fullName");
    }
}

/// What a link shows of its invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkView {
    /// Id.
    pub id: String,
    /// The tenant it is to.
    pub tenant: Named,
    /// The address it is for.
    pub email: String,
    /// `created`, `sent`, `accepted`, `declined`, `removed` or `expired`.
    pub state: String,
    /// `email` or `link`.
    pub invitation_type: String,
    /// The role it offers.
    pub role: String,
    /// When it ends.
    pub expires_at: String,
}

/// Who is signed in, if anybody is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor(Option<UserId>);

impl FromRequestParts<Gateway> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        match gateway.tokens.optional_caller(&parts.headers)? {
            None => Ok(Self(None)),
            // A program is nobody who could be invited.
            Some(caller) => caller.user().map(|user| Self(Some(user))).ok_or_else(forbidden),
        }
    }
}

/// The invitation a token belongs to.
struct Found {
    tenant: TenantId,
    invitation: InvitationId,
    hash: String,
    state: Value,
    tenant_name: Option<String>,
}

impl Found {
    fn text(&self, name: &str) -> &str {
        self.state[name].as_str().unwrap_or_default()
    }
}

/// Finds the invitation of a token. One that is unknown is like one that was replaced.
async fn find(gateway: &Gateway, token: &str) -> Result<Found, Problem> {
    const SQL: &str = "SELECT tenant_id, id, state, tenant_state ->> 'name' FROM invitation_by_token($1)";
    let hash = token_hash(token);
    let rows = gateway.store.rows(Sight::default(), SQL, &[&hash]).await?;
    let row = rows.first().ok_or_else(|| Problem::new(Reason::InvalidToken))?;
    let read = || -> Result<Found, tokio_postgres::Error> {
        let (tenant, invitation) = (TenantId::new(row.try_get(0)?), InvitationId::new(row.try_get(1)?));
        Ok(Found { tenant, invitation, hash, state: row.try_get(2)?, tenant_name: row.try_get(3)? })
    };
    let found = read().map_err(StoreError::from)?;
    gateway.limits.invitation(found.invitation)?;
    Ok(found)
}

/// Show what a link offers.
#[utoipa::path(post, path = "/v1/invitations/lookup", tag = "link", request_body = TokenBody, responses((status = 200, body = LinkView)))]
pub(crate) async fn lookup(State(gateway): State<Gateway>, body: Body<TokenBody>) -> Result<Response, Problem> {
    let found = find(&gateway, &body.data.token).await?;
    let view = json!({
        "id": found.invitation, "tenant": { "id": found.tenant, "name": found.tenant_name }, "email": found.text("email"),
        "state": found.text("status"), "invitationType": found.text("invitationType"), "role": found.text("role"),
        "expiresAt": found.text("expiresAt"),
    });
    Ok(json_response(view.to_string()))
}

/// Sends a command about the invitation of a link, for who is signed in or for nobody in particular.
async fn send(
    gateway: &Gateway,
    meta: &Meta,
    bytes: &[u8],
    found: &Found,
    id: CommandId,
    actor: (Actor, Authority),
    data: &impl Serialize,
) -> Result<Fate, Problem> {
    let Does::Command(kind, command) = meta.policy.does else { return Err(Problem::new(Code::Internal)) };
    let draft = Draft {
        id,
        tenant: found.tenant,
        kind,
        command,
        aggregate: found.invitation.to_string(),
        actor: actor.0,
        authority: actor.1,
        data: Draft::data(data)?,
    };
    gateway.commands.carry_out(draft, meta, bytes).await
}

/// The command's id: under a key in the scope of who is signed in, or of the link.
fn command_id(meta: &Meta, found: &Found, visitor: Visitor) -> CommandId {
    let principal = visitor.0.map_or_else(|| format!("link:{}", found.hash), |user| user.to_string());
    meta.command_id(&found.tenant.to_string(), &principal)
}

/// Accept an invitation: as who is signed in, or as a new person.
#[utoipa::path(post, path = "/v1/invitations/accept", tag = "link", request_body = AcceptBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn accept(State(gateway): State<Gateway>, visitor: Visitor, meta: Meta, body: Body<AcceptBody>) -> Result<Response, Problem> {
    let found = find(&gateway, &body.data.token).await?;
    let id = command_id(&meta, &found, visitor);
    let person: UserId = visitor.0.unwrap_or_else(|| derive(id.uuid(), "user"));
    let authority = if visitor.0.is_some() { Authority::Member } else { Authority::Link };
    let email: Email = found.text("email").parse().map_err(|_| Problem::new(Reason::InvalidToken))?;
    let data = Accept { token_hash: found.hash.clone(), email, user_id: visitor.0, full_name: body.data.full_name };
    let fate = send(&gateway, &meta, &body.bytes, &found, id, (Actor::User(person), authority), &data).await?;
    gateway.standings.forget(found.tenant, person).await;
    let welcome = match (&fate, visitor.0) {
        (Fate::Decided(outcome), None) if outcome.status == Status::Succeeded => welcome(&gateway, &found, id, person).await?,
        _ => Extra::default(),
    };
    answer_with(fate, id, &meta, Created::Nothing, welcome)
}

/// A short access token for who has just become a user. It ends some minutes after the acceptance and not after the request: whoever
/// repeats the request later must not be let in by an old link.
async fn welcome(gateway: &Gateway, found: &Found, id: CommandId, person: UserId) -> Result<Extra, Problem> {
    let now = OffsetDateTime::now_utc();
    let decided = if found.text("status") == "accepted" {
        const SQL: &str = "SELECT decided_at FROM commands WHERE id = $1";
        let rows = gateway.store.rows(Sight::of(found.tenant), SQL, &[&id.uuid()]).await?;
        rows.first().map(|row| row.try_get(0)).transpose().map_err(StoreError::from)?.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    } else {
        now
    };
    let ends = decided + SHORT;
    let left = (ends - now).whole_seconds();
    let access_token = if left > 0 { gateway.tokens.mint(person, found.tenant, ends) } else { None };
    Ok(Extra { token_type: access_token.as_ref().map(|_| "Bearer"), expires_in: access_token.as_ref().map(|_| left), access_token, link: None })
}

/// Decline an invitation.
#[utoipa::path(post, path = "/v1/invitations/decline", tag = "link", request_body = TokenBody, responses((status = 200, body = Succeeded)))]
pub(crate) async fn decline(State(gateway): State<Gateway>, visitor: Visitor, meta: Meta, body: Body<TokenBody>) -> Result<Response, Problem> {
    let found = find(&gateway, &body.data.token).await?;
    let id = command_id(&meta, &found, visitor);
    let actor = visitor.0.map_or((Actor::System, Authority::Link), |user| (Actor::User(user), Authority::Member));
    let data = Decline { token_hash: found.hash.clone(), user_id: visitor.0 };
    let fate = send(&gateway, &meta, &body.bytes, &found, id, actor, &data).await?;
    answer(fate, id, &meta, Created::Nothing)
}
