//! C3, first half: a tenant's history and a partition are dense, a version counts the events that changed its aggregate, and one owner
//! at a time wrote them.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};
use crate::chaos::facts::EventRow;

const GAP: &str = "a history has a gap";
const TWICE: &str = "a place in a history is taken twice";
const SAME_ID: &str = "an event is in the table twice";
const VERSION: &str = "a version does not follow the one before it";
const STATE: &str = "an aggregate's version is not that of its last event";
const STATELESS: &str = "an aggregate has events and no state";
const VALUE: &str = "an aggregate's state is not what its last event says";
const EVENTLESS: &str = "an aggregate has a state and no event";
const WRITERS: &str = "a tenant's events are in two partitions, or in another order in its partition";

/// The topic of attempts, which leave a trace and no change.
const ATTEMPTS: &str = "role.";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C3");
    let mut tenants: BTreeMap<Uuid, Vec<&EventRow>> = BTreeMap::new();
    let mut partitions: BTreeMap<i16, Vec<&EventRow>> = BTreeMap::new();
    for event in &case.facts.events {
        tenants.entry(event.tenant).or_default().push(event);
        partitions.entry(event.partition).or_default().push(event);
    }
    for (id, rows) in case.events.iter().filter(|(_, rows)| rows.len() > 1) {
        findings.add(Breach::Duplicate, SAME_ID, || format!("evt_{id}, {} times", rows.len()));
    }
    for (partition, rows) in &mut partitions {
        rows.sort_by_key(|event| event.partition_sequence);
        dense(&format!("partition {partition}"), rows.iter().map(|event| (event.partition_sequence, event.id)), &mut findings);
    }
    let mut versions: HashMap<(Uuid, &str, Uuid), i64> = HashMap::new();
    for (tenant, rows) in &mut tenants {
        rows.sort_by_key(|event| event.sequence);
        dense(&format!("tenant_{tenant}"), rows.iter().map(|event| (event.sequence, event.id)), &mut findings);
        for pair in rows.windows(2) {
            if pair[0].partition != pair[1].partition || pair[0].partition_sequence >= pair[1].partition_sequence {
                findings.add(Breach::Disorder, WRITERS, || format!("tenant_{tenant}: evt_{} before evt_{}", pair[0].id, pair[1].id));
            }
        }
        for event in rows {
            let last = versions.entry((event.tenant, &event.kind, event.aggregate)).or_default();
            let right = *last + i64::from(!event.event_type.starts_with(ATTEMPTS));
            if event.version != right {
                findings.add(breach(event.version, right), VERSION, || {
                    format!(
                        "evt_{} ({}) makes {}_{} version {}, {right} is right",
                        event.id, event.event_type, event.kind, event.aggregate, event.version
                    )
                });
            }
            *last = event.version;
        }
    }
    states(case, &mut versions, &mut findings);
    values(case, &tenants, &mut findings);
    findings.done()
}

/// A number that was jumped over is a loss, one that is there again a repeat.
fn breach(found: i64, right: i64) -> Breach {
    if found > right { Breach::Lost } else { Breach::Duplicate }
}

fn dense(whose: &str, places: impl Iterator<Item = (i64, Uuid)>, findings: &mut Findings) {
    let mut last = 0;
    for (place, event) in places {
        if place == last {
            findings.add(Breach::Duplicate, TWICE, || format!("{whose}: {place} by evt_{event}"));
        } else if place != last + 1 {
            findings.add(Breach::Lost, GAP, || format!("{whose}: evt_{event} at {place} follows {last}"));
        }
        last = place;
    }
}

/// The field of the state that an event's value goes to.
fn field(event_type: &str) -> Option<&'static str> {
    match event_type {
        "user.profile_updated" => Some("fullName"),
        "tenant.updated" | "team.updated" => Some("name"),
        _ => None,
    }
}

/// Each value that was told last is in the state.
fn values(case: &Case<'_>, tenants: &BTreeMap<Uuid, Vec<&EventRow>>, findings: &mut Findings) {
    let mut last: HashMap<(Uuid, &str, Uuid, &str), &EventRow> = HashMap::new();
    for event in tenants.values().flatten() {
        if let (Some(field), Some(_)) = (field(&event.event_type), &event.value) {
            last.insert((event.tenant, &event.kind, event.aggregate, field), event);
        }
    }
    for row in &case.facts.aggregates {
        for (field, value) in &row.fields {
            let event = last.get(&(row.tenant, row.kind.as_str(), row.id, field.as_str()));
            if let Some(event) = event.filter(|event| event.value.as_ref() != Some(value)) {
                findings.add(Breach::Lost, VALUE, || format!("{}_{}: {field} is {value}, evt_{} says {:?}", row.kind, row.id, event.id, event.value));
            }
        }
    }
}

