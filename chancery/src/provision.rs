//! `chancery provision`: the streams, the bucket, and what the manifest declares. Nobody else makes any.
//!
//! `plan` compares and changes nothing, `apply` makes what is missing and changes what may be changed in place, `verify` is a plan that fails
//! where something is left to do. Nothing is ever removed: what is declared nowhere is named.

pub mod postgres;

use std::{fmt, time::Instant};

use ::postgres::{Client, NoTls};
use anyhow::{Context as _, bail};
use async_nats::jetstream;
use futures_util::TryStreamExt as _;
use runtime::{
    Config, StartError,
    consume::{Order, Provisioned},
    nats::{self, Access},
    streams,
};
use subjects::stream;

use crate::{
    connect,
    manifest::{Entry, Manifest},
    migrate::Passwords,
};

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Streams that were missing, the bucket's among them.
    pub streams: usize,
    /// Durables that were missing.
    pub consumers: usize,
    /// Streams and durables that took less than this version wants.
    pub widened: usize,
    /// Durables with other limits.
    pub changed: usize,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, consumers, widened, changed } = self;
        write!(f, "{streams} streams and {consumers} consumers created, {widened} widened, {changed} changed, the others are as configured")
    }
}

/// How something stands to what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// As wanted.
    Same,
    /// Missing: `apply` makes it.
    Add,
    /// Different: `apply` changes it.
    Change,
    /// Different, and nothing changes it.
    Refused,
    /// There, and declared nowhere.
    Stray,
}

/// One thing of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// How it stands.
    pub sign: Sign,
    /// Its kind and name.
    pub what: String,
    /// What is to be said about it.
    pub detail: String,
}

impl Item {
    pub(crate) fn new(sign: Sign, what: String, detail: &str) -> Self {
        Self { sign, what, detail: detail.to_owned() }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Same => '=',
            Sign::Add => '+',
            Sign::Change => '~',
            Sign::Refused => '!',
            Sign::Stray => '?',
        };
        if self.detail.is_empty() { write!(f, "{sign} {}", self.what) } else { write!(f, "{sign} {:<32} {}", self.what, self.detail) }
    }
}

/// Fails where something is there that nothing changes.
fn refuse(items: &[Item]) -> anyhow::Result<()> {
    let refused: Vec<String> = items.iter().filter(|item| item.sign == Sign::Refused).map(|item| format!("{}: {}", item.what, item.detail)).collect();
    if refused.is_empty() { Ok(()) } else { bail!("{}", refused.join("\n")) }
}

/// Creates the streams, the bucket and the durables of all consumers, or checks them when they exist. Blocking: makes a small runtime for it.
///
/// # Errors
/// NATS cannot be reached, or an existing stream or durable differs from what the configuration says.
pub fn run(config: &Config) -> anyhow::Result<Made> {
    with(config, Manifest::of(config)?)
}

/// The same for a manifest that is at hand.
///
/// # Errors
/// See [`run`].
pub fn with(config: &Config, manifest: &'static Manifest) -> anyhow::Result<Made> {
    on_nats(config, async |client| provision(config, manifest, &client).await)
}

/// Compares everything with what is wanted, PostgreSQL too where `DATABASE_URL` says where it is; changes nothing. Blocking.
///
/// # Errors
/// NATS or PostgreSQL cannot be reached or read.
pub fn plan(config: &Config) -> anyhow::Result<Vec<Item>> {
    let mut items = plan_nats(config)?;
    if let Some(mut database) = database(config)? {
        items.extend(plan_database(&mut database, config)?);
    }
    Ok(items)
}

/// The part of [`plan`] that is at NATS. Blocking.
pub(crate) fn plan_nats(config: &Config) -> anyhow::Result<Vec<Item>> {
    let manifest = Manifest::of(config)?;
    on_nats(config, async |client| standing(config, manifest, &client).await)
}

/// The part of [`plan`] that is in PostgreSQL. Blocking.
pub(crate) fn plan_database(database: &mut Client, config: &Config) -> anyhow::Result<Vec<Item>> {
    postgres::standing(database, Manifest::of(config)?)
}

/// Makes everything, PostgreSQL's part too where `DATABASE_URL` says where it is. Blocking.
///
/// # Errors
/// See [`plan`]; or something is there that cannot be changed.
pub fn apply(config: &Config, passwords: &Passwords) -> anyhow::Result<Made> {
    let manifest = Manifest::of(config)?;
    // First what a consumer needs to work, then the place from where it counts.
    if let Some(mut database) = database(config)? {
        postgres::apply(&mut database, manifest, passwords)?;
    }
    with(config, manifest)
}

/// Makes what the manifest declares in PostgreSQL; how much of it was not there yet, or different. Blocking.
///
/// # Errors
/// PostgreSQL cannot be reached, or a schema is somebody else's.
pub fn teams(config: &Config, manifest: &Manifest, passwords: &Passwords) -> anyhow::Result<usize> {
    connect::needs_database(config)?;
    let Some(mut database) = database(config)? else { return Ok(0) };
    let items = postgres::apply(&mut database, manifest, passwords)?;
    Ok(items.iter().filter(|item| matches!(item.sign, Sign::Add | Sign::Change)).count())
}

