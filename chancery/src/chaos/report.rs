//! What is left of a run: a folder with the verdict for programs and for people, the picture, and what it was judged by.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    chart::{
        self,
        series::{known, quantile},
    },
    check::{Case, Verdict},
    facts::Facts,
    history::{End, Record},
};

/// The record of everything that happened, a JSON object a line; see [`History::to_file`](super::history::History::to_file).
pub const HISTORY: &str = "history.jsonl";
/// The verdict for programs: [`json`].
pub const VERDICT: &str = "verdict.json";
/// The verdict for people: [`text`].
pub const REPORT: &str = "report.txt";
/// The picture.
pub const CHART: &str = "chart.svg";
/// What was counted in tables, streams and consumers.
pub const FACTS: &str = "facts.json";

/// The verdict as `--json` prints it: the seven numbers, and what stands behind them.
pub fn json(verdict: &Verdict) -> Value {
    let recovery: BTreeMap<&String, Value> = (verdict.recovery.iter())
        .filter_map(|(kind, times)| Some((kind, times, spread(times)?)))
        .map(|(kind, times, (least, median, most))| (kind, json!({ "faults": times.len(), "minMs": least, "medianMs": median, "maxMs": most })))
        .collect();
    json!({
        "faults": verdict.faults, "accepted": verdict.accepted, "lost": verdict.lost, "duplicate_effects": verdict.duplicate_effects,
        "disorder": verdict.disorder, "unhealed": verdict.unhealed, "seed": verdict.seed, "recovered": verdict.recovered, "shed": verdict.shed,
        "acquitted": verdict.acquits(), "recovery": recovery, "findings": verdict.findings,
    })
}

/// Writes everything but the history, which is written while it happens, into a folder that is there. `about` says how the run was started.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, records: &[Arc<Record>], facts: &Facts, verdict: &Verdict, about: &str) -> anyhow::Result<()> {
    let case = Case::new(records, facts);
    let file = |name: &str, content: String| fs::write(folder.join(name), content).with_context(|| format!("writing {name}"));
    file(VERDICT, format!("{:#}\n", json(verdict)))?;
    file(REPORT, text(&case, verdict, about))?;
    file(FACTS, format!("{:#}\n", counts(facts)))?;
    file(CHART, chart::svg(&case, &format!("{about}, seed {}\n{}", verdict.seed, sentence(verdict))))
}

/// The verdict in a line.
pub fn sentence(verdict: &Verdict) -> String {
    let Verdict { faults, accepted, lost, duplicate_effects, disorder, unhealed, .. } = verdict;
    let end = if verdict.acquits() { "acquitted".to_owned() } else { format!("CONVICTED by {}", verdict.convicted_by().join(", ")) };
    let end = if verdict.findings.is_empty() && *unhealed > 0 { "NOT HEALED".to_owned() } else { end };
    format!(
        "{faults} faults, {accepted} accepted: {lost} lost, {duplicate_effects} duplicate effects, {disorder} disorder, {unhealed} unhealed: {end}"
    )
}

/// The report for people.
pub fn text(case: &Case<'_>, verdict: &Verdict, about: &str) -> String {
    let mut out = format!("{about} · seed {}\n{}\n", verdict.seed, sentence(verdict));
    findings(&mut out, case, verdict);
    faults(&mut out, case, verdict);
    wishes(&mut out, case);
    latencies(&mut out, case);
    let _ = writeln!(
        out,
        "\n{} commands took effect whose client never learnt it, {} arrivals were shed; quiet {:.1} s after the load\n\nwhat was compared",
        verdict.recovered,
        verdict.shed,
        case.facts.quiet_ms as f64 / 1_000.0
    );
    for (name, value) in counts(case.facts).as_object().into_iter().flatten() {
        let _ = writeln!(out, "  {name:<22} {value}");
    }
    out
}

fn findings(out: &mut String, case: &Case<'_>, verdict: &Verdict) {
    for finding in &verdict.findings {
        let _ = writeln!(out, "\n{} {:?}: {} ({} times)", finding.checker, finding.breach, finding.what, finding.count);
        for evidence in &finding.evidence {
            let _ = writeln!(out, "    {evidence}");
        }
        let more = finding.count.saturating_sub(finding.evidence.len() as u64);
        if more > 0 {
            let _ = writeln!(out, "    and {more} more");
        }
    }
    for unquiet in &case.facts.unquiet {
        let _ = writeln!(out, "\nin the end still: {unquiet}");
    }
}

/// The least, the middle and the greatest.
fn spread(sorted: &[u64]) -> Option<(u64, u64, u64)> {
    Some((*sorted.first()?, sorted[sorted.len() / 2], *sorted.last()?))
}

fn faults(out: &mut String, case: &Case<'_>, verdict: &Verdict) {
    if case.faults.is_empty() {
        return;
    }
    let mut kinds: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for fault in case.faults.values() {
        let (count, unhealed) = kinds.entry(fault.span.kind).or_default();
        *count += 1;
        if fault.healed.is_none() {
            unhealed.push(format!("fault {} on {}: {}", fault.span.index, fault.span.target, fault.unhealed.unwrap_or("its end was never recorded")));
        }
    }
    let _ = writeln!(out, "\n{:<28}{:>7}{:>12}{:>12}{:>12}{:>10}", "time to recover, in s", "faults", "min", "median", "max", "unhealed");
    for (kind, (count, unhealed)) in kinds {
        let times = verdict.recovery.get(kind).map_or(&[][..], Vec::as_slice);
        let cells = match spread(times) {
            None => format!("{:>12}{:>12}{:>12}", "–", "–", "–"),
            Some(times) => {
                let seconds = |ms: u64| ms as f64 / 1_000.0;
                format!("{:>12.1}{:>12.1}{:>12.1}", seconds(times.0), seconds(times.1), seconds(times.2))
            }
        };
        let _ = writeln!(out, "{kind:<28}{count:>7}{cells}{:>10}", unhealed.len());
        for unhealed in unhealed {
            let _ = writeln!(out, "    {unhealed}");
        }
    }
}

