use subjects::InvitationId;
use uuid::Uuid;

use super::*;
use crate::{
    Event as AnyEvent, State as AnyState, invitation, membership,
    scenario::{ADAM, GUS, INVITATION, MIA, NEMO, OLIVIA, Scenario, TEAM, TENANT, email, line, nothing, tenant},
    user,
};

const OTHER: TeamId = TeamId::new(Uuid::from_u128(0x7eb));
const THIRD: TeamId = TeamId::new(Uuid::from_u128(0x7ec));

fn create(name: &str, parent_team_id: Option<TeamId>) -> Command {
    Command::Create(Create { name: line(name), parent_team_id })
}

fn rename(name: &str) -> Command {
    Command::Update(Update { name: Some(line(name)), parent_team_id: None })
}

fn put_below(parent: Option<TeamId>) -> Command {
    Command::Update(Update { name: None, parent_team_id: Some(parent) })
}

fn add(users: &[UserId]) -> Command {
    Command::AddMembers(People { user_ids: users.iter().copied().collect() })
}

fn remove(users: &[UserId]) -> Command {
    Command::RemoveMembers(People { user_ids: users.iter().copied().collect() })
}

fn delete() -> Command {
    Command::Delete(Nothing {})
}

/// Olivia owns, Adam is an admin, Mia a member.
fn people() -> Scenario {
    tenant().member(ADAM, Role::Admin).member(MIA, Role::Member).by(ADAM)
}

fn created(team_id: TeamId, name: &str, parent_team_id: Option<TeamId>) -> Event {
    Event::Created { tenant_id: TENANT, team_id, name: line(name), parent_team_id }
}

fn added(team_id: TeamId, name: &str, users: &[UserId], invitation_id: Option<InvitationId>) -> Event {
    let added_by = Some(Actor::User(ADAM));
    Event::MembersAdded { tenant_id: TENANT, team_id, name: line(name), user_ids: users.to_vec(), added_by, invitation_id }
}

fn removed(team_id: TeamId, name: &str, users: &[UserId], by: UserId) -> Event {
    let removed_by = Some(Actor::User(by));
    Event::MembersRemoved { tenant_id: TENANT, team_id, name: line(name), user_ids: users.to_vec(), removed_by }
}

/// A team named Design.
fn design() -> Scenario {
    people().given(TEAM.uuid(), created(TEAM, "Design", None))
}

/// Design above Icons above Fonts.
fn three() -> Scenario {
    design().given(OTHER.uuid(), created(OTHER, "Icons", Some(TEAM))).given(THIRD.uuid(), created(THIRD, "Fonts", Some(OTHER)))
}

