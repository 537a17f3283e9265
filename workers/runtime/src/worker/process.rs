//! Carries a batch through: load, decide, write, and tell; and what happens when one of these fails.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use aggregates::{Key, Settings};
use bytes::Bytes;
use subjects::CommandId;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    Worker,
    ahead::Ahead,
    backoff::Backoff,
    batch::{Batch, Decider, Item, Known, Position},
    metrics::METRICS,
    outbox::Job,
    traces::Traces,
};
use crate::{
    Config, failpoint, planted,
    store::{
        self,
        commit::{self, CommitError},
        lease::{self, Mark},
        load::{self, LoadError, Wanted},
    },
};

/// The planner must not be talked into scanning a table that has no statistics yet.
const SESSION: &str = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off";

struct Session {
    client: Client,
    load: load::Statements,
    commit: commit::Statements,
}

/// The one connection that decides, and what is known between batches.
pub(crate) struct Engine {
    config: Config,
    worker: Uuid,
    ahead: Ahead,
    session: Option<Session>,
    pub(crate) known: Known,
}

/// Why a batch has to be run again, or taken apart.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Somebody else owns a partition, or our cursor is not the table's.
    Ownership,
    /// Something changed meanwhile.
    Conflict,
    /// Some command's data is refused.
    Data(String),
    /// Worth another try after a while.
    Transient(String),
}

impl Trouble {
    /// Its word in a span.
    const fn name(&self) -> &'static str {
        match self {
            Self::Ownership => "ownership",
            Self::Conflict => "conflict",
            Self::Data(_) => "data",
            Self::Transient(_) => "transient",
        }
    }
}

impl Engine {
    pub(crate) fn new(config: Config, worker: Uuid, ahead: Ahead, settings: Settings) -> Self {
        let mut known = Known::default();
        known.world.settings = settings;
        Self { config, worker, ahead, session: None, known }
    }

    async fn session(&mut self) -> Result<&Session, String> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            let client = store::connect(&self.config, &lease::session_name(self.worker), SESSION).await?;
            self.ahead.pass(&client).await?;
            let text = |error: tokio_postgres::Error| store::describe(&error);
            let load = load::Statements::prepare(&client).await.map_err(text)?;
            let commit = commit::Statements::prepare(&client).await.map_err(text)?;
            self.session = Some(Session { client, load, commit });
        }
        self.session.as_ref().ok_or_else(|| "no connection".to_owned())
    }

    /// Loads, decides and writes one batch.
    async fn run(&mut self, items: &[Item], positions: BTreeMap<u16, Position>) -> Result<(Batch, usize), Trouble> {
        let traces = Traces::begin(self.config.makes_spans(), items);
        let result = self.attempt(items, positions, &traces).instrument(traces.together()).await;
        if let Err(trouble) = &result {
            traces.undone(trouble.name());
        }
        result
    }

    async fn attempt(&mut self, items: &[Item], positions: BTreeMap<u16, Position>, traces: &Traces) -> Result<(Batch, usize), Trouble> {
        self.session().await.map_err(Trouble::Transient)?;
        let Some(session) = self.session.as_ref() else { return Err(Trouble::Transient("no connection".into())) };
        let now = OffsetDateTime::now_utc();
        let known = &mut self.known;
        known.trim(self.config.state_cache);
        let begun = Instant::now();
        let outcomes = match load_all(session, known, items, now).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                known.forget();
                return Err(match error {
                    LoadError::Database(error) => Trouble::Transient(store::describe(&error)),
                    error @ LoadError::State(..) => Trouble::Data(error.to_string()),
                });
            }
        };
        failpoint::hit("loaded");
        let begun = METRICS.load.lap(begun);
        let (batch, count) = match Decider::new(known, outcomes, positions, traces, now).run(items, self.config.partitions) {
            Ok(batch) => batch,
            Err(error) => {
                known.forget();
                return Err(Trouble::Data(error.to_string()));
            }
        };
        failpoint::hit("decided");
        let begun = METRICS.decide.lap(begun);
        planted!(PublishBeforeCommit => { super::planted_lane::publish_first(&batch.writes.events).await });
        match commit::commit(&session.client, &session.commit, self.worker, &batch.writes).await {
            Ok(()) => {
                METRICS.commit.lap(begun);
                Ok((batch, count))
            }
            Err(error) => {
                // Nothing of this batch may be remembered: it is read again from committed state.
                known.forget();
                Err(match error {
                    CommitError::Fenced => Trouble::Ownership,
                    CommitError::Conflict => {
                        known.doubt();
                        Trouble::Conflict
                    }
                    CommitError::Data(error) => Trouble::Data(store::describe(&error)),
                    // Whether it was written shows in the cursors; they are compared before anything is repeated.
                    CommitError::Unknown(error) => {
                        tracing::warn!(error = %store::describe(&error), "no answer to COMMIT: reading the rows again");
                        self.session = None;
                        Trouble::Ownership
                    }
                    CommitError::Transient(error) => {
                        self.session = None;
                        Trouble::Transient(store::describe(&error))
                    }
                })
            }
        }
    }

    pub(crate) async fn owned(&mut self) -> Result<Vec<lease::Partition>, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::owned(&session.client, worker).await.map_err(|error| store::describe(&error))
    }

    pub(crate) async fn write_marks(&mut self, marks: &[(u16, i64, Mark)]) -> Result<u64, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::write_marks(&session.client, worker, marks).await.map_err(|error| store::describe(&error))
    }

    pub(crate) async fn release(&mut self, marks: &[(u16, i64, Mark)]) -> Result<u64, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::release(&session.client, worker, marks).await.map_err(|error| store::describe(&error))
    }

    pub(crate) async fn leave(&mut self) -> Result<(), String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::leave(&session.client, worker).await.map_err(|error| store::describe(&error))
    }

    pub(crate) async fn restart_cursor(&mut self, partition: u16, epoch: i64, incarnation: &str) -> Result<bool, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::restart_cursor(&session.client, worker, partition, epoch, incarnation).await.map_err(|error| store::describe(&error))
    }

    async fn note_tries(&mut self, tries: &[(u16, i64, u64)]) -> Result<Vec<u16>, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::note_tries(&session.client, worker, tries).await.map_err(|error| store::describe(&error))
    }

    async fn note_try(&mut self, partition: u16, epoch: i64, sequence: u64) -> Result<Option<i32>, String> {
        let worker = self.worker;
        let session = self.session().await?;
        lease::note_try(&session.client, worker, partition, epoch, sequence).await.map_err(|error| store::describe(&error))
    }
}

