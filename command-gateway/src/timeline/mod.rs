//! What became of a command on its way: accepted, decided, published, handled.
//!
//! The tables say what was decided. Where an event stands in EVENTS is found by bisection, because a tenant's events are dense and in order
//! there. What consumers made of it is pieced together: their notes (when, and at which try), the dead letters, and, where no note was
//! kept, how far a consumer is. Nothing of it costs anything before somebody asks; every look-up is bounded.

mod looking;
mod view;

use async_nats::jetstream::consumer::Info;
use futures_util::{StreamExt as _, TryStreamExt as _};
use runtime::{nats, streams};
use subjects::{CommandId, EventId, Outcome, stream as names, timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

use self::looking::{Decided, Found, Looking};
pub(crate) use self::view::Timeline;
use self::view::{EventTimeline, Handling, Publication, PublicationState};
use crate::{
    answer::CommandState,
    gateway::Gateway,
    problem::{Code, Problem},
    store::{Sight, StoreError},
};

/// Events of one command that are looked for at most.
const EVENTS: usize = 100;
/// Consumers of EVENTS that are looked at most.
const CONSUMERS: usize = 256;

/// The timeline of a command, as far as `sight` sees it.
///
/// # Errors
/// Tables or streams that cannot be read.
pub(crate) async fn of(gateway: &Gateway, sight: Sight, id: CommandId) -> Result<Timeline, Problem> {
    let rows = gateway.store.rows(sight, "SELECT outcome::text, decided_at FROM commands WHERE id = $1", &[&id.uuid()]).await?;
    let Some(row) = rows.first() else {
        let status = CommandState::Pending;
        let nothing = Timeline {
            command_id: id.to_string(),
            command: None,
            status,
            accepted_at: None,
            decided_at: None,
            code: None,
            events: Vec::new(),
            complete: false,
        };
        return Ok(nothing);
    };
    let outcome: Outcome = serde_json::from_str(row.try_get(0).map_err(StoreError::from)?).map_err(|error| {
        tracing::error!(%error, command.id = %id, "a recorded outcome cannot be read");
        Problem::new(Code::Internal)
    })?;
    let decided: OffsetDateTime = row.try_get(1).map_err(StoreError::from)?;
    let events = if outcome.events.is_empty() { Vec::new() } else { events_of(gateway, &outcome).await? };
    Ok(Timeline {
        command_id: id.to_string(),
        command: Some(outcome.command.clone()),
        status: outcome.status.into(),
        accepted_at: outcome.accepted_at.or_else(|| time_of(id.uuid())).map(timestamp::format),
        decided_at: Some(timestamp::format(decided)),
        code: outcome.code,
        complete: events.iter().all(|event| event.consumers.iter().all(Handling::is_over)),
        events,
    })
}

/// The time in a UUIDv7.
fn time_of(id: Uuid) -> Option<OffsetDateTime> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    Some(at + time::Duration::nanoseconds(nanos.into()))
}

async fn events_of(gateway: &Gateway, outcome: &Outcome) -> Result<Vec<EventTimeline>, Problem> {
    // The outcome tells the tenant's last sequence after the command, and its events stand right before.
    const SQL: &str = "SELECT id, type, sequence FROM events WHERE tenant_id = $1 AND sequence > $2 AND sequence <= $3 ORDER BY sequence LIMIT $4";
    let last = i64::try_from(outcome.sequence.unwrap_or(0)).unwrap_or(i64::MAX);
    let before = last.saturating_sub(i64::try_from(outcome.events.len()).unwrap_or(i64::MAX));
    let limit = EVENTS as i64;
    let rows = gateway.store.rows(Sight::of(outcome.tenant_id), SQL, &[&outcome.tenant_id.uuid(), &before, &last, &limit]).await?;
    let decided = rows.iter().map(|row| {
        Ok(Decided { id: EventId::new(row.try_get(0)?), event_type: row.try_get(1)?, sequence: row.try_get::<_, i64>(2)?.unsigned_abs() })
    });
    let decided = decided.collect::<Result<Vec<_>, tokio_postgres::Error>>().map_err(StoreError::from)?;
    let context = &gateway.jetstream;
    let (events, letters) = (streams::get(context, names::EVENTS).await, streams::get(context, names::DEADLETTERS).await);
    let (events, letters) = (events.map_err(unreachable_stream)?, letters.map_err(unreachable_stream)?);
    // Readers of event streams, which come and go, are none of those who are told of.
    let lasting = events.consumers().try_filter(|info| std::future::ready(info.config.durable_name.is_some()));
    let durables: Vec<Info> = nats::ask_api("CONSUMER.LIST.EVENTS", lasting.take(CONSUMERS).try_collect()).await.map_err(unreachable_stream)?;
    let looking = Looking { gateway, outcome, events, letters, durables };
    let mut timelines = Vec::with_capacity(decided.len());
    let mut after = None;
    for event in decided {
        let found = looking.find(event.sequence, after).await.map_err(unreachable_stream)?;
        let mut published = Publication { state: PublicationState::Pending, stream_sequence: None, at: None };
        let mut stored = None;
        match found {
            Found::NotYet => {}
            Found::Gone => published.state = PublicationState::Forgotten,
            Found::Stored(place) => {
                after = Some(place.sequence + 1);
                published =
                    Publication { state: PublicationState::Published, stream_sequence: Some(place.sequence), at: Some(timestamp::format(place.at)) };
                stored = Some(place);
            }
        }
        let consumers = looking.handlings(&event, published.state, stored.as_ref()).await?;
        let Decided { id, event_type, sequence } = event;
        timelines.push(EventTimeline { id: id.to_string(), event_type, sequence, published, consumers });
    }
    Ok(timelines)
}

fn unreachable_stream(error: impl std::fmt::Display) -> Problem {
    tracing::warn!(%error, "a timeline cannot be looked up");
    Problem::new(Code::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_id_is_read_where_it_has_one() {
        let id: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(time_of(id).map(timestamp::format).as_deref(), Some("2023-06-30T03:34:18.518Z"));
        assert_eq!(time_of(Uuid::new_v5(&id, b"x")), None);
    }
}
