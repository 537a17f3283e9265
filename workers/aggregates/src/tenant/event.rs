//! What can happen to a tenant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::TenantId;

use super::{Changes, Plan, State};
use crate::{
    Claim, ClaimChange, Holder, Scope,
    text::{Issuer, Line, Slug},
};

/// What can happen to a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum Event {
    /// It came to be.
    #[serde(rename = "tenant.created")]
    Created {
        /// The tenant.
        tenant_id: TenantId,
        /// Short name.
        slug: Slug,
        /// Full name.
        name: Line,
        /// Plan.
        plan: Plan,
    },
    /// Its description changed.
    #[serde(rename = "tenant.updated")]
    Updated {
        /// The tenant.
        tenant_id: TenantId,
        /// What changed.
        changes: Changes,
    },
    /// A suspension ended.
    #[serde(rename = "tenant.activated")]
    Activated {
        /// The tenant.
        tenant_id: TenantId,
    },
    /// It was suspended.
    #[serde(rename = "tenant.suspended")]
    Suspended {
        /// The tenant.
        tenant_id: TenantId,
        /// Why.
        reason: Option<Line>,
    },
    /// It ended.
    #[serde(rename = "tenant.cancelled")]
    Cancelled {
        /// The tenant.
        tenant_id: TenantId,
        /// Why.
        reason: Option<Line>,
    },
    /// Its plan went up.
    #[serde(rename = "tenant.plan_upgraded")]
    PlanUpgraded {
        /// The tenant.
        tenant_id: TenantId,
        /// Before.
        old_plan: Plan,
        /// After.
        new_plan: Plan,
    },
    /// Its people sign in elsewhere.
    #[serde(rename = "tenant.sso_configured")]
    SsoConfigured {
        /// The tenant.
        tenant_id: TenantId,
        /// The provider's name.
        provider: Line,
        /// The issuer's identifier.
        issuer: Issuer,
        /// What the provider knows us by.
        client_id: Line,
    },
    /// They no longer do.
    #[serde(rename = "tenant.sso_disabled")]
    SsoDisabled {
        /// The tenant.
        tenant_id: TenantId,
    },
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 8] = [
        "tenant.created",
        "tenant.updated",
        "tenant.activated",
        "tenant.suspended",
        "tenant.cancelled",
        "tenant.plan_upgraded",
        "tenant.sso_configured",
        "tenant.sso_disabled",
    ];

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Created { .. } => "tenant.created",
            Self::Updated { .. } => "tenant.updated",
            Self::Activated { .. } => "tenant.activated",
            Self::Suspended { .. } => "tenant.suspended",
            Self::Cancelled { .. } => "tenant.cancelled",
            Self::PlanUpgraded { .. } => "tenant.plan_upgraded",
            Self::SsoConfigured { .. } => "tenant.sso_configured",
            Self::SsoDisabled { .. } => "tenant.sso_disabled",
        }
    }

    /// What it does to claims. A slug stays taken after cancellation: links to it must not change hands.
    pub fn claims(&self, _before: Option<&State>, tenant: TenantId) -> Vec<ClaimChange> {
        match self {
            Self::Created { slug, .. } => {
                vec![ClaimChange::Take(Claim::new(Scope::Slug, slug.as_str()), Holder { tenant, id: tenant.uuid() })]
            }
            _ => Vec::new(),
        }
    }
}
