//! From an event at home, or a guest's joining, to the commands in the guest tenants.

use aggregates::{
    membership::{Command, FromHome, StandingReason},
    tenant::Nothing,
};
use runtime::{
    Failure,
    consume::{
        Event, judge,
        react::{self, Reactor, Refused},
    },
};
use subjects::{CommandMessage, Envelope, TenantId, UserId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::NAME;

/// A page of the memberships elsewhere that last, each with what the home tenant says in the same moment. By statement, not by page: what
/// is changed at home meanwhile has an event of its own, whose answer sees it.
const ELSEWHERE: &str =
    "SELECT m.tenant_id, coalesce((m.state ->> 'stay')::bigint, 1), u.status, coalesce((u.state ->> 'standingChanges')::bigint, 0)
      FROM aggregates m JOIN aggregates u ON u.tenant_id = $1 AND u.kind = 'user' AND u.id = $2
     WHERE m.kind = 'membership' AND m.id = $2 AND m.tenant_id <> $1 AND m.tenant_id > $3 AND (m.state ->> 'active')::boolean
     ORDER BY m.tenant_id LIMIT $4";

/// The membership that began, if it lasts and the user's home is elsewhere; no home at all once the user is deleted.
const JOINED: &str = "SELECT m.tenant_id, coalesce((m.state ->> 'stay')::bigint, 1), coalesce(u.status, 'deleted'),
           coalesce((u.state ->> 'standingChanges')::bigint, 0)
      FROM aggregates m
      LEFT JOIN claims c ON c.scope = 'user' AND c.value = $3
      LEFT JOIN aggregates u ON u.tenant_id = c.tenant_id AND u.kind = 'user' AND u.id = $2
     WHERE m.kind = 'membership' AND m.id = $2 AND m.tenant_id = $1 AND (m.state ->> 'active')::boolean AND c.tenant_id IS DISTINCT FROM $1";

/// What a user's home tenant says about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Shut out.
    Out(StandingReason),
    /// In use.
    In,
    /// Gone.
    Deleted,
}

/// A membership in a guest tenant, and what the home tenant says in the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Guest {
    tenant: TenantId,
    stay: u32,
    says: Says,
    /// How often that had changed: what is newer counts.
    home_standing: u32,
}

impl Guest {
    fn read(row: &Row) -> Result<Self, Failure> {
        let text = |error: tokio_postgres::Error| judge(&error);
        let number = |place: usize| row.try_get::<_, i64>(place).map_err(text).and_then(|number| u32::try_from(number).map_err(Failure::poison));
        let says = match row.try_get::<_, &str>(2).map_err(text)? {
            "active" => Says::In,
            "suspended" => Says::Out(StandingReason::UserSuspended),
            "deactivated" => Says::Out(StandingReason::UserDeactivated),
            "deleted" => Says::Deleted,
            // A newer version may know it.
            other => return Err(Failure::retry(format!("a user's standing that is not known here: {other}"))),
        };
        Ok(Self { tenant: TenantId::new(row.try_get(0).map_err(text)?), stay: number(1)?, says, home_standing: number(3)? })
    }

    /// The command in the guest tenant. Another event, stay or change is another command; the same is given once.
    fn command(&self, cause: &Envelope, user: UserId) -> Result<CommandMessage, Failure> {
        let Self { tenant, stay, says, home_standing } = *self;
        let follow = |reason| FromHome { reason, home_standing, stay };
        let command = match says {
            Says::Out(reason) => Command::Suspend(follow(reason)),
            Says::In => Command::Reactivate(follow(StandingReason::UserReactivated)),
            Says::Deleted => Command::Remove(Nothing {}),
        };
        react::command(cause, &format!("{NAME} {tenant} {stay} {home_standing} {}", command.name()), tenant, user.uuid(), command)
    }
}

/// Answers one event.
pub(crate) async fn answer(reactor: &Reactor, event: &Event) -> Result<(), Failure> {
    let envelope = &event.envelope;
    let user: UserId = envelope.aggregate_id.parse().map_err(Failure::poison)?;
    if envelope.event_type == "tenant.member_joined" {
        if may_be_a_guest(envelope) { joined(reactor, event, user).await } else { Ok(()) }
    } else {
        repeat(reactor, event, user).await
    }
}

