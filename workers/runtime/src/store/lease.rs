//! Leases and partitions: who owns what, under which fencing epoch.

use std::time::Duration;

use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

/// A partition as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Which one.
    pub partition: u16,
    /// The fencing epoch: counts owners.
    pub epoch: i64,
    /// Sequence in COMMANDS of the last decided command.
    pub cursor: u64,
    /// The life of COMMANDS the cursor belongs to; empty before the first command.
    pub commands_incarnation: String,
    /// The partition's last event.
    pub sequence: u64,
    /// The last event known to be in EVENTS.
    pub mark: Mark,
    /// Owners in a row that ended without handing over.
    pub crashes: i32,
    /// The command that was last tried with care, see [`note_tries`]; if it is behind the cursor, that did not end.
    pub trying: Option<u64>,
}

/// How far EVENTS has what a partition wrote: everything up to `sequence` is stored at or before `stream`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Partition sequence.
    pub sequence: u64,
    /// Sequence in EVENTS.
    pub stream: u64,
    /// The life of EVENTS that `stream` belongs to, see [`crate::streams::life`]; 0 for none. A mark is written only to a row of its life.
    pub life: i64,
}

const COLUMNS: &str = "partition, epoch, cursor, commands_incarnation, sequence, mark_sequence, mark_stream, events_incarnation, crashes, trying";

/// The life that a column names; 0 when there was none yet.
pub(super) fn life(row: &Row, index: usize) -> i64 {
    row.get::<_, &str>(index).parse().unwrap_or_default()
}

fn partition(row: &Row) -> Partition {
    let unsigned = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or_default();
    Partition {
        partition: u16::try_from(row.get::<_, i16>(0)).unwrap_or_default(),
        epoch: row.get(1),
        cursor: unsigned(2),
        commands_incarnation: row.get(3),
        sequence: unsigned(4),
        mark: Mark { sequence: unsigned(5), stream: unsigned(6), life: life(row, 7) },
        crashes: row.get(8),
        trying: u64::try_from(row.get::<_, i64>(9)).ok(),
    }
}

/// The name of a worker's sessions: a successor finds and ends those of a frozen owner by it.
pub fn session_name(worker: Uuid) -> String {
    format!("chancery worker {worker}")
}

/// Makes sure there is a row for each partition.
///
/// # Errors
/// Those of the connection.
pub async fn ensure_partitions(client: &Client, partitions: u16) -> Result<u64, Error> {
    let last = i32::from(partitions) - 1;
    client.execute("INSERT INTO partitions (partition) SELECT generate_series(0, $1::int)::smallint ON CONFLICT DO NOTHING", &[&last]).await
}

/// Renews the lease, also one that has run out: as long as nobody took the partitions they are still ours. Returns the live workers.
///
/// # Errors
/// Those of the connection.
pub async fn renew(client: &Client, worker: Uuid, name: &str, lease: Duration) -> Result<usize, Error> {
    let lease = lease.as_secs_f64();
    client
        .execute(
            "INSERT INTO workers (id, name, lease_until) VALUES ($1, $2, now() + make_interval(secs => $3))
             ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until",
            &[&worker, &name, &lease],
        )
        .await?;
    let row = client.query_one("SELECT count(*) FROM workers WHERE lease_until > now()", &[]).await?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(1).max(1))
}

/// Ends the sessions of workers whose lease has run out while they still own partitions: a frozen process would otherwise hold its
/// row locks for ever. To a living one it is a reconnect.
///
/// # Errors
/// Those of the connection.
pub async fn end_frozen_sessions(client: &Client, worker: Uuid) -> Result<u64, Error> {
    client
        .execute(
            "SELECT pg_terminate_backend(a.pid) FROM workers w JOIN pg_stat_activity a ON a.application_name = 'chancery worker ' || w.id
             WHERE w.lease_until < now() AND w.id <> $1 AND EXISTS (SELECT FROM partitions p WHERE p.owner = w.id)",
            &[&worker],
        )
        .await
}

/// Takes up to `limit` partitions nobody owns, and, with `expired`, those whose owner's lease has run out. Every taking raises the epoch:
/// from then on the old owner's transactions find no row to update.
///
/// # Errors
/// Those of the connection.
pub async fn take(client: &Client, worker: Uuid, limit: usize, expired: bool, except: &[i16]) -> Result<Vec<Partition>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let statement = format!(
        "WITH candidate AS (
             SELECT p.partition FROM partitions p LEFT JOIN workers w ON w.id = p.owner
             WHERE (p.owner IS NULL OR ($3 AND (w.id IS NULL OR w.lease_until < now()))) AND p.partition <> ALL ($4)
             ORDER BY p.partition LIMIT $2 FOR UPDATE OF p SKIP LOCKED)
         UPDATE partitions p SET
             crashes = CASE WHEN p.owner IS NULL THEN 0 WHEN p.crash_at > now() - interval '60 s' THEN p.crashes + 1 ELSE 1 END,
             crash_at = CASE WHEN p.owner IS NULL THEN p.crash_at ELSE now() END,
             owner = $1, epoch = p.epoch + 1
         FROM candidate c WHERE p.partition = c.partition RETURNING {}",
        COLUMNS.split(", ").map(|column| format!("p.{column}")).collect::<Vec<_>>().join(", ")
    );
    Ok(client.query(&statement, &[&worker, &limit, &expired, &except]).await?.iter().map(partition).collect())
}

/// The partitions a worker owns now.
///
/// # Errors
/// Those of the connection.
pub async fn owned(client: &Client, worker: Uuid) -> Result<Vec<Partition>, Error> {
    let statement = format!("SELECT {COLUMNS} FROM partitions WHERE owner = $1");
    Ok(client.query(&statement, &[&worker]).await?.iter().map(partition).collect())
}

