//! How commands ended: told by the worker on an inbox of ours, or read where outcomes are kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use deadpool_postgres::Pool;
use futures_util::StreamExt;
use subjects::{CommandId, Outcome};
use tokio::{sync::oneshot, time::timeout};

use crate::{StartError, Stop, store::describe};

/// How long the worker's answer is awaited before the table is looked at, and between looks.
const LOOK: Duration = Duration::from_millis(500);

type Waiting = Arc<Mutex<HashMap<CommandId, oneshot::Sender<Outcome>>>>;

/// Waits for outcomes.
pub(super) struct Outcomes {
    inbox: String,
    waiting: Waiting,
    pool: Pool,
}

impl Outcomes {
    /// Listens on an inbox until `stop`.
    pub(super) async fn listen(client: &Client, pool: Pool, stop: &Stop) -> Result<Self, StartError> {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| StartError::Nats(error.to_string()))?;
        let waiting = Waiting::default();
        let told = Arc::clone(&waiting);
        let stop = stop.clone();
        // Ends with the role: answers that nobody awaits are of no use.
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    () = stop.cancelled() => return,
                    message = answers.next() => message,
                };
                let Some(message) = message else { return };
                match serde_json::from_slice::<Vec<Outcome>>(&message.payload) {
                    Ok(outcomes) => tell(&told, outcomes),
                    Err(error) => tracing::warn!(%error, "an answer that is no list of outcomes"),
                }
            }
        });
        Ok(Self { inbox, waiting, pool })
    }

    /// Where answers are to be sent.
    pub(super) fn inbox(&self) -> &str {
        &self.inbox
    }

    /// Begins to wait. Call it before the command is published.
    pub(super) fn expect(&self, command: CommandId) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(command, sender);
        receiver
    }

    /// The outcome, if there is one within the limit.
    pub(super) async fn await_outcome(&self, command: CommandId, mut answer: oneshot::Receiver<Outcome>, limit: Duration) -> Option<Outcome> {
        let looking = async {
            loop {
                if let Ok(told) = timeout(LOOK, &mut answer).await {
                    return told.ok();
                }
                match self.stored(command).await {
                    Ok(None) => {}
                    Ok(found) => return found,
                    Err(error) => tracing::warn!(%error, "outcomes cannot be read"),
                }
            }
        };
        let outcome = timeout(limit, looking).await.unwrap_or_default();
        self.forget(command);
        outcome
    }

    /// Waits no more.
    pub(super) fn forget(&self, command: CommandId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&command);
    }

    /// What is kept about a command.
    async fn stored(&self, command: CommandId) -> Result<Option<Outcome>, String> {
        Ok(self.stored_of(&[command]).await?.remove(&command))
    }

    /// What is kept about several commands.
    pub(super) async fn stored_of(&self, commands: &[CommandId]) -> Result<HashMap<CommandId, Outcome>, String> {
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let ids: Vec<_> = commands.iter().map(|command| command.uuid()).collect();
        let rows = client.query("SELECT outcome::text FROM commands WHERE id = ANY($1)", &[&ids]).await.map_err(|error| describe(&error))?;
        let outcomes = rows.iter().map(|row| serde_json::from_str::<Outcome>(row.get(0)).map_err(|error| error.to_string()));
        outcomes.map(|outcome| outcome.map(|outcome| (outcome.command_id, outcome))).collect()
    }
}

fn tell(waiting: &Waiting, outcomes: Vec<Outcome>) {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    for outcome in outcomes {
        if let Some(sender) = waiting.remove(&outcome.command_id) {
            // Who gave up waiting reads it from the table later.
            let _ = sender.send(outcome);
        }
    }
}
