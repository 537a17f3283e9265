//! How far a consumer that asks for order is in the history of each tenant, kept in the transactions of its effects. A tenant's events
//! come in the order of their sequence; what is at or below the mark was handled, or waits in a queue.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use subjects::{TenantId, header};
use tokio_postgres::Error;
use uuid::Uuid;

use super::Event;

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
        let rows = transaction.query(&statement, &[&consumer, &tenants]).await?;
        let marks = rows.iter().map(|row| (TenantId::new(row.get(0)), u64::try_from(row.get::<_, i64>(1)).unwrap_or_default())).collect();
        Ok(Self { marks, risen: HashSet::new() })
    }

    /// Whether an event is news; from then on it is not.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn is_news(&mut self, transaction: &Transaction<'_>, consumer: &str, event: &Event) -> Result<bool, Error> {
        let envelope = &event.envelope;
        let mark = self.marks.entry(envelope.tenant_id).or_default();
        if envelope.sequence > *mark {
            *mark = envelope.sequence;
            self.risen.insert(envelope.tenant_id);
            return Ok(true);
        }
        if event.header(header::LATE).is_none() {
            return Ok(false);
        }
        // Repaired: it was missing where it belonged. Its id tells whether it has come before.
        let statement = transaction
            .prepare_cached("INSERT INTO consumer_late (consumer, event_id, tenant_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .await?;
        Ok(transaction.execute(&statement, &[&consumer, &envelope.id.uuid(), &envelope.tenant_id.uuid()]).await? == 1)
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