fn on_nats<T>(config: &Config, work: impl AsyncFnOnce(async_nats::Client) -> Result<T, StartError>) -> anyhow::Result<T> {
    let work = async {
        let client = connect::nats_with(&Access::of(config), "chancery provision").await?;
        let started = Instant::now();
        // What is refused looks like a timeout where it was asked.
        let named = |error| if let StartError::Nats(text) = error { StartError::Nats(nats::named(text, started)) } else { error };
        Ok(work(client).await.map_err(named)?)
    };
    chancery_kit::process::runtime_on(Some(1))?
        .block_on(work)
        .map_err(|error: Box<dyn std::error::Error + Send + Sync>| anyhow::Error::from_boxed(error))
}

fn database(config: &Config) -> anyhow::Result<Option<Client>> {
    let url = config.database_url.expose();
    if url.is_empty() {
        return Ok(None);
    }
    connect::database_session(url, "chancery-provision")?.connect(NoTls).context("connecting to PostgreSQL").map(Some)
}

/// True for an error that may be over in a moment: the servers are not there, or have no leader yet.
pub fn may_pass(error: &anyhow::Error) -> bool {
    !matches!(error.downcast_ref::<StartError>(), Some(StartError::Settings { .. } | StartError::Config(_)))
}

/// Makes the streams, the bucket and the durables over a connection that there is.
///
/// # Errors
/// See [`run`].
pub async fn provision(config: &Config, manifest: &'static Manifest, client: &async_nats::Client) -> Result<Made, StartError> {
    let streams::Ensured { created, widened } = streams::ensure(config, client).await?;
    let mut made = Made { streams: created, widened, ..Made::default() };
    let context = jetstream::new(client.clone());
    for entry in durables(manifest) {
        match entry.durable().provision(&context, config).await? {
            Provisioned::Created => made.consumers += 1,
            Provisioned::Widened => made.widened += 1,
            Provisioned::Changed => made.changed += 1,
            Provisioned::Found => {}
        }
    }
    Ok(made)
}

/// The consumers that have a durable. Who asks for order keeps its position in its own database, and reads from there.
fn durables(manifest: &'static Manifest) -> impl Iterator<Item = &'static Entry> {
    manifest.entries().iter().filter(|entry| entry.order == Order::None)
}

/// How the streams, the bucket and the durables stand.
async fn standing(config: &Config, manifest: &'static Manifest, client: &async_nats::Client) -> Result<Vec<Item>, StartError> {
    let context = jetstream::new(client.clone());
    let mut items = Vec::new();
    for (name, standing) in streams::standing(config, client).await? {
        items.push(match standing {
            streams::Standing::AsWanted => Item::new(Sign::Same, format!("stream {name}"), ""),
            streams::Standing::Missing => Item::new(Sign::Add, format!("stream {name}"), ""),
            streams::Standing::Narrower(new) => {
                Item::new(Sign::Change, format!("stream {name}"), &format!("it does not store {} yet", new.join(", ")))
            }
            streams::Standing::Differs(how) => Item::new(Sign::Refused, format!("stream {name}"), &how),
        });
    }
    for entry in durables(manifest) {
        let what = format!("durable {}", entry.name);
        let standing = entry.durable().standing(&context, config).await?;
        let besides = (!standing.besides.is_empty()).then(|| format!("takes {} besides; nothing narrows it", standing.besides.join(", ")));
        let besides = besides.map(|detail| Item::new(Sign::Stray, what.clone(), &detail));
        if standing.is_missing {
            items.push(Item::new(Sign::Add, what, &entry.filters.join(", ")));
        } else if standing.is_as_wanted() {
            items.push(Item::new(Sign::Same, what, ""));
        } else if standing.fixed.is_empty() {
            items.push(Item::new(Sign::Change, what, &standing.changes.join("; ")));
        } else {
            items.push(Item::new(Sign::Refused, what, &standing.fixed.join("; ")));
        }
        items.extend(besides);
    }
    items.extend(strays(manifest, &context).await?);
    Ok(items)
}

/// Durables that are declared nowhere.
async fn strays(manifest: &'static Manifest, context: &jetstream::Context) -> Result<Vec<Item>, StartError> {
    let failed = |error: String| StartError::Nats(format!("listing the durables of {}: {error}", stream::EVENTS));
    let Some(events) = streams::look_at(context, stream::EVENTS).await.map_err(failed)? else { return Ok(Vec::new()) };
    let infos: Vec<jetstream::consumer::Info> = events.consumers().try_collect().await.map_err(|error| failed(error.to_string()))?;
    let durables = infos.into_iter().filter_map(|info| info.config.durable_name);
    let mut strays: Vec<String> = durables.filter(|name| !self::durables(manifest).any(|entry| entry.name == name)).collect();
    strays.sort_unstable();
    Ok(strays.into_iter().map(|name| Item::new(Sign::Stray, format!("durable {name}"), "is in no manifest; nothing removes it")).collect())
}
