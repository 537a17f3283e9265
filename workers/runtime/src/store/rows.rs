//! The rows that one batch writes.

use aggregates::{Claim, Holder, Key};
use subjects::TenantId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::lease::Mark;

/// How far a partition moves with the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which partition.
    pub partition: u16,
    /// The fencing epoch it is owned under.
    pub epoch: i64,
    /// The cursor before.
    pub expected: u64,
    /// The cursor after.
    pub cursor: u64,
    /// The last event's partition sequence after.
    pub sequence: u64,
    /// How far EVENTS is known to be.
    pub mark: Mark,
}

/// A row of `tenants`: written when the roster changes, with where the tenant's history was then.
#[derive(Debug, Clone)]
pub struct TenantRow {
    /// Which tenant.
    pub tenant: TenantId,
    /// Its partition.
    pub partition: u16,
    /// Its last event.
    pub sequence: u64,
    /// When that was.
    pub last_event_at: OffsetDateTime,
    /// Its roster as JSON.
    pub roster: String,
}

/// A row of `aggregates`.
#[derive(Debug, Clone)]
pub struct StateRow {
    /// Which aggregate.
    pub key: Key,
    /// Its version after.
    pub version: u64,
    /// Its state as JSON.
    pub state: String,
    /// When time has something to say to it.
    pub due_at: Option<OffsetDateTime>,
    /// When it came to be.
    pub created_at: OffsetDateTime,
    /// When it changed.
    pub updated_at: OffsetDateTime,
}

/// A row of `events`, and what is published.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// The partition.
    pub partition: u16,
    /// The place in the partition.
    pub partition_sequence: u64,
    /// The tenant.
    pub tenant: TenantId,
    /// The place in the tenant's history.
    pub sequence: u64,
    /// The event's id.
    pub id: Uuid,
    /// `<topic>.<event>`.
    pub event_type: String,
    /// The kind of aggregate.
    pub kind: &'static str,
    /// The aggregate's id.
    pub aggregate_id: Uuid,
    /// The command that caused it.
    pub command: Uuid,
    /// When.
    pub occurred_at: OffsetDateTime,
    /// Further headers as JSON.
    pub meta: Option<String>,
    /// The message body.
    pub body: String,
}

/// A row of `commands`.
#[derive(Debug, Clone)]
pub struct OutcomeRow {
    /// The command.
    pub command: Uuid,
    /// The tenant.
    pub tenant: TenantId,
    /// Who gave it.
    pub actor: String,
    /// Whether it is kept for ever.
    pub keyed: bool,
    /// The outcome as JSON.
    pub outcome: String,
}

/// A row of `deadletters`.
#[derive(Debug, Clone)]
pub struct DeadLetterRow {
    /// Derived from where the message came from.
    pub id: Uuid,
    /// The partition.
    pub partition: u16,
    /// Where it goes.
    pub subject: String,
    /// Its headers as JSON.
    pub headers: String,
    /// The message as it came.
    pub payload: Vec<u8>,
    /// Why, as its headers say.
    pub reason: &'static str,
}

/// Everything a batch writes.
#[derive(Debug, Default)]
pub struct Writes {
    /// One a partition.
    pub steps: Vec<Step>,
    /// Tenants with another roster.
    pub tenants: Vec<TenantRow>,
    /// States that changed.
    pub states: Vec<StateRow>,
    /// New events, in order.
    pub events: Vec<EventRow>,
    /// Outcomes.
    pub outcomes: Vec<OutcomeRow>,
    /// Claims given up, net.
    pub released: Vec<Claim>,
    /// Claims taken, net, sorted.
    pub taken: Vec<(Claim, Holder)>,
    /// Dead letters.
    pub deadletters: Vec<DeadLetterRow>,
}
