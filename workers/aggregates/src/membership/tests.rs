use time::Duration;

use super::*;
use crate::{
    Event as AnyEvent, State as AnyState,
    scenario::{ADAM, GUS, MIA, NEMO, OLIVIA, Scenario, TENANT, email, line, nothing, tenant},
    user,
};

fn add(role: Role) -> Command {
    Command::Add(Add { role })
}

fn assign(role: Role) -> Command {
    Command::AssignRole(AssignRole { role })
}

fn revoke(role: Role) -> Command {
    Command::RevokeRole(RevokeRole { role, reason: Some(line("a change of duties")) })
}

fn suspend(home_standing: u32) -> Command {
    Command::Suspend(FromHome { reason: StandingReason::UserSuspended, home_standing, stay: 1 })
}

fn reactivate(home_standing: u32) -> Command {
    Command::Reactivate(FromHome { reason: StandingReason::UserReactivated, home_standing, stay: 1 })
}

const SUSPENDED: [&str; 1] = ["tenant.member_suspended"];
const REACTIVATED: [&str; 1] = ["tenant.member_reactivated"];

fn remove() -> Command {
    Command::Remove(Nothing {})
}

/// Olivia owns, Adam is an admin, Mia a member; Nemo has his home here but is no member.
fn team() -> Scenario {
    tenant().member(ADAM, Role::Admin).member(MIA, Role::Member).user(NEMO).by(ADAM)
}

fn role_of(scenario: &Scenario, user: UserId) -> Option<Role> {
    match scenario.state(Kind::Membership, user.uuid()) {
        Some(AnyState::Membership(state)) => state.role,
        other => panic!("{other:?}"),
    }
}

fn changed(user_id: UserId, old: Option<Role>, new: Option<Role>, by: UserId) -> AnyEvent {
    Event::RoleChanged {
        tenant_id: TENANT,
        user_id,
        old_role_id: old.map(Role::id),
        old_role_name: old,
        new_role_id: new.map(Role::id),
        new_role_name: new,
        changed_by: Some(Actor::User(by)),
    }
    .into()
}

const ASSIGNED: [&str; 3] = ["role.assignment_attempted", "role.assignment_succeeded", "tenant.member_role_changed"];
const REVOKED: [&str; 3] = ["role.revocation_attempted", "role.revocation_succeeded", "tenant.member_role_changed"];

#[test]
fn an_admin_adds_a_user_whose_home_this_is() {
    let joined = joined(TENANT, NEMO, email(NEMO), Role::Member, None).event;
    let scenario = team().when(NEMO.uuid(), add(Role::Member)).then(&[(NEMO.uuid(), joined)]);
    assert_eq!(role_of(&scenario, NEMO), Some(Role::Member));
}

#[test]
fn adding_is_refused_to_less_than_an_admin_and_of_owners_to_less_than_an_owner() {
    team().by(MIA).when(NEMO.uuid(), add(Role::Readonly)).refused("membership.add", Reason::Forbidden);
    team().by(NEMO).when(NEMO.uuid(), add(Role::Readonly)).refused("membership.add", Reason::Forbidden);
    team().when(NEMO.uuid(), add(Role::Owner)).refused("membership.add", Reason::OwnerRequired);
    team().by(OLIVIA).when(NEMO.uuid(), add(Role::Owner)).then_types(&["tenant.member_joined"]);
}

#[test]
fn a_member_is_not_added_twice() {
    team().when(MIA.uuid(), add(Role::Member)).refused("membership.add", Reason::AlreadyAMember);
}

#[test]
fn who_is_at_home_elsewhere_is_invited_and_who_is_nowhere_is_not_found() {
    let nobody = UserId::new(uuid::Uuid::from_u128(0x404));
    let scenario = team().stranger(GUS);
    scenario.clone().when(GUS.uuid(), add(Role::Member)).refused("membership.add", Reason::InvitationRequired);
    scenario.clone().when(GUS.uuid(), assign(Role::Member)).refused("membership.assign_role", Reason::InvitationRequired);
    scenario.clone().when(nobody.uuid(), add(Role::Member)).refused("membership.add", Reason::UserNotFound);
    scenario.clone().when(nobody.uuid(), assign(Role::Member)).refused("membership.assign_role", Reason::UserNotFound);
    scenario.clone().when(nobody.uuid(), revoke(Role::Member)).refused("membership.revoke_role", Reason::UserNotFound);
    scenario.when(nobody.uuid(), remove()).refused("membership.remove", Reason::NotFound);
}

