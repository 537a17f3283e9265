//! One of the two that are measured: where its door is, what it is asked, and how its rows are counted.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::{Method, Uri, header::HeaderValue};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::load::{self, Door, Order, Pace, Tally};

/// How often the last rows are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How many of the last events are looked for; once they are there, all are counted.
const TAIL: usize = 256;
/// Bytes of a request's body.
pub(super) const BODY: usize = 200;
/// Those of them around the full name.
const FIELD: usize = r#"{"fullName":""}"#.len();

/// A contender that runs and holds its aggregates.
pub(super) struct Contender {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// What the names of its processes begin with.
    pub(super) prefix: &'static str,
    /// Where commands go.
    pub(super) door: Door,
    /// The paths of its aggregates.
    pub(super) paths: Vec<Uri>,
    /// The superuser's connection to its database.
    pub(super) database: Client,
    /// Which of the event ids `$1` have no audit row.
    pub(super) missing: &'static str,
    /// Every command that was accepted in a round.
    pub(super) accepted: Vec<Uuid>,
    /// Bytes of a body.
    pub(super) body: usize,
    /// Makes every body another one.
    number: u64,
}

impl Contender {
    /// A contender without aggregates.
    ///
    /// # Errors
    /// Its database does not answer.
    pub(super) async fn connect(
        name: &'static str,
        prefix: &'static str,
        (address, method, token): (SocketAddr, Method, Option<&str>),
        database_url: &str,
        missing: &'static str,
    ) -> anyhow::Result<Self> {
        let (database, connection) = tokio_postgres::connect(database_url, NoTls).await.context("connecting to the database")?;
        tokio::spawn(connection);
        let authorization = token.map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose()?;
        Ok(Self {
            name,
            prefix,
            door: Door { address, method, authorization },
            paths: Vec::new(),
            database,
            missing,
            accepted: Vec::new(),
            body: BODY,
            number: 0,
        })
    }

    /// So many commands, each for an aggregate by chance, each with a text of its own.
    ///
    /// # Errors
    /// There is no aggregate.
    pub(super) fn orders(&mut self, count: usize) -> anyhow::Result<Vec<Order>> {
        if self.paths.is_empty() {
            bail!("{} has no aggregates", self.name);
        }
        let orders = (0..count).map(|_| {
            self.number += 1;
            let mut name = format!("Bench {} ", self.number);
            let length = self.body.saturating_sub(FIELD).max(name.len() + 1);
            while name.len() < length {
                name.push_str("of the measured path ");
            }
            name.truncate(length - 1);
            name.push('.');
            Order { uri: self.paths[rand::random_range(0..self.paths.len())].clone(), body: Bytes::from(format!(r#"{{"fullName":"{name}"}}"#)) }
        });
        Ok(orders.collect())
    }

    /// Sends commands and waits for their audit rows. The time is that of the last row.
    ///
    /// # Errors
    /// No connection, or the database fails.
    pub(super) async fn drive(&mut self, count: usize, pace: Pace, slots: usize, limit: Duration) -> anyhow::Result<(Tally, Rows)> {
        let orders = self.orders(count)?;
        let tally = load::run(&self.door, &orders, pace, slots, limit).await?;
        self.accepted.extend(tally.accepted.iter().map(|(_, accepted)| accepted.command));
        let events: Vec<Uuid> = tally.accepted.iter().filter_map(|(_, accepted)| accepted.event).collect();
        let mut rows = self.audited(&events, limit).await?;
        // Accepted, but without an event in its answer: it has no row by which it could be found.
        rows.missing += tally.accepted.len() - events.len();
        Ok((tally, rows))
    }

    /// Waits until every event has its audit row, at most `limit`.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn audited(&self, events: &[Uuid], limit: Duration) -> anyhow::Result<Rows> {
        let deadline = Instant::now() + limit;
        let mut tail: Vec<Uuid> = events[events.len().saturating_sub(TAIL)..].to_vec();
        loop {
            tail = self.without_row(&tail).await?;
            let complete = Instant::now();
            if tail.is_empty() {
                tail = self.without_row(events).await?;
            }
            if tail.is_empty() || Instant::now() > deadline {
                let missing = if tail.is_empty() { 0 } else { self.without_row(events).await?.len() };
                return Ok(Rows { complete, missing });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn without_row(&self, events: &[Uuid]) -> anyhow::Result<Vec<Uuid>> {
        let rows = self.database.query(self.missing, &[&events]).await.context("looking for audit rows")?;
        rows.iter().map(|row| row.try_get(0).map_err(anyhow::Error::from)).collect()
    }
}

/// The audit rows of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    /// When the last one was seen.
    pub(super) complete: Instant,
    /// How many are not there.
    pub(super) missing: usize,
}
