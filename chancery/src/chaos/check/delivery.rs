//! C4: the table, the stream and what consumers made of it hold the same events, in the same order per tenant (and so per aggregate).

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};

const MISSING: &str = "an event of the table is not in the stream";
const PHANTOM: &str = "the stream has an event that the table lacks";
const TWICE: &str = "the stream has an event twice";
const UNREADABLE: &str = "the stream has a message that is no event";
const ANOTHER: &str = "the stream has another event under an id than the table";
const ORDER: &str = "the stream has a tenant's events in another order";
const UNSEEN: &str = "a consumer did not take effect of an event";
const AGAIN: &str = "a consumer took effect of an event twice";
const STRANGE: &str = "a consumer took effect of an event that the table lacks";
const FOLLOWED: &str = "a follower was sent events with a gap, twice, or in another order";
const FOLLOWED_PHANTOM: &str = "a follower was sent an event that the table lacks, or has elsewhere";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C4");
    stream(case, &mut findings);
    consumers(case, &mut findings);
    followers(case, &mut findings);
    findings.done()
}

fn stream(case: &Case<'_>, findings: &mut Findings) {
    let mut seen: HashSet<Uuid> = HashSet::new();
    let mut last: HashMap<Uuid, (i64, Uuid)> = HashMap::new();
    for message in case.facts.stream.iter().filter(|message| !case.is_injected(message.stream_sequence)) {
        let at = message.stream_sequence;
        let Some(id) = message.id else {
            findings.add(Breach::Disorder, UNREADABLE, || format!("message {at}"));
            continue;
        };
        if !seen.insert(id) {
            findings.add(Breach::Duplicate, TWICE, || format!("evt_{id}, again at {at}"));
            continue;
        }
        match case.events.get(&id).and_then(|rows| rows.first()) {
            None => findings.add(Breach::Lost, PHANTOM, || format!("evt_{id} at {at}")),
            Some(row) => {
                let same = (row.tenant, row.sequence, row.aggregate, row.version, row.body)
                    == (message.tenant, message.sequence, message.aggregate, message.version, message.body);
                if !same {
                    findings.add(Breach::Disorder, ANOTHER, || format!("evt_{id} at {at}"));
                }
            }
        }
        // What was repaired comes late and says so.
        if message.late {
            continue;
        }
        let before = last.insert(message.tenant, (message.sequence, id));
        if let Some((sequence, other)) = before.filter(|(sequence, _)| *sequence >= message.sequence) {
            findings.add(Breach::Disorder, ORDER, || {
                format!("tenant_{}: evt_{id} ({}) at {at} comes after evt_{other} ({sequence})", message.tenant, message.sequence)
            });
        }
    }
    for event in case.facts.events.iter().filter(|event| !seen.contains(&event.id)) {
        findings.add(Breach::Lost, MISSING, || format!("evt_{} ({}, {} of tenant_{})", event.id, event.event_type, event.sequence, event.tenant));
    }
}

/// What can be listed: who takes everything and keeps a row or a line an event.
fn consumers(case: &Case<'_>, findings: &mut Findings) {
    for consumer in &case.facts.consumers {
        let Some(effects) = &consumer.effects else { continue };
        for event in case.facts.events.iter().filter(|event| !effects.contains_key(&event.id)) {
            findings.add(Breach::Lost, UNSEEN, || format!("{}: evt_{} ({})", consumer.name, event.id, event.event_type));
        }
        for (id, count) in effects {
            if !case.events.contains_key(id) {
                findings.add(Breach::Duplicate, STRANGE, || format!("{}: evt_{id}", consumer.name));
            } else if *count > 1 && !consumer.repeats {
                findings.add(Breach::Duplicate, AGAIN, || format!("{}: evt_{id}, {count} times", consumer.name));
            }
        }
    }
}

