//! How far each declared consumer is.

use std::collections::BTreeMap;

use anyhow::Context as _;
use async_nats::{Client, jetstream};
use runtime::{consume::Order, streams};
use serde::Serialize;
use subjects::stream as names;
use time::OffsetDateTime;

use super::{seconds_since, streams::after_of, tables::Ordered};
use crate::manifest::{Entry, Manifest};

/// A consumer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerState {
    /// Its name.
    pub name: &'static str,
    /// Who answers for it.
    pub team: String,
    /// Whether its program is one of this repository.
    pub is_ours: bool,
    /// Whether it asks for order, and so has no durable.
    pub is_ordered: bool,
    /// Whether what it stands on is there: its durable, or its position.
    pub exists: bool,
    /// Whether somebody asks for its events right now: a request waits at the server, or a replica has the lease. A busy program without order
    /// asks for nothing for moments.
    pub is_asking: bool,
    /// Events that it has not had yet.
    pub pending: u64,
    /// Events that it has and has not answered; in order, those that are parked.
    pub unanswered: u64,
    /// Events among them that were delivered more than once.
    pub redelivered: u64,
    /// Seconds for which the oldest event that it has not handled stands in EVENTS.
    pub oldest_seconds: Option<f64>,
    /// Events it has handled since its durable was made; the last number of EVENTS for one in order.
    pub handled: u64,
    /// Seconds until it goes on, if it is paused.
    pub paused_seconds: Option<f64>,
    /// Its dead letters.
    pub dead_letters: u64,
}

impl ConsumerState {
    fn new(entry: &'static Entry, letters: &BTreeMap<String, u64>) -> Self {
        Self {
            name: entry.name,
            team: entry.owner.clone(),
            is_ours: entry.is_ours(),
            is_ordered: entry.order == Order::Aggregate,
            exists: false,
            is_asking: false,
            pending: 0,
            unanswered: 0,
            redelivered: 0,
            oldest_seconds: None,
            handled: 0,
            paused_seconds: None,
            dead_letters: letters.get(entry.name).copied().unwrap_or_default(),
        }
    }
}

/// Every declared consumer, in the order of the manifest.
pub(super) async fn look(
    client: &Client,
    context: &jetstream::Context,
    manifest: &'static Manifest,
    ordered: &BTreeMap<String, Ordered>,
    letters: &BTreeMap<String, u64>,
) -> anyhow::Result<Vec<ConsumerState>> {
    let events = streams::look_at(context, names::EVENTS).await.map_err(anyhow::Error::msg).context("looking at EVENTS")?;
    let mut all = Vec::new();
    for entry in manifest.entries() {
        let mut state = ConsumerState::new(entry, letters);
        match (&events, entry.order) {
            (None, _) => {}
            (Some(events), Order::None) => without_order(client, events, entry, &mut state).await?,
            (Some(_), Order::Aggregate) => {
                if let Some(found) = ordered.get(entry.name) {
                    in_order(client, entry, *found, &mut state).await?;
                }
            }
        }
        all.push(state);
    }
    Ok(all)
}

/// Looks at a durable of EVENTS; none if there is none of that name.
pub(crate) async fn durable_info(events: &jetstream::stream::Stream, name: &str) -> anyhow::Result<Option<jetstream::consumer::Info>> {
    match events.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if matches!(error.kind(), jetstream::context::ConsumerInfoErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at the durable {name}")),
    }
}

async fn without_order(client: &Client, events: &jetstream::stream::Stream, entry: &'static Entry, state: &mut ConsumerState) -> anyhow::Result<()> {
    let Some(info) = durable_info(events, entry.name).await? else { return Ok(()) };
    state.exists = true;
    state.is_asking = info.num_waiting > 0;
    state.pending = info.num_pending;
    state.unanswered = info.num_ack_pending as u64;
    state.redelivered = info.num_redelivered as u64;
    state.handled = info.ack_floor.consumer_sequence;
    state.paused_seconds = info.paused.then(|| info.pause_remaining.unwrap_or_default().as_secs_f64());
    if state.pending > 0 || state.unanswered > 0 {
        let mut oldest = None;
        for filter in &entry.filters {
            let found = after_of(client, names::EVENTS, (*filter).to_owned(), info.ack_floor.stream_sequence).await?;
            oldest = earlier(oldest, found.map(|(_, stored)| stored));
        }
        state.oldest_seconds = oldest.map(seconds_since);
    }
    Ok(())
}

async fn in_order(client: &Client, entry: &'static Entry, found: Ordered, state: &mut ConsumerState) -> anyhow::Result<()> {
    state.exists = true;
    state.is_asking = found.is_owned;
    state.handled = found.position;
    state.unanswered = found.parked;
    state.paused_seconds = found.paused_seconds;
    let mut oldest = None;
    for filter in &entry.filters {
        if let Some((pending, stored)) = after_of(client, names::EVENTS, (*filter).to_owned(), found.position).await? {
            state.pending += pending;
            oldest = earlier(oldest, Some(stored));
        }
    }
    state.oldest_seconds = oldest.map(seconds_since);
    Ok(())
}

fn earlier(one: Option<OffsetDateTime>, other: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
    [one, other].into_iter().flatten().min()
}
