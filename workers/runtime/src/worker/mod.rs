//! The worker role: owns partitions, reads their commands, decides them in batches, and publishes what follows.
//!
//! One loop decides; beside it run a reader for each partition, the lease keeper, and the publishing lane. While the lane publishes
//! one transaction's events, the loop writes the next.

mod advisories;
mod ahead;
mod backlog;
pub mod backoff;
mod batch;
mod deadletter;
mod event;
mod failed;
mod headers;
mod janitor;
mod keeper;
mod metrics;
mod outbox;
mod owned;
mod parse;
#[cfg(feature = "planted")]
mod planted_lane;
mod process;
mod reader;
mod schedule;
mod settle;
mod traces;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use aggregates::Settings;
use async_nats::jetstream;
use subjects::stream as names;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

pub(crate) use headers::event_headers;
pub(crate) use outbox::{PublishError, store as store_message};

use crate::{Config, StartError, Stop, failpoint, health, nats, planted, store, streams};
use ahead::Ahead;
use keeper::{Avoided, Keeper, Notice};
use outbox::{Job, Marks, Outbox};
use owned::Owned;
use process::Engine;

/// How often the marks of quiet partitions are written.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// A running worker.
pub(crate) struct Worker {
    config: Config,
    connection: nats::Connection,
    context: jetstream::Context,
    engine: Engine,
    owned: BTreeMap<u16, Owned>,
    lane: mpsc::Sender<Job>,
    marks: Marks,
    ready: Arc<Notify>,
    avoided: Avoided,
    /// The epoch under which a partition was given away: an answer read before that is not news.
    handed_over: BTreeMap<u16, i64>,
    /// Whether partition 0 is ours: its owner runs the scheduler, the janitor and the alarms.
    first: Arc<AtomicBool>,
    /// Where the next round of taking starts, so that no partition is always first.
    turn: usize,
    /// How many partitions would be fair.
    share: usize,
}

/// Runs until `stop` is cancelled, then drains.
///
/// # Errors
/// What keeps the role from starting.
pub async fn run(config: Config, stop: Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    failpoint::arm(config.failpoint.as_deref());
    let id = Uuid::now_v7();
    let connection = nats::connect(&config, "worker", subjects::user::WORKER).await?;
    let mut context = jetstream::new(connection.client.clone());
    context.set_timeout(config.publish_timeout);
    let pool = store::pool(&config, &store::lease::session_name(id))?;
    prepare(&config, &stop).await?;
    streams::wait(&config, &context, &[names::COMMANDS, names::EVENTS], "nats", &stop).await?;
    health::set("nats", true, "the streams are there");

    let hard_stop = Stop::new();
    let marks = Marks::default();
    let (lane, jobs) = mpsc::channel(outbox::WAITING);
    let outbox = Outbox {
        connection: connection.clone(),
        context: context.clone(),
        pool: pool.clone(),
        worker: id,
        partitions: config.partitions,
        marks: marks.clone(),
        timeout: config.publish_timeout,
        makes_spans: config.makes_spans(),
        pace: config.publish_pace,
        fenced: BTreeMap::new(),
        stop: hard_stop.clone(),
    };
    planted!(PublishBeforeCommit => { planted_lane::remember(&lane) });
    let lane_task = tokio::spawn(outbox.run(jobs));
    let (notices_sender, notices) = mpsc::channel(16);
    let avoided = Avoided::default();
    let keeper_stop = Stop::new();
    let ahead = Ahead::new(connection.clone(), context.clone(), config.partitions, config.publish_timeout);
    let keeper = Keeper {
        config: config.clone(),
        worker: id,
        notices: notices_sender,
        avoided: avoided.clone(),
        ahead: ahead.clone(),
        stop: keeper_stop.clone(),
    };
    let keeper_task = tokio::spawn(keeper.run());
    let first = Arc::new(AtomicBool::new(false));
    let schedule = tokio::spawn(schedule::run(config.clone(), context.clone(), pool.clone(), first.clone(), stop.clone()));
    let backlog = tokio::spawn(backlog::run(config.clone(), connection.client.clone(), context.clone(), pool.clone(), first.clone(), stop.clone()));
    let alarms = tokio::spawn(advisories::run(config.clone(), context.clone(), first.clone(), stop.clone()));
    let janitor = tokio::spawn(janitor::run(config.clone(), context.clone(), pool.clone(), first.clone(), stop.clone()));
    let deadletters = tokio::spawn(deadletter::run(context.clone(), pool.clone(), stop.clone()));

    let settings = Settings {
        member_limits: config.member_limits,
        soft_deletion: config.soft_deletion.try_into()?,
        pending_invitations: config.pending_invitations,
        teams: config.teams,
        team_members: config.team_members,
        teams_per_member: config.teams_per_member,
    };
    let mut worker = Worker {
        engine: Engine::new(config.clone(), id, ahead, settings),
        connection,
        context,
        owned: BTreeMap::new(),
        lane,
        marks,
        ready: Arc::new(Notify::new()),
        avoided,
        handed_over: BTreeMap::new(),
        first,
        turn: 0,
        share: usize::from(config.partitions),
        config,
    };
    tracing::info!(worker.id = %id, worker.name = worker.config.worker_name, "worker started");
    worker.work(notices, &stop).await;

    // Drain: nothing new is taken; what is committed is published and handed over. What does not fit into the time is the successor's.
    keeper_stop.cancel();
    let drained = tokio::time::timeout(worker.config.drain, worker.hand_over_everything()).await;
    if drained.is_err() {
        tracing::warn!("not everything could be handed over in time: the successor settles it");
    }
    hard_stop.cancel();
    drop(worker);
    for task in [lane_task, keeper_task, schedule, backlog, alarms, janitor, deadletters] {
        if tokio::time::timeout(Duration::from_secs(2), task).await.is_err() {
            tracing::debug!("a task did not end in time");
        }
    }
    Ok(())
}

