//! What decisions read: states, claims and rosters, as of now; and how events change them.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use subjects::{InvitationId, Kind, TeamId, TenantId, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{About, Emitted, Roster, State, invitation, membership, team, tenant, text::Email, user};

/// Names an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its kind.
    pub kind: Kind,
    /// Its id without prefix; a membership's is the user's.
    pub id: Uuid,
}

impl Key {
    /// The aggregate's id as text.
    pub fn id_text(&self) -> String {
        self.kind.id(self.id)
    }
}

/// A state and its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned {
    /// How often the state has changed; the ETag.
    pub version: u64,
    /// The state.
    pub state: State,
    /// When it came to be.
    pub created_at: OffsetDateTime,
}

/// Among which values a claimed one is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Slugs of tenants, platform-wide.
    Slug,
    /// E-mail addresses of users, platform-wide. The holder is the user in its home tenant.
    Email,
    /// Ids of users, platform-wide: tells that a user exists and where its home is.
    User,
    /// Addresses with a pending invitation, per tenant; the value is `<tenant>/<address>`.
    PendingInvitation,
    /// Names of teams, per tenant; the value is `<tenant>/<name in lower case>`.
    TeamName,
}

impl Scope {
    /// The value in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slug => "slug",
            Self::Email => "email",
            Self::User => "user",
            Self::PendingInvitation => "pending_invitation",
            Self::TeamName => "team_name",
        }
    }
}

/// A value that at most one aggregate may hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// Among which values.
    pub scope: Scope,
    /// The value.
    pub value: String,
}

impl Claim {
    /// Names a value in a scope.
    pub fn new(scope: Scope, value: impl Into<String>) -> Self {
        Self { scope, value: value.into() }
    }

    /// The claim of a user to an address.
    pub fn email(email: &Email) -> Self {
        Self::new(Scope::Email, email.as_str())
    }

    /// The claim of a user to an id.
    pub fn user(user: UserId) -> Self {
        Self::new(Scope::User, user.to_string())
    }

    /// The claim of a pending invitation to an address in a tenant.
    pub fn pending_invitation(tenant: TenantId, email: &str) -> Self {
        Self::new(Scope::PendingInvitation, format!("{tenant}/{email}"))
    }

    /// The claim of a team to a name in a tenant.
    pub fn team_name(tenant: TenantId, name: &str) -> Self {
        Self::new(Scope::TeamName, format!("{tenant}/{}", name.to_lowercase()))
    }
}

/// Who holds a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The tenant of the holding aggregate.
    pub tenant: TenantId,
    /// Its id.
    pub id: Uuid,
}

/// What an event does to claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChange {
    /// The value is held from now on.
    Take(Claim, Holder),
    /// The value is free again.
    Release(Claim),
}

impl ClaimChange {
    /// The value concerned.
    pub const fn claim(&self) -> &Claim {
        match self {
            Self::Take(claim, _) | Self::Release(claim) => claim,
        }
    }
}

/// Settings that are rules of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Members a tenant may have, by plan from free to enterprise.
    pub member_limits: [u32; 4],
    /// Time between deactivation and deletion of a user.
    pub soft_deletion: Duration,
    /// Invitations of a tenant that may be pending.
    pub pending_invitations: u32,
    /// Teams a tenant may have.
    pub teams: u32,
    /// Members a team may have.
    pub team_members: u32,
    /// Teams a member may be in.
    pub teams_per_member: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            member_limits: [10, 100, 1_000, 100_000],
            soft_deletion: Duration::days(90),
            pending_invitations: 10_000,
            teams: 1_000,
            team_members: 1_000,
            teams_per_member: 64,
        }
    }
}

/// Everything loaded so far, with the events of the running batch applied. An entry that is present but `None` is known not to exist.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// States by key.
    pub states: HashMap<Key, Option<Versioned>>,
    /// Claims by value.
    pub claims: HashMap<Claim, Option<Holder>>,
    /// By person or team, the teams that name it; what was not asked for is not there.
    pub naming: HashMap<(TenantId, Uuid), BTreeSet<TeamId>>,
    /// Counts per tenant.
    pub rosters: HashMap<TenantId, Roster>,
    /// The rules' settings.
    pub settings: Settings,
}

impl World {
    /// What an event would do to claims, before it is applied.
    pub fn claim_changes(&self, tenant: TenantId, emitted: &Emitted) -> Vec<ClaimChange> {
        let before = self.states.get(&Key { tenant, kind: emitted.event.kind(), id: emitted.id }).and_then(Option::as_ref);
        emitted.event.claims(before.map(|versioned| &versioned.state), tenant)
    }

