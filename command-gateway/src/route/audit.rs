//! The audit log of a tenant. The table belongs to the audit consumer; this only reads.

use super::Endpoint;
use crate::{
    gateway::Gateway,
    guard::Access,
    list::{Compare, Listing, Params},
    policy::Policy,
    problem::Problem,
    store::Sight,
};
use axum::{extract::State, response::Response};

static LIST: Policy = Policy::query("/v1/tenants/{t}/audit", "audit:read");

/// The routes of the audit log.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&LIST, list)]
}

const AUDIT: Listing = Listing {
    view: "audit_views",
    orders: &[("occurredAt", "n")],
    default_order: "-occurredAt",
    tie: "n",
    filters: &[
        ("action", "action", Compare::Text),
        ("entityType", "entity_type", Compare::Text),
        ("entityId", "entity_id", Compare::Text),
        ("performedBy", "performed_by", Compare::Text),
        ("from", "occurred_at", Compare::From),
        ("to", "occurred_at", Compare::To),
    ],
    attributes: false,
};

/// Search the audit log, newest first.
#[utoipa::path(get, path = "/v1/tenants/{t}/audit", tag = "audit",
    params(
        ("page" = Option<u32>, Query), ("pageSize" = Option<u32>, Query),
        ("orderBy" = Option<String>, Query, description = "`occurredAt` or `-occurredAt`"),
        ("action" = Option<String>, Query), ("entityType" = Option<String>, Query), ("entityId" = Option<String>, Query),
        ("performedBy" = Option<String>, Query),
        ("from" = Option<String>, Query, description = "at this time or later"), ("to" = Option<String>, Query, description = "before this time"),
    ),
    responses((status = 200, body = crate::view::AuditPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    AUDIT.answer(&gateway, Sight::of(access.tenant), &params).await
}
