//! C5: every consumer reaches the end of what it takes, nothing of it is left half done, and the dead letters are those that faults caused
//! on purpose: each, and no other.

use std::collections::HashSet;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};

const BEHIND: &str = "a consumer did not reach the end";
const PENDING: &str = "a consumer has events that it never settled";
const UNEXPECTED: &str = "a dead letter of something that was not poisoned";
const UNNOTICED: &str = "poison left no dead letter";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C5");
    for consumer in &case.facts.consumers {
        if consumer.position < consumer.last {
            findings.add(Breach::Lost, BEHIND, || format!("{}: {} of {}", consumer.name, consumer.position, consumer.last));
        }
        if consumer.pending > 0 {
            findings.add(Breach::Lost, PENDING, || format!("{}: {}", consumer.name, consumer.pending));
        }
    }
    let mut noticed = HashSet::new();
    for letter in &case.facts.dead_letters {
        let origin = (letter.origin_stream.as_str(), letter.origin_sequence);
        noticed.insert(origin);
        if !case.injected.get(&origin).is_some_and(|injection| injection.poison) {
            findings.add(Breach::Lost, UNEXPECTED, || {
                let (stream, sequence) = origin;
                format!("{} ({}, {}): {} {sequence}: {}", letter.subject, letter.consumer, letter.reason, stream, letter.error)
            });
        }
    }
    for (origin, injection) in case.injected.iter().filter(|(_, injection)| injection.poison) {
        if !noticed.contains(origin) {
            findings.add(Breach::Lost, UNNOTICED, || format!("{} {}: {}", origin.0, origin.1, injection.detail));
        }
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit::{self, Run},
        facts::DeadLetter,
        history::{Injection, What},
    };

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<String> {
        kit::found(check, spoil)
    }

    fn letter(stream: &str, sequence: u64) -> DeadLetter {
        DeadLetter {
            subject: subjects::dead_letter("audit", "user.created"),
            consumer: "audit".into(),
            reason: "poison".into(),
            error: String::new(),
            origin_stream: stream.into(),
            origin_sequence: sequence,
        }
    }

    fn inject(run: &mut Run, sequence: u64, poison: bool) {
        run.add(What::Injected { injection: Injection { stream: "EVENTS".into(), sequence, poison, detail: "not JSON".into() } });
    }

    #[test]
    fn in_a_good_run_everybody_is_at_the_end() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn who_is_behind_or_never_settled_something_is_named() {
        assert_eq!(found(|run| run.facts.consumers[1].position -= 1), [BEHIND]);
        assert_eq!(found(|run| run.facts.consumers[1].pending = 2), [PENDING]);
    }

    #[test]
    fn a_dead_letter_is_right_for_poison_alone_and_poison_must_leave_one() {
        assert_eq!(found(|run| run.facts.dead_letters.push(letter("EVENTS", 7))), [UNEXPECTED]);
        assert_eq!(found(|run| inject(run, 7, true)), [UNNOTICED]);
        let both = |sequence, poison| {
            found(|run| {
                inject(run, 7, poison);
                run.facts.dead_letters.push(letter("EVENTS", sequence));
            })
        };
        assert_eq!(both(7, true), Vec::<String>::new());
        assert_eq!(both(8, true).len(), 2);
        assert_eq!(both(7, false), [UNEXPECTED]);
    }
}
