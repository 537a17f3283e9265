mod answering;

use time::Duration;
use uuid::Uuid;

use super::{offering::deadline, *};
use crate::{
    Event as AnyEvent, State as AnyState, membership,
    scenario::{ADAM, GUS, INVITATION, MIA, NEMO, NOON, OLIVIA, Scenario, TENANT, email, line, nothing, tenant},
    user,
};

const SECOND: InvitationId = InvitationId::new(Uuid::from_u128(0x22));

/// The hash of a token of this version.
fn hash(version: u32) -> String {
    format!("{version:064x}")
}

fn create() -> Create {
    Create {
        email: email(NEMO),
        invitation_type: InvitationType::Email,
        role: Role::Member,
        team_ids: Vec::new(),
        attributes: Attributes::default(),
        expires_at: None,
        token_hash: hash(1),
        send: true,
    }
}

fn send(token_version: u32) -> Command {
    Command::Send(Send { token_version, token_hash: hash(token_version), expires_at: None })
}

fn accept(version: u32, user_id: Option<UserId>) -> Command {
    Command::Accept(Accept { token_hash: hash(version), email: email(NEMO), user_id, full_name: Some(line("Nemo New")) })
}

fn decline(version: u32) -> Command {
    Command::Decline(Decline { token_hash: hash(version), user_id: None })
}

fn set(key: &str, value: impl Into<Value>) -> Command {
    Command::SetAttribute(SetAttribute { key: key.parse().unwrap(), value: value.into() })
}

fn unset(key: &str) -> Command {
    Command::RemoveAttribute(RemoveAttribute { key: key.parse().unwrap() })
}

fn replace(pairs: &[(&str, i32)]) -> Command {
    Command::Update(Update { attributes: Some(attributes(pairs)) })
}

fn attributes(pairs: &[(&str, i32)]) -> Attributes {
    Attributes::try_from(pairs.iter().map(|(key, value)| (key.parse().unwrap(), Value::from(*value))).collect::<std::collections::BTreeMap<_, _>>())
        .unwrap()
}

fn remove() -> Command {
    Command::Remove(Nothing {})
}

fn expire(deadline: OffsetDateTime) -> Command {
    Command::Expire(Expire { deadline })
}

/// Olivia owns, Adam is an admin, Mia a member.
fn team() -> Scenario {
    tenant().member(ADAM, Role::Admin).member(MIA, Role::Member).by(ADAM)
}

fn created_as(create: Create) -> Scenario {
    team().when(INVITATION.uuid(), Command::Create(create)).then_types(&["invitation.created"])
}

/// An invitation of Nemo's address, mailed.
fn sent() -> Scenario {
    created_as(create()).by_system().when(INVITATION.uuid(), send(1)).then_types(&["invitation.sent"]).by(ADAM)
}

/// Sent, and then the tenant is cancelled.
fn cancelled() -> Scenario {
    sent().closed().given(TENANT.uuid(), crate::tenant::Event::Cancelled { tenant_id: TENANT, reason: None })
}

fn state(scenario: &Scenario) -> &State {
    match scenario.state(Kind::Invitation, INVITATION.uuid()) {
        Some(AnyState::Invitation(state)) => state,
        other => panic!("{other:?}"),
    }
}

fn created_event(invitation_id: InvitationId) -> Event {
    Event::Created {
        tenant_id: TENANT,
        invitation_id,
        email: email(NEMO),
        invitation_type: InvitationType::Email,
        role: Role::Member,
        team_ids: Vec::new(),
        identity_id: Some(Actor::User(ADAM)),
        created_by: Some(Actor::User(ADAM)),
        attributes: Attributes::default(),
        expires_at: NOON + Duration::days(7),
        token_hash: hash(1),
        token_version: 1,
        send: true,
    }
}

