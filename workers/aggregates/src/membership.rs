//! A membership ties a user to a tenant with one role: the user joins, gets another role or none, and leaves or is removed; then may join again.

mod role;

use serde::{Deserialize, Serialize};
use subjects::{Actor, Authority, InvitationId, Kind, Role, RoleId, TenantId, UserId};

use crate::{
    About, Claim, Decision, Emitted, Follow, Key, Needs, Reason, Surroundings, team,
    tenant::Nothing,
    text::{Email, Line},
};

pub(crate) use role::refuse;
pub use role::{AssignRole, RevokeRole};

/// Makes a user of this tenant a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Their role.
    pub role: Role,
}

/// What can be asked of a membership. The target is the user's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// Begin it.
    Add(Add),
    /// Give a role.
    AssignRole(AssignRole),
    /// Take the role.
    RevokeRole(RevokeRole),
    /// End it.
    Remove(Nothing),
}

/// How a membership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// A membership as stored, also after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The member's address; emptied with the user's deletion.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// The role; none after a revocation and after the end.
    pub role: Option<Role>,
    /// Whether it lasts.
    pub active: bool,
    /// The invitation that began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation_id: Option<InvitationId>,
}

impl State {
    pub(crate) fn empty() -> Self {
        Self { email: String::new(), role: None, active: false, invitation_id: None }
    }

    /// Whether the user is a member.
    pub fn is_active(&self) -> bool {
        self.active
    }
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 4] = ["add", "assign_role", "revoke_role", "remove"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::AssignRole(_) => "assign_role",
            Self::RevokeRole(_) => "revoke_role",
            Self::Remove(_) => "remove",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "add" => serde_json::from_str(data).map(Self::Add),
            "assign_role" => serde_json::from_str(data).map(Self::AssignRole),
            "revoke_role" => serde_json::from_str(data).map(Self::RevokeRole),
            "remove" => serde_json::from_str(data).map(Self::Remove),
            _ => return None,
        })
    }

    /// What must be loaded to decide it: the user, if this is their home, whether they exist anywhere, and the teams they leave.
    pub fn needs(&self, about: &About) -> Needs {
        let states = vec![Key { tenant: about.tenant, kind: Kind::User, id: about.target }];
        let follow = match self {
            Self::Remove(_) => vec![Follow::Naming { tenant: about.tenant, id: about.target }],
            Self::Add(_) | Self::AssignRole(_) | Self::RevokeRole(_) => Vec::new(),
        };
        Needs { states, claims: vec![Claim::user(UserId::new(about.target))], follow, ..Needs::default() }
    }
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 9] = [
        "tenant.member_joined",
        "tenant.member_role_changed",
        "tenant.member_removed",
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
            Self::Joined { .. } | Self::RoleChanged { .. } | Self::Removed { .. } => true,
            Self::AssignmentAttempted { .. }
            | Self::AssignmentSucceeded { .. }
            | Self::AssignmentFailed { .. }
            | Self::RevocationAttempted { .. }
            | Self::RevocationSucceeded { .. }
            | Self::RevocationFailed { .. } => false,
        }
    }
}

/// A user becomes a member.
pub fn joined(tenant_id: TenantId, user_id: UserId, email: Email, role: Role, invitation_id: Option<InvitationId>) -> Emitted {
    Emitted::new(user_id.uuid(), Event::Joined { tenant_id, user_id, email, role_id: role.id(), role_name: role, invitation_id })
}

/// A member's user is deleted.
pub(crate) fn user_deleted(tenant_id: TenantId, user_id: UserId, state: &State, removed_by: Option<Actor>) -> Emitted {
    let email = Email::stored(&state.email);
    Emitted::new(user_id.uuid(), Event::Removed { tenant_id, user_id, email, removed_by, reason: RemovalReason::UserDeleted })
}

/// Decides.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    if surroundings.tenant().is_none() {
        return Decision::refused(Reason::NotFound);
    }
    let decided = match command {
        Command::Add(add) => decide_add(add, surroundings, about),
        Command::AssignRole(assign) => role::decide_assignment(assign, surroundings, about),
        Command::RevokeRole(revoke) => role::decide_revocation(revoke, surroundings, about),
        Command::Remove(_) => return decide_removal(surroundings, about).into(),
    };
    match decided {
        Ok(change) => Decision::done(role::told(command, about, change)),
        Err(reason) => refuse(command, reason, surroundings, about),
    }
}

