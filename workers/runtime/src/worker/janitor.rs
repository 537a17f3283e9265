//! Purges decided commands from COMMANDS, a while behind, and forgets old outcomes that no client can ask for again and old notes of consumers.

use std::{
    future::IntoFuture as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{self, stream::DirectGetErrorKind};
use deadpool_postgres::Pool;
use subjects::{command_filter, stream as names};
use time::OffsetDateTime;

use crate::{Config, Stop, nats, store::janitor, streams};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(60);
/// Outcomes deleted in one round.
const BATCH: i64 = 10_000;

pub(crate) async fn run(config: Config, context: jetstream::Context, pool: Pool, first: Arc<AtomicBool>, stop: Stop) {
    let every = EVERY.min(config.janitor_lag.max(Duration::from_millis(500)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        if !first.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = round(&config, &context, &pool).await {
            tracing::warn!(error, "the janitor tries again later");
        }
    }
}

async fn round(config: &Config, context: &jetstream::Context, pool: &Pool) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = streams::get(context, names::COMMANDS).await?;
    let state = &stream.cached_info().state;
    let incarnation = crate::streams::incarnation(stream.cached_info());
    let connection = pool.get().await.map_err(|error| text(&error))?;
    janitor::forget_outcomes(&connection, config.outcome_retention, BATCH).await.map_err(|error| crate::store::describe(&error))?;
    janitor::forget_notes(&connection, config.note_retention, BATCH).await.map_err(|error| crate::store::describe(&error))?;
    if state.messages == 0 {
        return Ok(());
    }
    let cursors = janitor::cursors(&connection).await.map_err(|error| crate::store::describe(&error))?;
    let mut keep_from = state.last_sequence + 1;
    for (partition, cursor, life) in cursors {
        // A cursor of another life of the stream says nothing about this one.
        let cursor = if life == incarnation { cursor } else { 0 };
        if let Some(sequence) = first_undecided(&stream, partition, cursor).await? {
            keep_from = keep_from.min(sequence);
        }
    }
    let before = OffsetDateTime::now_utc() - config.janitor_lag;
    let keep_from = keep_from.min(first_since(&stream, state.first_sequence, state.last_sequence, before).await?);
    if keep_from > state.first_sequence {
        let purged = nats::ask_api("STREAM.PURGE.COMMANDS", stream.purge().sequence(keep_from).into_future()).await?;
        tracing::info!(purged = purged.purged, up_to = keep_from, "decided commands purged");
    }
    Ok(())
}

/// The first message of a partition after its cursor.
async fn first_undecided(stream: &jetstream::stream::Stream, partition: u16, cursor: u64) -> Result<Option<u64>, String> {
    match stream.direct_get_next_for_subject(command_filter(partition), Some(cursor + 1)).await {
        Ok(message) => Ok(Some(message.sequence)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The first sequence at or after a time, by bisection: about twenty reads for a million messages.
async fn first_since(stream: &jetstream::stream::Stream, first: u64, last: u64, since: OffsetDateTime) -> Result<u64, String> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // Sequences may have holes after a purge by subject; the next message stands for them.
        match stream.direct_get_next_for_subject(">", Some(middle)).await {
            Ok(message) if message.time < since => low = message.sequence + 1,
            Ok(_) => high = middle,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => high = middle,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(low)
}
