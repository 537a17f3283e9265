//! The body of an event message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Actor, EventId, Kind, TenantId};

/// A domain event as consumers see it. `D` is the event's own data: JSON where the reader takes everything, a type of its own otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<D = serde_json::Value> {
    /// Id; the same for ever, also when published again.
    pub id: EventId,
    /// `<topic>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it was decided; never runs backwards within a tenant.
    #[serde(with = "crate::timestamp")]
    #[schemars(with = "crate::timestamp::Text")]
    pub timestamp: OffsetDateTime,
    /// Version of the form, `1.0`.
    pub version: String,
    /// Who says so: `chancery`.
    pub source: String,
    /// The tenant whose history it belongs to.
    pub tenant_id: TenantId,
    /// Who did it; nobody for what time or a reactor did.
    pub user_id: Option<Actor>,
    /// The kind of aggregate it happened to.
    pub aggregate: Kind,
    /// Which one.
    pub aggregate_id: String,
    /// The aggregate's version after it (the ETag).
    pub aggregate_version: u64,
    /// Its place in the tenant's history: 1, 2, 3 … without gaps.
    pub sequence: u64,
    /// Ties together everything that one request caused.
    pub correlation_id: String,
    /// The command (or event) that caused it.
    pub causation_id: String,
    /// What happened.
    pub data: D,
}

/// The value of [`Envelope::version`].
pub const VERSION: &str = "1.0";
/// The value of [`Envelope::source`].
pub const SOURCE: &str = "chancery";
