//! A user is created active in a home tenant, may be suspended, deactivated and reactivated, and is deleted some time after a deactivation.

mod standing;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Actor, Kind, Role, TenantId, UserId, timestamp};
use time::OffsetDateTime;

use crate::{
    About, Claim, ClaimChange, Decision, Emitted, Follow, Holder, Key, Needs, Reason, Surroundings, membership,
    tenant::{Change, Nothing, WithReason},
    text::{Email, Line},
};

pub use standing::DeactivationReason;

/// Creates a person whose home is this tenant; the target is the new user's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    /// Address, unique on the platform.
    pub email: Email,
    /// Name.
    pub full_name: Line,
    /// With a role the person becomes a member of the home tenant at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Changes what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateProfile {
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<Line>,
}

/// What can be asked of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// Create them.
    Create(Create),
    /// Change how they are described.
    UpdateProfile(UpdateProfile),
    /// Shut them out for now.
    Suspend(WithReason),
    /// Retire them; the first step to deletion.
    Deactivate(Nothing),
    /// Let them in again.
    Reactivate(Nothing),
    /// End them for ever.
    Delete(Nothing),
}

/// What can happen to a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum Event {
    /// They came to be.
    #[serde(rename = "user.created")]
    Created {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// Address.
        email: Email,
        /// Name.
        full_name: Line,
        /// Whether the address is known to be theirs.
        #[serde(default)]
        email_verified: bool,
    },
    /// Their description changed.
    #[serde(rename = "user.profile_updated")]
    ProfileUpdated {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// What changed.
        changes: Changes,
    },
    /// They were shut out.
    #[serde(rename = "user.suspended")]
    Suspended {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// Why.
        reason: Option<Line>,
    },
    /// They were retired.
    #[serde(rename = "user.deactivated")]
    Deactivated {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// Who did it.
        deactivated_by: Option<Actor>,
        /// Whether they did it themself.
        reason: DeactivationReason,
        /// When; deletion waits from here on.
        #[serde(with = "timestamp")]
        #[schemars(with = "timestamp::Text")]
        deactivated_at: OffsetDateTime,
    },
    /// They are back.
    #[serde(rename = "user.reactivated")]
    Reactivated {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// Who did it.
        reactivated_by: Option<Actor>,
    },
    /// They are gone.
    #[serde(rename = "user.deleted")]
    Deleted {
        /// The home tenant.
        tenant_id: TenantId,
        /// The user.
        user_id: UserId,
        /// Who did it.
        deleted_by: Option<Actor>,
    },
}

/// The fields of a user that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<Change<Line>>,
}

/// Where a user stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// Shut out for now.
    Suspended,
    /// Retired.
    Deactivated,
    /// Gone.
    Deleted,
}

/// A user as stored, in the home tenant. Deletion empties what is personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub full_name: String,
    /// Whether the address is known to be theirs.
    #[serde(default)]
    pub email_verified: bool,
    /// Where they stand.
    pub status: Status,
    /// Since when they are deactivated.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "timestamp::option")]
    pub deactivated_at: Option<OffsetDateTime>,
    /// How often the standing has changed. Other tenants, which follow it, tell by it what is newer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub standing_changes: u32,
}

/// For serde, which passes by reference.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl State {
    pub(crate) fn empty() -> Self {
        let (status, deactivated_at) = (Status::Active, None);
        Self { email: String::new(), full_name: String::new(), email_verified: false, status, deactivated_at, standing_changes: 0 }
    }

    fn change_standing(&mut self, status: Status) {
        self.status = status;
        self.standing_changes = self.standing_changes.saturating_add(1);
    }

    /// Whether they may act.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// Whether there is still somebody to speak of.
    pub fn exists(&self) -> bool {
        self.status != Status::Deleted
    }
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 6] = ["create", "update_profile", "suspend", "deactivate", "reactivate", "delete"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::UpdateProfile(_) => "update_profile",
            Self::Suspend(_) => "suspend",
            Self::Deactivate(_) => "deactivate",
            Self::Reactivate(_) => "reactivate",
            Self::Delete(_) => "delete",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "create" => serde_json::from_str(data).map(Self::Create),
            "update_profile" => serde_json::from_str(data).map(Self::UpdateProfile),
            "suspend" => serde_json::from_str(data).map(Self::Suspend),
            "deactivate" => serde_json::from_str(data).map(Self::Deactivate),
            "reactivate" => serde_json::from_str(data).map(Self::Reactivate),
            "delete" => serde_json::from_str(data).map(Self::Delete),
            _ => return None,
        })
    }

    /// What must be loaded to decide it: always the membership in the home tenant, which tells an owner from others and ends with the user.
    pub fn needs(&self, about: &About) -> Needs {
        let states = vec![Key { tenant: about.tenant, kind: Kind::Membership, id: about.target }];
        let claims = match self {
            Self::Create(create) => vec![Claim::email(&create.email), Claim::user(UserId::new(about.target))],
            _ => Vec::new(),
        };
        let follow = match self {
            Self::Delete(_) => vec![Follow::Naming { tenant: about.tenant, id: about.target }],
            _ => Vec::new(),
        };
        Needs { states, claims, follow, ..Needs::default() }
    }
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 6] =
        ["user.created", "user.profile_updated", "user.suspended", "user.deactivated", "user.reactivated", "user.deleted"];

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Created { .. } => "user.created",
            Self::ProfileUpdated { .. } => "user.profile_updated",
            Self::Suspended { .. } => "user.suspended",
            Self::Deactivated { .. } => "user.deactivated",
            Self::Reactivated { .. } => "user.reactivated",
            Self::Deleted { .. } => "user.deleted",
        }
    }

    /// What it does to claims. A deleted user's address is free for another, and other tenants no longer find the user.
    pub fn claims(&self, before: Option<&State>, tenant: TenantId) -> Vec<ClaimChange> {
        match self {
            Self::Created { user_id, email, .. } => {
                let holder = Holder { tenant, id: user_id.uuid() };
                vec![ClaimChange::Take(Claim::email(email), holder), ClaimChange::Take(Claim::user(*user_id), holder)]
            }
            Self::Deleted { user_id, .. } => {
                let email = before.map(|state| ClaimChange::Release(Claim::email(&Email::stored(&state.email))));
                email.into_iter().chain([ClaimChange::Release(Claim::user(*user_id))]).collect()
            }
            Self::ProfileUpdated { .. } | Self::Suspended { .. } | Self::Deactivated { .. } | Self::Reactivated { .. } => Vec::new(),
        }
    }
}

