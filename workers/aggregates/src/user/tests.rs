use subjects::InvitationId;
use time::Duration;
use uuid::Uuid;

use super::*;
use crate::{
    State as AnyState,
    scenario::{ADAM, GUS, MIA, NEMO, NOON, OLIVIA, Scenario, TENANT, email, line, nothing, tenant},
};

fn create(email: Email, role: Option<Role>) -> Command {
    Command::Create(Create { email, full_name: line("Nemo New"), role })
}

fn rename(name: &str) -> Command {
    Command::UpdateProfile(UpdateProfile { full_name: Some(line(name)) })
}

fn suspend() -> Command {
    Command::Suspend(WithReason::default())
}

fn deactivate() -> Command {
    Command::Deactivate(Nothing {})
}

fn reactivate() -> Command {
    Command::Reactivate(Nothing {})
}

fn delete() -> Command {
    Command::Delete(Nothing {})
}

/// Olivia owns, Adam is an admin, Mia a member.
fn team() -> Scenario {
    tenant().member(ADAM, Role::Admin).member(MIA, Role::Member).by(ADAM)
}

fn deactivated(user_id: UserId) -> Event {
    Event::Deactivated { tenant_id: TENANT, user_id, deactivated_by: None, reason: DeactivationReason::Admin, deactivated_at: NOON }
}

