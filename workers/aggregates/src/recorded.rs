//! The JSON of every command, event and state, as recorded in the repository: a difference is a change of the contract, to be accepted
//! by recording anew with `CHANCERY_RECORD=1`. States of the past are never taken away: they must load for ever.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use subjects::{Actor, Kind, Role, TeamId, timestamp};
use time::Duration;
use uuid::Uuid;

use crate::{
    Command, Event, Reason, State, World,
    attributes::Attributes,
    invitation,
    membership::{self, StandingReason},
    scenario::{ADAM, INVITATION, MIA, NOON, TEAM, TENANT, email, line},
    team, tenant, user,
};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn attributes() -> Attributes {
    serde_json::from_value(json!({ "department": "research", "floor": 3 })).unwrap()
}

fn teams() -> Vec<TeamId> {
    vec![TEAM]
}

pub(crate) fn above() -> TeamId {
    TeamId::new(Uuid::from_u128(0xab0e))
}

fn sso() -> tenant::Sso {
    tenant::Sso { provider: line("okta"), issuer: "https://acme.okta.example".parse().unwrap(), client_id: line("0oa1b2c3") }
}

fn followed(reason: StandingReason) -> membership::FromHome {
    membership::FromHome { reason, home_standing: 3, stay: 1 }
}

/// One sample of every command, complete.
pub(crate) fn commands() -> Vec<Command> {
    let reason = || tenant::WithReason { reason: Some(line("unpaid")) };
    let nothing = tenant::Nothing {};
    let owner = tenant::Owner { email: email(ADAM), full_name: line("Adam Able") };
    let expires_at = Some(NOON + Duration::days(7));
    let patch = tenant::SettingsPatch { notify_profile_updated: Some(true), notify_invitation_expired: Some(false) };
    vec![
        tenant::Command::Create(tenant::Create { slug: "acme".parse().unwrap(), name: line("Acme"), plan: tenant::Plan::Starter, owner }).into(),
        tenant::Command::Update(tenant::Update { name: Some(line("Acme Ltd")), settings: Some(patch) }).into(),
        tenant::Command::Activate(nothing).into(),
        tenant::Command::Suspend(reason()).into(),
        tenant::Command::Cancel(reason()).into(),
        tenant::Command::UpgradePlan(tenant::UpgradePlan { plan: tenant::Plan::Enterprise }).into(),
        tenant::Command::ConfigureSso(sso()).into(),
        tenant::Command::DisableSso(nothing).into(),
        user::Command::Create(user::Create { email: email(MIA), full_name: line("Mia Mild"), role: Some(Role::Member) }).into(),
        user::Command::UpdateProfile(user::UpdateProfile { full_name: Some(line("Mia Bold")) }).into(),
        user::Command::Suspend(reason()).into(),
        user::Command::Deactivate(nothing).into(),
        user::Command::Reactivate(nothing).into(),
        user::Command::Delete(nothing).into(),
        membership::Command::Add(membership::Add { role: Role::Member }).into(),
        membership::Command::AssignRole(membership::AssignRole { role: Role::Admin }).into(),
        membership::Command::RevokeRole(membership::RevokeRole { role: Role::Admin, reason: Some(line("left the team")) }).into(),
        membership::Command::Remove(nothing).into(),
        membership::Command::Suspend(followed(StandingReason::UserSuspended)).into(),
        membership::Command::Reactivate(followed(StandingReason::UserReactivated)).into(),
        invitation::Command::Create(invitation::Create {
            email: email(MIA),
            invitation_type: invitation::InvitationType::Email,
            role: Role::Member,
            team_ids: teams(),
            attributes: attributes(),
            expires_at,
            token_hash: HASH.into(),
            send: true,
        })
        .into(),
        invitation::Command::Send(invitation::Send { token_version: 2, token_hash: HASH.into(), expires_at }).into(),
        invitation::Command::Accept(invitation::Accept {
            token_hash: HASH.into(),
            email: email(MIA),
            user_id: Some(MIA),
            full_name: Some(line("Mia Mild")),
        })
        .into(),
        invitation::Command::Decline(invitation::Decline { token_hash: HASH.into(), user_id: Some(MIA) }).into(),
        invitation::Command::Update(invitation::Update { attributes: Some(attributes()) }).into(),
        invitation::Command::SetAttribute(invitation::SetAttribute { key: "floor".parse().unwrap(), value: 3.into() }).into(),
        invitation::Command::RemoveAttribute(invitation::RemoveAttribute { key: "floor".parse().unwrap() }).into(),
        invitation::Command::Remove(nothing).into(),
        invitation::Command::Expire(invitation::Expire { deadline: NOON }).into(),
        team::Command::Create(team::Create { name: line("Design"), parent_team_id: Some(above()) }).into(),
        team::Command::Update(team::Update { name: Some(line("Artwork")), parent_team_id: Some(Some(above())) }).into(),
        team::Command::Delete(nothing).into(),
        team::Command::AddMembers(team::People { user_ids: [MIA].into() }).into(),
        team::Command::RemoveMembers(team::People { user_ids: [MIA].into() }).into(),
    ]
}