#[test]
fn a_former_guest_needs_a_new_invitation_and_the_attempt_leaves_its_trace() {
    let scenario = team().guest(GUS, Role::Member).when(GUS.uuid(), remove()).then_types(&["tenant.member_removed"]);
    scenario.when(GUS.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::InvitationRequired);
}

#[test]
fn a_deleted_user_is_not_found() {
    let deactivated = user::Event::Deactivated {
        tenant_id: TENANT,
        user_id: NEMO,
        deactivated_by: None,
        reason: user::DeactivationReason::Admin,
        deactivated_at: crate::scenario::NOON,
    };
    let delete = user::Command::Delete(Nothing {});
    let scenario = team().given(NEMO.uuid(), deactivated).after(Duration::days(90)).when(NEMO.uuid(), delete).then_types(&["user.deleted"]);
    scenario.clone().when(NEMO.uuid(), add(Role::Member)).refused("membership.add", Reason::UserNotFound);
    scenario.when(NEMO.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::UserNotFound);
}

#[test]
fn a_suspended_or_full_tenant_adds_nobody() {
    team().closed().when(NEMO.uuid(), add(Role::Member)).refused("membership.add", Reason::TenantNotActive);
    team().full().when(NEMO.uuid(), add(Role::Member)).refused("membership.add", Reason::SeatLimit);
    team().closed().when(MIA.uuid(), assign(Role::Admin)).refused_in_public("membership.assign_role", Reason::TenantNotActive);
    team().closed().when(MIA.uuid(), revoke(Role::Member)).refused_in_public("membership.revoke_role", Reason::TenantNotActive);
    team().full().when(NEMO.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::SeatLimit);
    team().full().when(MIA.uuid(), assign(Role::Admin)).then_types(&ASSIGNED);
}

#[test]
fn the_seats_of_a_plan_are_counted() {
    let mut scenario = team();
    scenario.world.settings.member_limits = [1, 4, 1, 1];
    let scenario = scenario.when(NEMO.uuid(), add(Role::Member)).then_types(&["tenant.member_joined"]).user(GUS);
    let scenario = scenario.when(GUS.uuid(), add(Role::Member)).refused("membership.add", Reason::SeatLimit);
    let scenario = scenario.when(NEMO.uuid(), remove()).then_types(&["tenant.member_removed"]);
    scenario.when(GUS.uuid(), add(Role::Member)).then_types(&["tenant.member_joined"]);
}

#[test]
fn an_assignment_is_attempted_succeeds_and_changes_the_role() {
    let by = Some(Actor::User(ADAM));
    let scenario = team().when(MIA.uuid(), assign(Role::Admin)).then(&[
        (MIA.uuid(), Event::AssignmentAttempted { tenant_id: TENANT, user_id: MIA, role: Role::Admin, assigned_by: by }.into()),
        (MIA.uuid(), Event::AssignmentSucceeded { tenant_id: TENANT, user_id: MIA, role: Role::Admin, assigned_by: by }.into()),
        (MIA.uuid(), changed(MIA, Some(Role::Member), Some(Role::Admin), ADAM)),
    ]);
    assert_eq!(role_of(&scenario, MIA), Some(Role::Admin));
}

#[test]
fn assigning_a_role_to_a_user_whose_home_this_is_makes_them_a_member() {
    let scenario = team().when(NEMO.uuid(), assign(Role::Member));
    scenario.then_types(&["role.assignment_attempted", "role.assignment_succeeded", "tenant.member_joined"]);
}

#[test]
fn a_revocation_leaves_a_member_without_a_role_who_may_get_one_again() {
    let (by, reason) = (Some(Actor::User(ADAM)), Some(line("a change of duties")));
    let attempted = Event::RevocationAttempted { tenant_id: TENANT, user_id: MIA, role: Role::Member, revoked_by: by, reason: reason.clone() };
    let succeeded = Event::RevocationSucceeded { tenant_id: TENANT, user_id: MIA, role: Role::Member, revoked_by: by, reason };
    let scenario = team().when(MIA.uuid(), revoke(Role::Member)).then(&[
        (MIA.uuid(), attempted.into()),
        (MIA.uuid(), succeeded.into()),
        (MIA.uuid(), changed(MIA, Some(Role::Member), None, ADAM)),
    ]);
    assert_eq!(role_of(&scenario, MIA), None);
    let scenario = scenario.when(MIA.uuid(), revoke(Role::Member)).refused_in_public("membership.revoke_role", Reason::DoesNotHaveRole);
    let scenario = scenario.when(MIA.uuid(), assign(Role::Readonly));
    assert_eq!(scenario.decision.events[2].event, changed(MIA, None, Some(Role::Readonly), ADAM));
}

