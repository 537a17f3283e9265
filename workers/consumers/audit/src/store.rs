//! Writing: numbered and chained per tenant, one insert a batch, known ids dropped first.
//!
//! An event that is delivered for the first time is taken for new, and the end of a chain for what it was after the last batch: then a
//! batch is one statement. Whoever is mistaken (another writer, a repeat) is refused by the keys of the table, reads what is there, and
//! writes what is left.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use deadpool_postgres::{Client, Pool};
use futures_util::future::try_join;
use rand::Rng;
use runtime::{
    Failure,
    consume::{Event, judge},
    failpoint, planted,
};
use tokio_postgres::{Error, error::SqlState};
use uuid::Uuid;

use crate::{
    chain::{self, Hash, Seals, to_json},
    row::Content,
};

/// How often the loser of a race reads the heads again before the loop waits a little.
const RACES: u32 = 16;
/// Chains whose end is remembered at most; beyond, all are forgotten.
const REMEMBERED: usize = 50_000;
/// Batches that remember nothing after another writer showed: it will show again, and a refused batch costs more than a look.
const CAUTION: u32 = 256;

/// The end of a tenant's chain.
type Heads = HashMap<Uuid, (i64, Hash)>;

/// Writes the log, and remembers where its chains end.
#[derive(Debug)]
pub struct Recorder {
    pool: Pool,
    heads: Heads,
    /// Batches still to be written with caution.
    caution: u32,
}

impl Recorder {
    /// Writes through this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool, heads: Heads::new(), caution: 0 }
    }

    /// Writes the rows of these events, each exactly once however often it is given them.
    ///
    /// # Errors
    /// The database is away or busy, or an event holds what cannot be stored.
    pub async fn record(&mut self, events: &[Event]) -> Result<(), Failure> {
        // What is remembered holds only after a success.
        let mut heads = std::mem::take(&mut self.heads);
        let client = self.pool.get().await.map_err(Failure::outage)?;
        let mut doubtful = events.iter().any(|event| event.delivered > 1);
        for _ in 0..RACES {
            match append(&client, events, &mut heads, doubtful).await {
                Ok(()) => {
                    self.caution = self.caution.saturating_sub(1);
                    if self.caution == 0 && heads.len() <= REMEMBERED {
                        self.heads = heads;
                    }
                    return Ok(());
                }
                // Another writer took the number (or the event) first: what it wrote is read and followed.
                Err(error) if matches!(error.code(), Some(&SqlState::UNIQUE_VIOLATION | &SqlState::T_R_DEADLOCK_DETECTED)) => {
                    tracing::debug!("another writer was faster");
                    heads.clear();
                    doubtful = true;
                    self.caution = CAUTION;
                }
                Err(error) => return Err(judge(&error)),
            }
        }
        Err(Failure::outage("other writers were always faster"))
    }
}

async fn append(client: &Client, events: &[Event], heads: &mut Heads, doubtful: bool) -> Result<(), Error> {
    // Both at once: one way to the server and back, or none.
    let known = async { if doubtful && !planted!(AuditWithoutKey) { known(client, events).await } else { Ok(HashSet::new()) } };
    let (mut seen, ()) = try_join(known, read_heads(client, events, heads)).await?;
    let mut rows = Rows::default();
    for event in events {
        if seen.insert(event.envelope.id.uuid()) {
            rows.chain(event, heads);
        }
    }
    failpoint::hit("audit_numbered");
    if rows.ids.is_empty() { Ok(()) } else { rows.insert(client).await }
}

async fn known(client: &Client, events: &[Event]) -> Result<HashSet<Uuid>, Error> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.envelope.id.uuid()).collect();
    // Row by row by the index, whatever the planner believes of a table without statistics.
    let statement = client
        .prepare_cached(
            "SELECT u.id FROM unnest($1::uuid[]) u (id) CROSS JOIN LATERAL (SELECT FROM audit_log WHERE event_id = u.id LIMIT 1 OFFSET 0) a",
        )
        .await?;
    Ok(client.query(&statement, &[&ids]).await?.iter().map(|row| row.get(0)).collect())
}

