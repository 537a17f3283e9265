//! The verdict, and one file a checker: pure functions over the history and the facts.
//!
//! | checker | what must hold |
//! |---|---|
//! | C1 [`effects`] | what was acknowledged has its effect, and nothing has an effect that nobody asked for |
//! | C2 [`keys`] | a key has at most one effect and one answer, and none for another body |
//! | C3 [`order`], [`registers`] | histories are dense, versions count what changed; every register is linearizable |
//! | C4 [`delivery`] | table, stream and what each consumer made of them are the same, in the same order |
//! | C5 [`consumers`] | every consumer reaches the end; dead letters are what was injected |
//! | C6 [`audit`] | the audit has each event once, in an unbroken chain |
//! | C7 [`mails`] | what is to be told by mail is told, at least once |
//! | C9 [`tenants`] | no tenant's marker turns up in another's place |
//! | C11 [`liveness`] | after the faults it does as much as before, and it does not grow without end |
//! | C12 [`answers`] | no answer is untrue: nothing refused or failed has an effect, nothing is refused without a reason |
//! | C13 [`replicas`] | all nodes hold the same, without holes |

mod answers;
mod audit;
mod case;
mod consumers;
mod delivery;
mod effects;
mod findings;
mod keys;
#[cfg(test)]
pub(super) mod kit;
mod linear;
mod liveness;
mod mails;
mod order;
mod recovery;
mod registers;
pub(super) mod replicas;
mod tenants;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{facts::Facts, history::Record};
pub use case::{Case, Op};
pub use findings::{Breach, Finding};

/// What the checkers say of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Faults that began.
    pub faults: usize,
    /// Commands whose acceptance the clients know of.
    pub accepted: u64,
    /// What should be there and is not: [`Breach::Lost`], item by item.
    pub lost: u64,
    /// What took effect more than once, or that nobody asked for: [`Breach::Duplicate`].
    pub duplicate_effects: u64,
    /// What is in another order than it must be: [`Breach::Disorder`].
    pub disorder: u64,
    /// Faults from which it did not recover, and what was not quiet in the end.
    pub unhealed: u64,
    /// The seed that repeats the run.
    pub seed: u64,
    /// Commands whose client never learnt how they ended, and that took effect.
    pub recovered: u64,
    /// Arrivals that found too much under way.
    pub shed: u64,
    /// Everything found, also what is in none of the counts.
    pub findings: Vec<Finding>,
    /// Milliseconds from a fault's begin until it was recovered from, by kind.
    pub recovery: BTreeMap<String, Vec<u64>>,
}

impl Verdict {
    /// Nothing was found and everything healed.
    pub fn acquits(&self) -> bool {
        self.findings.is_empty() && self.unhealed == 0
    }

    /// The checkers that found something.
    pub fn convicted_by(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> = self.findings.iter().map(|finding| finding.checker).collect();
        all.dedup();
        all
    }
}

/// A checker.
type Checker = fn(&Case<'_>) -> Vec<Finding>;

/// All of them, in the order in which their findings are reported.
const CHECKERS: [Checker; 12] = [
    effects::check,
    keys::check,
    order::check,
    registers::check,
    delivery::check,
    consumers::check,
    audit::check,
    mails::check,
    tenants::check,
    liveness::check,
    answers::check,
    replicas::check,
];

/// Asks every checker. `full` says that the history had no room for everything ([`History::is_full`](super::history::History::is_full)).
pub fn verdict(records: &[Arc<Record>], facts: &Facts, seed: u64, full: bool) -> Verdict {
    let case = Case::new(records, facts);
    let mut findings: Vec<Finding> = CHECKERS.iter().flat_map(|checker| checker(&case)).collect();
    if full {
        let what = "the history had no room for everything that happened: there can be no verdict".to_owned();
        findings.push(Finding { checker: "C0", breach: Breach::Health, what, count: 1, evidence: Vec::new() });
    }
    let count = |breach| findings.iter().filter(|finding| finding.breach == breach).map(|finding| finding.count).sum();
    let (recovery, unhealed) = recovery::recovery(&case);
    Verdict {
        faults: case.faults.len(),
        accepted: case.ops.values().filter(|op| op.accepted()).count() as u64,
        lost: count(Breach::Lost),
        duplicate_effects: count(Breach::Duplicate),
        disorder: count(Breach::Disorder),
        unhealed: unhealed + facts.unquiet.len() as u64,
        seed,
        recovered: effects::recovered(&case),
        shed: case.shed,
        findings,
        recovery,
    }
}

#[cfg(test)]
mod tests {
    use super::{kit, verdict};

    #[test]
    fn a_good_run_is_acquitted_by_every_checker() {
        let run = kit::good();
        let verdict = verdict(&run.records, &run.facts, 7, false);
        assert!(verdict.acquits(), "{:#?}", verdict.findings);
        assert_eq!((verdict.faults, verdict.unhealed, verdict.seed), (1, 0, 7));
        assert!(verdict.accepted > 5);
        assert_eq!(verdict.recovery["kill"], [1_500]);
    }

    #[test]
    fn a_history_without_room_for_everything_gives_no_acquittal() {
        let run = kit::good();
        assert_eq!(verdict(&run.records, &run.facts, 7, true).convicted_by(), ["C0"]);
    }

    #[test]
    fn what_is_not_quiet_in_the_end_is_unhealed() {
        let mut run = kit::good();
        run.facts.unquiet.push("audit is 3 events behind".into());
        let verdict = verdict(&run.records, &run.facts, 7, false);
        assert_eq!(verdict.unhealed, 1);
        assert!(!verdict.acquits());
    }
}
