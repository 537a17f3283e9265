//! Given a tenant and what happened in it, when somebody commands, then these events follow, or this refusal.
//!
//! Every step is checked beyond what a test says: a decision sees only what its command declares, as if loaded; a refusal is one the
//! registry names; commands, events and states survive JSON; the roster agrees with the states; a claim never changes hands unreleased.

use std::collections::BTreeMap;

use subjects::{Actor, Authority, CommandId, InvitationId, Kind, Role, ServiceId, TeamId, TenantId, UserId};
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::{
    About, Answer, Claim, ClaimChange, Command, Decision, Emitted, Event, Key, Reason, Roster, Scope, State, Surroundings, Versioned, World, decide,
    membership, registry, tenant,
    text::{Email, Line},
    user,
};

/// The tenant of every scenario.
pub(crate) const TENANT: TenantId = TenantId::new(Uuid::from_u128(0x7e));
/// Another one.
pub(crate) const ELSEWHERE: TenantId = TenantId::new(Uuid::from_u128(0xe1));
/// The tenant's owner.
pub(crate) const OLIVIA: UserId = UserId::new(Uuid::from_u128(1));
/// An admin, once given.
pub(crate) const ADAM: UserId = UserId::new(Uuid::from_u128(2));
/// A member, once given.
pub(crate) const MIA: UserId = UserId::new(Uuid::from_u128(3));
/// Somebody whose home is elsewhere.
pub(crate) const GUS: UserId = UserId::new(Uuid::from_u128(4));
/// Nobody yet.
pub(crate) const NEMO: UserId = UserId::new(Uuid::from_u128(5));
/// An invitation.
pub(crate) const INVITATION: InvitationId = InvitationId::new(Uuid::from_u128(0x11));
/// A team.
pub(crate) const TEAM: TeamId = TeamId::new(Uuid::from_u128(0x7ea));
/// When a scenario begins.
pub(crate) const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);

/// A user's address.
pub(crate) fn email(user: UserId) -> Email {
    format!("user{}@example.com", user.uuid().as_u128()).parse().unwrap()
}

/// A text checked as a line.
pub(crate) fn line(text: &str) -> Line {
    text.parse().unwrap()
}

/// What has happened, and who is about to command.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) world: World,
    about: About,
}

/// An active tenant with its owner Olivia, who is about to command.
pub(crate) fn tenant() -> Scenario {
    let created = tenant::Event::Created { tenant_id: TENANT, slug: "acme".parse().unwrap(), name: line("Acme"), plan: tenant::Plan::Starter };
    nothing().given(TENANT.uuid(), created).member(OLIVIA, Role::Owner).by(OLIVIA)
}

/// Before the tenant exists.
pub(crate) fn nothing() -> Scenario {
    let (command, actor) = (CommandId::new(Uuid::from_u128(0xc0)), Actor::System);
    let about = About { tenant: TENANT, target: Uuid::nil(), command, actor, authority: Authority::System, if_match: None, now: NOON };
    Scenario { world: World::default(), about }
}

impl Scenario {
    /// Something happened to an aggregate.
    pub(crate) fn given(self, id: Uuid, event: impl Into<Event>) -> Self {
        self.given_in(TENANT, id, event)
    }

    fn given_in(mut self, tenant: TenantId, id: Uuid, event: impl Into<Event>) -> Self {
        self.apply(tenant, &Emitted::new(id, event));
        self
    }

    /// A user whose home this is.
    pub(crate) fn user(self, user_id: UserId) -> Self {
        self.given(user_id.uuid(), created(TENANT, user_id))
    }

    /// A user whose home is elsewhere.
    pub(crate) fn stranger(self, user_id: UserId) -> Self {
        self.given_in(ELSEWHERE, user_id.uuid(), created(ELSEWHERE, user_id))
    }

    /// A user of this tenant with a membership.
    pub(crate) fn member(self, user_id: UserId, role: Role) -> Self {
        self.user(user_id).joined(user_id, role)
    }

