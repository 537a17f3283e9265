//! What the floor's processes send each other: fixed places, no parsing worth the name.

use async_nats::{Client, HeaderMap, Request};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use subjects::header;
use uuid::Uuid;

use super::PUBLISH_LIMIT;

/// The stream of commands.
pub const COMMANDS: &str = "FLOOR_COMMANDS";
/// The stream of events.
pub const EVENTS: &str = "FLOOR_EVENTS";

/// Bytes before the body of a command: id, gateway, tenant, aggregate.
const COMMAND_HEAD: usize = 16 + 8 + 4 + 4;
/// Bytes of one outcome: command, event, sequence.
pub(super) const OUTCOME: usize = 16 + 16 + 8;

/// A command as it travels.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) id: Uuid,
    pub(super) gateway: u64,
    pub(super) tenant: u32,
    pub(super) aggregate: u32,
    pub(super) body: Bytes,
}

impl Command {
    pub(super) fn write(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(COMMAND_HEAD + self.body.len());
        out.put_slice(self.id.as_bytes());
        out.put_u64(self.gateway);
        out.put_u32(self.tenant);
        out.put_u32(self.aggregate);
        out.put_slice(&self.body);
        out.freeze()
    }

    pub(super) fn read(bytes: &Bytes) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (gateway, rest) = rest.split_first_chunk::<8>()?;
        let (tenant, rest) = rest.split_first_chunk::<4>()?;
        let (aggregate, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            id: Uuid::from_bytes(*id),
            gateway: u64::from_be_bytes(*gateway),
            tenant: u32::from_be_bytes(*tenant),
            aggregate: u32::from_be_bytes(*aggregate),
            body: bytes.slice(COMMAND_HEAD..),
        })
    }
}

/// A message for a stream, with its id for the duplicate window when it has one.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) id: Option<String>,
    pub(super) payload: Bytes,
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<serde_json::Value>,
}

/// Publishes all of them as one atomic batch, or plainly when there is one, and waits for the PubAck.
pub(super) async fn publish(client: &Client, messages: Vec<Outgoing>) -> anyhow::Result<()> {
    let count = messages.len();
    let batch = (count > 1).then(|| Uuid::now_v7().simple().to_string());
    for (index, message) in messages.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        if let Some(id) = message.id {
            headers.insert(header::MESSAGE_ID, id);
        }
        if let Some(batch) = &batch {
            headers.insert(header::BATCH_ID, batch.as_str());
            headers.insert(header::BATCH_SEQUENCE, (index + 1).to_string());
        }
        if index + 1 < count {
            client.publish_with_headers(message.subject, headers, message.payload).await?;
            continue;
        }
        if batch.is_some() {
            headers.insert(header::BATCH_COMMIT, "1");
        }
        let request = Request::new().headers(headers).payload(message.payload).timeout(Some(PUBLISH_LIMIT));
        let answer = client.send_request(message.subject, request).await?;
        if let Some(error) = serde_json::from_slice::<PubAck>(&answer.payload)?.error {
            anyhow::bail!("JetStream refused: {error}");
        }
    }
    Ok(())
}

/// The subject a gateway hears outcomes on.
pub(super) fn outcomes(gateway: u64) -> String {
    format!("floor.outcomes.{gateway}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_back_what_was_written() {
        let command = Command { id: Uuid::from_u128(7), gateway: 8, tenant: 9, aggregate: 10, body: Bytes::from_static(b"body") };
        let read = Command::read(&command.write()).unwrap();
        assert_eq!((read.id, read.gateway, read.tenant, read.aggregate, read.body), (command.id, 8, 9, 10, command.body));
        assert!(Command::read(&Bytes::from_static(b"short")).is_none());
    }
}
