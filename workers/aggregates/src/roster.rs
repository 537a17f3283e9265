//! Counts over the members of a tenant, kept beside its sequence and changed with its events: so that "the last owner" and "the last
//! seat" are looked up, not counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use subjects::{Role, UserId};

use crate::{Event, invitation, membership, team, user};

/// The counts of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Roster {
    /// Members, suspended ones included.
    pub members: u32,
    /// Owners, each with whether they are active.
    pub owners: BTreeMap<UserId, bool>,
    /// Invitations that can still be accepted.
    pub pending_invitations: u32,
    /// Teams in use.
    pub teams: u32,
}

impl Roster {
    /// Follows one event of the tenant; a user it happens to is active, or not. Returns whether the event may have changed anything.
    pub fn apply(&mut self, event: &Event, is_active: bool) -> bool {
        match event {
            Event::Membership(event) => self.apply_membership(event, is_active),
            Event::User(event) => self.apply_user(event),
            Event::Invitation(event) => {
                match event {
                    invitation::Event::Created { .. } => self.pending_invitations += 1,
                    invitation::Event::Accepted { .. }
                    | invitation::Event::Declined { .. }
                    | invitation::Event::Removed { .. }
                    | invitation::Event::Expired { .. } => self.pending_invitations = self.pending_invitations.saturating_sub(1),
                    invitation::Event::Sent { .. }
                    | invitation::Event::Updated { .. }
                    | invitation::Event::AttributeSet { .. }
                    | invitation::Event::AttributeRemoved { .. } => return false,
                }
                true
            }
            Event::Team(event) => {
                match event {
                    team::Event::Created { .. } => self.teams += 1,
                    team::Event::Deleted { .. } => self.teams = self.teams.saturating_sub(1),
                    team::Event::Updated { .. } | team::Event::MembersAdded { .. } | team::Event::MembersRemoved { .. } => return false,
                }
                true
            }
            Event::Tenant(_) => false,
        }
    }

    fn apply_membership(&mut self, event: &membership::Event, is_active: bool) -> bool {
        match event {
            membership::Event::Joined { user_id, role_name, .. } => {
                self.members += 1;
                if *role_name == Role::Owner {
                    self.owners.insert(*user_id, is_active);
                }
            }
            membership::Event::RoleChanged { user_id, new_role_name, .. } => {
                if *new_role_name == Some(Role::Owner) {
                    self.owners.entry(*user_id).or_insert(is_active);
                } else {
                    self.owners.remove(user_id);
                }
            }
            membership::Event::Removed { user_id, .. } => {
                self.members = self.members.saturating_sub(1);
                self.owners.remove(user_id);
            }
            membership::Event::Suspended { user_id, .. } | membership::Event::Reactivated { user_id, .. } => {
                return self.owners.get_mut(user_id).map(|owner| *owner = is_active).is_some();
            }
            membership::Event::AssignmentAttempted { .. }
            | membership::Event::AssignmentSucceeded { .. }
            | membership::Event::AssignmentFailed { .. }
            | membership::Event::RevocationAttempted { .. }
            | membership::Event::RevocationSucceeded { .. }
            | membership::Event::RevocationFailed { .. } => return false,
        }
        true
    }

    fn apply_user(&mut self, event: &user::Event) -> bool {
        let (user_id, active) = match event {
            user::Event::Suspended { user_id, .. } | user::Event::Deactivated { user_id, .. } => (user_id, false),
            user::Event::Reactivated { user_id, .. } => (user_id, true),
            user::Event::Created { .. } | user::Event::ProfileUpdated { .. } | user::Event::Deleted { .. } => return false,
        };
        self.owners.get_mut(user_id).map(|owner| *owner = active).is_some()
    }
}
