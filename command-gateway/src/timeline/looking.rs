//! Looking for an event in the stream, and for what consumers made of it.

use std::collections::BTreeSet;

use aggregates::registry;
use async_nats::jetstream::{
    consumer::{DeliverPolicy, Info},
    message::StreamMessage,
    stream::{DirectGetErrorKind, Stream},
};
use runtime::{nats, streams};
use serde::Deserialize;
use subjects::{EventFilter, EventId, Outcome, header};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{
    unreachable_stream,
    view::{Handling, HandlingState, PublicationState},
};
use crate::{
    gateway::Gateway,
    problem::Problem,
    store::{Query, Sight, StoreError},
};

/// Notes of a consumer about the surroundings of one event that are read at most.
const NOTES: i64 = 1_000;
/// Dead letters of one consumer and event type that are read at most.
const LETTERS: usize = 256;
/// Messages without a place in a history that are passed over at most; nobody of ours writes such.
const STRANGERS: usize = 16;

/// A decided event.
pub(super) struct Decided {
    pub(super) id: EventId,
    pub(super) event_type: String,
    pub(super) sequence: u64,
}

/// An event in the stream.
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) at: OffsetDateTime,
}

/// Where an event is.
pub(super) enum Found {
    Stored(Stored),
    NotYet,
    Gone,
}

/// A note of a consumer, as the table has it.
struct Note {
    consumer: String,
    state: String,
    attempts: u32,
    at: OffsetDateTime,
}

/// How far a consumer in order is with an event.
struct InOrder {
    consumer: String,
    passed: bool,
    parked: Option<(u32, bool)>,
}

/// Everything that one timeline looks into.
pub(super) struct Looking<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) outcome: &'a Outcome,
    pub(super) events: Stream,
    pub(super) letters: Stream,
    pub(super) durables: Vec<Info>,
}

