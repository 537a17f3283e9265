//! What waits in the whole cluster: commands that nobody has decided, events that nobody has published, and for how long.
//!
//! It is looked at from outside of the work, in the tables and in COMMANDS, by whoever owns the first partition: an owner that is stuck does
//! not count its own delay, and a partition without an owner has nobody who would. When that worker is stuck itself, its lease ends and
//! another one looks. Where no worker lives nobody looks, and the time of the last look says so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream};
use deadpool_postgres::Pool;
use futures_util::{StreamExt as _, TryStreamExt as _};
use subjects::{command_filter, stream as names};
use time::OffsetDateTime;

use super::metrics::BACKLOG;
use crate::{
    Config, Stop,
    store::{self, backlog::Waiting},
    streams::{self, after_of},
};

/// Questions that are asked at once.
const AT_ONCE: usize = 16;
/// How often an alarm is told again while it lasts.
const AGAIN: Duration = Duration::from_secs(60);

/// Looks until `stop`, while this worker has the first partition.
pub(crate) async fn run(config: Config, client: async_nats::Client, context: jetstream::Context, pool: Pool, first: Arc<AtomicBool>, stop: Stop) {
    let mut alarm = Alarm::default();
    forget();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(config.backlog_look) => {}
        }
        if !first.load(Ordering::Relaxed) {
            forget();
            alarm = Alarm::default();
            continue;
        }
        match look(&client, &context, &pool).await {
            Ok(seen) => {
                let overdue = seen.overdue(config.undecided_after, OffsetDateTime::now_utc());
                seen.show(overdue.len());
                alarm.judge(&overdue, seen.undecided_since);
            }
            // What was shown stays, and the time of the last look tells how old it is.
            Err(error) => tracing::warn!(error, "what waits cannot be looked at"),
        }
    }
}

/// What was seen in one look.
#[derive(Debug, Default)]
struct Seen {
    undecided: u64,
    undecided_since: Option<OffsetDateTime>,
    /// Partitions that have something undecided, and since when.
    waiting: Vec<(u16, OffsetDateTime)>,
    unpublished: u64,
    unpublished_since: Option<OffsetDateTime>,
    unowned: u64,
    /// Bytes of COMMANDS and EVENTS, and as many as they may have.
    bytes: [(u64, i64); 2],
}

async fn look(client: &async_nats::Client, context: &jetstream::Context, pool: &Pool) -> Result<Seen, String> {
    let connection = pool.get().await.map_err(|error| error.to_string())?;
    let rows = store::backlog::waiting(&connection).await.map_err(|error| store::describe(&error))?;
    drop(connection);
    let (commands, events) = (streams::get(context, names::COMMANDS).await?, streams::get(context, names::EVENTS).await?);
    let life = streams::incarnation(commands.cached_info());
    // A cursor of another life of the stream says nothing about this one.
    let from = |row: &Waiting| if row.commands_incarnation == life { row.cursor } else { 0 };
    let questions: Vec<(u16, u64)> = rows.iter().map(|row| (row.partition, from(row))).collect();
    let answers: Vec<(u16, Option<(u64, OffsetDateTime)>)> = futures_util::stream::iter(questions)
        .map(async |(partition, after)| Ok::<_, String>((partition, after_of(client, names::COMMANDS, &command_filter(partition), after).await?)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut seen = Seen { bytes: [size(commands.cached_info()), size(events.cached_info())], ..Seen::default() };
    for (partition, (count, since)) in answers.into_iter().filter_map(|(partition, found)| Some((partition, found?))) {
        seen.undecided += count;
        seen.undecided_since = earlier(seen.undecided_since, Some(since));
        seen.waiting.push((partition, since));
    }
    for row in rows {
        seen.unpublished += row.unpublished;
        seen.unpublished_since = earlier(seen.unpublished_since, row.unpublished_since.filter(|_| row.unpublished > 0));
        seen.unowned += u64::from(!row.is_owned);
    }
    Ok(seen)
}

fn size(info: &stream::Info) -> (u64, i64) {
    (info.state.bytes, info.config.max_bytes.max(0))
}

fn earlier(one: Option<OffsetDateTime>, other: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
    [one, other].into_iter().flatten().min()
}

impl Seen {
    /// The partitions whose oldest undecided command is older than that.
    fn overdue(&self, after: Duration, now: OffsetDateTime) -> Vec<u16> {
        let mut overdue: Vec<u16> = self.waiting.iter().filter(|(_, since)| now - *since > after).map(|(partition, _)| *partition).collect();
        overdue.sort_unstable();
        overdue
    }

    fn show(&self, overdue: usize) {
        BACKLOG.undecided.set_count(self.undecided);
        BACKLOG.undecided_age.set(self.undecided_since);
        BACKLOG.overdue.set_count(overdue as u64);
        BACKLOG.unpublished.set_count(self.unpublished);
        BACKLOG.unpublished_age.set(self.unpublished_since);
        BACKLOG.unowned.set_count(self.unowned);
        for ((bytes, max), (bytes_gauge, max_gauge)) in self.bytes.iter().zip(BACKLOG.bytes.iter().zip(&BACKLOG.max_bytes)) {
            bytes_gauge.set_count(*bytes);
            max_gauge.set(*max);
        }
        BACKLOG.looked.set(OffsetDateTime::now_utc().unix_timestamp());
    }
}

/// Shows nothing: somebody else does.
fn forget() {
    Seen::default().show(0);
    BACKLOG.looked.set(0);
}

/// Whether commands are overdue, and when that was last told.
#[derive(Debug, Default)]
struct Alarm {
    told: Option<Instant>,
}

impl Alarm {
    /// Tells when it begins, again and again while it lasts, and when it is over.
    fn judge(&mut self, overdue: &[u16], since: Option<OffsetDateTime>) {
        match (overdue, self.told) {
            ([], None) => {}
            ([], Some(_)) => {
                self.told = None;
                tracing::info!("no command is undecided past its deadline any more");
            }
            (_, Some(told)) if told.elapsed() < AGAIN => {}
            (overdue, _) => {
                self.told = Some(Instant::now());
                let oldest_s = since.map(|since| (OffsetDateTime::now_utc() - since).whole_seconds());
                tracing::error!(partitions = ?overdue, oldest_s, "commands are undecided past their deadline");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_overdue_when_its_oldest_command_is_past_the_deadline() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let ago = |seconds| now - time::Duration::seconds(seconds);
        let seen = Seen { waiting: vec![(9, ago(31)), (3, ago(300)), (4, ago(30)), (5, ago(-5))], ..Seen::default() };
        assert_eq!(seen.overdue(Duration::from_secs(30), now), [3, 9]);
        assert_eq!(earlier(Some(ago(1)), Some(ago(2))), Some(ago(2)));
        assert_eq!(earlier(None, Some(ago(2))), Some(ago(2)));
    }

    #[test]
    fn an_alarm_is_told_once_and_again_when_it_was_over() {
        let mut alarm = Alarm::default();
        alarm.judge(&[], None);
        assert!(alarm.told.is_none());
        alarm.judge(&[7], None);
        let first = alarm.told.unwrap();
        alarm.judge(&[7], None);
        assert_eq!(alarm.told, Some(first));
        alarm.judge(&[], None);
        assert!(alarm.told.is_none());
    }
}
