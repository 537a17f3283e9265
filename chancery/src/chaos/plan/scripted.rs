//! Worst cases that chance would seldom make, by name.

use std::time::Duration;

use super::{CONSUMER_POINTS, Plan, Shape, Step, WORKER_POINTS};
use crate::chaos::{
    fault::{Action, Node, Server},
    kind::Kind,
};

/// A scenario: its name, what it is, and its faults.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    steps: fn(&Shape) -> Vec<Step>,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "brief", about: "a kill, a reset, a step-down: to see that the harness runs", steps: brief },
    Scenario { name: "points", about: "a worker dies at every point between two steps, consumers at theirs", steps: points },
    Scenario { name: "frozen-points", about: "a worker freezes past its lease at every such point and comes back", steps: frozen_points },
    Scenario { name: "flip", about: "one node frozen while writes build up, another killed, the first let go: the majority changes", steps: flip },
    Scenario { name: "chase", about: "whoever leads EVENTS is killed, again and again", steps: chase },
    Scenario { name: "zombies", about: "workers frozen in turn past their lease while leaders step down", steps: zombies },
    Scenario { name: "commits", about: "commits cut before their answer, with PostgreSQL killed in between", steps: commits },
    Scenario { name: "step-downs", about: "every leader steps down every second or two", steps: step_downs },
    Scenario { name: "bridge", about: "each node in turn mute, then deaf, then alone, with its clients and without", steps: bridge },
    Scenario { name: "replay", about: "repeats and poison in both streams between crashes of those that read them", steps: replay },
    Scenario { name: "full", about: "full disks of a node, of a leader's node and of PostgreSQL (root)", steps: full },
];

/// The plan of a scenario.
pub fn plan(scenario: &Scenario, seed: u64, shape: &Shape) -> Plan {
    let mut steps = (scenario.steps)(shape);
    steps.sort_by_key(|step| step.start);
    let length = steps.iter().map(|step| step.start + step.length).max().unwrap_or_default() + Duration::from_secs(5);
    Plan { seed, steps, length }
}

fn step(start: u64, length: u64, kind: Kind, action: Action) -> Step {
    Step { start: Duration::from_millis(start), length: Duration::from_millis(length), kind, action }
}

fn of(names: &[String], index: usize) -> String {
    names[index % names.len()].clone()
}

fn brief(shape: &Shape) -> Vec<Step> {
    vec![
        step(0, 0, Kind::KillWorker, Action::Kill(of(&shape.workers, 0))),
        step(3_000, 600, Kind::Reset, Action::Reset { part: of(&shape.gateways, 0), times: 2 }),
        step(5_000, 0, Kind::StepDownStream, Action::StepDownStream("EVENTS")),
    ]
}

