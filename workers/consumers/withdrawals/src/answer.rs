//! From an event to the invitations it ends, page by page. A page that was answered before the process ended is pending no more: whoever
//! comes again begins with what is left.

use aggregates::{invitation::Command, tenant::Nothing};
use runtime::{
    Failure,
    consume::{
        Event, judge,
        react::{self, Reactor, Refused},
    },
};
use subjects::{CommandMessage, Envelope, InvitationId, TenantId, UserId};
use uuid::Uuid;

use crate::NAME;

/// A page of a tenant's pending invitations. Complete: a cancelled tenant makes out no more.
const OF_TENANT: &str = "SELECT tenant_id, id FROM aggregates
     WHERE tenant_id = $1 AND kind = 'invitation' AND id > $2 AND status IN ('created', 'sent') ORDER BY id LIMIT $3";

/// A page of the pending invitations to an address, in every tenant. Only those that the user could have accepted: whoever has the address
/// next is somebody else.
const TO_ADDRESS: &str = "SELECT tenant_id, id FROM aggregates
     WHERE kind = 'invitation' AND email = $1 AND status IN ('created', 'sent') AND created_at <= $2 AND (tenant_id, id) > ($3, $4)
     ORDER BY tenant_id, id LIMIT $5";

/// The address a user had. Their deletion does not tell it, and their state keeps none; the table of events has it.
const ADDRESS: &str = "SELECT body -> 'data' ->> 'email' FROM events
     WHERE aggregate_id = $1 AND type = 'user.created' AND tenant_id = $2 ORDER BY sequence DESC LIMIT 1";

/// Answers one event.
pub(crate) async fn answer(reactor: &Reactor, event: &Event) -> Result<(), Failure> {
    let envelope = &event.envelope;
    let address = if envelope.event_type == "user.deleted" { Some(address(reactor, envelope).await?) } else { None };
    let mut refused = Refused::default();
    let mut after = (Uuid::nil(), Uuid::nil());
    loop {
        let rows = match &address {
            Some(address) => reactor.rows(TO_ADDRESS, &[address, &envelope.timestamp, &after.0, &after.1, &reactor.page()]).await?,
            None => reactor.rows(OF_TENANT, &[&envelope.tenant_id.uuid(), &after.1, &reactor.page()]).await?,
        };
        let Some(last) = rows.last() else { return refused.end() };
        let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        after = read(last).map_err(|error: tokio_postgres::Error| judge(&error))?;
        let page = rows.iter().map(read).collect::<Result<Vec<(Uuid, Uuid)>, _>>().map_err(|error| judge(&error))?;
        let commands = page.iter().map(|(tenant, id)| removal(envelope, TenantId::new(*tenant), InvitationId::new(*id)));
        reactor.give(event, &commands.collect::<Result<Vec<_>, _>>()?, &mut refused).await?;
    }
}

async fn address(reactor: &Reactor, envelope: &Envelope) -> Result<String, Failure> {
    let user: UserId = envelope.aggregate_id.parse().map_err(Failure::poison)?;
    let rows = reactor.rows(ADDRESS, &[&user.uuid(), &envelope.tenant_id.uuid()]).await?;
    let found: Option<String> = rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| judge(&error))?.flatten();
    found.ok_or_else(|| Failure::poison("nothing tells the address of the user who was deleted"))
}

fn removal(cause: &Envelope, tenant: TenantId, invitation: InvitationId) -> Result<CommandMessage, Failure> {
    react::command(cause, &format!("{NAME} {invitation}"), tenant, invitation.uuid(), Command::Remove(Nothing {}))
}
