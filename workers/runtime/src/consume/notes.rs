//! Notes of what a consumer has handled, for the timeline of commands. Best effort and off the way of the acknowledgements: an event costs
//! a comparison, a second of work one row, and what cannot be written in time is forgotten.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use time::OffsetDateTime;
use tokio::{task::AbortHandle, time::timeout};

use super::Event;
use crate::{Config, store::describe};

/// Notes that may wait for the database; the oldest are forgotten first.
const WAITING: usize = 4_096;
/// How long the last notes may take at the end.
const LAST: Duration = Duration::from_secs(2);

/// What became of the events of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Handled,
    Failed,
    Dead,
}

impl Became {
    const fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    incarnation: Arc<str>,
    first: u64,
    last: u64,
    became: Became,
    attempts: u32,
    at: OffsetDateTime,
}

/// Events that follow each other in the consumer's own sequence, each handled at its first try.
#[derive(Debug)]
struct Run {
    note: Note,
    /// The place in the consumer's sequence that would continue it.
    next: u64,
}

#[derive(Debug, Default)]
struct Pending {
    incarnation: Option<Arc<str>>,
    run: Option<Run>,
    notes: VecDeque<Note>,
}

impl Pending {
    fn handled(&mut self, event: &Event, at: OffsetDateTime) {
        // Not from a stream, so it has no place there.
        if event.stream_sequence == 0 {
            return;
        }
        let place = event.consumer_sequence;
        let continues = self.run.as_mut().filter(|run| place != 0 && run.next == place);
        if event.delivered > 1 || place == 0 || event.redrives() > 0 {
            // Known to be none of the run's, so the run goes on behind it.
            if let Some(run) = continues {
                run.next += 1;
            }
            return self.one(event.first_sequence(), Became::Handled, event.delivered, at);
        }
        match continues {
            Some(run) if run.note.last < event.stream_sequence => {
                run.next += 1;
                run.note.last = event.stream_sequence;
                run.note.at = at;
            }
            _ => {
                self.close();
                let Some(note) = self.note(event.stream_sequence, Became::Handled, 1, at) else { return };
                self.run = Some(Run { note, next: place + 1 });
            }
        }
    }

    fn one(&mut self, sequence: u64, became: Became, attempts: u32, at: OffsetDateTime) {
        if sequence == 0 {
            return;
        }
        if let Some(note) = self.note(sequence, became, attempts, at) {
            self.push(note);
        }
    }

    fn note(&self, sequence: u64, became: Became, attempts: u32, at: OffsetDateTime) -> Option<Note> {
        Some(Note { incarnation: self.incarnation.clone()?, first: sequence, last: sequence, became, attempts, at })
    }

    fn close(&mut self) {
        if let Some(run) = self.run.take() {
            self.push(run.note);
        }
    }

