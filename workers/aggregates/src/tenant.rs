//! A tenant is created active, may be suspended and activated again, and ends cancelled; its plan only goes up.

mod configuring;
mod event;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Role, UserId, derive};

use crate::{
    About, Claim, Decision, Emitted, Needs, Reason, Scope, Surroundings, membership,
    text::{Email, Line, Slug},
    user,
};

pub use configuring::{Settings, SettingsPatch, Sso};
pub use event::Event;

/// What a tenant pays for; decides how many members it may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// To try.
    #[default]
    Free,
    /// To begin.
    Starter,
    /// For a firm.
    Professional,
    /// For a group.
    Enterprise,
}

/// The first owner of a new tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Their address; a user who has it already becomes the owner.
    pub email: Email,
    /// Their name.
    pub full_name: Line,
}

/// Creates a tenant and the membership of its first owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    /// Short name, unique for ever.
    pub slug: Slug,
    /// Full name.
    pub name: Line,
    /// Plan.
    #[serde(default)]
    pub plan: Plan,
    /// First owner.
    pub owner: Owner,
}

/// Changes what is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// New full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Line>,
    /// Which settings change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsPatch>,
}

/// Why something is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithReason {
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Line>,
}

/// The plan wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradePlan {
    /// Higher than the present one.
    pub plan: Plan,
}

/// No data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// What can be asked of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// Create it.
    Create(Create),
    /// Change its name or settings.
    Update(Update),
    /// End a suspension.
    Activate(Nothing),
    /// Suspend it.
    Suspend(WithReason),
    /// End it.
    Cancel(WithReason),
    /// Go to a higher plan.
    UpgradePlan(UpgradePlan),
    /// Say where its people sign in.
    ConfigureSso(Sso),
    /// No longer say so.
    DisableSso(Nothing),
}

/// A field before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change<T> {
    /// Before.
    pub old: T,
    /// After.
    pub new: T,
}

/// The fields of a tenant that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// The full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Change<Line>>,
    /// The settings, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Change<Settings>>,
}

/// Where a tenant stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// Closed for now.
    Suspended,
    /// Closed for ever.
    Cancelled,
}

/// A tenant as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Short name.
    pub slug: String,
    /// Full name.
    pub name: String,
    /// Plan.
    pub plan: Plan,
    /// Where it stands.
    pub status: Status,
    /// What it has switched on.
    #[serde(default)]
    pub settings: Settings,
    /// Where its people sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sso: Option<Sso>,
}

impl State {
    pub(crate) fn empty() -> Self {
        Self { slug: String::new(), name: String::new(), plan: Plan::Free, status: Status::Active, settings: Settings::default(), sso: None }
    }

    /// Whether people may join and act.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 8] = ["create", "update", "activate", "suspend", "cancel", "upgrade_plan", "configure_sso", "disable_sso"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update(_) => "update",
            Self::Activate(_) => "activate",
            Self::Suspend(_) => "suspend",
            Self::Cancel(_) => "cancel",
            Self::UpgradePlan(_) => "upgrade_plan",
            Self::ConfigureSso(_) => "configure_sso",
            Self::DisableSso(_) => "disable_sso",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "create" => serde_json::from_str(data).map(Self::Create),
            "update" => serde_json::from_str(data).map(Self::Update),
            "activate" => serde_json::from_str(data).map(Self::Activate),
            "suspend" => serde_json::from_str(data).map(Self::Suspend),
            "cancel" => serde_json::from_str(data).map(Self::Cancel),
            "upgrade_plan" => serde_json::from_str(data).map(Self::UpgradePlan),
            "configure_sso" => serde_json::from_str(data).map(Self::ConfigureSso),
            "disable_sso" => serde_json::from_str(data).map(Self::DisableSso),
            _ => return None,
        })
    }

    /// What must be loaded to decide it.
    pub fn needs(&self, _about: &About) -> Needs {
        match self {
            Self::Create(create) => {
                let claims = vec![Claim::new(Scope::Slug, create.slug.as_str()), Claim::email(&create.owner.email)];
                Needs { claims, ..Needs::default() }
            }
            _ => Needs::default(),
        }
    }
}

