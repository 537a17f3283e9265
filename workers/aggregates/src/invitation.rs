//! An invitation is created, sent, and then accepted, declined, removed or expired; sent again, its new link ends the old one.

mod answering;
mod describing;
mod offering;
mod standing;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use subjects::{Actor, InvitationId, Kind, Role, TeamId, TenantId, UserId, timestamp};
use time::OffsetDateTime;

use crate::{
    About, Claim, ClaimChange, Decision, Follow, Holder, Key, Needs, Reason, Surroundings,
    attributes::Attributes,
    tenant::Nothing,
    text::{AttributeKey, Email},
};

pub use answering::{Accept, Decline};
pub use describing::{RemoveAttribute, SetAttribute, Update};
pub use offering::{Create, Expire, InvitationType, MAX_RESENDS, MAX_TEAMS, Send};
pub use standing::{State, Status, apply};

use answering::new_user;

/// Reads the SHA-256 of a token.
fn token_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if fits { Ok(text) } else { Err(de::Error::custom("must be 64 lower-case hexadecimal digits")) }
}

/// What can be asked of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// Offer it.
    Create(Create),
    /// Mail it.
    Send(Send),
    /// Take it.
    Accept(Accept),
    /// Refuse it.
    Decline(Decline),
    /// Change it.
    Update(Update),
    /// Attach something.
    SetAttribute(SetAttribute),
    /// Detach something.
    RemoveAttribute(RemoveAttribute),
    /// Take it back.
    Remove(Nothing),
    /// Its time is over.
    Expire(Expire),
}

/// How an invitation was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalReason {
    /// Somebody took it back.
    Removed,
    /// A newer one to the same address took its place.
    Superseded,
}