/// One sample of every event, complete: nothing optional is missing.
pub(crate) fn events() -> Vec<Event> {
    let mut events = tenant_events();
    events.extend(user_events());
    events.extend(membership_events());
    events.extend(invitation_events());
    events.extend(team_events());
    events
}

fn tenant_events() -> Vec<Event> {
    let (tenant_id, reason) = (TENANT, Some(line("unpaid")));
    let new = tenant::Settings { notify_profile_updated: true, notify_invitation_expired: false };
    let changes = tenant::Changes {
        name: Some(tenant::Change { old: line("Acme"), new: line("Acme Ltd") }),
        settings: Some(tenant::Change { old: tenant::Settings::default(), new }),
    };
    let tenant::Sso { provider, issuer, client_id } = sso();
    let (old_plan, new_plan) = (tenant::Plan::Starter, tenant::Plan::Enterprise);
    vec![
        tenant::Event::Created { tenant_id, slug: "acme".parse().unwrap(), name: line("Acme"), plan: old_plan }.into(),
        tenant::Event::Updated { tenant_id, changes }.into(),
        tenant::Event::Activated { tenant_id }.into(),
        tenant::Event::Suspended { tenant_id, reason: reason.clone() }.into(),
        tenant::Event::Cancelled { tenant_id, reason }.into(),
        tenant::Event::PlanUpgraded { tenant_id, old_plan, new_plan }.into(),
        tenant::Event::SsoConfigured { tenant_id, provider, issuer, client_id }.into(),
        tenant::Event::SsoDisabled { tenant_id }.into(),
    ]
}

fn user_events() -> Vec<Event> {
    let (tenant_id, user_id, by) = (TENANT, MIA, Some(Actor::User(ADAM)));
    let changes = user::Changes { full_name: Some(tenant::Change { old: line("Mia Mild"), new: line("Mia Bold") }) };
    vec![
        user::Event::Created { tenant_id, user_id, email: email(MIA), full_name: line("Mia Mild"), email_verified: true }.into(),
        user::Event::ProfileUpdated { tenant_id, user_id, changes }.into(),
        user::Event::Suspended { tenant_id, user_id, reason: Some(line("on leave")) }.into(),
        user::Event::Deactivated { tenant_id, user_id, deactivated_by: by, reason: user::DeactivationReason::Admin, deactivated_at: NOON }.into(),
        user::Event::Reactivated { tenant_id, user_id, reactivated_by: by }.into(),
        user::Event::Deleted { tenant_id, user_id, deleted_by: by }.into(),
    ]
}