    /// Applies one emitted event: the state, its version, the roster and the claims.
    pub fn apply(&mut self, tenant: TenantId, emitted: &Emitted, at: OffsetDateTime) -> Applied {
        let key = Key { tenant, kind: emitted.event.kind(), id: emitted.id };
        let entry = self.states.entry(key).or_insert(None);
        let changes = emitted.event.claims(entry.as_ref().map(|versioned| &versioned.state), tenant);
        let named_before = named(entry.as_ref());
        let version = if emitted.event.changes_state() {
            let versioned = entry.get_or_insert_with(|| Versioned { version: 0, state: State::empty(key.kind), created_at: at });
            versioned.state.apply(&emitted.event);
            versioned.version += 1;
            versioned.version
        } else {
            entry.as_ref().map_or(0, |versioned| versioned.version)
        };
        let named_after = named(entry.as_ref());
        for (ids, come) in [(&named_before - &named_after, false), (&named_after - &named_before, true)] {
            for id in ids {
                if let Some(naming) = self.naming.get_mut(&(tenant, id)) {
                    let team = TeamId::new(emitted.id);
                    if come {
                        naming.insert(team)
                    } else {
                        naming.remove(&team)
                    };
                }
            }
        }
        // The roster counts active owners; who is suspended, here or at home elsewhere, is not one, by whatever road they become an owner.
        let is_shut_out = |kind| match self.states.get(&Key { tenant, kind, id: emitted.id }).and_then(Option::as_ref).map(|found| &found.state) {
            Some(State::User(user)) => !user.is_active(),
            Some(State::Membership(membership)) => membership.suspended,
            _ => false,
        };
        let is_active = !is_shut_out(Kind::User) && !is_shut_out(Kind::Membership);
        let roster_changed = self.rosters.entry(tenant).or_default().apply(&emitted.event, is_active);
        for change in &changes {
            match change {
                ClaimChange::Take(claim, holder) => self.claims.insert(claim.clone(), Some(*holder)),
                ClaimChange::Release(claim) => self.claims.insert(claim.clone(), None),
            };
        }
        Applied { version, roster_changed }
    }
}

/// What a team names.
fn named(versioned: Option<&Versioned>) -> BTreeSet<Uuid> {
    match versioned.map(|versioned| &versioned.state) {
        Some(State::Team(team)) => team.names(),
        _ => BTreeSet::new(),
    }
}

/// What one event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The aggregate's version after it.
    pub version: u64,
    /// Whether the tenant's roster may be another one.
    pub roster_changed: bool,
}

/// The view one decision has of the [`World`]: its own tenant, and claims.
#[derive(Debug)]
pub struct Surroundings<'a> {
    world: &'a World,
    tenant: TenantId,
    undeclared: Cell<bool>,
}

impl<'a> Surroundings<'a> {
    /// The view from a tenant.
    pub fn new(world: &'a World, tenant: TenantId) -> Self {
        Self { world, tenant, undeclared: Cell::new(false) }
    }

