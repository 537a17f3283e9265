//! Whether a user may act at all: suspended, deactivated, reactivated, and deleted some time after a deactivation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Role, UserId};

use super::{Command, Event, State, Status};
use crate::{About, Emitted, Reason, Surroundings, membership, team};

/// Who wanted a deactivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeactivationReason {
    /// The user.
    #[serde(rename = "self")]
    OneSelf,
    /// Somebody else.
    Admin,
}

pub(super) fn decide(command: &Command, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, user_id) = (about.tenant, UserId::new(about.target));
    let one = |event: Event| Ok(vec![Emitted::new(user_id.uuid(), event)]);
    let is_self = about.is_active_self(user_id, surroundings);
    // An admin has no power over an owner.
    let membership = surroundings.membership(user_id).filter(|membership| membership.is_active());
    let over_them = if membership.is_some_and(|membership| membership.role == Some(Role::Owner)) { Role::Owner } else { Role::Admin };
    let keeps_an_owner = || if surroundings.is_last_owner(user_id) { Err(Reason::LastOwner) } else { Ok(()) };
    match command {
        Command::Suspend(suspend) => {
            about.require(over_them, surroundings)?;
            match state.status {
                Status::Active => {
                    keeps_an_owner()?;
                    one(Event::Suspended { tenant_id, user_id, reason: suspend.reason.clone() })
                }
                Status::Suspended | Status::Deactivated | Status::Deleted => Err(Reason::InvalidTransition),
            }
        }
        Command::Deactivate(_) => {
            if !is_self {
                about.require(over_them, surroundings)?;
            }
            match state.status {
                Status::Active | Status::Suspended => {
                    keeps_an_owner()?;
                    let reason = if is_self { DeactivationReason::OneSelf } else { DeactivationReason::Admin };
                    one(Event::Deactivated { tenant_id, user_id, deactivated_by: about.by(), reason, deactivated_at: about.now })
                }
                Status::Deactivated => Ok(Vec::new()),
                Status::Deleted => Err(Reason::InvalidTransition),
            }
        }
        Command::Reactivate(_) => {
            about.require(over_them, surroundings)?;
            match state.status {
                Status::Suspended | Status::Deactivated => one(Event::Reactivated { tenant_id, user_id, reactivated_by: about.by() }),
                Status::Active => Ok(Vec::new()),
                Status::Deleted => Err(Reason::InvalidTransition),
            }
        }
        Command::Delete(_) => {
            about.require(over_them, surroundings)?;
            match state.status {
                Status::Active | Status::Suspended => return Err(Reason::InvalidTransition),
                Status::Deleted => return Ok(Vec::new()),
                Status::Deactivated => {}
            }
            if state.deactivated_at.is_some_and(|at| about.now < at + surroundings.settings().soft_deletion) {
                return Err(Reason::SoftDeletionPeriod);
            }
            // No question of owners: the deactivation asked it, and who is deactivated does not count since.
            // The membership ends first: whoever follows the tenant's history never meets a member who is no user.
            let removed = membership.map(|membership| membership::user_deleted(tenant_id, user_id, membership, about.by()));
            let deleted = Emitted::new(user_id.uuid(), Event::Deleted { tenant_id, user_id, deleted_by: about.by() });
            let teams = if removed.is_some() { team::left(user_id, surroundings, about) } else { Vec::new() };
            Ok(teams.into_iter().chain(removed).chain([deleted]).collect())
        }
        Command::Create(_) | Command::UpdateProfile(_) => Err(Reason::InvalidTransition),
    }
}