fn membership_events() -> Vec<Event> {
    use membership::Event as E;
    let (tenant_id, user_id, by, role, reason) = (TENANT, MIA, Some(Actor::User(ADAM)), Role::Admin, Reason::OwnerRequired);
    let stated = || Some(line("left the team"));
    vec![
        membership::joined(TENANT, MIA, email(MIA), Role::Member, Some(INVITATION)).event,
        E::RoleChanged {
            tenant_id,
            user_id,
            old_role_id: Some(Role::Member.id()),
            old_role_name: Some(Role::Member),
            new_role_id: Some(role.id()),
            new_role_name: Some(role),
            changed_by: by,
        }
        .into(),
        E::Removed { tenant_id, user_id, email: email(MIA), removed_by: by, reason: membership::RemovalReason::Removed }.into(),
        E::Suspended { tenant_id, user_id, reason: StandingReason::UserSuspended, home_standing: 3 }.into(),
        E::Reactivated { tenant_id, user_id, reason: StandingReason::UserReactivated, home_standing: 4 }.into(),
        E::AssignmentAttempted { tenant_id, user_id, role, assigned_by: by }.into(),
        E::AssignmentSucceeded { tenant_id, user_id, role, assigned_by: by }.into(),
        E::AssignmentFailed { tenant_id, user_id, role, assigned_by: by, reason }.into(),
        E::RevocationAttempted { tenant_id, user_id, role, revoked_by: by, reason: stated() }.into(),
        E::RevocationSucceeded { tenant_id, user_id, role, revoked_by: by, reason: stated() }.into(),
        E::RevocationFailed { tenant_id, user_id, role, revoked_by: by, reason, stated_reason: stated() }.into(),
    ]
}

fn invitation_events() -> Vec<Event> {
    use invitation::{Event as E, InvitationType, RemovalReason, Status};
    let (tenant_id, invitation_id, by, role) = (TENANT, INVITATION, Some(Actor::User(ADAM)), Role::Member);
    let (invitation_type, expires_at, key) = (InvitationType::Email, NOON + Duration::days(7), || "floor".parse().unwrap());
    vec![
        E::Created {
            tenant_id,
            invitation_id,
            email: email(MIA),
            invitation_type,
            role,
            team_ids: teams(),
            identity_id: by,
            created_by: by,
            attributes: attributes(),
            expires_at,
            token_hash: HASH.into(),
            token_version: 1,
            send: true,
        }
        .into(),
        E::Sent {
            tenant_id,
            invitation_id,
            email: email(MIA),
            invitation_type,
            role,
            state: Status::Sent,
            resend_count: 1,
            expires_at,
            token_hash: HASH.into(),
            token_version: 2,
        }
        .into(),
        E::Accepted { tenant_id, invitation_id, account_id: MIA, identity_id: MIA, email: email(MIA), role, team_ids: teams(), created_by: by }
            .into(),
        E::Declined { tenant_id, invitation_id, account_id: Some(MIA) }.into(),
        E::Removed { tenant_id, invitation_id, reason: RemovalReason::Superseded }.into(),
        E::AttributeSet { tenant_id, invitation_id, key: key(), value: 3.into() }.into(),
        E::AttributeRemoved { tenant_id, invitation_id, key: key() }.into(),
        E::Updated { tenant_id, invitation_id, attributes: attributes(), patched_fields: vec!["attributes".into()] }.into(),
        E::Expired { tenant_id, invitation_id, email: email(MIA), expires_at, created_by: by }.into(),
    ]
}

fn team_events() -> Vec<Event> {
    use team::Event as E;
    let (tenant_id, team_id, name, parent_team_id, by) = (TENANT, TEAM, || line("Design"), Some(above()), Some(Actor::User(ADAM)));
    let changes = team::Changes {
        name: Some(tenant::Change { old: name(), new: line("Artwork") }),
        parent_team_id: Some(tenant::Change { old: None, new: parent_team_id }),
    };
    let (user_ids, invitation_id) = (vec![MIA], Some(INVITATION));
    vec![
        E::Created { tenant_id, team_id, name: name(), parent_team_id }.into(),
        E::Updated { tenant_id, team_id, changes }.into(),
        E::Deleted { tenant_id, team_id, name: name(), parent_team_id }.into(),
        E::MembersAdded { tenant_id, team_id, name: name(), user_ids: user_ids.clone(), added_by: by, invitation_id }.into(),
        E::MembersRemoved { tenant_id, team_id, name: name(), user_ids, removed_by: by }.into(),
    ]
}

