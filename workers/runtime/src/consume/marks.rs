//! How far a consumer that asks for order is in the history of each tenant, kept in the transactions of its effects. A tenant's events
//! come in the order of their sequence; what is at or below the mark was handled, or waits in a queue.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use subjects::TenantId;
use tokio_postgres::Error;
use uuid::Uuid;

use super::Event;
use crate::store::{commit::EventRow, repair::events_at};

/// The marks of the tenants of one batch, as they are read and as they rise.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marks: HashMap<TenantId, u64>,
    risen: HashSet<TenantId>,
}

impl Marks {
    /// Reads those of the tenants that the events belong to.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn read<'a>(transaction: &Transaction<'_>, consumer: &str, events: impl Iterator<Item = &'a Event>) -> Result<Self, Error> {
        let tenants: HashSet<Uuid> = events.map(|event| event.envelope.tenant_id.uuid()).collect();
        if tenants.is_empty() {
            return Ok(Self::default());
        }
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        let statement = transaction
            .prepare_cached(
                "SELECT t.id, m.sequence FROM unnest($2::uuid[]) t (id)
                 CROSS JOIN LATERAL (SELECT sequence FROM consumer_marks WHERE consumer = $1 AND tenant_id = t.id OFFSET 0) m",
            )
            .await?;
        let mut rows = transaction.query(&statement, &[&consumer, &tenants]).await?;
        if rows.len() < tenants.len() {
            // Of a tenant without a mark everything is news, unless the consumer begins with what is new.
            let known: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
            let unknown: Vec<Uuid> = tenants.into_iter().filter(|tenant| !known.contains(tenant)).collect();
            let statement = transaction
                .prepare_cached(
                    "SELECT t.id, e.sequence FROM unnest($2::uuid[]) t (id)
                     CROSS JOIN LATERAL (SELECT e.sequence FROM events e
                                         JOIN consumer_begins b ON b.consumer = $1 AND b.partition = e.partition AND e.partition_sequence <= b.partition_sequence
                                         WHERE e.tenant_id = t.id ORDER BY e.sequence DESC LIMIT 1) e",
                )
                .await?;
            rows.extend(transaction.query(&statement, &[&consumer, &unknown]).await?);
        }
        let marks = rows.iter().map(|row| (TenantId::new(row.get(0)), u64::try_from(row.get::<_, i64>(1)).unwrap_or_default())).collect();
        Ok(Self { marks, risen: HashSet::new() })
    }

    /// Whether an event is news; from then on it is not. What a repair published below the mark is none: what the stream lacked was read from
    /// the table when the hole was met.
    pub(crate) fn is_news(&mut self, event: &Event) -> bool {
        let envelope = &event.envelope;
        let mark = self.marks.entry(envelope.tenant_id).or_default();
        if envelope.sequence <= *mark {
            return false;
        }
        *mark = envelope.sequence;
        self.risen.insert(envelope.tenant_id);
        true
    }

    /// What the table has between the marks and the events, of the given subjects: before each event those that its tenant's history has
    /// there. To a consumer that takes everything they are holes in the stream; to others mostly what they do not want.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn passed_over<'a>(
        &self,
        transaction: &Transaction<'_>,
        filters: &[&str],
        events: impl Iterator<Item = &'a Event>,
    ) -> Result<HashMap<(TenantId, u64), Vec<EventRow>>, Error> {
        let mut marks = self.marks.clone();
        let (mut tenants, mut after, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            let (tenant, sequence) = (event.envelope.tenant_id, event.envelope.sequence);
            let mark = marks.entry(tenant).or_default();
            if sequence > *mark + 1 {
                tenants.push(tenant.uuid());
                after.push(i64::try_from(*mark).unwrap_or(i64::MAX));
                before.push(i64::try_from(sequence).unwrap_or(i64::MAX));
            }
            *mark = sequence.max(*mark);
        }
        let mut passed: HashMap<(TenantId, u64), Vec<EventRow>> = HashMap::new();
        if tenants.is_empty() {
            return Ok(passed);
        }
        // Without their bodies, as most are not wanted.
        let statement = transaction
            .prepare_cached(
                "SELECT u.tenant, u.before, e.partition, e.partition_sequence, e.type
                 FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) WITH ORDINALITY u (tenant, after, before, ord)
                 CROSS JOIN LATERAL (SELECT partition, partition_sequence, type, sequence FROM events
                                     WHERE tenant_id = u.tenant AND sequence > u.after AND sequence < u.before OFFSET 0) e
                 ORDER BY u.ord, e.sequence",
            )
            .await?;
        let (mut wanted, mut behind) = (Vec::new(), HashMap::new());
        for row in transaction.query(&statement, &[&tenants, &after, &before]).await? {
            let tenant = TenantId::new(row.get(0));
            let subject = subjects::event(tenant, row.get(4));
            if filters.iter().any(|filter| subjects::matches(filter, &subject)) {
                let place = (row.get::<_, i16>(2) as u16, row.get::<_, i64>(3) as u64);
                wanted.push(place);
                behind.insert(place, (tenant, row.get::<_, i64>(1) as u64));
            }
        }
        if !wanted.is_empty() {
            for row in events_at(transaction.client(), &wanted).await? {
                if let Some(place) = behind.get(&(row.partition, row.partition_sequence)) {
                    passed.entry(*place).or_default().push(row);
                }
            }
        }
        Ok(passed)
    }

    /// Writes down what rose.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn write(&self, transaction: &Transaction<'_>, consumer: &str) -> Result<(), Error> {
        if self.risen.is_empty() {
            return Ok(());
        }
        let tenants: Vec<Uuid> = self.risen.iter().map(|tenant| tenant.uuid()).collect();
        let mark = |tenant| self.marks.get(tenant).and_then(|mark| i64::try_from(*mark).ok()).unwrap_or(i64::MAX);
        let sequences: Vec<i64> = self.risen.iter().map(mark).collect();
        let statement = transaction
            .prepare_cached(
                "INSERT INTO consumer_marks AS m (consumer, tenant_id, sequence) SELECT $1, t, s FROM unnest($2::uuid[], $3::bigint[]) u (t, s)
                 ON CONFLICT (consumer, tenant_id) DO UPDATE SET sequence = greatest(m.sequence, excluded.sequence)",
            )
            .await?;
        transaction.execute(&statement, &[&consumer, &tenants, &sequences]).await.map(|_| ())
    }
}
