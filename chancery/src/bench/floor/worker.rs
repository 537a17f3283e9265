//! The floor's worker: reads every partition by its cursor, writes what is ready in one transaction, and publishes the events of one
//! transaction while it writes the next.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt as _;
use runtime::Config;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{
    BATCH, database, nats,
    wire::{self, Command, Outgoing},
};

/// Commands read ahead, over all partitions.
const READ_AHEAD: usize = 4_096;

struct Read {
    partition: u16,
    cursor: u64,
    command: Command,
}

/// Transactions that may wait for the lane, as in the product.
const WAITING: usize = 8;

pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    let nats = nats(config.nats_url.expose(), "floor worker").await?;
    let mut writer = Writer::prepare(database(config.database_url.expose()).await?).await?;
    let context = jetstream::new(nats.clone());
    let (sender, mut reads) = mpsc::channel(READ_AHEAD);
    let (failed, mut failure) = mpsc::channel(1);
    for partition in 0..config.partitions {
        let cursor = writer.cursors.get(&partition).map_or(0, |place| place.0);
        let (context, sender, failed) = (context.clone(), sender.clone(), failed.clone());
        tokio::spawn(async move {
            if let Err(error) = read(context, partition, cursor, sender).await {
                let _ = failed.send(error).await;
            }
        });
    }
    let (lane, mut jobs) = mpsc::channel::<Vec<Outgoing>>(WAITING);
    let (publisher, pace) = (nats.clone(), config.publish_pace);
    tokio::spawn(async move {
        let mut due = Instant::now();
        while let Some(mut events) = jobs.recv().await {
            // As the product does: what was committed meanwhile goes as one batch, at the same pace, within the server's limit of a thousand.
            while events.len() < 1_000 - BATCH
                && let Ok(Some(more)) = timeout_at(due, jobs.recv()).await
            {
                events.extend(more);
            }
            let begun = Instant::now();
            if let Err(error) = wire::publish(&publisher, events).await {
                let _ = failed.send(error).await;
                return;
            }
            due = begun + runtime::worker::backoff::rest(begun.elapsed(), pace);
        }
    });
    let work = async {
        let mut batch = Vec::with_capacity(BATCH);
        while reads.recv_many(&mut batch, BATCH).await > 0 {
            let (events, outcomes) = writer.write(&batch).await?;
            for (gateway, body) in outcomes {
                nats.publish(wire::outcomes(gateway), body.freeze()).await?;
            }
            lane.send(events).await.context("the lane ended")?;
            batch.clear();
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        Some(error) = failure.recv() => Err(error),
    }
}

async fn read(context: jetstream::Context, partition: u16, cursor: u64, out: mpsc::Sender<Read>) -> anyhow::Result<()> {
    let stream = context.get_stream(wire::COMMANDS).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: cursor + 1 },
            ack_policy: AckPolicy::None,
            filter_subject: format!("fcmd.{partition}.>"),
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        })
        .await?;
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).expires(Duration::from_secs(30)).messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let cursor = message.info().map_err(|error| anyhow::anyhow!("{error}"))?.stream_sequence;
        let command = Command::read(&message.payload).context("a command that is none of ours")?;
        if out.send(Read { partition, cursor, command }).await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the reader of partition {partition} ended")
}

/// The connection that writes, and where every partition stands: cursor and event sequence.
struct Writer {
    client: Client,
    cursors: HashMap<u16, (u64, u64)>,
    partitions: Statement,
    states: Statement,
    events: Statement,
    commands: Statement,
}

type Written = (Vec<Outgoing>, HashMap<u64, BytesMut>);