fn sent_event(resend_count: u32, token_version: u32, expires_at: OffsetDateTime) -> [(Uuid, AnyEvent); 1] {
    let event = Event::Sent {
        tenant_id: TENANT,
        invitation_id: INVITATION,
        email: email(NEMO),
        invitation_type: InvitationType::Email,
        role: Role::Member,
        state: Status::Sent,
        resend_count,
        expires_at,
        token_hash: hash(token_version),
        token_version,
    };
    [(INVITATION.uuid(), event.into())]
}

fn accepted_event(account_id: UserId) -> Event {
    let (email, team_ids, created_by) = (email(NEMO), Vec::new(), Some(Actor::User(ADAM)));
    Event::Accepted {
        tenant_id: TENANT,
        invitation_id: INVITATION,
        account_id,
        identity_id: account_id,
        email,
        role: Role::Member,
        team_ids,
        created_by,
    }
}

fn pending() -> Claim {
    Claim::pending_invitation(TENANT, email(NEMO).as_str())
}

#[test]
fn an_admin_invites_an_address_for_seven_days() {
    let scenario = team().when(INVITATION.uuid(), Command::Create(create())).then(&[(INVITATION.uuid(), created_event(INVITATION).into())]);
    assert!(scenario.holds(&pending()));
}

#[test]
fn less_than_an_admin_invites_nobody_and_less_than_an_owner_no_owner() {
    team().by(MIA).when(INVITATION.uuid(), Command::Create(create())).refused("invitation.create", Reason::Forbidden);
    let owner = Command::Create(Create { role: Role::Owner, ..create() });
    team().when(INVITATION.uuid(), owner.clone()).refused("invitation.create", Reason::Forbidden);
    team().by(OLIVIA).when(INVITATION.uuid(), owner).then_types(&["invitation.created"]);
}

#[test]
fn a_link_is_never_mailed_and_lives_two_days() {
    let link = Create { invitation_type: InvitationType::Link, expires_at: Some(NOON + Duration::days(9)), ..create() };
    let when = team().when(INVITATION.uuid(), Command::Create(link));
    assert!(
        matches!(&when.decision.events[0].event, AnyEvent::Invitation(Event::Created { send: false, expires_at, .. }) if *expires_at == NOON + Duration::hours(48))
    );
}

#[test]
fn an_invitation_lives_thirty_days_at_most_and_ends_in_the_future() {
    let until = |days| Create { expires_at: Some(NOON + Duration::days(days)), ..create() };
    assert_eq!(state(&created_as(until(20))).expires_at, NOON + Duration::days(20));
    assert_eq!(state(&created_as(until(90))).expires_at, NOON + Duration::days(30));
    team().when(INVITATION.uuid(), Command::Create(until(0))).refused("invitation.create", Reason::Expired);
}

#[test]
fn a_deadline_keeps_the_precision_in_which_it_is_stored() {
    let wanted = Some(NOON + Duration::days(3) + Duration::NANOSECOND);
    assert_eq!(deadline(wanted, InvitationType::Email, NOON), Ok(NOON + Duration::days(3)));
}

#[test]
fn a_suspended_tenant_invites_nobody_and_a_missing_one_is_not_found() {
    team().closed().when(INVITATION.uuid(), Command::Create(create())).refused("invitation.create", Reason::TenantNotActive);
    nothing().by_operator().when(INVITATION.uuid(), Command::Create(create())).refused("invitation.create", Reason::NotFound);
}

#[test]
fn an_invitation_is_created_once() {
    sent().when(INVITATION.uuid(), Command::Create(create())).refused("invitation.create", Reason::InvalidState);
}