/// Loads what the commands need; where that leads to further states, in further round trips.
async fn load_all(session: &Session, known: &mut Known, items: &[Item], now: OffsetDateTime) -> Result<HashMap<CommandId, String>, LoadError> {
    let (wanted, following) = known.wanted(items, now);
    let outcomes = load::load(&session.client, &session.load, &wanted, &mut known.world, &mut known.heads).await?;
    // Each round leaves less to name, as what it names is in the world afterwards; the chains of teams are as long as teams may be deep.
    loop {
        let states: HashSet<Key> = following.iter().flat_map(|needs| needs.behind(&known.world)).collect();
        if states.is_empty() {
            return Ok(outcomes);
        }
        let behind = Wanted { states, ..Wanted::default() };
        load::load(&session.client, &session.load, &behind, &mut known.world, &mut known.heads).await?;
    }
}

impl Worker {
    /// Carries a batch through, whatever it takes: only commands of lost partitions are left to their new owner.
    pub(crate) async fn process(&mut self, items: Vec<Item>) {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
        // Halves of a batch that was refused for its data, first ones last.
        let mut waiting = vec![items];
        while let Some(mut items) = waiting.pop() {
            items.retain(|item| self.owned.get(&item.partition).is_some_and(|owned| owned.cursor < item.incoming.sequence));
            if items.is_empty() {
                continue;
            }
            match self.engine.run(&items, self.positions()).await.inspect_err(|trouble| METRICS.repeated(trouble)) {
                Ok((batch, count)) => {
                    backoff.reset();
                    self.written(batch, count).await;
                    if count < items.len() {
                        waiting.push(items.split_off(count));
                    }
                    continue;
                }
                Err(Trouble::Ownership) => self.compare_ownership().await,
                Err(Trouble::Conflict) => {
                    tracing::debug!("decided again: something was changed by somebody else");
                    backoff.wait().await;
                }
                Err(Trouble::Data(error)) if items.len() == 1 => {
                    // Alone and still refused: it costs this command its outcome, and nobody else anything.
                    if items[0].condemned.replace(error.clone()).is_some() {
                        tracing::error!(error, "a condemned command cannot be written off yet");
                        backoff.wait().await;
                    }
                }
                Err(Trouble::Data(error)) => {
                    tracing::warn!(error, commands = items.len(), "a batch is refused for its data: taking it apart");
                    let second = items.split_off(items.len() / 2);
                    waiting.push(second);
                    waiting.push(items);
                    continue;
                }
                Err(Trouble::Transient(error)) => {
                    tracing::warn!(error, "a batch could not be written: trying again");
                    backoff.wait().await;
                }
            }
            waiting.push(items);
        }
    }