    /// A member whose home is elsewhere.
    pub(crate) fn guest(self, user_id: UserId, role: Role) -> Self {
        self.stranger(user_id).joined(user_id, role)
    }

    /// A membership.
    pub(crate) fn joined(mut self, user_id: UserId, role: Role) -> Self {
        self.apply(TENANT, &membership::joined(TENANT, user_id, email(user_id), role, None));
        self
    }

    /// A suspended user of this tenant.
    pub(crate) fn suspended(self, user_id: UserId) -> Self {
        self.given(user_id.uuid(), user::Event::Suspended { tenant_id: TENANT, user_id, reason: None })
    }

    /// The tenant is suspended.
    pub(crate) fn closed(self) -> Self {
        self.given(TENANT.uuid(), tenant::Event::Suspended { tenant_id: TENANT, reason: None })
    }

    /// The tenant's plan has no seat left.
    pub(crate) fn full(mut self) -> Self {
        self.world.settings.member_limits = [0; 4];
        self
    }

    /// A person commands, by their membership.
    pub(crate) fn by(mut self, user: UserId) -> Self {
        (self.about.actor, self.about.authority) = (Actor::User(user), Authority::Member);
        self
    }

    /// A platform operator commands.
    pub(crate) fn by_operator(mut self) -> Self {
        (self.about.actor, self.about.authority) = (Actor::User(UserId::new(Uuid::from_u128(0x0b))), Authority::Operator);
        self
    }

    /// A program commands.
    pub(crate) fn by_service(mut self) -> Self {
        (self.about.actor, self.about.authority) = (Actor::Service(ServiceId::new(Uuid::from_u128(0x5e))), Authority::Member);
        self
    }

    /// Time or a reactor commands.
    pub(crate) fn by_system(mut self) -> Self {
        (self.about.actor, self.about.authority) = (Actor::System, Authority::System);
        self
    }

    /// Whoever follows a link commands.
    pub(crate) fn by_link(mut self) -> Self {
        (self.about.actor, self.about.authority) = (Actor::System, Authority::Link);
        self
    }

    /// Time passes.
    pub(crate) fn after(mut self, time: Duration) -> Self {
        self.about.now += time;
        self
    }

    /// The caller has seen this version.
    pub(crate) fn if_match(mut self, version: u64) -> Self {
        self.about.if_match = Some(version);
        self
    }

    /// A state as it stands.
    pub(crate) fn state(&self, kind: Kind, id: Uuid) -> Option<&State> {
        self.world.states.get(&Key { tenant: TENANT, kind, id })?.as_ref().map(|versioned| &versioned.state)
    }

    /// A version as it stands.
    pub(crate) fn version(&self, kind: Kind, id: Uuid) -> u64 {
        self.world.states.get(&Key { tenant: TENANT, kind, id }).and_then(Option::as_ref).map_or(0, |versioned| versioned.version)
    }

    /// Whether a value is held.
    pub(crate) fn holds(&self, claim: &Claim) -> bool {
        self.world.claims.get(claim).is_some_and(Option::is_some)
    }

    /// The command is decided.
    pub(crate) fn when(mut self, target: Uuid, command: impl Into<Command>) -> Then {
        let command = command.into();
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(Command::parse(&command.command_type(), &text).unwrap(), command, "a command survives JSON");
        // Every command has its own id, as ids of what it creates follow from it.
        self.about.command = CommandId::new(Uuid::from_u128(self.about.command.uuid().as_u128() + 1));
        self.about.target = target;
        let loaded = self.loaded(&command);
        let surroundings = Surroundings::new(&loaded, TENANT);
        let decision = decide(&command, &surroundings, &self.about);
        assert!(!surroundings.asked_for_undeclared(), "{} asks for what it does not declare", command.command_type());
        for emitted in &decision.events {
            let key = Key { tenant: TENANT, kind: emitted.event.kind(), id: emitted.id };
            let is_new = self.world.states.get(&key).is_none_or(Option::is_none);
            assert!(registry::event(emitted.event.event_type()).is_some(), "the registry has no row for {}", emitted.event.event_type());
            assert!(is_new || loaded.states.contains_key(&key), "{} changes what was not loaded", command.command_type());
            let (command_type, event_type) = (command.command_type(), emitted.event.event_type());
            let is_known = registry::emits(command.kind(), command.name()).contains(&event_type);
            assert!(is_known, "registry/emits.rs does not know that {command_type} emits {event_type}");
            self.apply(TENANT, emitted);
        }
        if let Answer::Refused(reason) = decision.answer {
            let entry = registry::command(command.kind(), command.name());
            let entry = entry.unwrap_or_else(|| panic!("the registry has no row for {}", command.command_type()));
            let is_known = entry.refusals.contains(&reason) || registry::COMMON_REFUSALS.contains(&reason);
            assert!(is_known, "the registry does not know that {} may answer {reason:?}", command.command_type());
        }
        Then { command_type: command.command_type(), decision, scenario: self }
    }

