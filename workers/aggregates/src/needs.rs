//! What a command declares that must be loaded before it can be decided.

use subjects::{Kind, TenantId};
use uuid::Uuid;

use crate::{Claim, Key, State, World, team};

/// What a command must have before it can be decided, besides its own aggregate, its tenant and the actor's standing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// States.
    pub states: Vec<Key>,
    /// Claims; those to follow are among them once [`crate::Command::needs`] returns.
    pub claims: Vec<Claim>,
    /// Which teams name a person as their member, or a team as their parent; those to follow are among them likewise.
    pub naming: Vec<(TenantId, Uuid)>,
    /// States that can be named only when others are known. Load the rest, then what [`Needs::behind`] names, until it names nothing.
    pub follow: Vec<Follow>,
}

/// What can be named only when something else is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// The state of this kind, in this tenant, of whoever holds the claim.
    Holder {
        /// The claim.
        claim: Claim,
        /// The tenant whose state is needed; the holder's own may be another.
        tenant: TenantId,
        /// The kind of state.
        kind: Kind,
    },
    /// The teams that name this person as a member, or this team as their parent.
    Naming {
        /// The tenant.
        tenant: TenantId,
        /// The person or the team.
        id: Uuid,
    },
    /// This team and those above it.
    Above {
        /// The tenant.
        tenant: TenantId,
        /// The lowest of them.
        team: Uuid,
    },
    /// The teams of this invitation.
    TeamsOf {
        /// The tenant.
        tenant: TenantId,
        /// The invitation.
        invitation: Uuid,
    },
}

impl Follow {
    /// What it leads to, as far as the world knows.
    fn keys(&self, world: &World) -> Vec<Key> {
        let team = |tenant: TenantId, id: Uuid| Key { tenant, kind: Kind::Team, id };
        match self {
            Self::Holder { claim, tenant, kind } => {
                world.claims.get(claim).copied().flatten().map(|holder| Key { tenant: *tenant, kind: *kind, id: holder.id }).into_iter().collect()
            }
            Self::Naming { tenant, id } => {
                world.naming.get(&(*tenant, *id)).into_iter().flatten().map(|naming| team(*tenant, naming.uuid())).collect()
            }
            Self::Above { tenant, team: lowest } => {
                let mut keys = vec![team(*tenant, *lowest)];
                // One more than may be: the decision looks no further.
                for level in 0..team::MAX_DEPTH {
                    let known = world.states.get(&keys[level]).and_then(Option::as_ref);
                    let Some(State::Team(state)) = known.map(|versioned| &versioned.state) else { break };
                    let Some(parent) = state.parent_team_id else { break };
                    keys.push(team(*tenant, parent.uuid()));
                }
                keys
            }
            Self::TeamsOf { tenant, invitation } => {
                let known = world.states.get(&Key { tenant: *tenant, kind: Kind::Invitation, id: *invitation }).and_then(Option::as_ref);
                match known.map(|versioned| &versioned.state) {
                    Some(State::Invitation(state)) => state.team_ids.iter().map(|id| team(*tenant, id.uuid())).collect(),
                    _ => Vec::new(),
                }
            }
        }
    }
}

impl Needs {
    /// The states behind what is to be followed, as far as the world knows. Those already in the world are left out.
    pub fn behind<'a>(&'a self, world: &'a World) -> impl Iterator<Item = Key> + 'a {
        self.follow.iter().flat_map(|follow| follow.keys(world)).filter(|key| !world.states.contains_key(key))
    }
}
