//! What can happen to a membership.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Actor, InvitationId, Role, RoleId, TenantId, UserId};

use super::StandingReason;
use crate::{
    Reason,
    text::{Email, Line},
};

/// How a membership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalReason {
    /// Somebody removed the member.
    Removed,
    /// The member left.
    Left,
    /// The user was deleted.
    UserDeleted,
}

/// What can happen to a membership.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum Event {
    /// It began.
    #[serde(rename = "tenant.member_joined")]
    Joined {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// Their address.
        email: Email,
        /// Their role's id.
        role_id: RoleId,
        /// Their role.
        role_name: Role,
        /// The invitation they followed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invitation_id: Option<InvitationId>,
    },
    /// The role is another.
    #[serde(rename = "tenant.member_role_changed")]
    RoleChanged {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The former role's id; none after a revocation.
        old_role_id: Option<RoleId>,
        /// The former role.
        old_role_name: Option<Role>,
        /// The new role's id; none for a revocation.
        new_role_id: Option<RoleId>,
        /// The new role.
        new_role_name: Option<Role>,
        /// Who did it.
        changed_by: Option<Actor>,
    },
    /// It ended.
    #[serde(rename = "tenant.member_removed")]
    Removed {
        /// The tenant.
        tenant_id: TenantId,
        /// The former member.
        user_id: UserId,
        /// Their address.
        email: Email,
        /// Who did it.
        removed_by: Option<Actor>,
        /// How.
        reason: RemovalReason,
    },
    /// The member counts no longer: their home tenant shut them out.
    #[serde(rename = "tenant.member_suspended")]
    Suspended {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// What their home tenant did.
        reason: StandingReason,
        /// How often their standing had changed at home by then.
        home_standing: u32,
    },
    /// The member counts again.
    #[serde(rename = "tenant.member_reactivated")]
    Reactivated {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// What their home tenant did.
        reason: StandingReason,
        /// How often their standing had changed at home by then.
        home_standing: u32,
    },
    /// Somebody wants to give a role.
    #[serde(rename = "role.assignment_attempted")]
    AssignmentAttempted {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who wants it.
        assigned_by: Option<Actor>,
    },
    /// The role was given.
    #[serde(rename = "role.assignment_succeeded")]
    AssignmentSucceeded {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who did it.
        assigned_by: Option<Actor>,
    },
    /// The role was not given.
    #[serde(rename = "role.assignment_failed")]
    AssignmentFailed {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who wanted it.
        assigned_by: Option<Actor>,
        /// Why not.
        reason: Reason,
    },
    /// Somebody wants to take a role.
    #[serde(rename = "role.revocation_attempted")]
    RevocationAttempted {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who wants it.
        revoked_by: Option<Actor>,
        /// The reason they state.
        reason: Option<Line>,
    },
    /// The role was taken.
    #[serde(rename = "role.revocation_succeeded")]
    RevocationSucceeded {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who did it.
        revoked_by: Option<Actor>,
        /// The reason they state.
        reason: Option<Line>,
    },
    /// The role was not taken.
    #[serde(rename = "role.revocation_failed")]
    RevocationFailed {
        /// The tenant.
        tenant_id: TenantId,
        /// The member.
        user_id: UserId,
        /// The role.
        role: Role,
        /// Who wanted it.
        revoked_by: Option<Actor>,
        /// Why not.
        reason: Reason,
        /// The reason they state.
        stated_reason: Option<Line>,
    },
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 11] = [
        "tenant.member_joined",
        "tenant.member_role_changed",
        "tenant.member_removed",
        "tenant.member_suspended",
        "tenant.member_reactivated",
        "role.assignment_attempted",
        "role.assignment_succeeded",
        "role.assignment_failed",
        "role.revocation_attempted",
        "role.revocation_succeeded",
        "role.revocation_failed",
    ];

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Joined { .. } => "tenant.member_joined",
            Self::RoleChanged { .. } => "tenant.member_role_changed",
            Self::Removed { .. } => "tenant.member_removed",
            Self::Suspended { .. } => "tenant.member_suspended",
            Self::Reactivated { .. } => "tenant.member_reactivated",
            Self::AssignmentAttempted { .. } => "role.assignment_attempted",
            Self::AssignmentSucceeded { .. } => "role.assignment_succeeded",
            Self::AssignmentFailed { .. } => "role.assignment_failed",
            Self::RevocationAttempted { .. } => "role.revocation_attempted",
            Self::RevocationSucceeded { .. } => "role.revocation_succeeded",
            Self::RevocationFailed { .. } => "role.revocation_failed",
        }
    }

    /// Whether the version moves: an attempt and its end tell of a change, they are none.
    pub const fn changes_state(&self) -> bool {
        match self {
            Self::Joined { .. } | Self::RoleChanged { .. } | Self::Removed { .. } | Self::Suspended { .. } | Self::Reactivated { .. } => true,
            Self::AssignmentAttempted { .. }
            | Self::AssignmentSucceeded { .. }
            | Self::AssignmentFailed { .. }
            | Self::RevocationAttempted { .. }
            | Self::RevocationSucceeded { .. }
            | Self::RevocationFailed { .. } => false,
        }
    }
}
