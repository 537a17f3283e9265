//! C6: the audit has each event exactly once, numbered without gaps for each tenant, in a chain that verifies.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};

const BROKEN: &str = "the audit's chain is broken";
const MISSING: &str = "an event is not in the audit";
const TWICE: &str = "an event is in the audit twice";
const STRANGE: &str = "the audit has an event that the table lacks, or has under another tenant";
const NUMBER: &str = "the audit's numbers have a gap or a repeat";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C6");
    for broken in &case.facts.audit_broken {
        findings.add(Breach::Disorder, BROKEN, || broken.clone());
    }
    let mut counted: HashMap<Uuid, u32> = HashMap::new();
    let mut numbers: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
    for row in &case.facts.audit {
        *counted.entry(row.event).or_default() += 1;
        numbers.entry(row.tenant).or_default().push(row.n);
        let event = case.events.get(&row.event).and_then(|rows| rows.first());
        if event.is_none_or(|event| event.tenant != row.tenant) {
            findings.add(Breach::Duplicate, STRANGE, || format!("row {} of tenant_{}: evt_{}", row.n, row.tenant, row.event));
        }
    }
    for (event, count) in counted.iter().filter(|(_, count)| **count > 1) {
        findings.add(Breach::Duplicate, TWICE, || format!("evt_{event}, {count} times"));
    }
    for event in case.facts.events.iter().filter(|event| !counted.contains_key(&event.id)) {
        findings.add(Breach::Lost, MISSING, || format!("evt_{} ({})", event.id, event.event_type));
    }
    for (tenant, mut numbers) in numbers {
        numbers.sort_unstable();
        if let Some((place, n)) = numbers.iter().enumerate().find(|(place, n)| **n != *place as i64 + 1) {
            findings.add(Breach::Disorder, NUMBER, || format!("tenant_{tenant}: {n} stands at place {}", place + 1));
        }
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::kit::{self, Run};

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<String> {
        kit::found(check, spoil)
    }

    #[test]
    fn a_good_run_is_audited() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn a_row_that_was_removed_is_missing_and_leaves_a_gap_unless_it_was_the_last() {
        assert_eq!(found(|run| _ = run.facts.audit.remove(0)), [MISSING, NUMBER]);
        assert_eq!(found(|run| run.facts.audit.truncate(run.facts.audit.len() - 1)), [MISSING]);
    }

    #[test]
    fn an_event_that_was_audited_twice_is_named() {
        let again = |run: &mut Run| {
            let mut row = run.facts.audit[0].clone();
            row.n = run.facts.audit.iter().filter(|other| other.tenant == row.tenant).count() as i64 + 1;
            run.facts.audit.push(row);
        };
        assert_eq!(found(again), [TWICE]);
    }

    #[test]
    fn a_row_of_nothing_and_one_under_another_tenant_are_named() {
        assert!(found(|run| run.facts.audit[0].event = Uuid::from_u128(0xbad)).contains(&STRANGE.to_owned()));
        assert!(found(|run| run.facts.audit[0].tenant = kit::tenant(2)).contains(&STRANGE.to_owned()));
    }

    #[test]
    fn what_the_audit_itself_finds_broken_is_passed_on() {
        assert_eq!(found(|run| run.facts.audit_broken.push("tenant_1 row 3: it was changed".into())), [BROKEN]);
    }
}