/// States with every field filled. Whoever changes one raises [`State::SCHEMA_VERSION`] only if old ones no longer mean what they say.
fn states() -> Vec<(Kind, State)> {
    let user = user::State {
        email: email(MIA).to_string(),
        full_name: "Mia Mild".into(),
        email_verified: true,
        status: user::Status::Deactivated,
        deactivated_at: Some(NOON),
        standing_changes: 2,
    };
    let membership = membership::State {
        email: email(MIA).to_string(),
        role: Some(Role::Admin),
        active: true,
        invitation_id: Some(INVITATION),
        suspended: true,
        home_standing: Some(3),
        stay: 2,
    };
    let invitation = invitation::State {
        email: email(MIA).to_string(),
        invitation_type: invitation::InvitationType::Link,
        role: Role::Member,
        team_ids: teams(),
        attributes: attributes(),
        status: invitation::Status::Accepted,
        expires_at: NOON + Duration::days(7),
        token_hash: HASH.into(),
        token_version: 2,
        resend_count: 1,
        created_by: Some(Actor::User(ADAM)),
        account_id: Some(MIA),
    };
    let team = team::State { name: "Design".into(), parent_team_id: Some(above()), members: [MIA].into(), status: team::Status::Active };
    let tenant = tenant::State {
        slug: "acme".into(),
        name: "Acme".into(),
        plan: tenant::Plan::Professional,
        status: tenant::Status::Suspended,
        settings: tenant::Settings { notify_profile_updated: true, notify_invitation_expired: true },
        sso: Some(sso()),
    };
    vec![
        (Kind::Tenant, tenant.into()),
        (Kind::User, user.into()),
        (Kind::Membership, membership.into()),
        (Kind::Invitation, invitation.into()),
        (Kind::Team, team.into()),
    ]
}

fn folder(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recorded").join(of)
}

/// The JSON files of a folder, by name without ending.
fn recorded(of: &str) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder(of)).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())).collect()
}

/// Compares the present JSON with the recorded one, both ways; or records it.
fn compare<T: Serialize>(of: &str, present: impl IntoIterator<Item = (String, T)>) {
    let present: BTreeMap<String, String> =
        present.into_iter().map(|(name, value)| (name, serde_json::to_string_pretty(&value).unwrap() + "\n")).collect();
    if std::env::var_os("CHANCERY_RECORD").is_some_and(|value| value == "1") {
        fs::create_dir_all(folder(of)).unwrap();
        for (name, text) in &present {
            let file = folder(of).join(format!("{name}.json"));
            // In one step, as other tests read meanwhile.
            if fs::read_to_string(&file).ok().as_ref() != Some(text) {
                let part = folder(of).join(format!("{name}.part"));
                fs::write(&part, text).unwrap();
                fs::rename(&part, &file).unwrap();
            }
        }
    }
    let recorded = recorded(of);
    for (name, text) in &present {
        assert_eq!(recorded.get(name), Some(text), "{of}/{name}.json is another than recorded: if that is meant, record with CHANCERY_RECORD=1");
    }
}

#[test]
fn commands_are_as_recorded() {
    let names: Vec<String> = commands().iter().map(Command::command_type).collect();
    compare("commands", names.into_iter().zip(commands()));
}

#[test]
fn events_are_as_recorded() {
    compare("events", events().into_iter().map(|event| (event.event_type().to_owned(), event)));
}

#[test]
fn states_are_as_recorded() {
    compare("states", states().into_iter().map(|(kind, state)| (format!("{kind}.{}", State::SCHEMA_VERSION), state)));
}

