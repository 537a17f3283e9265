//! `chancery events reconcile`: the table compared with EVENTS while both are at work, and what is missing published again.
//!
//! What was marked when the comparison began must be in the stream; what was written later is not looked for. Both sides are read once,
//! in step, and only what differs is held.

use std::collections::BTreeMap;

use async_nats::jetstream::{self, stream::Stream};
use serde::Serialize;
use subjects::{EventId, TenantId, stream as names};
use time::OffsetDateTime;
use tokio_postgres::Client;

use super::{
    compare::{self, Comparison, Finding, Kind, Row, Seen},
    late,
    scan::Scan,
};
use crate::{
    Config, failpoint, nats,
    store::{
        self,
        commit::EventRow,
        outbox::unpublished,
        repair::{self as sql, Published},
    },
    streams,
    worker::event_headers,
};

/// Events of the table read in one go.
const PAGE: i64 = 256;
/// Rows of a partition read ahead of what was found in the stream, while no message waits for its row.
const AHEAD: u64 = 64;
/// And while one does: behind a larger hole both sides are held until they meet.
const FAR_AHEAD: u64 = 20_000;
/// Events that one side has and the other has not, at most. Beyond, mending one by one is no way.
const DIFFERENT: usize = 100_000;
/// Findings told one by one; the counts have all of them.
const TOLD: usize = 1_000;
/// An event is published a little after its time, and clocks differ: what is older by so much than what the stream remembers is not looked
/// for.
const MARGIN: time::Duration = time::Duration::hours(1);
/// Messages looked up in the table in one go.
const LOOKED_UP: usize = 500;

/// A finding as it is told.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wrong {
    /// `missing`, `extra`, `out_of_order`, `differs` or `repeated`.
    pub what: &'static str,
    /// Its partition.
    pub partition: u16,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its place in the tenant's history.
    pub sequence: u64,
    /// The event's id.
    pub event_id: EventId,
    /// Its place in EVENTS; for a mended event the one it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_sequence: Option<u64>,
    /// Whether it is as it should be now.
    pub mended: bool,
    /// Why it could not be mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came of a comparison.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The life of EVENTS that was compared.
    pub incarnation: String,
    /// Messages read.
    pub messages: u64,
    /// Events that table and stream both have.
    pub matched: u64,
    /// Events of the table that the stream has not: each is mended or told.
    pub missing: u64,
    /// Those of them that were published again.
    pub mended: u64,
    /// Events of the stream that the table does not know, or knows another at their place.
    pub extra: u64,
    /// Events out of order.
    pub out_of_order: u64,
    /// Events that are not as the table has them.
    pub differs: u64,
    /// Events that stand in the stream more than once. Every consumer bears that.
    pub repeated: u64,
    /// Messages that are no events.
    pub unreadable: u64,
    /// Events that the stream has forgotten by age, or that this life of it began behind.
    pub forgotten: u64,
    /// Events that were not published yet when the comparison began: their owners' work.
    pub unpublished: u64,
    /// Wrong events by partition.
    pub partitions: BTreeMap<u16, u64>,
    /// Wrong events by tenant.
    pub tenants: BTreeMap<TenantId, u64>,
    /// The first thousand of them.
    pub findings: Vec<Wrong>,
}

