use super::*;
use crate::scenario::{ADAM, ELSEWHERE, GUS, MIA, NOON, OLIVIA, TENANT, email, line, nothing, slug, tenant};

fn create(email: Email) -> Command {
    let owner = Owner { email, full_name: line("Olga Owner") };
    Command::Create(Create { slug: "acme".parse().unwrap(), name: line("Acme"), plan: Plan::Free, owner })
}

fn update(name: &str) -> Command {
    Command::Update(Update { name: Some(line(name)), settings: None })
}

fn suspended() -> Event {
    Event::Suspended { tenant_id: TENANT, reason: None }
}

fn cancelled() -> Event {
    Event::Cancelled { tenant_id: TENANT, reason: None }
}

fn upgrade(plan: Plan) -> Command {
    Command::UpgradePlan(UpgradePlan { plan })
}

#[test]
fn creating_a_tenant_creates_its_owner_and_their_membership() {
    let when = nothing().by_operator().when(TENANT.uuid(), create(email(OLIVIA)));
    let owner = UserId::new(when.decision.events[1].id);
    let scenario = when.then(&[
        (TENANT.uuid(), Event::Created { tenant_id: TENANT, slug: "acme".parse().unwrap(), name: line("Acme"), plan: Plan::Free }.into()),
        (
            owner.uuid(),
            user::Event::Created { tenant_id: TENANT, user_id: owner, email: email(OLIVIA), full_name: line("Olga Owner"), email_verified: false }
                .into(),
        ),
        (owner.uuid(), membership::joined(TENANT, owner, email(OLIVIA), Role::Owner, None).event),
    ]);
    assert!(scenario.holds(&slug("acme")) && scenario.holds(&Claim::email(&email(OLIVIA))) && scenario.holds(&Claim::user(owner)));
}

#[test]
fn who_has_the_address_already_becomes_the_owner() {
    nothing().stranger(GUS).by_operator().when(TENANT.uuid(), create(email(GUS))).then(&[
        (TENANT.uuid(), Event::Created { tenant_id: TENANT, slug: "acme".parse().unwrap(), name: line("Acme"), plan: Plan::Free }.into()),
        (GUS.uuid(), membership::joined(TENANT, GUS, email(GUS), Role::Owner, None).event),
    ]);
}

#[test]
fn a_slug_is_taken_once_and_for_ever() {
    let scenario = tenant().given(TENANT.uuid(), suspended()).given(TENANT.uuid(), cancelled()).by_operator();
    assert!(scenario.holds(&slug("acme")));
    scenario.when(TENANT.uuid(), create(email(MIA))).refused("tenant.create", Reason::SlugTaken);
    let taken =
        Emitted::new(ELSEWHERE.uuid(), Event::Created { tenant_id: ELSEWHERE, slug: "acme".parse().unwrap(), name: line("A"), plan: Plan::Free });
    let mut scenario = nothing().by_operator();
    scenario.world.apply(ELSEWHERE, &taken, NOON);
    scenario.when(TENANT.uuid(), create(email(MIA))).refused("tenant.create", Reason::SlugTaken);
}

#[test]
fn only_an_operator_creates_activates_suspends_and_cancels() {
    nothing().by(OLIVIA).when(TENANT.uuid(), create(email(OLIVIA))).refused("tenant.create", Reason::Forbidden);
    let tenant = tenant();
    tenant.clone().when(TENANT.uuid(), Command::Activate(Nothing {})).refused("tenant.activate", Reason::Forbidden);
    tenant.clone().when(TENANT.uuid(), Command::Suspend(WithReason::default())).refused("tenant.suspend", Reason::Forbidden);
    tenant.when(TENANT.uuid(), Command::Cancel(WithReason::default())).refused("tenant.cancel", Reason::Forbidden);
}

#[test]
fn only_an_owner_renames_and_upgrades() {
    let scenario = tenant().member(ADAM, Role::Admin);
    scenario.clone().by(ADAM).when(TENANT.uuid(), update("New")).refused("tenant.update", Reason::Forbidden);
    scenario.clone().by(ADAM).when(TENANT.uuid(), upgrade(Plan::Enterprise)).refused("tenant.upgrade_plan", Reason::Forbidden);
    scenario.when(TENANT.uuid(), update("New")).then_types(&["tenant.updated"]);
}

#[test]
fn a_tenant_that_does_not_exist_is_not_found() {
    nothing().by_operator().when(TENANT.uuid(), update("New")).refused("tenant.update", Reason::NotFound);
}

#[test]
fn a_new_name_tells_the_old_one_and_the_same_name_is_no_news() {
    let changes = Changes { name: Some(Change { old: line("Acme"), new: line("New") }), settings: None };
    let renamed = tenant().when(TENANT.uuid(), update("New")).then(&[(TENANT.uuid(), Event::Updated { tenant_id: TENANT, changes }.into())]);
    renamed
        .when(TENANT.uuid(), update("New"))
        .then_nothing()
        .when(TENANT.uuid(), Command::Update(Update { name: None, settings: None }))
        .then_nothing();
}

