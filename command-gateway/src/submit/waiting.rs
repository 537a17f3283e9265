//! Who waits for which outcome. Workers tell after the commit (best effort); the table is the truth and is asked when it stays silent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use futures_util::StreamExt as _;
use subjects::{CommandId, Outcome, user};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use uuid::Uuid;

use crate::store::{OUTCOMES, Store};

/// Silence after which the table is asked, and asked again.
const SILENCE: Duration = Duration::from_millis(250);

struct Entry {
    since: Instant,
    ask: bool,
    waiters: Vec<oneshot::Sender<Arc<Outcome>>>,
}

/// Waits for outcomes.
pub(crate) struct Waiting {
    inbox: String,
    entries: Mutex<HashMap<CommandId, Entry>>,
    ask: Notify,
}

/// One request's wait. Dropped, it waits no more.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    id: CommandId,
    outcome: oneshot::Receiver<Arc<Outcome>>,
}

impl Waiting {
    /// Waits at an inbox of its own.
    pub(crate) fn new() -> Arc<Self> {
        let inbox = format!("{}.{}", user::inbox(user::GATEWAY), Uuid::new_v4().simple());
        Arc::new(Self { inbox, entries: Mutex::default(), ask: Notify::new() })
    }

    /// Where workers tell the outcomes.
    pub(crate) fn inbox(&self) -> &str {
        &self.inbox
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<CommandId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait; several may wait for one command.
    pub(crate) fn register(self: &Arc<Self>, id: CommandId) -> Waiter {
        let (sender, outcome) = oneshot::channel();
        let mut entries = self.entries();
        let entry = entries.entry(id).or_insert_with(|| Entry { since: Instant::now(), ask: false, waiters: Vec::with_capacity(1) });
        entry.waiters.push(sender);
        drop(entries);
        Waiter { waiting: self.clone(), id, outcome }
    }

    /// Asks the table at once: it may have been decided long ago.
    pub(crate) fn ask_now(&self, id: CommandId) {
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.ask = true;
        }
        self.ask.notify_one();
    }

    fn tell(&self, outcome: Outcome) {
        let entry = self.entries().remove(&outcome.command_id);
        if let Some(entry) = entry {
            let outcome = Arc::new(outcome);
            for waiter in entry.waiters {
                // Whoever left is not told.
                let _ = waiter.send(outcome.clone());
            }
        }
    }

    /// The commands the table must be asked about.
    fn unanswered(&self, everything: bool) -> Vec<CommandId> {
        let now = Instant::now();
        let mut entries = self.entries();
        let due = entries.iter_mut().filter(|(_, entry)| everything || entry.ask || now.duration_since(entry.since) >= SILENCE);
        due.map(|(id, entry)| {
            entry.ask = false;
            *id
        })
        .collect()
    }

    /// Listens to the workers.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub(crate) async fn listen(self: Arc<Self>, client: Client) -> Result<(), async_nats::SubscribeError> {
        let mut messages = client.subscribe(self.inbox.clone()).await?;
        while let Some(message) = messages.next().await {
            match serde_json::from_slice::<Vec<Outcome>>(&message.payload) {
                Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.tell(outcome)),
                // The table has what this message should have told.
                Err(error) => tracing::error!(%error, "a worker told outcomes that cannot be read"),
            }
        }
        Ok(())
    }

    /// Asks the table about what stays silent, many commands at once; about everything when the connection to NATS is new.
    pub(crate) async fn ask(self: Arc<Self>, client: Client, store: Store) {
        let statistics = client.statistics();
        let mut connects = 0;
        loop {
            // Whichever comes first: the next look, or somebody who knows that there is something to see.
            let _ = tokio::time::timeout(SILENCE, self.ask.notified()).await;
            let now = statistics.connects.load(std::sync::atomic::Ordering::Relaxed);
            let unanswered = self.unanswered(now != connects);
            connects = now;
            for commands in unanswered.chunks(OUTCOMES) {
                match store.outcomes(commands).await {
                    Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.tell(outcome)),
                    Err(error) => {
                        tracing::debug!(%error, "outcomes cannot be read");
                        break;
                    }
                }
            }
        }
    }
}

impl Waiter {
    /// The outcome, whenever it comes.
    pub(crate) async fn outcome(&mut self) -> Arc<Outcome> {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            // The entry is only ever removed with an answer.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.outcome.close();
        let mut entries = self.waiting.entries();
        if let Some(entry) = entries.get_mut(&self.id) {
            entry.waiters.retain(|waiter| !waiter.is_closed());
            if entry.waiters.is_empty() {
                entries.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: CommandId) -> Outcome {
        Outcome {
            command_id: id,
            command: "tenant.create".into(),
            tenant_id: subjects::TenantId::new(id.uuid()),
            aggregate_id: String::new(),
            status: subjects::Status::Succeeded,
            code: None,
            version: Some(1),
            sequence: Some(1),
            events: Vec::new(),
            fingerprint: None,
            actor: subjects::Actor::System,
            accepted_at: None,
        }
    }

    #[tokio::test]
    async fn everybody_who_waits_for_a_command_is_told() {
        let waiting = Waiting::new();
        let id = CommandId::new(Uuid::from_u128(1));
        let (mut first, mut second) = (waiting.register(id), waiting.register(id));
        waiting.tell(outcome(id));
        assert_eq!(first.outcome().await.version, Some(1));
        assert_eq!(second.outcome().await.version, Some(1));
        assert!(waiting.entries().is_empty());
    }

    #[tokio::test]
    async fn who_waits_no_more_leaves_nothing_behind() {
        let waiting = Waiting::new();
        let id = CommandId::new(Uuid::from_u128(1));
        let first = waiting.register(id);
        let second = waiting.register(id);
        drop(first);
        assert_eq!(waiting.entries().get(&id).map(|entry| entry.waiters.len()), Some(1));
        drop(second);
        assert!(waiting.entries().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_asked_about_the_silent_the_flagged_and_after_a_reconnect_about_all() {
        let waiting = Waiting::new();
        let ids = [1, 2].map(|number| CommandId::new(Uuid::from_u128(number)));
        let _waiters = ids.map(|id| waiting.register(id));
        assert!(waiting.unanswered(false).is_empty());
        waiting.ask_now(ids[1]);
        assert_eq!(waiting.unanswered(false), vec![ids[1]]);
        assert!(waiting.unanswered(false).is_empty());
        assert_eq!(waiting.unanswered(true).len(), 2);
        tokio::time::advance(SILENCE).await;
        assert_eq!(waiting.unanswered(false).len(), 2);
    }
}
