//! How a tenant is set up: which notifications it wants, and where its people sign in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::Role;

use super::{Change, Changes, Event, State, Status, Update};
use crate::{
    About, Emitted, Reason, Surroundings,
    text::{Issuer, Line},
};

/// What a tenant may switch on or off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Whether people are told that their profile was changed.
    pub notify_profile_updated: bool,
    /// Whether an inviter is told that their invitation expired.
    pub notify_invitation_expired: bool,
}

/// Which settings change; what is missing stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsPatch {
    /// See [`Settings::notify_profile_updated`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify_profile_updated: Option<bool>,
    /// See [`Settings::notify_invitation_expired`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify_invitation_expired: Option<bool>,
}

impl SettingsPatch {
    fn of(self, settings: Settings) -> Settings {
        Settings {
            notify_profile_updated: self.notify_profile_updated.unwrap_or(settings.notify_profile_updated),
            notify_invitation_expired: self.notify_invitation_expired.unwrap_or(settings.notify_invitation_expired),
        }
    }
}

/// Where the people of a tenant sign in (OpenID Connect). The client's secret is no part of it: no message carries one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sso {
    /// The provider's name, for people.
    pub provider: Line,
    /// The issuer's identifier.
    pub issuer: Issuer,
    /// What the provider knows us by.
    pub client_id: Line,
}

pub(super) fn decide_update(update: &Update, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    about.require(Role::Owner, surroundings)?;
    require_going_on(state)?;
    let name = update.name.clone().filter(|name| name.as_str() != state.name);
    let settings = update.settings.map(|patch| patch.of(state.settings)).filter(|settings| *settings != state.settings);
    if name.is_none() && settings.is_none() {
        return Ok(Vec::new());
    }
    let changes = Changes {
        name: name.map(|new| Change { old: Line::stored(&state.name), new }),
        settings: settings.map(|new| Change { old: state.settings, new }),
    };
    Ok(vec![Emitted::new(about.target, Event::Updated { tenant_id: about.tenant, changes })])
}

pub(super) fn decide_sso(sso: &Sso, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    about.require(Role::Admin, surroundings)?;
    require_going_on(state)?;
    if state.sso.as_ref() == Some(sso) {
        return Ok(Vec::new());
    }
    let Sso { provider, issuer, client_id } = sso.clone();
    Ok(vec![Emitted::new(about.target, Event::SsoConfigured { tenant_id: about.tenant, provider, issuer, client_id })])
}

pub(super) fn decide_no_sso(state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    about.require(Role::Admin, surroundings)?;
    require_going_on(state)?;
    let event = state.sso.as_ref().map(|_| Emitted::new(about.target, Event::SsoDisabled { tenant_id: about.tenant }));
    Ok(event.into_iter().collect())
}

/// A tenant that has ended stays as it was.
fn require_going_on(state: &State) -> Result<(), Reason> {
    if state.status == Status::Cancelled { Err(Reason::InvalidTransition) } else { Ok(()) }
}
