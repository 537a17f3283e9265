//! From the event to the command, and to how the command ended.

use aggregates::invitation::{self, InvitationType};
use async_nats::{HeaderMap, jetstream};
use futures_util::{StreamExt, stream};
use runtime::{Config, Failure, StartError, Stop, consume::Event, nats, store};
use serde_json::{json, value::to_raw_value};
use subjects::{Actor, Authority, CommandMessage, Envelope, Kind, Outcome, Status, derive, header};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::outcomes::Outcomes;

/// Commands under way at once.
const AT_ONCE: usize = 64;

/// Answers events with commands.
pub struct Reactor {
    context: jetstream::Context,
    outcomes: Outcomes,
    partitions: u16,
    publish_timeout: std::time::Duration,
    wait: std::time::Duration,
}

impl Reactor {
    /// Connects, and listens for outcomes until `stop`.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub async fn connect(config: &Config, stop: &Stop) -> Result<Self, StartError> {
        let client = nats::connect(config, "onboarding reactor", "_INBOX_onboarding").await?.client;
        let outcomes = Outcomes::listen(&client, store::pool(config, "chancery onboarding")?, stop).await?;
        let context = jetstream::new(client);
        Ok(Self { context, outcomes, partitions: config.partitions, publish_timeout: config.publish_timeout, wait: config.wait })
    }

    /// Answers these events, several at once.
    ///
    /// # Errors
    /// The worst of what happened: something is away, a command was refused, or its outcome is not known in time.
    pub async fn react(&self, events: &[Event]) -> Result<(), Failure> {
        let reactions: Vec<_> = events.iter().map(|event| self.react_to(event)).collect();
        let results: Vec<Result<(), Failure>> = stream::iter(reactions).buffer_unordered(AT_ONCE).collect().await;
        let mut failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
        failures.sort_by_key(|failure| !matches!(failure, Failure::Outage(_)));
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    async fn react_to(&self, event: &Event) -> Result<(), Failure> {
        let Some(message) = command(&event.envelope, OffsetDateTime::now_utc())? else { return Ok(()) };
        // On a later delivery it may have been decided long ago.
        if event.delivered > 1
            && let Some(outcome) = self.outcomes.stored(message.id).await.map_err(Failure::outage)?
        {
            return judge(&outcome);
        }
        let answer = self.outcomes.expect(message.id);
        if let Err(failure) = self.publish(event, &message).await {
            self.outcomes.forget(message.id);
            return Err(failure);
        }
        let outcome = self.outcomes.await_outcome(message.id, answer, self.wait).await;
        // The same command again is harmless.
        judge(&outcome.ok_or_else(|| Failure::retry("no outcome in time"))?)
    }

    async fn publish(&self, event: &Event, message: &CommandMessage) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, message.id.to_string());
        headers.insert(header::REPLY, self.outcomes.inbox());
        headers.insert(header::CONTENT_TYPE, header::JSON);
        for name in [header::TRACEPARENT, header::TRACESTATE] {
            if let Some(value) = event.header(name) {
                headers.insert(name, value);
            }
        }
        let partition = subjects::partition(&message.tenant_id.to_string(), self.partitions);
        let subject = subjects::command(partition, message.tenant_id, Kind::Invitation, "send");
        let body = serde_json::to_vec(message).map_err(Failure::poison)?;
        let published = async {
            let ack = self.context.publish_with_headers(subject, headers, body.into()).await.map_err(Failure::outage)?;
            ack.await.map_err(Failure::outage)
        };
        timeout(self.publish_timeout, published).await.map_err(|_| Failure::outage("no PubAck in time"))?.map(|_| ())
    }
}