/// Reads the ends that are not remembered.
async fn read_heads(client: &Client, events: &[Event], heads: &mut Heads) -> Result<(), Error> {
    let unknown: HashSet<Uuid> = events.iter().map(|event| event.envelope.tenant_id.uuid()).filter(|tenant| !heads.contains_key(tenant)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let unknown: Vec<Uuid> = unknown.into_iter().collect();
    let statement = client
        .prepare_cached(
            "SELECT t.id, head.n, head.hash FROM unnest($1::uuid[]) t (id)
             CROSS JOIN LATERAL (SELECT n, hash FROM audit_log WHERE tenant_id = t.id ORDER BY n DESC LIMIT 1) head",
        )
        .await?;
    for row in client.query(&statement, &[&unknown]).await? {
        // The table checks the length of a hash.
        heads.insert(row.get(0), (row.get(1), row.get::<_, &[u8]>(2).try_into().unwrap_or(chain::START)));
    }
    Ok(())
}

/// The columns of the rows to insert.
#[derive(Default)]
struct Rows<'a> {
    ids: Vec<Uuid>,
    numbers: Vec<i64>,
    tenants: Vec<Uuid>,
    sequences: Vec<i64>,
    actions: Vec<Cow<'a, str>>,
    entity_types: Vec<Cow<'a, str>>,
    entity_ids: Vec<Cow<'a, str>>,
    performed_by: Vec<Cow<'a, str>>,
    occurred_at: Vec<time::OffsetDateTime>,
    event_ids: Vec<Uuid>,
    command_ids: Vec<Option<Uuid>>,
    correlation_ids: Vec<Cow<'a, str>>,
    ip_addresses: Vec<Option<Cow<'a, str>>>,
    user_agents: Vec<Option<Cow<'a, str>>>,
    before: Vec<Option<String>>,
    after: Vec<Option<String>>,
    seals: Vec<String>,
    salts: Vec<Option<Vec<u8>>>,
    hashes: Vec<Vec<u8>>,
}

impl<'a> Rows<'a> {
    /// Adds an event at the end of its tenant's chain.
    fn chain(&mut self, event: &'a Event, heads: &mut Heads) {
        let mut content = Content::of(event);
        let (n, previous) = heads.get(&content.tenant.uuid()).copied().unwrap_or((0, chain::START));
        content.n = n + 1;
        let pointers = content.personal(&event.envelope.event_type);
        let salt: Option<[u8; 32]> = (!pointers.is_empty()).then(|| rand::rng().random());
        let seals = salt.map_or_else(Seals::new, |salt| chain::seal(&content, &pointers, &salt));
        let hash = chain::hash(&previous, &content, &seals);
        heads.insert(content.tenant.uuid(), (content.n, hash));
        self.push(content, &seals, salt, hash);
    }

    fn push(&mut self, content: Content<'a>, seals: &Seals, salt: Option<[u8; 32]>, hash: Hash) {
        self.ids.push(content.id);
        self.numbers.push(content.n);
        self.tenants.push(content.tenant.uuid());
        self.sequences.push(content.sequence);
        self.actions.push(content.action);
        self.entity_types.push(content.entity_type);
        self.entity_ids.push(content.entity_id);
        self.performed_by.push(content.performed_by);
        self.occurred_at.push(content.occurred_at);
        self.event_ids.push(content.event_id);
        self.command_ids.push(content.command_id);
        self.correlation_ids.push(content.correlation_id);
        self.ip_addresses.push(content.ip_address);
        self.user_agents.push(content.user_agent);
        self.before.push(content.before.as_ref().map(to_json));
        self.after.push(content.after.as_ref().map(to_json));
        self.seals.push(to_json(seals));
        self.salts.push(salt.map(Vec::from));
        self.hashes.push(Vec::from(hash));
    }

    async fn insert(self, client: &Client) -> Result<(), Error> {
        let statement = client
            .prepare_cached(
                "INSERT INTO audit_log (id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id,
                     command_id, correlation_id, ip_address, user_agent, before, after, seals, salt, hash)
                 SELECT id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id,
                     command_id, correlation_id, ip_address, user_agent, before::json, after::json, seals::json, salt, hash
                 FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::timestamptz[], $10::uuid[], $11::uuid[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
                     $18::bytea[], $19::bytea[])
                 AS r (id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id,
                     command_id, correlation_id, ip_address, user_agent, before, after, seals, salt, hash)",
            )
            .await?;
        client
            .execute(
                &statement,
                &[
                    &self.ids,
                    &self.numbers,
                    &self.tenants,
                    &self.sequences,
                    &self.actions,
                    &self.entity_types,
                    &self.entity_ids,
                    &self.performed_by,
                    &self.occurred_at,
                    &self.event_ids,
                    &self.command_ids,
                    &self.correlation_ids,
                    &self.ip_addresses,
                    &self.user_agents,
                    &self.before,
                    &self.after,
                    &self.seals,
                    &self.salts,
                    &self.hashes,
                ],
            )
            .await
            .map(|_| ())
    }
}