#[test]
fn a_tenant_is_suspended_activated_and_cancelled_in_this_order_only() {
    let active = tenant().by_operator();
    let suspend = Command::Suspend(WithReason { reason: Some(line("unpaid")) });
    let cancel = || Command::Cancel(WithReason::default());
    let activate = || Command::Activate(Nothing {});
    active.clone().when(TENANT.uuid(), cancel()).refused("tenant.cancel", Reason::InvalidTransition);
    active.clone().when(TENANT.uuid(), activate()).then_nothing();
    let event = Event::Suspended { tenant_id: TENANT, reason: Some(line("unpaid")) };
    let suspended = active.when(TENANT.uuid(), suspend.clone()).then(&[(TENANT.uuid(), event.into())]);
    suspended.clone().when(TENANT.uuid(), suspend.clone()).refused("tenant.suspend", Reason::InvalidTransition);
    let activated = Event::Activated { tenant_id: TENANT };
    suspended.clone().when(TENANT.uuid(), activate()).then(&[(TENANT.uuid(), activated.into())]);
    let cancelled = suspended.when(TENANT.uuid(), cancel()).then_types(&["tenant.cancelled"]);
    cancelled.clone().when(TENANT.uuid(), activate()).refused("tenant.activate", Reason::InvalidTransition);
    cancelled.clone().when(TENANT.uuid(), suspend).refused("tenant.suspend", Reason::InvalidTransition);
    cancelled.clone().when(TENANT.uuid(), update("New")).refused("tenant.update", Reason::InvalidTransition);
    cancelled.when(TENANT.uuid(), upgrade(Plan::Enterprise)).refused("tenant.upgrade_plan", Reason::InvalidTransition);
}

#[test]
fn a_plan_only_goes_up() {
    let upgraded = Event::PlanUpgraded { tenant_id: TENANT, old_plan: Plan::Starter, new_plan: Plan::Professional };
    let scenario = tenant().when(TENANT.uuid(), upgrade(Plan::Professional)).then(&[(TENANT.uuid(), upgraded.into())]);
    scenario.clone().when(TENANT.uuid(), upgrade(Plan::Professional)).refused("tenant.upgrade_plan", Reason::SamePlan);
    scenario.when(TENANT.uuid(), upgrade(Plan::Free)).refused("tenant.upgrade_plan", Reason::NotAnUpgrade);
}

#[test]
fn a_version_that_is_not_the_present_one_is_a_conflict_unless_the_caller_may_not_know() {
    let scenario = tenant().member(MIA, Role::Member);
    scenario.clone().if_match(1).when(TENANT.uuid(), update("New")).then_types(&["tenant.updated"]);
    scenario.clone().if_match(7).when(TENANT.uuid(), update("New")).refused("tenant.update", Reason::VersionConflict);
    scenario.by(MIA).if_match(7).when(TENANT.uuid(), update("New")).refused("tenant.update", Reason::Forbidden);
}

fn switch(profile_updated: Option<bool>, invitation_expired: Option<bool>) -> Command {
    let patch = SettingsPatch { notify_profile_updated: profile_updated, notify_invitation_expired: invitation_expired };
    Command::Update(Update { name: None, settings: Some(patch) })
}

#[test]
fn a_setting_that_is_not_named_stays() {
    let settings = |profile, expired| Settings { notify_profile_updated: profile, notify_invitation_expired: expired };
    let updated = |old, new| {
        let changes = Changes { name: None, settings: Some(Change { old, new }) };
        [(TENANT.uuid(), Event::Updated { tenant_id: TENANT, changes }.into())]
    };
    let scenario = tenant().when(TENANT.uuid(), switch(Some(true), None)).then(&updated(settings(false, false), settings(true, false)));
    let scenario = scenario.when(TENANT.uuid(), switch(None, Some(true))).then(&updated(settings(true, false), settings(true, true)));
    let scenario = scenario.when(TENANT.uuid(), switch(Some(true), Some(true))).then_nothing();
    scenario.when(TENANT.uuid(), switch(None, None)).then_nothing();
}

fn sso(issuer: &str) -> Sso {
    Sso { provider: line("okta"), issuer: issuer.parse().unwrap(), client_id: line("client") }
}

#[test]
fn an_admin_says_where_people_sign_in_and_that_they_no_longer_do() {
    let sso = sso("https://acme.okta.example");
    let configure = || Command::ConfigureSso(sso.clone());
    let Sso { provider, issuer, client_id } = sso.clone();
    let configured = Event::SsoConfigured { tenant_id: TENANT, provider, issuer, client_id };
    let scenario = tenant().member(ADAM, Role::Admin).by(ADAM);
    let scenario = scenario.when(TENANT.uuid(), Command::DisableSso(Nothing {})).then_nothing();
    let scenario = scenario.when(TENANT.uuid(), configure()).then(&[(TENANT.uuid(), configured.into())]);
    let scenario = scenario.when(TENANT.uuid(), configure()).then_nothing();
    let disabled = Event::SsoDisabled { tenant_id: TENANT };
    let scenario = scenario.when(TENANT.uuid(), Command::DisableSso(Nothing {})).then(&[(TENANT.uuid(), disabled.into())]);
    scenario.when(TENANT.uuid(), configure()).then_types(&["tenant.sso_configured"]);
}

#[test]
fn whoever_is_no_admin_and_a_tenant_that_has_ended_configure_nothing() {
    let scenario = tenant().member(MIA, Role::Member).by(MIA);
    let configure = || Command::ConfigureSso(sso("https://acme.okta.example"));
    let scenario = scenario.when(TENANT.uuid(), configure()).refused("tenant.configure_sso", Reason::Forbidden);
    let scenario = scenario.when(TENANT.uuid(), Command::DisableSso(Nothing {})).refused("tenant.disable_sso", Reason::Forbidden);
    let ended = scenario.given(TENANT.uuid(), suspended()).given(TENANT.uuid(), cancelled()).by_operator();
    let ended = ended.when(TENANT.uuid(), configure()).refused("tenant.configure_sso", Reason::InvalidTransition);
    ended.when(TENANT.uuid(), Command::DisableSso(Nothing {})).refused("tenant.disable_sso", Reason::InvalidTransition);
}
