//! What a record says.

use serde::Serialize;
use uuid::Uuid;

/// A logical request: one wish of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Microseconds since the run's start.
    pub at: u64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// See [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A part of the run begins.
    Phase {
        /// Its name.
        name: String,
    },
    /// A fault begins.
    Fault {
        /// Which.
        span: FaultSpan,
    },
    /// A fault was taken away.
    Lifted {
        /// Its index.
        fault: usize,
    },
    /// The product has recovered from it.
    Healed {
        /// Its index.
        fault: usize,
    },
    /// The product did not recover from it in time.
    Unhealed {
        /// Its index.
        fault: usize,
        /// What was missing.
        why: String,
    },
    /// A message was put into a stream by a fault.
    Injected {
        /// Which.
        injection: Injection,
    },
    /// A client wants something, once.
    Invoke {
        /// Its number.
        op: OpId,
        /// When it was meant to start, in microseconds; latency counts from here.
        due: u64,
        /// What it asks.
        request: Request,
    },
    /// A try of it was answered, or was not.
    Answer {
        /// Whose.
        op: OpId,
        /// What came.
        answer: Answer,
    },
    /// The client knows how it ended, or gives up.
    End {
        /// Whose.
        op: OpId,
        /// How.
        end: End,
    },
    /// An arrival that was due while too much was under way already.
    Shed {
        /// When it was due, in microseconds.
        due: u64,
    },
    /// An event that a follower was sent.
    Seen {
        /// It.
        seen: Seen,
    },
    /// Something of one tenant turned up where another's should be.
    Leak {
        /// The marker of the tenant whose it was.
        marker: String,
        /// Where it was found.
        place: String,
    },
    /// A read that must have shown an answered effect did not.
    Stale {
        /// Whose effect.
        op: OpId,
        /// What was read and what was missing.
        detail: String,
    },
}

/// A fault, when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultSpan {
    /// Its number in the run: 0, 1, 2 …
    pub index: usize,
    /// `kill`, `freeze`, `partition`, `step_down` …
    pub kind: &'static str,
    /// What it hits: `worker-1`, `nats-2`.
    pub target: String,
    /// More about it, for people.
    pub detail: String,
}

/// The header that a fault gives to every message it puts into a stream; its value is [`POISON`] or [`REPEAT`]. When the acknowledgement is
/// lost, the message itself tells what it is.
pub const INJECTED: &str = "Chancery-Chaos";
/// See [`INJECTED`].
pub const POISON: &str = "poison";
/// See [`INJECTED`].
pub const REPEAT: &str = "repeat";

/// A message that a fault put into a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Injection {
    /// `COMMANDS` or `EVENTS`.
    pub stream: String,
    /// Its place there.
    pub sequence: u64,
    /// A dead letter must come of it: an undecodable or poisonous message. Otherwise nothing may: a repeat of an event or a command.
    pub poison: bool,
    /// What was done, for people.
    pub detail: String,
}

/// What a client asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The command, `user.update_profile`; or `read`.
    pub kind: &'static str,
    /// Who asks: the number of the client.
    pub client: usize,
    /// The tenant it is for.
    pub tenant: Option<Uuid>,
    /// `POST` …
    pub method: String,
    /// The path.
    pub path: String,
    /// The Idempotency-Key.
    pub key: Option<String>,
    /// The version it asks for (`If-Match`).
    pub if_match: Option<u64>,
    /// The request of which this is a repeat under the same key.
    pub repeats: Option<OpId>,
    /// Whether a repeat has the same body; then the same answer is right, otherwise only `idempotency_key_reused`.
    pub same: bool,
    /// The register that it writes or reads (the user of a profile, the tenant of a name), when its value is compared.
    pub register: Option<Uuid>,
    /// Values of this request alone, and the events that must carry them: one, or one an item where many are asked for at once.
    pub effects: Vec<Effect>,
    /// Refusals that are right for it; any other is a finding. A success is right unless `must_refuse`.
    pub refusals: Vec<&'static str>,
    /// Only a refusal is right.
    pub must_refuse: bool,
}

/// A value that a request writes, unique in the run, and the type of the event that tells it (see [`Effect::place`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// `user.profile_updated` …
    pub event_type: &'static str,
    /// The value.
    pub value: String,
}

impl Effect {
    /// Where in `data` an event of this type tells its new value; none for types that tell none.
    pub fn place(event_type: &str) -> Option<&'static str> {
        Some(match event_type {
            "tenant.created" => "/slug",
            "tenant.updated" | "team.updated" => "/changes/name/new",
            "tenant.suspended" | "user.suspended" => "/reason",
            "user.created" | "invitation.created" => "/email",
            "user.profile_updated" => "/changes/fullName/new",
            "team.created" => "/name",
            "invitation.attribute_set" => "/value",
            _ => return None,
        })
    }
}

/// What came of one try.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// The gateway's place in the list.
    pub gateway: usize,
    /// When the try was sent, in microseconds.
    pub sent: u64,
    /// The status; none when no answer came.
    pub status: Option<u16>,
    /// Why none came.
    pub error: Option<String>,
    /// `code` of a problem.
    pub code: Option<String>,
    /// The command's id.
    pub command: Option<Uuid>,
    /// The status that `GET /v1/commands/{id}` names: pending, succeeded, refused, failed.
    pub decided: Option<String>,
    /// The aggregate's id.
    pub aggregate: Option<Uuid>,
    /// Its version after it; for a read of a register, the version that was read.
    pub version: Option<u64>,
    /// For a read of a register, the value that was read.
    pub value: Option<String>,
    /// The place of the last event in the tenant's history.
    pub sequence: Option<u64>,
    /// The events.
    pub events: Vec<EventName>,
    /// A hash over what must be the same when the key is repeated (ids, version, sequence, events, code), for an answer that is final.
    pub same: Option<u64>,
}

/// An event as an answer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventName {
    /// Its id.
    pub id: Uuid,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
}

/// How a request ended for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// It had its effect.
    Succeeded,
    /// It was refused, for good.
    Refused {
        /// The code.
        code: String,
    },
    /// The product says it failed, for good.
    Failed {
        /// The code.
        code: String,
    },
    /// The client never learnt: it may have had its effect, or not.
    Unknown,
    /// A read that was answered.
    Read,
}

/// An event that a follower (SSE) was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The follower's number.
    pub follower: usize,
    /// The tenant it follows.
    pub tenant: Uuid,
    /// The event's id.
    pub id: Uuid,
    /// Its place in the tenant's history.
    pub sequence: u64,
}
