//! What stands where at one moment: partitions and owners, what is undecided and unpublished, how far each consumer is. `chancery status` shows
//! it, `chancery doctor` judges it.

mod consumers;
mod streams;
mod tables;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use runtime::{Config, nats::Access, store};
use serde::Serialize;
use time::OffsetDateTime;

pub use self::{
    consumers::ConsumerState,
    streams::StreamState,
    tables::{Owner, Partitions},
};
pub(crate) use self::{consumers::durable_info, streams::after_of};
use crate::{connect, manifest::Manifest};

/// How long one question to NATS may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What stood where.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When it was asked, by this machine's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who decides what.
    pub partitions: Partitions,
    /// Commands that are accepted and not decided.
    pub undecided: Waiting,
    /// Events that are committed and not known to be in EVENTS; what is on its way is among them.
    pub unpublished: Waiting,
    /// The streams that are there.
    pub streams: Vec<StreamState>,
    /// Every declared consumer.
    pub consumers: Vec<ConsumerState>,
    /// Dead letters that stand.
    pub dead_letters: u64,
    /// What nats-server gave up delivering, as far as it is kept.
    pub advisories: u64,
}

/// Something that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// How many.
    pub count: u64,
    /// Seconds for which the oldest has been waiting.
    pub oldest_seconds: Option<f64>,
}

/// Looks at servers through connections that stay.
#[derive(Debug)]
pub struct Observer {
    config: Config,
    manifest: &'static Manifest,
    client: async_nats::Client,
    database: Option<tokio_postgres::Client>,
}

impl Observer {
    /// Connects as the operator.
    ///
    /// # Errors
    /// NATS or the database cannot be reached.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        connect::needs_database(config)?;
        let client = connect::nats_with(&Access::of(config), "chancery status").await;
        let client = client.map_err(anyhow::Error::from_boxed).context("connecting to NATS")?;
        Ok(Self { config: config.clone(), manifest: Manifest::of(config)?, client, database: None })
    }

    /// Looks once. A connection to the database that was lost is made anew.
    ///
    /// # Errors
    /// NATS or the database does not answer.
    pub async fn look(&mut self) -> anyhow::Result<Overview> {
        if self.database.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
            let made = store::connect(&self.config, "chancery status", "-c default_transaction_read_only=on").await;
            self.database = Some(made.map_err(anyhow::Error::msg).context("connecting to PostgreSQL")?);
        }
        let Some(database) = &self.database else { anyhow::bail!("no connection to PostgreSQL") };
        let tables = tables::look(database, &self.config).await?;
        let context = jetstream::new(self.client.clone());
        let streams = streams::look(&context, &self.config).await?;
        let undecided = streams::undecided(&self.client, &tables.cursors, &streams).await?;
        let letters = streams::letters(&context).await?;
        let consumers = consumers::look(&self.client, &context, self.manifest, &tables.ordered, &letters).await?;
        let messages = |name: &str| streams.iter().find(|stream| stream.name == name).map_or(0, |stream| stream.messages);
        let advisories = messages(subjects::stream::ADVISORIES);
        Ok(Overview {
            at: OffsetDateTime::now_utc(),
            partitions: tables.partitions,
            undecided,
            unpublished: tables.unpublished,
            dead_letters: letters.values().sum(),
            advisories,
            streams,
            consumers,
        })
    }
}

/// Seconds from a moment until now; a clock that is behind says zero.
fn seconds_since(moment: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - moment).as_seconds_f64().max(0.0)
}