#[test]
fn a_member_is_not_invited_wherever_their_home_is() {
    let invite = |user| Command::Create(Create { email: email(user), ..create() });
    team().when(INVITATION.uuid(), invite(MIA)).refused("invitation.create", Reason::AlreadyAMember);
    let guest = team().guest(GUS, Role::Member);
    guest.clone().when(INVITATION.uuid(), invite(GUS)).refused("invitation.create", Reason::AlreadyAMember);
    let former = guest.when(GUS.uuid(), membership::Command::Remove(Nothing {})).then_types(&["tenant.member_removed"]);
    former.when(INVITATION.uuid(), invite(GUS)).then_types(&["invitation.created"]);
    team().user(NEMO).when(INVITATION.uuid(), invite(NEMO)).then_types(&["invitation.created"]);
}

#[test]
fn a_new_invitation_to_the_same_address_ends_the_pending_one() {
    let removed = Event::Removed { tenant_id: TENANT, invitation_id: INVITATION, reason: RemovalReason::Superseded };
    let expected = [(INVITATION.uuid(), removed.into()), (SECOND.uuid(), created_event(SECOND).into())];
    let scenario = sent().when(SECOND.uuid(), Command::Create(create())).then(&expected);
    assert_eq!(scenario.world.claims[&pending()].map(|holder| holder.id), Some(SECOND.uuid()));
    scenario.by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::InvalidState);
}

#[test]
fn the_first_sending_keeps_token_and_deadline() {
    let scenario = created_as(create()).after(Duration::hours(1)).by_system().when(INVITATION.uuid(), send(9));
    scenario.then(&sent_event(0, 1, NOON + Duration::days(7)));
}

#[test]
fn sending_again_takes_a_new_token_and_a_new_deadline() {
    let scenario = sent().after(Duration::days(1)).when(INVITATION.uuid(), send(2)).then(&sent_event(1, 2, NOON + Duration::days(8)));
    scenario.clone().by_link().when(INVITATION.uuid(), accept(1, None)).refused("invitation.accept", Reason::InvalidToken);
    let until = Command::Send(Send { token_version: 3, token_hash: hash(3), expires_at: Some(NOON + Duration::days(99)) });
    scenario.when(INVITATION.uuid(), until).then(&sent_event(2, 3, NOON + Duration::days(31)));
}

#[test]
fn a_resend_with_a_token_of_another_version_is_a_conflict() {
    sent().when(INVITATION.uuid(), send(1)).refused("invitation.send", Reason::VersionConflict);
    sent().when(INVITATION.uuid(), send(3)).refused("invitation.send", Reason::VersionConflict);
}

#[test]
fn an_invitation_is_sent_again_five_times() {
    let scenario = (2..=6).fold(sent(), |scenario, version| scenario.when(INVITATION.uuid(), send(version)).then_types(&["invitation.sent"]));
    scenario.when(INVITATION.uuid(), send(7)).refused("invitation.send", Reason::TooManyResends);
}

#[test]
fn what_is_not_open_or_of_no_active_tenant_is_not_sent() {
    sent().by(MIA).when(INVITATION.uuid(), send(2)).refused("invitation.send", Reason::Forbidden);
    sent().closed().when(INVITATION.uuid(), send(2)).refused("invitation.send", Reason::TenantNotActive);
    sent().after(Duration::days(7)).when(INVITATION.uuid(), send(2)).refused("invitation.send", Reason::Expired);
    ended(remove()).when(INVITATION.uuid(), send(2)).refused("invitation.send", Reason::InvalidState);
    team().when(INVITATION.uuid(), send(2)).refused("invitation.send", Reason::NotFound);
}

#[test]
fn the_reactor_sends_only_what_nobody_has_touched_since() {
    sent().by_system().when(INVITATION.uuid(), send(1)).then_nothing();
    ended(remove()).by_system().when(INVITATION.uuid(), send(1)).then_nothing();
}

