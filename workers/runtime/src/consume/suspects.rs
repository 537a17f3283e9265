//! Events that may be what ends the process. The server counts deliveries, and a crash counts for everything that was read ahead; only
//! what was written down before an event was tried alone tells the guilty from those beside it.

use deadpool_postgres::Pool;

use crate::{Config, store};

/// What is said of an event that is given up because of it.
pub(super) const CONDEMNED: &str = "it ended the process whenever it was tried";
/// The key under which the lives of an owner are counted: no place of an event.
const LIVES: i64 = i64::MIN;

/// Notes of one consumer. Without a database nothing is noted, and nothing condemned.
pub(crate) struct Suspects {
    pool: Option<Pool>,
    consumer: &'static str,
    limit: u32,
}

impl Suspects {
    /// Connects only when there is something to note.
    pub(crate) fn new(consumer: &'static str, config: &Config, pool: Option<Pool>) -> Self {
        Self { pool, consumer, limit: u32::try_from(config.crash_limit).unwrap_or(1) }
    }

    /// Whether an event is to be tried alone: others have answered by then.
    pub(crate) const fn is_one(&self, delivered: u32) -> bool {
        delivered > self.limit
    }

    /// Notes that the event at a place is about to be tried alone. False when that was done too often without an answer.
    pub(crate) async fn may_try(&self, place: i64) -> bool {
        self.note(place).await <= self.limit
    }

    /// It got an answer, whichever.
    pub(crate) async fn clear(&self, place: i64) {
        let cleared = async {
            let Some(pool) = &self.pool else { return Ok(()) };
            let client = pool.get().await.map_err(|error| error.to_string())?;
            let statement = "DELETE FROM consumer_suspects WHERE consumer = $1 AND stream_sequence = $2";
            client.execute(statement, &[&self.consumer, &place]).await.map(|_| ()).map_err(|error| store::describe(&error))
        };
        if let Err(error) = cleared.await {
            let error: String = error;
            tracing::warn!(consumer.name = self.consumer, %error, "a note about a suspect stays");
        }
    }

    /// Notes that an owner begins. Whether several before it have ended as by a crash, and none came any further.
    pub(crate) async fn begin_life(&self) -> bool {
        self.note(LIVES).await > self.limit
    }

    /// The owner has come further, or ends as it should.
    pub(crate) async fn end_doubt(&self) {
        self.clear(LIVES).await;
    }

    /// How often this was noted since it was cleared.
    async fn note(&self, key: i64) -> u32 {
        let note = "INSERT INTO consumer_suspects AS s (consumer, stream_sequence, tries) VALUES ($1, $2, 1)
             ON CONFLICT (consumer, stream_sequence) DO UPDATE SET tries = s.tries + 1 RETURNING tries";
        let tries = async {
            let Some(pool) = &self.pool else { return Ok(0) };
            let client = pool.get().await.map_err(|error| error.to_string())?;
            let row = client.query_one(note, &[&self.consumer, &key]).await.map_err(|error| store::describe(&error))?;
            Ok::<i32, String>(row.get(0))
        };
        match tries.await {
            Ok(tries) => u32::try_from(tries).unwrap_or(0),
            Err(error) => {
                tracing::warn!(consumer.name = self.consumer, %error, "nothing could be noted: what ends the process is found later");
                0
            }
        }
    }
}
