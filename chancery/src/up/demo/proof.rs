//! The proof: what was answered, against the tables, the stream and the audit.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt as _;
use serde_json::Value;
use subjects::{EventFilter, Outcome, TenantId};
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use super::client::{Answered, uuid};
use crate::connect;

/// How long the stream may be silent before what it has is what it has.
const SILENCE: Duration = Duration::from_secs(2);

/// One look at everything.
#[derive(Debug, Default)]
pub(super) struct Proof {
    accepted: usize,
    outcomes: usize,
    events: usize,
    published: usize,
    distinct: usize,
    tenants: usize,
    dense: usize,
    audited: usize,
    whole: usize,
    lost: usize,
    twice: usize,
}

/// What the stream has of one event.
struct Published {
    id: Uuid,
    tenant: String,
    sequence: u64,
}

impl Proof {
    /// Compares.
    ///
    /// # Errors
    /// The database or the stream cannot be read.
    pub(super) async fn look(
        nats_url: &str,
        database_url: &str,
        database: &Client,
        answers: &[Answered],
        tenants: &[TenantId],
    ) -> anyhow::Result<Self> {
        let commands: Vec<Uuid> = answers.iter().map(|answer| answer.command).collect();
        let tenant_ids: Vec<Uuid> = tenants.iter().map(TenantId::uuid).collect();
        let outcomes = outcomes(database, &commands).await?;
        let events: HashSet<Uuid> = ids(database, "SELECT id FROM events WHERE tenant_id = ANY($1)", &tenant_ids).await?.into_iter().collect();
        let audited = ids(database, "SELECT event_id FROM audit_log WHERE tenant_id = ANY($1)", &tenant_ids).await?;
        let published = published(nats_url, tenants).await?;

        let distinct: HashSet<Uuid> = published.iter().map(|event| event.id).collect();
        let audited_once: HashSet<Uuid> = audited.iter().copied().collect();
        // What was answered and what was decided name the same events, and no other exists.
        let told = answers.iter().flat_map(|answer| answer.events.iter().flatten());
        let decided = outcomes.values().flat_map(|outcome| outcome.events.iter().map(|event| event.id.uuid()));
        let decided: HashSet<Uuid> = decided.chain(told.copied()).collect();
        let lost = [
            commands.iter().filter(|id| !outcomes.contains_key(id)).count(),
            decided.difference(&events).count(),
            events.difference(&distinct).count(),
            events.difference(&audited_once).count(),
        ];
        let distinct_commands: HashSet<&Uuid> = commands.iter().collect();
        let twice = [
            commands.len() - distinct_commands.len(),
            events.difference(&decided).count(),
            published.len() - distinct.len(),
            distinct.difference(&events).count(),
            audited.len() - audited_once.len(),
            audited_once.difference(&events).count(),
        ];
        let mut whole = 0;
        for tenant in tenants {
            let report = audit::verify(database_url, Some(*tenant), &[]).await.map_err(|error| anyhow!("reading the audit: {error}"))?;
            whole += usize::from(report.broken.is_empty());
        }
        Ok(Self {
            accepted: commands.len(),
            outcomes: outcomes.len(),
            events: events.len(),
            published: published.len(),
            distinct: distinct.len(),
            tenants: tenants.len(),
            dense: dense(&published),
            audited: audited.len(),
            whole,
            lost: lost.iter().sum(),
            twice: twice.iter().sum(),
        })
    }

    /// True when nothing is missing, double, or out of order; `differing` answers to one key count as double.
    pub(super) fn holds(&self, differing: usize) -> bool {
        (self.lost, self.twice, differing) == (0, 0, 0) && self.dense == self.tenants && self.whole == self.tenants
    }

    /// Prints it.
    pub(super) fn print(&self, differing: usize) {
        let Self { accepted, outcomes, events, published, distinct, tenants, dense, audited, whole, lost, twice } = self;
        say!("Proof, from the tables and the stream:");
        say!(" accepted    {accepted:>6}   outcomes {outcomes}");
        say!(" events      {events:>6}   in EVENTS {published}, {distinct} distinct; dense and in order for {dense} of {tenants} tenants");
        say!(" audit rows  {audited:>6}   chains whole for {whole} of {tenants} tenants");
        say!(" lost        {lost:>6}   twice {}", twice + differing);
    }
}

async fn outcomes(database: &Client, commands: &[Uuid]) -> anyhow::Result<HashMap<Uuid, Outcome>> {
    let rows = database.query("SELECT id, outcome::text FROM commands WHERE id = ANY($1)", &[&commands]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, serde_json::from_str(row.try_get(1)?).context("an outcome that cannot be read")?))).collect()
}

async fn ids(database: &Client, query: &str, tenants: &[Uuid]) -> anyhow::Result<Vec<Uuid>> {
    let rows = database.query(query, &[&tenants]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Everything the stream has of these tenants, in its order.
async fn published(nats_url: &str, tenants: &[TenantId]) -> anyhow::Result<Vec<Published>> {
    let trouble = |error: Box<dyn std::error::Error + Send + Sync>| anyhow!("reading EVENTS: {error}");
    let client = connect::nats(nats_url, "chancery demo").await.map_err(trouble)?;
    let stream = jetstream::new(client).get_stream(subjects::stream::EVENTS).await?;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        filter_subjects: tenants.iter().map(|tenant| EventFilter { tenant: Some(*tenant), ..EventFilter::default() }.subject()).collect(),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut all = Vec::new();
    while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
        let message = message?;
        let event: Value = serde_json::from_slice(&message.payload).context("an event that cannot be read")?;
        all.push(Published {
            id: event.get("id").and_then(uuid).context("an event without an id")?,
            tenant: event.get("tenantId").and_then(Value::as_str).unwrap_or_default().to_owned(),
            sequence: event.get("sequence").and_then(Value::as_u64).unwrap_or_default(),
        });
        if message.info().map_err(trouble)?.pending == 0 {
            break;
        }
    }
    Ok(all)
}

/// The number of tenants whose sequence is 1, 2, 3 … in the order of the stream.
fn dense(published: &[Published]) -> usize {
    let mut tenants: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for event in published {
        let (last, fine) = tenants.entry(&event.tenant).or_insert((0, true));
        *fine &= event.sequence == *last + 1;
        *last = event.sequence;
    }
    tenants.values().filter(|(_, fine)| *fine).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sequences: &[(&str, u64)]) -> Vec<Published> {
        sequences.iter().map(|(tenant, sequence)| Published { id: Uuid::nil(), tenant: (*tenant).into(), sequence: *sequence }).collect()
    }

    #[test]
    fn a_gap_a_repeat_and_a_wrong_order_are_each_seen() {
        assert_eq!(dense(&row(&[("a", 1), ("b", 1), ("a", 2), ("b", 2)])), 2);
        assert_eq!(dense(&row(&[("a", 1), ("a", 3), ("b", 2)])), 0);
        assert_eq!(dense(&row(&[("a", 1), ("a", 1), ("b", 1)])), 1);
        assert_eq!(dense(&row(&[("a", 2), ("a", 1)])), 0);
    }

    #[test]
    fn one_loss_or_one_repeat_is_enough() {
        let fine = Proof { tenants: 2, dense: 2, whole: 2, ..Proof::default() };
        assert!(fine.holds(0) && !fine.holds(1));
        assert!(!Proof { lost: 1, ..fine }.holds(0));
    }
}
