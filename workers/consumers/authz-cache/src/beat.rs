//! The beat: through the bucket itself, and so through everybody's watch, it says that what had to be dropped until a moment ago is
//! dropped. Gateways believe their memory only while they hear it, so nobody needs to find out why it stopped: this process is gone,
//! frozen or behind, the bucket is full, deleted or without a leader, a watch is broken or a connection half open.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use deadpool_postgres::Pool;
use runtime::{Config, Stop, store};
use subjects::authz::Key;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bucket::Bucket;

/// How often it is asked whether EVENTS has what was decided. What is too old is noticed at most this much later.
const ASK: Duration = Duration::from_secs(1);

/// Whether an event was decided two seconds ago and is not known to be published: EVENTS is full, or out of reach, or the worker that is to
/// publish it is gone and has no successor yet. The worker's own note of how far it is may be a second old.
const UNPUBLISHED: &str =
    "SELECT EXISTS (SELECT FROM partitions p JOIN events e ON e.partition = p.partition AND e.partition_sequence = p.mark_sequence + 1
     WHERE p.mark_sequence < p.sequence AND e.occurred_at < now() - interval '2 s')";

/// Whether everything that was published a beat ago is handled.
#[derive(Debug, Default)]
struct Progress {
    /// What had been delivered at the last look, if nothing was waiting behind it.
    delivered: Option<u64>,
}

impl Progress {
    fn is_up_to_date(&mut self, waiting: u64, unanswered: usize, delivered: u64, answered: u64) -> bool {
        let before = std::mem::replace(&mut self.delivered, (waiting == 0).then_some(delivered));
        waiting == 0 && unanswered == 0 || before.is_some_and(|delivered| answered >= delivered)
    }

    fn look(&mut self, info: &Info) -> bool {
        self.is_up_to_date(info.num_pending, info.num_ack_pending, info.delivered.stream_sequence, info.ack_floor.stream_sequence)
    }
}

/// Whether everything that was decided is published.
struct Outbox {
    pool: Pool,
    asked: Option<Instant>,
    behind: bool,
}

impl Outbox {
    async fn is_behind(&mut self) -> Result<bool, String> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK) {
            let client = self.pool.get().await.map_err(|error| error.to_string())?;
            let row = client.query_one(UNPUBLISHED, &[]).await.map_err(|error| store::describe(&error))?;
            self.behind = row.try_get(0).map_err(|error| store::describe(&error))?;
            self.asked = Some(Instant::now());
        }
        Ok(self.behind)
    }
}

/// Beats until `stop`.
pub(crate) async fn go_on(bucket: Bucket, pool: Pool, config: Config, stop: Stop) {
    let mut ticks = interval(config.authz_beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    let mut outbox = Outbox { pool, asked: None, behind: false };
    let mut broken = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let once = timeout(config.publish_timeout, beat(&bucket, &mut progress, &mut outbox)).await;
        if let Err(error) = once.unwrap_or_else(|_| Err("no answer in time".into())) {
            if !broken {
                tracing::warn!(%error, "no beat: gateways believe only PostgreSQL");
            }
            progress = Progress::default();
            broken = true;
        } else if broken {
            tracing::info!("the beat goes on: gateways may remember");
            broken = false;
        }
    }
}

/// One beat, unless something is still to be dropped.
async fn beat(bucket: &Bucket, progress: &mut Progress, outbox: &mut Outbox) -> Result<(), String> {
    let is_up_to_date = progress.look(&bucket.durable().await?);
    if is_up_to_date && !outbox.is_behind().await? {
        bucket.delete(Key::Beat).await.map(drop).map_err(|failure| failure.to_string())
    } else {
        tracing::debug!("no beat: events are waiting");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_waiting_is_up_to_date() {
        assert!(Progress::default().is_up_to_date(0, 0, 7, 7));
    }

    #[test]
    fn what_was_delivered_a_beat_ago_must_be_answered() {
        let mut progress = Progress::default();
        assert!(!progress.is_up_to_date(0, 2, 9, 7), "nothing is known of the beat before");
        assert!(!progress.is_up_to_date(0, 1, 12, 8), "9 is not answered");
        assert!(!progress.is_up_to_date(3, 1, 14, 11), "12 is not answered");
        assert!(!progress.is_up_to_date(0, 1, 20, 19), "something was waiting a beat ago, and nobody knows what");
        assert!(progress.is_up_to_date(5, 5, 30, 20), "all of a beat ago is answered");
    }
}
