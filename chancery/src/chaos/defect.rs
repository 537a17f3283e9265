//! The harness must catch liars: each planted defect has a scenario that makes it show, and a checker that must convict it by name. The same
//! scenario on the same program without the defect must acquit. Only in builds with the cargo feature `planted`.

mod base;
mod process;
mod scenario;
mod stand;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use runtime::{Config, planted::Defect};

use super::{
    check::{self, Breach, Verdict},
    collect,
    history::History,
    power::Disk,
};
use base::Base;
use stand::Stand;

/// How long everything may take to come to rest after a scenario. What has not by then never does.
const REST: Duration = Duration::from_secs(20);
/// Findings that are printed of a scenario that went wrong.
const SHOWN: usize = 10;

/// By which checker, and of what.
type Conviction = (&'static str, Breach);

/// How one run of a scenario ended.
#[derive(Debug)]
enum End {
    /// As it should: convicted of these, or acquitted.
    Right(BTreeSet<Conviction>),
    /// Not as it should, with what was found.
    Wrong(Verdict),
    /// The scenario could not be played; nothing is proved.
    Unplayed(anyhow::Error),
    /// It cannot be played on this machine.
    Skipped(String),
}

/// Plays the scenario of one defect, or of all, each with the defect and without. Blocking.
///
/// # Errors
/// There is no such defect, or the servers do not start.
pub(super) fn run(config: &Config, name: &str) -> anyhow::Result<ExitCode> {
    let defects: Vec<Defect> = if name == "all" { Defect::ALL.to_vec() } else { vec![name.parse()?] };
    let mut base = Base::start(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().context("starting the runtime")?;
    println!("| defect | scenario | with it: convicted by | seconds | without it | seconds |\n|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for defect in defects {
        let mut row = format!("| `{}` | {} ", defect.name(), scenario::told(defect));
        for planted in [true, false] {
            let begin = Instant::now();
            let end = runtime.block_on(trial(&mut base, defect, planted));
            let said = match &end {
                End::Right(convictions) if planted => listed(convictions),
                End::Right(_) => "acquitted".into(),
                End::Wrong(_) if planted => "GOT AWAY".into(),
                End::Wrong(_) => "CONVICTED".into(),
                End::Unplayed(error) => format!("NOT PLAYED: {error:#}"),
                End::Skipped(why) => format!("skipped: {why}"),
            };
            row += &format!("| {said} | {:.0} ", begin.elapsed().as_secs_f64());
            if !matches!(end, End::Right(_) | End::Skipped(_)) {
                wrong.push((defect, planted, end));
            }
        }
        println!("{row}|");
    }
    for (defect, planted, end) in &wrong {
        println!("\n{} {} the defect:", defect.name(), if *planted { "with" } else { "without" });
        if let End::Wrong(verdict) = end {
            let first = verdict.findings.iter().take(SHOWN);
            first.for_each(|finding| println!("  {} {}: {}", finding.checker, finding.what, finding.evidence.join("; ")));
            println!("  {} findings, {} unhealed", verdict.findings.len(), verdict.unhealed);
        }
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays a scenario once, with the defect or without, and hears the checkers.
async fn trial(base: &mut Base, defect: Defect, planted: bool) -> End {
    let wanted = scenario::wanted(defect, planted);
    if wanted.disk
        && let Err(why) = Disk::possible()
    {
        return End::Skipped(why);
    }
    let history = History::new();
    let played = async {
        let mut stand = Stand::start(base, wanted, planted.then_some(defect)).await?;
        scenario::play(defect, &mut stand, &history).await?;
        let watch = collect::Watch::start(&stand.reach(), &history);
        collect::collect(&stand.reach(), &history, Some(watch), REST).await
    };
    let facts = match played.await {
        Ok(facts) => facts,
        Err(error) => return End::Unplayed(error),
    };
    let verdict = check::verdict(&history.records(), &facts, 0, history.is_full());
    let convictions: BTreeSet<Conviction> = verdict.findings.iter().map(|finding| (finding.checker, finding.breach)).collect();
    let by_its_judge = convictions.contains(&scenario::judge(defect));
    if planted && by_its_judge || !planted && verdict.acquits() { End::Right(convictions) } else { End::Wrong(verdict) }
}

/// `C4 lost, C6 duplicate`.
fn listed(convictions: &BTreeSet<Conviction>) -> String {
    let one = |(checker, breach): &Conviction| format!("{checker} {}", format!("{breach:?}").to_lowercase());
    convictions.iter().map(one).collect::<Vec<_>>().join(", ")
}
