//! What nats-server says of the streams.

use std::collections::BTreeMap;

use anyhow::Context as _;
use async_nats::{Client, jetstream};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use runtime::{Config, streams};
use serde::Serialize;
use subjects::{DeadLetterSubject, command_filter, stream as names};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{LIMIT, Waiting, seconds_since, tables::Cursor};

/// Questions that are asked at once.
const AT_ONCE: usize = 16;

/// A stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// Messages it has.
    pub messages: u64,
    /// Bytes it has.
    pub bytes: u64,
    /// Bytes it may have; none for no limit.
    pub max_bytes: Option<u64>,
    /// The number of its last message.
    pub last: u64,
    /// Copies it is to have.
    pub replicas: usize,
    /// The server that leads it; none while it has no leader.
    pub leader: Option<String>,
    /// Servers that have a copy and are offline or behind.
    pub behind: Vec<String>,
    /// Which life of the stream this is.
    #[serde(skip)]
    pub(super) life: i64,
}

impl StreamState {
    /// A stream of a cluster in which nothing is wrong.
    #[cfg(test)]
    pub(crate) fn sample(name: &str) -> Self {
        let (name, leader) = (name.to_owned(), Some("nats-1".to_owned()));
        Self { name, messages: 1, bytes: 1, max_bytes: Some(100), last: 1, replicas: 3, leader, behind: Vec::new(), life: 1 }
    }

    /// How full it is, from 0 to 1; 0 without a limit.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn fullness(&self) -> f64 {
        self.max_bytes.map_or(0.0, |max| self.bytes as f64 / max.max(1) as f64)
    }
}

/// The streams that are there, in the order in which they are made.
pub(super) async fn look(context: &jetstream::Context, config: &Config) -> anyhow::Result<Vec<StreamState>> {
    let mut all = Vec::new();
    for wanted in streams::wanted(config) {
        let asked = timeout(LIMIT, streams::look_at(context, &wanted.name)).await;
        let asked = asked.map_err(|_| anyhow::anyhow!("{} does not answer: it has no leader", wanted.name))?;
        let Some(found) = asked.map_err(anyhow::Error::msg).with_context(|| format!("looking at {}", wanted.name))? else { continue };
        let info = found.cached_info();
        let cluster = info.cluster.as_ref();
        let peers = cluster.map(|cluster| cluster.replicas.as_slice()).unwrap_or_default();
        all.push(StreamState {
            name: info.config.name.clone(),
            messages: info.state.messages,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).ok(),
            last: info.state.last_sequence,
            replicas: info.config.num_replicas,
            leader: cluster.and_then(|cluster| cluster.leader.clone()),
            behind: peers.iter().filter(|peer| peer.offline || !peer.current).map(|peer| peer.name.clone()).collect(),
            life: streams::life(info),
        });
    }
    Ok(all)
}

/// Dead letters by who gave up.
pub(super) async fn letters(context: &jetstream::Context) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let Some(found) = streams::look_at(context, names::DEADLETTERS).await.map_err(anyhow::Error::msg)? else { return Ok(counts) };
    let mut subjects = found.info_with_subjects(subjects::ANY_DEAD_LETTER).await.context("asking DEADLETTERS for its subjects")?;
    while let Some((subject, count)) = subjects.try_next().await.context("asking DEADLETTERS for its subjects")? {
        // What is no subject of ours is counted under itself, and so in the sum.
        let who = DeadLetterSubject::parse(&subject).map_or(subject.as_str(), |letter| letter.consumer);
        *counts.entry(who.to_owned()).or_default() += count as u64;
    }
    Ok(counts)
}

/// The commands that no partition has decided yet.
pub(super) async fn undecided(client: &Client, cursors: &[Cursor], streams: &[StreamState]) -> anyhow::Result<Waiting> {
    let Some(commands) = streams.iter().find(|stream| stream.name == names::COMMANDS) else { return Ok(Waiting::default()) };
    // A cursor of another life of the stream says nothing: then all of it is to be read.
    let from = |cursor: &Cursor| if cursor.life == commands.life { cursor.cursor } else { 0 };
    let questions = cursors.iter().map(|cursor| (command_filter(cursor.partition), from(cursor)));
    let answers: Vec<Option<(u64, OffsetDateTime)>> = stream::iter(questions)
        .map(|(subject, after)| after_of(client, names::COMMANDS, subject, after))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(answers.into_iter().flatten().fold(Waiting::default(), |all, (count, first)| Waiting {
        count: all.count + count,
        oldest_seconds: [all.oldest_seconds, Some(seconds_since(first))].into_iter().flatten().reduce(f64::max),
    }))
}

/// See [`streams::after_of`].
pub(crate) async fn after_of(client: &Client, stream: &str, subject: String, after: u64) -> anyhow::Result<Option<(u64, OffsetDateTime)>> {
    streams::after_of(client, stream, &subject, after).await.map_err(anyhow::Error::msg)
}
