//! What is the case after the faults: the tables, every replica of the streams, and what each consumer made of them.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::history::Injection;

/// Everything the checkers compare. Plain data: a test makes a bad one by hand.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// What was still not done when the wait for quiet ended; empty when everything was.
    pub unquiet: Vec<String>,
    /// How long that took, in milliseconds.
    pub quiet_ms: u64,
    /// Table `events`, by partition and place in it.
    pub events: Vec<EventRow>,
    /// Table `commands`.
    pub commands: Vec<CommandRow>,
    /// Table `aggregates`.
    pub aggregates: Vec<AggregateRow>,
    /// Stream EVENTS without fences, in its order.
    pub stream: Vec<StreamRow>,
    /// Messages that say themselves that a fault put them there ([`INJECTED`](super::history::INJECTED)): of some the fault never learnt that
    /// they were stored.
    pub injected: Vec<Injection>,
    /// Table `audit_log`, by tenant and number.
    pub audit: Vec<AuditRow>,
    /// What the audit's own verification found broken.
    pub audit_broken: Vec<String>,
    /// Stream DEADLETTERS.
    pub dead_letters: Vec<DeadLetter>,
    /// Every consumer, shared or in order.
    pub consumers: Vec<ConsumerRow>,
    /// Every stream on every node.
    pub replicas: Vec<ReplicaRow>,
    /// File descriptors, memory and connections over the run.
    pub resources: Vec<ResourceRow>,
    /// What became of mails; none where no notifier runs.
    pub mails: Option<Mails>,
    /// Markers of tenants found in logs, subjects or metrics: marker and place.
    pub leaks: Vec<(String, String)>,
}

/// A row of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventRow {
    /// Its id.
    pub id: Uuid,
    /// The partition.
    pub partition: i16,
    /// Its place in the partition.
    pub partition_sequence: i64,
    /// The tenant.
    pub tenant: Uuid,
    /// Its place in the tenant's history.
    pub sequence: i64,
    /// `<topic>.<event>`.
    pub event_type: String,
    /// The kind of aggregate.
    pub kind: String,
    /// Which one.
    pub aggregate: Uuid,
    /// The aggregate's version after it.
    pub version: i64,
    /// The command that it is of.
    pub command: Uuid,
    /// The value it tells, where [`Effect::place`](super::history::Effect::place) names one.
    pub value: Option<String>,
    /// A hash of its body.
    pub body: u64,
}

/// A row of `commands`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandRow {
    /// Its id.
    pub id: Uuid,
    /// The tenant.
    pub tenant: Uuid,
    /// `succeeded`, `refused` or `failed`.
    pub status: String,
    /// The reason of a refusal.
    pub reason: Option<String>,
    /// The aggregate.
    pub aggregate: Option<Uuid>,
    /// The ids of its events, in order.
    pub events: Vec<Uuid>,
}

/// A row of `aggregates`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AggregateRow {
    /// The tenant.
    pub tenant: Uuid,
    /// The kind.
    pub kind: String,
    /// The id.
    pub id: Uuid,
    /// The version.
    pub version: i64,
    /// Text fields of the state by name: `fullName`, `name`, `email`, `slug`, `status` …
    pub fields: BTreeMap<String, String>,
}

/// A message of EVENTS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamRow {
    /// Its place in the stream.
    pub stream_sequence: u64,
    /// The event's id; none when it cannot be read.
    pub id: Option<Uuid>,
    /// The tenant.
    pub tenant: Uuid,
    /// Its place in the tenant's history.
    pub sequence: i64,
    /// The kind of aggregate.
    pub kind: String,
    /// Which aggregate.
    pub aggregate: Uuid,
    /// The aggregate's version after it.
    pub version: i64,
    /// A hash of its body.
    pub body: u64,
    /// Whether it says that it was repaired (`Chancery-Late`).
    pub late: bool,
}

/// A row of `audit_log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRow {
    /// The tenant.
    pub tenant: Uuid,
    /// Its number in the chain.
    pub n: i64,
    /// The event.
    pub event: Uuid,
}

/// A message of DEADLETTERS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its subject.
    pub subject: String,
    /// Which consumer put it there, or `worker`.
    pub consumer: String,
    /// Why.
    pub reason: String,
    /// What the consumer said.
    pub error: String,
    /// The stream it is from.
    pub origin_stream: String,
    /// Its place there.
    pub origin_sequence: u64,
}

/// A consumer at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerRow {
    /// Its name.
    pub name: String,
    /// How far it is: the floor of its acknowledgements, or its position.
    pub position: u64,
    /// The last message of EVENTS that it takes.
    pub last: u64,
    /// What it has but has not acknowledged, and what is parked.
    pub pending: u64,
    /// Events that it took effect of, where its effects can be listed: id and how often.
    pub effects: Option<BTreeMap<Uuid, u32>>,
    /// Whether it may take effect more than once: lines of a log.
    pub repeats: bool,
}

/// A stream on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaRow {
    /// The stream.
    pub stream: String,
    /// The node.
    pub node: String,
    /// Messages.
    pub messages: u64,
    /// The first's place.
    pub first: u64,
    /// The last's place.
    pub last: u64,
    /// Holes between them.
    pub deleted: u64,
    /// On how many nodes it must be.
    pub wanted: u64,
}

/// What a process used at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceRow {
    /// Which.
    pub part: String,
    /// Microseconds since the run's start.
    pub at: u64,
    /// The process: numbers of another life are not compared.
    pub pid: u32,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Resident memory in KiB.
    pub memory_kib: u64,
}

/// What became of the mails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mails {
    /// Events that must be told to somebody by mail and are not in the notifier's ledger: id and type.
    pub untold: Vec<String>,
    /// Mails that left, by the ledger.
    pub sent: u64,
    /// Of those, the ones that are not in the folder, by their ids.
    pub missing: Vec<Uuid>,
    /// Sendings beyond the first of a mail. Mail is at least once: they are counted and not judged.
    pub again: u64,
    /// Not sent yet: it is not due, or somebody's hour is full.
    pub pending: u64,
}