#[test]
fn attributes_are_set_replaced_and_removed() {
    let one = |event: Event| [(INVITATION.uuid(), event.into())];
    let ids = (TENANT, INVITATION);
    let (tenant_id, invitation_id) = ids;
    let key = || "floor".parse().unwrap();
    let scenario =
        sent().when(INVITATION.uuid(), set("floor", 3)).then(&one(Event::AttributeSet { tenant_id, invitation_id, key: key(), value: 3.into() }));
    let scenario = scenario.when(INVITATION.uuid(), set("floor", 3)).then_nothing();
    let scenario = scenario.when(INVITATION.uuid(), unset("floor")).then(&one(Event::AttributeRemoved { tenant_id, invitation_id, key: key() }));
    let scenario = scenario.when(INVITATION.uuid(), unset("floor")).then_nothing();
    let updated =
        Event::Updated { tenant_id, invitation_id, attributes: attributes(&[("a", 1), ("b", 2)]), patched_fields: vec!["attributes".into()] };
    let scenario = scenario.when(INVITATION.uuid(), replace(&[("a", 1), ("b", 2)])).then(&one(updated));
    assert_eq!(state(&scenario).attributes, attributes(&[("a", 1), ("b", 2)]));
    scenario
        .when(INVITATION.uuid(), replace(&[("a", 1), ("b", 2)]))
        .then_nothing()
        .when(INVITATION.uuid(), Command::Update(Update::default()))
        .then_nothing();
}

#[test]
fn attributes_that_do_not_fit_together_are_refused() {
    let scenario = sent().when(INVITATION.uuid(), set("a", "x".repeat(5000))).then_types(&["invitation.attribute_set"]);
    scenario.when(INVITATION.uuid(), set("b", "x".repeat(5000))).refused("invitation.set_attribute", Reason::InvalidState);
}

#[test]
fn only_an_admin_changes_an_invitation() {
    sent().by(MIA).when(INVITATION.uuid(), replace(&[])).refused("invitation.update", Reason::Forbidden);
    sent().by(MIA).when(INVITATION.uuid(), set("a", 1)).refused("invitation.set_attribute", Reason::Forbidden);
    sent().by(MIA).when(INVITATION.uuid(), unset("a")).refused("invitation.remove_attribute", Reason::Forbidden);
    sent().by_link().when(INVITATION.uuid(), remove()).refused("invitation.remove", Reason::Forbidden);
}

#[test]
fn an_invitation_that_has_ended_changes_no_more() {
    let ended = ended(decline(1)).by(ADAM);
    ended.clone().when(INVITATION.uuid(), replace(&[])).refused("invitation.update", Reason::InvalidState);
    ended.clone().when(INVITATION.uuid(), set("a", 1)).refused("invitation.set_attribute", Reason::InvalidState);
    ended.clone().when(INVITATION.uuid(), unset("a")).refused("invitation.remove_attribute", Reason::InvalidState);
    ended.when(INVITATION.uuid(), remove()).refused("invitation.remove", Reason::InvalidState);
    let late = sent().after(Duration::days(7));
    late.clone().when(INVITATION.uuid(), replace(&[])).refused("invitation.update", Reason::Expired);
    late.clone().when(INVITATION.uuid(), set("a", 1)).refused("invitation.set_attribute", Reason::Expired);
    late.clone().when(INVITATION.uuid(), unset("a")).refused("invitation.remove_attribute", Reason::Expired);
    late.when(INVITATION.uuid(), remove()).refused("invitation.remove", Reason::Expired);
}

#[test]
fn an_invitation_is_taken_back() {
    let removed = Event::Removed { tenant_id: TENANT, invitation_id: INVITATION, reason: RemovalReason::Removed };
    let scenario = sent().when(INVITATION.uuid(), remove()).then(&[(INVITATION.uuid(), removed.into())]);
    assert!(!scenario.holds(&pending()));
    scenario.when(INVITATION.uuid(), remove()).then_nothing();
}

