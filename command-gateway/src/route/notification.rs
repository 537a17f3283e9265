//! The delivery log of a tenant: who was told what by mail, and how it ended. The table belongs to the notifier; this only reads.

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

static LIST: Policy = Policy::query("/v1/tenants/{t}/notifications", "notifications:read");

/// The routes of the delivery log.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&LIST, list)]
}

const NOTIFICATIONS: Listing = Listing {
    view: "notification_views",
    orders: &[("createdAt", "created_at")],
    default_order: "-createdAt",
    tie: "id",
    filters: &[
        ("state", "state", Compare::Text),
        ("eventType", "event_type", Compare::Text),
        ("template", "effect", Compare::Text),
        ("userId", "recipient", Compare::Text),
        ("from", "created_at", Compare::From),
        ("to", "created_at", Compare::To),
    ],
    attributes: false,
};

/// Search the delivery log of mails, newest first.
#[utoipa::path(get, path = "/v1/tenants/{t}/notifications", tag = "notifications",
    params(
        ("page" = Option<u32>, Query), ("pageSize" = Option<u32>, Query),
        ("orderBy" = Option<String>, Query, description = "`createdAt` or `-createdAt`"),
        ("state" = Option<String>, Query, description = "`pending`, `sent` or `undeliverable`"),
        ("eventType" = Option<String>, Query, description = "such as `tenant.suspended`"),
        ("template" = Option<String>, Query, description = "such as `member_welcome`"),
        ("userId" = Option<String>, Query, description = "to this user"),
        ("from" = Option<String>, Query, description = "at this time or later"), ("to" = Option<String>, Query, description = "before this time"),
    ),
    responses((status = 200, body = crate::view::NotificationPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    NOTIFICATIONS.answer(&gateway, Sight::of(access.tenant), &params).await
}
