//! History and facts, put in the order in which checkers ask.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::chaos::{
    facts::{CommandRow, EventRow, Facts},
    history::{Answer, Effect, End, FaultSpan, Injection, OpId, Record, Request, Seen, What},
};

/// A wish of a client with everything that came of it.
#[derive(Debug, Clone)]
pub struct Op<'a> {
    /// Its number.
    pub id: OpId,
    /// When it was meant to start.
    pub due: u64,
    /// What was asked.
    pub request: &'a Request,
    /// When an answer came, and which.
    pub answers: Vec<(u64, &'a Answer)>,
    /// When it ended for the client, and how.
    pub end: Option<(u64, &'a End)>,
}

impl Op<'_> {
    /// The command's id, from any answer that names it.
    pub fn command(&self) -> Option<Uuid> {
        self.answers.iter().rev().find_map(|(_, answer)| answer.command)
    }

    /// Whether it asks for a change.
    pub fn writes(&self) -> bool {
        self.request.kind != "read"
    }

    /// Whether the client was told that it is accepted: 200, 201 or 202.
    pub fn accepted(&self) -> bool {
        self.writes() && (self.succeeded() || self.answers.iter().any(|(_, answer)| answer.status.is_some_and(|status| (200..300).contains(&status))))
    }

    /// Whether the client was told that it took effect.
    pub fn succeeded(&self) -> bool {
        matches!(self.end, Some((_, End::Succeeded)))
    }

    /// When the first try left; `due` when none did.
    pub fn begun(&self) -> u64 {
        self.answers.iter().map(|(_, answer)| answer.sent).min().unwrap_or(self.due)
    }

    /// For people: `op 17 (user.create by client 3, key k17)`.
    pub fn name(&self) -> String {
        let key = self.request.key.as_ref().map_or_else(|| "without a key".to_owned(), |key| format!("key {key}"));
        format!("op {} ({} by client {}, {key})", self.id.0, self.request.kind, self.request.client)
    }
}

/// A fault with its end.
#[derive(Debug, Clone)]
pub struct Fault<'a> {
    /// What it is.
    pub span: &'a FaultSpan,
    /// When it began.
    pub begun: u64,
    /// When it was taken away.
    pub lifted: Option<u64>,
    /// When the product had recovered.
    pub healed: Option<u64>,
    /// Why it did not.
    pub unhealed: Option<&'a str>,
}

