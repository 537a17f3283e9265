//! What queries answer that look back: the audit, histories, the delivery log.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditView {
    /// Id.
    pub id: String,
    /// Its place in the tenant's log: 1, 2, 3 …
    pub n: u64,
    /// What was done.
    pub action: String,
    /// To what kind of thing.
    pub entity_type: String,
    /// To which one.
    pub entity_id: Option<String>,
    /// By whom.
    pub performed_by: Option<String>,
    /// When.
    pub occurred_at: String,
    /// The event it was learned from.
    pub event_id: Option<String>,
    /// The command that caused it.
    pub command_id: Option<String>,
    /// Ties together everything that one request caused.
    pub correlation_id: Option<String>,
    /// The address the request came from.
    pub ip_address: Option<String>,
    /// The program the request came from.
    pub user_agent: Option<String>,
    /// What was before.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// What is after.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
    /// The link of the chain.
    pub hash: String,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditPage {
    /// The entries.
    pub items: Vec<AuditView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// What happened to a thing once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryItem {
    /// The event's id.
    pub id: String,
    /// `<topic>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When.
    pub timestamp: String,
    /// Who did it; null for what time or a reactor did.
    pub actor: Option<String>,
    /// Its place in the tenant's history.
    pub sequence: u64,
    /// The thing's version after it.
    pub aggregate_version: u64,
    /// The command that was decided.
    pub command_id: String,
    /// The command (or event) that caused it.
    pub causation_id: String,
    /// Ties together everything that one request caused.
    pub correlation_id: String,
    /// The event's own data.
    #[schema(value_type = Object)]
    pub data: Value,
    /// What the thing was before; null before it was there, and where it has had too many events to follow.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// What it was after; null where it has had too many events to follow.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// A page of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryPage {
    /// What happened.
    pub items: Vec<HistoryItem>,
    /// How many events there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}

/// A mail of the delivery log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotificationView {
    /// Id; the mail's `Message-ID` begins with it.
    pub id: String,
    /// The event it tells of.
    pub event_id: String,
    /// That event's type.
    pub event_type: String,
    /// What it says, by the name of its template.
    pub template: String,
    /// `low`, `medium` or `high`.
    pub criticality: String,
    /// Who is told; null for an address that was nobody's yet.
    pub user_id: Option<String>,
    /// The invitation it carries.
    pub invitation_id: Option<String>,
    /// The present address of the tenant's user, member or invitation; null once that is gone.
    pub email: Option<String>,
    /// `pending`, `sent` or `undeliverable`.
    pub state: String,
    /// How often a sending began.
    pub attempts: u64,
    /// Why it waits, or could not be delivered.
    pub error: Option<String>,
    /// When it was written down.
    pub created_at: String,
    /// When it is tried next, while it waits.
    pub next_attempt_at: Option<String>,
    /// When it was sent or given up.
    pub ended_at: Option<String>,
}

/// A page of the delivery log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotificationPage {
    /// The mails.
    pub items: Vec<NotificationView>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
    /// The page, from 1.
    pub page: u64,
    /// Items on a page.
    pub page_size: u64,
    /// `false` where there are more than `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_is_exact: Option<bool>,
}