#[test]
fn a_failed_assignment_tells_who_tried_what_and_why_not() {
    let (by, role) = (Some(Actor::User(MIA)), Role::Member);
    let when = team().by(MIA).when(ADAM.uuid(), assign(role));
    assert_eq!(when.decision.events[0].event, Event::AssignmentAttempted { tenant_id: TENANT, user_id: ADAM, role, assigned_by: by }.into());
    let failed = Event::AssignmentFailed { tenant_id: TENANT, user_id: ADAM, role, assigned_by: by, reason: Reason::Forbidden };
    assert_eq!(when.decision.events[1].event, failed.into());
    when.refused_in_public("membership.assign_role", Reason::Forbidden);
}

#[test]
fn a_failed_revocation_keeps_the_code_and_the_stated_reason_apart() {
    let when = team().by(MIA).when(ADAM.uuid(), revoke(Role::Admin));
    let failed = serde_json::to_value(&when.decision.events[1].event).unwrap();
    assert_eq!((&failed["data"]["reason"], &failed["data"]["statedReason"]), (&"forbidden".into(), &"a change of duties".into()));
    when.refused_in_public("membership.revoke_role", Reason::Forbidden);
}

#[test]
fn an_attempt_moves_no_version_and_spoils_no_if_match() {
    let scenario = team().by(MIA).when(ADAM.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::Forbidden);
    assert_eq!(scenario.version(Kind::Membership, ADAM.uuid()), 1);
    let scenario = scenario.by(OLIVIA).if_match(1).when(ADAM.uuid(), assign(Role::Member)).then_types(&ASSIGNED);
    assert_eq!(scenario.version(Kind::Membership, ADAM.uuid()), 2);
    scenario.if_match(1).when(ADAM.uuid(), assign(Role::Admin)).refused_in_public("membership.assign_role", Reason::VersionConflict);
}

#[test]
fn a_refused_attempt_on_a_user_without_a_membership_creates_none() {
    let scenario = team().by(MIA).when(NEMO.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::Forbidden);
    assert_eq!(scenario.version(Kind::Membership, NEMO.uuid()), 0);
    assert!(scenario.state(Kind::Membership, NEMO.uuid()).is_none());
}

#[test]
fn strangers_leave_no_trace() {
    let scenario = team().stranger(GUS).by(GUS);
    scenario.clone().when(MIA.uuid(), assign(Role::Admin)).refused("membership.assign_role", Reason::NotFound);
    scenario.clone().when(MIA.uuid(), revoke(Role::Member)).refused("membership.revoke_role", Reason::NotFound);
    scenario.by_link().when(MIA.uuid(), assign(Role::Admin)).refused("membership.assign_role", Reason::NotFound);
    nothing().by_operator().when(MIA.uuid(), assign(Role::Admin)).refused("membership.assign_role", Reason::NotFound);
}

