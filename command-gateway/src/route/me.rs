//! Who I am.

use axum::{extract::State, response::Response};
use serde_json::value::RawValue;

use super::Endpoint;
use crate::{access::Purpose, answer::json, gateway::Gateway, guard::Signed, policy::Policy, problem::Problem, store::Sight, view::MeView};

static GET: Policy = Policy::query("/v1/me", "me:read");

/// The routes about the caller.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&GET, get)]
}

/// As [`MeView`], with the profile as the database wrote it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Me<'a> {
    id: &'a str,
    tenant_id: Option<subjects::TenantId>,
    scope: &'a str,
    operator: bool,
    role: Option<subjects::Role>,
    user: Option<Box<RawValue>>,
}

/// The caller.
#[utoipa::path(get, path = "/v1/me", tag = "me", responses((status = 200, body = MeView)))]
pub(crate) async fn get(State(gateway): State<Gateway>, Signed(caller): Signed) -> Result<Response, Problem> {
    let mut me = Me { id: &caller.principal, tenant_id: caller.tenant, scope: &caller.scope, operator: caller.operator, role: None, user: None };
    if let (Some(tenant), Some(user)) = (caller.tenant, caller.user()) {
        let standing = gateway.standings.of(tenant, user, Purpose::Query).await?;
        me.role = standing.and_then(|standing| standing.role);
        let profile = gateway.store.text(Sight::of(tenant), "SELECT doc::text FROM user_views WHERE id = $1", &[&user.uuid()]).await?;
        me.user = profile.and_then(|profile| RawValue::from_string(profile).ok());
    }
    Ok(json(serde_json::to_vec(&me).unwrap_or_default()))
}
