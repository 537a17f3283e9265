//! Where an invitation stands, and how its events move it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subjects::{Actor, Role, TeamId, UserId, timestamp};
use time::OffsetDateTime;

use super::{Event, InvitationType};
use crate::{Reason, attributes::Attributes};

/// Where an invitation stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Made out, not mailed yet.
    #[default]
    Created,
    /// Mailed.
    Sent,
    /// Taken.
    Accepted,
    /// Refused.
    Declined,
    /// Taken back.
    Removed,
    /// Over.
    Expired,
}

/// An invitation as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Who is invited.
    pub email: String,
    /// How it reaches them.
    pub invitation_type: InvitationType,
    /// The role they will have.
    pub role: Role,
    /// The teams they will be in.
    #[serde(default)]
    pub team_ids: Vec<TeamId>,
    /// What the inviter attached.
    #[serde(default)]
    pub attributes: Attributes,
    /// Where it stands.
    pub status: Status,
    /// When it ends.
    #[serde(with = "timestamp")]
    pub expires_at: OffsetDateTime,
    /// SHA-256 of its token.
    pub token_hash: String,
    /// Version of the token.
    pub token_version: u32,
    /// How often it was sent again.
    #[serde(default)]
    pub resend_count: u32,
    /// The inviter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Actor>,
    /// Who took or refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<UserId>,
}

impl State {
    pub(crate) fn empty() -> Self {
        Self {
            email: String::new(),
            invitation_type: InvitationType::Email,
            role: Role::Member,
            team_ids: Vec::new(),
            attributes: Attributes::default(),
            status: Status::Created,
            expires_at: OffsetDateTime::UNIX_EPOCH,
            token_hash: String::new(),
            token_version: 0,
            resend_count: 0,
            created_by: None,
            account_id: None,
        }
    }

    /// Whether it may still be taken, as far as nobody looks at the clock.
    pub fn is_pending(&self) -> bool {
        matches!(self.status, Status::Created | Status::Sent)
    }

    /// When its time is over, while that matters.
    pub fn deadline(&self) -> Option<OffsetDateTime> {
        self.is_pending().then_some(self.expires_at)
    }

    /// Refuses what only an open invitation allows. Whether its deadline was worked off yet makes no difference.
    pub(super) fn require_open(&self, now: OffsetDateTime) -> Result<(), Reason> {
        match self.status {
            Status::Expired => Err(Reason::Expired),
            Status::Accepted | Status::Declined | Status::Removed => Err(Reason::InvalidState),
            Status::Created | Status::Sent if now >= self.expires_at => Err(Reason::Expired),
            Status::Created | Status::Sent => Ok(()),
        }
    }

    pub(super) fn require_token(&self, hash: &str) -> Result<(), Reason> {
        if self.token_hash == hash { Ok(()) } else { Err(Reason::InvalidToken) }
    }
}

/// Applies. Cannot fail and contains no rule.
pub fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Created { email, invitation_type, role, team_ids, attributes, expires_at, token_hash, token_version, created_by, .. } => {
            *state = State {
                email: email.to_string(),
                invitation_type: *invitation_type,
                role: *role,
                team_ids: team_ids.clone(),
                attributes: attributes.clone(),
                expires_at: *expires_at,
                token_hash: token_hash.clone(),
                token_version: *token_version,
                created_by: *created_by,
                ..State::empty()
            };
        }
        Event::Sent { state: status, resend_count, expires_at, token_hash, token_version, .. } => {
            state.status = *status;
            state.resend_count = *resend_count;
            state.expires_at = *expires_at;
            state.token_hash.clone_from(token_hash);
            state.token_version = *token_version;
        }
        Event::Accepted { account_id, .. } => {
            state.status = Status::Accepted;
            state.account_id = Some(*account_id);
        }
        Event::Declined { account_id, .. } => {
            state.status = Status::Declined;
            state.account_id = *account_id;
        }
        Event::Removed { .. } => state.status = Status::Removed,
        Event::AttributeSet { key, value, .. } => state.attributes.put(key.clone(), value.clone()),
        Event::AttributeRemoved { key, .. } => state.attributes.remove(key),
        Event::Updated { attributes, .. } => state.attributes = attributes.clone(),
        Event::Expired { .. } => state.status = Status::Expired,
    }
}
