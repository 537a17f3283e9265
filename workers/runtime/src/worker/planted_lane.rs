//! What planted defects of the publishing lane do instead; see [`crate::planted`]. Only in builds with the feature.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use subjects::{Kind, TenantId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;

use super::{
    backoff::Backoff,
    headers::event_headers,
    outbox::{Fenced, Job, Outbox, PublishError, request_on, subject},
};
use crate::store::{self, commit::EventRow, lease::Mark};

/// The lane of this worker, for who publishes first.
static LANE: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
/// Publishes that a pipelined lane has in flight.
const IN_FLIGHT: usize = 256;
/// How often the relay polls.
const POLL: Duration = Duration::from_millis(20);
/// Events that one poll takes.
const PAGE: i64 = 500;

/// Remembers the lane, for [`publish_first`].
pub(super) fn remember(lane: &mpsc::Sender<Job>) {
    LANE.get_or_init(|| lane.clone());
}

/// `publish_before_commit`: the events are in EVENTS before the transaction that makes them.
pub(super) async fn publish_first(events: &[EventRow]) {
    let Some(lane) = LANE.get() else { return };
    let (done, flushed) = oneshot::channel();
    if lane.send(Job::Publish(events.to_vec())).await.is_ok() && lane.send(Job::Flush(done)).await.is_ok() {
        // The lane drops the sender only when it ends.
        let _ = flushed.await;
    }
}

impl Outbox {
    /// `pipelined_outbox`: every event is a publish of its own, many are in flight, and each is repeated by itself.
    pub(super) async fn pipeline(&mut self, events: Vec<EventRow>) {
        static SLOTS: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let slots = SLOTS.get_or_init(|| Arc::new(Semaphore::new(IN_FLIGHT)));
        for event in events {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let headers = self.headers(&event, true, None, 1, true);
            let (client, marks, limit) = (self.connection.client.clone(), self.marks.clone(), self.timeout);
            let Some(Fenced { epoch, life, .. }) = self.fenced.get(&event.partition).copied() else { continue };
            tokio::spawn(async move {
                let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
                loop {
                    let payload = Bytes::copy_from_slice(event.body.as_bytes());
                    match request_on(&client, limit, subject(&event), headers.clone(), payload).await {
                        Ok(stream) => {
                            let sequence = marks.get(event.partition, epoch).sequence.max(event.partition_sequence);
                            marks.set(event.partition, epoch, Mark { sequence, stream, life });
                            break;
                        }
                        // Another owner's, and it publishes it.
                        Err(PublishError::Refused { description, .. }) if description.contains("wrong last sequence") => break,
                        Err(error) => tracing::warn!(%error, "one of many publishes is repeated"),
                    }
                    backoff.wait().await;
                }
                drop(slot);
            });
        }
    }

    /// `outbox_by_id`: whoever has partition 0 relays what the table has behind the largest id it has relayed, of every partition.
    pub(super) async fn relay(self, mut jobs: mpsc::Receiver<Job>) {
        let mut ours = false;
        let mut last: Option<Uuid> = None;
        loop {
            match tokio::time::timeout(POLL, jobs.recv()).await {
                Ok(None) => return,
                Ok(Some(Job::Flush(done))) => drop(done.send(())),
                Ok(Some(Job::Take { partitions })) => ours |= partitions.iter().any(|(partition, _)| *partition == 0),
                Ok(Some(Job::Forget(partitions))) => {
                    if partitions.contains(&0) {
                        (ours, last) = (false, None);
                    }
                }
                Ok(Some(Job::Publish(_))) | Err(_) => {}
            }
            if ours && let Err(error) = self.relay_page(&mut last).await {
                tracing::warn!(error, "the relay polls again");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn relay_page(&self, last: &mut Option<Uuid>) -> Result<(), String> {
        let after = match *last {
            Some(after) => after,
            None => self.last_relayed().await?,
        };
        *last = Some(after);
        let connection = self.pool.get().await.map_err(|error| error.to_string())?;
        let statement = "SELECT partition, partition_sequence, tenant_id, sequence, id, type, kind, aggregate_id, command_id, occurred_at,
                 meta::text, body::text
             FROM events WHERE id > $1 ORDER BY id LIMIT $2";
        for row in connection.query(statement, &[&after, &PAGE]).await.map_err(|error| store::describe(&error))? {
            let event = EventRow {
                partition: row.get::<_, i16>(0) as u16,
                partition_sequence: row.get::<_, i64>(1) as u64,
                tenant: TenantId::new(row.get(2)),
                sequence: row.get::<_, i64>(3) as u64,
                id: row.get(4),
                event_type: row.get(5),
                kind: row.get::<_, &str>(6).parse::<Kind>().map_or("unknown", Kind::name),
                aggregate_id: row.get(7),
                command: row.get(8),
                occurred_at: row.get(9),
                meta: row.get(10),
                body: row.get(11),
            };
            let payload = Bytes::copy_from_slice(event.body.as_bytes());
            self.request(subject(&event), event_headers(&event), payload).await.map_err(|error| error.to_string())?;
            *last = Some(event.id);
        }
        Ok(())
    }

    /// The largest id there is: what others have written before is theirs to publish.
    async fn last_relayed(&self) -> Result<Uuid, String> {
        let connection = self.pool.get().await.map_err(|error| error.to_string())?;
        let row = connection.query_opt("SELECT id FROM events ORDER BY id DESC LIMIT 1", &[]).await.map_err(|error| store::describe(&error))?;
        Ok(row.map_or_else(Uuid::nil, |row| row.get(0)))
    }
}
