//! C1: acknowledged − effect = ∅, and nothing that nobody asked for.
//!
//! For each client the lost are told apart by where in its history they lie: a lost prefix, middle or suffix point at different faults
//! (a stream that began anew, a hole, a truncated end).

use std::collections::BTreeMap;

use super::{
    case::{Case, Op},
    findings::{Breach, Finding, Findings},
};
use crate::chaos::history::End;

const LOST: &str = "an accepted command has no effect";
const UNASKED: &str = "an event tells a value that nobody asked for";
/// What every value of the load contains.
const MARK: &str = "cnry";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C1");
    let mut clients: BTreeMap<usize, Vec<(&Op<'_>, Option<String>)>> = BTreeMap::new();
    for op in case.ops.values().filter(|op| op.accepted()) {
        clients.entry(op.request.client).or_default().push((op, missing(case, op)));
    }
    for (client, mut ops) in clients {
        ops.sort_by_key(|(op, _)| op.end.map_or(u64::MAX, |(at, _)| at));
        let kept = |range: &[(&Op<'_>, Option<String>)]| range.iter().any(|(_, missing)| missing.is_none());
        for (place, (op, missing)) in ops.iter().enumerate() {
            if let Some(missing) = missing {
                let part = match (kept(&ops[..place]), kept(&ops[place..])) {
                    (false, false) => "with everything of this client",
                    (false, true) => "in a lost prefix",
                    (true, true) => "in the middle",
                    (true, false) => "in a lost suffix",
                };
                findings.add(Breach::Lost, LOST, || format!("{}: {missing}; {part} of client {client} ({} of {})", op.name(), place + 1, ops.len()));
            }
        }
    }
    unasked(case, &mut findings);
    findings.done()
}

/// What of an accepted command is not there.
fn missing(case: &Case<'_>, op: &Op<'_>) -> Option<String> {
    let command = op.command();
    match command.map(|id| (id, case.commands.get(&id))) {
        Some((id, None)) => return Some(format!("cmd_{id} has no outcome")),
        Some((id, Some(row))) if op.succeeded() && row.status != "succeeded" => return Some(format!("cmd_{id} is {} in the table", row.status)),
        _ => {}
    }
    if !op.succeeded() {
        return None;
    }
    let named = op.answers.iter().flat_map(|(_, answer)| &answer.events);
    if let Some(event) = named.into_iter().find(|event| !case.events.contains_key(&event.id)) {
        return Some(format!("evt_{} ({}) was answered and is not in the table", event.id, event.event_type));
    }
    if op.request.repeats.is_some() {
        return None;
    }
    let effect = op.request.effects.iter().find(|effect| case.own(op, effect).next().is_none())?;
    Some(format!("no {} tells {}", effect.event_type, effect.value))
}

/// Events of commands that no client knows, with values that no client asked for.
fn unasked(case: &Case<'_>, findings: &mut Findings) {
    let asked = case.asked();
    for event in &case.facts.events {
        let Some(value) = event.value.as_deref().filter(|value| value.contains(MARK)) else { continue };
        if !asked.contains(value) && !case.known.contains_key(&event.command) {
            findings.add(Breach::Duplicate, UNASKED, || format!("evt_{} ({}) tells {value}", event.id, event.event_type));
        }
    }
}

/// Commands whose client never learnt how they ended, and that took effect.
pub(super) fn recovered(case: &Case<'_>) -> u64 {
    let unknown = case.ops.values().filter(|op| op.writes() && !matches!(op.end, Some((_, end)) if *end != End::Unknown));
    unknown.filter(|op| op.request.effects.iter().any(|effect| case.own(op, effect).next().is_some())).count() as u64
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::chaos::check::kit::{self, How, Run};

    fn found(run: &Run) -> Vec<Finding> {
        check(&Case::new(&run.records, &run.facts))
    }

    /// What is said after something was done to the facts of a good run.
    fn after(spoil: impl FnOnce(&mut Run)) -> String {
        let mut run = kit::good();
        spoil(&mut run);
        found(&run).iter().map(|finding| format!("{} {:?}", finding.what, finding.evidence)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_good_run_lost_nothing() {
        assert_eq!(found(&kit::good()), []);
    }

    #[test]
    fn an_accepted_command_without_outcome_is_lost() {
        let text = after(|run| drop(run.facts.commands.remove(2)));
        assert!(text.contains("has no outcome"), "{text}");
    }

    #[test]
    fn an_answered_success_that_the_table_calls_refused_is_lost() {
        let text = after(|run| run.facts.commands[2].status = "refused".into());
        assert!(text.contains("is refused in the table"), "{text}");
    }

    #[test]
    fn an_answered_event_that_is_not_in_the_table_is_lost() {
        let text = after(|run| drop(run.facts.events.remove(2)));
        assert!(text.contains("was answered and is not in the table"), "{text}");
    }

    #[test]
    fn a_success_whose_value_no_event_tells_is_lost() {
        let text = after(|run| run.facts.events.iter_mut().for_each(|event| event.value = None));
        assert!(text.contains("tells"), "{text}");
    }

    #[test]
    fn a_202_that_is_never_decided_is_lost_though_the_client_gave_up() {
        let mut run = kit::good();
        run.op("user.create", Some("late"), &["user.created:cnry0000000001-late@example.com"], How::AcceptedOnly(Uuid::from_u128(0x77)));
        let text = format!("{:?}", found(&run));
        assert!(text.contains("00000077 has no outcome"), "{text}");
    }

    #[test]
    fn the_place_of_what_is_lost_in_a_clients_history_is_told() {
        let parts = |lost: &[usize]| {
            let mut run = Run::new();
            let ids: Vec<Uuid> = (0..5).map(|number| run.update(1, &format!("cnry0000000001-n{number}"))).collect();
            run.facts.commands.retain(|row| !lost.iter().any(|place| ids[*place] == row.id));
            found(&run).into_iter().flat_map(|finding| finding.evidence).collect::<Vec<_>>().join("\n")
        };
        assert!(parts(&[0]).contains("lost prefix"));
        assert!(parts(&[2]).contains("in the middle"));
        assert!(parts(&[3, 4]).contains("lost suffix"));
        assert!(parts(&[0, 1, 2, 3, 4]).contains("with everything"));
    }

    #[test]
    fn a_value_that_nobody_asked_for_is_named_and_one_of_an_unknown_end_is_recovered() {
        let mut run = kit::good();
        run.event(1, "user.created", 0x99, Some("cnry0000000001-nobody@example.com"));
        assert!(format!("{:?}", found(&run)).contains("nobody asked for"));
        run.op("user.create", Some("gone"), &["user.created:cnry0000000001-nobody@example.com"], How::Unanswered);
        assert_eq!(found(&run), []);
        assert_eq!(recovered(&Case::new(&run.records, &run.facts)), 1);
    }
}
