//! The verdict, and one file a checker: pure functions over the history and the facts.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{facts::Facts, history::Record};

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `C1` …
    pub checker: &'static str,
    /// What kind of trouble it is, which decides where it is counted.
    pub breach: Breach,
    /// What is wrong, in a sentence.
    pub what: String,
    /// Ids, records and places that show it.
    pub evidence: Vec<String>,
}

/// The promise that a finding breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// Something acknowledged or recorded is not where it must be.
    Lost,
    /// Something took effect more than once.
    Duplicate,
    /// Something is in another order than it must be.
    Disorder,
    /// An answer was not true.
    Answer,
    /// One tenant saw something of another.
    Leak,
    /// It did not get well, or grows without end.
    Health,
}

/// What the checkers say of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Faults that began.
    pub faults: usize,
    /// Commands whose acceptance the clients know of.
    pub accepted: u64,
    /// Findings of [`Breach::Lost`], item by item.
    pub lost: u64,
    /// Of [`Breach::Duplicate`].
    pub duplicate_effects: u64,
    /// Of [`Breach::Disorder`].
    pub disorder: u64,
    /// Faults from which it did not recover, and what was not quiet in the end.
    pub unhealed: u64,
    /// The seed that repeats the run.
    pub seed: u64,
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
}

/// Asks every checker. Until there are checkers it convicts, so that nobody takes silence for a verdict.
pub fn verdict(_records: &[Arc<Record>], _facts: &Facts, seed: u64) -> Verdict {
    let findings = vec![Finding { checker: "C0", breach: Breach::Health, what: "the checkers are not written yet".into(), evidence: Vec::new() }];
    Verdict { seed, findings, ..Verdict::default() }
}
