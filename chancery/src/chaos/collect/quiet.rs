//! The wait until nothing is on its way any more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, context::GetStreamErrorKind};
use subjects::stream as names;
use uuid::Uuid;

use super::{Doors, streams};
use crate::chaos::history::{History, What};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long one look may take: a server that hangs is not quiet.
const ONE_LOOK: Duration = Duration::from_secs(20);

/// Waits until two looks in a row find nothing on its way; gives what the last one found when the time is up.
pub(super) async fn wait(doors: &Doors<'_>, history: &History, limit: Duration) -> anyhow::Result<Vec<String>> {
    let accepted = accepted(history);
    let begin = Instant::now();
    let mut before = None;
    loop {
        let look = tokio::time::timeout(ONE_LOOK, look(doors, &accepted)).await;
        let (waits, written) = match look {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => (vec![format!("it cannot be looked at: {error:#}")], 0),
            Err(_) => (vec![format!("a look takes more than {} s", ONE_LOOK.as_secs())], 0),
        };
        if waits.is_empty() && before == Some(written) {
            return Ok(waits);
        }
        if begin.elapsed() > limit {
            let moving = || vec!["events are still being written".to_owned()];
            return Ok(if waits.is_empty() { moving() } else { waits });
        }
        before = waits.is_empty().then_some(written);
        tokio::time::sleep(LOOK).await;
    }
}

/// The commands that the clients know of.
fn accepted(history: &History) -> Vec<Uuid> {
    let ids: BTreeSet<Uuid> = history
        .records()
        .iter()
        .filter_map(|record| match &record.what {
            What::Answer { answer, .. } if answer.status.is_some_and(|status| (200..300).contains(&status)) => answer.command,
            _ => None,
        })
        .collect();
    ids.into_iter().collect()
}

/// What is on its way, and how many events are written.
async fn look(doors: &Doors<'_>, accepted: &[Uuid]) -> anyhow::Result<(Vec<String>, i64)> {
    let mut waits = Vec::new();
    let mut wait = |count: i64, what: &str| {
        if count != 0 {
            waits.push(format!("{count} {what}"));
        }
    };
    const UNDECIDED: &str = "SELECT count(*) FROM unnest($1::uuid[]) a (id) WHERE NOT EXISTS (SELECT FROM commands c WHERE c.id = a.id)";
    let one = async |query: &str| -> anyhow::Result<i64> { Ok(doors.database.query_one(query, &[]).await?.try_get(0)?) };
    let undecided: i64 = doors.database.query_one(UNDECIDED, &[&accepted]).await?.try_get(0)?;
    wait(undecided, "accepted commands are not decided");
    wait(one("SELECT coalesce(sum(sequence - mark_sequence), 0)::bigint FROM partitions").await?, "events are not published");
    wait(one("SELECT count(*) FROM deadletters WHERE published_at IS NULL").await?, "dead letters are not published");
    wait(one("SELECT count(*) FROM consumer_feeds WHERE NOT done").await?, "consumers are being fed");
    wait(one("SELECT count(*) FROM notifications.ledger WHERE state = 'pending' AND next_at <= now()").await?, "mails are due");
    wait(i64::try_from(unread(doors).await?).unwrap_or(i64::MAX), "commands are not read");
    for consumer in streams::consumers(doors, &[]).await? {
        let waiting = i64::try_from(consumer.waiting).unwrap_or(i64::MAX);
        wait(waiting, &format!("events wait for {}", consumer.row.name));
        wait(i64::try_from(consumer.row.pending).unwrap_or(i64::MAX), &format!("events are unsettled at {}", consumer.row.name));
    }
    let written = one("SELECT count(*) FROM events").await?;
    let replicas = streams::replicas(doors).await?;
    for rows in replicas.chunk_by(|one, other| one.stream == other.stream) {
        if rows.windows(2).any(|pair| (pair[0].last, pair[0].messages) != (pair[1].last, pair[1].messages)) {
            waits.push(format!("the nodes differ over {}", rows[0].stream));
        }
    }
    Ok((waits, written))
}

/// Partitions with a message in COMMANDS after their cursors.
async fn unread(doors: &Doors<'_>) -> anyhow::Result<usize> {
    let stream = match doors.jetstream.get_stream(names::COMMANDS).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut unread = 0;
    for row in doors.database.query("SELECT partition, cursor FROM partitions", &[]).await? {
        let (partition, cursor): (i16, i64) = (row.try_get(0)?, row.try_get(1)?);
        let last = match stream.get_last_raw_message_by_subject(&format!("cmd.{partition}.>")).await {
            Ok(message) => message.sequence,
            Err(error) if matches!(error.kind(), jetstream::stream::LastRawMessageErrorKind::NoMessageFound) => 0,
            Err(error) => return Err(error.into()),
        };
        unread += usize::from(last > cursor.unsigned_abs());
    }
    Ok(unread)
}
