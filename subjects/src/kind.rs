//! The kinds of aggregates and the roles of members.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{InvitationId, RoleId, TeamId, TenantId, UserId};

/// A kind of aggregate: the fourth token of a command's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An organisation; the consistency boundary.
    Tenant,
    /// A person.
    User,
    /// What ties a user to a tenant: the role.
    Membership,
    /// An offer to become a member.
    Invitation,
    /// Members who belong together.
    Team,
}

impl Kind {
    /// Every kind, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Tenant, Self::User, Self::Membership, Self::Invitation, Self::Team];

    /// The token in subjects and the value in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Membership => "membership",
            Self::Invitation => "invitation",
            Self::Team => "team",
        }
    }

    /// The id of an aggregate of this kind as text; a membership is named by its user.
    pub fn id(self, uuid: Uuid) -> String {
        match self {
            Self::Tenant => TenantId::new(uuid).to_string(),
            Self::User | Self::Membership => UserId::new(uuid).to_string(),
            Self::Invitation => InvitationId::new(uuid).to_string(),
            Self::Team => TeamId::new(uuid).to_string(),
        }
    }

    /// Reads the text that [`Kind::id`] prints.
    pub fn parse_id(self, text: &str) -> Option<Uuid> {
        match self {
            Self::Tenant => text.parse::<TenantId>().ok().map(|id| id.uuid()),
            Self::User | Self::Membership => text.parse::<UserId>().ok().map(|id| id.uuid()),
            Self::Invitation => text.parse::<InvitationId>().ok().map(|id| id.uuid()),
            Self::Team => text.parse::<TeamId>().ok().map(|id| id.uuid()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

/// What a member may do; each role includes those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May look.
    Readonly,
    /// May take part.
    Member,
    /// May manage people.
    Admin,
    /// May do everything, and make owners.
    Owner,
}

impl Role {
    /// Every role, from least to most.
    pub const ALL: [Self; 4] = [Self::Readonly, Self::Member, Self::Admin, Self::Owner];

    /// The name in requests and events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role's id: a constant, the same in every installation.
    pub const fn id(self) -> RoleId {
        RoleId::new(Uuid::from_u128(match self {
            Self::Owner => 0x0190_0000_0000_7000_8000_0000_0000_0001,
            Self::Admin => 0x0190_0000_0000_7000_8000_0000_0000_0002,
            Self::Member => 0x0190_0000_0000_7000_8000_0000_0000_0003,
            Self::Readonly => 0x0190_0000_0000_7000_8000_0000_0000_0004,
        }))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
