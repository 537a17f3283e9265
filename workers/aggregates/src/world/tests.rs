//! What one decision sees of the others of its batch, and what holds whatever happens.

use subjects::Role;

use super::*;
use crate::{
    Answer, Command, Follow, Needs, Reason,
    attributes::Attributes,
    scenario::{ADAM, ELSEWHERE, GUS, INVITATION, MIA, NEMO, TENANT, created, email, tenant},
};

fn invite(user: UserId) -> Command {
    invitation::Command::Create(invitation::Create {
        email: email(user),
        invitation_type: invitation::InvitationType::Email,
        role: Role::Member,
        team_ids: Vec::new(),
        attributes: Attributes::default(),
        expires_at: None,
        token_hash: "0".repeat(64),
        send: true,
    })
    .into()
}

#[test]
fn an_address_taken_elsewhere_in_the_same_batch_belongs_to_no_member() {
    let meanwhile = [Emitted::new(GUS.uuid(), created(ELSEWHERE, GUS))];
    let decision = tenant().when_together(&[(INVITATION.uuid(), invite(GUS))], &meanwhile);
    assert_eq!(decision.answer, Answer::Done);
}

#[test]
fn an_invitation_made_in_the_same_batch_is_superseded() {
    let second = Uuid::from_u128(0x22);
    let decision = tenant().when_together(&[(INVITATION.uuid(), invite(NEMO)), (second, invite(NEMO))], &[]);
    let types: Vec<_> = decision.events.iter().map(|emitted| emitted.event.event_type()).collect();
    assert_eq!(types, ["invitation.removed", "invitation.created"]);
    assert_eq!(decision.events[0].id, INVITATION.uuid());
}

#[test]
fn a_member_who_joined_in_the_same_batch_is_not_invited() {
    let create = user::Command::Create(user::Create { email: email(NEMO), full_name: crate::scenario::line("Nemo"), role: Some(Role::Member) });
    let decision = tenant().when_together(&[(NEMO.uuid(), create.into()), (INVITATION.uuid(), invite(NEMO))], &[]);
    assert_eq!(decision.answer, Answer::Refused(Reason::AlreadyAMember));
}

#[test]
fn the_last_seat_goes_to_the_first_of_a_batch() {
    let mut scenario = tenant().user(MIA).user(NEMO);
    scenario.world.settings.member_limits = [2; 4];
    let add = || Command::from(membership::Command::Add(membership::Add { role: Role::Member }));
    let decision = scenario.when_together(&[(MIA.uuid(), add()), (NEMO.uuid(), add())], &[]);
    assert_eq!(decision.answer, Answer::Refused(Reason::SeatLimit));
}

#[test]
fn what_was_not_declared_is_told() {
    let world = World::default();
    let surroundings = Surroundings::new(&world, TENANT);
    assert!(surroundings.membership(ADAM).is_none() && surroundings.asked_for_undeclared());
}

#[test]
fn claims_to_follow_lead_to_states_not_loaded_yet() {
    let claim = Claim::email(&email(GUS));
    let follow = Follow::Holder { claim: claim.clone(), tenant: TENANT, kind: Kind::Membership };
    let needs = Needs { follow: vec![follow], ..Needs::default() };
    let mut world = World::default();
    world.claims.insert(claim, Some(Holder { tenant: ELSEWHERE, id: GUS.uuid() }));
    let key = Key { tenant: TENANT, kind: Kind::Membership, id: GUS.uuid() };
    assert_eq!(needs.behind(&world).collect::<Vec<_>>(), [key]);
    world.states.insert(key, None);
    assert_eq!(needs.behind(&world).count(), 0);
}

/// A number below `bound`, the next of a fixed row (Knuth's MMIX constants).
fn next(row: &mut u64, bound: usize) -> usize {
    *row = row.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*row >> 33) as usize % bound
}

fn anything(row: &mut u64, people: &[UserId]) -> (Uuid, Command) {
    let roles = Role::ALL;
    let person = people[next(row, people.len())];
    let role = roles[next(row, roles.len())];
    let nothing = tenant::Nothing {};
    let command: Command = match next(row, 10) {
        0 => membership::Command::Add(membership::Add { role }).into(),
        1 | 2 => membership::Command::AssignRole(membership::AssignRole { role }).into(),
        3 => membership::Command::RevokeRole(membership::RevokeRole { role, reason: None }).into(),
        4 => membership::Command::Remove(nothing).into(),
        5 => user::Command::Suspend(tenant::WithReason::default()).into(),
        6 => user::Command::Deactivate(nothing).into(),
        7 => user::Command::Reactivate(nothing).into(),
        8 => user::Command::Delete(nothing).into(),
        _ => return (Uuid::from_u128(0x100 + next(row, 1000) as u128), invite(person)),
    };
    (person.uuid(), command)
}

#[test]
fn whatever_its_people_do_a_tenant_keeps_an_active_owner() {
    let people: Vec<UserId> = (1..=6).map(|n| UserId::new(Uuid::from_u128(n))).collect();
    for seed in 1..=20 {
        let mut row = seed;
        let mut scenario = people[1..].iter().fold(tenant(), |scenario, person| scenario.user(*person));
        scenario.world.settings.member_limits = [4; 4];
        for _ in 0..250 {
            let actor = people[next(&mut row, people.len())];
            let (target, command) = anything(&mut row, &people);
            scenario = if next(&mut row, 8) == 0 { scenario.by_operator() } else { scenario.by(actor) };
            scenario = scenario.after(Duration::days(9)).when(target, command).whatever();
            let roster = &scenario.world.rosters[&TENANT];
            assert!(roster.owners.values().any(|active| *active) && roster.members <= 4, "{seed}: {roster:?}");
        }
    }
}
