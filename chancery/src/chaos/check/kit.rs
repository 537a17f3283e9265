//! Runs made by hand, for the tests of the checkers: history and facts that fit, until a test spoils something.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use uuid::Uuid;

use crate::chaos::{
    check::{Case, Finding},
    facts::{AggregateRow, AuditRow, CommandRow, ConsumerRow, EventRow, Facts, ReplicaRow, StreamRow},
    history::{Answer, Effect, End, EventName, FaultSpan, OpId, Record, Request, Seen, What},
};

/// The marker of tenant 1.
pub(crate) const MARKER: &str = "cnry0000000001";
/// Nodes that hold every stream.
const NODES: [&str; 3] = ["nats-1", "nats-2", "nats-3"];

/// How a request of a made-up run ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// With success, and everything it must leave.
    Succeeds,
    /// It is answered 202 and never again.
    AcceptedOnly(Uuid),
    /// Nobody answers.
    Unanswered,
    /// It is refused, and recorded so.
    Refused(&'static str),
    /// It is said to have failed.
    Failed,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) facts: Facts,
    clock: u64,
    ops: u64,
    ids: u128,
}

/// The id of tenant 1, 2 …
pub(crate) fn tenant(number: u128) -> Uuid {
    Uuid::from_u128(0x1000 + number)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The types of the kit's effects, as constants.
fn constant(event_type: &str) -> &'static str {
    let known = ["tenant.created", "tenant.updated", "user.created", "user.profile_updated", "team.created", "invitation.created"];
    known.into_iter().find(|known| *known == event_type).unwrap()
}

impl Run {
    pub(crate) fn new() -> Self {
        Self { records: Vec::new(), facts: Facts::default(), clock: 0, ops: 0, ids: 0 }
    }

    /// Something happens 1 ms after the last.
    pub(crate) fn add(&mut self, what: What) -> u64 {
        self.clock += 1_000;
        self.records.push(Arc::new(Record { at: self.clock, what }));
        self.clock
    }

