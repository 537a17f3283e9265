//! How far each durable consumer is: by its acknowledgements, or by the position it keeps in the database.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Stream;
use futures_util::TryStreamExt as _;
use tokio_postgres::{Client, NoTls};

use crate::role::Consumer;

/// One consumer.
#[derive(Debug, Default)]
struct Place {
    /// Subjects it takes; all when empty.
    filters: Vec<String>,
    position: u64,
}

/// The consumers and their places at the last look.
pub(super) struct Positions {
    stream: Stream,
    database: Client,
    places: BTreeMap<String, Place>,
}

impl Positions {
    pub(super) async fn new(stream: Stream, database_url: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (database, connection) = tokio_postgres::connect(database_url, NoTls).await?;
        tokio::spawn(connection);
        let mut positions = Self { stream, database, places: BTreeMap::new() };
        positions.look().await?;
        Ok(positions)
    }

    /// Asks the server and the database.
    pub(super) async fn look(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut consumers = self.stream.consumers();
        while let Some(info) = consumers.try_next().await? {
            // Another team's program may not be running, and nobody waits for it here.
            let Some(name) = info.config.durable_name.filter(|name| Consumer::ALL.iter().any(|ours| ours.name() == name)) else { continue };
            let mut filters = info.config.filter_subjects;
            filters.extend(Some(info.config.filter_subject).filter(|filter| !filter.is_empty()));
            self.places.insert(name, Place { filters, position: info.ack_floor.stream_sequence });
        }
        for row in self.database.query("SELECT consumer, position FROM consumer_positions", &[]).await? {
            let position = u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default();
            self.places.entry(row.try_get(0)?).or_default().position = position;
        }
        Ok(())
    }

    /// The consumers that take this subject and have passed this sequence.
    pub(super) fn passed(&self, subject: &str, sequence: u64) -> impl Iterator<Item = &str> {
        self.interested(subject).filter(move |(_, place)| place.position >= sequence).map(|(name, _)| name.as_str())
    }

    /// True when that many are all that take this subject.
    pub(super) fn all(&self, number: usize, subject: &str) -> bool {
        number > 0 && number >= self.interested(subject).count()
    }

    fn interested(&self, subject: &str) -> impl Iterator<Item = (&String, &Place)> {
        self.places.iter().filter(move |(_, place)| place.filters.is_empty() || place.filters.iter().any(|filter| subjects::matches(filter, subject)))
    }
}