    fn push(&mut self, note: Note) {
        if self.notes.len() >= WAITING {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    fn take(&mut self) -> Vec<Note> {
        self.close();
        std::mem::take(&mut self.notes).into()
    }
}

/// A consumer's notes.
pub(super) struct Notes {
    consumer: &'static str,
    pool: Option<Pool>,
    pending: Arc<Mutex<Pending>>,
    writer: Option<AbortHandle>,
}

impl Notes {
    /// Notes for a consumer; none are kept without a database, or where the configuration says so.
    pub(super) fn new(consumer: &'static str, config: &Config, pool: Option<Pool>) -> Self {
        let pending = Arc::<Mutex<Pending>>::default();
        let pool = pool.filter(|_| !config.note_every.is_zero());
        let writer = pool.clone().map(|pool| {
            let (pending, every) = (pending.clone(), config.note_every);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    write(&pool, consumer, &pending).await;
                }
            })
            .abort_handle()
        });
        Self { consumer, pool, pending, writer }
    }

    fn pending(&self) -> Option<MutexGuard<'_, Pending>> {
        self.pool.is_some().then(|| locked(&self.pending))
    }

    /// The places that follow are those of this life of the stream.
    pub(super) fn follow(&self, incarnation: &str) {
        if let Some(mut pending) = self.pending() {
            pending.close();
            pending.incarnation = Some(incarnation.into());
        }
    }

    /// These were handled.
    pub(super) fn handled<'a>(&self, events: impl IntoIterator<Item = &'a Event>) {
        if let Some(mut pending) = self.pending() {
            let now = OffsetDateTime::now_utc();
            events.into_iter().for_each(|event| pending.handled(event, now));
        }
    }

    /// One failed and is tried again.
    pub(super) fn failed(&self, sequence: u64, attempts: u32) {
        if let Some(mut pending) = self.pending() {
            pending.one(sequence, Became::Failed, attempts, OffsetDateTime::now_utc());
        }
    }

    /// One became a dead letter.
    pub(super) fn dead(&self, sequence: u64, attempts: u32) {
        if let Some(mut pending) = self.pending() {
            pending.one(sequence, Became::Dead, attempts, OffsetDateTime::now_utc());
        }
    }

    /// Writes the last ones, if that is quick.
    pub(super) async fn finish(self) {
        if let Some(pool) = &self.pool
            && timeout(LAST, write(pool, self.consumer, &self.pending)).await.is_err()
        {
            tracing::debug!(consumer.name = self.consumer, "the last notes are lost");
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

fn locked(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes what there is. What could not be written waits for the next time, as far as there is room.
async fn write(pool: &Pool, consumer: &str, pending: &Mutex<Pending>) {
    let notes = locked(pending).take();
    if notes.is_empty() {
        return;
    }
    if let Err(error) = insert(pool, consumer, &notes).await {
        tracing::debug!(consumer.name = consumer, error, notes = notes.len(), "notes wait");
        let mut pending = locked(pending);
        let newer = std::mem::replace(&mut pending.notes, notes.into());
        newer.into_iter().for_each(|note| pending.push(note));
    }
}

async fn insert(pool: &Pool, consumer: &str, notes: &[Note]) -> Result<(), String> {
    const SQL: &str = "INSERT INTO consumer_notes (consumer, incarnation, first_sequence, last_sequence, state, attempts, noted_at)
         SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::integer[], $7::timestamptz[])";
    let place = |sequence: u64| i64::try_from(sequence).unwrap_or(i64::MAX);
    let incarnations: Vec<&str> = notes.iter().map(|note| &*note.incarnation).collect();
    let firsts: Vec<i64> = notes.iter().map(|note| place(note.first)).collect();
    let lasts: Vec<i64> = notes.iter().map(|note| place(note.last)).collect();
    let states: Vec<&str> = notes.iter().map(|note| note.became.name()).collect();
    let attempts: Vec<i32> = notes.iter().map(|note| i32::try_from(note.attempts).unwrap_or(i32::MAX)).collect();
    let times: Vec<OffsetDateTime> = notes.iter().map(|note| note.at).collect();
    let client = pool.get().await.map_err(|error| error.to_string())?;
    let statement = client.prepare_cached(SQL).await.map_err(|error| describe(&error))?;
    client
        .execute(&statement, &[&consumer, &incarnations, &firsts, &lasts, &states, &attempts, &times])
        .await
        .map(|_| ())
        .map_err(|error| describe(&error))
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn event(consumer_sequence: u64, stream_sequence: u64, delivered: u32) -> Event {
        const BODY: &str = r#"{"id":"evt_00000000-0000-7000-8000-000000000001","type":"tenant.activated","timestamp":"2026-11-22T10:00:00.123Z",
            "version":"1.0","source":"chancery","tenantId":"tenant_00000000-0000-7000-8000-000000000002","userId":null,"aggregate":"tenant",
            "aggregateId":"tenant_00000000-0000-7000-8000-000000000002","aggregateVersion":3,"sequence":9,"correlationId":"c",
            "causationId":"cmd_00000000-0000-7000-8000-000000000003","data":{}}"#;
        let event = Event::new(serde_json::from_str(BODY).unwrap(), stream_sequence, HeaderMap::new());
        Event { consumer_sequence, delivered, ..event }
    }

    /// The notes of these events: first, last, attempts.
    fn noted(events: &[(u64, u64, u32)]) -> Vec<(u64, u64, u32)> {
        let mut pending = Pending { incarnation: Some("1".into()), ..Pending::default() };
        for (place, sequence, delivered) in events {
            pending.handled(&event(*place, *sequence, *delivered), OffsetDateTime::UNIX_EPOCH);
        }
        pending.take().iter().map(|note| (note.first, note.last, note.attempts)).collect()
    }

    #[test]
    fn what_was_handled_in_a_row_is_one_note_also_where_others_places_are_between() {
        assert_eq!(noted(&[(1, 10, 1), (2, 11, 1), (3, 40, 1)]), [(10, 40, 1)]);
    }

    #[test]
    fn what_another_replica_had_or_failed_is_in_nobodys_run() {
        assert_eq!(noted(&[(1, 10, 1), (3, 12, 1), (4, 13, 1)]), [(10, 10, 1), (12, 13, 1)]);
    }

    #[test]
    fn a_repeat_is_a_note_of_its_own_and_does_not_end_the_run() {
        assert_eq!(noted(&[(1, 10, 1), (2, 3, 2), (3, 11, 1)]), [(3, 3, 2), (10, 11, 1)]);
    }

    #[test]
    fn what_is_tried_anew_is_noted_at_the_events_own_place() {
        let mut pending = Pending { incarnation: Some("1".into()), ..Pending::default() };
        let mut again = event(2, 40, 1);
        again.headers.insert(subjects::header::REDRIVES, "1");
        again.headers.insert(subjects::header::FIRST_SEQUENCE, "7");
        for event in [event(1, 10, 1), again, event(3, 41, 1)] {
            pending.handled(&event, OffsetDateTime::UNIX_EPOCH);
        }
        assert_eq!(pending.take().iter().map(|note| (note.first, note.last)).collect::<Vec<_>>(), [(7, 7), (10, 41)]);
    }

    #[test]
    fn what_has_no_place_in_the_stream_or_no_life_of_it_is_not_noted() {
        assert_eq!(noted(&[(1, 0, 1)]), []);
        let mut pending = Pending::default();
        pending.handled(&event(1, 10, 1), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(pending.take(), []);
    }

    #[test]
    fn the_oldest_notes_are_forgotten_first() {
        let mut pending = Pending { incarnation: Some("1".into()), ..Pending::default() };
        for sequence in 1..=WAITING as u64 + 3 {
            pending.one(sequence, Became::Failed, 1, OffsetDateTime::UNIX_EPOCH);
        }
        let notes = pending.take();
        assert_eq!((notes.len(), notes[0].first), (WAITING, 4));
    }
}