    /// After the commit: positions move, the gateways are told, the events go to the lane.
    async fn written(&mut self, batch: Batch, commands: usize) {
        METRICS.decided.inc_by(commands as u64);
        METRICS.batches.observe(commands as f64);
        for step in &batch.writes.steps {
            if let Some(owned) = self.owned.get_mut(&step.partition) {
                owned.cursor = step.cursor;
                owned.sequence = step.sequence;
            }
        }
        failpoint::hit("committed");
        batch.writes.deadletters.iter().for_each(|letter| METRICS.dead(letter.reason));
        let begun = Instant::now();
        for (inbox, outcomes) in batch.replies {
            let body = Bytes::from(format!("[{}]", outcomes.join(",")));
            // Best effort: the table is the truth, and a gateway that hears nothing reads it.
            if let Err(error) = self.connection.client.publish(inbox, body).await {
                tracing::debug!(%error, "outcomes not sent");
            }
        }
        METRICS.tell.lap(begun);
        if !batch.writes.events.is_empty() && !planted!(PublishBeforeCommit) {
            self.tell_lane(Job::Publish(batch.writes.events)).await;
        }
        failpoint::hit("handed_to_lane");
    }

    /// Reads the rows again: drops what has another owner, and adopts cursors that moved by a COMMIT whose answer was lost.
    async fn compare_ownership(&mut self) {
        let rows = match self.engine.owned().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(error, "cannot compare ownership yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
                return;
            }
        };
        let lost: Vec<u16> = self
            .owned
            .iter()
            .filter(|(id, owned)| !rows.iter().any(|row| row.partition == **id && row.epoch == owned.epoch))
            .map(|(id, _)| *id)
            .collect();
        self.drop_lost(&lost).await;
        let mut moved = Vec::new();
        for row in rows {
            let Some(owned) = self.owned.get_mut(&row.partition) else { continue };
            if owned.cursor != row.cursor || owned.sequence != row.sequence {
                owned.cursor = row.cursor;
                owned.sequence = row.sequence;
                moved.push((row.partition, row.epoch));
            }
        }
        if !moved.is_empty() {
            // The events of that commit were never given to the lane: it finds them in the table.
            self.tell_lane(Job::Take { partitions: moved }).await;
        }
    }

    /// Tries commands after noting that they are tried. Together they cost no more time than one: should they end the process, each is tried
    /// alone by the successor.
    pub(crate) async fn try_with_care(&mut self, mut items: Vec<Item>) {
        if items.len() == 1
            && let Some(item) = items.pop()
        {
            return self.try_alone(item).await;
        }
        let epoch = |item: &Item| self.owned.get(&item.partition).map(|owned| owned.epoch);
        let tries: Vec<(u16, i64, u64)> = items.iter().filter_map(|item| Some((item.partition, epoch(item)?, item.incoming.sequence))).collect();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
        let ours = loop {
            match self.engine.note_tries(&tries).await {
                Ok(ours) => break ours,
                Err(error) => {
                    tracing::warn!(error, "cannot note tries");
                    backoff.wait().await;
                }
            }
        };
        if ours.len() < items.len() {
            self.compare_ownership().await;
        }
        failpoint::hit("trying");
        items.retain(|item| ours.contains(&item.partition));
        self.process(items).await;
    }

    /// Tries one command alone, after noting that it is tried: a command that kills the process is found by counting.
    async fn try_alone(&mut self, mut item: Item) {
        let Some(epoch) = self.owned.get(&item.partition).map(|owned| owned.epoch) else { return };
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));
        let tries = loop {
            match self.engine.note_try(item.partition, epoch, item.incoming.sequence).await {
                Ok(Some(tries)) => break tries,
                Ok(None) => return self.compare_ownership().await,
                Err(error) => {
                    tracing::warn!(error, "cannot note a try");
                    backoff.wait().await;
                }
            }
        };
        if tries >= self.config.crash_limit {
            item.condemned = Some(format!("the process ended {tries} times while it was decided"));
        } else {
            failpoint::hit("trying");
        }
        self.process(vec![item]).await;
    }
}