    fn state(&self, kind: Kind, id: Uuid) -> Option<&'a Versioned> {
        let entry = self.world.states.get(&Key { tenant: self.tenant, kind, id });
        if entry.is_none() {
            self.undeclared.set(true);
        }
        entry.and_then(Option::as_ref)
    }

    /// Whether the decision asked for something that was not declared by [`crate::Command::needs`]: a defect, never decided on.
    pub fn asked_for_undeclared(&self) -> bool {
        self.undeclared.get()
    }

    /// The version of any aggregate of this tenant; 0 if it does not exist.
    pub fn version(&self, kind: Kind, id: Uuid) -> u64 {
        self.state(kind, id).map_or(0, |versioned| versioned.version)
    }

    /// The tenant itself.
    pub fn tenant(&self) -> Option<&'a tenant::State> {
        match &self.state(Kind::Tenant, self.tenant.uuid())?.state {
            State::Tenant(state) => Some(state),
            _ => None,
        }
    }

    /// A user whose home is this tenant.
    pub fn user(&self, id: UserId) -> Option<&'a user::State> {
        match &self.state(Kind::User, id.uuid())?.state {
            State::User(state) => Some(state),
            _ => None,
        }
    }

    /// A membership in this tenant, also one that has ended.
    pub fn membership(&self, id: UserId) -> Option<&'a membership::State> {
        match &self.state(Kind::Membership, id.uuid())?.state {
            State::Membership(state) => Some(state),
            _ => None,
        }
    }

    /// An invitation of this tenant.
    pub fn invitation(&self, id: InvitationId) -> Option<&'a invitation::State> {
        match &self.state(Kind::Invitation, id.uuid())?.state {
            State::Invitation(state) => Some(state),
            _ => None,
        }
    }

    /// A team of this tenant, also one that was deleted.
    pub fn team(&self, id: TeamId) -> Option<&'a team::State> {
        match &self.state(Kind::Team, id.uuid())?.state {
            State::Team(state) => Some(state),
            _ => None,
        }
    }

    /// The teams that name a person as a member, or a team as their parent.
    pub fn naming(&self, id: Uuid) -> impl Iterator<Item = TeamId> + 'a {
        let entry = self.world.naming.get(&(self.tenant, id));
        if entry.is_none() {
            self.undeclared.set(true);
        }
        entry.into_iter().flatten().copied()
    }

    /// Who holds a value.
    pub fn claim(&self, claim: &Claim) -> Option<Holder> {
        let entry = self.world.claims.get(claim);
        if entry.is_none() {
            self.undeclared.set(true);
        }
        entry.copied().flatten()
    }

    /// Whether whoever has this address is a member; to be declared by following the address to a membership.
    pub fn member_with(&self, email: &Email) -> bool {
        let Some(holder) = self.claim(&Claim::email(email)) else { return false };
        // An address taken in the running batch belongs to a user as new as that, whose membership was never asked for and cannot exist
        // unless it is in the world too.
        let membership = Key { tenant: self.tenant, kind: Kind::Membership, id: holder.id };
        let user = Key { tenant: holder.tenant, kind: Kind::User, id: holder.id };
        if !self.world.states.contains_key(&membership) && self.world.states.contains_key(&user) {
            return false;
        }
        self.membership(UserId::new(holder.id)).is_some_and(membership::State::is_active)
    }

    /// The pending invitation to this address; to be declared by following the claim to an invitation.
    pub fn pending_invitation(&self, email: &Email) -> Option<InvitationId> {
        let holder = self.claim(&Claim::pending_invitation(self.tenant, email.as_str()))?;
        let id = InvitationId::new(holder.id);
        self.invitation(id).map(|_| id)
    }

    /// The counts of this tenant.
    pub fn roster(&self) -> Roster {
        self.world.rosters.get(&self.tenant).cloned().unwrap_or_default()
    }

    /// Whether the tenant may have one more team.
    pub fn has_place_for_a_team(&self) -> bool {
        self.world.rosters.get(&self.tenant).map_or(0, |roster| roster.teams) < self.world.settings.teams
    }

    /// Whether one more invitation of the tenant may be pending.
    pub fn has_place_for_an_invitation(&self) -> bool {
        self.world.rosters.get(&self.tenant).map_or(0, |roster| roster.pending_invitations) < self.world.settings.pending_invitations
    }

    /// Whether the tenant would have no active owner left without this one.
    pub fn is_last_owner(&self, user: UserId) -> bool {
        let empty = BTreeMap::new();
        let owners = self.world.rosters.get(&self.tenant).map_or(&empty, |roster| &roster.owners);
        owners.get(&user) == Some(&true) && owners.iter().filter(|(_, active)| **active).count() == 1
    }

    /// Whether the tenant's plan allows one more member.
    pub fn has_free_seat(&self) -> bool {
        let limit = self.tenant().map_or(0, |tenant| self.world.settings.member_limits[tenant.plan as usize]);
        self.world.rosters.get(&self.tenant).map_or(0, |roster| roster.members) < limit
    }

    /// The settings.
    pub fn settings(&self) -> &'a Settings {
        &self.world.settings
    }
}

/// Adds the keys every command needs: its own aggregate, the tenant, and the actor's membership and (home) user.
pub(crate) fn common_needs(about: &About, kind: Kind) -> Vec<Key> {
    let tenant = about.tenant;
    let mut keys = vec![Key { tenant, kind, id: about.target }, Key { tenant, kind: Kind::Tenant, id: tenant.uuid() }];
    if let Some(user) = about.actor.user() {
        keys.push(Key { tenant, kind: Kind::Membership, id: user.uuid() });
        keys.push(Key { tenant, kind: Kind::User, id: user.uuid() });
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests;
