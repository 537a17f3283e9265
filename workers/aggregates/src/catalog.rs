//! The closed list of aggregates, as exhaustive matches: a new variant does not compile until every question about it is answered.

use serde::{Deserialize, Serialize};
use subjects::{Kind, TenantId};
use time::OffsetDateTime;

use crate::{About, ClaimChange, Follow, Key, Needs, invitation, membership, team, tenant, user, world};

/// Any command.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// To a tenant.
    Tenant(tenant::Command),
    /// To a user.
    User(user::Command),
    /// To a membership.
    Membership(membership::Command),
    /// To an invitation.
    Invitation(invitation::Command),
    /// To a team.
    Team(team::Command),
}

/// Any event. Serialises as `type` and `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// Of a tenant.
    Tenant(tenant::Event),
    /// Of a user.
    User(user::Event),
    /// Of a membership.
    Membership(membership::Event),
    /// Of an invitation.
    Invitation(invitation::Event),
    /// Of a team.
    Team(team::Event),
}

/// Any state, as stored. Serialises without a tag: the kind stands beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum State {
    /// A tenant's.
    Tenant(tenant::State),
    /// A user's.
    User(user::State),
    /// A membership's.
    Membership(membership::State),
    /// An invitation's.
    Invitation(invitation::State),
    /// A team's.
    Team(team::State),
}

/// Why a command cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// This version does not know it: a newer one may.
    #[error("unknown command {0}")]
    Unknown(String),
    /// Its data does not fit.
    #[error("malformed data: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Command {
    /// Reads `<aggregate>.<command>` and its data.
    ///
    /// # Errors
    /// [`ParseError`] tells a command of a newer version from a broken one.
    pub fn parse(command_type: &str, data: &str) -> Result<Self, ParseError> {
        let unknown = || ParseError::Unknown(command_type.to_owned());
        let (aggregate, name) = command_type.split_once('.').ok_or_else(unknown)?;
        let parsed = match aggregate.parse::<Kind>().map_err(|()| unknown())? {
            Kind::Tenant => tenant::Command::parse(name, data).map(|parsed| parsed.map(Self::Tenant)),
            Kind::User => user::Command::parse(name, data).map(|parsed| parsed.map(Self::User)),
            Kind::Membership => membership::Command::parse(name, data).map(|parsed| parsed.map(Self::Membership)),
            Kind::Invitation => invitation::Command::parse(name, data).map(|parsed| parsed.map(Self::Invitation)),
            Kind::Team => team::Command::parse(name, data).map(|parsed| parsed.map(Self::Team)),
        };
        Ok(parsed.ok_or_else(unknown)??)
    }

    /// The kind of aggregate it is for.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Tenant(_) => Kind::Tenant,
            Self::User(_) => Kind::User,
            Self::Membership(_) => Kind::Membership,
            Self::Invitation(_) => Kind::Invitation,
            Self::Team(_) => Kind::Team,
        }
    }

    /// Its name, the last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tenant(command) => command.name(),
            Self::User(command) => command.name(),
            Self::Membership(command) => command.name(),
            Self::Invitation(command) => command.name(),
            Self::Team(command) => command.name(),
        }
    }

    /// `<aggregate>.<command>`.
    pub fn command_type(&self) -> String {
        format!("{}.{}", self.kind(), self.name())
    }

    /// Everything that must be loaded to decide it.
    pub fn needs(&self, about: &About) -> Needs {
        let mut needs = match self {
            Self::Tenant(command) => command.needs(about),
            Self::User(command) => command.needs(about),
            Self::Membership(command) => command.needs(about),
            Self::Invitation(command) => command.needs(about),
            Self::Team(command) => command.needs(about),
        };
        needs.states.extend(world::common_needs(about, self.kind()));
        for follow in &needs.follow {
            match follow {
                Follow::Holder { claim, .. } => needs.claims.push(claim.clone()),
                Follow::Naming { tenant, id } => needs.naming.push((*tenant, *id)),
                Follow::Above { tenant, team } => needs.states.push(Key { tenant: *tenant, kind: Kind::Team, id: *team }),
                Follow::TeamsOf { tenant, invitation } => needs.states.push(Key { tenant: *tenant, kind: Kind::Invitation, id: *invitation }),
            }
        }
        needs.states.sort_unstable();
        needs.states.dedup();
        needs
    }
}

impl Event {
    /// The kind of aggregate it happens to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Tenant(_) => Kind::Tenant,
            Self::User(_) => Kind::User,
            Self::Membership(_) => Kind::Membership,
            Self::Invitation(_) => Kind::Invitation,
            Self::Team(_) => Kind::Team,
        }
    }

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Tenant(event) => event.event_type(),
            Self::User(event) => event.event_type(),
            Self::Membership(event) => event.event_type(),
            Self::Invitation(event) => event.event_type(),
            Self::Team(event) => event.event_type(),
        }
    }

    /// Whether the aggregate's version moves. An attempt that only leaves a trace must not spoil somebody's If-Match.
    pub const fn changes_state(&self) -> bool {
        match self {
            Self::Membership(event) => event.changes_state(),
            Self::Tenant(_) | Self::User(_) | Self::Invitation(_) | Self::Team(_) => true,
        }
    }

    /// What it does to claims, given the state before it.
    pub(crate) fn claims(&self, before: Option<&State>, tenant: TenantId) -> Vec<ClaimChange> {
        match (self, before) {
            (Self::Tenant(event), Some(State::Tenant(before))) => event.claims(Some(before), tenant),
            (Self::Tenant(event), _) => event.claims(None, tenant),
            (Self::User(event), Some(State::User(before))) => event.claims(Some(before), tenant),
            (Self::User(event), _) => event.claims(None, tenant),
            (Self::Invitation(event), Some(State::Invitation(before))) => event.claims(Some(before), tenant),
            (Self::Invitation(event), _) => event.claims(None, tenant),
            (Self::Team(event), Some(State::Team(before))) => event.claims(Some(before), tenant),
            (Self::Team(event), _) => event.claims(None, tenant),
            (Self::Membership(_), _) => Vec::new(),
        }
    }
}

