//! Turns due deadlines into ordinary commands. Their id is derived from the thing and its deadline: twice is once, and the decision
//! compares the command's deadline with the state's, so a moved deadline's old command means nothing.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aggregates::State;
use async_nats::{HeaderMap, jetstream};
use deadpool_postgres::Pool;
use serde_json::value::RawValue;
use subjects::{Actor, Authority, CommandId, CommandMessage, header, timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Config, Stop, nats,
    store::schedule::{self, Due},
};

/// How often due rows are looked for.
const EVERY: Duration = Duration::from_secs(1);
/// Deadlines in one round.
const BATCH: i64 = 500;
/// Deadlines remembered as sent, so that one waiting to be decided is not sent every second.
const REMEMBERED: usize = 10_000;

pub(crate) async fn run(config: Config, context: jetstream::Context, pool: Pool, first: Arc<AtomicBool>, stop: Stop) {
    let mut sent = HashSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if !first.load(Ordering::Relaxed) {
            sent.clear();
            continue;
        }
        if let Err(error) = round(&config, &context, &pool, &mut sent).await {
            tracing::warn!(error, "deadlines wait");
        }
    }
}

async fn round(config: &Config, context: &jetstream::Context, pool: &Pool, sent: &mut HashSet<Uuid>) -> Result<(), String> {
    if sent.len() > REMEMBERED {
        sent.clear();
    }
    let connection = pool.get().await.map_err(|error| error.to_string())?;
    let due = schedule::due(&connection, BATCH).await.map_err(|error| crate::store::describe(&error))?;
    for row in due {
        let Some(message) = command(&row) else {
            tracing::error!(kind = %row.key.kind, id = %row.key.id_text(), "a due row has no deadline in its state");
            continue;
        };
        if sent.contains(&message.id.uuid()) {
            continue;
        }
        let tenant = message.tenant_id.to_string();
        let name = message.command_type.split_once('.').map_or("", |(_, name)| name);
        let subject = subjects::command(subjects::partition(&tenant, config.partitions), message.tenant_id, row.key.kind, name);
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, message.id.to_string());
        headers.insert(header::CONTENT_TYPE, header::JSON);
        let body = serde_json::to_vec(&message).map_err(|error| error.to_string())?;
        nats::store(context, subject, headers, body.into()).await?;
        sent.insert(message.id.uuid());
    }
    Ok(())
}

/// The command a due row asks for.
fn command(row: &Due) -> Option<CommandMessage> {
    let (deadline, name) = State::parse(row.key.kind, &row.state).ok()?.deadline()?;
    let deadline = timestamp::format(deadline);
    let id = CommandId::new(Uuid::new_v5(&row.key.id, format!("{name}:{deadline}").as_bytes()));
    Some(CommandMessage {
        id,
        command_type: format!("{}.{name}", row.key.kind),
        tenant_id: row.key.tenant,
        aggregate_id: row.key.id_text(),
        actor: Actor::System,
        authority: Authority::System,
        timestamp: OffsetDateTime::now_utc(),
        correlation_id: id.to_string(),
        causation_id: None,
        if_match: None,
        fingerprint: None,
        keyed: false,
        ip_address: None,
        user_agent: None,
        data: RawValue::from_string(format!("{{\"deadline\":\"{deadline}\"}}")).ok()?,
    })
}