fn states<'a>(case: &'a Case<'_>, versions: &mut HashMap<(Uuid, &'a str, Uuid), i64>, findings: &mut Findings) {
    // Refused attempts about nobody leave events and no state.
    versions.retain(|_, version| *version > 0);
    let mut stateless: HashSet<_> = versions.keys().copied().collect();
    for row in &case.facts.aggregates {
        let key = (row.tenant, row.kind.as_str(), row.id);
        stateless.remove(&key);
        let name = || format!("{}_{} of tenant_{}", row.kind, row.id, row.tenant);
        match versions.get(&key) {
            None => findings.add(Breach::Lost, EVENTLESS, name),
            Some(version) if *version != row.version => {
                findings.add(Breach::Lost, STATE, || format!("{}: version {}, its events say {version}", name(), row.version));
            }
            Some(_) => {}
        }
    }
    for (tenant, kind, id) in stateless {
        findings.add(Breach::Lost, STATELESS, || format!("{kind}_{id} of tenant_{tenant}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::kit::{self, Run};

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<(Breach, String)> {
        let mut run = kit::good();
        spoil(&mut run);
        check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| (finding.breach, finding.what)).collect()
    }

    /// The place of the second event of the hot user.
    fn middle(run: &Run) -> usize {
        run.facts.events.iter().position(|event| event.version == 2 && event.kind == "user").unwrap()
    }

    fn says(found: &[(Breach, String)], breach: Breach, what: &str) {
        assert!(found.iter().any(|one| *one == (breach, what.to_owned())), "{what} is not among {found:?}");
    }

    #[test]
    fn a_good_run_is_in_order() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn a_row_that_was_removed_leaves_gaps() {
        let found = found(|run| drop(run.facts.events.remove(middle(run))));
        says(&found, Breach::Lost, GAP);
        says(&found, Breach::Lost, VERSION);
    }

    #[test]
    fn a_row_that_was_removed_at_the_end_shows_in_the_state() {
        says(&found(|run| drop(run.facts.events.pop())), Breach::Lost, STATE);
    }

    #[test]
    fn a_row_that_is_there_again_is_named() {
        let found = found(|run| run.facts.events.push(run.facts.events[middle(run)].clone()));
        says(&found, Breach::Duplicate, SAME_ID);
        says(&found, Breach::Duplicate, TWICE);
    }

    #[test]
    fn a_change_applied_twice_shows_in_the_version() {
        says(&found(|run| run.facts.aggregates[0].version += 1), Breach::Lost, STATE);
        let again = |run: &mut Run| {
            let place = middle(run);
            run.facts.events[place].version = 1;
        };
        says(&found(again), Breach::Duplicate, VERSION);
    }

    #[test]
    fn states_without_events_and_events_without_states_are_named() {
        says(&found(|run| drop(run.facts.aggregates.pop())), Breach::Lost, STATELESS);
        let stray = |run: &mut Run| run.facts.aggregates[0].id = Uuid::from_u128(0xdead);
        says(&found(stray), Breach::Lost, EVENTLESS);
    }

    #[test]
    fn a_state_that_is_not_what_its_last_event_says_is_named() {
        let fields = |value: &'static str| {
            move |run: &mut Run| {
                let row = run.facts.aggregates.iter_mut().find(|row| row.id == Uuid::from_u128(0x500)).unwrap();
                row.fields.insert("fullName".into(), value.into());
            }
        };
        assert_eq!(found(fields("cnry0000000001-c")), []);
        assert_eq!(found(fields("cnry0000000001-b")), [(Breach::Lost, VALUE.to_owned())]);
    }

    #[test]
    fn two_writers_of_a_tenant_show() {
        let other_partition = |run: &mut Run| {
            let place = middle(run);
            run.facts.events[place].partition = 40;
        };
        says(&found(other_partition), Breach::Disorder, WRITERS);
        let swapped = |run: &mut Run| {
            let (place, other) = (middle(run), middle(run) + 1);
            let sequence = run.facts.events[place].partition_sequence;
            run.facts.events[place].partition_sequence = run.facts.events[other].partition_sequence;
            run.facts.events[other].partition_sequence = sequence;
        };
        says(&found(swapped), Breach::Disorder, WRITERS);
    }
}
