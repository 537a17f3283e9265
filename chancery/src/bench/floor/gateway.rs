//! The floor's gateway: a body in, a command out, an answer when its batch is committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{Client, HeaderMap, Request, jetstream};
use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use runtime::Config;
use subjects::header;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    BATCH, nats,
    wire::{self, Command, Outgoing},
};

/// Commands waiting for a turn to be published, at most.
const QUEUE: usize = 4_096;

type Outcome = (Uuid, u64);

struct Gateway {
    id: u64,
    partitions: u32,
    context: jetstream::Context,
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Outcome>>>,
    /// Where commands queue for group commit; none without.
    group: Option<mpsc::Sender<(Outgoing, oneshot::Sender<bool>)>>,
}

pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    let client = nats(config.nats_url.expose(), "floor gateway").await?;
    let id: u64 = rand::random();
    let mut outcomes = client.subscribe(wire::outcomes(id)).await?;
    let group = (config.group_commit > 0).then(|| {
        let (sender, queue) = mpsc::channel(QUEUE);
        tokio::spawn(submit(client.clone(), config.group_commit, queue));
        sender
    });
    let context = jetstream::new(client);
    let gateway = Arc::new(Gateway { id, partitions: config.partitions.into(), context, waiting: Mutex::default(), group });
    let told = gateway.clone();
    tokio::spawn(async move {
        while let Some(message) = outcomes.next().await {
            told.tell(&message.payload);
        }
    });
    let routes = Router::new().route("/readyz", get(|| async { "ready" })).route("/{tenant}/{aggregate}", post(command)).with_state(gateway);
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    Ok(axum::serve(listener, routes).await?)
}

async fn command(State(gateway): State<Arc<Gateway>>, Path((tenant, aggregate)): Path<(u32, u32)>, body: Bytes) -> Response {
    let id = Uuid::now_v7();
    let (sender, outcome) = oneshot::channel();
    gateway.waiting().insert(id, sender);
    let subject = format!("fcmd.{}.t{tenant}.user.update", tenant % gateway.partitions);
    let payload = Command { id, gateway: gateway.id, tenant, aggregate, body }.write();
    if !gateway.publish(id, subject, payload).await {
        gateway.waiting().remove(&id);
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match outcome.await {
        Ok((event, sequence)) => {
            let body =
                format!(r#"{{"commandId":"cmd_{id}","aggregateId":"user_{aggregate}","sequence":{sequence},"events":[{{"id":"evt_{event}"}}]}}"#);
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

impl Gateway {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, outcomes: &[u8]) {
        let mut waiting = self.waiting();
        for outcome in outcomes.chunks_exact(wire::OUTCOME) {
            let part = |from: usize| outcome.get(from..from + 16).and_then(|bytes| Uuid::from_slice(bytes).ok()).unwrap_or_default();
            let sequence = outcome.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            if let Some(sender) = waiting.remove(&part(0)) {
                // The client may have gone.
                let _ = sender.send((part(16), sequence));
            }
        }
    }

    async fn publish(&self, id: Uuid, subject: String, payload: Bytes) -> bool {
        let Some(group) = &self.group else {
            let mut headers = HeaderMap::new();
            headers.insert(header::MESSAGE_ID, id.to_string());
            let Ok(ack) = self.context.publish_with_headers(subject, headers, payload).await else { return false };
            return ack.await.is_ok();
        };
        let (sender, stored) = oneshot::channel();
        group.send((Outgoing { subject, id: Some(id.to_string()), payload }, sender)).await.is_ok() && stored.await.unwrap_or(false)
    }
}

/// Group commit: what came while the last group was on its way goes as one atomic batch without ids when it is large enough, else
/// message by message, all acknowledgements awaited together.
async fn submit(client: Client, least: usize, mut queue: mpsc::Receiver<(Outgoing, oneshot::Sender<bool>)>) {
    let mut group = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut group, BATCH).await > 0 {
        let (mut messages, senders): (Vec<Outgoing>, Vec<_>) = group.drain(..).unzip();
        if messages.len() >= least {
            for message in &mut messages {
                message.id = None;
            }
            let stored = wire::publish(&client, messages).await;
            if let Err(error) = &stored {
                eprintln!("a group was not stored: {error:#}");
            }
            for sender in senders {
                let _ = sender.send(stored.is_ok());
            }
            continue;
        }
        let singles = messages.into_iter().map(|message| {
            let mut headers = HeaderMap::new();
            if let Some(id) = message.id {
                headers.insert(header::MESSAGE_ID, id);
            }
            client.send_request(message.subject, Request::new().headers(headers).payload(message.payload).timeout(Some(super::PUBLISH_LIMIT)))
        });
        for (stored, sender) in futures_util::future::join_all(singles).await.into_iter().zip(senders) {
            let _ = sender.send(stored.is_ok());
        }
    }
}