/// Hands partitions over at once, with their marks (partition, epoch, mark), if they are still ours.
///
/// # Errors
/// Those of the connection.
pub async fn release(client: &Client, worker: Uuid, partitions: &[(u16, i64, Mark)]) -> Result<u64, Error> {
    let rows = MarkRows::from(partitions);
    client
        .execute(
            "UPDATE partitions p SET owner = NULL,
                 mark_sequence = CASE WHEN u.sequence >= p.mark_sequence AND u.life::text = p.events_incarnation THEN u.sequence ELSE p.mark_sequence END,
                 mark_stream = CASE WHEN u.sequence >= p.mark_sequence AND u.life::text = p.events_incarnation THEN u.stream ELSE p.mark_stream END
             FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) u (partition, epoch, sequence, stream, life)
             WHERE p.partition = u.partition AND p.owner = $1 AND p.epoch = u.epoch",
            &[&worker, &rows.partitions, &rows.epochs, &rows.sequences, &rows.streams, &rows.lives],
        )
        .await
}

/// Writes marks (partition, epoch, mark) outside a batch, so that a quiet partition's mark is not far behind.
///
/// # Errors
/// Those of the connection.
pub async fn write_marks(client: &Client, worker: Uuid, partitions: &[(u16, i64, Mark)]) -> Result<u64, Error> {
    let rows = MarkRows::from(partitions);
    client
        .execute(
            "UPDATE partitions p SET mark_sequence = u.sequence, mark_stream = u.stream
             FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) u (partition, epoch, sequence, stream, life)
             WHERE p.partition = u.partition AND p.owner = $1 AND p.epoch = u.epoch AND p.mark_sequence <= u.sequence
               AND p.events_incarnation = u.life::text",
            &[&worker, &rows.partitions, &rows.epochs, &rows.sequences, &rows.streams, &rows.lives],
        )
        .await
}

struct MarkRows {
    partitions: Vec<i16>,
    epochs: Vec<i64>,
    sequences: Vec<i64>,
    streams: Vec<i64>,
    lives: Vec<i64>,
}

impl From<&[(u16, i64, Mark)]> for MarkRows {
    fn from(marks: &[(u16, i64, Mark)]) -> Self {
        Self {
            partitions: marks.iter().map(|(partition, ..)| *partition as i16).collect(),
            epochs: marks.iter().map(|(_, epoch, _)| *epoch).collect(),
            sequences: marks.iter().map(|(.., mark)| mark.sequence as i64).collect(),
            streams: marks.iter().map(|(.., mark)| mark.stream as i64).collect(),
            lives: marks.iter().map(|(.., mark)| mark.life).collect(),
        }
    }
}

/// Ends a worker's lease and forgets workers that have been silent for an hour and own nothing.
///
/// # Errors
/// Those of the connection.
pub async fn leave(client: &Client, worker: Uuid) -> Result<(), Error> {
    client
        .execute(
            "DELETE FROM workers w WHERE (w.id = $1 OR w.lease_until < now() - interval '1 hour')
             AND NOT EXISTS (SELECT FROM partitions p WHERE p.owner = w.id)",
            &[&worker],
        )
        .await
        .map(|_| ())
}

/// Starts over in a new life of COMMANDS: the inbox makes reading again harmless. Returns whether the partition is still ours.
///
/// # Errors
/// Those of the connection.
pub async fn restart_cursor(client: &Client, worker: Uuid, partition: u16, epoch: i64, incarnation: &str) -> Result<bool, Error> {
    let changed = client
        .execute(
            "UPDATE partitions SET cursor = 0, commands_incarnation = $4 WHERE partition = $1 AND epoch = $2 AND owner = $3",
            &[&(partition as i16), &epoch, &worker, &incarnation],
        )
        .await?;
    Ok(changed == 1)
}

/// Notes that a command is about to be tried alone, before it is. Returns how often it was tried, or nothing if the partition is lost.
///
/// # Errors
/// Those of the connection.
pub async fn note_try(client: &Client, worker: Uuid, partition: u16, epoch: i64, sequence: u64) -> Result<Option<i32>, Error> {
    let row = client
        .query_opt(
            "UPDATE partitions SET tries = CASE WHEN trying = $4 THEN tries + 1 ELSE 1 END, trying = $4
             WHERE partition = $1 AND epoch = $2 AND owner = $3 RETURNING tries",
            &[&(partition as i16), &epoch, &worker, &(sequence as i64)],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// Notes that some commands are about to be tried together, one of each partition, as (partition, epoch, sequence). It is not counted, so that
/// who was only near a crash is not condemned for it: whoever finds the note tries that command alone. Returns the partitions that are still ours.
///
/// # Errors
/// Those of the connection.
pub async fn note_tries(client: &Client, worker: Uuid, tries: &[(u16, i64, u64)]) -> Result<Vec<u16>, Error> {
    let partitions: Vec<i16> = tries.iter().map(|(partition, ..)| *partition as i16).collect();
    let epochs: Vec<i64> = tries.iter().map(|(_, epoch, _)| *epoch).collect();
    let sequences: Vec<i64> = tries.iter().map(|(.., sequence)| *sequence as i64).collect();
    let rows = client
        .query(
            "UPDATE partitions p SET tries = CASE WHEN p.trying = u.sequence THEN p.tries ELSE 0 END, trying = u.sequence
             FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) u (partition, epoch, sequence)
             WHERE p.partition = u.partition AND p.epoch = u.epoch AND p.owner = $4 RETURNING p.partition",
            &[&partitions, &epochs, &sequences, &worker],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get::<_, i16>(0) as u16).collect())
}
