//! Comparing two orders of the same events: that of the table, partition by partition, and that of the stream. Pure; whoever compares
//! feeds both sides in their own order, in step, so that only what differs is held.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash as _, Hasher as _},
};

use subjects::TenantId;
use time::OffsetDateTime;
use uuid::Uuid;

/// An event as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its partition.
    pub partition: u16,
    /// Its place in the partition, dense from 1.
    pub place: u64,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its place in the tenant's history.
    pub sequence: u64,
    /// Its id.
    pub id: Uuid,
    /// What is compared of the rest, see [`digest`]; 0 where only the order is compared.
    pub digest: u64,
    /// When it happened.
    pub at: OffsetDateTime,
}

/// An event as the stream has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its partition.
    pub partition: u16,
    /// Its place in the stream.
    pub stream_sequence: u64,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its place in the tenant's history.
    pub sequence: u64,
    /// Its id.
    pub id: Uuid,
    /// As in [`Row::digest`].
    pub digest: u64,
    /// Whether a repair published it: such an event comes after its successors.
    pub late: bool,
}

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The table has it and the stream does not.
    Missing,
    /// The stream has it and the table does not.
    Extra,
    /// It stands in the stream before one that it follows, or after one that it precedes.
    Disorder,
    /// Subject, headers or body are not those of the table.
    Differs,
    /// It stands in the stream more than once.
    Repeated,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Extra, Self::Disorder, Self::Differs, Self::Repeated];

    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Disorder => "out_of_order",
            Self::Differs => "differs",
            Self::Repeated => "repeated",
        }
    }
}

/// One event that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// In which way.
    pub kind: Kind,
    /// Its partition.
    pub partition: u16,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its place in the tenant's history.
    pub sequence: u64,
    /// Its id.
    pub id: Uuid,
    /// Its place in the partition; 0 where only the stream knows it.
    pub place: u64,
    /// Its place in the stream; 0 where only the table knows it.
    pub stream_sequence: u64,
}

impl Finding {
    fn of_row(kind: Kind, row: &Row) -> Self {
        let Row { partition, place, tenant, sequence, id, .. } = *row;
        Self { kind, partition, tenant, sequence, id, place, stream_sequence: 0 }
    }

    /// What is wrong with a message.
    pub fn of_seen(kind: Kind, seen: &Seen, place: u64) -> Self {
        let Seen { partition, tenant, sequence, id, stream_sequence, .. } = *seen;
        Self { kind, partition, tenant, sequence, id, place, stream_sequence }
    }
}

/// Both sides differ in more than can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("table and stream differ in more than {0} events")]
pub struct TooMuch(pub usize);

/// One partition.
#[derive(Debug, Default)]
struct Lane {
    rows: HashMap<Uuid, Row>,
    seen: HashMap<Uuid, Seen>,
    /// The furthest place in the table that was found in the stream, and where.
    top: (u64, u64),
    /// The first place that was found.
    first: Option<u64>,
    fed: u64,
}

/// What was compared, and what came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Events that both have.
    pub matched: u64,
    /// Events of the table that the stream has forgotten by age, as it may.
    pub forgotten: u64,
    /// What is wrong, by partition and place.
    pub findings: Vec<Finding>,
    /// Messages that no row fed here explains: the table may have more rows than were fed. In the order of the stream.
    pub unexplained: Vec<Seen>,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Comparison {
    lanes: BTreeMap<u16, Lane>,
    matched: u64,
    held: usize,
    limit: usize,
    findings: Vec<Finding>,
}

impl Comparison {
    /// Holds so many events at most that one side has and the other has not (yet), and so many findings.
    pub fn new(limit: usize) -> Self {
        Self { lanes: BTreeMap::new(), matched: 0, held: 0, limit, findings: Vec::new() }
    }

    /// How many rows of a partition were fed beyond what was found in the stream, and whether a message waits for its row.
    pub fn ahead(&self, partition: u16) -> (u64, bool) {
        self.lanes.get(&partition).map_or((0, false), |lane| (lane.fed.saturating_sub(lane.top.0), !lane.seen.is_empty()))
    }

