//! How long it took to recover from each kind of fault.

use std::collections::BTreeMap;

use super::case::Case;

/// Milliseconds from begin to recovery by kind, and how many faults have none.
pub(super) fn recovery(case: &Case<'_>) -> (BTreeMap<String, Vec<u64>>, u64) {
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut unhealed = 0;
    for fault in case.faults.values() {
        match fault.healed {
            Some(healed) => times.entry(fault.span.kind.to_owned()).or_default().push(healed.saturating_sub(fault.begun) / 1_000),
            None => unhealed += 1,
        }
    }
    times.values_mut().for_each(|times| times.sort_unstable());
    (times, unhealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit,
        history::{FaultSpan, What},
    };

    #[test]
    fn a_fault_counts_from_its_begin_and_one_without_end_is_unhealed() {
        let mut run = kit::good();
        let span = |index| FaultSpan { index, kind: "freeze", target: "audit".into(), detail: String::new() };
        run.add(What::Fault { span: span(1) });
        run.add(What::Lifted { fault: 1 });
        run.add(What::Healed { fault: 1 });
        run.add(What::Fault { span: span(2) });
        run.add(What::Unhealed { fault: 2, why: "audit is 3 behind".into() });
        let (times, unhealed) = recovery(&Case::new(&run.records, &run.facts));
        assert_eq!((times["freeze"].as_slice(), unhealed), ([2].as_slice(), 1));
    }
}
