//! The closed set of refusals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why the domain says no. The code is part of the contract; a refusal is an answer and is never retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no such thing in this tenant.
    NotFound,
    /// The actor may not do this.
    Forbidden,
    /// The aggregate has another version than the caller expects.
    VersionConflict,
    /// Another tenant has this slug, or it is reserved.
    SlugTaken,
    /// The state does not allow this step.
    InvalidTransition,
    /// The tenant has this plan already.
    SamePlan,
    /// The plan is lower than the present one.
    NotAnUpgrade,
    /// Another user has this e-mail address.
    EmailTaken,
    /// The tenant would lose its last active owner.
    LastOwner,
    /// Deletion is allowed only some time after deactivation.
    SoftDeletionPeriod,
    /// The tenant's plan allows no further member.
    SeatLimit,
    /// There is no such user.
    UserNotFound,
    /// The member has this role already.
    AlreadyHasRole,
    /// The member does not have this role.
    DoesNotHaveRole,
    /// The person is a member already.
    AlreadyAMember,
    /// Only an owner makes or unmakes an owner.
    OwnerRequired,
    /// Nobody raises their own role.
    OwnRole,
    /// The tenant is suspended or cancelled.
    TenantNotActive,
    /// The person's home is another tenant: they are invited, not added.
    InvitationRequired,
    /// The invitation's time is over.
    Expired,
    /// The token is not (or no longer) this invitation's.
    InvalidToken,
    /// The invitation is in a state that does not allow this.
    InvalidState,
    /// The signed-in user has another e-mail address than the invitation.
    EmailMismatch,
    /// The invitation was sent again as often as allowed.
    TooManyResends,
    /// The address has an account: sign in to accept.
    SignInRequired,
    /// Another team of the tenant has this name.
    NameTaken,
    /// The person is not a member of the tenant.
    NotAMember,
    /// The team has teams below it.
    HasSubteams,
    /// The team would stand below itself, or too deep.
    ParentCycle,
    /// There is no place: in the team, for the person in another team, or for another team in the tenant.
    TeamFull,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 30] = [
        Self::NotFound,
        Self::Forbidden,
        Self::VersionConflict,
        Self::SlugTaken,
        Self::InvalidTransition,
        Self::SamePlan,
        Self::NotAnUpgrade,
        Self::EmailTaken,
        Self::LastOwner,
        Self::SoftDeletionPeriod,
        Self::SeatLimit,
        Self::UserNotFound,
        Self::AlreadyHasRole,
        Self::DoesNotHaveRole,
        Self::AlreadyAMember,
        Self::OwnerRequired,
        Self::OwnRole,
        Self::TenantNotActive,
        Self::InvitationRequired,
        Self::Expired,
        Self::InvalidToken,
        Self::InvalidState,
        Self::EmailMismatch,
        Self::TooManyResends,
        Self::SignInRequired,
        Self::NameTaken,
        Self::NotAMember,
        Self::HasSubteams,
        Self::ParentCycle,
        Self::TeamFull,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::VersionConflict => "version_conflict",
            Self::SlugTaken => "slug_taken",
            Self::InvalidTransition => "invalid_transition",
            Self::SamePlan => "same_plan",
            Self::NotAnUpgrade => "not_an_upgrade",
            Self::EmailTaken => "email_taken",
            Self::LastOwner => "last_owner",
            Self::SoftDeletionPeriod => "soft_deletion_period",
            Self::SeatLimit => "seat_limit",
            Self::UserNotFound => "user_not_found",
            Self::AlreadyHasRole => "already_has_role",
            Self::DoesNotHaveRole => "does_not_have_role",
            Self::AlreadyAMember => "already_a_member",
            Self::OwnerRequired => "owner_required",
            Self::OwnRole => "own_role",
            Self::TenantNotActive => "tenant_not_active",
            Self::InvitationRequired => "invitation_required",
            Self::Expired => "expired",
            Self::InvalidToken => "invalid_token",
            Self::InvalidState => "invalid_state",
            Self::EmailMismatch => "email_mismatch",
            Self::TooManyResends => "too_many_resends",
            Self::SignInRequired => "sign_in_required",
            Self::NameTaken => "name_taken",
            Self::NotAMember => "not_a_member",
            Self::HasSubteams => "has_subteams",
            Self::ParentCycle => "parent_cycle",
            Self::TeamFull => "team_full",
        }
    }

    /// The HTTP status it is told with.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Forbidden | Self::OwnerRequired | Self::OwnRole | Self::EmailMismatch => 403,
            Self::Expired => 410,
            Self::VersionConflict => 412,
            _ => 409,
        }
    }

    /// One sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotFound => "There is no such thing in this tenant.",
            Self::Forbidden => "You may not do this.",
            Self::VersionConflict => "It was changed since you read it.",
            Self::SlugTaken => "This slug is taken or reserved.",
            Self::InvalidTransition => "Its present state does not allow this.",
            Self::SamePlan => "The tenant has this plan already.",
            Self::NotAnUpgrade => "This plan is lower than the present one.",
            Self::EmailTaken => "This e-mail address belongs to a user already.",
            Self::LastOwner => "The tenant would lose its last active owner.",
            Self::SoftDeletionPeriod => "The user was deactivated too recently to be deleted.",
            Self::SeatLimit => "The tenant's plan allows no further member.",
            Self::UserNotFound => "There is no such user.",
            Self::AlreadyHasRole => "The member has this role already.",
            Self::DoesNotHaveRole => "The member does not have this role.",
            Self::AlreadyAMember => "This person is a member already.",
            Self::OwnerRequired => "Only an owner makes or unmakes an owner.",
            Self::OwnRole => "Nobody raises their own role.",
            Self::TenantNotActive => "The tenant is not active.",
            Self::InvitationRequired => "This person's home is another tenant: send an invitation.",
            Self::Expired => "The invitation has expired.",
            Self::InvalidToken => "This link is not, or no longer, valid.",
            Self::InvalidState => "The invitation is not open any more.",
            Self::EmailMismatch => "The invitation was sent to another e-mail address.",
            Self::TooManyResends => "The invitation was sent as often as allowed.",
            Self::SignInRequired => "This address has an account: sign in to accept.",
            Self::NameTaken => "Another team of this tenant has this name.",
            Self::NotAMember => "This person is not a member of this tenant.",
            Self::HasSubteams => "The team has teams below it.",
            Self::ParentCycle => "The team would stand below itself, or too many levels deep.",
            Self::TeamFull => "There is no place: in the team, for this person in another team, or for another team.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_json_carries() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).ok(), Some(reason.code().into()));
        }
    }
}
