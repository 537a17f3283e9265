//! How the gateway's parts are: `/livez`, `/readyz`.
//!
//! Without Postgres the gateway still takes commands of whom it knows, so a database that is lost later only shows; without NATS or
//! the stream it can do nothing of use.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use runtime::Stop;
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};

use crate::gateway::Gateway;

/// How old an answer about the parts may be, so that asking often costs nothing.
const FRESH: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    nats: bool,
    commands: bool,
    postgres: bool,
}

/// What is known about the parts.
pub(crate) struct Health {
    stop: Stop,
    seen: Mutex<Option<Seen>>,
    database_seen: AtomicBool,
}

impl Health {
    /// Knows nothing yet.
    pub(crate) fn new(stop: Stop) -> Self {
        Self { stop, seen: Mutex::new(None), database_seen: AtomicBool::new(false) }
    }

    async fn look(&self, gateway: &Gateway) -> Seen {
        let mut seen = self.seen.lock().await;
        if let Some(seen) = *seen
            && seen.at.elapsed() < FRESH
        {
            return seen;
        }
        let nats = gateway.commands.connected();
        let stream = async { nats && gateway.commands.stream_answers().await };
        let database = async { tokio::time::timeout(Duration::from_secs(2), gateway.store.answers()).await.unwrap_or(false) };
        let (commands, postgres) = tokio::join!(stream, database);
        self.database_seen.fetch_or(postgres, Ordering::Relaxed);
        *seen.insert(Seen { at: Instant::now(), nats, commands, postgres })
    }
}

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "live\n"
}

/// Each part, and whether requests should come here.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> Response {
    let stopping = gateway.health.stop.is_cancelled();
    let Seen { nats, commands, postgres, .. } = gateway.health.look(&gateway).await;
    // Which right it is says the log: whoever may ask here need not know.
    let rights = runtime::nats::has_rights();
    // What does not fit the tables says the log, too.
    let schema = runtime::health::parts().get("schema").is_none_or(|(fine, _)| *fine);
    let ready = !stopping && nats && commands && rights && schema && gateway.health.database_seen.load(Ordering::Relaxed);
    let word = |fine: bool| if fine { "ready" } else { "not_ready" };
    let parts = json!({ "nats": word(nats), "commands": word(commands), "postgres": word(postgres), "rights": word(rights),
        "schema": word(schema), "authz": word(gateway.standings.are_remembered()) });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "role": "gateway", "ready": ready, "stopping": stopping, "parts": parts }))).into_response()
}
