//! Which fault comes when: a pure function of a seed. The same seed, length and abilities give the same plan, step for step.

mod scripted;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

pub use scripted::{SCENARIOS, Scenario, plan as scripted};

use super::{
    chance::Chance,
    fault::{Action, Node, Server},
    kind::{Family, Kind, Weight},
    proxy::Way,
};
use crate::role::Consumer;

/// Faults of a period before it is quiet for a while.
const PERIOD: usize = 4;
/// How many families a period mixes.
const MIX: usize = 2;
/// Points of a worker, with the passage at which it happens: those of a takeover are passed when it takes its share.
pub const WORKER_POINTS: [(&str, u64); 10] = [
    ("loaded", 3),
    ("decided", 3),
    ("before_commit", 3),
    ("after_commit", 3),
    ("committed", 3),
    ("handed_to_lane", 3),
    ("batch_sent", 3),
    ("batch_acknowledged", 3),
    ("fenced", 1),
    ("fence_read", 1),
];
/// Points of consumers.
pub const CONSUMER_POINTS: [(&str, &str, u64); 8] = [
    ("audit", "audit_numbered", 3),
    ("audit", "consumer_taken", 3),
    ("audit", "consumer_handled", 3),
    ("logging", "consumer_handled", 3),
    ("onboarding", "reaction_decided", 1),
    ("notifications", "notifications_before_commit", 2),
    ("notifications", "notifications_intended", 2),
    ("notifications", "notifications_sent", 2),
];

/// The parts by name, as compose and processes have them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// `gateway-1` …
    pub gateways: Vec<String>,
    /// `worker-1` …
    pub workers: Vec<String>,
    /// `audit` …
    pub consumers: Vec<String>,
    /// `nats-1` …
    pub nodes: Vec<String>,
}

impl Default for Shape {
    fn default() -> Self {
        let numbered = |name: &str, count: usize| (1..=count).map(|number| format!("{name}-{number}")).collect();
        Self {
            gateways: numbered("gateway", 2),
            workers: numbered("worker", 2),
            consumers: Consumer::ALL.map(|consumer| consumer.name().to_owned()).to_vec(),
            nodes: numbered("nats", 3),
        }
    }
}

impl Shape {
    /// Every role's process.
    pub fn roles(&self) -> Vec<String> {
        [&self.gateways, &self.workers, &self.consumers].into_iter().flatten().cloned().collect()
    }
}

/// How long a plan goes on, and how close its faults are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Every kind once, close together.
    Quick,
    /// So many minutes.
    Minutes(u64),
}

impl Pace {
    /// The time a fault has for itself, more or less a third.
    const fn slot(self, weight: Weight) -> Duration {
        match (self, weight) {
            (Self::Quick, Weight::Light) => Duration::from_millis(2_600),
            (Self::Quick, Weight::Heavy) => Duration::from_millis(7_500),
            (Self::Minutes(_), Weight::Light) => Duration::from_secs(8),
            (Self::Minutes(_), Weight::Heavy) => Duration::from_secs(17),
        }
    }
}

/// A fault of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When it begins, from the beginning of the faults.
    pub start: Duration,
    /// How long until it is lifted; nothing where it lifts itself.
    pub length: Duration,
    /// Its kind.
    pub kind: Kind,
    /// What it does.
    pub action: Action,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} s {:5.1} s  {:<24} {}", self.start.as_secs_f64(), self.length.as_secs_f64(), self.kind.name(), self.action)
    }
}

/// All faults of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where chance began.
    pub seed: u64,
    /// In the order of their beginnings.
    pub steps: Vec<Step>,
    /// When the last of them is over and the time for it has passed.
    pub length: Duration,
}

/// Chooses faults by chance: periods of a few faults from two families, the families rotating, every kind before any comes again, and
/// after each period a third of its time quiet, which is a quarter of all.
pub fn random(seed: u64, pace: Pace, shape: &Shape, able: &dyn Fn(Kind) -> bool) -> Plan {
    let mut chance = Chance::new(seed);
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| able(*kind)).collect();
    let (mut steps, mut now, mut deck) = (Vec::new(), Duration::ZERO, Vec::new());
    loop {
        if deck.is_empty() {
            if kinds.is_empty() || (pace == Pace::Quick && !steps.is_empty()) {
                break;
            }
            deck.clone_from(&kinds);
            chance.shuffle(&mut deck);
        }
        let begin = now;
        for kind in period(&mut deck, &mut chance) {
            let slot = pace.slot(kind.weight());
            let (action, length) = choose(kind, shape, &mut chance, slot);
            steps.push(Step { start: now, length, kind, action });
            now += chance.time(slot * 2 / 3, slot * 4 / 3);
        }
        now += (now - begin) / 3;
        if matches!(pace, Pace::Minutes(minutes) if now >= Duration::from_secs(60 * minutes)) {
            break;
        }
    }
    Plan { seed, steps, length: now }
}