impl Report {
    /// Whether nothing is wrong any more.
    pub fn is_well(&self) -> bool {
        self.missing == self.mended && self.extra + self.out_of_order + self.differs == 0
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Another repair is under way.
    #[error("another repair of this database is under way")]
    Locked,
    /// EVENTS lacks too much, or has too much else.
    #[error("{0}: mending them one by one is no way, see docs/operations.md, \"EVENTS lost\"")]
    TooMuch(#[from] compare::TooMuch),
    /// EVENTS was created anew meanwhile.
    #[error("EVENTS was created anew while it was compared; begin again")]
    AnotherLife,
    /// The database.
    #[error("database: {0}")]
    Database(String),
    /// NATS.
    #[error("NATS: {0}")]
    Nats(String),
}

fn database(error: &tokio_postgres::Error) -> ReconcileError {
    ReconcileError::Database(store::describe(error))
}

fn broker(error: impl std::fmt::Display) -> ReconcileError {
    ReconcileError::Nats(error.to_string())
}

/// Compares, and publishes what is missing when `mend` says so.
///
/// # Errors
/// [`ReconcileError`]; nothing was published then that would not be there anyway.
pub async fn reconcile(config: &Config, connection: &nats::Connection, mend: bool) -> Result<Report, ReconcileError> {
    let mut context = jetstream::new(connection.client.clone());
    context.set_timeout(config.publish_timeout);
    let client = store::connect(config, "chancery reconcile", "").await.map_err(ReconcileError::Database)?;
    if !sql::lock(&client).await.map_err(|error| database(&error))? {
        return Err(ReconcileError::Locked);
    }
    // The marks first: whatever is marked is in the stream as it is looked at afterwards.
    let marks = sql::published(&client).await.map_err(|error| database(&error))?;
    let stream = context.get_stream(names::EVENTS).await.map_err(broker)?;
    let incarnation = streams::incarnation(stream.cached_info());
    let mut report = Report { incarnation: incarnation.clone(), ..Report::default() };
    let (lanes, findings) = compare(config, connection, &client, &stream, &marks, &mut report).await?;
    let mended = if mend { publish_missing(config, connection, &client, &stream, &incarnation, &findings).await? } else { BTreeMap::new() };
    report.unpublished = lanes;
    tell(&mut report, findings, &mended);
    Ok(report)
}

/// Reads both sides. Returns how many events were not published yet, and the findings.
async fn compare(
    config: &Config,
    connection: &nats::Connection,
    client: &Client,
    stream: &Stream,
    marks: &[Published],
    report: &mut Report,
) -> Result<(u64, Vec<Finding>), ReconcileError> {
    let state = &stream.cached_info().state;
    // Since when the stream remembers everything.
    let mut remembers: Option<OffsetDateTime> = None;
    let life = streams::life(stream.cached_info());
    if streams::has_forgotten(stream.cached_info()) && state.messages > 0 {
        remembers = Some(stream.get_raw_message(state.first_sequence).await.map_err(broker)?.time);
    }
    let mut comparison = Comparison::new(DIFFERENT);
    let mut tables: BTreeMap<u16, Table> = BTreeMap::new();
    let mut not_published = 0;
    for row in marks {
        // A mark of another life says nothing about this one: its owner is about to publish.
        let mark = if row.mark.life == life { row.mark.sequence } else { 0 };
        let mut base = row.base.min(mark);
        if let Some(since) = remembers {
            base = base.max(sql::older_than(client, row.partition, mark, since - MARGIN).await.map_err(|error| database(&error))?);
        }
        not_published += row.sequence - mark;
        report.forgotten += base;
        tables.insert(row.partition, Table { partition: row.partition, next: base, mark });
    }
    let mut scan = Scan::open(connection, stream, state.first_sequence, state.last_sequence, names::ALL_EVENTS, true).await.map_err(broker)?;
    while let Some(message) = scan.next().await.map_err(broker)? {
        report.messages += 1;
        let Some(seen) = message.seen(config.partitions) else {
            report.unreadable += 1;
            continue;
        };
        comparison.seen(seen)?;
        if let Some(table) = tables.get_mut(&seen.partition) {
            table.follow(client, &mut comparison).await?;
        }
    }
    for table in tables.values_mut() {
        while table.page(client, &mut comparison).await? {}
    }
    let compared = comparison.finish(remembers);
    report.matched = compared.matched;
    report.forgotten += compared.forgotten;
    let mut findings = compared.findings;
    for chunk in compared.unexplained.chunks(LOOKED_UP) {
        explain(client, chunk, marks, life, report, &mut findings).await?;
    }
    Ok((not_published, findings))
}

/// What messages are that the comparison found no row for: published since the marks were read, repeats, or unknown to the table.
async fn explain(
    client: &Client,
    seen: &[Seen],
    marks: &[Published],
    life: i64,
    report: &mut Report,
    findings: &mut Vec<Finding>,
) -> Result<(), ReconcileError> {
    let places: Vec<(TenantId, u64)> = seen.iter().map(|seen| (seen.tenant, seen.sequence)).collect();
    let known = sql::known(client, &places).await.map_err(|error| database(&error))?;
    for (seen, known) in seen.iter().zip(known) {
        let marked = |place| marks.iter().any(|row| row.partition == seen.partition && row.mark.life == life && place <= row.mark.sequence);
        match known {
            Some((id, place)) if id == seen.id && !marked(place) => report.matched += 1,
            Some((id, place)) if id == seen.id => findings.push(Finding::of_seen(Kind::Repeated, seen, place)),
            Some(_) | None => findings.push(Finding::of_seen(Kind::Extra, seen, 0)),
        }
    }
    Ok(())
}

/// A partition's rows up to its mark.
struct Table {
    partition: u16,
    next: u64,
    mark: u64,
}

impl Table {
    /// Reads on as far as the stream's side needs it.
    async fn follow(&mut self, client: &Client, comparison: &mut Comparison) -> Result<(), ReconcileError> {
        loop {
            let (ahead, waits) = comparison.ahead(self.partition);
            let enough = if waits { ahead >= FAR_AHEAD } else { ahead >= AHEAD };
            if enough || !self.page(client, comparison).await? {
                return Ok(());
            }
        }
    }

    /// One page; false at the end.
    async fn page(&mut self, client: &Client, comparison: &mut Comparison) -> Result<bool, ReconcileError> {
        if self.next >= self.mark {
            return Ok(false);
        }
        let rows = unpublished(client, self.partition, self.next, PAGE).await.map_err(|error| database(&error))?;
        let Some(last) = rows.last() else { return Ok(false) };
        let last = last.partition_sequence;
        for event in rows.iter().take_while(|event| event.partition_sequence <= self.mark) {
            comparison.row(row(event))?;
        }
        self.next = last;
        Ok(true)
    }
}

/// An event of the table as it is compared.
fn row(event: &EventRow) -> Row {
    let headers = event_headers(event);
    let subject = subjects::event(event.tenant, &event.event_type);
    let digest = compare::digest(&subject, |name| headers.get(name).map(async_nats::HeaderValue::as_str), event.body.as_bytes());
    let EventRow { partition, partition_sequence, tenant, sequence, id, occurred_at, .. } = *event;
    Row { partition, place: partition_sequence, tenant, sequence, id, digest, at: occurred_at }
}

/// Where each missing event is now, or why it is not.
type Mended = BTreeMap<(u16, u64), Result<u64, String>>;

/// Publishes what is missing, partition by partition in order.
async fn publish_missing(
    config: &Config,
    connection: &nats::Connection,
    client: &Client,
    stream: &Stream,
    incarnation: &str,
    findings: &[Finding],
) -> Result<Mended, ReconcileError> {
    let missing: Vec<(u16, u64)> =
        findings.iter().filter(|finding| finding.kind == Kind::Missing).map(|finding| (finding.partition, finding.place)).collect();
    let mut mended = BTreeMap::new();
    for chunk in missing.chunks(PAGE as usize) {
        for event in sql::events_at(client, chunk).await.map_err(|error| database(&error))? {
            let mut still = async || {
                let info = stream.get_info().await.map_err(|error| error.to_string())?;
                if streams::incarnation(&info) == incarnation { Ok(()) } else { Err("EVENTS was created anew meanwhile".to_owned()) }
            };
            let published = late::publish(&connection.client, stream, &event, config.publish_timeout, &mut still).await;
            match &published {
                Ok(sequence) => {
                    tracing::warn!(partition = event.partition, tenant.id = %event.tenant, event.id = %event.id, stream.sequence = sequence, "published again, late");
                }
                Err(error) => tracing::error!(partition = event.partition, tenant.id = %event.tenant, event.id = %event.id, error, "still missing"),
            }
            mended.insert((event.partition, event.partition_sequence), published);
            failpoint::hit("late_published");
        }
    }
    let info = stream.get_info().await.map_err(broker)?;
    if streams::incarnation(&info) == incarnation { Ok(mended) } else { Err(ReconcileError::AnotherLife) }
}

fn tell(report: &mut Report, findings: Vec<Finding>, mended: &Mended) {
    for finding in findings {
        let count = match finding.kind {
            Kind::Missing => &mut report.missing,
            Kind::Extra => &mut report.extra,
            Kind::Disorder => &mut report.out_of_order,
            Kind::Differs => &mut report.differs,
            Kind::Repeated => &mut report.repeated,
        };
        *count += 1;
        let end = mended.get(&(finding.partition, finding.place)).filter(|_| finding.kind == Kind::Missing);
        let now = end.and_then(|end| end.as_ref().ok()).copied();
        report.mended += u64::from(now.is_some());
        *report.partitions.entry(finding.partition).or_default() += 1;
        *report.tenants.entry(finding.tenant).or_default() += 1;
        if report.findings.len() < TOLD {
            report.findings.push(Wrong {
                what: finding.kind.name(),
                partition: finding.partition,
                tenant_id: finding.tenant,
                sequence: finding.sequence,
                event_id: EventId::new(finding.id),
                stream_sequence: now.or((finding.stream_sequence > 0).then_some(finding.stream_sequence)),
                mended: now.is_some(),
                error: end.and_then(|end| end.as_ref().err()).cloned(),
            });
        }
    }
}