fn points(shape: &Shape) -> Vec<Step> {
    let worker = |(index, (point, nth)): (usize, (&'static str, u64))| {
        let part = of(&shape.workers, index);
        step(index as u64 * 11_000, 8_000, Kind::CrashWorker, Action::AtPoint { part, point, nth, freeze: false })
    };
    let consumer = |(index, (part, point, nth)): (usize, (&'static str, &'static str, u64))| {
        let begin = (WORKER_POINTS.len() + index) as u64 * 11_000;
        step(begin, 8_000, Kind::CrashConsumer, Action::AtPoint { part: part.into(), point, nth, freeze: false })
    };
    let workers = WORKER_POINTS.into_iter().enumerate().map(worker);
    workers.chain(CONSUMER_POINTS.into_iter().enumerate().map(consumer)).collect()
}

fn frozen_points(shape: &Shape) -> Vec<Step> {
    let points = WORKER_POINTS.into_iter().enumerate();
    points
        .map(|(index, (point, nth))| {
            let part = of(&shape.workers, index);
            step(index as u64 * 17_000, 11_000, Kind::FreezeAtPoint, Action::AtPoint { part, point, nth, freeze: true })
        })
        .collect()
}

fn flip(shape: &Shape) -> Vec<Step> {
    (0..3)
        .flat_map(|turn| {
            let begin = turn as u64 * 50_000;
            [
                step(begin, 32_000, Kind::FreezeNats, Action::FreezeNode(Node::Named(of(&shape.nodes, turn)))),
                step(begin + 30_000, 0, Kind::KillNats, Action::KillNode(Node::Named(of(&shape.nodes, turn + 1)))),
            ]
        })
        .collect()
}

fn chase(_: &Shape) -> Vec<Step> {
    (0..8).map(|turn| step(turn * 12_000, 0, Kind::KillStreamLeader, Action::KillNode(Node::Leader("EVENTS")))).collect()
}

fn zombies(shape: &Shape) -> Vec<Step> {
    (0..6)
        .flat_map(|turn| {
            let begin = turn as u64 * 16_000;
            [
                step(begin, 8_000, Kind::FreezeWorkerPastLease, Action::Freeze(of(&shape.workers, turn))),
                step(begin + 6_500, 0, Kind::StepDownStream, Action::StepDownStream("EVENTS")),
                step(begin + 8_100, 0, Kind::StepDownStream, Action::StepDownStream("EVENTS")),
                step(begin + 8_200, 0, Kind::StepDownStream, Action::StepDownStream("COMMANDS")),
            ]
        })
        .collect()
}

fn commits(shape: &Shape) -> Vec<Step> {
    (0..8)
        .flat_map(|turn| {
            let begin = turn as u64 * 9_000;
            let cut = step(begin, 5_000, Kind::CutCommit, Action::CutCommit { worker: of(&shape.workers, turn), times: 6 });
            let kill = if turn % 2 == 0 { Action::KillBackend } else { Action::Kill("postgres".into()) };
            let kind = if turn % 2 == 0 { Kind::KillBackend } else { Kind::KillPostgres };
            [cut, step(begin + 3_000, 0, kind, kill)]
        })
        .collect()
}

fn step_downs(shape: &Shape) -> Vec<Step> {
    (0..30)
        .map(|turn| {
            let (kind, action) = match turn % 4 {
                0 => (Kind::StepDownStream, Action::StepDownStream("EVENTS")),
                1 => (Kind::StepDownStream, Action::StepDownStream("COMMANDS")),
                2 => (Kind::StepDownConsumer, Action::StepDownConsumer(of(&shape.consumers, turn / 4))),
                _ => (Kind::StepDownMeta, Action::StepDownMeta),
            };
            step(turn as u64 * 1_500, 0, kind, action)
        })
        .collect()
}

fn bridge(shape: &Shape) -> Vec<Step> {
    let ways = [(true, false, false), (false, true, false), (true, true, false), (true, true, true)];
    (0..12)
        .map(|turn| {
            let (mute, deaf, clients) = ways[turn / 3];
            let kind = if mute && deaf { Kind::PartitionOne } else { Kind::PartitionAsymmetric };
            let node = Node::Named(of(&shape.nodes, turn));
            step(turn as u64 * 18_000, 10_000, kind, Action::Isolate { node, mute, deaf, clients })
        })
        .collect()
}

fn replay(shape: &Shape) -> Vec<Step> {
    (0..6)
        .flat_map(|turn| {
            let (begin, seed) = (turn * 12_000, turn);
            let consumer = of(&shape.consumers, usize::try_from(turn).unwrap_or(0));
            [
                step(begin, 0, Kind::RepeatEvents, Action::Repeat { stream: "EVENTS", count: 200, seed }),
                step(begin + 1_000, 0, Kind::RepeatCommands, Action::Repeat { stream: "COMMANDS", count: 200, seed }),
                step(begin + 1_500, 0, Kind::KillConsumer, Action::Kill(consumer)),
                step(begin + 3_000, 0, Kind::PoisonCommands, Action::Poison { stream: "COMMANDS", count: 5, seed }),
                step(begin + 3_500, 0, Kind::PoisonEvents, Action::Poison { stream: "EVENTS", count: 3, seed }),
                step(begin + 4_000, 0, Kind::KillWorker, Action::Kill(of(&shape.workers, usize::try_from(turn).unwrap_or(0)))),
            ]
        })
        .collect()
}

fn full(shape: &Shape) -> Vec<Step> {
    let node = |index| Action::DiskFull(of(&shape.nodes, index));
    vec![
        step(0, 10_000, Kind::DiskFullNats, node(0)),
        step(35_000, 10_000, Kind::DiskFullNats, node(1)),
        step(70_000, 10_000, Kind::DiskFullNats, node(2)),
        step(105_000, 8_000, Kind::DiskFullPostgres, Action::DiskFull("postgres".into())),
        step(135_000, 5_000, Kind::DiskFullPostgres, Action::DiskFull("postgres".into())),
        step(136_000, 4_000, Kind::PartitionPostgres, Action::CutOff { role: of(&shape.workers, 0), server: Server::Postgres, way: None }),
    ]
}