    /// The commands are decided in one batch: everything is loaded before the first, and `meanwhile` happens in another tenant before the
    /// last. Returns the last decision.
    pub(crate) fn when_together(mut self, commands: &[(Uuid, Command)], meanwhile: &[Emitted]) -> Decision {
        let mut loaded = World { settings: self.world.settings.clone(), rosters: self.world.rosters.clone(), ..World::default() };
        let about = |n: usize, target| About { target, command: CommandId::new(Uuid::from_u128(0xba7c0 + n as u128)), ..self.about };
        let abouts: Vec<About> = commands.iter().enumerate().map(|(n, (target, _))| about(n, *target)).collect();
        for ((_, command), about) in commands.iter().zip(&abouts) {
            self.about = *about;
            let one = self.loaded(command);
            loaded.states.extend(one.states);
            loaded.claims.extend(one.claims);
            loaded.naming.extend(one.naming);
        }
        let mut decisions = Vec::new();
        for (n, ((_, command), about)) in commands.iter().zip(&abouts).enumerate() {
            for emitted in meanwhile.iter().filter(|_| n + 1 == commands.len()) {
                loaded.apply(ELSEWHERE, emitted, NOON);
            }
            let surroundings = Surroundings::new(&loaded, TENANT);
            let decision = decide(command, &surroundings, about);
            assert!(!surroundings.asked_for_undeclared(), "{} asks for what was not loaded", command.command_type());
            for emitted in &decision.events {
                loaded.apply(TENANT, emitted, NOON);
            }
            decisions.push(decision);
        }
        decisions.pop().unwrap()
    }

    /// What a worker would have loaded for the command.
    fn loaded(&self, command: &Command) -> World {
        let needs = command.needs(&self.about);
        let mut loaded = World { settings: self.world.settings.clone(), rosters: self.world.rosters.clone(), ..World::default() };
        for claim in &needs.claims {
            loaded.claims.insert(claim.clone(), self.world.claims.get(claim).copied().flatten());
        }
        for (tenant, id) in &needs.naming {
            let teams = self.world.states.iter().filter(|(key, _)| key.tenant == *tenant).filter_map(|(key, versioned)| match versioned {
                Some(Versioned { state: State::Team(team), .. }) if team.names().contains(id) => Some(TeamId::new(key.id)),
                _ => None,
            });
            loaded.naming.insert((*tenant, *id), teams.collect());
        }
        let mut keys = needs.states.clone();
        while !keys.is_empty() {
            for key in keys {
                loaded.states.insert(key, self.world.states.get(&key).cloned().flatten());
            }
            keys = needs.behind(&loaded).collect();
        }
        loaded
    }

