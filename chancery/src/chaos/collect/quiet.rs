//! The wait until nothing is on its way any more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, context::GetStreamErrorKind};
use subjects::stream as names;
use uuid::Uuid;

use super::{Doors, streams};
use crate::chaos::{
    history::{History, What},
    reach::Reach,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long one look may take: a server that hangs is not quiet.
const ONE_LOOK: Duration = Duration::from_secs(20);

/// Waits until two looks in a row find nothing on its way; gives what the last one found when the time is up.
/// Also opens the doors, again and again if need be.
pub(super) async fn wait<'a>(reach: &'a Reach, history: &History, limit: Duration) -> anyhow::Result<(Doors<'a>, Vec<String>)> {
    let accepted = accepted(history);
    let begin = Instant::now();
    let mut before = None;
    let mut open: Option<Doors<'a>> = None;
    loop {
        let look = async {
            let doors = match open.take() {
                Some(doors) => doors,
                None => Doors::open(reach).await?,
            };
            let found = look(&doors, &accepted).await?;
            anyhow::Ok((doors, found))
        };
        let (doors, (waits, written)) = match tokio::time::timeout(ONE_LOOK, look).await {
            Ok(Ok((doors, found))) => (Some(doors), found),
            Ok(Err(error)) => (None, (vec![format!("it cannot be looked at: {error:#}")], 0)),
            Err(_) => (None, (vec![format!("a look takes more than {} s", ONE_LOOK.as_secs())], 0)),
        };
        open = doors;
        let settled = waits.is_empty() && before == Some(written);
        if settled || begin.elapsed() > limit {
            let moving = waits.is_empty() && !settled;
            let waits = if moving { vec!["events are still being written".to_owned()] } else { waits };
            let doors = match open {
                Some(doors) => doors,
                None => Doors::open(reach).await?,
            };
            return Ok((doors, waits));
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
    for consumer in streams::consumers(doors, &[]).await? {
        let waiting = i64::try_from(consumer.waiting).unwrap_or(i64::MAX);
        wait(waiting, &format!("events wait for {}", consumer.row.name));
        wait(i64::try_from(consumer.row.pending).unwrap_or(i64::MAX), &format!("events are unsettled at {}", consumer.row.name));
    }
    let written = one("SELECT count(*) FROM events").await?;
    waits.extend(streams::differing(&streams::replicas(doors).await?).into_iter().map(|stream| format!("the nodes differ over {stream}")));
    // Last: it asks for each partition.
    let unread = if waits.is_empty() { unread(doors).await? } else { 0 };
    if unread > 0 {
        waits.push(format!("{unread} partitions have commands that are not read"));
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
        let last = match stream.get_last_raw_message_by_subject(&subjects::command_filter(partition.unsigned_abs())).await {
            Ok(message) => message.sequence,
            Err(error) if matches!(error.kind(), jetstream::stream::LastRawMessageErrorKind::NoMessageFound) => 0,
            Err(error) => return Err(error.into()),
        };
        unread += usize::from(last > cursor.unsigned_abs());
    }
    Ok(unread)
}
