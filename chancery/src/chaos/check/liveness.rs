//! C11: within 30 s after the last fault it does at least 90 % of what it did before the first, and no process grows without end.

use std::collections::BTreeMap;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};
use crate::chaos::{facts::ResourceRow, history::End};

const SLOW: &str = "after the faults it does less than before";
const DESCRIPTORS: &str = "a process holds more and more file descriptors";
const MEMORY: &str = "a process holds more and more memory";

/// The part of the run before the first fault, and the one after the last.
const BEFORE: &str = "quiet";
/// See [`BEFORE`].
const AFTER: &str = "heal";
const SECOND: u64 = 1_000_000;
/// Left out of the part before: connections are made, caches are filled.
const WARM_UP: u64 = 2 * SECOND;
/// The shortest part before the faults that says anything.
const SHORTEST: u64 = 8 * SECOND;
/// What is compared with it: the best stretch of this length …
const STRETCH: u64 = 5 * SECOND;
/// … that ends within this time after the last fault.
const LIMIT: u64 = 30 * SECOND;
/// What part of the rate before must be reached.
const SHARE: f64 = 0.9;
/// A process is judged when it was watched for so long,
const LIFE: u64 = 180 * SECOND;
/// and so often.
const SAMPLES: usize = 9;
/// File descriptors that a process may hold more in its last third than in its first: pools fill, followers come.
const MORE_DESCRIPTORS: u64 = 64;
/// The same of resident memory, in KiB: caches have limits, and reach them.
const MORE_MEMORY: u64 = 256 * 1024;

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C11");
    if let (Some(before), Some((after, best))) = (before(case), after(case))
        && best < SHARE * before
    {
        findings.add(Breach::Health, SLOW, || {
            format!("{before:.1} answers a second before, {best:.1} at best in {} s after {} s", LIMIT / SECOND, after / SECOND)
        });
    }
    let mut processes: BTreeMap<(&str, u32), Vec<&ResourceRow>> = BTreeMap::new();
    for row in &case.facts.resources {
        processes.entry((&row.part, row.pid)).or_default().push(row);
    }
    for ((part, pid), rows) in processes {
        for (what, grown) in
            [(DESCRIPTORS, grows(&rows, |row| row.descriptors, MORE_DESCRIPTORS)), (MEMORY, grows(&rows, |row| row.memory_kib, MORE_MEMORY))]
        {
            if let Some((from, to)) = grown {
                findings.add(Breach::Health, what, || format!("{part} (process {pid}): {from}, then {to}"));
            }
        }
    }
    findings.done()
}

/// Begin and end of a part of the run.
fn part(case: &Case<'_>, name: &str) -> Option<(u64, u64)> {
    let place = case.phases.iter().position(|(_, phase)| *phase == name)?;
    let last = || case.ops.values().filter_map(|op| op.end.map(|(at, _)| at)).max();
    let end = case.phases.get(place + 1).map(|(at, _)| *at).or_else(last)?;
    Some((case.phases[place].0, end))
}

/// Wishes that came to a known end within a time, per second.
fn rate(case: &Case<'_>, from: u64, to: u64) -> f64 {
    let within = |at: u64| (from..to).contains(&at);
    let count = case.ops.values().filter(|op| matches!(op.end, Some((at, end)) if within(at) && *end != End::Unknown)).count();
    count as f64 / ((to - from).max(1) as f64 / SECOND as f64)
}

fn before(case: &Case<'_>) -> Option<f64> {
    let (begin, end) = part(case, BEFORE)?;
    (end.saturating_sub(begin + WARM_UP) >= SHORTEST).then(|| rate(case, begin + WARM_UP, end))
}

/// When the faults ended, and the best rate after it.
fn after(case: &Case<'_>) -> Option<(u64, f64)> {
    let (begin, end) = part(case, AFTER)?;
    let end = end.min(begin + LIMIT);
    let stretches = (begin..=end.checked_sub(STRETCH)?).step_by(SECOND as usize);
    stretches.map(|from| rate(case, from, from + STRETCH)).max_by(f64::total_cmp).map(|best| (begin, best))
}

