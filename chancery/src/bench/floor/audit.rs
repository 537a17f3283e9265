//! The floor's durable consumer: every event becomes a row, what is ready in one statement.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{
    self, Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use futures_util::StreamExt as _;
use runtime::Config;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{BATCH, database, nats, wire};

pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    let context = jetstream::new(nats(config.nats_url.expose(), "floor audit").await?);
    let client = database(config.database_url.expose()).await?;
    let insert = client
        .prepare("INSERT INTO audit (id, subject, body) SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING")
        .await?;
    let stream = context.get_stream(wire::EVENTS).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("audit".into()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 4_096,
            ..pull::Config::default()
        })
        .await?;
    let (sender, mut events) = mpsc::channel(BATCH * 4);
    let mut messages = consumer.stream().max_messages_per_batch(BATCH * 4).expires(Duration::from_secs(30)).messages().await?;
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut batch = Vec::with_capacity(BATCH);
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let batch = batch.drain(..).collect::<Result<Vec<Message>, _>>()?;
        let ids =
            batch.iter().map(|message| message.payload.get(..16).and_then(|bytes| Uuid::from_slice(bytes).ok()).context("an event without an id"));
        let ids = ids.collect::<anyhow::Result<Vec<Uuid>>>()?;
        let subjects: Vec<&str> = batch.iter().map(|message| message.subject.as_str()).collect();
        let bodies: Vec<&[u8]> = batch.iter().map(|message| message.payload.as_ref()).collect();
        client.execute(&insert, &[&ids, &subjects, &bodies]).await.context("writing audit rows")?;
        for message in &batch {
            message.ack().await.map_err(|error| anyhow::anyhow!("acknowledging: {error}"))?;
        }
    }
    anyhow::bail!("the stream of events ended")
}
