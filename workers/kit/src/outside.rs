//! Effects outside of PostgreSQL, through a ledger: what is to happen is written down in the transaction of the event, sent after its commit,
//! and what came of it is written down again.
//!
//! A row goes `pending` → `sending` → `done`. Who finds one `sending` for longer than a call may take finds a crash: whether it was sent is
//! not known. It is sent once more, under the same key, and is `in_doubt` for good when that happens a second time.
//! `chancery consumer replay --effects` makes one that is over `pending` again, under the number of that replay, which is part of the key.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::join_all;
use prometheus::{IntCounterVec, Opts};
use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Transaction},
    failpoint, store,
};
use serde_json::Value;
use subjects::EventId;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Schema;

/// How often the ledger is looked at while there is nothing to send.
const LOOK: Duration = Duration::from_millis(500);
/// How much longer than a call a row may be `sending` before it counts as a crash's.
const SLACK: Duration = Duration::from_secs(10);
/// The pause after something outside was missing.
const OUTAGE: Duration = Duration::from_secs(2);
/// Characters of an error that are kept.
const ERROR: usize = 500;

/// How effects are sent.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// Effects that are sent at the same time at most, by each replica.
    pub at_once: u16,
    /// How long sending one may take.
    pub limit: Duration,
}

/// Something that is to happen outside.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The event it follows from.
    pub event_id: EventId,
    /// Which of the event's effects, as it was written down.
    pub name: String,
    /// What is needed to do it, as it was written down.
    pub payload: Value,
    /// Which try it is, from 1.
    pub attempt: u32,
    consumer: &'static str,
    n: i64,
    /// When this try counts as lost; what tells it from every other.
    due: OffsetDateTime,
    replay: i64,
    doubted: bool,
}

impl Effect {
    /// The same for every try: to be sent along, as an idempotency key or a Message-ID, so that the other side can tell a repeat. Another one where
    /// an operator has it sent again: then a repeat is what is wanted.
    pub fn key(&self) -> String {
        let Self { consumer, event_id, name, replay, .. } = self;
        if *replay == 0 { format!("{consumer}:{event_id}:{name}") } else { format!("{consumer}:{event_id}:{name}:{replay}") }
    }
}

impl Outside {
    /// Refuses what could send nothing, or could not be finished when the program is asked to end.
    pub(crate) fn check(self, drain: Duration) -> anyhow::Result<()> {
        anyhow::ensure!(self.at_once > 0, "effects outside: at_once is zero, so none would ever be sent");
        anyhow::ensure!(self.limit >= Duration::from_millis(1), "effects outside: no call ends within {:?}", self.limit);
        anyhow::ensure!(
            self.limit < drain,
            "effects outside: a call may take {:?}, and a drain only {drain:?} (CHANCERY_DRAIN_MS): every release would leave doubts",
            self.limit
        );
        Ok(())
    }
}

impl Schema {
    /// Writes down that something is to happen outside once the transaction is committed. `name` tells the effects of one event apart: the second of
    /// a name is the first. Personal data may stand in `payload`, and stays there until somebody removes it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn intend(&self, transaction: &Transaction<'_>, event: &Event, name: &str, payload: &Value) -> Result<(), Failure> {
        let statement = transaction
            .prepare_cached(&format!(
                "INSERT INTO {}.effects (event_id, effect, aggregate, payload) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                self.name
            ))
            .await?;
        let envelope = &event.envelope;
        let aggregate = format!("{}/{}/{}", envelope.tenant_id, envelope.aggregate, envelope.aggregate_id);
        transaction.execute(&statement, &[&envelope.id.uuid(), &name, &aggregate, payload]).await?;
        Ok(())
    }
}

/// Sends what is written down until `stop`, then finishes what is under way.
pub(crate) async fn send_all<S>(durable: Durable, schema: Schema, outside: Outside, config: &Config, stop: &Stop, send: &S) -> anyhow::Result<()>
where
    S: AsyncFn(&Effect) -> Result<(), Failure>,
{
    let options = Opts::new("chancery_consumer_effects_total", "Effects outside, by what became of the try.").const_label("consumer", durable.name);
    let tried = IntCounterVec::new(options, &["result"])?;
    prometheus::register(Box::new(tried.clone()))?;
    let sender = Sender { durable, schema, outside, pool: store::pool(config, &format!("chancery {} effects", durable.name))?, tried, send };
    while !stop.is_cancelled() {
        let pause = match sender.round().await {
            Ok(true) => continue,
            Ok(false) => LOOK,
            Err(failure) => {
                tracing::warn!(consumer.name = durable.name, error = %failure, "effects cannot be sent");
                OUTAGE
            }
        };
        tokio::select! { () = stop.cancelled() => {}, () = sleep(pause) => {} }
    }
    Ok(())
}

/// What came of a try.
struct Came {
    state: &'static str,
    wait: Duration,
    error: Option<String>,
    counts: bool,
    doubted: bool,
}

struct Sender<'a, S> {
    durable: Durable,
    schema: Schema,
    outside: Outside,
    pool: Pool,
    tried: IntCounterVec,
    send: &'a S,
}

