//! `chancery consumer replay`: one consumer has a range of events again. They are published for it alone, as a redriven event is, so its
//! position stays, and nobody else sees them. What was done outside is done again only with `--effects`, which is something else (`effects.rs`).

use std::{collections::VecDeque, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use async_nats::{
    HeaderMap,
    jetstream::{
        self, Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::PublishAckFuture,
    },
};
use clap::Args;
use futures_util::StreamExt as _;
use runtime::{Config, failpoint, streams};
use subjects::{EventSubject, TenantId, header, stream};
use tokio::time::timeout;

use super::{
    control::{Control, Standing, filters},
    effects::Again,
    place::Place,
};
use crate::{connect, dlq::Who};

/// Events whose storing is waited for at once.
const WINDOW: usize = 256;
/// EVENTS may be as full as this afterwards, in hundredths: what a replay takes, workers cannot publish into.
const FULL: u64 = 80;
/// How long the next event, or the storing of one, is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be replayed.
#[derive(Debug, Args)]
pub struct Options {
    /// The consumer.
    name: String,
    /// The first event: its number in EVENTS, the first of a time (2026-11-01T00:00:00Z), or `start`.
    #[arg(long, value_name = "PLACE")]
    from: Place,
    /// The first event that is not meant any more.
    #[arg(long, value_name = "PLACE", default_value = "end")]
    to: Place,
    /// Says how many events it would be, and with `--effects` how many effects.
    #[arg(long)]
    dry_run: bool,
    /// What these events did outside is sent again, and nothing else happens. Says how much that is; without `--yes` that is all.
    #[arg(long)]
    effects: bool,
    /// It is meant.
    #[arg(long, requires = "effects", conflicts_with = "dry_run")]
    yes: bool,
    /// The number that was said before: what was done under it is not done again.
    #[arg(long, value_name = "N", requires = "effects")]
    replay: Option<i64>,
    #[command(flatten)]
    who: Who,
}

/// Replays. Blocking: makes a small runtime.
pub(super) fn run(config: &Config, options: Options) -> anyhow::Result<ExitCode> {
    let Options { name, from, to, dry_run, effects, yes, replay, who } = options;
    let who = who.name()?;
    connect::as_operator(config, "consumer", async |connection| {
        let mut control = Control::open(config, &connection).await?;
        let own = subjects::redrives(&name);
        let (is_durable, takes) = match control.standing(&name).await? {
            Standing::Durable(info) => (true, filters(&info)),
            Standing::InOrder(_) => (false, vec![stream::ALL_EVENTS.to_owned()]),
        };
        let (again, wanted): (Vec<String>, Vec<String>) = takes.into_iter().partition(|filter| *filter == own);
        if !effects && !is_durable {
            bail!("{name} asks for order: its position and its effects are of one transaction, so there is nothing to be filled in");
        }
        if !effects && again.is_empty() {
            bail!("the durable {name} does not take {own}; provision it so, or move it with `seek`");
        }
        let (first, end) = (control.number(from).await?, control.number(to).await?);
        if first >= end {
            bail!("there is nothing from {first} up to {end}");
        }
        if effects {
            return control.effects_again(&Again { name, who, wanted, first, end, replay, yes, dry_run }).await;
        }
        let count = control.behind(&wanted, first - 1).await?.saturating_sub(control.behind(&wanted, end - 1).await?);
        let what = format!("{count} events from {first} up to {end}");
        if dry_run {
            println!("{name} would have {what} again");
            return Ok(ExitCode::SUCCESS);
        }
        control.room(count)?;
        control.note(&who, "replay", &name, &what).await?;
        if count > 0 {
            control.replay(&connection.client, &name, wanted, first, end).await?;
        }
        println!("{name} has {what} again");
        Ok(ExitCode::SUCCESS)
    })
}

impl Control {
    /// Whether EVENTS can take so many more.
    fn room(&self, count: u64) -> anyhow::Result<()> {
        let info = self.events.cached_info();
        let Some(limit) = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0) else { return Ok(()) };
        let each = info.state.bytes / info.state.messages.max(1) + 1;
        let then = info.state.bytes.saturating_add(each.saturating_mul(count));
        if then > limit / 100 * FULL {
            bail!(
                "with {count} events more EVENTS would have {then} of {limit} bytes, which is more than {FULL} %; replay less, or move it with `seek`"
            );
        }
        Ok(())
    }

    async fn replay(&self, client: &async_nats::Client, name: &str, wanted: Vec<String>, first: u64, end: u64) -> anyhow::Result<()> {
        let context = jetstream::new(client.clone());
        let mut reading = self.read(name, wanted, first, end).await?;
        // Where to go on, should it end before its time.
        let mut after = first - 1;
        let mut stored: VecDeque<(u64, PublishAckFuture)> = VecDeque::new();
        loop {
            let go_on = |after: u64| format!("events up to {after} are replayed; go on with `--from {}`", after + 1);
            let next = reading.next().await.with_context(|| go_on(after))?;
            let is_last = next.is_none();
            if let Some((sequence, message)) = next {
                let (subject, headers) = again(name, &message).with_context(|| format!("event {sequence}"))?;
                let ack = context.publish_with_headers(subject, headers, message.payload.clone()).await.with_context(|| go_on(after))?;
                stored.push_back((sequence, ack));
            }
            while stored.len() >= WINDOW || is_last && !stored.is_empty() {
                let Some((sequence, ack)) = stored.pop_front() else { break };
                timeout(PATIENCE, ack.into_future()).await.with_context(|| go_on(after))?.with_context(|| go_on(after))?;
                after = sequence;
                failpoint::hit("consumer_replayed");
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads a range of EVENTS that has at least one of these.
    pub(super) async fn read(&self, name: &str, wanted: Vec<String>, first: u64, end: u64) -> anyhow::Result<Reading> {
        let reading = pull::Config {
            description: Some(format!("chancery replay for {name}")),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first },
            ack_policy: AckPolicy::None,
            filter_subjects: wanted,
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let reader = streams::reader(&self.events, reading).await.map_err(anyhow::Error::msg)?;
        let messages = reader.stream().max_messages_per_batch(WINDOW).messages().await.context("reading EVENTS")?;
        Ok(Reading { messages, end, expected: 1, is_over: false })
    }
}

/// A range of EVENTS that is being read.
pub(super) struct Reading {
    messages: pull::Stream,
    end: u64,
    expected: u64,
    is_over: bool,
}

impl Reading {
    /// The next event with its number, or none behind the last.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<(u64, Message)>> {
        if self.is_over {
            return Ok(None);
        }
        let message = timeout(PATIENCE, self.messages.next()).await.context("EVENTS is silent")?.context("the subscription ended")??;
        let info = message.info().map_err(anyhow::Error::from_boxed)?;
        let (sequence, place, pending) = (info.stream_sequence, info.consumer_sequence, info.pending);
        if place != self.expected {
            bail!("an event was lost on the way");
        }
        self.expected += 1;
        self.is_over = sequence >= self.end || pending == 0;
        Ok((sequence < self.end).then_some((sequence, message)))
    }
}

/// Subject and headers of an event for one consumer alone.
fn again(name: &str, message: &Message) -> anyhow::Result<(String, HeaderMap)> {
    let EventSubject { tenant, event_type } = EventSubject::parse(&message.subject)?;
    let tenant: TenantId = tenant.parse().with_context(|| format!("{tenant} is no tenant"))?;
    let mut headers = HeaderMap::new();
    for (key, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        if !key.to_string().to_ascii_lowercase().starts_with("nats-") {
            values.iter().for_each(|value| headers.append(key.clone(), value.clone()));
        }
    }
    let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
    headers.insert(header::REDRIVES, "1");
    headers.insert(header::FIRST_SEQUENCE, sequence.to_string());
    Ok((subjects::redrive(name, tenant, event_type), headers))
}
