//! `chancery events rebuild`: EVENTS built anew from the table, in its old order.
//!
//! The workers do it: what a partition's mark says is not in the stream, its owner publishes, in order and fenced. So the stream is deleted, the
//! marks are set back while there is none (nobody can publish in between), and an empty stream is made. Whatever ends on the way, the next
//! owner goes on. The new stream begins at a higher number than any the old one had: a fence of the old life is nobody's in the new one.

use async_nats::jetstream;
use serde::Serialize;
use subjects::stream as names;
use time::OffsetDateTime;

use crate::{
    Config, nats,
    store::{
        self,
        repair::{self as sql, Base},
    },
    streams,
};

/// The first number of a new life is the next multiple of this beyond the old one's, and one more.
const STEP: u64 = 1_000_000;
/// What an event takes in the stream besides its body, about: subject, headers, and what the server keeps of each message.
const OVERHEAD: u64 = 700;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// EVENTS may be there, and is deleted.
    pub replace: bool,
    /// Older events are left to the table. As far back as the age limit by default, where there is one.
    pub since: Option<OffsetDateTime>,
}

/// What there is to do, or was done.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// Events that the workers publish.
    pub events: u64,
    /// Older ones: consumers that miss them are fed from the table.
    pub left_to_the_table: u64,
    /// About how large they are.
    pub bytes: u64,
    /// Whether there is an EVENTS to be deleted.
    pub replaces: bool,
    /// The number of the new stream's first message.
    pub first_sequence: u64,
}

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another repair is under way.
    #[error("another repair of this database is under way")]
    Locked,
    /// EVENTS exists.
    #[error("EVENTS exists, with {messages} messages: `--replace` deletes it, with all its consumers, and builds both anew")]
    Exists {
        /// What it holds.
        messages: u64,
    },
    /// It would be full.
    #[error("the events take about {bytes} bytes and EVENTS may hold {limit}: say `--since`, or raise CHANCERY_EVENTS_MAX_BYTES")]
    TooLarge {
        /// What is needed.
        bytes: u64,
        /// What may be.
        limit: u64,
    },
    /// The database.
    #[error("database: {0}")]
    Database(String),
    /// NATS.
    #[error("NATS: {0}")]
    Nats(String),
}

/// A rebuild that was looked at, and holds the lock of repairs until it is dropped.
#[derive(Debug)]
pub struct Rebuild {
    client: tokio_postgres::Client,
    context: jetstream::Context,
    stream: jetstream::stream::Config,
    bases: Vec<Base>,
    /// What there is to do.
    pub plan: Rebuilt,
}

impl Rebuild {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub async fn look(config: &Config, connection: &nats::Connection, wanted: Wanted) -> Result<Self, RebuildError> {
        let database = |error: tokio_postgres::Error| RebuildError::Database(store::describe(&error));
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(config.publish_timeout);
        let client = store::connect(config, "chancery rebuild", "-c statement_timeout=0").await.map_err(RebuildError::Database)?;
        if !sql::lock(&client).await.map_err(database)? {
            return Err(RebuildError::Locked);
        }
        let found = streams::look_at(&context, names::EVENTS).await.map_err(RebuildError::Nats)?;
        if let (Some(found), false) = (&found, wanted.replace) {
            return Err(RebuildError::Exists { messages: found.cached_info().state.messages });
        }
        let by_age = (!config.events_max_age.is_zero()).then(|| OffsetDateTime::now_utc() - config.events_max_age);
        let since = wanted.since.or(by_age);
        let (mut bases, mut highest) = (Vec::new(), found.as_ref().map_or(0, |found| found.cached_info().state.last_sequence));
        let mut plan = Rebuilt { events: 0, left_to_the_table: 0, bytes: 0, replaces: found.is_some(), first_sequence: 0 };
        for row in sql::published(&client).await.map_err(database)? {
            let base = match since {
                Some(since) => sql::older_than(&client, row.partition, row.sequence, since).await.map_err(database)?,
                None => 0,
            };
            plan.left_to_the_table += base;
            plan.events += row.sequence - base.min(row.sequence);
            highest = highest.max(row.mark.stream);
            bases.push(Base { partition: row.partition, base });
        }
        plan.first_sequence = (highest / STEP + 1) * STEP + 1;
        plan.bytes = sql::bytes_after(&client, &bases).await.map_err(database)? + plan.events * OVERHEAD;
        let limit = u64::try_from(config.events_max_bytes).unwrap_or(u64::MAX);
        if plan.bytes > limit {
            return Err(RebuildError::TooLarge { bytes: plan.bytes, limit });
        }
        let [_, stream, ..] = streams::wanted(config);
        Ok(Self { client, context, stream, bases, plan })
    }

    /// Deletes EVENTS, sets the marks back, and makes an empty one. The consumers are the provisioner's to make.
    ///
    /// # Errors
    /// [`RebuildError`]; it may be begun again.
    pub async fn run(&mut self) -> Result<(), RebuildError> {
        let broker = |error: String| RebuildError::Nats(error);
        if streams::look_at(&self.context, names::EVENTS).await.map_err(broker)?.is_some() {
            self.context.delete_stream(names::EVENTS).await.map_err(|error| broker(error.to_string()))?;
        }
        let set_back = sql::set_back(&mut self.client, &self.bases).await;
        set_back.map_err(|error| RebuildError::Database(store::describe(&error)))?;
        let stream = jetstream::stream::Config { first_sequence: Some(self.plan.first_sequence), ..self.stream.clone() };
        self.context.create_stream(stream).await.map_err(|error| broker(error.to_string()))?;
        Ok(())
    }

    /// How many events are not published yet.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn left(&self) -> Result<u64, RebuildError> {
        let rows = sql::published(&self.client).await.map_err(|error| RebuildError::Database(store::describe(&error)))?;
        Ok(rows.iter().map(|row| row.sequence.saturating_sub(row.mark.sequence)).sum())
    }
}