/// The medians of the first and the last third, when the last is so much more and every third is more than the one before, and when it is
/// still held at the last look, when no client waits any more: patient clients of a cluster that is frozen again and again hold connections.
fn grows(rows: &[&ResourceRow], value: impl Fn(&ResourceRow) -> u64, more: u64) -> Option<(u64, u64)> {
    let life = rows.last()?.at - rows.first()?.at;
    if life < LIFE || rows.len() < SAMPLES {
        return None;
    }
    let third = rows.len() / 3;
    let median = |part: &[&ResourceRow]| {
        let mut values: Vec<u64> = part.iter().map(|row| value(row)).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (first, middle, last) = (median(&rows[..third]), median(&rows[third..2 * third]), median(&rows[2 * third..]));
    let kept = value(rows.last()?) > first + more;
    (first < middle && middle < last && last > first + more && kept).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chaos::{
        facts::Facts,
        history::{OpId, Record, Request, What},
    };

    fn record(at: u64, what: What) -> Arc<Record> {
        Arc::new(Record { at: at * SECOND / 10, what })
    }

    /// Ten answers a second for twelve seconds, faults for ten, and so many a second for twenty after them. Times in tenths of a second.
    fn run(after: u64) -> Vec<Arc<Record>> {
        let phase = |name: &str| What::Phase { name: name.into() };
        let mut records = vec![record(0, phase("quiet")), record(120, phase("chaos")), record(220, phase("heal")), record(420, phase("drain"))];
        let mut op = 0;
        let mut end = |at: u64| {
            op += 1;
            records.push(record(at, What::Invoke { op: OpId(op), due: at * SECOND / 10, request: Request::default() }));
            records.push(record(at, What::End { op: OpId(op), end: End::Succeeded }));
        };
        (0..120).for_each(&mut end);
        (220..420).filter(|at| at % 10 < after).for_each(&mut end);
        records
    }

    fn found(records: &[Arc<Record>], facts: &Facts) -> Vec<String> {
        check(&Case::new(records, facts)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn less_than_nine_tenths_of_the_rate_before_the_faults_is_named() {
        assert_eq!(found(&run(10), &Facts::default()), Vec::<String>::new());
        assert_eq!(found(&run(9), &Facts::default()), Vec::<String>::new());
        assert_eq!(found(&run(8), &Facts::default()), [SLOW]);
        assert_eq!(found(&run(0), &Facts::default()), [SLOW]);
    }

    #[test]
    fn a_run_without_a_quiet_part_is_not_compared() {
        let records: Vec<_> = run(0).into_iter().filter(|record| !matches!(&record.what, What::Phase { name } if name == "quiet")).collect();
        assert_eq!(found(&records, &Facts::default()), Vec::<String>::new());
    }

    /// A process that is watched every ten seconds.
    fn watched(descriptors: impl Fn(u64) -> u64, memory: impl Fn(u64) -> u64, pid: impl Fn(u64) -> u32) -> Facts {
        let row = |number: u64| ResourceRow {
            part: "worker-1".into(),
            at: number * 10 * SECOND,
            pid: pid(number),
            descriptors: descriptors(number),
            memory_kib: memory(number),
        };
        Facts { resources: (0..30).map(row).collect(), ..Facts::default() }
    }

    #[test]
    fn what_grows_without_end_is_named_and_what_settles_is_not() {
        assert_eq!(found(&[], &watched(|number| 20 + number * 10, |_| 50_000, |_| 1)), [DESCRIPTORS]);
        assert_eq!(found(&[], &watched(|_| 20, |number| 50_000 + number * 40_000, |_| 1)), [MEMORY]);
        assert_eq!(found(&[], &watched(|number| 20 + number.min(5) * 50, |number| 50_000 + number.min(5) * 90_000, |_| 1)), Vec::<String>::new());
    }

    #[test]
    fn what_grew_once_and_stays_is_not_named() {
        let once = |number: u64| if number < 12 { 50_000 } else { 900_000 };
        assert_eq!(found(&[], &watched(|_| 20, once, |_| 1)), Vec::<String>::new());
    }

    #[test]
    fn what_is_let_go_when_nobody_waits_any_more_is_not_named() {
        let at_last = |number: u64| if number == 29 { 20 } else { 20 + number * 10 };
        assert_eq!(found(&[], &watched(at_last, |_| 50_000, |_| 1)), Vec::<String>::new());
    }

    #[test]
    fn lives_of_a_process_that_was_started_again_are_not_compared() {
        assert_eq!(found(&[], &watched(|number| 20 + number * 10, |_| 50_000, |number| number as u32 / 10)), Vec::<String>::new());
    }
}