impl Writer {
    async fn prepare(client: Client) -> anyhow::Result<Self> {
        client.batch_execute("SET jit = off").await?;
        let rows = client.query("SELECT partition, cursor, sequence FROM partitions", &[]).await?;
        let cursors = rows.iter().map(|row| (row.get::<_, i16>(0) as u16, (row.get::<_, i64>(1) as u64, row.get::<_, i64>(2) as u64))).collect();
        let partitions = client
            .prepare(
                "UPDATE partitions p SET cursor = u.cursor, sequence = u.sequence FROM unnest($1::smallint[], $2::bigint[], $3::bigint[])
                 u (partition, cursor, sequence) WHERE p.partition = u.partition",
            )
            .await?;
        let states = client
            .prepare(
                "INSERT INTO states (aggregate, version, body) SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bytea[])
                 ON CONFLICT (aggregate) DO UPDATE SET version = states.version + excluded.version, body = excluded.body",
            )
            .await?;
        let events = client
            .prepare(
                "INSERT INTO events (partition, sequence, id, command, tenant, aggregate, body)
                 SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::uuid[], $5::integer[], $6::integer[], $7::bytea[])",
            )
            .await?;
        let commands = client.prepare("INSERT INTO commands (id, event) SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING").await?;
        Ok(Self { client, cursors, partitions, states, events, commands })
    }

    /// One transaction in one round trip; returns the events to publish and the outcomes by gateway.
    async fn write(&mut self, batch: &[Read]) -> anyhow::Result<Written> {
        let count = batch.len();
        let (mut places, mut newest) = (HashMap::new(), HashMap::<u32, (i64, &[u8])>::new());
        let (mut sequences, mut ids, mut events) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::with_capacity(count));
        let mut outcomes: HashMap<u64, BytesMut> = HashMap::new();
        for read in batch {
            let place = self.cursors.entry(read.partition).or_default();
            *place = (read.cursor, place.1 + 1);
            places.insert(read.partition, *place);
            let command = &read.command;
            let id = Uuid::now_v7();
            let state = newest.entry(command.aggregate).or_default();
            *state = (state.0 + 1, command.body.as_ref());
            let out = outcomes.entry(command.gateway).or_insert_with(|| BytesMut::with_capacity(wire::OUTCOME * count));
            out.put_slice(command.id.as_bytes());
            out.put_slice(id.as_bytes());
            out.put_u64(place.1);
            events.push(event(id, command));
            sequences.push(place.1 as i64);
            ids.push(id);
        }
        let partitions: Vec<i16> = batch.iter().map(|read| read.partition as i16).collect();
        let command_ids: Vec<Uuid> = batch.iter().map(|read| read.command.id).collect();
        let tenants: Vec<i32> = batch.iter().map(|read| read.command.tenant as i32).collect();
        let aggregates: Vec<i32> = batch.iter().map(|read| read.command.aggregate as i32).collect();
        let bodies: Vec<&[u8]> = batch.iter().map(|read| read.command.body.as_ref()).collect();
        let state_ids: Vec<i32> = newest.keys().map(|id| *id as i32).collect();
        let state_versions: Vec<i64> = newest.values().map(|(version, _)| *version).collect();
        let state_bodies: Vec<&[u8]> = newest.values().map(|(_, body)| *body).collect();
        let place_ids: Vec<i16> = places.keys().map(|id| *id as i16).collect();
        let place_cursors: Vec<i64> = places.values().map(|(cursor, _)| *cursor as i64).collect();
        let place_sequences: Vec<i64> = places.values().map(|(_, sequence)| *sequence as i64).collect();
        // Nothing is looked at before COMMIT, so it goes along: an error before it makes it a rollback, and the error is seen first.
        tokio::try_join!(
            self.client.batch_execute("BEGIN"),
            async { self.client.execute(&self.partitions, &[&place_ids, &place_cursors, &place_sequences]).await.map(drop) },
            async { self.client.execute(&self.states, &[&state_ids, &state_versions, &state_bodies]).await.map(drop) },
            async {
                self.client.execute(&self.events, &[&partitions, &sequences, &ids, &command_ids, &tenants, &aggregates, &bodies]).await.map(drop)
            },
            async { self.client.execute(&self.commands, &[&command_ids, &ids]).await.map(drop) },
            self.client.batch_execute("COMMIT"),
        )
        .context("writing a batch")?;
        Ok((events, outcomes))
    }
}

/// An event message: its id, the command's, and the body.
fn event(id: Uuid, command: &Command) -> Outgoing {
    let mut payload = BytesMut::with_capacity(32 + command.body.len());
    payload.put_slice(id.as_bytes());
    payload.put_slice(command.id.as_bytes());
    payload.put_slice(&command.body);
    Outgoing { subject: format!("fevt.t{}.user.updated", command.tenant), id: Some(id.to_string()), payload: Bytes::from(payload) }
}
