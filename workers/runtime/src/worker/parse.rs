//! From a message to a command, or to the reason why it is none.

use aggregates::{Command, ParseError};
use subjects::{CommandId, CommandMessage, CommandSubject, TenantId, header, user};

use super::reader::Incoming;
use crate::trace;

/// A message after reading.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command we can decide.
    Command(Box<Readable>),
    /// Never decided: it goes to the dead letters, and if it names a command, that command has failed.
    Dead(Dead),
    /// Well-formed, but of a newer version.
    Unknown(String),
}

/// A command and where its outcome is awaited.
#[derive(Debug)]
pub(crate) struct Readable {
    pub(crate) message: CommandMessage,
    pub(crate) command: Command,
    /// The target's id without prefix.
    pub(crate) target: uuid::Uuid,
    pub(crate) reply: Option<String>,
    pub(crate) meta: Option<String>,
}

/// A message that cannot be decided.
#[derive(Debug, Clone)]
pub(crate) struct Dead {
    pub(crate) reason: &'static str,
    pub(crate) error: String,
    pub(crate) message: Option<Box<CommandMessage>>,
    /// From the headers, when the body cannot be read.
    pub(crate) command: Option<CommandId>,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) reply: Option<String>,
}

/// Reads a message. The tenant and the partition are computed again from the body: the subject proves nothing.
pub(crate) fn parse(incoming: &Incoming, partition: u16, partitions: u16) -> Parsed {
    // A worker may publish events: whoever sent the command must not choose a subject of a stream for the answer.
    let reply = incoming.headers.get(header::REPLY).map(|reply| reply.as_str().to_owned()).filter(|reply| user::is_inbox(reply));
    let subject = CommandSubject::parse(&incoming.subject).ok();
    let dead = |reason: &'static str, error: String, message: Option<CommandMessage>| {
        let command = incoming.headers.get(header::MESSAGE_ID).and_then(|id| id.as_str().parse().ok());
        let tenant = subject.as_ref().map(|subject| subject.tenant);
        Parsed::Dead(Dead { reason, error, message: message.map(Box::new), command, tenant, reply: reply.clone() })
    };
    let message: CommandMessage = match serde_json::from_slice(&incoming.payload) {
        Ok(message) => message,
        Err(error) => return dead("undecodable", error.to_string(), None),
    };
    let expected = subjects::partition(&message.tenant_id.to_string(), partitions);
    let addressed = subject.as_ref().is_some_and(|subject| {
        subject.tenant == message.tenant_id
            && subject.partition == expected
            && message.command_type.split_once('.') == Some((subject.aggregate, subject.command))
    });
    if !addressed || expected != partition {
        return dead("mismatch", "the subject does not fit the command".into(), Some(message));
    }
    let command = match Command::parse(&message.command_type, message.data.get()) {
        Ok(command) => command,
        Err(ParseError::Unknown(command_type)) => return Parsed::Unknown(command_type),
        Err(ParseError::Malformed(error)) => return dead("undecodable", error.to_string(), Some(message)),
    };
    let Some(target) = command.kind().parse_id(&message.aggregate_id) else {
        return dead("undecodable", "the aggregate's id is not one".into(), Some(message));
    };
    let header = |name: &async_nats::HeaderName| incoming.headers.get(name.clone()).map(async_nats::HeaderValue::as_str);
    let meta = super::event::meta(&message, header(&trace::TRACEPARENT), header(&trace::TRACESTATE));
    Parsed::Command(Box::new(Readable { command, target, reply, meta, message }))
}
