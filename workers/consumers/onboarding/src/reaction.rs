//! From the event to the command.

use aggregates::invitation::{self, InvitationType};
use runtime::{Failure, consume::react};
use serde_json::json;
use subjects::{CommandMessage, Envelope, InvitationId};

use crate::NAME;

/// The command that answers an event; none for one that needs no answer.
///
/// # Errors
/// Data that is not the event's own.
pub fn command(envelope: &Envelope) -> Result<Option<CommandMessage>, Failure> {
    let tagged = json!({ "type": envelope.event_type, "data": envelope.data });
    // The error's own text may quote what is personal.
    let event: invitation::Event = serde_json::from_value(tagged).map_err(|_| Failure::poison("the data is not the event's own"))?;
    let invitation::Event::Created { invitation_type: InvitationType::Email, send: true, token_version, token_hash, .. } = event else {
        return Ok(None);
    };
    let data = invitation::Send { token_version, token_hash, expires_at: None };
    let aggregate = envelope.aggregate_id.parse::<InvitationId>().map_err(Failure::poison)?;
    react::command(envelope, NAME, envelope.tenant_id, aggregate.uuid(), invitation::Command::Send(data)).map(Some)
}

#[cfg(test)]
mod tests {
    use subjects::{Actor, Authority};

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
        let first = command(&envelope("email", true)).unwrap().unwrap();
        let second = command(&envelope("email", true)).unwrap().unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!((first.actor, first.authority, first.correlation_id.as_str()), (Actor::System, Authority::System, "c"));
        assert_eq!(first.causation_id, Some(envelope("email", true).id));
        assert_eq!(first.data.get(), format!(r#"{{"tokenVersion":1,"tokenHash":"{}"}}"#, "0".repeat(64)));
        assert!(aggregates::Command::parse(&first.command_type, first.data.get()).is_ok());
    }

    #[test]
    fn a_link_and_what_is_not_to_be_sent_are_left_alone() {
        assert!(command(&envelope("email", false)).unwrap().is_none());
        assert!(command(&envelope("link", true)).unwrap().is_none());
    }
}
