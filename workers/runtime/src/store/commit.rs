//! The one transaction of a batch: events, states, outcomes, claims and positions, or nothing.

use tokio_postgres::{Client, Error, Statement, error::SqlState};
use uuid::Uuid;

pub use super::rows::{DeadLetterRow, EventRow, OutcomeRow, StateRow, Step, TenantRow, Writes};
use crate::{failpoint, planted};

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A partition has another owner, or its cursor is elsewhere. Nothing was written.
    #[error("a partition is not ours any more")]
    Fenced,
    /// A claim was taken, or a row changed, by somebody else meanwhile. Nothing was written; decide again.
    #[error("something was changed by somebody else")]
    Conflict,
    /// The data of some command cannot be written. Nothing was written.
    #[error("data refused by the database: {0}")]
    Data(Error),
    /// COMMIT was sent and its answer was lost: the rows must be read.
    #[error("no answer to COMMIT: {0}")]
    Unknown(Error),
    /// The connection, a lock or a resource: worth another try. Nothing was written.
    #[error(transparent)]
    Transient(Error),
}

/// The prepared statements of [`commit`].
#[derive(Debug)]
pub struct Statements {
    steps: Statement,
    release: Statement,
    take: Statement,
    tenants: Statement,
    states: Statement,
    events: Statement,
    outcomes: Statement,
    deadletters: Statement,
}

/// The fence of a batch, and its compare-and-set: a row changes only for its owner, in its epoch, and from where the batch began.
const STEPS: &str = "UPDATE partitions p SET cursor = u.cursor, sequence = u.sequence,
             mark_sequence = CASE WHEN u.mark_sequence >= p.mark_sequence AND u.life::text = p.events_incarnation THEN u.mark_sequence ELSE p.mark_sequence END,
             mark_stream = CASE WHEN u.mark_sequence >= p.mark_sequence AND u.life::text = p.events_incarnation THEN u.mark_stream ELSE p.mark_stream END
         FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
             u (partition, epoch, expected, cursor, sequence, mark_sequence, mark_stream, life)
         WHERE p.partition = u.partition AND p.owner = $1 AND p.epoch = u.epoch AND p.cursor = u.expected";
/// The compare-and-set in [`STEPS`].
const FROM_THE_CURSOR: &str = " AND p.cursor = u.expected";

impl Statements {
    /// Prepares.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn prepare(client: &Client) -> Result<Self, Error> {
        let steps = if planted!(NoCursorCheck) { STEPS.replace(FROM_THE_CURSOR, "") } else { STEPS.to_owned() };
        Ok(Self {
            steps: client.prepare(&steps).await?,
            release: client
                .prepare("DELETE FROM claims c USING unnest($1::text[], $2::text[]) u (scope, value) WHERE c.scope = u.scope AND c.value = u.value")
                .await?,
            take: client
                .prepare(
                    "INSERT INTO claims (scope, value, tenant_id, holder) SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[])
                     ON CONFLICT DO NOTHING",
                )
                .await?,
            tenants: client
                .prepare(
                    "INSERT INTO tenants (tenant_id, partition, sequence, last_event_at, roster)
                     SELECT t, p, s, l, r::jsonb FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::timestamptz[], $5::text[]) u (t, p, s, l, r)
                     ON CONFLICT (tenant_id) DO UPDATE SET sequence = excluded.sequence, last_event_at = excluded.last_event_at, roster = excluded.roster
                     WHERE tenants.sequence < excluded.sequence",
                )
                .await?,
            states: client
                .prepare(
                    "INSERT INTO aggregates (tenant_id, kind, id, version, schema_version, state, due_at, created_at, updated_at)
                     SELECT t, k, i, v, $9, s::jsonb, d, c, m
                     FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[])
                         u (t, k, i, v, s, d, c, m)
                     ON CONFLICT (tenant_id, kind, id) DO UPDATE SET version = excluded.version, schema_version = excluded.schema_version,
                         state = excluded.state, due_at = excluded.due_at, updated_at = excluded.updated_at
                     WHERE aggregates.version < excluded.version",
                )
                .await?,
            events: client
                .prepare(
                    "INSERT INTO events (partition, partition_sequence, tenant_id, sequence, id, type, kind, aggregate_id, command_id, occurred_at, meta, body)
                     SELECT p, ps, t, s, i, ty, k, a, c, o, m::json, b::json
                     FROM unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::bigint[], $5::uuid[], $6::text[], $7::text[], $8::uuid[], $9::uuid[],
                                 $10::timestamptz[], $11::text[], $12::text[]) u (p, ps, t, s, i, ty, k, a, c, o, m, b)",
                )
                .await?,
            outcomes: client
                .prepare(
                    "INSERT INTO commands (id, tenant_id, actor, keyed, outcome)
                     SELECT i, t, a, k, o::json FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::boolean[], $5::text[]) u (i, t, a, k, o)
                     ON CONFLICT DO NOTHING",
                )
                .await?,
            deadletters: client
                .prepare(
                    "INSERT INTO deadletters (id, partition, subject, headers, payload)
                     SELECT i, p, s, h::jsonb, b FROM unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::bytea[]) u (i, p, s, h, b)
                     ON CONFLICT DO NOTHING",
                )
                .await?,
        })
    }
}