    fn apply(&mut self, tenant: TenantId, emitted: &Emitted) {
        let text = serde_json::to_string(&emitted.event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), emitted.event, "an event survives JSON");
        for change in self.world.claim_changes(tenant, emitted) {
            let held = self.holds(change.claim());
            assert_eq!(held, matches!(change, ClaimChange::Release(_)), "{change:?}");
        }
        self.world.apply(tenant, emitted, self.about.now);
        let key = Key { tenant, kind: emitted.event.kind(), id: emitted.id };
        if let Some(Some(versioned)) = self.world.states.get(&key) {
            let text = serde_json::to_string(&versioned.state).unwrap();
            assert_eq!(State::parse(key.kind, &text).unwrap(), versioned.state, "a state survives JSON");
        }
        assert_eq!(self.world.rosters[&tenant], self.counted(tenant), "the roster agrees with the states");
    }

    /// The roster as a count over all states would give it.
    fn counted(&self, tenant: TenantId) -> Roster {
        let mut roster = Roster { members: 0, owners: BTreeMap::new(), pending_invitations: 0, teams: 0 };
        for (key, versioned) in self.world.states.iter().filter(|(key, _)| key.tenant == tenant) {
            match versioned.as_ref().map(|versioned| &versioned.state) {
                Some(State::Membership(membership)) if membership.is_active() => {
                    roster.members += 1;
                    if membership.role == Some(Role::Owner) {
                        let user = self.world.states.get(&Key { kind: Kind::User, ..*key }).and_then(Option::as_ref);
                        let is_active = user.is_none_or(|user| matches!(&user.state, State::User(user) if user.is_active()));
                        let is_active = is_active && !membership.suspended;
                        roster.owners.insert(UserId::new(key.id), is_active);
                    }
                }
                Some(State::Invitation(invitation)) if invitation.is_pending() => roster.pending_invitations += 1,
                Some(State::Team(team)) if team.is_active() => roster.teams += 1,
                _ => {}
            }
        }
        roster
    }
}

/// A user came to be.
pub(crate) fn created(tenant_id: TenantId, user_id: UserId) -> user::Event {
    user::Event::Created { tenant_id, user_id, email: email(user_id), full_name: line("Some One"), email_verified: true }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Then {
    command_type: String,
    pub(crate) decision: Decision,
    scenario: Scenario,
}

impl Then {
    /// Done, with exactly these events; the story goes on.
    pub(crate) fn then(self, expected: &[(Uuid, Event)]) -> Scenario {
        assert_eq!(self.decision.answer, Answer::Done);
        let events: Vec<_> = self.decision.events.into_iter().map(|emitted| (emitted.id, emitted.event)).collect();
        assert_eq!(events, expected);
        self.scenario
    }

    /// Done, with events of these types; for tests that look at something else.
    pub(crate) fn then_types(self, expected: &[&str]) -> Scenario {
        assert_eq!(self.decision.answer, Answer::Done);
        assert_eq!(self.types(), expected);
        self.scenario
    }

    /// Anything that passes the checks every step is put to.
    pub(crate) fn whatever(self) -> Scenario {
        self.scenario
    }

    /// It is so already: success without news.
    pub(crate) fn then_nothing(self) -> Scenario {
        self.then(&[])
    }

    /// Refused without a trace. The command is named so that the registry's test finds who refuses what.
    pub(crate) fn refused(self, command_type: &str, reason: Reason) -> Scenario {
        assert_eq!(self.command_type, command_type);
        assert_eq!(self.decision, Decision::refused(reason));
        self.scenario
    }

    /// Refused, with the trace that the workflow of a role leaves.
    pub(crate) fn refused_in_public(self, command_type: &str, reason: Reason) -> Scenario {
        assert_eq!(self.command_type, command_type);
        assert_eq!(self.decision.answer, Answer::Refused(reason));
        let topic = if command_type == "membership.assign_role" { "role.assignment" } else { "role.revocation" };
        assert_eq!(self.types(), [format!("{topic}_attempted"), format!("{topic}_failed")]);
        let failed = serde_json::to_value(&self.decision.events[1].event).unwrap();
        assert_eq!(failed["data"]["reason"], reason.code());
        self.scenario
    }

    fn types(&self) -> Vec<String> {
        self.decision.events.iter().map(|emitted| emitted.event.event_type().to_owned()).collect()
    }
}

/// The claim of a slug.
pub(crate) fn slug(text: &str) -> Claim {
    Claim::new(Scope::Slug, text)
}
