//! The body of a command message and of its outcome. Internal: only the gateway and reactors publish commands.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::{CommandId, EventId, IdError, ServiceId, TenantId, UserId, id::UUID};

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// A person.
    User(UserId),
    /// A program with a token of its own.
    Service(ServiceId),
    /// Chancery itself: time, or a reactor with an event as its authority.
    System,
}

impl Actor {
    /// The person, if it is one.
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(id) => Some(id),
            Self::Service(_) | Self::System => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Service(id) => id.fmt(f),
            Self::System => f.write_str("system"),
        }
    }
}

impl FromStr for Actor {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "system" {
            return Ok(Self::System);
        }
        text.parse().map(Self::User).or_else(|_| text.parse().map(Self::Service))
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(crate::id::Text("a user's or service's id, or `system`", str::parse))
    }
}

impl JsonSchema for Actor {
    fn schema_name() -> Cow<'static, str> {
        "actor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": format!("^((user|svc)_{UUID}|system)$") })
    }
}

/// By which right a command is given. A member's role is not carried: the worker reads the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// The token of a platform operator.
    Operator,
    /// The actor's membership in the tenant.
    Member,
    /// The secret of a mailed link, carried as its SHA-256 in the command.
    Link,
    /// A due deadline, or the event named as the cause.
    System,
}

/// A command on its way to the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Id; derived from the Idempotency-Key where one was given.
    pub id: CommandId,
    /// `<aggregate>.<command>`.
    #[serde(rename = "type")]
    pub command_type: String,
    /// The tenant that decides.
    pub tenant_id: TenantId,
    /// The aggregate it is for.
    pub aggregate_id: String,
    /// Who acts.
    pub actor: Actor,
    /// By which right.
    pub authority: Authority,
    /// When the gateway took it.
    #[serde(with = "crate::timestamp")]
    pub timestamp: OffsetDateTime,
    /// Ties together everything that one request caused.
    pub correlation_id: String,
    /// The event that caused it, for a reactor's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<EventId>,
    /// The version the caller has seen (`If-Match`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<u64>,
    /// Keyed hash of the request: the same key with another request is told apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether the client gave an Idempotency-Key; its outcome is then kept for ever.
    #[serde(default)]
    pub keyed: bool,
    /// The address the request came from, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// The program the request came from, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The command's own data.
    pub data: Box<RawValue>,
}

impl Message {
    /// When the gateway took it, unless the id says so itself: those that are derived do not.
    pub fn accepted_at(&self) -> Option<OffsetDateTime> {
        (self.id.uuid().get_version_num() != 7).then_some(self.timestamp)
    }
}

/// How a decided command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It took effect, or was so already.
    Succeeded,
    /// The domain said no; `code` says why.
    Refused,
    /// It could not be processed; it is among the dead letters.
    Failed,
}

impl Status {
    /// The value in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// An event named in an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeEvent {
    /// Its id.
    pub id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
}

/// The one outcome of a command: a row of `commands`, and what the waiting gateway is told after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The command.
    pub command_id: CommandId,
    /// `<aggregate>.<command>`.
    pub command: String,
    /// The tenant that decided.
    pub tenant_id: TenantId,
    /// The aggregate it was for.
    pub aggregate_id: String,
    /// How it ended.
    pub status: Status,
    /// The refusal's code, or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The aggregate's version after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The tenant's last sequence after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The events it caused, in order.
    pub events: Vec<OutcomeEvent>,
    /// The fingerprint of the request that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Who gave the command.
    pub actor: Actor,
    /// When the gateway took it, where the id does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::timestamp::option")]
    pub accepted_at: Option<OffsetDateTime>,
}
