//! What every hand on a consumer needs: what it stands on, and the row that says whose hand it was.

use anyhow::{Context as _, bail};
use async_nats::jetstream::{self, consumer::Info, stream::Stream};
use runtime::{Config, consume, nats, store, streams};
use subjects::stream as names;

use crate::overview::{after_of, durable_info};

/// Connections of somebody who has a hand on consumers.
pub(super) struct Control {
    pub(super) client: async_nats::Client,
    pub(super) events: Stream,
    pub(super) database: tokio_postgres::Client,
}

/// What a consumer stands on.
pub(super) enum Standing {
    /// A durable of EVENTS.
    Durable(Box<Info>),
    /// A position in the database, with the last number that it had.
    InOrder(u64),
}

impl Control {
    /// Connects; EVENTS must be there.
    pub(super) async fn open(config: &Config, connection: &nats::Connection) -> anyhow::Result<Self> {
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(config.publish_timeout);
        let events = streams::get(&context, names::EVENTS).await.map_err(anyhow::Error::msg).context("looking at EVENTS")?;
        let database = store::connect(config, "chancery consumer", "").await.map_err(anyhow::Error::msg).context("connecting to PostgreSQL")?;
        Ok(Self { client: connection.client.clone(), events, database })
    }

    /// What a consumer stands on.
    pub(super) async fn standing(&self, name: &str) -> anyhow::Result<Standing> {
        if !subjects::is_consumer(name) {
            bail!("{name:?} is no name of a consumer");
        }
        if let Some(info) = durable_info(&self.events, name).await? {
            return Ok(Standing::Durable(Box::new(info)));
        }
        let row = self.database.query_opt("SELECT position FROM consumer_positions WHERE consumer = $1", &[&name]).await;
        match row.map_err(|error| failed(&error))? {
            Some(row) => Ok(Standing::InOrder(row.try_get::<_, i64>(0)?.unsigned_abs())),
            None => bail!("EVENTS has no durable {name}, and no consumer in order of that name has ever run"),
        }
    }

    /// Writes down who does what. Before it is done: whoever ends in between has a row too many, and nothing is done without one.
    pub(super) async fn note(&self, actor: &str, action: &str, consumer: &str, what: &str) -> anyhow::Result<()> {
        let insert = "INSERT INTO consumer_actions (actor, action, consumer, what) VALUES ($1, $2, $3, $4)";
        self.database.execute(insert, &[&actor, &action, &consumer, &what]).await.map_err(|error| failed(&error))?;
        Ok(())
    }

    /// How many events of these subjects EVENTS has behind a number.
    pub(super) async fn behind(&self, filters: &[String], after: u64) -> anyhow::Result<u64> {
        let mut all = 0;
        for filter in filters {
            all += after_of(&self.client, names::EVENTS, filter.clone(), after).await?.map_or(0, |(count, _)| count);
        }
        Ok(all)
    }
}

/// What a durable takes.
pub(super) fn filters(info: &Info) -> Vec<String> {
    consume::filters(&info.config.filter_subject, &info.config.filter_subjects).into_iter().collect()
}

pub(super) fn failed(error: &tokio_postgres::Error) -> anyhow::Error {
    anyhow::anyhow!("asking PostgreSQL: {} (DATABASE_URL has to be a superuser's)", store::describe(error))
}