/// How wishes ended, by kind.
fn wishes(out: &mut String, case: &Case<'_>) {
    let mut kinds: BTreeMap<&str, [u64; 6]> = BTreeMap::new();
    for op in case.ops.values() {
        let place = match op.end.map(|(_, end)| end) {
            Some(End::Succeeded | End::Read) => 1,
            Some(End::Refused { .. }) => 2,
            Some(End::Failed { .. }) => 3,
            Some(End::Unknown) | None => 4,
        };
        let counts = kinds.entry(op.request.kind).or_default();
        counts[0] += 1;
        counts[place] += 1;
        counts[5] += op.answers.len().saturating_sub(1) as u64;
    }
    let _ = writeln!(out, "\n{:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>12}", "wishes", "all", "done", "refused", "failed", "unknown", "more tries");
    let mut all = [0; 6];
    for (kind, counts) in &kinds {
        row(out, kind, counts);
        all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    row(out, "together", &all);
}

fn row(out: &mut String, name: &str, counts: &[u64; 6]) {
    let [all, done, refused, failed, unknown, more] = counts;
    let _ = writeln!(out, "{name:<28}{all:>9}{done:>9}{refused:>9}{failed:>9}{unknown:>9}{more:>12}");
}

/// How long it took from when a wish was due, by part of the run.
fn latencies(out: &mut String, case: &Case<'_>) {
    let _ = writeln!(out, "\n{:<28}{:>9}{:>12}{:>12}{:>12}", "latency, in ms", "wishes", "p50", "p99", "max");
    let begins = case.phases.iter().map(|(at, name)| (*at, *name));
    let ends = case.phases.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
    let parts: Vec<(&str, u64, u64)> =
        begins.zip(ends).map(|((begin, name), end)| (name, begin, end)).chain([("the whole run", 0, u64::MAX)]).collect();
    for (name, begin, end) in parts {
        let mut times: Vec<u64> =
            case.ops.values().filter_map(known).filter(|(at, _)| (begin..end).contains(at)).map(|(_, latency)| latency).collect();
        times.sort_unstable();
        if let (Some(median), Some(slow), Some(slowest)) = (quantile(&times, 0.5), quantile(&times, 0.99), quantile(&times, 1.0)) {
            let _ = writeln!(out, "{name:<28}{:>9}{median:>12.1}{slow:>12.1}{slowest:>12.1}", times.len());
        }
    }
}

/// How much of everything was compared: nothing must be acquitted because nothing was there.
fn counts(facts: &Facts) -> Value {
    json!({
        "events": facts.events.len(), "commands": facts.commands.len(), "aggregates": facts.aggregates.len(), "stream messages": facts.stream.len(),
        "audit rows": facts.audit.len(), "dead letters": facts.dead_letters.len(),
        "consumers": facts.consumers.iter().map(|one| format!("{} {}/{}", one.name, one.position, one.last)).collect::<Vec<_>>(),
        "replicas": facts.replicas.iter().map(|one| format!("{} on {}: {} ({} deleted)", one.stream, one.node, one.messages, one.deleted)).collect::<Vec<_>>(),
        "mails": facts.mails.as_ref().map(|mails| json!({ "sent": mails.sent, "sent again": mails.again, "pending": mails.pending })),
        "looks at processes": facts.resources.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::{self, kit},
        history::{FaultSpan, What},
    };

    #[test]
    fn the_json_has_the_seven_numbers_and_what_stands_behind_them() {
        let run = kit::good();
        let verdict = check::verdict(&run.records, &run.facts, 7, false);
        let json = json(&verdict);
        let numbers = ["faults", "accepted", "lost", "duplicate_effects", "disorder", "unhealed", "seed"].map(|name| json[name].as_u64());
        assert_eq!(numbers, [Some(1), Some(verdict.accepted), Some(0), Some(0), Some(0), Some(0), Some(7)]);
        assert_eq!(json["recovery"]["kill"], json!({ "faults": 1, "minMs": 1500, "medianMs": 1500, "maxMs": 1500 }));
        assert_eq!(json["acquitted"], true);
    }

    #[test]
    fn the_text_says_what_was_found_with_its_evidence_and_from_what_it_did_not_recover() {
        let mut run = kit::good();
        let event = run.facts.stream.pop().unwrap();
        run.add(What::Fault { span: FaultSpan { index: 1, kind: "freeze", target: "audit".into(), detail: String::new() } });
        run.add(What::Unhealed { fault: 1, why: "audit is 3 behind".into() });
        let verdict = check::verdict(&run.records, &run.facts, 7, false);
        let text = text(&Case::new(&run.records, &run.facts), &verdict, "chancery chaos");
        let id = event.id.unwrap().to_string();
        for part in
            ["CONVICTED by C4", "C4 Lost: an event of the table is not in the stream", id.as_str(), "fault 1 on audit: audit is 3 behind", "kill  "]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_run_leaves_a_folder_of_files() {
        let folder = std::env::temp_dir().join(format!("chancery-report-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        let run = kit::good();
        let verdict = check::verdict(&run.records, &run.facts, 7, false);
        write(&folder, &run.records, &run.facts, &verdict, "chancery chaos").unwrap();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text(VERDICT)).unwrap()["faults"], 1);
        assert_eq!(serde_json::from_str::<Value>(&text(FACTS)).unwrap()["events"], run.facts.events.len());
        assert!(text(CHART).starts_with("<svg") && text(REPORT).contains("acquitted"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
