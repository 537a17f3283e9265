//! What the picture shows, in numbers: answers and latencies over time, and the lanes of the faults.

use std::collections::BTreeMap;

use crate::chaos::{
    check::{Case, Op},
    history::End,
};

/// Points in time at most: more cannot be told apart.
const POINTS: u64 = 400;
const SECOND: u64 = 1_000_000;

/// Everything over time; all lists have a value for each stretch of time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Series {
    /// Length of a stretch in seconds.
    pub(super) width: u64,
    /// Wishes that came to a known end, per second.
    pub(super) answers: Vec<f64>,
    /// Wishes that were due, per second.
    pub(super) due: Vec<f64>,
    /// Latency from when it was due, in milliseconds; none where nothing was answered.
    pub(super) p50: Vec<Option<f64>>,
    /// The same.
    pub(super) p99: Vec<Option<f64>>,
    /// Faults by kind.
    pub(super) lanes: Vec<Lane>,
    /// Begins of the run's parts, in seconds.
    pub(super) phases: Vec<(f64, String)>,
}

/// The faults of a kind.
#[derive(Debug, PartialEq)]
pub(super) struct Lane {
    pub(super) kind: String,
    pub(super) bars: Vec<Bar>,
}

/// A fault: when it began, and when the product had recovered, in seconds.
#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) healed: bool,
    pub(super) target: String,
}

impl Series {
    /// How long the run was, in seconds.
    pub(super) fn length(&self) -> f64 {
        (self.answers.len() as u64 * self.width) as f64
    }

    pub(super) fn of(case: &Case<'_>) -> Self {
        let ended = || case.ops.values().filter_map(known);
        let last = ended().map(|(at, _)| at).chain(case.faults.values().filter_map(|fault| fault.healed)).max().unwrap_or_default();
        let width = (last / SECOND / POINTS + 1).max(1);
        let stretches = usize::try_from(last / (width * SECOND) + 1).unwrap_or(1);
        let place = |at: u64| usize::try_from(at / (width * SECOND)).unwrap_or(usize::MAX).min(stretches - 1);
        let mut series = Self { width, answers: vec![0.0; stretches], due: vec![0.0; stretches], ..Self::default() };
        let mut latencies: Vec<Vec<u64>> = vec![Vec::new(); stretches];
        for (at, latency) in ended() {
            series.answers[place(at)] += 1.0 / width as f64;
            latencies[place(at)].push(latency);
        }
        for op in case.ops.values() {
            series.due[place(op.due)] += 1.0 / width as f64;
        }
        for latencies in &mut latencies {
            latencies.sort_unstable();
            series.p50.push(quantile(latencies, 0.5));
            series.p99.push(quantile(latencies, 0.99));
        }
        let seconds = |at: u64| at as f64 / SECOND as f64;
        let mut lanes: BTreeMap<&str, Vec<Bar>> = BTreeMap::new();
        for fault in case.faults.values() {
            let to = fault.healed.unwrap_or(last);
            let bar = Bar { from: seconds(fault.begun), to: seconds(to), healed: fault.healed.is_some(), target: fault.span.target.clone() };
            lanes.entry(fault.span.kind).or_default().push(bar);
        }
        series.lanes = lanes.into_iter().map(|(kind, bars)| Lane { kind: kind.to_owned(), bars }).collect();
        series.phases = case.phases.iter().map(|(at, name)| (seconds(*at), (*name).to_owned())).collect();
        series
    }
}

/// When a wish came to a known end, and how long after it was due.
pub(in crate::chaos) fn known(op: &Op<'_>) -> Option<(u64, u64)> {
    let (at, end) = op.end?;
    (*end != End::Unknown).then(|| (at, at.saturating_sub(op.due)))
}

/// A quantile of sorted microseconds, in milliseconds.
pub(in crate::chaos) fn quantile(sorted: &[u64], quantile: f64) -> Option<f64> {
    let place = ((sorted.len() as f64 * quantile).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).map(|micros| *micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chaos::{
        facts::Facts,
        history::{FaultSpan, OpId, Record, Request, What},
    };

    #[test]
    fn answers_latencies_and_faults_stand_at_their_times() {
        let mut records = Vec::new();
        let mut add = |at: u64, what: What| records.push(Arc::new(Record { at, what }));
        let span = FaultSpan { index: 0, kind: "kill", target: "worker-1".into(), detail: String::new() };
        add(0, What::Phase { name: "quiet".into() });
        for (op, due, end) in [(1, 100_000, 110_000), (2, 200_000, 240_000), (3, 1_900_000, 2_500_000)] {
            add(due, What::Invoke { op: OpId(op), due, request: Request::default() });
            add(end, What::End { op: OpId(op), end: End::Succeeded });
        }
        add(2_600_000, What::Invoke { op: OpId(4), due: 2_600_000, request: Request::default() });
        add(2_700_000, What::Fault { span });
        add(3_200_000, What::Healed { fault: 0 });
        let facts = Facts::default();
        let series = Series::of(&Case::new(&records, &facts));
        assert_eq!((series.width, series.answers.as_slice()), (1, [2.0, 0.0, 1.0, 0.0].as_slice()));
        assert_eq!(series.due, [2.0, 1.0, 1.0, 0.0]);
        assert_eq!(series.p50, [Some(10.0), None, Some(600.0), None]);
        assert_eq!(series.p99, [Some(40.0), None, Some(600.0), None]);
        let bar = Bar { from: 2.7, to: 3.2, healed: true, target: "worker-1".into() };
        assert_eq!(series.lanes, [Lane { kind: "kill".into(), bars: vec![bar] }]);
    }

    #[test]
    fn a_long_run_is_drawn_in_wider_stretches() {
        let at = 3_600 * SECOND;
        let records = [What::Invoke { op: OpId(1), due: at, request: Request::default() }, What::End { op: OpId(1), end: End::Succeeded }]
            .map(|what| Arc::new(Record { at, what }));
        let facts = Facts::default();
        let series = Series::of(&Case::new(&records, &facts));
        assert!(series.answers.len() as u64 <= POINTS + 1, "{}", series.answers.len());
        assert!(series.length() >= 3_600.0);
    }
}