impl State {
    /// The version of the stored form, one for all kinds; older ones are read for ever.
    pub const SCHEMA_VERSION: i16 = 1;

    /// "Does not exist yet".
    pub fn empty(kind: Kind) -> Self {
        match kind {
            Kind::Tenant => Self::Tenant(tenant::State::empty()),
            Kind::User => Self::User(user::State::empty()),
            Kind::Membership => Self::Membership(membership::State::empty()),
            Kind::Invitation => Self::Invitation(invitation::State::empty()),
            Kind::Team => Self::Team(team::State::empty()),
        }
    }

    /// Reads a stored state.
    ///
    /// # Errors
    /// A text that is no state of this kind.
    pub fn parse(kind: Kind, text: &str) -> serde_json::Result<Self> {
        match kind {
            Kind::Tenant => serde_json::from_str(text).map(Self::Tenant),
            Kind::User => serde_json::from_str(text).map(Self::User),
            Kind::Membership => serde_json::from_str(text).map(Self::Membership),
            Kind::Invitation => serde_json::from_str(text).map(Self::Invitation),
            Kind::Team => serde_json::from_str(text).map(Self::Team),
        }
    }

    /// Follows an event; one of another kind is ignored.
    pub fn apply(&mut self, event: &Event) {
        // By the state alone, so that the compiler asks about a new kind.
        match self {
            Self::Tenant(state) => {
                if let Event::Tenant(event) = event {
                    tenant::apply(state, event);
                }
            }
            Self::User(state) => {
                if let Event::User(event) = event {
                    user::apply(state, event);
                }
            }
            Self::Membership(state) => {
                if let Event::Membership(event) = event {
                    membership::apply(state, event);
                }
            }
            Self::Invitation(state) => {
                if let Event::Invitation(event) = event {
                    invitation::apply(state, event);
                }
            }
            Self::Team(state) => {
                if let Event::Team(event) = event {
                    team::apply(state, event);
                }
            }
        }
    }

    /// Whether what is personal was emptied for good: then nobody is shown what it was.
    pub fn is_erased(&self) -> bool {
        match self {
            Self::User(state) => state.status == user::Status::Deleted,
            Self::Membership(state) => !state.active && state.email.is_empty(),
            Self::Tenant(_) | Self::Invitation(_) | Self::Team(_) => false,
        }
    }

    /// When time has something to say to it, and by which command: the scheduler's question.
    pub fn deadline(&self) -> Option<(OffsetDateTime, &'static str)> {
        match self {
            Self::Invitation(state) => state.deadline().map(|at| (at, "expire")),
            Self::Tenant(_) | Self::User(_) | Self::Membership(_) | Self::Team(_) => None,
        }
    }
}

impl From<tenant::Command> for Command {
    fn from(command: tenant::Command) -> Self {
        Self::Tenant(command)
    }
}

impl From<user::Command> for Command {
    fn from(command: user::Command) -> Self {
        Self::User(command)
    }
}

impl From<membership::Command> for Command {
    fn from(command: membership::Command) -> Self {
        Self::Membership(command)
    }
}

impl From<invitation::Command> for Command {
    fn from(command: invitation::Command) -> Self {
        Self::Invitation(command)
    }
}

impl From<team::Command> for Command {
    fn from(command: team::Command) -> Self {
        Self::Team(command)
    }
}

impl From<tenant::Event> for Event {
    fn from(event: tenant::Event) -> Self {
        Self::Tenant(event)
    }
}

impl From<user::Event> for Event {
    fn from(event: user::Event) -> Self {
        Self::User(event)
    }
}

impl From<membership::Event> for Event {
    fn from(event: membership::Event) -> Self {
        Self::Membership(event)
    }
}

impl From<invitation::Event> for Event {
    fn from(event: invitation::Event) -> Self {
        Self::Invitation(event)
    }
}

impl From<team::Event> for Event {
    fn from(event: team::Event) -> Self {
        Self::Team(event)
    }
}

impl From<tenant::State> for State {
    fn from(state: tenant::State) -> Self {
        Self::Tenant(state)
    }
}

impl From<user::State> for State {
    fn from(state: user::State) -> Self {
        Self::User(state)
    }
}

impl From<membership::State> for State {
    fn from(state: membership::State) -> Self {
        Self::Membership(state)
    }
}

impl From<invitation::State> for State {
    fn from(state: invitation::State) -> Self {
        Self::Invitation(state)
    }
}

impl From<team::State> for State {
    fn from(state: team::State) -> Self {
        Self::Team(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_a_newer_version_is_told_from_a_broken_one() {
        for unknown in ["user.teleport", "session.start", "user", "", "user.create.more"] {
            assert!(matches!(Command::parse(unknown, "{}"), Err(ParseError::Unknown(name)) if name == unknown), "{unknown}");
        }
        for broken in ["{}", "", "[]", "null", r#"{"email":1,"fullName":"A"}"#, r#"{"email":"a@b.example","fullName":"a\u0000b"}"#] {
            assert!(matches!(Command::parse("user.create", broken), Err(ParseError::Malformed(_))), "{broken}");
        }
    }

    #[test]
    fn a_state_follows_events_of_its_own_kind_only() {
        for kind in Kind::ALL {
            let mut state = State::empty(kind);
            for event in crate::recorded::events().iter().filter(|event| event.kind() != kind) {
                state.apply(event);
            }
            assert_eq!(state, State::empty(kind));
        }
    }
}
