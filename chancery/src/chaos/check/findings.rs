//! What a checker finds.

use std::collections::BTreeMap;

use serde::Serialize;

/// Items that are shown of each kind of trouble; all are counted.
const SHOWN: usize = 12;

/// Something that should not be, with everything of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `C1` …
    pub checker: &'static str,
    /// What kind of trouble it is, which decides where it is counted.
    pub breach: Breach,
    /// What is wrong, in a sentence.
    pub what: String,
    /// How often.
    pub count: u64,
    /// The first of them: ids, places and records that show it.
    pub evidence: Vec<String>,
}

/// The promise that a finding breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// Something acknowledged or recorded is not where it must be.
    Lost,
    /// Something took effect more than once, or nobody asked for it.
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

/// The findings of one checker while it looks, by kind of trouble.
#[derive(Debug)]
pub(super) struct Findings {
    checker: &'static str,
    kinds: BTreeMap<(Breach, &'static str), (u64, Vec<String>)>,
}

impl Findings {
    pub(super) fn new(checker: &'static str) -> Self {
        Self { checker, kinds: BTreeMap::new() }
    }

    /// One more of this kind. The evidence is written down for the first few alone.
    pub(super) fn add(&mut self, breach: Breach, what: &'static str, evidence: impl FnOnce() -> String) {
        let (count, shown) = self.kinds.entry((breach, what)).or_default();
        *count += 1;
        if shown.len() < SHOWN {
            shown.push(evidence());
        }
    }

    pub(super) fn done(self) -> Vec<Finding> {
        let checker = self.checker;
        let finding = |((breach, what), (count, evidence)): ((_, &str), _)| Finding { checker, breach, what: what.to_owned(), count, evidence };
        self.kinds.into_iter().map(finding).collect()
    }
}
