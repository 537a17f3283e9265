//! Which command emits which events. Every decision of every domain test is held against it, and each pair is driven below: an event that
//! no decision emits, and a pair nobody can produce, fail.

use subjects::Kind;

/// What a command may emit, refused ones' traces included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmitsEntry {
    /// The aggregate the command is for.
    pub kind: Kind,
    /// The command's name.
    pub command: &'static str,
    /// The types of the events.
    pub events: &'static [&'static str],
}

const fn m(kind: Kind, command: &'static str, events: &'static [&'static str]) -> EmitsEntry {
    EmitsEntry { kind, command, events }
}

/// What each command may emit, in the order of [`COMMANDS`](super::COMMANDS).
pub const EMITS: &[EmitsEntry] = &[
    m(Kind::Tenant, "create", &["tenant.created", "user.created", "tenant.member_joined"]),
    m(Kind::Tenant, "update", &["tenant.updated"]),
    m(Kind::Tenant, "activate", &["tenant.activated"]),
    m(Kind::Tenant, "suspend", &["tenant.suspended"]),
    m(Kind::Tenant, "cancel", &["tenant.cancelled"]),
    m(Kind::Tenant, "upgrade_plan", &["tenant.plan_upgraded"]),
    m(Kind::Tenant, "configure_sso", &["tenant.sso_configured"]),
    m(Kind::Tenant, "disable_sso", &["tenant.sso_disabled"]),
    m(Kind::User, "create", &["user.created", "tenant.member_joined"]),
    m(Kind::User, "update_profile", &["user.profile_updated"]),
    m(Kind::User, "suspend", &["user.suspended"]),
    m(Kind::User, "deactivate", &["user.deactivated"]),
    m(Kind::User, "reactivate", &["user.reactivated"]),
    m(Kind::User, "delete", &["team.members_removed", "tenant.member_removed", "user.deleted"]),
    m(Kind::Membership, "add", &["tenant.member_joined"]),
    m(
        Kind::Membership,
        "assign_role",
        &["role.assignment_attempted", "role.assignment_succeeded", "tenant.member_joined", "tenant.member_role_changed", "role.assignment_failed"],
    ),
    m(
        Kind::Membership,
        "revoke_role",
        &["role.revocation_attempted", "role.revocation_succeeded", "tenant.member_role_changed", "role.revocation_failed"],
    ),
    m(Kind::Membership, "remove", &["team.members_removed", "tenant.member_removed"]),
    m(Kind::Membership, "suspend", &["tenant.member_suspended"]),
    m(Kind::Membership, "reactivate", &["tenant.member_reactivated"]),
    m(Kind::Invitation, "create", &["invitation.removed", "invitation.created"]),
    m(Kind::Invitation, "send", &["invitation.sent"]),
    m(Kind::Invitation, "accept", &["invitation.accepted", "user.created", "tenant.member_joined", "team.members_added"]),
    m(Kind::Invitation, "decline", &["invitation.declined"]),
    m(Kind::Invitation, "update", &["invitation.updated"]),
    m(Kind::Invitation, "set_attribute", &["invitation.attribute_set"]),
    m(Kind::Invitation, "remove_attribute", &["invitation.attribute_removed"]),
    m(Kind::Invitation, "remove", &["invitation.removed"]),
    m(Kind::Invitation, "expire", &["invitation.expired"]),
    m(Kind::Team, "create", &["team.created"]),
    m(Kind::Team, "update", &["team.updated"]),
    m(Kind::Team, "delete", &["team.deleted"]),
    m(Kind::Team, "add_members", &["team.members_added"]),
    m(Kind::Team, "remove_members", &["team.members_removed"]),
];

/// What a command may emit; nothing for one without a row.
pub fn emits(kind: Kind, command: &str) -> &'static [&'static str] {
    EMITS.iter().find(|entry| entry.kind == kind && entry.command == command).map_or(&[], |entry| entry.events)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use subjects::Role;
    use time::Duration;
    use uuid::Uuid;

    use super::*;
    use crate::{
        Command, Event, invitation, recorded,
        registry::{COMMANDS, EVENTS},
        scenario::{ADAM, INVITATION, MIA, OLIVIA, Scenario, TEAM, TENANT, line, nothing, tenant},
        team,
    };

    /// The recorded sample of a command.
    fn sample(command_type: &str) -> Command {
        recorded::commands().into_iter().find(|command| command.command_type() == command_type).unwrap()
    }

    /// The recorded sample of an event: it has happened.
    fn happened(event_type: &str) -> Event {
        recorded::events().into_iter().find(|event| event.event_type() == event_type).unwrap()
    }

    /// Olivia owns, Adam is an admin, Mia a member, and nobody has been invited.
    fn team() -> Scenario {
        tenant().member(ADAM, Role::Admin).member(MIA, Role::Member)
    }

    /// There is a team that others may be put below.
    fn above(scenario: Scenario) -> Scenario {
        let created = team::Event::Created { tenant_id: TENANT, team_id: recorded::above(), name: line("Everybody"), parent_team_id: None };
        scenario.given(recorded::above().uuid(), created)
    }

    /// Mia is in a team below it.
    fn grouped(scenario: Scenario) -> Scenario {
        above(scenario).given(TEAM.uuid(), happened("team.created")).given(TEAM.uuid(), happened("team.members_added"))
    }

    /// Somebody was invited under Mia's address, who is nobody yet; the invitation was sent.
    fn invited() -> Scenario {
        let team = team::Event::Created { tenant_id: TENANT, team_id: TEAM, name: line("Design"), parent_team_id: None };
        let created = tenant().given(TEAM.uuid(), team).given(INVITATION.uuid(), happened("invitation.created"));
        created.given(INVITATION.uuid(), happened("invitation.sent")).by(OLIVIA)
    }

    fn deactivated() -> Scenario {
        grouped(team()).given(MIA.uuid(), happened("user.deactivated"))
    }

    /// Every command in tenants where it emits what it can.
    fn stories() -> Vec<(&'static str, Uuid, Scenario)> {
        let (t, mia, i) = (TENANT.uuid(), MIA.uuid(), INVITATION.uuid());
        vec![
            ("tenant.create", t, nothing().by_operator()),
            ("tenant.update", t, tenant()),
            ("tenant.activate", t, tenant().closed().by_operator()),
            ("tenant.suspend", t, tenant().by_operator()),
            ("tenant.cancel", t, tenant().closed().by_operator()),
            ("tenant.upgrade_plan", t, tenant()),
            ("tenant.configure_sso", t, tenant()),
            ("tenant.disable_sso", t, tenant().given(t, happened("tenant.sso_configured"))),
            ("user.create", mia, tenant()),
            ("user.update_profile", mia, team()),
            ("user.suspend", mia, team()),
            ("user.deactivate", mia, team()),
            ("user.reactivate", mia, team().suspended(MIA)),
            ("user.delete", mia, deactivated().after(Duration::days(91))),
            ("membership.add", mia, tenant().user(MIA)),
            ("membership.assign_role", mia, team()),
            ("membership.assign_role", mia, tenant().user(MIA)),
            ("membership.assign_role", mia, team().by(MIA)),
            ("membership.revoke_role", ADAM.uuid(), team()),
            ("membership.revoke_role", mia, team()),
            ("membership.remove", mia, grouped(team())),
            ("membership.suspend", mia, tenant().guest(MIA, Role::Member).by_system()),
            ("membership.reactivate", mia, tenant().guest(MIA, Role::Member).by_system()),
            ("invitation.create", Uuid::from_u128(0x12), invited()),
            ("invitation.send", i, tenant().given(i, happened("invitation.created"))),
            ("invitation.accept", i, invited().by_link()),
            ("invitation.decline", i, invited().by_link()),
            ("invitation.update", i, invited().given(i, happened("invitation.attribute_removed"))),
            ("invitation.set_attribute", i, invited().given(i, happened("invitation.attribute_removed"))),
            ("invitation.remove_attribute", i, invited()),
            ("invitation.remove", i, invited()),
            ("invitation.expire", i, invited().by_system().after(Duration::days(8))),
            ("team.create", TEAM.uuid(), above(team())),
            ("team.update", TEAM.uuid(), grouped(team())),
            ("team.delete", TEAM.uuid(), grouped(team())),
            ("team.add_members", TEAM.uuid(), invited().member(MIA, Role::Member)),
            ("team.remove_members", TEAM.uuid(), grouped(team())),
        ]
    }

    /// The sample, made to fit the story where the sample is complete and the story is about less.
    fn fitting(command_type: &str) -> Command {
        match sample(command_type) {
            // Nobody is signed in, so that the person is created.
            Command::Invitation(invitation::Command::Accept(accept)) => {
                invitation::Command::Accept(invitation::Accept { user_id: None, ..accept }).into()
            }
            Command::Invitation(invitation::Command::Expire(_)) => {
                let Event::Invitation(invitation::Event::Sent { expires_at, .. }) = happened("invitation.sent") else { panic!("no deadline") };
                invitation::Command::Expire(invitation::Expire { deadline: expires_at }).into()
            }
            other => other,
        }
    }

    /// What the decisions emit, by command.
    fn driven() -> BTreeMap<String, BTreeSet<&'static str>> {
        let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
        for (command_type, target, scenario) in stories() {
            let decision = scenario.when(target, fitting(command_type)).decision;
            let types = decision.events.iter().map(|emitted| emitted.event.event_type());
            found.entry(command_type.to_owned()).or_default().extend(types);
        }
        found
    }

    #[test]
    fn every_command_has_exactly_one_row_in_the_same_order() {
        let rows: Vec<_> = EMITS.iter().map(|entry| (entry.kind, entry.command)).collect();
        assert_eq!(rows, COMMANDS.iter().map(|entry| (entry.kind, entry.name)).collect::<Vec<_>>());
    }

    #[test]
    fn every_event_is_emitted_by_some_command_and_every_command_emits_something() {
        for entry in EVENTS {
            let by = EMITS.iter().filter(|emits| emits.events.contains(&entry.event_type)).count();
            assert!(by > 0, "no command emits {}", entry.event_type);
        }
        for entry in EMITS {
            assert!(!entry.events.is_empty(), "{}.{} emits nothing", entry.kind, entry.command);
            let unknown = entry.events.iter().find(|emitted| !EVENTS.iter().any(|event| event.event_type == **emitted));
            assert_eq!(unknown, None, "{}.{} emits what is no event", entry.kind, entry.command);
        }
    }

    #[test]
    fn every_event_a_row_names_comes_out_of_a_decision() {
        let driven = driven();
        for entry in EMITS {
            let command = format!("{}.{}", entry.kind, entry.command);
            let found = driven.get(&command).unwrap_or_else(|| panic!("no story above gives {command}"));
            let missing: Vec<_> = entry.events.iter().filter(|event| !found.contains(**event)).collect();
            assert!(missing.is_empty(), "no story above makes {command} emit {missing:?}");
        }
        let events: BTreeSet<&str> = driven.values().flatten().copied().collect();
        let silent: Vec<_> = EVENTS.iter().map(|entry| entry.event_type).filter(|event| !events.contains(event)).collect();
        assert!(silent.is_empty(), "no aggregate emits {silent:?}");
    }
}