/// The command that answers an event; none for one that needs no answer.
///
/// # Errors
/// Data that is not the event's own.
pub fn command(envelope: &Envelope, now: OffsetDateTime) -> Result<Option<CommandMessage>, Failure> {
    let tagged = json!({ "type": envelope.event_type, "data": envelope.data });
    // The error's own text may quote what is personal.
    let event: invitation::Event = serde_json::from_value(tagged).map_err(|_| Failure::poison("the data is not the event's own"))?;
    let invitation::Event::Created { invitation_type: InvitationType::Email, send: true, token_version, token_hash, .. } = event else {
        return Ok(None);
    };
    let data = invitation::Send { token_version, token_hash, expires_at: None };
    Ok(Some(CommandMessage {
        id: derive(envelope.id.uuid(), "onboarding"),
        command_type: "invitation.send".into(),
        tenant_id: envelope.tenant_id,
        aggregate_id: envelope.aggregate_id.clone(),
        actor: Actor::System,
        authority: Authority::System,
        timestamp: now,
        correlation_id: envelope.correlation_id.clone(),
        causation_id: Some(envelope.id),
        if_match: None,
        fingerprint: None,
        keyed: false,
        ip_address: None,
        user_agent: None,
        data: to_raw_value(&data).map_err(Failure::poison)?,
    }))
}

/// What an outcome means. "Sent already" is a success of the command; whatever is refused needs somebody.
fn judge(outcome: &Outcome) -> Result<(), Failure> {
    let code = outcome.code.as_deref().unwrap_or("no code");
    match outcome.status {
        Status::Succeeded => Ok(()),
        Status::Refused => Err(Failure::poison(format!("{} was refused: {code}", outcome.command))),
        Status::Failed => Err(Failure::poison(format!("{} could not be processed", outcome.command))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: &str, send: bool) -> Envelope {
        serde_json::from_value(json!({
            "id": "evt_00000000-0000-7000-8000-000000000001", "type": "invitation.created", "timestamp": "2026-11-22T10:00:00.123Z",
            "version": "1.0", "source": "chancery", "tenantId": "tenant_00000000-0000-7000-8000-000000000002", "userId": null,
            "aggregate": "invitation", "aggregateId": "inv_00000000-0000-7000-8000-000000000005", "aggregateVersion": 1, "sequence": 1,
            "correlationId": "c", "causationId": "cmd_00000000-0000-7000-8000-000000000003",
            "data": { "tenantId": "tenant_00000000-0000-7000-8000-000000000002", "invitationId": "inv_00000000-0000-7000-8000-000000000005",
                "email": "ann@example.com", "invitationType": kind, "role": "member", "teamIds": [], "identityId": null, "createdBy": null,
                "attributes": {}, "expiresAt": "2026-11-29T10:00:00.123Z", "tokenHash": "0".repeat(64), "tokenVersion": 1, "send": send }
        }))
        .unwrap()
    }

    #[test]
    fn the_same_event_gives_the_same_command() {
        let at = |second| OffsetDateTime::from_unix_timestamp(second).unwrap();
        let first = command(&envelope("email", true), at(1)).unwrap().unwrap();
        let second = command(&envelope("email", true), at(2)).unwrap().unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!((first.actor, first.authority, first.correlation_id.as_str()), (Actor::System, Authority::System, "c"));
        assert_eq!(first.causation_id, Some(envelope("email", true).id));
        assert_eq!(first.data.get(), format!(r#"{{"tokenVersion":1,"tokenHash":"{}"}}"#, "0".repeat(64)));
        assert!(aggregates::Command::parse(&first.command_type, first.data.get()).is_ok());
    }

    #[test]
    fn a_link_and_what_is_not_to_be_sent_are_left_alone() {
        assert!(command(&envelope("email", false), OffsetDateTime::UNIX_EPOCH).unwrap().is_none());
        assert!(command(&envelope("link", true), OffsetDateTime::UNIX_EPOCH).unwrap().is_none());
    }

    #[test]
    fn a_refusal_needs_somebody() {
        let outcome = |status, code: Option<&str>| Outcome {
            command_id: derive(uuid_of(1), "x"),
            command: "invitation.send".into(),
            tenant_id: subjects::TenantId::new(uuid_of(2)),
            aggregate_id: "inv".into(),
            status,
            code: code.map(str::to_owned),
            version: None,
            sequence: None,
            events: Vec::new(),
            fingerprint: None,
            actor: Actor::System,
        };
        assert!(judge(&outcome(Status::Succeeded, None)).is_ok());
        let refused = judge(&outcome(Status::Refused, Some("tenant_not_active"))).unwrap_err();
        assert!(matches!(&refused, Failure::Poison(error) if error == "invitation.send was refused: tenant_not_active"));
    }

    fn uuid_of(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }
}
