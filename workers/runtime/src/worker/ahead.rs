//! A database that went back: EVENTS is ahead of it, and nobody may decide or consume until a person has said what is to become of that.
//!
//! Whenever PostgreSQL has started anew (restored, failed over or only restarted), the first worker to come puts a fence in every partition,
//! so that nothing that was decided before can still arrive, and reads EVENTS from where the database knows it to where the fences are. Every
//! event there was committed before it was published, so one that the table does not know was decided by a database that is no more. If
//! there is none, the start is noted as well, and every worker and consumer goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures_util::future::try_join_all;
use subjects::{EventId, TenantId, stream as names};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::store_message;
use crate::{
    health, nats,
    repair::Scan,
    store::{self, history, repair},
    streams,
};

/// Messages looked up in the table in one go.
const LOOKED_UP: usize = 500;
/// How long an answer stands before EVENTS is read again: a refused worker asks often.
const STANDS: Duration = Duration::from_secs(5);

/// How long it takes to be refused once more without looking.
const PAUSE: Duration = Duration::from_secs(1);

/// The check, shared by the connections of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Ahead {
    connection: nats::Connection,
    context: jetstream::Context,
    partitions: u16,
    timeout: Duration,
    /// What was found, and when. Held while somebody looks, so that the others find the answer.
    refused: Arc<Mutex<Option<(Instant, String)>>>,
}

/// What EVENTS has and the table has not.
#[derive(Debug, PartialEq, Eq)]
struct Unknown {
    /// The first of them, as far as anybody looked.
    tenant: TenantId,
    sequence: u64,
    id: EventId,
    stream_sequence: u64,
    /// How many there are.
    count: usize,
}

impl Ahead {
    pub(crate) fn new(connection: nats::Connection, context: jetstream::Context, partitions: u16, timeout: Duration) -> Self {
        Self { connection, context, partitions, timeout, refused: Arc::default() }
    }

    /// Whether this connection may be used to decide. To be asked of every new one.
    ///
    /// # Errors
    /// EVENTS is ahead, or it is not known (yet): then the connection is good for nothing.
    pub(crate) async fn pass(&self, client: &Client) -> Result<(), String> {
        let text = |error: tokio_postgres::Error| store::describe(&error);
        let mut refused = self.refused.lock().await;
        if history::is_checked(client).await.map_err(text)? {
            *refused = None;
            health::set("history", true, "EVENTS has nothing that the database does not know");
            return Ok(());
        }
        if let Some((at, error)) = &*refused
            && at.elapsed() < STANDS
        {
            let error = error.clone();
            drop(refused);
            tokio::time::sleep(PAUSE).await;
            return Err(error);
        }
        let unknown = match self.look(client).await {
            Ok(unknown) => unknown,
            Err(error) => {
                let error = format!("PostgreSQL has started anew, and EVENTS cannot be compared with it yet: {error}");
                health::set("history", false, &error);
                return Err(error);
            }
        };
        let Some(unknown) = unknown else {
            history::note_checked(client).await.map_err(text)?;
            *refused = None;
            tracing::info!("EVENTS has nothing that the database does not know");
            health::set("history", true, "EVENTS has nothing that the database does not know");
            return Ok(());
        };
        let Unknown { tenant, sequence, id, stream_sequence, count } = unknown;
        let error = format!(
            "the database went back: EVENTS has {count} events that it does not know, the first of them {id} (event {sequence} of {tenant}, at \
             {stream_sequence}). Nothing is decided or consumed before an operator has chosen: docs/operations.md, \"PostgreSQL restored to an earlier time\""
        );
        tracing::error!(tenant.id = %tenant, event.id = %id, stream.sequence = stream_sequence, count, "{error}");
        health::set("history", false, &error);
        *refused = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// Fences, and reads what the database does not know to be there.
    async fn look(&self, client: &Client) -> Result<Option<Unknown>, String> {
        let text = |error: tokio_postgres::Error| store::describe(&error);
        let stream = streams::get(&self.context, names::EVENTS).await?;
        // Before the fences: what is marked later is not older.
        let from = history::known_until(client, streams::life(stream.cached_info())).await.map_err(text)? + 1;
        let fences = (0..self.partitions)
            .map(|partition| store_message(&self.connection.client, self.timeout, subjects::fence(partition), HeaderMap::new(), Bytes::new()));
        let fences = try_join_all(fences).await.map_err(|error| error.to_string())?;
        let to = fences.iter().map(|stored| stored.seq).max().unwrap_or(0);
        // A mark beyond the end belongs to a stream that was cut off: then all of it is looked at.
        let from = if from > to { 1 } else { from };
        let mut scan = Scan::open(&self.connection, &stream, from, to, "", false).await?;
        let mut unknown: Option<Unknown> = None;
        let mut page = Vec::new();
        loop {
            let message = scan.next().await?;
            let ends = message.is_none();
            // Fences, and what nobody of ours has written, have no place in a history.
            page.extend(message.and_then(|message| message.place().map(|place| (place, message.sequence))));
            if page.len() >= LOOKED_UP || ends {
                let places: Vec<(TenantId, u64)> = page.iter().map(|((tenant, sequence, _), _)| (*tenant, *sequence)).collect();
                let known = repair::known(client, &places).await.map_err(text)?;
                for (((tenant, sequence, id), stream_sequence), known) in page.drain(..).zip(known) {
                    if known.is_none_or(|(known, _)| known != id) {
                        let first = Unknown { tenant, sequence, id: EventId::new(id), stream_sequence, count: 0 };
                        unknown.get_or_insert(first).count += 1;
                    }
                }
            }
            if ends {
                return Ok(unknown);
            }
        }
    }
}