    /// An id that nobody has.
    pub(crate) fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(0xabc0_0000 + self.ids)
    }

    /// A change of the hot user of tenant 1; gives the command.
    pub(crate) fn update(&mut self, client: usize, value: &str) -> Uuid {
        let effects = vec![Effect { event_type: "user.profile_updated", value: value.into() }];
        let key = format!("k{}", self.ops);
        let register = Some(Uuid::from_u128(0x500));
        let request = Request { kind: "user.update_profile", client, key: Some(key), register, effects, ..Request::default() };
        self.request(request, How::Succeeds)
    }

    /// A read of the hot user of tenant 1.
    pub(crate) fn read(&mut self, value: &str, version: u64) -> OpId {
        let op = self.invoke(Request { kind: "read", register: Some(Uuid::from_u128(0x500)), ..Request::default() });
        let sent = self.clock;
        let answer = Answer { sent, status: Some(200), version: Some(version), value: Some(value.into()), ..Answer::default() };
        self.add(What::Answer { op, answer });
        self.add(What::End { op, end: End::Read });
        op
    }

    /// A request of client 1 with effects written `type:value`; gives the command.
    pub(crate) fn op(&mut self, kind: &'static str, key: Option<&str>, effects: &[&str], how: How) -> Uuid {
        let effect = |text: &&str| text.split_once(':').map(|(event_type, value)| Effect { event_type: constant(event_type), value: value.into() });
        let effects = effects.iter().filter_map(effect).collect();
        self.request(Request { kind, client: 1, key: key.map(str::to_owned), effects, ..Request::default() }, how)
    }

    pub(crate) fn invoke(&mut self, request: Request) -> OpId {
        self.ops += 1;
        let op = OpId(self.ops);
        let due = self.clock;
        self.add(What::Invoke { op, due, request });
        op
    }

    /// A whole request.
    pub(crate) fn request(&mut self, request: Request, how: How) -> Uuid {
        let command = self.id();
        let (kind, effects, register) = (request.kind, request.effects.clone(), request.register);
        let op = self.invoke(request);
        let sent = self.clock;
        let base = Answer { sent, command: Some(command), ..Answer::default() };
        match how {
            How::Succeeds => {
                let mut events = Vec::new();
                let mut version = 0;
                for effect in &effects {
                    let aggregate = register.unwrap_or_else(|| self.id());
                    let id = self.write(1, effect.event_type, aggregate, Some(&effect.value), command);
                    events.push(EventName { id, event_type: effect.event_type.into() });
                    version = self.facts.events.last().map_or(0, |event| event.version);
                }
                self.decide(command, "succeeded", events.iter().map(|event| event.id).collect());
                let same = Some(hash(&format!("{command} {events:?}")));
                self.add(What::Answer { op, answer: Answer { status: Some(200), events, same, version: u64::try_from(version).ok(), ..base } });
                self.add(What::End { op, end: End::Succeeded });
            }
            How::AcceptedOnly(command) => {
                self.add(What::Answer { op, answer: Answer { status: Some(202), command: Some(command), sent, ..Answer::default() } });
                self.add(What::End { op, end: End::Unknown });
                return command;
            }
            How::Unanswered => {
                self.add(What::Answer { op, answer: Answer { error: Some("no answer".into()), sent, ..Answer::default() } });
                self.add(What::End { op, end: End::Unknown });
            }
            How::Refused(code) => {
                self.decide(command, "refused", Vec::new());
                let same = Some(hash(&format!("{command} {code} {kind}")));
                self.add(What::Answer { op, answer: Answer { status: Some(409), code: Some(code.into()), same, ..base } });
                self.add(What::End { op, end: End::Refused { code: code.into() } });
            }
            How::Failed => {
                self.decide(command, "failed", Vec::new());
                self.add(What::Answer { op, answer: Answer { status: Some(500), code: Some("failed".into()), ..base } });
                self.add(What::End { op, end: End::Failed { code: "failed".into() } });
            }
        }
        command
    }

    fn decide(&mut self, id: Uuid, status: &str, events: Vec<Uuid>) {
        self.facts.commands.push(CommandRow { id, tenant: tenant(1), status: status.into(), reason: None, aggregate: None, events });
    }

    /// An event of a command that no client knows, everywhere it must be.
    pub(crate) fn event(&mut self, number: u128, event_type: &str, aggregate: u128, value: Option<&str>) -> Uuid {
        let command = self.id();
        let id = self.write(number, event_type, Uuid::from_u128(aggregate), value, command);
        self.decide(command, "succeeded", vec![id]);
        id
    }

    fn write(&mut self, number: u128, event_type: &str, aggregate: Uuid, value: Option<&str>, command: Uuid) -> Uuid {
        let (id, tenant) = (self.id(), tenant(number));
        let of_tenant = self.facts.events.iter().filter(|event| event.tenant == tenant).count() as i64;
        let kind = event_type.split('.').next().unwrap().to_owned();
        let before = self.facts.events.iter().filter(|event| event.aggregate == aggregate).map(|event| event.version).max().unwrap_or(0);
        let version = before + i64::from(kind != "role");
        let kind = if kind == "role" { "membership".to_owned() } else { kind };
        let body = hash(&format!("{id} {value:?}"));
        let (sequence, stream_sequence) = (of_tenant + 1, self.facts.stream.len() as u64 + 1);
        self.facts.events.push(EventRow {
            id,
            partition: number as i16,
            partition_sequence: sequence,
            tenant,
            sequence,
            event_type: event_type.into(),
            kind: kind.clone(),
            aggregate,
            version,
            command,
            value: value.map(str::to_owned),
            body,
        });
        let stream = StreamRow { stream_sequence, id: Some(id), tenant, sequence, kind: kind.clone(), aggregate, version, body, late: false };
        self.facts.stream.push(stream);
        self.facts.audit.push(AuditRow { tenant, n: sequence, event: id });
        self.facts.aggregates.retain(|row| row.id != aggregate);
        self.facts.aggregates.push(AggregateRow { tenant, kind, id: aggregate, version, fields: BTreeMap::new() });
        self.add(What::Seen { seen: Seen { follower: number as usize, tenant, id, sequence: sequence as u64 } });
        self.settle();
        id
    }

    /// Consumers and replicas are where the stream ends.
    fn settle(&mut self) {
        let last = self.facts.stream.len() as u64;
        let effects: BTreeMap<Uuid, u32> = self.facts.audit.iter().map(|row| (row.event, 1)).collect();
        let consumer = |name: &str, effects| ConsumerRow { name: name.into(), position: last, last, pending: 0, effects, repeats: false };
        self.facts.consumers = vec![consumer("audit", Some(effects)), consumer("guests", None)];
        let replica =
            |node: &&str| ReplicaRow { stream: "EVENTS".into(), node: (*node).into(), messages: last, first: 1, last, deleted: 0, wanted: 3 };
        self.facts.replicas = NODES.iter().map(replica).collect();
    }
}

/// What a checker finds in a good run after something was done to it.
pub(crate) fn found(check: fn(&Case<'_>) -> Vec<Finding>, spoil: impl FnOnce(&mut Run)) -> Vec<String> {
    let mut run = good();
    spoil(&mut run);
    check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| finding.what).collect()
}

/// A run with a fault in it and nothing wrong.
pub(crate) fn good() -> Run {
    let mut run = Run::new();
    run.op("tenant.create", Some("t"), &["tenant.created:cnry0000000001-slug"], How::Succeeds);
    run.event(2, "tenant.created", 0x2000, None);
    run.update(1, "cnry0000000001-a");
    run.read("cnry0000000001-a", 1);
    run.add(What::Fault { span: FaultSpan { index: 0, kind: "kill", target: "worker-1".into(), detail: String::new() } });
    run.update(2, "cnry0000000001-b");
    run.op("user.create", Some("u"), &["user.created:cnry0000000001-u@example.com"], How::Succeeds);
    run.op("user.create", Some("v"), &["user.created:cnry0000000001-v@example.com"], How::Unanswered);
    let taken = Request { kind: "user.create", client: 3, refusals: vec!["email_taken"], must_refuse: true, ..Request::default() };
    run.request(Request { key: Some("w".into()), ..taken }, How::Refused("email_taken"));
    run.event(1, "role.assignment_failed", 0x3000, None);
    run.event(1, "membership.joined", 0x3000, None);
    run.clock = run.records.iter().find(|record| matches!(record.what, What::Fault { .. })).map_or(0, |record| record.at) + 1_499_000;
    run.add(What::Healed { fault: 0 });
    run.update(2, "cnry0000000001-c");
    run.op("team.create", Some("x"), &["team.created:cnry0000000001-team"], How::Succeeds);
    run.event(2, "tenant.updated", 0x2000, None);
    run.read("cnry0000000001-c", 3);
    run
}