#[test]
fn a_reactor_ends_what_is_pending_in_any_tenant_and_at_any_time_and_nothing_else() {
    let scenario = cancelled().by_system().after(Duration::days(8)).when(INVITATION.uuid(), remove()).then_types(&["invitation.removed"]);
    scenario.when(INVITATION.uuid(), remove()).then_nothing();
    let expired = sent().by_system().after(Duration::days(8)).when(INVITATION.uuid(), expire(NOON + Duration::days(7)));
    expired.then_types(&["invitation.expired"]).when(INVITATION.uuid(), remove()).then_nothing();
}

#[test]
fn an_invitation_expires_at_its_deadline_and_not_at_an_older_one() {
    let scenario = sent().after(Duration::days(1)).when(INVITATION.uuid(), send(2)).then_types(&["invitation.sent"]);
    assert_eq!(state(&scenario).deadline(), Some(NOON + Duration::days(8)));
    let scenario = scenario.after(Duration::days(7)).by_system().when(INVITATION.uuid(), expire(NOON + Duration::days(7))).then_nothing();
    let created_by = Some(Actor::User(ADAM));
    let expired =
        Event::Expired { tenant_id: TENANT, invitation_id: INVITATION, email: email(NEMO), expires_at: NOON + Duration::days(8), created_by };
    let scenario = scenario.when(INVITATION.uuid(), expire(NOON + Duration::days(8))).then(&[(INVITATION.uuid(), expired.into())]);
    assert_eq!(state(&scenario).deadline(), None);
    assert!(!scenario.holds(&pending()));
    scenario.when(INVITATION.uuid(), expire(NOON + Duration::days(8))).then_nothing();
}

#[test]
fn nobody_but_time_lets_an_invitation_expire() {
    sent().by_operator().when(INVITATION.uuid(), expire(NOON + Duration::days(7))).refused("invitation.expire", Reason::Forbidden);
}

#[test]
fn commands_that_no_gateway_should_let_through_are_malformed() {
    let create = |patch: (&str, Value)| {
        let mut data = serde_json::to_value(Command::Create(create())).unwrap();
        data[patch.0] = patch.1;
        Command::parse("create", &data.to_string()).unwrap()
    };
    assert!(create(("role", "admin".into())).is_ok());
    for patch in [
        ("tokenHash", Value::from("abc")),
        ("tokenHash", hash(0xabc).to_uppercase().into()),
        ("email", "nobody".into()),
        ("attributes", serde_json::json!({ "a": "\0" })),
        ("role", "king".into()),
        ("expiresAt", "soon".into()),
        ("teamIds", vec![subjects::TeamId::new(Uuid::nil()).to_string(); 65].into()),
    ] {
        assert!(create(patch.clone()).is_err(), "{patch:?}");
    }
}

#[test]
fn what_a_creation_leaves_out_has_its_default() {
    let data = format!(r#"{{"email":"user5@example.com","tokenHash":"{}"}}"#, hash(1));
    assert_eq!(Command::parse("create", &data).unwrap().unwrap(), Command::Create(create()));
}

fn ended(by: Command) -> Scenario {
    let scenario = if matches!(by, Command::Decline(_)) { sent().by_link() } else { sent() };
    let when = scenario.when(INVITATION.uuid(), by);
    assert_eq!(when.decision.events.len(), 1);
    let event = when.decision.events[0].event.event_type();
    when.then_types(&[event]).by(ADAM)
}

#[test]
fn a_tenant_has_so_many_invitations_pending_and_no_more() {
    let mut scenario = sent();
    scenario.world.settings.pending_invitations = 1;
    let another = Command::Create(Create { email: email(GUS), ..create() });
    let scenario = scenario.when(SECOND.uuid(), another.clone()).refused("invitation.create", Reason::SeatLimit);
    // The same person again takes the old one's place.
    let scenario = scenario.when(SECOND.uuid(), Command::Create(create())).then_types(&["invitation.removed", "invitation.created"]);
    let scenario = scenario.when(SECOND.uuid(), remove()).then_types(&["invitation.removed"]);
    scenario.when(Uuid::from_u128(0x33), another).then_types(&["invitation.created"]);
}