/// Nobody becomes a guest but by an invitation, or as the owner that a tenant is founded with: by its second or third event.
fn may_be_a_guest(joined: &Envelope) -> bool {
    joined.data.get("invitationId").is_some() || joined.sequence <= 3
}

/// In every other tenant, page by page. What was decided before the process ended, or before the call took too long, is not given again.
async fn repeat(reactor: &Reactor, event: &Event, user: UserId) -> Result<(), Failure> {
    let home = event.envelope.tenant_id;
    let mut refused = Refused::default();
    let mut after = TenantId::new(Uuid::nil());
    loop {
        let rows = reactor.rows(ELSEWHERE, &[&home.uuid(), &user.uuid(), &after.uuid(), &reactor.page()]).await?;
        let page = rows.iter().map(Guest::read).collect::<Result<Vec<_>, _>>()?;
        let Some(last) = page.last() else { return refused.end() };
        after = last.tenant;
        let commands = page.iter().map(|guest| guest.command(&event.envelope, user)).collect::<Result<Vec<_>, _>>()?;
        reactor.give(event, &commands, &mut refused).await?;
    }
}

/// Who joined as a guest while their home shut them out: the membership may have begun too late to be among those the change was repeated
/// to. Otherwise there is nothing to say.
async fn joined(reactor: &Reactor, event: &Event, user: UserId) -> Result<(), Failure> {
    let rows = reactor.rows(JOINED, &[&event.envelope.tenant_id.uuid(), &user.uuid(), &user.to_string()]).await?;
    let mut refused = Refused::default();
    for row in &rows {
        let guest = Guest::read(row)?;
        if guest.says != Says::In {
            reactor.give(event, &[guest.command(&event.envelope, user)?], &mut refused).await?;
        }
    }
    refused.end()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn guest(says: Says) -> Guest {
        Guest { tenant: TenantId::new(Uuid::from_u128(7)), stay: 2, says, home_standing: 3 }
    }

    fn envelope() -> Envelope {
        serde_json::from_value(json!({
            "id": "evt_00000000-0000-7000-8000-000000000001", "type": "user.suspended", "timestamp": "2026-11-22T10:00:00.123Z",
            "version": "1.0", "source": "chancery", "tenantId": "tenant_00000000-0000-7000-8000-000000000002", "userId": null,
            "aggregate": "user", "aggregateId": "user_00000000-0000-7000-8000-000000000005", "aggregateVersion": 1, "sequence": 1,
            "correlationId": "c", "causationId": "cmd_00000000-0000-7000-8000-000000000003", "data": {}
        }))
        .unwrap()
    }

    #[test]
    fn who_founds_a_tenant_or_was_invited_may_be_a_guest_and_nobody_else() {
        let joined = |sequence, data| may_be_a_guest(&Envelope { sequence, data, ..envelope() });
        assert!(joined(2, json!({})) && joined(9, json!({ "invitationId": "inv_1" })));
        assert!(!joined(4, json!({})));
    }

    fn command(guest: Guest) -> CommandMessage {
        guest.command(&envelope(), UserId::new(Uuid::from_u128(5))).unwrap()
    }

    #[test]
    fn what_the_home_tenant_says_is_a_command_in_the_guest_tenant() {
        let out = command(guest(Says::Out(StandingReason::UserDeactivated)));
        assert_eq!((out.command_type.as_str(), out.tenant_id), ("membership.suspend", guest(Says::In).tenant));
        assert_eq!(out.data.get(), r#"{"reason":"user_deactivated","homeStanding":3,"stay":2}"#);
        assert_eq!(command(guest(Says::In)).command_type, "membership.reactivate");
        assert_eq!(command(guest(Says::Deleted)).command_type, "membership.remove");
    }

    #[test]
    fn the_same_event_gives_the_same_command_and_another_stay_or_change_another() {
        let one = guest(Says::Out(StandingReason::UserSuspended));
        assert_eq!(command(one).id, command(one).id);
        assert_ne!(command(one).id, command(Guest { stay: 3, ..one }).id);
        assert_ne!(command(one).id, command(Guest { home_standing: 4, ..one }).id);
        assert_ne!(command(one).id, command(Guest { tenant: TenantId::new(Uuid::from_u128(8)), ..one }).id);
        assert_ne!(command(one).id, command(Guest { says: Says::Deleted, ..one }).id);
    }
}
