//! A decision and what it is told about the command.

use serde::{Deserialize, Serialize};
use subjects::{Actor, Authority, CommandId, Role, TenantId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Command, Event, Reason, Surroundings, invitation, membership, team, tenant, user};

/// What a decision is told besides the command itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// The tenant that decides.
    pub tenant: TenantId,
    /// The aggregate the command is for, its id without prefix.
    pub target: Uuid,
    /// The command's id; ids of what it creates are derived from it.
    pub command: CommandId,
    /// Who acts.
    pub actor: Actor,
    /// By which right.
    pub authority: Authority,
    /// The version the caller has seen.
    pub if_match: Option<u64>,
    /// When it is decided; never before the tenant's last event.
    pub now: OffsetDateTime,
}

impl About {
    /// Refuses unless the actor may do what needs at least this role in the tenant. Operators and the system may everything.
    ///
    /// # Errors
    /// [`Reason::Forbidden`].
    pub fn require(&self, least: Role, surroundings: &Surroundings<'_>) -> Result<(), Reason> {
        match self.authority {
            Authority::Operator | Authority::System => Ok(()),
            Authority::Link => Err(Reason::Forbidden),
            Authority::Member => match self.role(surroundings) {
                Some(role) if role >= least => Ok(()),
                _ => Err(Reason::Forbidden),
            },
        }
    }

    /// Refuses everybody but a platform operator and the system.
    ///
    /// # Errors
    /// [`Reason::Forbidden`].
    pub fn require_operator(&self) -> Result<(), Reason> {
        match self.authority {
            Authority::Operator | Authority::System => Ok(()),
            Authority::Member | Authority::Link => Err(Reason::Forbidden),
        }
    }

    /// The actor's present role in the tenant: none for strangers, suspended people, and services.
    pub fn role(&self, surroundings: &Surroundings<'_>) -> Option<Role> {
        let user = self.actor.user()?;
        if surroundings.user(user).is_some_and(|user| !user.is_active()) {
            return None;
        }
        surroundings.membership(user).and_then(membership::State::present_role)
    }

    /// Whether the actor acts on themself.
    pub fn is_self(&self, user: UserId) -> bool {
        self.actor == Actor::User(user)
    }

    /// Whether the actor acts on themself and is not shut out.
    pub fn is_active_self(&self, user: UserId, surroundings: &Surroundings<'_>) -> bool {
        let counts = |membership: &membership::State| !membership.suspended;
        self.is_self(user)
            && self.authority == Authority::Member
            && surroundings.user(user).is_none_or(user::State::is_active)
            && surroundings.membership(user).is_none_or(counts)
    }

    /// Who did it, as events tell: nobody for what time or a reactor did.
    pub fn by(&self) -> Option<Actor> {
        (self.actor != Actor::System).then_some(self.actor)
    }
}

impl Surroundings<'_> {
    /// Refuses where the tenant is not there, or not active.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::TenantNotActive`].
    pub fn require_active_tenant(&self) -> Result<(), Reason> {
        if self.tenant().ok_or(Reason::NotFound)?.is_active() { Ok(()) } else { Err(Reason::TenantNotActive) }
    }
}

/// An event and the aggregate it happens to, in the command's own tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Emitted {
    /// The aggregate's id without prefix; the kind is the event's.
    pub id: Uuid,
    /// The event.
    pub event: Event,
}

impl Emitted {
    /// Ties an event to its aggregate.
    pub fn new(id: Uuid, event: impl Into<Event>) -> Self {
        Self { id, event: event.into() }
    }
}

/// How a command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It took effect, or was so already.
    Done,
    /// The domain says no.
    Refused(Reason),
}

/// What follows from a command. A refusal may carry events too: a refused role assignment leaves its trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The events, in order.
    pub events: Vec<Emitted>,
    /// The answer.
    pub answer: Answer,
}

impl Decision {
    /// Done, with these events.
    pub const fn done(events: Vec<Emitted>) -> Self {
        Self { events, answer: Answer::Done }
    }

    /// Refused, without a trace.
    pub const fn refused(reason: Reason) -> Self {
        Self { events: Vec::new(), answer: Answer::Refused(reason) }
    }
}

impl From<Result<Vec<Emitted>, Reason>> for Decision {
    fn from(result: Result<Vec<Emitted>, Reason>) -> Self {
        result.map_or_else(Self::refused, Self::done)
    }
}

/// Decides one command. Pure; the caller applies the events to the world and stores them.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    let decision = match command {
        Command::Tenant(command) => tenant::decide(command, surroundings, about),
        Command::User(command) => user::decide(command, surroundings, about),
        Command::Membership(command) => membership::decide(command, surroundings, about),
        Command::Invitation(command) => invitation::decide(command, surroundings, about),
        Command::Team(command) => team::decide(command, surroundings, about),
    };
    let stale = about.if_match.is_some_and(|version| version != surroundings.version(command.kind(), about.target));
    // Whoever may not see the thing learns nothing about its version.
    let hidden = matches!(
        decision.answer,
        Answer::Refused(
            Reason::NotFound | Reason::Forbidden | Reason::OwnerRequired | Reason::OwnRole | Reason::InvalidToken | Reason::EmailMismatch
        )
    );
    match command {
        _ if !stale || hidden => decision,
        Command::Membership(command) => membership::refuse(command, Reason::VersionConflict, surroundings, about),
        Command::Tenant(_) | Command::User(_) | Command::Invitation(_) | Command::Team(_) => Decision::refused(Reason::VersionConflict),
    }
}