/// Only an owner makes or unmakes an owner.
fn require_owner_for(roles: [Option<Role>; 2], surroundings: &Surroundings<'_>, about: &About) -> Result<(), Reason> {
    if roles.contains(&Some(Role::Owner)) { about.require(Role::Owner, surroundings).map_err(|_| Reason::OwnerRequired) } else { Ok(()) }
}

/// Begins the membership of a user whose home this is; everybody else is invited.
fn begin(role: Role, surroundings: &Surroundings<'_>, about: &About) -> Result<Emitted, Reason> {
    let user_id = UserId::new(about.target);
    let user = match surroundings.claim(&Claim::user(user_id)) {
        None => return Err(Reason::UserNotFound),
        Some(holder) if holder.tenant != about.tenant => return Err(Reason::InvitationRequired),
        Some(_) => surroundings.user(user_id).ok_or(Reason::UserNotFound)?,
    };
    if !surroundings.has_free_seat() {
        return Err(Reason::SeatLimit);
    }
    Ok(joined(about.tenant, user_id, Email::stored(&user.email), role, None))
}

fn require_active_tenant(surroundings: &Surroundings<'_>) -> Result<(), Reason> {
    if surroundings.tenant().ok_or(Reason::NotFound)?.is_active() { Ok(()) } else { Err(Reason::TenantNotActive) }
}

fn decide_add(add: &Add, surroundings: &Surroundings<'_>, about: &About) -> Result<Option<Emitted>, Reason> {
    about.require(Role::Admin, surroundings)?;
    require_owner_for([Some(add.role), None], surroundings, about)?;
    require_active_tenant(surroundings)?;
    if surroundings.membership(UserId::new(about.target)).is_some_and(State::is_active) {
        return Err(Reason::AlreadyAMember);
    }
    begin(add.role, surroundings, about).map(Some)
}

/// Also in a suspended tenant: people may always go.
fn decide_removal(surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let user_id = UserId::new(about.target);
    let state = surroundings.membership(user_id).ok_or(Reason::NotFound)?;
    let reason = if about.authority == Authority::System {
        // The reactor on a deletion in the user's home tenant is the only one of us who ends memberships.
        RemovalReason::UserDeleted
    } else if about.is_active_self(user_id, surroundings) {
        RemovalReason::Left
    } else {
        about.require(Role::Admin, surroundings)?;
        require_owner_for([state.role, None], surroundings, about)?;
        RemovalReason::Removed
    };
    if !state.is_active() {
        return Ok(Vec::new());
    }
    if surroundings.is_last_owner(user_id) {
        return Err(Reason::LastOwner);
    }
    // The teams end first: whoever follows the tenant's history never meets a member of a team who is none of the tenant.
    let mut events = team::left(user_id, surroundings, about);
    let (tenant_id, email) = (about.tenant, Email::stored(&state.email));
    events.push(Emitted::new(user_id.uuid(), Event::Removed { tenant_id, user_id, email, removed_by: about.by(), reason }));
    Ok(events)
}

/// Applies. Cannot fail and contains no rule.
pub fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Joined { email, role_name, invitation_id, .. } => {
            *state = State { email: email.to_string(), role: Some(*role_name), active: true, invitation_id: *invitation_id };
        }
        Event::RoleChanged { new_role_name, .. } => state.role = *new_role_name,
        Event::Removed { reason, .. } => {
            state.active = false;
            state.role = None;
            if *reason == RemovalReason::UserDeleted {
                state.email.clear();
            }
        }
        Event::AssignmentAttempted { .. }
        | Event::AssignmentSucceeded { .. }
        | Event::AssignmentFailed { .. }
        | Event::RevocationAttempted { .. }
        | Event::RevocationSucceeded { .. }
        | Event::RevocationFailed { .. } => {}
    }
}

#[cfg(test)]
mod tests;