/// What can happen to an invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum Event {
    /// It was made out.
    #[serde(rename = "invitation.created")]
    Created {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Who is invited.
        email: Email,
        /// How it reaches them.
        invitation_type: InvitationType,
        /// The role they will have.
        role: Role,
        /// The teams they will be in.
        team_ids: Vec<TeamId>,
        /// The inviter's membership.
        identity_id: Option<Actor>,
        /// The inviter.
        created_by: Option<Actor>,
        /// What the inviter attached.
        attributes: Attributes,
        /// When it ends.
        #[serde(with = "timestamp")]
        #[schemars(with = "timestamp::Text")]
        expires_at: OffsetDateTime,
        /// SHA-256 of its token.
        token_hash: String,
        /// Version of the token.
        token_version: u32,
        /// Whether it is to be mailed at once.
        send: bool,
    },
    /// It is to be mailed, with this token.
    #[serde(rename = "invitation.sent")]
    Sent {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Who is invited.
        email: Email,
        /// How it reaches them.
        invitation_type: InvitationType,
        /// The role they will have.
        role: Role,
        /// Where it stands now.
        state: Status,
        /// How often it was sent again.
        resend_count: u32,
        /// When it ends.
        #[serde(with = "timestamp")]
        #[schemars(with = "timestamp::Text")]
        expires_at: OffsetDateTime,
        /// SHA-256 of its token.
        token_hash: String,
        /// Version of the token.
        token_version: u32,
    },
    /// The person became a member.
    #[serde(rename = "invitation.accepted")]
    Accepted {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Their user.
        account_id: UserId,
        /// Their membership.
        identity_id: UserId,
        /// Their address.
        email: Email,
        /// Their role.
        role: Role,
        /// Their teams.
        team_ids: Vec<TeamId>,
        /// The inviter.
        created_by: Option<Actor>,
    },
    /// The person said no.
    #[serde(rename = "invitation.declined")]
    Declined {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Their user, if they were signed in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account_id: Option<UserId>,
    },
    /// It was taken back.
    #[serde(rename = "invitation.removed")]
    Removed {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// How.
        reason: RemovalReason,
    },
    /// An attribute has a value.
    #[serde(rename = "invitation.attribute_set")]
    AttributeSet {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Which.
        key: AttributeKey,
        /// Its value.
        value: Value,
    },
    /// An attribute is gone.
    #[serde(rename = "invitation.attribute_removed")]
    AttributeRemoved {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Which.
        key: AttributeKey,
    },
    /// Its description changed.
    #[serde(rename = "invitation.updated")]
    Updated {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// All attributes it has now.
        attributes: Attributes,
        /// Which fields changed.
        patched_fields: Vec<String>,
    },
    /// Its time is over.
    #[serde(rename = "invitation.expired")]
    Expired {
        /// The tenant.
        tenant_id: TenantId,
        /// The invitation.
        invitation_id: InvitationId,
        /// Who was invited.
        email: Email,
        /// When it ended.
        #[serde(with = "timestamp")]
        #[schemars(with = "timestamp::Text")]
        expires_at: OffsetDateTime,
        /// The inviter.
        created_by: Option<Actor>,
    },
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 9] = ["create", "send", "accept", "decline", "update", "set_attribute", "remove_attribute", "remove", "expire"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Send(_) => "send",
            Self::Accept(_) => "accept",
            Self::Decline(_) => "decline",
            Self::Update(_) => "update",
            Self::SetAttribute(_) => "set_attribute",
            Self::RemoveAttribute(_) => "remove_attribute",
            Self::Remove(_) => "remove",
            Self::Expire(_) => "expire",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "create" => serde_json::from_str(data).map(Self::Create),
            "send" => serde_json::from_str(data).map(Self::Send),
            "accept" => serde_json::from_str(data).map(Self::Accept),
            "decline" => serde_json::from_str(data).map(Self::Decline),
            "update" => serde_json::from_str(data).map(Self::Update),
            "set_attribute" => serde_json::from_str(data).map(Self::SetAttribute),
            "remove_attribute" => serde_json::from_str(data).map(Self::RemoveAttribute),
            "remove" => serde_json::from_str(data).map(Self::Remove),
            "expire" => serde_json::from_str(data).map(Self::Expire),
            _ => return None,
        })
    }

    /// What must be loaded to decide it. Who has an address, and which invitation to it is pending, is found by following claims.
    pub fn needs(&self, about: &About) -> Needs {
        let tenant = about.tenant;
        match self {
            Self::Create(create) => Needs {
                states: create.team_ids.iter().map(|team| Key { tenant, kind: Kind::Team, id: team.uuid() }).collect(),
                follow: vec![
                    Follow::Holder { claim: Claim::email(&create.email), tenant, kind: Kind::Membership },
                    Follow::Holder { claim: Claim::pending_invitation(tenant, create.email.as_str()), tenant, kind: Kind::Invitation },
                ],
                ..Needs::default()
            },
            Self::Accept(accept) => {
                let id = accept.user_id.unwrap_or_else(|| new_user(about)).uuid();
                Needs {
                    states: vec![Key { tenant, kind: Kind::Membership, id }, Key { tenant, kind: Kind::User, id }],
                    claims: vec![Claim::email(&accept.email)],
                    follow: vec![Follow::TeamsOf { tenant, invitation: about.target }],
                    ..Needs::default()
                }
            }
            Self::Send(_)
            | Self::Decline(_)
            | Self::Update(_)
            | Self::SetAttribute(_)
            | Self::RemoveAttribute(_)
            | Self::Remove(_)
            | Self::Expire(_) => Needs::default(),
        }
    }
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 9] = [
        "invitation.created",
        "invitation.sent",
        "invitation.accepted",
        "invitation.declined",
        "invitation.removed",
        "invitation.attribute_set",
        "invitation.attribute_removed",
        "invitation.updated",
        "invitation.expired",
    ];

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Created { .. } => "invitation.created",
            Self::Sent { .. } => "invitation.sent",
            Self::Accepted { .. } => "invitation.accepted",
            Self::Declined { .. } => "invitation.declined",
            Self::Removed { .. } => "invitation.removed",
            Self::AttributeSet { .. } => "invitation.attribute_set",
            Self::AttributeRemoved { .. } => "invitation.attribute_removed",
            Self::Updated { .. } => "invitation.updated",
            Self::Expired { .. } => "invitation.expired",
        }
    }

    /// What it does to claims: an address has one pending invitation in a tenant.
    pub fn claims(&self, before: Option<&State>, tenant: TenantId) -> Vec<ClaimChange> {
        match self {
            Self::Created { invitation_id, email, .. } => {
                vec![ClaimChange::Take(Claim::pending_invitation(tenant, email.as_str()), Holder { tenant, id: invitation_id.uuid() })]
            }
            Self::Accepted { .. } | Self::Declined { .. } | Self::Removed { .. } | Self::Expired { .. } => {
                before.map(|state| ClaimChange::Release(Claim::pending_invitation(tenant, &state.email))).into_iter().collect()
            }
            Self::Sent { .. } | Self::AttributeSet { .. } | Self::AttributeRemoved { .. } | Self::Updated { .. } => Vec::new(),
        }
    }
}

/// Decides.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    if let Command::Create(create) = command {
        return offering::decide_create(create, surroundings, about).into();
    }
    let Some(state) = surroundings.invitation(InvitationId::new(about.target)) else { return Decision::refused(Reason::NotFound) };
    match command {
        Command::Create(_) => Err(Reason::InvalidState),
        Command::Send(send) => offering::decide_send(send, state, surroundings, about),
        Command::Remove(_) => offering::decide_remove(state, surroundings, about),
        Command::Expire(expire) => offering::decide_expire(expire, state, about),
        Command::Accept(accept) => answering::decide_accept(accept, state, surroundings, about),
        Command::Decline(decline) => answering::decide_decline(decline, state, about),
        Command::Update(update) => describing::decide_update(update, state, surroundings, about),
        Command::SetAttribute(set) => describing::decide_set(set, state, surroundings, about),
        Command::RemoveAttribute(remove) => describing::decide_unset(remove, state, surroundings, about),
    }
    .into()
}

#[cfg(test)]
mod tests;