impl Looking<'_> {
    /// Where an event of the tenant stands, by its sequence: at once after the one before it, else by bisection.
    pub(super) async fn find(&self, sequence: u64, after: Option<u64>) -> Result<Found, String> {
        let state = &self.events.cached_info().state;
        let filter = EventFilter { tenant: Some(self.outcome.tenant_id), ..EventFilter::default() }.subject();
        if let Some(after) = after
            && let Some((message, found)) = self.next(&filter, after).await?
            && found == sequence
        {
            return Ok(Found::Stored(Stored { sequence: message.sequence, at: message.time }));
        }
        let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.next(&filter, middle).await? {
                Some((message, found)) if found == sequence => return Ok(Found::Stored(Stored { sequence: message.sequence, at: message.time })),
                Some((message, found)) if found < sequence => low = message.sequence + 1,
                Some(_) | None => high = middle,
            }
        }
        // Published since the stream was looked at, or nothing after it is there: it is on its way.
        match self.next(&filter, low).await? {
            Some((message, found)) if found == sequence => Ok(Found::Stored(Stored { sequence: message.sequence, at: message.time })),
            None => Ok(Found::NotYet),
            Some(_) => Ok(Found::Gone),
        }
    }

    /// The first event of the tenant at or after a place of the stream, and its sequence.
    async fn next(&self, filter: &str, from: u64) -> Result<Option<(StreamMessage, u64)>, String> {
        let mut from = from;
        for _ in 0..STRANGERS {
            let Some(message) = get(&self.events, filter, from).await? else { return Ok(None) };
            // What a repair published stands behind its successors, where bisection does not look for it.
            let in_order = message.headers.get(header::LATE).is_none();
            let sequence = message.headers.get(header::SEQUENCE).filter(|_| in_order).and_then(|sequence| sequence.as_str().parse().ok());
            match sequence {
                Some(sequence) => return Ok(Some((message, sequence))),
                None => from = message.sequence + 1,
            }
        }
        Ok(None)
    }

    /// What each consumer that takes the event made of it.
    pub(super) async fn handlings(&self, event: &Decided, publication: PublicationState, stored: Option<&Stored>) -> Result<Vec<Handling>, Problem> {
        let subject = subjects::event(self.outcome.tenant_id, &event.event_type);
        let takes = |info: &&Info| {
            let config = &info.config;
            let filters = config.filter_subjects.iter().chain((!config.filter_subject.is_empty()).then_some(&config.filter_subject));
            let mut filters = filters.peekable();
            // Who began later and with what was new then never saw it.
            let later = matches!(config.deliver_policy, DeliverPolicy::New) && stored.is_some_and(|stored| stored.at < info.created);
            config.durable_name.is_some() && !later && (filters.peek().is_none() || filters.any(|filter| subjects::matches(filter, &subject)))
        };
        let durables: Vec<&Info> = self.durables.iter().filter(takes).collect();
        let registered = registry::event(&event.event_type).map_or(&[][..], |entry| entry.consumers);
        let consumers: BTreeSet<&str> = registered.iter().copied().chain(durables.iter().map(|info| info.name.as_str())).collect();
        let (notes, in_order) = match stored {
            Some(stored) => self.noted(&consumers, stored.sequence).await?,
            None => (Vec::new(), Vec::new()),
        };
        let mut handlings = Vec::with_capacity(consumers.len());
        for consumer in consumers {
            let letter = self.letter(consumer, event, stored).await.map_err(unreachable_stream)?;
            let durable = durables.iter().find(|info| info.name == consumer);
            handlings.push(match stored {
                Some(stored) => {
                    let note = notes.iter().filter(|note| note.consumer == consumer).max_by_key(|note| note.at);
                    let ordered = in_order.iter().find(|found| found.consumer == consumer);
                    let passed = durable.is_some_and(|info| info.ack_floor.stream_sequence >= stored.sequence);
                    judge(consumer, note, letter, ordered, passed)
                }
                None => match letter {
                    Some((at, attempts)) => Handling::new(consumer, HandlingState::DeadLetter).at(at).tried(attempts),
                    None if publication == PublicationState::Forgotten => Handling::new(consumer, HandlingState::Unknown),
                    None => Handling::new(consumer, HandlingState::Pending),
                },
            });
        }
        Ok(handlings)
    }

    /// The notes about a place in EVENTS, and how far the consumers in order are.
    async fn noted(&self, consumers: &BTreeSet<&str>, place: u64) -> Result<(Vec<Note>, Vec<InOrder>), Problem> {
        // The notes near it by the index; those that cover it among them.
        const NOTED: &str = "SELECT c.name, n.state, n.attempts, n.noted_at FROM unnest($1::text[]) c (name) CROSS JOIN LATERAL (
                 SELECT * FROM consumer_notes WHERE consumer = c.name AND incarnation = $3 AND last_sequence >= $2
                  ORDER BY last_sequence LIMIT $4) n
             WHERE n.first_sequence <= $2";
        const IN_ORDER: &str = "SELECT p.consumer, p.position >= $2, k.attempts, k.dead FROM consumer_positions p
             LEFT JOIN consumer_parked k ON k.consumer = p.consumer AND k.stream_sequence = $2 WHERE p.consumer = ANY ($1) AND p.incarnation = $3";
        let names: Vec<&str> = consumers.iter().copied().collect();
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let life = streams::incarnation(self.events.cached_info());
        let queries = [Query { sql: NOTED, params: &[&names, &place, &life, &NOTES] }, Query { sql: IN_ORDER, params: &[&names, &place, &life] }];
        let mut answers = self.gateway.store.read(Sight::of(self.outcome.tenant_id), &queries).await?;
        let (in_order, notes) = (answers.pop().unwrap_or_default(), answers.pop().unwrap_or_default());
        let tried = |attempts: i32| u32::try_from(attempts).unwrap_or(0);
        let note = |row: &Row| Ok(Note { consumer: row.try_get(0)?, state: row.try_get(1)?, attempts: tried(row.try_get(2)?), at: row.try_get(3)? });
        let ordered = |row: &Row| {
            let parked = row.try_get::<_, Option<i32>>(2)?.zip(row.try_get::<_, Option<bool>>(3)?);
            Ok(InOrder { consumer: row.try_get(0)?, passed: row.try_get(1)?, parked: parked.map(|(attempts, dead)| (tried(attempts), dead)) })
        };
        let notes = notes.iter().map(note).collect::<Result<_, tokio_postgres::Error>>().map_err(StoreError::from)?;
        let in_order = in_order.iter().map(ordered).collect::<Result<_, tokio_postgres::Error>>().map_err(StoreError::from)?;
        Ok((notes, in_order))
    }

    /// When a consumer gave an event up, and after how many tries.
    async fn letter(&self, consumer: &str, event: &Decided, stored: Option<&Stored>) -> Result<Option<(OffsetDateTime, u32)>, String> {
        /// As much of a body as tells which event it is.
        #[derive(Deserialize)]
        struct Id {
            id: EventId,
        }
        let subject = subjects::dead_letter(consumer, &event.event_type);
        // Almost always there is none.
        let state = &self.letters.cached_info().state;
        if state.messages == 0 || get(&self.letters, &subject, state.first_sequence).await?.is_none() {
            return Ok(None);
        }
        let mut from = match stored {
            Some(stored) => first_since(&self.letters, &subject, stored.at).await?,
            None => state.first_sequence,
        };
        let mut latest = None;
        for _ in 0..LETTERS {
            let Some(message) = get(&self.letters, &subject, from).await? else { break };
            if serde_json::from_slice::<Id>(&message.payload).is_ok_and(|body| body.id == event.id) {
                let tried = message.headers.get(header::DELIVERIES).and_then(|tried| tried.as_str().parse().ok());
                latest = Some((message.time, tried.unwrap_or(1)));
            }
            from = message.sequence + 1;
        }
        Ok(latest)
    }
}

