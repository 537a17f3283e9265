//! A membership ties a user to a tenant with one role: the user joins, gets another role or none, and leaves or is removed; then may join again.

mod event;
mod role;
mod standing;

use serde::{Deserialize, Serialize};
use subjects::{Actor, Authority, InvitationId, Kind, Role, TenantId, UserId};

use crate::{About, Claim, Decision, Emitted, Follow, Key, Needs, Reason, Surroundings, team, tenant::Nothing, text::Email};

pub use event::{Event, RemovalReason};
pub(crate) use role::refuse;
pub use role::{AssignRole, RevokeRole};
pub use standing::{FromHome, StandingReason};

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
    /// Let it not count, as the user's home tenant shut them out.
    Suspend(FromHome),
    /// Let it count again.
    Reactivate(FromHome),
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
    /// Whether the member's home tenant has shut them out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// How often the user's standing had changed at home when it was followed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_standing: Option<u32>,
    /// How often it has begun: tells the user's stays apart.
    #[serde(default = "first")]
    pub stay: u32,
}

const fn first() -> u32 {
    1
}

impl State {
    pub(crate) fn empty() -> Self {
        Self { email: String::new(), role: None, active: false, invitation_id: None, suspended: false, home_standing: None, stay: 0 }
    }

    /// Whether the user is a member, suspended or not.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The role that counts: none after the end, and none while the member is suspended.
    pub fn present_role(&self) -> Option<Role> {
        self.role.filter(|_| self.active && !self.suspended)
    }
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 6] = ["add", "assign_role", "revoke_role", "remove", "suspend", "reactivate"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::AssignRole(_) => "assign_role",
            Self::RevokeRole(_) => "revoke_role",
            Self::Remove(_) => "remove",
            Self::Suspend(_) => "suspend",
            Self::Reactivate(_) => "reactivate",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "add" => serde_json::from_str(data).map(Self::Add),
            "assign_role" => serde_json::from_str(data).map(Self::AssignRole),
            "revoke_role" => serde_json::from_str(data).map(Self::RevokeRole),
            "remove" => serde_json::from_str(data).map(Self::Remove),
            "suspend" => serde_json::from_str(data).map(Self::Suspend),
            "reactivate" => serde_json::from_str(data).map(Self::Reactivate),
            _ => return None,
        })
    }

    /// What must be loaded to decide it: the user, if this is their home, whether they exist anywhere, and the teams they leave.
    pub fn needs(&self, about: &About) -> Needs {
        let states = vec![Key { tenant: about.tenant, kind: Kind::User, id: about.target }];
        let follow = match self {
            Self::Remove(_) => vec![Follow::Naming { tenant: about.tenant, id: about.target }],
            Self::Add(_) | Self::AssignRole(_) | Self::RevokeRole(_) | Self::Suspend(_) | Self::Reactivate(_) => Vec::new(),
        };
        Needs { states, claims: vec![Claim::user(UserId::new(about.target))], follow, ..Needs::default() }
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
        Command::Suspend(_) | Command::Reactivate(_) => return standing::decide(command, surroundings, about).into(),
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

fn decide_add(add: &Add, surroundings: &Surroundings<'_>, about: &About) -> Result<Option<Emitted>, Reason> {
    about.require(Role::Admin, surroundings)?;
    require_owner_for([Some(add.role), None], surroundings, about)?;
    surroundings.require_active_tenant()?;
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
    // Whoever is deleted at home owns nothing any more: nobody is kept by staying in a list.
    if reason != RemovalReason::UserDeleted && surroundings.is_last_owner(user_id) {
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
            *state = State {
                email: email.to_string(),
                role: Some(*role_name),
                active: true,
                invitation_id: *invitation_id,
                stay: state.stay + 1,
                ..State::empty()
            };
        }
        Event::RoleChanged { new_role_name, .. } => state.role = *new_role_name,
        Event::Removed { reason, .. } => {
            state.active = false;
            state.role = None;
            if *reason == RemovalReason::UserDeleted {
                state.email.clear();
            }
        }
        Event::Suspended { home_standing, .. } => standing::apply(state, true, *home_standing),
        Event::Reactivated { home_standing, .. } => standing::apply(state, false, *home_standing),
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
