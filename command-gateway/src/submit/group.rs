//! Group commit: where every message costs the server an fsync, commands that wait anyway go as one atomic batch.
//!
//! One group is under way at a time; what arrives meanwhile is the next one. A lone command goes at once.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use subjects::header;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use super::publish::{Ack, Letter, NotStored, Publisher, Try};

/// Messages the server takes in one batch at most.
const BATCH: usize = 1_000;
/// Bytes of messages in one batch at most, so that it does not hold up the connection.
const BATCH_BYTES: usize = 4 << 20;
/// How long single commands may hold up the next group; a slow one goes on by itself.
const PATIENCE: Duration = Duration::from_millis(100);

/// A command that waits to be stored.
pub(crate) struct Job {
    letter: Letter,
    deadline: Instant,
    answer: oneshot::Sender<Result<Ack, NotStored>>,
}

impl Job {
    pub(crate) fn new(letter: Letter, deadline: Instant) -> (Self, oneshot::Receiver<Result<Ack, NotStored>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { letter, deadline, answer }, receiver)
    }

    /// Publishes it singly, until its deadline or until nobody waits for it.
    async fn single(self, publisher: Arc<Publisher>, doubtful: bool) {
        let Self { letter, deadline, mut answer } = self;
        let result = tokio::select! {
            result = publisher.store(&letter, deadline, doubtful) => result,
            () = answer.closed() => return,
        };
        let _ = answer.send(result);
    }
}

/// Takes what is ready, never lingers, and sends it as one group.
pub(crate) async fn run(publisher: Arc<Publisher>, mut queue: mpsc::Receiver<Job>, least: usize) {
    while let Some(first) = queue.recv().await {
        let mut bytes = first.letter.body.len();
        let mut jobs = vec![first];
        while jobs.len() < BATCH && bytes < BATCH_BYTES {
            let Ok(job) = queue.try_recv() else { break };
            bytes += job.letter.body.len();
            jobs.push(job);
        }
        if jobs.len() < least.max(2) || !publisher.connected() {
            singly(&publisher, jobs, false).await;
            continue;
        }
        match batch(&publisher, &jobs).await {
            Try::Stored(ack) => {
                for job in jobs {
                    let _ = job.answer.send(Ok(ack));
                }
            }
            // The batch was refused as a whole; each for itself has its id, and is told what is wrong with it.
            Try::Full | Try::Not | Try::Refused => singly(&publisher, jobs, false).await,
            Try::Unknown => singly(&publisher, jobs, true).await,
        }
    }
}

async fn singly(publisher: &Arc<Publisher>, jobs: Vec<Job>, doubtful: bool) {
    let tasks: Vec<_> = jobs.into_iter().map(|job| tokio::spawn(job.single(publisher.clone(), doubtful))).collect();
    let _ = tokio::time::timeout(PATIENCE, join_all(tasks)).await;
}

/// Sends an atomic batch. Only its last message asks for an answer: it tells about all of them, and a refusal of an earlier one makes
/// it a refusal too, at once.
async fn batch(publisher: &Publisher, jobs: &[Job]) -> Try {
    let Some((last, others)) = jobs.split_last() else { return Try::Not };
    let id = Uuid::new_v4().simple().to_string();
    let headers = |letter: &Letter, sequence: usize| {
        let mut headers = publisher.headers(letter);
        headers.insert(header::BATCH_ID, id.as_str());
        headers.insert(header::BATCH_SEQUENCE, sequence.to_string());
        headers
    };
    for (index, job) in others.iter().enumerate() {
        if !publisher.send(&job.letter.subject, headers(&job.letter, index + 1), job.letter.body.clone()).await {
            return Try::Not;
        }
    }
    let mut commit = headers(&last.letter, jobs.len());
    commit.insert(header::BATCH_COMMIT, "1");
    publisher.request(&last.letter.subject, commit, last.letter.body.clone(), publisher.timeout()).await
}