    /// The next row of the table, in the order of its partition.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub fn row(&mut self, row: Row) -> Result<(), TooMuch> {
        let lane = self.lanes.entry(row.partition).or_default();
        lane.fed = lane.fed.max(row.place);
        match lane.seen.remove(&row.id) {
            Some(seen) => {
                self.held -= 1;
                self.matches(&row, &seen)
            }
            None => {
                lane.rows.insert(row.id, row);
                self.holds()
            }
        }
    }

    /// The next message, in the order of the stream.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub fn seen(&mut self, seen: Seen) -> Result<(), TooMuch> {
        let lane = self.lanes.entry(seen.partition).or_default();
        match lane.rows.remove(&seen.id) {
            Some(row) => {
                self.held -= 1;
                self.matches(&row, &seen)
            }
            None => match lane.seen.insert(seen.id, seen) {
                None => self.holds(),
                // Twice, and never in the table so far: the first is told at once.
                Some(first) => self.finds(Finding::of_seen(Kind::Repeated, &first, 0)),
            },
        }
    }

    fn holds(&mut self) -> Result<(), TooMuch> {
        self.held += 1;
        if self.held > self.limit { Err(TooMuch(self.limit)) } else { Ok(()) }
    }

    fn finds(&mut self, finding: Finding) -> Result<(), TooMuch> {
        self.findings.push(finding);
        if self.findings.len() > self.limit { Err(TooMuch(self.limit)) } else { Ok(()) }
    }

    fn matches(&mut self, row: &Row, seen: &Seen) -> Result<(), TooMuch> {
        self.matched += 1;
        let lane = self.lanes.entry(row.partition).or_default();
        let mut wrong = Vec::new();
        if row.digest != seen.digest || row.sequence != seen.sequence || row.tenant != seen.tenant {
            wrong.push(Kind::Differs);
        }
        // A late one stands where it can.
        if !seen.late {
            let (place, at) = lane.top;
            if (row.place > place) != (seen.stream_sequence > at) {
                wrong.push(Kind::Disorder);
            }
            lane.top = lane.top.max((row.place, seen.stream_sequence));
            lane.first = Some(lane.first.map_or(row.place, |first| first.min(row.place)));
        }
        for kind in wrong {
            self.finds(Finding::of_seen(kind, seen, row.place))?;
        }
        Ok(())
    }

    /// Nothing more comes. What happened before `remembers` and stands before everything that was found of its partition counts as
    /// forgotten by the stream.
    pub fn finish(self, remembers: Option<OffsetDateTime>) -> Compared {
        let mut compared = Compared { matched: self.matched, findings: self.findings, ..Compared::default() };
        for lane in self.lanes.into_values() {
            for row in lane.rows.values() {
                if remembers.is_some_and(|since| row.at < since) && lane.first.is_none_or(|first| row.place < first) {
                    compared.forgotten += 1;
                } else {
                    compared.findings.push(Finding::of_row(Kind::Missing, row));
                }
            }
            compared.unexplained.extend(lane.seen.into_values());
        }
        compared.findings.sort_by_key(|finding| (finding.partition, finding.place, finding.stream_sequence, finding.kind));
        compared.unexplained.sort_by_key(|seen| seen.stream_sequence);
        compared
    }
}

/// Sums up what must be the same of an event on both sides: its subject, the headers that are stored with it, and its body.
pub fn digest<'a>(subject: &str, headers: impl Fn(&'static str) -> Option<&'a str>, body: &[u8]) -> u64 {
    use subjects::header;
    const NAMES: [&str; 10] = [
        header::MESSAGE_ID,
        header::TENANT,
        header::TYPE,
        header::AGGREGATE_ID,
        header::SEQUENCE,
        header::CONTENT_TYPE,
        header::TRACEPARENT,
        header::TRACESTATE,
        header::IP,
        header::USER_AGENT,
    ];
    // Against damage, not against malice: who may write to both sides has other ways.
    let mut hasher = std::hash::DefaultHasher::new();
    subject.hash(&mut hasher);
    NAMES.map(headers).hash(&mut hasher);
    body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