/// What a consumer made of an event in the stream, by what is known: the latest of a note and a dead letter, then its queue, then how far
/// it is.
fn judge(consumer: &str, note: Option<&Note>, letter: Option<(OffsetDateTime, u32)>, ordered: Option<&InOrder>, passed: bool) -> Handling {
    let state = |state| Handling::new(consumer, state);
    let handled_since = |at: OffsetDateTime| note.is_some_and(|note| note.state == "handled" && note.at > at);
    if let Some((at, tried)) = letter.filter(|(at, _)| !handled_since(*at)) {
        return state(HandlingState::DeadLetter).at(at).tried(tried);
    }
    if let Some((tried, dead)) = ordered.and_then(|ordered| ordered.parked) {
        return state(if dead { HandlingState::DeadLetter } else { HandlingState::Retrying }).tried(tried);
    }
    match note {
        Some(note) if note.state == "handled" => state(HandlingState::Handled).at(note.at).tried(note.attempts),
        Some(note) if note.state == "dead" => state(HandlingState::DeadLetter).at(note.at).tried(note.attempts),
        _ if passed || ordered.is_some_and(|ordered| ordered.passed) => state(HandlingState::Handled),
        Some(note) => state(HandlingState::Retrying).at(note.at).tried(note.attempts),
        None => state(HandlingState::Pending),
    }
}

/// The first message of a subject at or after a place.
async fn get(stream: &Stream, subject: &str, from: u64) -> Result<Option<StreamMessage>, String> {
    nats::ask_api(&format!("DIRECT.GET.{}", stream.cached_info().config.name), async {
        match stream.direct_get_next_for_subject(subject, Some(from.max(1))).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// The first place at which a message of a subject can be that was stored at a time or later.
async fn first_since(stream: &Stream, subject: &str, since: OffsetDateTime) -> Result<u64, String> {
    let state = &stream.cached_info().state;
    let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match get(stream, subject, middle).await? {
            Some(message) if message.time < since => low = message.sequence + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn note(state: &str, seconds: i64, attempts: u32) -> Note {
        Note { consumer: "c".into(), state: state.into(), attempts, at: AT + time::Duration::seconds(seconds) }
    }

    fn in_order(passed: bool, parked: Option<(u32, bool)>) -> InOrder {
        InOrder { consumer: "c".into(), passed, parked }
    }

    #[test]
    fn what_is_known_best_counts() {
        use HandlingState::{DeadLetter, Handled, Pending, Retrying};
        let seen = |note: Option<Note>, letter: Option<i64>, ordered: Option<InOrder>, passed: bool| {
            let letter = letter.map(|seconds| (AT + time::Duration::seconds(seconds), 8));
            let handling = judge("c", note.as_ref(), letter, ordered.as_ref(), passed);
            (handling.state, handling.attempts)
        };
        assert_eq!(seen(None, None, None, false), (Pending, None));
        assert_eq!(seen(None, None, None, true), (Handled, None));
        assert_eq!(seen(Some(note("handled", 1, 1)), None, None, false), (Handled, Some(1)));
        assert_eq!(seen(Some(note("failed", 1, 2)), None, None, false), (Retrying, Some(2)));
        assert_eq!(seen(Some(note("failed", 1, 2)), None, None, true), (Handled, None));
        assert_eq!(seen(Some(note("dead", 1, 8)), None, None, true), (DeadLetter, Some(8)));
        assert_eq!(seen(None, Some(5), None, true), (DeadLetter, Some(8)));
        // Redriven.
        assert_eq!(seen(Some(note("handled", 9, 1)), Some(5), None, true), (Handled, Some(1)));
        assert_eq!(seen(None, None, Some(in_order(true, None)), false), (Handled, None));
        assert_eq!(seen(None, None, Some(in_order(true, Some((2, false)))), false), (Retrying, Some(2)));
        assert_eq!(seen(None, None, Some(in_order(true, Some((3, true)))), false), (DeadLetter, Some(3)));
    }
}
