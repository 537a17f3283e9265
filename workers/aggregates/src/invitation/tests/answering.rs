//! Accepting and declining.

use super::*;

#[test]
fn accepting_with_nobody_signed_in_creates_the_user() {
    let when = sent().by_link().when(INVITATION.uuid(), accept(1, None));
    let user_id = UserId::new(when.decision.events[1].id);
    let created = user::Event::Created { tenant_id: TENANT, user_id, email: email(NEMO), full_name: line("Nemo New"), email_verified: true };
    let joined = membership::joined(TENANT, user_id, email(NEMO), Role::Member, Some(INVITATION)).event;
    let scenario = when.then(&[(INVITATION.uuid(), accepted_event(user_id).into()), (user_id.uuid(), created.into()), (user_id.uuid(), joined)]);
    assert!(!scenario.holds(&pending()) && scenario.holds(&Claim::email(&email(NEMO))));
}

#[test]
fn who_does_not_say_their_name_goes_by_their_address() {
    let nameless = Command::Accept(Accept { token_hash: hash(1), email: email(NEMO), user_id: None, full_name: None });
    let when = sent().by_link().when(INVITATION.uuid(), nameless);
    assert!(matches!(&when.decision.events[1].event, AnyEvent::User(user::Event::Created { full_name, .. }) if full_name.as_str() == "user5"));
}

#[test]
fn who_is_signed_in_with_the_address_joins_wherever_their_home_is() {
    let joined = membership::joined(TENANT, NEMO, email(NEMO), Role::Member, Some(INVITATION)).event;
    let expected = [(INVITATION.uuid(), accepted_event(NEMO).into()), (NEMO.uuid(), joined)];
    sent().stranger(NEMO).by(NEMO).when(INVITATION.uuid(), accept(1, Some(NEMO))).then(&expected);
    sent().user(NEMO).by(NEMO).when(INVITATION.uuid(), accept(1, Some(NEMO))).then(&expected);
}

#[test]
fn accepting_twice_is_one_membership() {
    let scenario = sent().stranger(NEMO).by(NEMO).when(INVITATION.uuid(), accept(1, Some(NEMO)));
    let scenario = scenario.then_types(&["invitation.accepted", "tenant.member_joined"]);
    scenario.clone().when(INVITATION.uuid(), accept(1, Some(NEMO))).then_nothing();
    scenario.clone().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::InvalidState);
    scenario.by(GUS).when(INVITATION.uuid(), accept(1, Some(GUS))).refused("invitation.accept", Reason::InvalidState);
}

#[test]
fn a_link_is_accepted_without_having_been_sent_and_a_mail_is_not() {
    let link = created_as(Create { invitation_type: InvitationType::Link, ..create() });
    link.by_link().when(INVITATION.uuid(), accept(1, None)).then_types(&["invitation.accepted", "user.created", "tenant.member_joined"]);
    created_as(create()).by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::InvalidState);
}

#[test]
fn an_invitation_that_does_not_exist_is_not_found() {
    team().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::NotFound);
}

#[test]
fn accepting_is_refused_with_another_token_before_anything_else_is_told() {
    sent().closed().after(Duration::days(8)).by_link().when(INVITATION.uuid(), accept(2, None)).refused("invitation.accept", Reason::InvalidToken);
}

#[test]
fn accepting_is_refused_once_expired_whether_or_not_the_deadline_was_worked_off() {
    let late = sent().after(Duration::days(7)).by_link();
    late.clone().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::Expired);
    let expired = late.by_system().when(INVITATION.uuid(), expire(NOON + Duration::days(7))).then_types(&["invitation.expired"]);
    expired.by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::Expired);
}

#[test]
fn accepting_is_refused_while_the_tenant_is_suspended_cancelled_or_full() {
    sent().closed().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::TenantNotActive);
    cancelled().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::TenantNotActive);
    sent().full().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::SeatLimit);
}

#[test]
fn an_address_with_an_account_must_sign_in() {
    sent().stranger(NEMO).by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::SignInRequired);
}

#[test]
fn only_the_address_invited_accepts() {
    sent().stranger(GUS).by(GUS).when(INVITATION.uuid(), accept(1, Some(GUS))).refused("invitation.accept", Reason::EmailMismatch);
    sent().stranger(GUS).stranger(NEMO).by(GUS).when(INVITATION.uuid(), accept(1, Some(GUS))).refused("invitation.accept", Reason::EmailMismatch);
    let other = Command::Accept(Accept { token_hash: hash(1), email: email(GUS), user_id: None, full_name: None });
    sent().by_link().when(INVITATION.uuid(), other).refused("invitation.accept", Reason::EmailMismatch);
}

#[test]
fn nobody_accepts_for_somebody_else_or_while_suspended() {
    sent().stranger(NEMO).by(GUS).when(INVITATION.uuid(), accept(1, Some(NEMO))).refused("invitation.accept", Reason::Forbidden);
    sent().user(NEMO).suspended(NEMO).by(NEMO).when(INVITATION.uuid(), accept(1, Some(NEMO))).refused("invitation.accept", Reason::Forbidden);
}

#[test]
fn a_program_accepts_for_nobody() {
    let scenario = sent().stranger(NEMO).by_service();
    scenario.when(INVITATION.uuid(), accept(1, Some(NEMO))).refused("invitation.accept", Reason::Forbidden);
}

#[test]
fn who_became_a_member_by_another_road_does_not_accept() {
    let scenario = sent().member(NEMO, Role::Readonly).by(NEMO);
    scenario.when(INVITATION.uuid(), accept(1, Some(NEMO))).refused("invitation.accept", Reason::AlreadyAMember);
}

#[test]
fn an_accepted_owner_is_an_owner() {
    let scenario =
        team().by(OLIVIA).when(INVITATION.uuid(), Command::Create(Create { role: Role::Owner, ..create() })).then_types(&["invitation.created"]);
    let scenario = scenario.by_system().when(INVITATION.uuid(), send(1)).then_types(&["invitation.sent"]).stranger(NEMO).by(NEMO);
    let scenario = scenario.when(INVITATION.uuid(), accept(1, Some(NEMO))).then_types(&["invitation.accepted", "tenant.member_joined"]);
    scenario.by(OLIVIA).when(OLIVIA.uuid(), membership::Command::Remove(Nothing {})).then_types(&["tenant.member_removed"]);
}

#[test]
fn who_has_the_link_may_decline_once() {
    let declined = Event::Declined { tenant_id: TENANT, invitation_id: INVITATION, account_id: None };
    let scenario = sent().by_link().when(INVITATION.uuid(), decline(1)).then(&[(INVITATION.uuid(), declined.into())]);
    assert!(!scenario.holds(&pending()));
    scenario.clone().when(INVITATION.uuid(), decline(1)).then_nothing();
    scenario.when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::InvalidState);
}

#[test]
fn declining_is_refused_without_the_token_and_after_the_end() {
    sent().by_link().when(INVITATION.uuid(), decline(2)).refused("invitation.decline", Reason::InvalidToken);
    ended(remove()).by_link().when(INVITATION.uuid(), decline(1)).refused("invitation.decline", Reason::InvalidState);
    sent().after(Duration::days(7)).by_link().when(INVITATION.uuid(), decline(1)).refused("invitation.decline", Reason::Expired);
}