/// What a checker looks at.
#[derive(Debug)]
pub struct Case<'a> {
    /// The facts.
    pub facts: &'a Facts,
    /// The wishes, in the order of their numbers.
    pub ops: BTreeMap<OpId, Op<'a>>,
    /// The faults, by index.
    pub faults: BTreeMap<usize, Fault<'a>>,
    /// Begins of the run's parts.
    pub phases: Vec<(u64, &'a str)>,
    /// What followers were sent, in order.
    pub seen: Vec<&'a Seen>,
    /// What faults put into streams, by stream and place.
    pub injected: HashMap<(&'a str, u64), &'a Injection>,
    /// Markers where they must not be: marker and place.
    pub leaks: Vec<(&'a str, &'a str)>,
    /// Reads that missed an answered effect.
    pub stale: Vec<(OpId, &'a str)>,
    /// Arrivals that were not even tried.
    pub shed: u64,
    /// The commands that clients know of, and whose they are.
    pub known: HashMap<Uuid, OpId>,
    /// Table `events` by id. A table that has an id twice shows in the length of the list.
    pub events: HashMap<Uuid, Vec<&'a EventRow>>,
    /// Table `commands` by id.
    pub commands: HashMap<Uuid, &'a CommandRow>,
    /// The events of each command, in the order of the tenant's history.
    pub caused: HashMap<Uuid, Vec<&'a EventRow>>,
    /// The events that tell a value, by type and value.
    pub told: HashMap<&'a str, HashMap<&'a str, Vec<&'a EventRow>>>,
}

impl<'a> Case<'a> {
    /// Sorts everything.
    pub fn new(records: &'a [Arc<Record>], facts: &'a Facts) -> Self {
        let mut case = Self {
            facts,
            ops: BTreeMap::new(),
            faults: BTreeMap::new(),
            phases: Vec::new(),
            seen: Vec::new(),
            injected: HashMap::new(),
            leaks: Vec::new(),
            stale: Vec::new(),
            shed: 0,
            known: HashMap::new(),
            events: HashMap::new(),
            commands: facts.commands.iter().map(|row| (row.id, row)).collect(),
            caused: HashMap::new(),
            told: HashMap::new(),
        };
        records.iter().for_each(|record| case.take(record));
        let first = case.ops.values().filter(|op| op.request.repeats.is_none());
        case.known = first.filter_map(|op| Some((op.command()?, op.id))).collect();
        for injection in &facts.injected {
            case.injected.entry((&injection.stream, injection.sequence)).or_insert(injection);
        }
        for row in &facts.events {
            case.events.entry(row.id).or_default().push(row);
            case.caused.entry(row.command).or_default().push(row);
            if let Some(value) = &row.value {
                case.told.entry(&row.event_type).or_default().entry(value).or_default().push(row);
            }
        }
        case.caused.values_mut().for_each(|rows| rows.sort_by_key(|row| (row.tenant, row.sequence)));
        case
    }

    fn take(&mut self, record: &'a Record) {
        let at = record.at;
        match &record.what {
            What::Phase { name } => self.phases.push((at, name)),
            What::Fault { span } => {
                self.faults.insert(span.index, Fault { span, begun: at, lifted: None, healed: None, unhealed: None });
            }
            What::Lifted { fault } => self.of_fault(*fault, |fault| fault.lifted = Some(at)),
            What::Healed { fault } => self.of_fault(*fault, |fault| fault.healed = Some(at)),
            What::Unhealed { fault, why } => self.of_fault(*fault, |fault| fault.unhealed = Some(why)),
            What::Injected { injection } => {
                self.injected.insert((&injection.stream, injection.sequence), injection);
            }
            What::Invoke { op, due, request } => {
                self.ops.insert(*op, Op { id: *op, due: *due, request, answers: Vec::new(), end: None });
            }
            What::Answer { op, answer } => {
                if let Some(op) = self.ops.get_mut(op) {
                    op.answers.push((at, answer));
                }
            }
            What::End { op, end } => {
                if let Some(op) = self.ops.get_mut(op) {
                    op.end = Some((at, end));
                }
            }
            What::Shed { .. } => self.shed += 1,
            What::Seen { seen } => self.seen.push(seen),
            What::Leak { marker, place } => self.leaks.push((marker, place)),
            What::Stale { op, detail } => self.stale.push((*op, detail)),
        }
    }

    fn of_fault(&mut self, index: usize, change: impl FnOnce(&mut Fault<'a>)) {
        if let Some(fault) = self.faults.get_mut(&index) {
            change(fault);
        }
    }

    /// Events that tell this effect.
    pub fn effect(&self, effect: &Effect) -> &[&'a EventRow] {
        self.told.get(effect.event_type).and_then(|told| told.get(effect.value.as_str())).map_or(&[], Vec::as_slice)
    }

    /// Events that tell an effect of this wish: not those of another wish for the same (two people follow one link).
    pub fn own<'b>(&'b self, op: &'b Op<'_>, effect: &Effect) -> impl Iterator<Item = &'b &'a EventRow> {
        let anothers = |event: &EventRow| self.known.get(&event.command).is_some_and(|other| *other != op.id);
        self.effect(effect).iter().filter(move |event| !anothers(event))
    }

    /// Whether a message of EVENTS was put there by a fault.
    pub fn is_injected(&self, stream_sequence: u64) -> bool {
        self.injected.contains_key(&(subjects::stream::EVENTS, stream_sequence))
    }

    /// Every value that somebody asked for.
    pub fn asked(&self) -> HashSet<&'a str> {
        self.ops.values().flat_map(|op| op.request.effects.iter().map(|effect| effect.value.as_str())).collect()
    }
}
