//! Commands that cannot be decided: they have failed, and the message goes to the dead letters, in the transaction that passes them.

use std::collections::BTreeMap;

use subjects::{Actor, CommandId, CommandMessage, Outcome, Status, TenantId, header, stream as names};
use uuid::Uuid;

use super::{
    batch::{Decider, Item, dead_id, reply},
    parse::Parsed,
};
use crate::store::commit::DeadLetterRow;

impl Decider<'_> {
    /// A command that cannot be decided: its outcome is `failed`, the message goes to the dead letters.
    #[expect(clippy::too_many_arguments, reason = "the parts of a failed outcome; a struct would be built and taken apart in one place")]
    pub(super) fn fail(
        &mut self,
        item: &Item,
        message: Option<&CommandMessage>,
        id: CommandId,
        tenant: TenantId,
        reply_to: &Option<String>,
        reason: &'static str,
        error: &str,
    ) -> serde_json::Result<()> {
        self.dead_letter(item, reason, error)?;
        if let Some(outcome) = self.outcomes.get(&id) {
            reply(&mut self.batch.replies, reply_to.as_ref(), outcome);
            return Ok(());
        }
        let outcome = Outcome {
            command_id: id,
            command: message.map(|message| message.command_type.clone()).unwrap_or_default(),
            tenant_id: tenant,
            aggregate_id: message.map(|message| message.aggregate_id.clone()).unwrap_or_default(),
            status: Status::Failed,
            code: Some("failed".into()),
            version: None,
            sequence: None,
            events: Vec::new(),
            fingerprint: message.and_then(|message| message.fingerprint.clone()),
            actor: message.map_or(Actor::System, |message| message.actor),
            accepted_at: message.and_then(CommandMessage::accepted_at),
        };
        self.conclude(outcome, message.is_some_and(|message| message.keyed), reply_to.as_ref())
    }

    pub(super) fn dead_letter(&mut self, item: &Item, reason: &'static str, error: &str) -> serde_json::Result<()> {
        self.traces.failed(item, reason);
        tracing::error!(partition = item.partition, sequence = item.incoming.sequence, reason, error, "a command is dead-lettered");
        let subject = subjects::CommandSubject::parse(&item.incoming.subject).ok();
        let sequence = item.incoming.sequence.to_string();
        let error: String = error.chars().filter(|c| !c.is_control()).take(512).collect();
        let mut headers: BTreeMap<&str, &str> = BTreeMap::from([
            (header::CONSUMER, "worker"),
            (header::REASON, reason),
            (header::ERROR, error.as_str()),
            (header::ORIGIN_STREAM, names::COMMANDS),
            (header::ORIGIN_SEQUENCE, sequence.as_str()),
            (header::DELIVERIES, "1"),
        ]);
        for name in [header::TRACEPARENT, header::TRACESTATE] {
            if let Some(value) = item.incoming.headers.get(name) {
                headers.insert(name, value.as_str());
            }
        }
        let origin = format!("{}:{}:{}", names::COMMANDS, item.incoming.subject, item.incoming.sequence);
        let source = dead_source(item).unwrap_or(Uuid::NAMESPACE_OID);
        self.batch.writes.deadletters.push(DeadLetterRow {
            id: Uuid::new_v5(&source, origin.as_bytes()),
            partition: item.partition,
            subject: subjects::dead_letter_worker(subject.as_ref().map(|subject| subject.aggregate), subject.as_ref().map(|subject| subject.command)),
            headers: serde_json::to_string(&headers)?,
            payload: item.incoming.payload.to_vec(),
            reason,
        });
        Ok(())
    }
}

fn dead_source(item: &Item) -> Option<Uuid> {
    match &item.parsed {
        Parsed::Command(readable) => Some(readable.message.id.uuid()),
        Parsed::Dead(dead) => dead_id(dead).map(|id| id.uuid()),
        Parsed::Unknown(_) => None,
    }
}
