//! What became of a command.

use axum::{extract::State, response::Response};
use subjects::{CommandId, Outcome};

use super::Endpoint;
use crate::{
    access::Purpose,
    answer::{CommandView, json},
    auth::Caller,
    gateway::Gateway,
    guard::{Path, Signed},
    policy::Policy,
    problem::{Code, Problem},
    store::Sight,
    timeline::{self, Timeline},
};

static GET: Policy = Policy::query("/v1/commands/{id}", "commands:read");
static TIMELINE: Policy = Policy::query("/v1/commands/{id}/timeline", "commands:read");

/// The routes of commands.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&GET, get), Endpoint::new(&TIMELINE, timeline)]
}

/// Whose outcomes a caller sees: their own, and as an admin those of the token's tenant.
async fn sight(gateway: &Gateway, caller: &Caller) -> Result<Sight, Problem> {
    let own = Sight { actor: Some(caller.actor), operator: caller.operator, tenant: None };
    let (Some(tenant), Some(user)) = (caller.tenant, caller.user()) else { return Ok(own) };
    let standing = gateway.standings.reaching(tenant, user, Some(subjects::Role::Admin), Purpose::Query).await?;
    let admin = standing.and_then(|standing| standing.role).is_some_and(|role| role >= subjects::Role::Admin);
    Ok(Sight { tenant: admin.then_some(tenant), ..own })
}

/// The outcome of a command; `pending` while it is not decided, or not known.
#[utoipa::path(get, path = "/v1/commands/{id}", tag = "command", responses((status = 200, body = CommandView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, Signed(caller): Signed, path: Path) -> Result<Response, Problem> {
    let id: CommandId = path.id("id")?;
    let sight = sight(&gateway, &caller).await?;
    let text = gateway.store.text(sight, "SELECT outcome::text FROM commands WHERE id = $1", &[&id.uuid()]).await?;
    let view = match text.map(|text| serde_json::from_str::<Outcome>(&text)).transpose() {
        Ok(Some(outcome)) => CommandView::decided(&outcome),
        Ok(None) => CommandView::pending(id),
        Err(error) => {
            tracing::error!(%error, command.id = %id, "a recorded outcome cannot be read");
            return Err(Problem::new(Code::Internal));
        }
    };
    Ok(json(serde_json::to_vec(&view).unwrap_or_default()))
}

/// What became of a command on its way: when it was accepted and decided, when each event was published, and what each consumer made of it.
#[utoipa::path(get, path = "/v1/commands/{id}/timeline", tag = "command", responses((status = 200, body = Timeline)))]
pub(crate) async fn timeline(State(gateway): State<Gateway>, Signed(caller): Signed, path: Path) -> Result<Response, Problem> {
    let id: CommandId = path.id("id")?;
    let sight = sight(&gateway, &caller).await?;
    let view = timeline::of(&gateway, sight, id).await?;
    Ok(json(serde_json::to_vec(&view).unwrap_or_default()))
}