impl<S> Sender<'_, S>
where
    S: AsyncFn(&Effect) -> Result<(), Failure>,
{
    /// Takes what is due and sends it; false when there was nothing.
    async fn round(&self) -> Result<bool, Failure> {
        let client = self.pool.get().await.map_err(Failure::outage)?;
        self.doubt(&client).await?;
        let effects = self.take(&client).await?;
        drop(client);
        let is_busy = !effects.is_empty();
        // In this task: what is sent needs not be `Send`.
        join_all(effects.iter().map(|effect| self.one(effect))).await;
        Ok(is_busy)
    }

    /// What has been on its way for too long: once more, or given up.
    async fn doubt(&self, client: &Object) -> Result<(), Failure> {
        let statement = format!(
            "UPDATE {}.effects SET state = CASE WHEN doubted THEN 'in_doubt' ELSE 'pending' END, doubted = true,
                 error = 'whether it was sent is not known', ended_at = CASE WHEN doubted THEN now() END
             WHERE state = 'sending' AND due < now() RETURNING event_id, effect, state",
            self.schema.name
        );
        for row in client.query(&client.prepare_cached(&statement).await?, &[]).await? {
            let (event, effect, state): (Uuid, String, String) = (row.get(0), row.get(1), row.get(2));
            let event = EventId::new(event);
            tracing::error!(consumer.name = self.durable.name, event.id = %event, effect, state, "whether an effect was sent is not known");
            self.tried.with_label_values(&["in_doubt"]).inc();
        }
        Ok(())
    }

    /// Takes what is due, of each aggregate the first that is not over.
    async fn take(&self, client: &Object) -> Result<Vec<Effect>, Failure> {
        let schema = self.schema.name;
        let statement = format!(
            "UPDATE {schema}.effects SET state = 'sending', tries = tries + 1, due = now() + make_interval(secs => $1)
             WHERE n IN (SELECT n FROM {schema}.effects e WHERE state = 'pending' AND due <= now() AND NOT EXISTS (
                     SELECT FROM {schema}.effects b WHERE b.aggregate = e.aggregate AND b.n < e.n AND b.state IN ('pending', 'sending'))
                 ORDER BY n LIMIT $2 FOR UPDATE SKIP LOCKED)
             RETURNING n, event_id, effect, payload, tries, doubted, replay, due"
        );
        let seconds = (self.outside.limit + SLACK).as_secs_f64();
        let rows = client.query(&client.prepare_cached(&statement).await?, &[&seconds, &i64::from(self.outside.at_once)]).await?;
        Ok(rows.iter().map(|row| self.effect(row)).collect())
    }

    fn effect(&self, row: &Row) -> Effect {
        Effect {
            n: row.get(0),
            event_id: EventId::new(row.get(1)),
            name: row.get(2),
            payload: row.get(3),
            attempt: u32::try_from(row.get::<_, i32>(4)).unwrap_or(u32::MAX),
            doubted: row.get(5),
            replay: row.get(6),
            due: row.get(7),
            consumer: self.durable.name,
        }
    }

    /// Sends one and writes down what came of it.
    async fn one(&self, effect: &Effect) {
        failpoint::hit("effect_before_send");
        let sent = timeout(self.outside.limit, (self.send)(effect)).await;
        failpoint::hit("effect_sent");
        let came = self.judge(effect, sent.ok());
        self.tried.with_label_values(&[came.state]).inc();
        if let Some(error) = &came.error {
            let (consumer, event) = (self.durable.name, &effect.event_id);
            tracing::warn!(consumer.name = consumer, event.id = %event, effect = effect.name, attempt = effect.attempt, state = came.state, error, "an effect failed");
        }
        // A database that is away must not make a doubt of what is known.
        loop {
            match self.record(effect, &came).await {
                Err(failure) => {
                    tracing::warn!(consumer.name = self.durable.name, error = %failure, "what became of an effect cannot be written down yet");
                    sleep(LOOK).await;
                }
                Ok(()) => return,
            }
        }
    }

    /// What follows from how sending went; `None` when it took too long.
    fn judge(&self, effect: &Effect, sent: Option<Result<(), Failure>>) -> Came {
        let came = |state, wait, error: Option<String>| {
            let error = error.map(|error| error.chars().filter(|c| !c.is_control()).take(ERROR).collect());
            Came { state, wait, error, counts: true, doubted: false }
        };
        match sent {
            Some(Ok(())) => came("done", Duration::ZERO, None),
            Some(Err(Failure::Outage(error))) => Came { counts: false, ..came("pending", OUTAGE, Some(error)) },
            Some(Err(Failure::Retry(error))) if effect.attempt < self.durable.max_deliver => {
                came("pending", self.durable.delay(effect.attempt), Some(error))
            }
            Some(Err(Failure::Retry(error) | Failure::Poison(error))) => came("failed", Duration::ZERO, Some(error)),
            None if effect.doubted => Came { doubted: true, ..came("in_doubt", Duration::ZERO, Some("it took too long, twice".into())) },
            None => Came { doubted: true, ..came("pending", self.durable.delay(1), Some("it took too long".into())) },
        }
    }

    /// Writes it down, if the try is still this one's: who was frozen for longer finds that somebody has doubted it, or that
    /// an operator has it sent again.
    async fn record(&self, effect: &Effect, came: &Came) -> Result<(), Failure> {
        let client = self.pool.get().await.map_err(Failure::outage)?;
        let statement = format!(
            "UPDATE {}.effects SET state = $3, due = now() + make_interval(secs => $4), error = $5, tries = tries - $6, doubted = doubted OR $7,
                 ended_at = CASE WHEN $3 IN ('done', 'failed', 'in_doubt') THEN now() END
             WHERE n = $1 AND tries = $2 AND state = 'sending' AND replay = $8 AND due = $9",
            self.schema.name
        );
        let (tries, uncounted) = (i32::try_from(effect.attempt).unwrap_or(i32::MAX), i32::from(!came.counts));
        let statement = client.prepare_cached(&statement).await?;
        let wait = came.wait.as_secs_f64();
        client
            .execute(&statement, &[&effect.n, &tries, &came.state, &wait, &came.error, &uncounted, &came.doubted, &effect.replay, &effect.due])
            .await?;
        Ok(())
    }
}
