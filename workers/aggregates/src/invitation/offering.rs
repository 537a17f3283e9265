//! The inviter's side: an invitation is made out, sent, sent again, taken back, and over when its time is.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use subjects::{Authority, InvitationId, Role, TeamId, timestamp};
use time::{Duration, OffsetDateTime};

use super::{Event, RemovalReason, State, Status, token_hash};
use crate::{About, Emitted, Reason, Surroundings, attributes::Attributes, team, text::Email};

/// How the invitation reaches the person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvitationType {
    /// We mail it.
    #[default]
    Email,
    /// The inviter hands over a link.
    Link,
}

impl InvitationType {
    /// How long it is open unless said otherwise.
    pub const fn lifetime(self) -> Duration {
        match self {
            Self::Email => Duration::days(7),
            Self::Link => Duration::hours(48),
        }
    }

    /// How long it may be open.
    pub const fn longest_lifetime(self) -> Duration {
        match self {
            Self::Email => Duration::days(30),
            Self::Link => Duration::hours(48),
        }
    }
}

/// How often an invitation may be sent again.
pub const MAX_RESENDS: u32 = 5;
/// How many teams an invitation may name.
pub const MAX_TEAMS: usize = 64;

/// Offers a membership; the target is the new invitation's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    /// Who is invited.
    pub email: Email,
    /// How it reaches them.
    #[serde(default)]
    pub invitation_type: InvitationType,
    /// The role they will have.
    #[serde(default = "member")]
    pub role: Role,
    /// The teams they will be in.
    #[serde(default, deserialize_with = "team_ids")]
    pub team_ids: Vec<TeamId>,
    /// What the inviter attaches.
    #[serde(default)]
    pub attributes: Attributes,
    /// When it ends; cut to the longest lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "timestamp::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// SHA-256 of the token of version 1, as 64 hexadecimal digits.
    #[serde(deserialize_with = "token_hash")]
    pub token_hash: String,
    /// Whether it is to be mailed at once; a link never is.
    #[serde(default = "yes")]
    pub send: bool,
}

const fn member() -> Role {
    Role::Member
}

const fn yes() -> bool {
    true
}

fn team_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TeamId>, D::Error> {
    let mut ids = Vec::<TeamId>::deserialize(deserializer)?;
    if ids.len() > MAX_TEAMS {
        return Err(de::Error::custom("must be at most 64 teams"));
    }
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

/// Mails it, for the first time or again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// Version of the token; for a resend one more than the present one. The first sending keeps the token of the creation.
    pub token_version: u32,
    /// SHA-256 of that token.
    #[serde(deserialize_with = "token_hash")]
    pub token_hash: String,
    /// When it ends now.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "timestamp::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// Ends it because its time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expire {
    /// The deadline that passed; an older one than the present one means nothing.
    #[serde(with = "timestamp")]
    pub deadline: OffsetDateTime,
}

/// When an invitation ends that is made out or sent now. More than the longest lifetime is cut, as the request was on its way for a while.
pub(super) fn deadline(wanted: Option<OffsetDateTime>, invitation_type: InvitationType, now: OffsetDateTime) -> Result<OffsetDateTime, Reason> {
    let wanted = wanted.map_or(now + invitation_type.lifetime(), |at| at.min(now + invitation_type.longest_lifetime()));
    // What is stored keeps milliseconds; a deadline must equal itself when it comes back.
    let at = timestamp::to_millis(wanted);
    if at > now { Ok(at) } else { Err(Reason::Expired) }
}

pub(super) fn decide_create(create: &Create, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    surroundings.tenant().ok_or(Reason::NotFound)?;
    about.require(if create.role == Role::Owner { Role::Owner } else { Role::Admin }, surroundings)?;
    surroundings.require_active_tenant()?;
    if surroundings.invitation(invitation_id).is_some() {
        return Err(Reason::InvalidState);
    }
    let is_there = |team: &TeamId| surroundings.team(*team).is_some_and(team::State::is_active);
    if !create.team_ids.iter().all(is_there) {
        return Err(Reason::NotFound);
    }
    if surroundings.member_with(&create.email) {
        return Err(Reason::AlreadyAMember);
    }
    let expires_at = deadline(create.expires_at, create.invitation_type, about.now)?;
    let superseded = surroundings.pending_invitation(&create.email).map(|old| {
        let event = Event::Removed { tenant_id, invitation_id: old, reason: RemovalReason::Superseded };
        Emitted::new(old.uuid(), event)
    });
    // Whoever is invited again takes the place of their old invitation.
    if superseded.is_none() && !surroundings.has_place_for_an_invitation() {
        return Err(Reason::SeatLimit);
    }
    let created = Event::Created {
        tenant_id,
        invitation_id,
        email: create.email.clone(),
        invitation_type: create.invitation_type,
        role: create.role,
        team_ids: create.team_ids.clone(),
        identity_id: about.by(),
        created_by: about.by(),
        attributes: create.attributes.clone(),
        expires_at,
        token_hash: create.token_hash.clone(),
        token_version: 1,
        send: create.send && create.invitation_type == InvitationType::Email,
    };
    Ok(superseded.into_iter().chain([Emitted::new(invitation_id.uuid(), created)]).collect())
}

pub(super) fn decide_send(send: &Send, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    about.require(Role::Admin, surroundings)?;
    // The reactor sends what was just created; whatever happened to it since is newer.
    if about.authority == Authority::System && state.status != Status::Created {
        return Ok(Vec::new());
    }
    state.require_open(about.now)?;
    surroundings.require_active_tenant()?;
    let is_first = state.status == Status::Created;
    if !is_first && state.resend_count >= MAX_RESENDS {
        return Err(Reason::TooManyResends);
    }
    if !is_first && send.token_version != state.token_version + 1 {
        return Err(Reason::VersionConflict);
    }
    let wanted = if is_first { send.expires_at.or(Some(state.expires_at)) } else { send.expires_at };
    let event = Event::Sent {
        tenant_id,
        invitation_id,
        email: Email::stored(&state.email),
        invitation_type: state.invitation_type,
        role: state.role,
        state: Status::Sent,
        resend_count: if is_first { state.resend_count } else { state.resend_count + 1 },
        expires_at: deadline(wanted, state.invitation_type, about.now)?,
        token_hash: if is_first { state.token_hash.clone() } else { send.token_hash.clone() },
        token_version: if is_first { state.token_version } else { send.token_version },
    };
    Ok(vec![Emitted::new(invitation_id.uuid(), event)])
}

/// Takes an open invitation back; what is taken back already stays so. A reactor ends what is pending and nothing else, in any tenant.
pub(super) fn decide_remove(state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    about.require(Role::Admin, surroundings)?;
    let by_reactor = about.authority == Authority::System;
    if state.status == Status::Removed || by_reactor && !state.is_pending() {
        return Ok(Vec::new());
    }
    if !by_reactor {
        state.require_open(about.now)?;
    }
    Ok(vec![Emitted::new(invitation_id.uuid(), Event::Removed { tenant_id, invitation_id, reason: RemovalReason::Removed })])
}

pub(super) fn decide_expire(expire: &Expire, state: &State, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    if about.authority != Authority::System {
        return Err(Reason::Forbidden);
    }
    if !state.is_pending() || expire.deadline < state.expires_at {
        return Ok(Vec::new());
    }
    let (email, created_by) = (Email::stored(&state.email), state.created_by);
    Ok(vec![Emitted::new(invitation_id.uuid(), Event::Expired { tenant_id, invitation_id, email, expires_at: state.expires_at, created_by })])
}
