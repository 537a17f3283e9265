//! What faults do.

use std::fmt;

use super::proxy::Way;

/// Which node of NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// `nats-1` …
    Named(String),
    /// Who leads that stream when the fault begins.
    Leader(&'static str),
    /// Who leads all nodes when the fault begins.
    Meta,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Leader(stream) => write!(f, "leader of {stream}"),
            Self::Meta => f.write_str("meta leader"),
        }
    }
}

/// A server that roles connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Every node of NATS.
    Nats,
    /// PostgreSQL.
    Postgres,
}

/// What a fault does, with everything that was left to chance decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// kill -9 of a role's process or of PostgreSQL's postmaster (`postgres`).
    Kill(String),
    /// kill -9 of a node.
    KillNode(Node),
    /// kill -9 of a session's process of PostgreSQL.
    KillBackend,
    /// SIGSTOP, and SIGCONT at the end.
    Freeze(String),
    /// The same for a node.
    FreezeNode(Node),
    /// SIGTERM, a start, and readiness, for one after the other.
    Roll(Vec<String>),
    /// Lame duck, then a start.
    LameDuck(Node),
    /// A stream's leader steps down.
    StepDownStream(&'static str),
    /// The leader of a durable consumer of EVENTS steps down.
    StepDownConsumer(String),
    /// The leader of all nodes steps down.
    StepDownMeta,
    /// A node's connections with other nodes carry nothing: towards it, from it, or both.
    Isolate {
        /// Which.
        node: Node,
        /// What others do not hear of it.
        mute: bool,
        /// What it does not hear of others.
        deaf: bool,
        /// Whether its clients are cut off, too.
        clients: bool,
    },
    /// No node hears any other.
    Scatter,
    /// A role's connections to a server carry nothing that way (both when none is named).
    CutOff {
        /// The role's process.
        role: String,
        /// From what.
        server: Server,
        /// Which way only.
        way: Option<Way>,
    },
    /// What the load and a gateway say to each other goes nowhere.
    CutOffGateway(String),
    /// All connections of a part are reset so many times, evenly over the length.
    Reset {
        /// Which: a role's, a node's or PostgreSQL's.
        part: String,
        /// How often.
        times: u32,
    },
    /// Every piece that a part sends or gets waits.
    Delay {
        /// Which.
        part: String,
        /// How long, in milliseconds.
        millis: u64,
        /// More or less.
        jitter: u64,
    },
    /// The worker's next COMMIT is sent and its connection cut before the answer; so many times.
    CutCommit {
        /// Which.
        worker: String,
        /// How often.
        times: u32,
    },
    /// A connection of a role is reset after so many bytes.
    CutBytes {
        /// Which.
        role: String,
        /// To what.
        server: Server,
        /// Which way the bytes go.
        way: Way,
        /// How many.
        bytes: u64,
    },
    /// So many stored messages of a stream are published again, in another order, without an id.
    Repeat {
        /// Which.
        stream: &'static str,
        /// How many.
        count: usize,
        /// Where chance begins for the order.
        seed: u64,
    },
    /// So many messages that nobody can read.
    Poison {
        /// Into which stream.
        stream: &'static str,
        /// How many.
        count: usize,
        /// Where chance begins for what they are.
        seed: u64,
    },
    /// A process is started anew so that it ends, or freezes, at a point.
    AtPoint {
        /// Which.
        part: String,
        /// The point.
        point: &'static str,
        /// At which passage.
        nth: u64,
        /// Freezes for the length of the fault instead of ending.
        freeze: bool,
    },
    /// A disk is full: a node's, or PostgreSQL's (`postgres`).
    DiskFull(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(part) | Self::Freeze(part) | Self::CutOffGateway(part) | Self::DiskFull(part) => f.write_str(part),
            Self::KillNode(node) | Self::FreezeNode(node) | Self::LameDuck(node) => node.fmt(f),
            Self::KillBackend => f.write_str("postgres"),
            Self::Roll(parts) => f.write_str(&parts.join(" ")),
            Self::StepDownStream(stream) => f.write_str(stream),
            Self::StepDownConsumer(name) => f.write_str(name),
            Self::StepDownMeta => f.write_str("meta leader"),
            Self::Isolate { node, mute, deaf, clients } => {
                let how = match (mute, deaf) {
                    (true, false) => " mute",
                    (false, true) => " deaf",
                    _ => "",
                };
                write!(f, "{node}{how}{}", if *clients { " and its clients" } else { "" })
            }
            Self::Scatter => f.write_str("all nodes"),
            Self::CutOff { role, server, way } => {
                let how = match way {
                    None => "",
                    Some(Way::Requests) => " unheard",
                    Some(Way::Answers) => " unanswered",
                };
                write!(f, "{role} from {server}{how}")
            }
            Self::Reset { part, times } => write!(f, "{part} ×{times}"),
            Self::Delay { part, millis, jitter } => write!(f, "{part} {millis}±{jitter} ms"),
            Self::CutCommit { worker, times } => write!(f, "{worker} ×{times}"),
            Self::CutBytes { role, server, way, bytes } => write!(f, "{role} to {server}, {way:?} after {bytes} bytes"),
            Self::Repeat { stream, count, .. } | Self::Poison { stream, count, .. } => write!(f, "{stream} ×{count}"),
            Self::AtPoint { part, point, nth, .. } => write!(f, "{part} at {point}@{nth}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
        })
    }
}