fn column<'a, T, U>(rows: &'a [T], value: impl Fn(&'a T) -> U) -> Vec<U> {
    rows.iter().map(value).collect()
}

/// Writes a batch in one transaction and two round trips: everything is sent at once and looked at before COMMIT.
///
/// # Errors
/// [`CommitError`]; all but [`CommitError::Unknown`] mean that nothing was written.
pub async fn commit(client: &Client, statements: &Statements, worker: Uuid, writes: &Writes) -> Result<(), CommitError> {
    match write(client, statements, worker, writes).await {
        Ok(()) => {}
        Err(error) => {
            // The connection may be gone; then the server rolls back by itself.
            if let Err(rollback) = client.batch_execute("ROLLBACK").await {
                tracing::debug!(error = %rollback, "rollback failed");
            }
            return Err(error);
        }
    }
    failpoint::hit("before_commit");
    let answer = client.batch_execute("COMMIT").await;
    failpoint::hit("after_commit");
    answer.map_err(|error| if error.code().is_some() { classify(error) } else { CommitError::Unknown(error) })
}

async fn write(client: &Client, statements: &Statements, worker: Uuid, writes: &Writes) -> Result<(), CommitError> {
    let Writes { steps, tenants, states, events, outcomes, released, taken, deadletters } = writes;
    let signed = |value: u64| value as i64;
    // The column vectors live as long as the statements that borrow them: the futures are polled together below.
    let step_partitions = column(steps, |step| step.partition as i16);
    let step_epochs = column(steps, |step| step.epoch);
    let step_expected = column(steps, |step| signed(step.expected));
    let step_cursors = column(steps, |step| signed(step.cursor));
    let step_sequences = column(steps, |step| signed(step.sequence));
    let step_mark_sequences = column(steps, |step| signed(step.mark.sequence));
    let step_mark_streams = column(steps, |step| signed(step.mark.stream));
    let step_lives = column(steps, |step| step.mark.life);
    let released_scopes = column(released, |claim| claim.scope.name());
    let released_values = column(released, |claim| claim.value.as_str());
    let taken_scopes = column(taken, |(claim, _)| claim.scope.name());
    let taken_values = column(taken, |(claim, _)| claim.value.as_str());
    let taken_tenants = column(taken, |(_, holder)| holder.tenant.uuid());
    let taken_holders = column(taken, |(_, holder)| holder.id);
    let tenant_ids = column(tenants, |row| row.tenant.uuid());
    let tenant_partitions = column(tenants, |row| row.partition as i16);
    let tenant_sequences = column(tenants, |row| signed(row.sequence));
    let tenant_times = column(tenants, |row| row.last_event_at);
    let tenant_rosters = column(tenants, |row| row.roster.as_str());
    let state_tenants = column(states, |row| row.key.tenant.uuid());
    let state_kinds = column(states, |row| row.key.kind.name());
    let state_ids = column(states, |row| row.key.id);
    let state_versions = column(states, |row| signed(row.version));
    let state_bodies = column(states, |row| row.state.as_str());
    let state_dues = column(states, |row| row.due_at);
    let state_created = column(states, |row| row.created_at);
    let state_updated = column(states, |row| row.updated_at);
    let event_partitions = column(events, |row| row.partition as i16);
    let event_partition_sequences = column(events, |row| signed(row.partition_sequence));
    let event_tenants = column(events, |row| row.tenant.uuid());
    let event_sequences = column(events, |row| signed(row.sequence));
    let event_ids = column(events, |row| row.id);
    let event_types = column(events, |row| row.event_type.as_str());
    let event_kinds = column(events, |row| row.kind);
    let event_aggregates = column(events, |row| row.aggregate_id);
    let event_commands = column(events, |row| row.command);
    let event_times = column(events, |row| row.occurred_at);
    let event_metas = column(events, |row| row.meta.as_deref());
    let event_bodies = column(events, |row| row.body.as_str());
    let outcome_ids = column(outcomes, |row| row.command);
    let outcome_tenants = column(outcomes, |row| row.tenant.uuid());
    let outcome_actors = column(outcomes, |row| row.actor.as_str());
    let outcome_keyed = column(outcomes, |row| row.keyed);
    let outcome_bodies = column(outcomes, |row| row.outcome.as_str());
    let letter_ids = column(deadletters, |row| row.id);
    let letter_partitions = column(deadletters, |row| row.partition as i16);
    let letter_subjects = column(deadletters, |row| row.subject.as_str());
    let letter_headers = column(deadletters, |row| row.headers.as_str());
    let letter_payloads = column(deadletters, |row| row.payload.as_slice());

    let step_values: [Parameter<'_>; 9] = [
        &worker,
        &step_partitions,
        &step_epochs,
        &step_expected,
        &step_cursors,
        &step_sequences,
        &step_mark_sequences,
        &step_mark_streams,
        &step_lives,
    ];
    let released_values: [Parameter<'_>; 2] = [&released_scopes, &released_values];
    let taken_values: [Parameter<'_>; 4] = [&taken_scopes, &taken_values, &taken_tenants, &taken_holders];
    let tenant_values: [Parameter<'_>; 5] = [&tenant_ids, &tenant_partitions, &tenant_sequences, &tenant_times, &tenant_rosters];
    let state_values: [Parameter<'_>; 9] = [
        &state_tenants,
        &state_kinds,
        &state_ids,
        &state_versions,
        &state_bodies,
        &state_dues,
        &state_created,
        &state_updated,
        &aggregates::State::SCHEMA_VERSION,
    ];
    let event_values: [Parameter<'_>; 12] = [
        &event_partitions,
        &event_partition_sequences,
        &event_tenants,
        &event_sequences,
        &event_ids,
        &event_types,
        &event_kinds,
        &event_aggregates,
        &event_commands,
        &event_times,
        &event_metas,
        &event_bodies,
    ];
    let outcome_values: [Parameter<'_>; 5] = [&outcome_ids, &outcome_tenants, &outcome_actors, &outcome_keyed, &outcome_bodies];
    let letter_values: [Parameter<'_>; 5] = [&letter_ids, &letter_partitions, &letter_subjects, &letter_headers, &letter_payloads];

    // Sent in this order in one go. The partitions come first: their row locks are the fence. Answers come in the same order, so the
    // first error is the true one.
    let (begun, stepped, released_rows, taken_rows, tenant_rows, state_rows, event_rows, outcome_rows, letter_rows) = tokio::join!(
        client.batch_execute("BEGIN"),
        client.execute(&statements.steps, &step_values),
        unless(released.is_empty(), client.execute(&statements.release, &released_values)),
        unless(taken.is_empty(), client.execute(&statements.take, &taken_values)),
        unless(tenants.is_empty(), client.execute(&statements.tenants, &tenant_values)),
        unless(states.is_empty(), client.execute(&statements.states, &state_values)),
        unless(events.is_empty(), client.execute(&statements.events, &event_values)),
        unless(outcomes.is_empty(), client.execute(&statements.outcomes, &outcome_values)),
        unless(deadletters.is_empty(), client.execute(&statements.deadletters, &letter_values)),
    );
    begun.map_err(classify)?;
    if stepped.map_err(classify)? != steps.len() as u64 {
        return Err(CommitError::Fenced);
    }
    released_rows.map_err(classify)?;
    // In the order in which they were sent: after the first error all others only say that the transaction is over.
    let mut written = [
        (taken_rows.map_err(classify)?, taken.len()),
        (tenant_rows.map_err(classify)?, tenants.len()),
        (state_rows.map_err(classify)?, states.len()),
        (event_rows.map_err(classify)?, events.len()),
        (outcome_rows.map_err(classify)?, outcomes.len()),
    ];
    if planted!(NoInbox) {
        // Outcomes that were there already are taken for written.
        written[4].1 = outcomes.len().min(written[4].0 as usize);
    }
    letter_rows.map_err(classify)?;
    if written.iter().any(|(rows, wanted)| *rows != *wanted as u64) {
        return Err(CommitError::Conflict);
    }
    Ok(())
}

/// A value of a statement.
type Parameter<'a> = &'a (dyn tokio_postgres::types::ToSql + Sync);

/// Leaves out a statement that has nothing to write.
async fn unless(nothing: bool, statement: impl Future<Output = Result<u64, Error>>) -> Result<u64, Error> {
    if nothing { Ok(0) } else { statement.await }
}

/// Sorts a database error by what is to be done about it.
pub fn classify(error: Error) -> CommitError {
    let Some(code) = error.code() else { return CommitError::Transient(error) };
    if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::UNIQUE_VIOLATION {
        return CommitError::Conflict;
    }
    // Class 22: data exceptions; class 23: integrity; 54: program limits (a row too large).
    match &code.code()[..2] {
        "22" | "23" | "54" => CommitError::Data(error),
        _ => CommitError::Transient(error),
    }
}