/// Waits for the database and makes sure that it has a row for each partition.
async fn prepare(config: &Config, stop: &Stop) -> Result<(), StartError> {
    let mut backoff = backoff::Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let attempt = async {
            let client = store::connect(config, "chancery worker", "").await?;
            let count: i64 = client.query_one("SELECT count(*) FROM partitions", &[]).await.map_err(|error| store::describe(&error))?.get(0);
            if count == 0 {
                store::lease::ensure_partitions(&client, config.partitions).await.map_err(|error| store::describe(&error))?;
            }
            Ok::<i64, String>(count)
        };
        match attempt.await {
            Ok(count) if count != 0 && count != i64::from(config.partitions) => {
                let wanted = config.partitions;
                return Err(StartError::Setup(format!("the database has {count} partitions and CHANCERY_PARTITIONS says {wanted}")));
            }
            Ok(_) => return Ok(()),
            Err(error) => tracing::warn!(error, "waiting for PostgreSQL"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = backoff.wait() => {}
        }
    }
}

impl Worker {
    async fn work(&mut self, mut notices: mpsc::Receiver<Notice>, stop: &Stop) {
        let mut marks_due = tokio::time::interval(MARK_EVERY);
        marks_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ready = self.ready.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                notice = notices.recv() => match notice {
                    Some(notice) => self.notice(notice).await,
                    None => return,
                },
                _ = marks_due.tick() => self.write_marks().await,
                () = ready.notified() => {
                    let drain = self.config.drain;
                    // A batch that cannot be written (no database) must not keep the process from ending.
                    let batches = self.batches(stop);
                    tokio::pin!(batches);
                    tokio::select! {
                        () = &mut batches => {}
                        () = async { stop.cancelled().await; tokio::time::sleep(drain / 2).await } => return,
                    }
                }
            }
        }
    }

    /// Decides what is there, batch after batch, until nothing is, or something else wants attention.
    async fn batches(&mut self, stop: &Stop) {
        let started = tokio::time::Instant::now();
        loop {
            if stop.is_cancelled() {
                return;
            }
            let restarted = self.apply_restarts().await;
            let careful = self.take_careful();
            let quiet = careful.is_empty() && !restarted;
            if !careful.is_empty() {
                self.try_with_care(careful).await;
            }
            let items = self.take_ready();
            let nothing = items.is_empty();
            if !nothing {
                self.process(items).await;
            }
            if nothing && quiet {
                return;
            }
            if started.elapsed() > Duration::from_millis(200) {
                // Leases and marks have their turn; what is left is still ready.
                self.ready.notify_one();
                return;
            }
        }
    }

    /// Writes marks that moved while no batch carried them.
    async fn write_marks(&mut self) {
        let marks = self.marks.take_dirty();
        if marks.is_empty() {
            return;
        }
        if let Err(error) = self.engine.write_marks(&marks).await {
            tracing::warn!(error, "cannot write marks");
            self.marks.again(&marks);
        }
    }

    /// Waits until the lane has done everything before this.
    async fn flush(&mut self) {
        let (done, flushed) = oneshot::channel();
        if self.lane.send(Job::Flush(done)).await.is_ok() {
            // The lane drops the sender only when it ends.
            let _ = flushed.await;
        }
    }

    async fn hand_over_everything(&mut self) {
        let all: Vec<u16> = self.owned.keys().copied().collect();
        self.hand_over(&all).await;
        if let Err(error) = self.engine.leave().await {
            tracing::warn!(error, "cannot end the lease: it runs out by itself");
        }
    }
}