/// Decides.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    if let Command::Create(create) = command {
        return decide_create(create, surroundings, about).into();
    }
    let Some(state) = surroundings.tenant() else { return Decision::refused(Reason::NotFound) };
    decide_existing(command, state, surroundings, about).into()
}

fn decide_create(create: &Create, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    about.require_operator()?;
    if surroundings.tenant().is_some() || surroundings.claim(&Claim::new(Scope::Slug, create.slug.as_str())).is_some() {
        return Err(Reason::SlugTaken);
    }
    let tenant_id = about.tenant;
    let email = create.owner.email.clone();
    let created = Event::Created { tenant_id, slug: create.slug.clone(), name: create.name.clone(), plan: create.plan };
    let mut events = vec![Emitted::new(tenant_id.uuid(), created)];
    let owner = match surroundings.claim(&Claim::email(&email)) {
        Some(holder) => UserId::new(holder.id),
        None => {
            let user_id: UserId = derive(about.command.uuid(), "owner");
            let full_name = create.owner.full_name.clone();
            events.push(Emitted::new(
                user_id.uuid(),
                user::Event::Created { tenant_id, user_id, email: email.clone(), full_name, email_verified: false },
            ));
            user_id
        }
    };
    events.push(membership::joined(tenant_id, owner, email, Role::Owner, None));
    Ok(events)
}

fn decide_existing(command: &Command, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let tenant_id = about.tenant;
    let one = |event: Event| Ok(vec![Emitted::new(tenant_id.uuid(), event)]);
    match command {
        Command::Create(_) => Err(Reason::SlugTaken),
        Command::Update(update) => configuring::decide_update(update, state, surroundings, about),
        Command::ConfigureSso(sso) => configuring::decide_sso(sso, state, surroundings, about),
        Command::DisableSso(_) => configuring::decide_no_sso(state, surroundings, about),
        Command::Activate(_) => {
            about.require_operator()?;
            match state.status {
                Status::Suspended => one(Event::Activated { tenant_id }),
                Status::Active => Ok(Vec::new()),
                Status::Cancelled => Err(Reason::InvalidTransition),
            }
        }
        Command::Suspend(suspend) => {
            about.require_operator()?;
            match state.status {
                Status::Active => one(Event::Suspended { tenant_id, reason: suspend.reason.clone() }),
                Status::Suspended | Status::Cancelled => Err(Reason::InvalidTransition),
            }
        }
        Command::Cancel(cancel) => {
            about.require_operator()?;
            match state.status {
                Status::Suspended => one(Event::Cancelled { tenant_id, reason: cancel.reason.clone() }),
                Status::Active | Status::Cancelled => Err(Reason::InvalidTransition),
            }
        }
        Command::UpgradePlan(upgrade) => {
            about.require(Role::Owner, surroundings)?;
            if state.status == Status::Cancelled {
                return Err(Reason::InvalidTransition);
            }
            match upgrade.plan.cmp(&state.plan) {
                std::cmp::Ordering::Greater => one(Event::PlanUpgraded { tenant_id, old_plan: state.plan, new_plan: upgrade.plan }),
                std::cmp::Ordering::Equal => Err(Reason::SamePlan),
                std::cmp::Ordering::Less => Err(Reason::NotAnUpgrade),
            }
        }
    }
}

/// Applies. Cannot fail and contains no rule.
pub fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Created { slug, name, plan, .. } => {
            *state = State { slug: slug.to_string(), name: name.to_string(), plan: *plan, ..State::empty() };
        }
        Event::Updated { changes, .. } => {
            if let Some(name) = &changes.name {
                state.name = name.new.to_string();
            }
            if let Some(settings) = &changes.settings {
                state.settings = settings.new;
            }
        }
        Event::Activated { .. } => state.status = Status::Active,
        Event::Suspended { .. } => state.status = Status::Suspended,
        Event::Cancelled { .. } => state.status = Status::Cancelled,
        Event::PlanUpgraded { new_plan, .. } => state.plan = *new_plan,
        Event::SsoConfigured { provider, issuer, client_id, .. } => {
            state.sso = Some(Sso { provider: provider.clone(), issuer: issuer.clone(), client_id: client_id.clone() });
        }
        Event::SsoDisabled { .. } => state.sso = None,
    }
}

#[cfg(test)]
mod tests;
