//! The role of a member, as a workflow: attempted, then succeeded or failed, each with its trace.

use serde::{Deserialize, Serialize};
use subjects::{Authority, Role, UserId};

use super::{Command, Event, State, begin, require_owner_for};
use crate::{About, Answer, Decision, Emitted, Reason, Surroundings, text::Line, user};

/// Gives a member this role instead of the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignRole {
    /// The role.
    pub role: Role,
}

/// Takes a member's role; a member without a role stays a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeRole {
    /// The role they are believed to have.
    pub role: Role,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Line>,
}

/// A change of role as the workflow tells it: attempted, succeeded, and what it changed.
pub(super) fn told(command: &Command, about: &About, change: Option<Emitted>) -> Vec<Emitted> {
    let (tenant_id, user_id, by) = (about.tenant, UserId::new(about.target), about.by());
    let workflow = match command {
        Command::AssignRole(AssignRole { role }) => vec![
            Event::AssignmentAttempted { tenant_id, user_id, role: *role, assigned_by: by },
            Event::AssignmentSucceeded { tenant_id, user_id, role: *role, assigned_by: by },
        ],
        Command::RevokeRole(RevokeRole { role, reason }) => vec![
            Event::RevocationAttempted { tenant_id, user_id, role: *role, revoked_by: by, reason: reason.clone() },
            Event::RevocationSucceeded { tenant_id, user_id, role: *role, revoked_by: by, reason: reason.clone() },
        ],
        Command::Add(_) | Command::Remove(_) | Command::Suspend(_) | Command::Reactivate(_) => Vec::new(),
    };
    workflow.into_iter().map(|event| Emitted::new(user_id.uuid(), event)).chain(change).collect()
}

/// A refusal. That of a role's assignment or revocation leaves its trace, provided that somebody of the tenant tried it on somebody of
/// the tenant: strangers, and ids of nobody, cannot fill a tenant's history.
pub(crate) fn refuse(command: &Command, reason: Reason, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    let (tenant_id, user_id, by) = (about.tenant, UserId::new(about.target), about.by());
    if surroundings.tenant().is_none() || !is_known(user_id, surroundings) || !is_of_the_tenant(surroundings, about) {
        return Decision::refused(reason);
    }
    let (attempted, failed) = match command {
        Command::AssignRole(AssignRole { role }) => (
            Event::AssignmentAttempted { tenant_id, user_id, role: *role, assigned_by: by },
            Event::AssignmentFailed { tenant_id, user_id, role: *role, assigned_by: by, reason },
        ),
        Command::RevokeRole(RevokeRole { role, reason: stated }) => (
            Event::RevocationAttempted { tenant_id, user_id, role: *role, revoked_by: by, reason: stated.clone() },
            Event::RevocationFailed { tenant_id, user_id, role: *role, revoked_by: by, reason, stated_reason: stated.clone() },
        ),
        Command::Add(_) | Command::Remove(_) | Command::Suspend(_) | Command::Reactivate(_) => return Decision::refused(reason),
    };
    Decision { events: vec![Emitted::new(user_id.uuid(), attempted), Emitted::new(user_id.uuid(), failed)], answer: Answer::Refused(reason) }
}

/// Whether the user is or was a member, or has their home here.
fn is_known(user: UserId, surroundings: &Surroundings<'_>) -> bool {
    surroundings.membership(user).is_some() || surroundings.user(user).is_some()
}

/// Whether the actor is a member or has their home here; operators and the system belong everywhere.
fn is_of_the_tenant(surroundings: &Surroundings<'_>, about: &About) -> bool {
    match about.authority {
        Authority::Operator | Authority::System => true,
        Authority::Link => false,
        Authority::Member => about.actor.user().is_some_and(|actor| {
            surroundings.membership(actor).is_some_and(State::is_active) || surroundings.user(actor).is_some_and(user::State::exists)
        }),
    }
}

pub(super) fn decide_assignment(assign: &AssignRole, surroundings: &Surroundings<'_>, about: &About) -> Result<Option<Emitted>, Reason> {
    if !is_of_the_tenant(surroundings, about) {
        return Err(Reason::NotFound);
    }
    let user_id = UserId::new(about.target);
    let member = surroundings.membership(user_id).filter(|membership| membership.is_active());
    let old = member.and_then(|membership| membership.role);
    // Before the question of rank: what an admin may not do to themself is told by its own name.
    if about.authority == Authority::Member && about.is_self(user_id) && Some(assign.role) > old {
        return Err(Reason::OwnRole);
    }
    about.require(Role::Admin, surroundings)?;
    require_owner_for([Some(assign.role), old], surroundings, about)?;
    surroundings.require_active_tenant()?;
    if member.is_none() {
        return begin(assign.role, surroundings, about).map(Some);
    }
    if old == Some(assign.role) {
        return Err(Reason::AlreadyHasRole);
    }
    if assign.role != Role::Owner && surroundings.is_last_owner(user_id) {
        return Err(Reason::LastOwner);
    }
    Ok(Some(role_changed(old, Some(assign.role), about)))
}

pub(super) fn decide_revocation(revoke: &RevokeRole, surroundings: &Surroundings<'_>, about: &About) -> Result<Option<Emitted>, Reason> {
    if !is_of_the_tenant(surroundings, about) {
        return Err(Reason::NotFound);
    }
    let user_id = UserId::new(about.target);
    let old = surroundings.membership(user_id).filter(|membership| membership.is_active()).and_then(|membership| membership.role);
    about.require(Role::Admin, surroundings)?;
    if !is_known(user_id, surroundings) {
        return Err(Reason::UserNotFound);
    }
    require_owner_for([Some(revoke.role), old], surroundings, about)?;
    surroundings.require_active_tenant()?;
    if old != Some(revoke.role) {
        return Err(Reason::DoesNotHaveRole);
    }
    if surroundings.is_last_owner(user_id) {
        return Err(Reason::LastOwner);
    }
    Ok(Some(role_changed(old, None, about)))
}

fn role_changed(old: Option<Role>, new: Option<Role>, about: &About) -> Emitted {
    let event = Event::RoleChanged {
        tenant_id: about.tenant,
        user_id: UserId::new(about.target),
        old_role_id: old.map(Role::id),
        old_role_name: old,
        new_role_id: new.map(Role::id),
        new_role_name: new,
        changed_by: about.by(),
    };
    Emitted::new(about.target, event)
}
