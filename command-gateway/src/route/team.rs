//! Teams and who is in them.

use std::collections::BTreeSet;

use aggregates::{
    team::{Create, MAX_PEOPLE, People, Update},
    tenant::Nothing,
    text::Line,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use subjects::{Kind, TeamId, UserId, derive};
use utoipa::ToSchema;

use super::{Endpoint, Order, tenant::NoBody};
use crate::{
    answer::{Created, Succeeded},
    body::{Body, Fields, Form},
    gateway::Gateway,
    guard::Access,
    list::{Compare, Listing, Params},
    policy::{Policy, Verb},
    problem::{Code, FieldError, Problem},
    request::Meta,
    store::Sight,
    view::{self, TeamView},
};

const ONE: &str = "/v1/tenants/{t}/teams/{team}";

static CREATE: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/teams", Kind::Team, "create", "teams:write");
static LIST: Policy = Policy::query("/v1/tenants/{t}/teams", "teams:read");
static GET: Policy = Policy::query(ONE, "teams:read");
static UPDATE: Policy = Policy::command(Verb::Patch, ONE, Kind::Team, "update", "teams:write");
static DELETE: Policy = Policy::command(Verb::Delete, ONE, Kind::Team, "delete", "teams:write");
static ADD: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/teams/{team}/members", Kind::Team, "add_members", "teams:write");
static REMOVE: Policy = Policy::command(Verb::Delete, "/v1/tenants/{t}/teams/{team}/members/{u}", Kind::Team, "remove_members", "teams:write");

/// The routes of teams.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new(&CREATE, create),
        Endpoint::new(&LIST, list),
        Endpoint::new(&GET, get),
        Endpoint::new(&UPDATE, update),
        Endpoint::new(&DELETE, delete),
        Endpoint::new(&ADD, add_members),
        Endpoint::new(&REMOVE, remove_member),
    ]
}

/// A new team.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateTeam {
    /// Its name, unique in the tenant whatever the case of its letters.
    #[schema(value_type = String, min_length = 1, max_length = 200, example = "Design")]
    name: Line,
    /// The team it belongs to; teams stand at most 16 below each other.
    #[schema(value_type = Option<String>, example = "team_01890a5d-ac96-774b-bcce-b302099a8057")]
    #[serde(default)]
    parent_team_id: Option<TeamId>,
}

impl Form for CreateTeam {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Line>("name");
        fields.optional::<TeamId>("parentTeamId");
    }
}

/// What changes; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateTeam {
    /// New name.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    name: Option<Line>,
    /// The team it belongs to from now on; `null` for none.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "aggregates::team::given")]
    parent_team_id: Option<Option<TeamId>>,
}

impl Form for UpdateTeam {
    fn check(fields: &mut Fields<'_>) {
        fields.optional::<Line>("name");
        fields.optional::<TeamId>("parentTeamId");
    }
}

/// Who is put in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AddToTeam {
    /// Members of the tenant: all of them are put in, or none.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 100)]
    user_ids: BTreeSet<UserId>,
}

impl Form for AddToTeam {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<BTreeSet<UserId>>("userIds");
    }
}

/// A command to the team of the path.
async fn command(gateway: &Gateway, access: &Access, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Response, Problem> {
    let team: TeamId = access.path.id("team")?;
    Order::to(access, meta, team.to_string()).send(gateway, meta, bytes, data).await
}

/// Create a team.
#[utoipa::path(post, path = "/v1/tenants/{t}/teams", tag = "team", request_body = CreateTeam, responses((status = 201, body = Succeeded)))]
pub(crate) async fn create(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<CreateTeam>) -> Result<Response, Problem> {
    let mut order = Order::to(&access, &meta, String::new());
    let team: TeamId = derive(order.id.uuid(), "team");
    order.aggregate = team.to_string();
    order.created = Created::At(format!("/v1/tenants/{}/teams/{team}", access.tenant));
    let CreateTeam { name, parent_team_id } = body.data;
    order.send(&gateway, &meta, &body.bytes, &Create { name, parent_team_id }).await
}

/// Change a team's name, or the team it belongs to.
#[utoipa::path(patch, path = "/v1/tenants/{t}/teams/{team}", tag = "team", request_body = UpdateTeam, responses((status = 200, body = Succeeded)))]
pub(crate) async fn update(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<UpdateTeam>) -> Result<Response, Problem> {
    let UpdateTeam { name, parent_team_id } = body.data;
    command(&gateway, &access, &meta, &body.bytes, &Update { name, parent_team_id }).await
}

/// End a team that has no teams below it.
#[utoipa::path(delete, path = "/v1/tenants/{t}/teams/{team}", tag = "team", responses((status = 200, body = Succeeded)))]
pub(crate) async fn delete(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    command(&gateway, &access, &meta, &body.bytes, &Nothing {}).await
}

/// Put members of the tenant into a team.
#[utoipa::path(post, path = "/v1/tenants/{t}/teams/{team}/members", tag = "team", request_body = AddToTeam, responses((status = 200, body = Succeeded)))]
pub(crate) async fn add_members(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<AddToTeam>) -> Result<Response, Problem> {
    let user_ids = body.data.user_ids;
    if !(1..=MAX_PEOPLE).contains(&user_ids.len()) {
        let count = FieldError::new("/userIds", format!("must be 1 to {MAX_PEOPLE} users"));
        return Err(Problem::new(Code::ValidationFailed).errors(vec![count]));
    }
    command(&gateway, &access, &meta, &body.bytes, &People { user_ids }).await
}

/// Take a member out of a team.
#[utoipa::path(delete, path = "/v1/tenants/{t}/teams/{team}/members/{u}", tag = "team", responses((status = 200, body = Succeeded)))]
pub(crate) async fn remove_member(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<NoBody>) -> Result<Response, Problem> {
    let user: UserId = access.path.id("u")?;
    command(&gateway, &access, &meta, &body.bytes, &People { user_ids: [user].into() }).await
}

const TEAMS: Listing = Listing {
    view: "team_views",
    orders: &[("createdAt", "created_at"), ("name", "name")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[("name", "folded", Compare::Folded), ("parentTeamId", "parent", Compare::Text)],
    attributes: false,
};

/// List the teams. Who is in one is told by the list of members, with `team=`.
#[utoipa::path(get, path = "/v1/tenants/{t}/teams", tag = "team",
    params(crate::openapi::Page, ("name" = Option<String>, Query), ("parentTeamId" = Option<String>, Query)),
    responses((status = 200, body = crate::view::TeamPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    TEAMS.answer(&gateway, Sight::of(access.tenant), &params).await
}

/// Read a team.
#[utoipa::path(get, path = "/v1/tenants/{t}/teams/{team}", tag = "team", responses((status = 200, body = TeamView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, access: Access, headers: HeaderMap) -> Result<Response, Problem> {
    let team: TeamId = access.path.id("team")?;
    view::one(&gateway, &headers, Sight::of(access.tenant), "team_views", team.uuid()).await
}
