//! Carries dead letters from the table to DEADLETTERS. Any worker may do it: the message id is derived from where the message came
//! from, and a row is marked only after its PubAck.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{HeaderMap, jetstream};
use deadpool_postgres::Pool;
use subjects::header;

use crate::{Stop, nats, store::deadletter};

/// How often the table is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Letters in one round.
const BATCH: i64 = 100;

pub(crate) async fn run(context: jetstream::Context, pool: Pool, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = round(&context, &pool).await {
            tracing::warn!(error, "dead letters wait");
        }
    }
}

async fn round(context: &jetstream::Context, pool: &Pool) -> Result<(), String> {
    let connection = pool.get().await.map_err(|error| error.to_string())?;
    let letters = deadletter::waiting(&connection, BATCH).await.map_err(|error| crate::store::describe(&error))?;
    for letter in letters {
        let mut headers = HeaderMap::new();
        let stored: BTreeMap<String, String> = serde_json::from_str(&letter.headers).map_err(|error| error.to_string())?;
        for (name, value) in stored {
            headers.insert(name, value);
        }
        headers.insert(header::MESSAGE_ID, letter.id.to_string());
        nats::store(context, letter.subject, headers, letter.payload.into()).await?;
        deadletter::published(&connection, letter.id).await.map_err(|error| crate::store::describe(&error))?;
    }
    Ok(())
}