#[test]
fn there_is_a_sample_of_every_command_event_and_state() {
    let commands: Vec<String> = commands().iter().map(Command::command_type).collect();
    let registered: Vec<String> = crate::registry::COMMANDS.iter().map(|entry| format!("{}.{}", entry.kind, entry.name)).collect();
    assert_eq!(commands, registered);
    let events: Vec<&str> = events().iter().map(Event::event_type).collect();
    assert_eq!(events, crate::registry::EVENTS.iter().map(|entry| entry.event_type).collect::<Vec<_>>());
    for kind in Kind::ALL {
        assert!(states().iter().any(|(of, _)| *of == kind), "no sample of the state of {kind}");
    }
}

#[test]
fn everything_ever_recorded_can_still_be_read() {
    for (name, text) in recorded("states") {
        let kind: Kind = name.split('.').next().unwrap().parse().unwrap();
        State::parse(kind, &text).unwrap_or_else(|error| panic!("states/{name}.json: {error}"));
    }
    for (name, text) in recorded("events") {
        let event: Event = serde_json::from_str(&text).unwrap_or_else(|error| panic!("events/{name}.json: {error}"));
        assert_eq!(event.event_type(), name);
    }
    for (name, text) in recorded("commands") {
        let command = Command::parse(&name, &text).unwrap_or_else(|error| panic!("commands/{name}.json: {error}"));
        assert_eq!(command.command_type(), name);
    }
}

#[test]
fn fields_of_a_newer_version_are_ignored() {
    for (name, text) in recorded("states") {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["ofTheFuture"] = json!({ "a": 1 });
        let kind: Kind = name.split('.').next().unwrap().parse().unwrap();
        assert_eq!(State::parse(kind, &value.to_string()).unwrap(), State::parse(kind, &text).unwrap());
    }
    for (name, text) in recorded("commands") {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["ofTheFuture"] = json!(1);
        assert_eq!(Command::parse(&name, &value.to_string()).unwrap(), Command::parse(&name, &text).unwrap());
    }
}

#[test]
fn the_examples_of_the_notification_catalogue_stay_recognisable() {
    let data = |event_type: &str| {
        let event = events().into_iter().find(|event| event.event_type() == event_type).unwrap();
        serde_json::to_value(event).unwrap()["data"].clone()
    };
    for (event_type, fields) in [
        ("tenant.member_joined", &["tenantId", "userId", "email", "roleId", "roleName"][..]),
        ("tenant.member_role_changed", &["tenantId", "userId", "oldRoleId", "oldRoleName", "newRoleId", "newRoleName", "changedBy"]),
        ("invitation.created", &["invitationId", "tenantId", "email", "invitationType", "expiresAt", "createdBy"]),
    ] {
        let data = data(event_type);
        assert!(fields.iter().all(|field| data[field].is_string()), "{event_type}: {data}");
    }
}

#[test]
fn every_event_names_its_tenant_and_the_thing_it_happened_to() {
    for event in events() {
        let data = serde_json::to_value(&event).unwrap()["data"].clone();
        let id = match event.kind() {
            Kind::Tenant => "tenantId",
            Kind::User | Kind::Membership => "userId",
            Kind::Invitation => "invitationId",
            Kind::Team => "teamId",
        };
        assert!(data["tenantId"].is_string() && data[id].is_string(), "{}: {data}", event.event_type());
    }
}

#[test]
fn a_deadline_is_told_for_pending_invitations_only() {
    let scenario = |status| {
        let invitation = states().into_iter().find_map(|(_, state)| if let State::Invitation(state) = state { Some(state) } else { None });
        let state = invitation.unwrap();
        State::from(invitation::State { status, ..state }).deadline().map(|(at, command)| (timestamp::format(at), command))
    };
    assert_eq!(scenario(invitation::Status::Sent), Some(("2026-11-29T12:00:00.000Z".to_owned(), "expire")));
    assert_eq!(scenario(invitation::Status::Accepted), None);
    assert_eq!(World::default().settings.member_limits.len(), 4);
}