fn followers(case: &Case<'_>, findings: &mut Findings) {
    let mut last: BTreeMap<(usize, Uuid), u64> = BTreeMap::new();
    for seen in &case.seen {
        let whose = || format!("follower {} of tenant_{}", seen.follower, seen.tenant);
        if let Some(before) = last.insert((seen.follower, seen.tenant), seen.sequence)
            && seen.sequence != before + 1
        {
            let breach = if seen.sequence > before { Breach::Lost } else { Breach::Disorder };
            findings.add(breach, FOLLOWED, || format!("{}: {} after {before}", whose(), seen.sequence));
        }
        let row = case.events.get(&seen.id).and_then(|rows| rows.first());
        if row.is_none_or(|row| (row.tenant, row.sequence.unsigned_abs()) != (seen.tenant, seen.sequence)) {
            findings.add(Breach::Lost, FOLLOWED_PHANTOM, || format!("{}: evt_{} as {}", whose(), seen.id, seen.sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chaos::{
        check::kit::{self, Run},
        history::{Injection, What},
    };

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<(Breach, String)> {
        let mut run = kit::good();
        spoil(&mut run);
        check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| (finding.breach, finding.what)).collect()
    }

    fn only(breach: Breach, what: &str) -> Vec<(Breach, String)> {
        vec![(breach, what.to_owned())]
    }

    #[test]
    fn a_good_run_is_the_same_everywhere() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn a_message_that_was_removed_is_missing_wherever_it_was() {
        for place in [0, 3] {
            assert_eq!(found(|run| drop(run.facts.stream.remove(place))), only(Breach::Lost, MISSING));
        }
        assert_eq!(found(|run| drop(run.facts.stream.pop())), only(Breach::Lost, MISSING));
    }

    #[test]
    fn an_event_published_though_its_transaction_never_was_is_a_phantom() {
        let mut removed = kit::good();
        let event = removed.facts.events.pop().unwrap();
        removed.facts.consumers[0].effects.as_mut().unwrap().remove(&event.id);
        removed.records.retain(|record| !matches!(&record.what, What::Seen { seen } if seen.id == event.id));
        let found: Vec<_> = check(&Case::new(&removed.records, &removed.facts)).into_iter().map(|one| (one.breach, one.what)).collect();
        assert_eq!(found, only(Breach::Lost, PHANTOM));
    }

    #[test]
    fn a_message_that_is_there_again_is_named_unless_a_fault_put_it_there() {
        let again = |run: &mut Run| {
            let mut copy = run.facts.stream[2].clone();
            copy.stream_sequence = 1_000;
            run.facts.stream.push(copy);
        };
        assert_eq!(found(again), only(Breach::Duplicate, TWICE));
        let injected = |run: &mut Run| {
            again(run);
            let injection = Injection { stream: "EVENTS".into(), sequence: 1_000, poison: false, detail: String::new() };
            run.add(What::Injected { injection });
        };
        assert_eq!(found(injected), []);
        let says_so = |run: &mut Run| {
            again(run);
            run.facts.injected.push(Injection { stream: "EVENTS".into(), sequence: 1_000, poison: false, detail: String::new() });
        };
        assert_eq!(found(says_so), []);
    }

    #[test]
    fn two_messages_of_a_tenant_that_changed_places_are_named_and_of_two_tenants_are_not() {
        let swap = |run: &mut Run, one: usize, other: usize| run.facts.stream.swap(one, other);
        let of_tenant = |run: &Run, number: u128| -> Vec<usize> {
            (0..run.facts.stream.len()).filter(|place| run.facts.stream[*place].tenant == kit::tenant(number)).collect()
        };
        let same = |run: &mut Run| {
            let places = of_tenant(run, 1);
            swap(run, places[1], places[2]);
        };
        assert_eq!(found(same), only(Breach::Disorder, ORDER));
        assert_eq!(found(|run| swap(run, 0, 1)), []);
    }

    #[test]
    fn two_messages_at_one_place_of_a_tenants_history_are_out_of_order() {
        let forked = |run: &mut Run| {
            let mut other = run.facts.stream.last().unwrap().clone();
            (other.id, other.stream_sequence) = (Some(Uuid::from_u128(0xbad)), 1_000);
            run.facts.stream.push(other);
        };
        assert!(found(forked).contains(&(Breach::Disorder, ORDER.to_owned())));
    }

    #[test]
    fn what_comes_late_and_says_so_is_no_disorder() {
        let late = |run: &mut Run| {
            let place = run.facts.stream.iter().position(|message| message.tenant == kit::tenant(1) && message.sequence == 2).unwrap();
            let mut message = run.facts.stream.remove(place);
            message.late = true;
            run.facts.stream.push(message);
        };
        assert_eq!(found(late), []);
    }

    #[test]
    fn another_body_under_an_id_is_named() {
        assert_eq!(found(|run| run.facts.stream[0].body += 1), only(Breach::Disorder, ANOTHER));
        assert_eq!(found(|run| run.facts.stream[0].id = None).len(), 2);
    }

    #[test]
    fn a_consumer_that_missed_repeated_or_invented_an_event_is_named() {
        let effects = |run: &mut Run, change: &dyn Fn(&mut BTreeMap<Uuid, u32>)| change(run.facts.consumers[0].effects.as_mut().unwrap());
        assert_eq!(found(|run| effects(run, &|effects| _ = effects.pop_first())), only(Breach::Lost, UNSEEN));
        let twice = |effects: &mut BTreeMap<Uuid, u32>| *effects.first_entry().unwrap().get_mut() = 2;
        assert_eq!(found(|run| effects(run, &twice)), only(Breach::Duplicate, AGAIN));
        let invented = |effects: &mut BTreeMap<Uuid, u32>| _ = effects.insert(Uuid::from_u128(0xbad), 1);
        assert_eq!(found(|run| effects(run, &invented)), only(Breach::Duplicate, STRANGE));
        let log = |run: &mut Run| {
            effects(run, &twice);
            run.facts.consumers[0].repeats = true;
        };
        assert_eq!(found(log), []);
    }

    #[test]
    fn a_follower_that_was_sent_a_gap_a_repeat_or_a_phantom_is_named() {
        let seen = |run: &Run| -> Vec<usize> {
            (0..run.records.len()).filter(|place| matches!(&run.records[*place].what, What::Seen { seen } if seen.follower == 1)).collect()
        };
        let gap = |run: &mut Run| drop(run.records.remove(seen(run)[2]));
        assert_eq!(found(gap), only(Breach::Lost, FOLLOWED));
        let repeat = |run: &mut Run| {
            let place = seen(run)[2];
            run.records.insert(place, run.records[place].clone());
        };
        assert_eq!(found(repeat), only(Breach::Disorder, FOLLOWED));
        let phantom = |run: &mut Run| {
            let place = seen(run)[2];
            if let What::Seen { seen } = &mut Arc::make_mut(&mut run.records[place]).what {
                seen.id = Uuid::from_u128(0xbad);
            }
        };
        assert_eq!(found(phantom), only(Breach::Lost, FOLLOWED_PHANTOM));
    }
}