fn status(scenario: &Scenario, user: UserId) -> Status {
    match scenario.state(Kind::User, user.uuid()) {
        Some(AnyState::User(state)) => state.status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_admin_creates_a_user_who_is_no_member_yet() {
    let created = Event::Created { tenant_id: TENANT, user_id: NEMO, email: email(NEMO), full_name: line("Nemo New"), email_verified: false };
    let scenario = team().when(NEMO.uuid(), create(email(NEMO), None)).then(&[(NEMO.uuid(), created.into())]);
    assert!(scenario.holds(&Claim::email(&email(NEMO))) && scenario.holds(&Claim::user(NEMO)));
}

#[test]
fn a_user_created_with_a_role_is_a_member_at_once() {
    let created = Event::Created { tenant_id: TENANT, user_id: NEMO, email: email(NEMO), full_name: line("Nemo New"), email_verified: false };
    let joined = membership::joined(TENANT, NEMO, email(NEMO), Role::Member, None).event;
    team().when(NEMO.uuid(), create(email(NEMO), Some(Role::Member))).then(&[(NEMO.uuid(), created.into()), (NEMO.uuid(), joined)]);
}

#[test]
fn less_than_an_admin_creates_nobody_and_less_than_an_owner_no_owner() {
    let owner = || create(email(NEMO), Some(Role::Owner));
    team().by(MIA).when(NEMO.uuid(), create(email(NEMO), None)).refused("user.create", Reason::Forbidden);
    team().when(NEMO.uuid(), owner()).refused("user.create", Reason::Forbidden);
    team().by(OLIVIA).when(NEMO.uuid(), owner()).then_types(&["user.created", "tenant.member_joined"]);
    team().by_operator().when(NEMO.uuid(), owner()).then_types(&["user.created", "tenant.member_joined"]);
}

#[test]
fn an_address_belongs_to_one_user_of_the_platform() {
    team().when(NEMO.uuid(), create(email(MIA), None)).refused("user.create", Reason::EmailTaken);
    team().stranger(GUS).when(NEMO.uuid(), create(email(GUS), None)).refused("user.create", Reason::EmailTaken);
}

#[test]
fn a_user_is_created_once() {
    team().when(MIA.uuid(), create(email(NEMO), None)).refused("user.create", Reason::InvalidTransition);
    team().stranger(GUS).when(GUS.uuid(), create(email(NEMO), None)).refused("user.create", Reason::InvalidTransition);
}

#[test]
fn a_suspended_tenant_gets_no_users_and_a_missing_one_is_not_found() {
    team().closed().when(NEMO.uuid(), create(email(NEMO), None)).refused("user.create", Reason::InvalidTransition);
    nothing().by_operator().when(NEMO.uuid(), create(email(NEMO), None)).refused("user.create", Reason::NotFound);
}

#[test]
fn a_full_tenant_gets_users_but_no_members() {
    team().full().when(NEMO.uuid(), create(email(NEMO), Some(Role::Member))).refused("user.create", Reason::SeatLimit);
    team().full().when(NEMO.uuid(), create(email(NEMO), None)).then_types(&["user.created"]);
}

#[test]
fn the_user_and_an_admin_change_the_profile_and_nobody_else() {
    let changes = Changes { full_name: Some(Change { old: line("Some One"), new: line("Mia M") }) };
    let updated = Event::ProfileUpdated { tenant_id: TENANT, user_id: MIA, changes };
    team().by(MIA).when(MIA.uuid(), rename("Mia M")).then(&[(MIA.uuid(), updated.clone().into())]);
    team().by(ADAM).when(MIA.uuid(), rename("Mia M")).then(&[(MIA.uuid(), updated.into())]);
    team().by(MIA).when(ADAM.uuid(), rename("Mia M")).refused("user.update_profile", Reason::Forbidden);
    team().suspended(MIA).by(MIA).when(MIA.uuid(), rename("Mia M")).refused("user.update_profile", Reason::Forbidden);
}

#[test]
fn an_unchanged_profile_is_no_news() {
    team().when(MIA.uuid(), rename("Some One")).then_nothing();
    team().when(MIA.uuid(), Command::UpdateProfile(UpdateProfile::default())).then_nothing();
}

#[test]
fn a_guest_is_changed_at_home_only() {
    let scenario = team().guest(GUS, Role::Member);
    scenario.clone().when(GUS.uuid(), rename("Gus")).refused("user.update_profile", Reason::NotFound);
    scenario.clone().when(GUS.uuid(), suspend()).refused("user.suspend", Reason::NotFound);
    scenario.clone().when(GUS.uuid(), deactivate()).refused("user.deactivate", Reason::NotFound);
    scenario.clone().when(GUS.uuid(), reactivate()).refused("user.reactivate", Reason::NotFound);
    scenario.when(GUS.uuid(), delete()).refused("user.delete", Reason::NotFound);
}

#[test]
fn a_user_is_suspended_and_reactivated() {
    let reason = Some(line("left the badge at home"));
    let suspended = Event::Suspended { tenant_id: TENANT, user_id: MIA, reason: reason.clone() };
    let scenario = team().when(MIA.uuid(), Command::Suspend(WithReason { reason })).then(&[(MIA.uuid(), suspended.into())]);
    assert_eq!(status(&scenario, MIA), Status::Suspended);
    let reactivated = Event::Reactivated { tenant_id: TENANT, user_id: MIA, reactivated_by: Some(Actor::User(ADAM)) };
    let scenario = scenario.when(MIA.uuid(), reactivate()).then(&[(MIA.uuid(), reactivated.into())]);
    scenario.when(MIA.uuid(), reactivate()).then_nothing();
}

#[test]
fn who_is_suspended_may_do_nothing() {
    let scenario = team().suspended(ADAM).by(ADAM);
    scenario.clone().when(MIA.uuid(), suspend()).refused("user.suspend", Reason::Forbidden);
    scenario.clone().when(ADAM.uuid(), reactivate()).refused("user.reactivate", Reason::Forbidden);
    scenario.when(ADAM.uuid(), deactivate()).refused("user.deactivate", Reason::Forbidden);
}

#[test]
fn a_user_is_suspended_only_while_active() {
    team().suspended(MIA).when(MIA.uuid(), suspend()).refused("user.suspend", Reason::InvalidTransition);
    team().given(MIA.uuid(), deactivated(MIA)).when(MIA.uuid(), suspend()).refused("user.suspend", Reason::InvalidTransition);
}

#[test]
fn a_deactivation_tells_who_wanted_it() {
    let by = |actor, reason| {
        let event = Event::Deactivated { tenant_id: TENANT, user_id: MIA, deactivated_by: Some(Actor::User(actor)), reason, deactivated_at: NOON };
        [(MIA.uuid(), event.into())]
    };
    let scenario = team().by(MIA).when(MIA.uuid(), deactivate()).then(&by(MIA, DeactivationReason::OneSelf));
    scenario.by(ADAM).when(MIA.uuid(), deactivate()).then_nothing();
    team().suspended(MIA).when(MIA.uuid(), deactivate()).then(&by(ADAM, DeactivationReason::Admin));
    team().by(MIA).when(ADAM.uuid(), deactivate()).refused("user.deactivate", Reason::Forbidden);
}

#[test]
fn who_has_no_membership_may_still_retire() {
    team().user(NEMO).by(NEMO).when(NEMO.uuid(), deactivate()).then_types(&["user.deactivated"]);
}

#[test]
fn the_last_active_owner_can_be_neither_suspended_nor_deactivated() {
    team().by(OLIVIA).when(OLIVIA.uuid(), suspend()).refused("user.suspend", Reason::LastOwner);
    team().by(OLIVIA).when(OLIVIA.uuid(), deactivate()).refused("user.deactivate", Reason::LastOwner);
    team().by_operator().when(OLIVIA.uuid(), deactivate()).refused("user.deactivate", Reason::LastOwner);
    let two = team().member(NEMO, Role::Owner).by(OLIVIA);
    let one = two.when(NEMO.uuid(), suspend()).then_types(&["user.suspended"]);
    // A suspended owner is none that could be left alone.
    one.clone().when(OLIVIA.uuid(), deactivate()).refused("user.deactivate", Reason::LastOwner);
    one.when(NEMO.uuid(), deactivate()).then_types(&["user.deactivated"]);
}

#[test]
fn an_admin_has_no_power_over_an_owner() {
    let scenario = team().member(NEMO, Role::Owner);
    scenario.clone().when(NEMO.uuid(), suspend()).refused("user.suspend", Reason::Forbidden);
    scenario.clone().when(NEMO.uuid(), deactivate()).refused("user.deactivate", Reason::Forbidden);
    let scenario = scenario.given(NEMO.uuid(), deactivated(NEMO)).after(Duration::days(100));
    scenario.clone().when(NEMO.uuid(), reactivate()).refused("user.reactivate", Reason::Forbidden);
    scenario.clone().when(NEMO.uuid(), delete()).refused("user.delete", Reason::Forbidden);
    scenario.by(OLIVIA).when(NEMO.uuid(), delete()).then_types(&["tenant.member_removed", "user.deleted"]);
}

#[test]
fn a_user_is_deleted_some_time_after_the_deactivation() {
    team().when(MIA.uuid(), delete()).refused("user.delete", Reason::InvalidTransition);
    team().suspended(MIA).when(MIA.uuid(), delete()).refused("user.delete", Reason::InvalidTransition);
    let scenario = team().given(MIA.uuid(), deactivated(MIA));
    let just_before = Duration::days(90) - Duration::MILLISECOND;
    scenario.clone().after(just_before).when(MIA.uuid(), delete()).refused("user.delete", Reason::SoftDeletionPeriod);
    let by = Some(Actor::User(ADAM));
    let removed = membership::Event::Removed {
        tenant_id: TENANT,
        user_id: MIA,
        email: email(MIA),
        removed_by: by,
        reason: membership::RemovalReason::UserDeleted,
    };
    let deleted = Event::Deleted { tenant_id: TENANT, user_id: MIA, deleted_by: by };
    let expected = [(MIA.uuid(), removed.into()), (MIA.uuid(), deleted.into())];
    scenario.after(Duration::days(90)).when(MIA.uuid(), delete()).then(&expected);
}

#[test]
fn who_is_no_member_is_deleted_without_a_removal() {
    let scenario = team().user(NEMO).given(NEMO.uuid(), deactivated(NEMO)).after(Duration::days(90));
    scenario.when(NEMO.uuid(), delete()).then_types(&["user.deleted"]);
}

fn after_deletion() -> Scenario {
    team()
        .given(MIA.uuid(), deactivated(MIA))
        .after(Duration::days(90))
        .when(MIA.uuid(), delete())
        .then_types(&["tenant.member_removed", "user.deleted"])
}

#[test]
fn a_deletion_frees_the_address_and_keeps_nothing_personal() {
    let scenario = after_deletion();
    assert!(!scenario.holds(&Claim::email(&email(MIA))) && !scenario.holds(&Claim::user(MIA)));
    for kind in [Kind::User, Kind::Membership] {
        let text = serde_json::to_string(scenario.state(kind, MIA.uuid()).unwrap()).unwrap();
        assert!(!text.contains('@') && !text.contains("Some One"), "{text}");
    }
    scenario.when(NEMO.uuid(), create(email(MIA), None)).then_types(&["user.created"]);
}

#[test]
fn a_deletion_is_final() {
    let scenario = after_deletion();
    scenario.clone().when(MIA.uuid(), delete()).then_nothing();
    scenario.clone().when(MIA.uuid(), rename("Mia")).refused("user.update_profile", Reason::InvalidTransition);
    scenario.clone().when(MIA.uuid(), deactivate()).refused("user.deactivate", Reason::InvalidTransition);
    scenario.clone().when(MIA.uuid(), suspend()).refused("user.suspend", Reason::InvalidTransition);
    scenario.clone().when(MIA.uuid(), reactivate()).refused("user.reactivate", Reason::InvalidTransition);
    scenario.when(MIA.uuid(), create(email(NEMO), None)).refused("user.create", Reason::InvalidTransition);
}

#[test]
fn a_reactivated_user_waits_anew_before_deletion() {
    let scenario =
        team().given(MIA.uuid(), deactivated(MIA)).after(Duration::days(80)).when(MIA.uuid(), reactivate()).then_types(&["user.reactivated"]);
    let scenario = scenario.when(MIA.uuid(), deactivate()).then_types(&["user.deactivated"]).after(Duration::days(80));
    scenario.when(MIA.uuid(), delete()).refused("user.delete", Reason::SoftDeletionPeriod);
}

#[test]
fn a_mailed_link_gives_no_power_over_users() {
    team().by_link().when(MIA.uuid(), suspend()).refused("user.suspend", Reason::Forbidden);
    let unrelated: InvitationId = InvitationId::new(Uuid::nil());
    team().by_link().when(unrelated.uuid(), delete()).refused("user.delete", Reason::NotFound);
}