/// Decides.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    if let Command::Create(create) = command {
        return decide_create(create, surroundings, about).into();
    }
    let Some(state) = surroundings.user(UserId::new(about.target)) else { return Decision::refused(Reason::NotFound) };
    match command {
        Command::Create(_) => Err(Reason::InvalidTransition),
        Command::UpdateProfile(update) => decide_profile(update, state, surroundings, about),
        Command::Suspend(_) | Command::Deactivate(_) | Command::Reactivate(_) | Command::Delete(_) => {
            standing::decide(command, state, surroundings, about)
        }
    }
    .into()
}

fn decide_create(create: &Create, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, user_id) = (about.tenant, UserId::new(about.target));
    let tenant = surroundings.tenant().ok_or(Reason::NotFound)?;
    about.require(if create.role == Some(Role::Owner) { Role::Owner } else { Role::Admin }, surroundings)?;
    let id_is_used = surroundings.user(user_id).is_some() || surroundings.claim(&Claim::user(user_id)).is_some();
    if !tenant.is_active() || id_is_used {
        return Err(Reason::InvalidTransition);
    }
    if surroundings.claim(&Claim::email(&create.email)).is_some() {
        return Err(Reason::EmailTaken);
    }
    let (email, full_name) = (create.email.clone(), create.full_name.clone());
    let mut events = vec![Emitted::new(user_id.uuid(), Event::Created { tenant_id, user_id, email, full_name, email_verified: false })];
    if let Some(role) = create.role {
        if !surroundings.has_free_seat() {
            return Err(Reason::SeatLimit);
        }
        events.push(membership::joined(tenant_id, user_id, create.email.clone(), role, None));
    }
    Ok(events)
}

fn decide_profile(update: &UpdateProfile, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, user_id) = (about.tenant, UserId::new(about.target));
    if !about.is_active_self(user_id, surroundings) {
        about.require(Role::Admin, surroundings)?;
    }
    if !state.exists() {
        return Err(Reason::InvalidTransition);
    }
    match &update.full_name {
        Some(name) if name.as_str() != state.full_name => {
            let changes = Changes { full_name: Some(Change { old: Line::stored(&state.full_name), new: name.clone() }) };
            Ok(vec![Emitted::new(user_id.uuid(), Event::ProfileUpdated { tenant_id, user_id, changes })])
        }
        _ => Ok(Vec::new()),
    }
}

/// Applies. Cannot fail and contains no rule.
pub fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Created { email, full_name, email_verified, .. } => {
            *state = State { email: email.to_string(), full_name: full_name.to_string(), email_verified: *email_verified, ..State::empty() };
        }
        Event::ProfileUpdated { changes, .. } => {
            if let Some(name) = &changes.full_name {
                state.full_name = name.new.to_string();
            }
        }
        Event::Suspended { .. } => state.change_standing(Status::Suspended),
        Event::Deactivated { deactivated_at, .. } => {
            state.change_standing(Status::Deactivated);
            state.deactivated_at = Some(*deactivated_at);
        }
        Event::Reactivated { .. } => {
            state.change_standing(Status::Active);
            state.deactivated_at = None;
        }
        Event::Deleted { .. } => {
            *state = State { standing_changes: state.standing_changes, ..State::empty() };
            state.change_standing(Status::Deleted);
        }
    }
}

#[cfg(test)]
mod tests;
