//! Keeps the lease, takes partitions up to the fair share, and tells the batch loop about both. On a connection of its own, so that a
//! long batch never costs the lease.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_postgres::Client;
use uuid::Uuid;

use super::ahead::Ahead;
use crate::{
    Config, Stop,
    store::{
        self,
        lease::{self, Partition},
    },
};

/// What the batch loop is told.
#[derive(Debug)]
pub(crate) enum Notice {
    /// These are ours now.
    Taken(Vec<Partition>),
    /// What the table says we own, and how much would be fair.
    Standing { owned: Vec<Partition>, share: usize },
}

/// Partitions this worker leaves to others for a while: they hold commands of a newer version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Avoided(Arc<Mutex<HashMap<u16, Instant>>>);

impl Avoided {
    pub(crate) fn avoid(&self, partition: u16, until: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, until);
    }

    fn now(&self) -> Vec<i16> {
        let mut avoided = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.retain(|_, until| *until > Instant::now());
        avoided.keys().map(|partition| *partition as i16).collect()
    }
}

pub(crate) struct Keeper {
    pub(crate) config: Config,
    pub(crate) worker: Uuid,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) avoided: Avoided,
    pub(crate) ahead: Ahead,
    pub(crate) stop: Stop,
}

impl Keeper {
    /// Renews and takes until stopped.
    pub(crate) async fn run(self) {
        let mut connection: Option<(Client, Instant)> = None;
        let mut next = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(next) => {}
            }
            next = match self.tick(&mut connection).await {
                Ok(below) if below => Duration::from_millis(150).min(self.config.lease / 3),
                Ok(_) => (self.config.lease / 3).min(Duration::from_secs(1)),
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the lease");
                    crate::health::set("postgres", false, error);
                    connection = None;
                    Duration::from_millis(250)
                }
            };
        }
    }

    /// One round. Returns whether we own clearly less than our share, and should look again soon.
    async fn tick(&self, connection: &mut Option<(Client, Instant)>) -> Result<bool, String> {
        let text = |error: tokio_postgres::Error| store::describe(&error);
        if connection.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            let client = store::connect(&self.config, &lease::session_name(self.worker), "").await?;
            self.ahead.pass(&client).await?;
            *connection = Some((client, Instant::now()));
        }
        let Some((client, since)) = connection.as_ref() else { return Ok(true) };
        let work = async {
            let live = lease::renew(client, self.worker, &self.config.worker_name, self.config.lease).await.map_err(text)?;
            crate::health::set("postgres", true, "connected");
            let share = usize::from(self.config.partitions).div_ceil(live);
            let owned = lease::owned(client, self.worker).await.map_err(text)?;
            let count = owned.len();
            self.tell(Notice::Standing { owned, share });
            if count >= share {
                return Ok(false);
            }
            // Nobody takes over before having been connected for a lease time: after an outage the owners come back first.
            let expired = since.elapsed() >= self.config.lease;
            if expired {
                let ended = lease::end_frozen_sessions(client, self.worker).await.map_err(text)?;
                if ended > 0 {
                    tracing::warn!(ended, "ended sessions of workers whose lease ran out");
                }
            }
            let taken = lease::take(client, self.worker, share - count, expired, &self.avoided.now()).await.map_err(text)?;
            let below = count + taken.len() < usize::from(self.config.partitions) / live;
            if !taken.is_empty() {
                self.tell(Notice::Taken(taken));
            }
            Ok(below)
        };
        tokio::time::timeout(self.config.database_timeout, work).await.map_err(|_| "the database does not answer".to_owned())?
    }

    /// Never waits: a busy loop must not cost the lease. What is not told now shows in the next standing.
    fn tell(&self, notice: Notice) {
        if let Err(error) = self.notices.try_send(notice) {
            tracing::debug!(%error, "the batch loop is busy");
        }
    }
}
