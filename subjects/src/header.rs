//! Names of message headers. The prefix `Nats-` belongs to the server, ours is `Chancery-`.

/// Id of the message, for the server's duplicate window and for readers.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The tenant of an event.
pub const TENANT: &str = "Chancery-Tenant";
/// The event type, `<topic>.<event>`.
pub const TYPE: &str = "Chancery-Type";
/// The aggregate's id.
pub const AGGREGATE_ID: &str = "Chancery-Aggregate-Id";
/// The event's place in its tenant's history.
pub const SEQUENCE: &str = "Chancery-Sequence";
/// `true` on an event that was published again by a repair.
pub const LATE: &str = "Chancery-Late";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// Media type of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The one media type we send.
pub const JSON: &str = "application/json";
/// Where the outcome of a command is awaited (core NATS).
pub const REPLY: &str = "Chancery-Reply";

/// The address a request came from, for the audit.
pub const IP: &str = "Chancery-Ip";
/// The program a request came from, for the audit.
pub const USER_AGENT: &str = "Chancery-User-Agent";

/// Which consumer gave up on a dead letter (`worker` for a command).
pub const CONSUMER: &str = "Chancery-Consumer";
/// Why, as a code: `poison`, `exhausted`, `undecodable`, `mismatch`, `condemned`.
pub const REASON: &str = "Chancery-Reason";
/// Why, in words.
pub const ERROR: &str = "Chancery-Error";
/// How often it was tried.
pub const DELIVERIES: &str = "Chancery-Deliveries";
/// How often an operator has let it be tried anew; none where that is never.
pub const REDRIVES: &str = "Chancery-Redrives";
/// The place in EVENTS that an event had when it was given up for the first time; on one that is tried anew.
pub const FIRST_SEQUENCE: &str = "Chancery-First-Sequence";
/// The stream the message came from.
pub const ORIGIN_STREAM: &str = "Chancery-Origin-Stream";
/// Its sequence there.
pub const ORIGIN_SEQUENCE: &str = "Chancery-Origin-Sequence";

/// Atomic batch (nats-server ADR-50): the batch's id.
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// Atomic batch: the message's place in it, from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// Atomic batch: `1` on the last message.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// Optimistic concurrency: the last sequence the subject must have.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// Optimistic concurrency: the subject meant, if not the message's own.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