fn team(scenario: &Scenario, id: TeamId) -> &State {
    match scenario.state(Kind::Team, id.uuid()) {
        Some(AnyState::Team(state)) => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_admin_creates_a_team_and_one_below_it() {
    let scenario = people().when(TEAM.uuid(), create("Design", None)).then(&[(TEAM.uuid(), created(TEAM, "Design", None).into())]);
    let below = created(OTHER, "Icons", Some(TEAM));
    let scenario = scenario.when(OTHER.uuid(), create("Icons", Some(TEAM))).then(&[(OTHER.uuid(), below.into())]);
    assert_eq!(scenario.world.rosters[&TENANT].teams, 2);
}

#[test]
fn whoever_is_no_admin_changes_no_team() {
    for command in [create("Icons", None), rename("Icons"), delete(), add(&[MIA]), remove(&[MIA])] {
        let command_type = format!("team.{}", command.name());
        let scenario = design().by(MIA).when(TEAM.uuid(), command.clone()).refused(&command_type, Reason::Forbidden);
        scenario.by(GUS).when(TEAM.uuid(), command).refused(&command_type, Reason::Forbidden);
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    nothing().by_operator().when(TEAM.uuid(), create("Design", None)).refused("team.create", Reason::NotFound);
    for command in [rename("Icons"), delete(), add(&[MIA]), remove(&[MIA])] {
        let command_type = format!("team.{}", command.name());
        people().when(TEAM.uuid(), command.clone()).refused(&command_type, Reason::NotFound);
        let deleted = design().when(TEAM.uuid(), delete()).then_types(&["team.deleted"]);
        deleted.when(TEAM.uuid(), command).refused(&command_type, Reason::NotFound);
    }
    // Another tenant's team is none of this tenant's.
    people().when(TEAM.uuid(), create("Design", Some(OTHER))).refused("team.create", Reason::NotFound);
    design().when(TEAM.uuid(), put_below(Some(OTHER))).refused("team.update", Reason::NotFound);
}

#[test]
fn a_name_is_one_teams_whatever_the_case_and_free_when_the_team_is_gone() {
    let scenario = design().when(OTHER.uuid(), create("DESIGN", None)).refused("team.create", Reason::NameTaken);
    let scenario = scenario.when(OTHER.uuid(), create("Icons", None)).then_types(&["team.created"]);
    let scenario = scenario.when(OTHER.uuid(), rename("design")).refused("team.update", Reason::NameTaken);
    let scenario = scenario.when(TEAM.uuid(), rename("DESIGN")).then_types(&["team.updated"]);
    let scenario = scenario.when(TEAM.uuid(), delete()).then_types(&["team.deleted"]);
    scenario.when(OTHER.uuid(), rename("Design")).then_types(&["team.updated"]);
}

#[test]
fn a_team_is_created_once() {
    design().when(TEAM.uuid(), create("Another", None)).refused("team.create", Reason::NameTaken);
}

#[test]
fn an_update_tells_what_was_before_and_nothing_where_nothing_changes() {
    let changes =
        Changes { name: Some(Change { old: line("Icons"), new: line("Pictures") }), parent_team_id: Some(Change { old: Some(TEAM), new: None }) };
    let both = Command::Update(Update { name: Some(line("Pictures")), parent_team_id: Some(None) });
    let updated = Event::Updated { tenant_id: TENANT, team_id: OTHER, changes };
    let scenario = three().when(OTHER.uuid(), both.clone()).then(&[(OTHER.uuid(), updated.into())]);
    let state = team(&scenario, OTHER);
    assert_eq!((state.name.as_str(), state.parent_team_id), ("Pictures", None));
    let scenario = scenario.when(OTHER.uuid(), both).then_nothing();
    scenario.when(OTHER.uuid(), Command::Update(Update::default())).then_nothing();
}

#[test]
fn null_takes_the_parent_away_and_nothing_leaves_it() {
    let parsed = |text| Command::parse("update", text).unwrap().unwrap();
    assert_eq!(parsed("{}"), Command::Update(Update::default()));
    assert_eq!(parsed(r#"{"parentTeamId":null}"#), put_below(None));
    assert_eq!(serde_json::to_string(&put_below(None)).unwrap(), r#"{"parentTeamId":null}"#);
}

#[test]
fn a_team_never_stands_below_itself() {
    for below in [TEAM, OTHER, THIRD] {
        three().when(TEAM.uuid(), put_below(Some(below))).refused("team.update", Reason::ParentCycle);
    }
    people().when(TEAM.uuid(), create("Design", Some(TEAM))).refused("team.create", Reason::ParentCycle);
    three().when(THIRD.uuid(), put_below(Some(TEAM))).then_types(&["team.updated"]);
}

#[test]
fn two_teams_put_below_each_other_at_once_do_not_close_a_circle() {
    let two = design().given(OTHER.uuid(), created(OTHER, "Icons", None));
    let commands = [(TEAM.uuid(), put_below(Some(OTHER)).into()), (OTHER.uuid(), put_below(Some(TEAM)).into())];
    assert_eq!(two.when_together(&commands, &[]), Decision::refused(Reason::ParentCycle));
}

#[test]
fn teams_stand_sixteen_deep_and_not_deeper() {
    let id = |level: usize| TeamId::new(Uuid::from_u128(0x1000 + level as u128));
    let mut scenario = people();
    for level in 0..=MAX_DEPTH {
        let parent = level.checked_sub(1).map(id);
        scenario = scenario.when(id(level).uuid(), create(&format!("Level {level}"), parent)).then_types(&["team.created"]);
    }
    let deepest = Some(id(MAX_DEPTH));
    let scenario = scenario.when(TEAM.uuid(), create("Too deep", deepest)).refused("team.create", Reason::ParentCycle);
    let scenario = scenario.given(TEAM.uuid(), created(TEAM, "Design", None));
    scenario.when(TEAM.uuid(), put_below(deepest)).refused("team.update", Reason::ParentCycle);
}

#[test]
fn a_tenant_has_so_many_teams_and_no_more() {
    let mut scenario = design();
    scenario.world.settings.teams = 1;
    let scenario = scenario.when(OTHER.uuid(), create("Icons", None)).refused("team.create", Reason::TeamFull);
    let scenario = scenario.when(TEAM.uuid(), delete()).then_types(&["team.deleted"]);
    scenario.when(OTHER.uuid(), create("Icons", None)).then_types(&["team.created"]);
}

#[test]
fn a_team_with_teams_below_it_stays() {
    let scenario = three().when(TEAM.uuid(), delete()).refused("team.delete", Reason::HasSubteams);
    let scenario = scenario.when(OTHER.uuid(), put_below(None)).then_types(&["team.updated"]);
    let deleted = Event::Deleted { tenant_id: TENANT, team_id: TEAM, name: line("Design"), parent_team_id: None };
    scenario.when(TEAM.uuid(), delete()).then(&[(TEAM.uuid(), deleted.into())]);
}

#[test]
fn a_team_deleted_in_the_batch_that_puts_another_below_it_is_not_lost_sight_of() {
    let two = || design().given(OTHER.uuid(), created(OTHER, "Icons", None));
    let commands = [(OTHER.uuid(), put_below(Some(TEAM)).into()), (TEAM.uuid(), delete().into())];
    assert_eq!(two().when_together(&commands, &[]), Decision::refused(Reason::HasSubteams));
    let commands = [(TEAM.uuid(), delete().into()), (OTHER.uuid(), put_below(Some(TEAM)).into())];
    assert_eq!(two().when_together(&commands, &[]), Decision::refused(Reason::NotFound));
}

#[test]
fn members_are_put_in_once_and_taken_out_once() {
    let scenario = design().when(TEAM.uuid(), add(&[MIA, ADAM])).then(&[(TEAM.uuid(), added(TEAM, "Design", &[ADAM, MIA], None).into())]);
    let scenario = scenario.when(TEAM.uuid(), add(&[MIA])).then_nothing();
    let scenario = scenario.when(TEAM.uuid(), add(&[MIA, OLIVIA])).then(&[(TEAM.uuid(), added(TEAM, "Design", &[OLIVIA], None).into())]);
    let scenario = scenario.when(TEAM.uuid(), remove(&[MIA])).then(&[(TEAM.uuid(), removed(TEAM, "Design", &[MIA], ADAM).into())]);
    let scenario = scenario.when(TEAM.uuid(), remove(&[MIA])).then_nothing();
    assert_eq!(team(&scenario, TEAM).members, [OLIVIA, ADAM].into());
}

#[test]
fn only_members_of_the_tenant_are_in_its_teams() {
    let scenario = design().stranger(GUS).user(NEMO);
    for user in [GUS, NEMO] {
        scenario.clone().when(TEAM.uuid(), add(&[MIA, user])).refused("team.add_members", Reason::NotAMember);
        scenario.clone().when(TEAM.uuid(), remove(&[user])).refused("team.remove_members", Reason::NotAMember);
    }
}

#[test]
fn a_full_team_takes_nobody_and_a_person_in_too_many_goes_to_none() {
    let mut scenario = design().when(TEAM.uuid(), add(&[MIA])).then_types(&["team.members_added"]);
    scenario.world.settings.team_members = 1;
    scenario.when(TEAM.uuid(), add(&[MIA, ADAM])).refused("team.add_members", Reason::TeamFull);
    let mut scenario = three().when(TEAM.uuid(), add(&[MIA])).then_types(&["team.members_added"]);
    scenario.world.settings.teams_per_member = 1;
    let scenario = scenario.when(OTHER.uuid(), add(&[MIA])).refused("team.add_members", Reason::TeamFull);
    scenario.when(OTHER.uuid(), add(&[ADAM])).then_types(&["team.members_added"]);
}

#[test]
fn one_command_names_one_to_a_hundred_people() {
    let parse = |n: u128| {
        let ids: Vec<UserId> = (0..n).map(|n| UserId::new(Uuid::from_u128(n))).collect();
        Command::parse("add_members", &serde_json::json!({ "userIds": ids }).to_string()).unwrap()
    };
    assert!(parse(0).is_err() && parse(101).is_err());
    assert!(parse(1).is_ok() && parse(100).is_ok());
}

#[test]
fn who_leaves_the_tenant_leaves_its_teams_first() {
    let in_two = || three().when(TEAM.uuid(), add(&[MIA])).whatever().when(THIRD.uuid(), add(&[MIA, ADAM])).whatever();
    let leave = membership::Command::Remove(Nothing {});
    let gone = membership::Event::Removed {
        tenant_id: TENANT,
        user_id: MIA,
        email: email(MIA),
        removed_by: Some(Actor::User(MIA)),
        reason: membership::RemovalReason::Left,
    };
    let scenario = in_two().by(MIA).when(MIA.uuid(), leave.clone()).then(&[
        (TEAM.uuid(), removed(TEAM, "Design", &[MIA], MIA).into()),
        (THIRD.uuid(), removed(THIRD, "Fonts", &[MIA], MIA).into()),
        (MIA.uuid(), AnyEvent::from(gone)),
    ]);
    assert_eq!(team(&scenario, THIRD).members, [ADAM].into());
    // In the batch that puts them in, too.
    let commands = [(TEAM.uuid(), add(&[MIA]).into()), (MIA.uuid(), leave.into())];
    let decision = three().when_together(&commands, &[]);
    assert_eq!(decision.events.len(), 2);
}

#[test]
fn who_is_deleted_leaves_their_teams() {
    let scenario = design().when(TEAM.uuid(), add(&[MIA])).whatever();
    let scenario = scenario.when(MIA.uuid(), user::Command::Deactivate(Nothing {})).then_types(&["user.deactivated"]);
    let scenario = scenario.after(time::Duration::days(91)).when(MIA.uuid(), user::Command::Delete(Nothing {}));
    let scenario = scenario.then_types(&["team.members_removed", "tenant.member_removed", "user.deleted"]);
    assert!(team(&scenario, TEAM).members.is_empty());
}

fn invite(teams: &[TeamId]) -> invitation::Command {
    invitation::Command::Create(invitation::Create {
        email: email(NEMO),
        invitation_type: invitation::InvitationType::Link,
        role: Role::Member,
        team_ids: teams.to_vec(),
        attributes: crate::attributes::Attributes::default(),
        expires_at: None,
        token_hash: format!("{:064x}", 1),
        send: false,
    })
}

fn accept() -> invitation::Command {
    let (token_hash, full_name) = (format!("{:064x}", 1), Some(line("Nemo New")));
    invitation::Command::Accept(invitation::Accept { token_hash, email: email(NEMO), user_id: None, full_name })
}

#[test]
fn an_invitation_names_teams_of_its_tenant_only() {
    let scenario = design().when(INVITATION.uuid(), invite(&[TEAM, OTHER])).refused("invitation.create", Reason::NotFound);
    let scenario = scenario.when(INVITATION.uuid(), invite(&[TEAM])).then_types(&["invitation.created"]);
    let scenario = scenario.when(TEAM.uuid(), delete()).then_types(&["team.deleted"]);
    scenario.when(OTHER.uuid(), invite(&[TEAM])).refused("invitation.create", Reason::NotFound);
}

#[test]
fn a_new_person_who_accepts_is_in_the_tenant_and_its_teams_at_once() {
    let scenario = three().when(INVITATION.uuid(), invite(&[OTHER, TEAM])).then_types(&["invitation.created"]);
    let then = scenario.by_link().when(INVITATION.uuid(), accept());
    let AnyEvent::Invitation(invitation::Event::Accepted { account_id, team_ids, .. }) = &then.decision.events[0].event else {
        panic!("{:?}", then.decision)
    };
    let (person, joined) = (*account_id, team_ids.clone());
    let types = ["invitation.accepted", "user.created", "tenant.member_joined", "team.members_added", "team.members_added"];
    let scenario = then.then_types(&types);
    assert_eq!(joined, [OTHER, TEAM]);
    assert!(joined.iter().all(|id| team(&scenario, *id).members == [person].into()));
}

#[test]
fn a_team_that_is_gone_or_full_keeps_nobody_from_joining_the_tenant() {
    let scenario = three().when(INVITATION.uuid(), invite(&[TEAM, OTHER, THIRD])).then_types(&["invitation.created"]);
    let scenario = scenario.when(THIRD.uuid(), delete()).then_types(&["team.deleted"]);
    let mut scenario = scenario.when(OTHER.uuid(), add(&[MIA])).then_types(&["team.members_added"]);
    scenario.world.settings.team_members = 1;
    let then = scenario.by_link().when(INVITATION.uuid(), accept());
    let added = then.decision.events.last().map(|emitted| emitted.id);
    assert_eq!(added, Some(TEAM.uuid()));
    then.then_types(&["invitation.accepted", "user.created", "tenant.member_joined", "team.members_added"]);
}

#[test]
fn an_invitation_accepted_in_the_batch_that_deletes_its_team_joins_what_is_left() {
    let scenario = three().when(INVITATION.uuid(), invite(&[TEAM, THIRD])).then_types(&["invitation.created"]).by_operator();
    let commands = [(THIRD.uuid(), delete().into()), (INVITATION.uuid(), accept().into())];
    let decision = scenario.when_together(&commands, &[]);
    let types: Vec<_> = decision.events.iter().map(|emitted| emitted.event.event_type()).collect();
    assert_eq!(types, ["invitation.accepted", "user.created", "tenant.member_joined", "team.members_added"]);
}

#[test]
fn a_stale_version_is_refused_and_a_new_one_is_not() {
    let scenario = design().if_match(7).when(TEAM.uuid(), rename("Icons")).refused("team.update", Reason::VersionConflict);
    scenario.if_match(1).when(TEAM.uuid(), rename("Icons")).then_types(&["team.updated"]);
}
