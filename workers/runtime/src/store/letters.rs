//! What the tables say about dead letters: the queues behind them, and who has dealt with them. Read and changed for platform operators, by
//! functions that do it for one event each.

use subjects::{EventId, TenantId};
use time::OffsetDateTime;
use tokio_postgres::{Client, Error, Row};

/// What a session of an operator is told, so that it sees the rows of every tenant.
pub const OPERATOR: &str = "-c chancery.operator=on";

/// Whether this session sees the rows of every tenant.
///
/// # Errors
/// Those of the connection.
pub async fn is_operator(client: &Client) -> Result<bool, Error> {
    Ok(client.query_one("SELECT is_operator()", &[]).await?.get(0))
}

/// An event in the queue of its aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Its place there.
    pub place: i64,
    /// Whose queue it is.
    pub aggregate: String,
    /// Whether it was given up.
    pub dead: bool,
    /// How often it was tried.
    pub attempts: i32,
    /// How often an operator has let it be tried anew.
    pub redrives: u32,
}

/// Looks for the event of a letter.
///
/// # Errors
/// Those of the connection.
pub async fn parked(client: &Client, consumer: &str, place: u64, event: Option<EventId>) -> Result<Option<Parked>, Error> {
    let place = i64::try_from(place).unwrap_or(i64::MAX);
    let event = event.map(|event| event.uuid());
    let row =
        client.query_opt("SELECT place, aggregate, dead, attempts, redrives FROM parked_letter($1, $2, $3)", &[&consumer, &place, &event]).await?;
    Ok(row.map(|row| Parked {
        place: row.get(0),
        aggregate: row.get(1),
        dead: row.get(2),
        attempts: row.get(3),
        redrives: u32::try_from(row.get::<_, i32>(4)).unwrap_or_default(),
    }))
}

/// An event that waits behind another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its id.
    pub event: String,
    /// `<topic>.<event>`.
    pub event_type: String,
    /// Its place in its tenant's history.
    pub sequence: i64,
}

/// What waits behind an event: how much, and the first of it.
///
/// # Errors
/// Those of the connection.
pub async fn behind(client: &Client, consumer: &str, parked: &Parked, most: i32) -> Result<(u64, Vec<Behind>), Error> {
    const SQL: &str = "SELECT total, event, type, sequence FROM parked_behind($1, $2, $3, $4)";
    let rows = client.query(SQL, &[&consumer, &parked.aggregate, &parked.place, &most]).await?;
    let total = rows.first().map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or_default());
    let text = |row: &Row, place: usize| row.get::<_, Option<String>>(place).unwrap_or_default();
    let waiting =
        rows.iter().map(|row| Behind { event: text(row, 1), event_type: text(row, 2), sequence: row.get::<_, Option<i64>>(3).unwrap_or(0) });
    Ok((total, waiting.collect()))
}

/// Lets an event that was given up be tried anew, in order with what waits behind it. False when it is not as it was found.
///
/// # Errors
/// Those of the connection.
pub async fn redrive(client: &Client, consumer: &str, parked: &Parked) -> Result<bool, Error> {
    changed(client, "SELECT redrive_parked($1, $2, $3)", consumer, parked).await
}

/// Takes an event that was given up out of its queue, so that what waits behind it goes on. False when it is not as it was found.
///
/// # Errors
/// Those of the connection.
pub async fn discard(client: &Client, consumer: &str, parked: &Parked) -> Result<bool, Error> {
    changed(client, "SELECT discard_parked($1, $2, $3)", consumer, parked).await
}

async fn changed(client: &Client, sql: &str, consumer: &str, parked: &Parked) -> Result<bool, Error> {
    let redrives = i32::try_from(parked.redrives).unwrap_or(i32::MAX);
    Ok(client.query_one(sql, &[&consumer, &parked.place, &redrives]).await?.get::<_, Option<bool>>(0).unwrap_or(false))
}

/// Whether a consumer keeps a position of its own, as those do that ask for order.
///
/// # Errors
/// Those of the connection.
pub async fn is_in_order(client: &Client, consumer: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT EXISTS (SELECT FROM consumer_positions WHERE consumer = $1)", &[&consumer]).await?.get(0))
}

/// What somebody did about a letter.
#[derive(Debug, Clone)]
pub struct Action {
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// `redrive` or `discard`.
    pub action: String,
    /// Why; always told where it was discarded.
    pub reason: Option<String>,
    /// Whose letter it was.
    pub consumer: String,
    /// Its number.
    pub letter: u64,
    /// The event.
    pub event: Option<EventId>,
    /// `<topic>.<event>`.
    pub letter_type: String,
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// How often it had been tried anew before.
    pub redrives: u32,
}

/// Writes down what somebody did. The time is the database's.
///
/// # Errors
/// Those of the connection.
pub async fn note(client: &Client, action: &Action) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO deadletter_actions (actor, action, reason, consumer, letter, event_id, type, tenant_id, redrives)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let (letter, redrives) = (i64::try_from(action.letter).unwrap_or(i64::MAX), i32::try_from(action.redrives).unwrap_or(i32::MAX));
    let (event, tenant) = (action.event.map(|event| event.uuid()), action.tenant.map(|tenant| tenant.uuid()));
    let Action { actor, action, reason, consumer, letter_type, .. } = action;
    client.execute(SQL, &[actor, action, reason, consumer, &letter, &event, letter_type, &tenant, &redrives]).await.map(|_| ())
}

/// What was done about letters, or about those of one event, the last first.
///
/// # Errors
/// Those of the connection.
pub async fn history(client: &Client, event: Option<EventId>, limit: i64) -> Result<Vec<Action>, Error> {
    const SQL: &str = "SELECT acted_at, actor, action, reason, consumer, letter, event_id, type, tenant_id, redrives FROM deadletter_actions
         WHERE $1::uuid IS NULL OR event_id = $1 ORDER BY n DESC LIMIT $2";
    let rows = client.query(SQL, &[&event.map(|event| event.uuid()), &limit]).await?;
    let action = |row: &Row| Action {
        at: row.get(0),
        actor: row.get(1),
        action: row.get(2),
        reason: row.get(3),
        consumer: row.get(4),
        letter: u64::try_from(row.get::<_, i64>(5)).unwrap_or_default(),
        event: row.get::<_, Option<uuid::Uuid>>(6).map(EventId::new),
        letter_type: row.get(7),
        tenant: row.get::<_, Option<uuid::Uuid>>(8).map(TenantId::new),
        redrives: u32::try_from(row.get::<_, i32>(9)).unwrap_or_default(),
    };
    Ok(rows.iter().map(action).collect())
}
