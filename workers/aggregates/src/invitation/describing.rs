//! What an inviter attaches to an open invitation: attributes, set and taken away one by one or all together.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use subjects::{InvitationId, Role};

use super::{Event, State};
use crate::{About, Emitted, Reason, Surroundings, attributes, attributes::Attributes, text::AttributeKey};

/// Changes what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Instead of all present ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// Attaches one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetAttribute {
    /// Under which key.
    pub key: AttributeKey,
    /// What.
    #[serde(deserialize_with = "attributes::value")]
    pub value: Value,
}

/// Takes one attribute away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveAttribute {
    /// Under which key.
    pub key: AttributeKey,
}

pub(super) fn decide_update(update: &Update, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    require_open(state, surroundings, about)?;
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    match &update.attributes {
        Some(attributes) if *attributes != state.attributes => Ok(happened(
            about,
            Event::Updated { tenant_id, invitation_id, attributes: attributes.clone(), patched_fields: vec!["attributes".into()] },
        )),
        _ => Ok(Vec::new()),
    }
}

pub(super) fn decide_set(set: &SetAttribute, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    require_open(state, surroundings, about)?;
    let SetAttribute { key, value } = set;
    if state.attributes.values().get(key) == Some(value) {
        return Ok(Vec::new());
    }
    // Each alone fits, together they do not: the invitation as it stands has no room.
    state.attributes.with(key.clone(), value.clone()).map_err(|_| Reason::InvalidState)?;
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    Ok(happened(about, Event::AttributeSet { tenant_id, invitation_id, key: key.clone(), value: value.clone() }))
}

pub(super) fn decide_unset(remove: &RemoveAttribute, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    require_open(state, surroundings, about)?;
    if !state.attributes.values().contains_key(&remove.key) {
        return Ok(Vec::new());
    }
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    Ok(happened(about, Event::AttributeRemoved { tenant_id, invitation_id, key: remove.key.clone() }))
}

/// An admin describes an invitation, and only while it is open.
fn require_open(state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<(), Reason> {
    about.require(Role::Admin, surroundings)?;
    state.require_open(about.now)
}

fn happened(about: &About, event: Event) -> Vec<Emitted> {
    vec![Emitted::new(about.target, event)]
}