#[test]
fn who_is_suspended_changes_no_roles() {
    team().suspended(ADAM).when(MIA.uuid(), assign(Role::Readonly)).refused_in_public("membership.assign_role", Reason::Forbidden);
    team().suspended(ADAM).when(ADAM.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
}

#[test]
fn only_an_owner_makes_an_owner() {
    team().when(MIA.uuid(), assign(Role::Owner)).refused_in_public("membership.assign_role", Reason::OwnerRequired);
    team().by(OLIVIA).when(MIA.uuid(), assign(Role::Owner)).then_types(&ASSIGNED);
    team().by_operator().when(MIA.uuid(), assign(Role::Owner)).then_types(&ASSIGNED);
}

#[test]
fn only_an_owner_unmakes_an_owner() {
    let scenario = team().member(GUS, Role::Owner);
    scenario.clone().when(GUS.uuid(), assign(Role::Admin)).refused_in_public("membership.assign_role", Reason::OwnerRequired);
    scenario.clone().when(GUS.uuid(), revoke(Role::Owner)).refused_in_public("membership.revoke_role", Reason::OwnerRequired);
    scenario.clone().when(GUS.uuid(), remove()).refused("membership.remove", Reason::OwnerRequired);
    scenario.clone().by(OLIVIA).when(GUS.uuid(), assign(Role::Admin)).then_types(&ASSIGNED);
    scenario.clone().by(OLIVIA).when(GUS.uuid(), revoke(Role::Owner)).then_types(&REVOKED);
    scenario.by(OLIVIA).when(GUS.uuid(), remove()).then_types(&["tenant.member_removed"]);
}

#[test]
fn nobody_raises_their_own_role_but_everybody_may_lower_it() {
    team().when(ADAM.uuid(), assign(Role::Owner)).refused_in_public("membership.assign_role", Reason::OwnRole);
    team().by(MIA).when(MIA.uuid(), assign(Role::Admin)).refused_in_public("membership.assign_role", Reason::OwnRole);
    team().by(NEMO).when(NEMO.uuid(), assign(Role::Readonly)).refused_in_public("membership.assign_role", Reason::OwnRole);
    team().when(ADAM.uuid(), assign(Role::Member)).then_types(&ASSIGNED);
    team().when(ADAM.uuid(), revoke(Role::Admin)).then_types(&REVOKED);
}

#[test]
fn a_role_one_has_cannot_be_assigned_and_one_has_not_cannot_be_revoked() {
    team().when(MIA.uuid(), assign(Role::Member)).refused_in_public("membership.assign_role", Reason::AlreadyHasRole);
    team().when(MIA.uuid(), revoke(Role::Admin)).refused_in_public("membership.revoke_role", Reason::DoesNotHaveRole);
    team().when(NEMO.uuid(), revoke(Role::Member)).refused_in_public("membership.revoke_role", Reason::DoesNotHaveRole);
}

#[test]
fn a_tenant_keeps_its_last_owner_by_every_road() {
    let scenario = team().by(OLIVIA);
    scenario.clone().when(OLIVIA.uuid(), assign(Role::Admin)).refused_in_public("membership.assign_role", Reason::LastOwner);
    scenario.clone().when(OLIVIA.uuid(), revoke(Role::Owner)).refused_in_public("membership.revoke_role", Reason::LastOwner);
    scenario.clone().when(OLIVIA.uuid(), remove()).refused("membership.remove", Reason::LastOwner);
    scenario.by_operator().when(OLIVIA.uuid(), remove()).refused("membership.remove", Reason::LastOwner);
}

#[test]
fn an_owner_who_is_suspended_does_not_count_whenever_they_became_one() {
    let scenario = team().suspended(MIA).by(OLIVIA).when(MIA.uuid(), assign(Role::Owner)).then_types(&ASSIGNED);
    let scenario = scenario.when(OLIVIA.uuid(), remove()).refused("membership.remove", Reason::LastOwner);
    let scenario = scenario.when(MIA.uuid(), user::Command::Reactivate(Nothing {})).then_types(&["user.reactivated"]);
    scenario.when(OLIVIA.uuid(), remove()).then_types(&["tenant.member_removed"]);
}

#[test]
fn members_leave_and_are_removed() {
    let removed = |by, reason| {
        [(MIA.uuid(), Event::Removed { tenant_id: TENANT, user_id: MIA, email: email(MIA), removed_by: Some(Actor::User(by)), reason }.into())]
    };
    team().by(MIA).when(MIA.uuid(), remove()).then(&removed(MIA, RemovalReason::Left));
    team().closed().by(MIA).when(MIA.uuid(), remove()).then(&removed(MIA, RemovalReason::Left));
    let scenario = team().when(MIA.uuid(), remove()).then(&removed(ADAM, RemovalReason::Removed));
    scenario.clone().when(MIA.uuid(), remove()).then_nothing();
    scenario.by(MIA).when(ADAM.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
}

#[test]
fn only_an_admin_removes_somebody_else() {
    team().guest(GUS, Role::Member).by(MIA).when(GUS.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
    team().when(NEMO.uuid(), remove()).refused("membership.remove", Reason::NotFound);
}

#[test]
fn a_removal_by_a_reactor_follows_a_deletion_at_home() {
    let scenario = team().guest(GUS, Role::Member).by_system().when(GUS.uuid(), remove());
    let removed = Event::Removed { tenant_id: TENANT, user_id: GUS, email: email(GUS), removed_by: None, reason: RemovalReason::UserDeleted };
    scenario.then(&[(GUS.uuid(), removed.into())]).when(GUS.uuid(), remove()).then_nothing();
}

#[test]
fn a_former_member_may_be_added_again() {
    let scenario = team().when(MIA.uuid(), remove()).then_types(&["tenant.member_removed"]);
    assert_eq!(role_of(&scenario, MIA), None);
    let scenario = scenario.when(MIA.uuid(), add(Role::Admin)).then_types(&["tenant.member_joined"]);
    assert_eq!((role_of(&scenario, MIA), scenario.version(Kind::Membership, MIA.uuid())), (Some(Role::Admin), 3));
}

#[test]
fn a_guest_who_is_suspended_at_home_has_no_role_that_counts_until_they_are_reactivated() {
    let scenario = team().guest(GUS, Role::Admin).by_system().when(GUS.uuid(), suspend(1));
    let reason = StandingReason::UserSuspended;
    let scenario = scenario.then(&[(GUS.uuid(), Event::Suspended { tenant_id: TENANT, user_id: GUS, reason, home_standing: 1 }.into())]);
    assert_eq!(role_of(&scenario, GUS), Some(Role::Admin), "the role is kept");
    let scenario = scenario.by(GUS).when(MIA.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
    let scenario = scenario.when(MIA.uuid(), assign(Role::Readonly)).refused_in_public("membership.assign_role", Reason::Forbidden);
    let scenario = scenario.when(GUS.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
    let scenario = scenario.by_system().when(GUS.uuid(), reactivate(2)).then_types(&REACTIVATED);
    scenario.by(GUS).when(MIA.uuid(), remove()).then_types(&["tenant.member_removed"]);
}

#[test]
fn only_the_system_suspends_and_reactivates_members() {
    let scenario = team().guest(GUS, Role::Member).by(OLIVIA);
    scenario.clone().when(GUS.uuid(), suspend(1)).refused("membership.suspend", Reason::Forbidden);
    scenario.clone().when(GUS.uuid(), reactivate(1)).refused("membership.reactivate", Reason::Forbidden);
    scenario.clone().by_operator().when(GUS.uuid(), suspend(1)).refused("membership.suspend", Reason::Forbidden);
    scenario.by_system().when(NEMO.uuid(), suspend(1)).refused("membership.suspend", Reason::NotFound);
    nothing().by_system().when(GUS.uuid(), suspend(1)).refused("membership.suspend", Reason::NotFound);
}

#[test]
fn what_the_home_tenant_did_last_counts_in_whichever_order_it_is_told() {
    let scenario = team().guest(GUS, Role::Admin).by_system();
    // A reactivation that overtakes its suspension is remembered.
    let overtaken = scenario.clone().when(GUS.uuid(), reactivate(2)).then_types(&REACTIVATED);
    overtaken.when(GUS.uuid(), suspend(1)).then_nothing().by(GUS).when(MIA.uuid(), remove()).then_types(&["tenant.member_removed"]);
    // So is a second suspension that overtakes the reactivation between both.
    let scenario = scenario.when(GUS.uuid(), suspend(1)).then_types(&SUSPENDED).when(GUS.uuid(), suspend(3)).then_types(&SUSPENDED);
    let scenario = scenario.when(GUS.uuid(), reactivate(2)).then_nothing().when(GUS.uuid(), suspend(3)).then_nothing();
    scenario.by(GUS).when(MIA.uuid(), remove()).refused("membership.remove", Reason::Forbidden);
}

#[test]
fn what_was_told_of_an_earlier_stay_says_nothing_about_the_present_one() {
    let scenario = team().guest(GUS, Role::Admin).when(GUS.uuid(), remove()).then_types(&["tenant.member_removed"]);
    let scenario = scenario.by_system().when(GUS.uuid(), suspend(1)).then_nothing().joined(GUS, Role::Admin);
    let scenario = scenario.when(GUS.uuid(), suspend(1)).then_nothing();
    let present = Command::Suspend(FromHome { reason: StandingReason::UserSuspended, home_standing: 1, stay: 2 });
    scenario.when(GUS.uuid(), present).then_types(&SUSPENDED);
}

#[test]
fn a_suspended_owner_is_no_active_owner_and_the_home_tenant_is_not_asked_whether_they_are_the_last() {
    let scenario = team().guest(GUS, Role::Owner).by_system().when(GUS.uuid(), suspend(1)).then_types(&SUSPENDED);
    let scenario = scenario.by(OLIVIA).when(OLIVIA.uuid(), remove()).refused("membership.remove", Reason::LastOwner);
    let back = scenario.clone().by_system().when(GUS.uuid(), reactivate(2)).then_types(&REACTIVATED);
    let alone = back.by(OLIVIA).when(OLIVIA.uuid(), remove()).then_types(&["tenant.member_removed"]);
    alone.clone().by_system().when(GUS.uuid(), suspend(3)).then_types(&SUSPENDED);
    alone.by_system().when(GUS.uuid(), remove()).then_types(&["tenant.member_removed"]);
    // Who becomes an owner while suspended does not count either.
    let scenario = team().guest(GUS, Role::Member).by_system().when(GUS.uuid(), suspend(1)).then_types(&SUSPENDED);
    let scenario = scenario.by(OLIVIA).when(GUS.uuid(), assign(Role::Owner)).then_types(&ASSIGNED);
    scenario.when(OLIVIA.uuid(), remove()).refused("membership.remove", Reason::LastOwner);
}