/// Takes the faults of one period from those that are left: from the families that have the most left, a few of each, mixed.
fn period(deck: &mut Vec<Kind>, chance: &mut Chance) -> Vec<Kind> {
    let mut families: Vec<Family> = deck.iter().map(|kind| kind.family()).collect();
    families.sort_unstable();
    families.dedup();
    chance.shuffle(&mut families);
    families.sort_by_key(|family| std::cmp::Reverse(deck.iter().filter(|kind| kind.family() == *family).count()));
    families.truncate(MIX);
    let mut taken = Vec::new();
    while taken.len() < PERIOD {
        let before = taken.len();
        for family in &families {
            if let Some(index) = deck.iter().position(|kind| kind.family() == *family) {
                taken.push(deck.remove(index));
            }
        }
        if taken.len() == before {
            break;
        }
    }
    chance.shuffle(&mut taken);
    taken
}

/// Decides everything that a kind leaves to chance. `slot` is the time it has for itself.
fn choose(kind: Kind, shape: &Shape, chance: &mut Chance, slot: Duration) -> (Action, Duration) {
    const STREAMS: [&str; 2] = ["COMMANDS", "EVENTS"];
    let millis = |from, to, chance: &mut Chance| chance.time(Duration::from_millis(from), Duration::from_millis(to));
    let name = |of: &[String], chance: &mut Chance| chance.one(of).cloned().unwrap_or_default();
    let some_way = |chance: &mut Chance| *chance.one(&[None, None, Some(Way::Requests), Some(Way::Answers)]).unwrap_or(&None);
    let node = |chance: &mut Chance| match chance.between(0, 3) {
        0 => Node::Leader("COMMANDS"),
        1 => Node::Leader("EVENTS"),
        _ => Node::Named(name(&shape.nodes, chance)),
    };
    let instant = Duration::ZERO;
    match kind {
        Kind::KillGateway => (Action::Kill(name(&shape.gateways, chance)), instant),
        Kind::KillWorker => (Action::Kill(name(&shape.workers, chance)), instant),
        Kind::KillConsumer => (Action::Kill(name(&shape.consumers, chance)), instant),
        Kind::KillNats => (Action::KillNode(Node::Named(name(&shape.nodes, chance))), instant),
        Kind::KillStreamLeader => (Action::KillNode(Node::Leader(chance.one(&STREAMS).copied().unwrap_or("EVENTS"))), instant),
        Kind::KillMetaLeader => (Action::KillNode(Node::Meta), instant),
        Kind::KillBackend => (Action::KillBackend, instant),
        Kind::KillPostgres => (Action::Kill("postgres".into()), instant),
        Kind::RestartPostgres => (Action::Roll(vec!["postgres".into()]), instant),
        Kind::FreezeGateway => (Action::Freeze(name(&shape.gateways, chance)), millis(1_000, 4_000, chance)),
        Kind::FreezeWorker => (Action::Freeze(name(&shape.workers, chance)), millis(1_000, 3_000, chance)),
        Kind::FreezeWorkerPastLease => (Action::Freeze(name(&shape.workers, chance)), millis(6_500, 9_000, chance)),
        Kind::FreezeConsumer => (Action::Freeze(name(&shape.consumers, chance)), millis(1_000, 6_000, chance)),
        Kind::FreezeNats => (Action::FreezeNode(node(chance)), millis(2_000, 8_000, chance)),
        Kind::RollWorkers => (Action::Roll(shape.workers.clone()), instant),
        Kind::RollGateways => (Action::Roll(shape.gateways.clone()), instant),
        Kind::RollNats => (Action::Roll(shape.nodes.clone()), instant),
        Kind::LameDuck => (Action::LameDuck(node(chance)), instant),
        Kind::StepDownStream => (Action::StepDownStream(chance.one(&STREAMS).copied().unwrap_or("EVENTS")), instant),
        Kind::StepDownConsumer => (Action::StepDownConsumer(name(&shape.consumers, chance)), instant),
        Kind::StepDownMeta => (Action::StepDownMeta, instant),
        Kind::PartitionOne => {
            (Action::Isolate { node: node(chance), mute: true, deaf: true, clients: chance.percent(50) }, millis(3_000, 8_000, chance))
        }
        Kind::PartitionMajority => (Action::Scatter, millis(2_000, 6_000, chance)),
        Kind::PartitionAsymmetric => {
            let mute = chance.percent(50);
            (Action::Isolate { node: node(chance), mute, deaf: !mute, clients: false }, millis(3_000, 8_000, chance))
        }
        Kind::PartitionClient => {
            let role = name(&shape.roles(), chance);
            (Action::CutOff { role, server: Server::Nats, way: some_way(chance) }, millis(2_000, 8_000, chance))
        }
        Kind::PartitionPostgres => {
            let role = name(&shape.roles(), chance);
            (Action::CutOff { role, server: Server::Postgres, way: some_way(chance) }, millis(2_000, 8_000, chance))
        }
        Kind::PartitionGateway => (Action::CutOffGateway(name(&shape.gateways, chance)), millis(1_000, 5_000, chance)),
        Kind::Reset => {
            let servers: Vec<String> = shape.roles().into_iter().chain(shape.nodes.clone()).chain(["postgres".to_owned()]).collect();
            (Action::Reset { part: name(&servers, chance), times: 3 }, millis(1_000, 3_000, chance))
        }
        Kind::Delay => {
            let parts: Vec<String> = [&shape.workers, &shape.gateways, &shape.nodes].into_iter().flatten().cloned().collect();
            let (millis_each, jitter) = (chance.between(20, 150), chance.between(5, 20));
            (Action::Delay { part: name(&parts, chance), millis: millis_each, jitter }, millis(3_000, 8_000, chance))
        }
        Kind::CutCommit => (Action::CutCommit { worker: name(&shape.workers, chance), times: 3 }, slot),
        Kind::CutBytes => {
            let server = if chance.percent(50) { Server::Nats } else { Server::Postgres };
            let way = if chance.percent(50) { Way::Requests } else { Way::Answers };
            (Action::CutBytes { role: name(&shape.workers, chance), server, way, bytes: chance.between(500, 20_000) }, slot)
        }
        Kind::SlowConsumer => {
            let delay = chance.between(400, 900);
            (Action::Delay { part: name(&shape.consumers, chance), millis: delay, jitter: delay / 4 }, millis(4_000, 9_000, chance))
        }
        Kind::RepeatEvents => (Action::Repeat { stream: "EVENTS", count: 60, seed: chance.number() }, instant),
        Kind::RepeatCommands => (Action::Repeat { stream: "COMMANDS", count: 60, seed: chance.number() }, instant),
        Kind::PoisonCommands => (Action::Poison { stream: "COMMANDS", count: 5, seed: chance.number() }, instant),
        Kind::PoisonEvents => (Action::Poison { stream: "EVENTS", count: 3, seed: chance.number() }, instant),
        Kind::CrashWorker => {
            let (point, nth) = chance.one(&WORKER_POINTS).copied().unwrap_or(("decided", 1));
            (Action::AtPoint { part: name(&shape.workers, chance), point, nth, freeze: false }, slot)
        }
        Kind::FreezeAtPoint => {
            let (point, nth) = chance.one(&WORKER_POINTS).copied().unwrap_or(("decided", 1));
            (Action::AtPoint { part: name(&shape.workers, chance), point, nth, freeze: true }, millis(7_000, 9_500, chance))
        }
        Kind::CrashConsumer => {
            let (part, point, nth) = chance.one(&CONSUMER_POINTS).copied().unwrap_or(("audit", "audit_numbered", 1));
            (Action::AtPoint { part: part.into(), point, nth, freeze: false }, slot)
        }
        Kind::DiskFullNats => (Action::DiskFull(name(&shape.nodes, chance)), millis(3_000, 8_000, chance)),
        Kind::DiskFullPostgres => (Action::DiskFull("postgres".into()), millis(2_000, 6_000, chance)),
    }
}
