//! C2: a key has at most one effect, for ever, and its answer stays the same; under a key with another body nothing happens.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{
    case::{Case, Op},
    findings::{Breach, Finding, Findings},
};
use crate::chaos::history::{End, OpId};

/// The only right answer to another body under a key.
const REUSED: &str = "idempotency_key_reused";

const TWICE: &str = "one wish has its effect more than once";
const UNNAMED: &str = "a command has events that its outcome does not name";
const UNWRITTEN: &str = "a command's outcome names events that were not written for it";
const OUTCOMELESS: &str = "events were written for a command that has no outcome";
const CHANGED: &str = "a key was answered in two ways";
const OTHER_BODY: &str = "another body under a key was not refused";
const OTHER_EFFECT: &str = "another body under a key has an effect";
const SHARED: &str = "two wishes share a command";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C2");
    let mut owners: HashMap<Uuid, OpId> = HashMap::new();
    for op in case.ops.values().filter(|op| op.writes()) {
        match op.request.repeats {
            None => first(case, op, &mut owners, &mut findings),
            Some(original) if op.request.same => same(case, op, original, &mut findings),
            Some(original) => other(case, op, original, &mut findings),
        }
    }
    outcomes(case, &mut findings);
    findings.done()
}

fn first(case: &Case<'_>, op: &Op<'_>, owners: &mut HashMap<Uuid, OpId>, findings: &mut Findings) {
    for effect in &op.request.effects {
        let events = case.effect(effect);
        if events.len() > 1 {
            let by: Vec<String> = events.iter().map(|event| format!("evt_{} of cmd_{}", event.id, event.command)).collect();
            findings.add(Breach::Duplicate, TWICE, || format!("{}: {} is told by {}", op.name(), effect.value, by.join(", ")));
        }
    }
    let answers: HashSet<u64> = finals(op).collect();
    if answers.len() > 1 {
        findings.add(Breach::Answer, CHANGED, || format!("{}: {} final answers differ", op.name(), answers.len()));
    }
    if let Some(command) = op.command()
        && let Some(other) = owners.insert(command, op.id)
    {
        findings.add(Breach::Answer, SHARED, || format!("cmd_{command} is that of op {} and of {}", other.0, op.name()));
    }
}

fn finals<'a>(op: &'a Op<'_>) -> impl Iterator<Item = u64> + 'a {
    op.answers.iter().filter_map(|(_, answer)| answer.same)
}

fn same(case: &Case<'_>, op: &Op<'_>, original: OpId, findings: &mut Findings) {
    let Some(first) = case.ops.get(&original).and_then(|original| finals(original).next()) else { return };
    if finals(op).any(|answer| answer != first) {
        findings.add(Breach::Answer, CHANGED, || format!("{} repeats op {} and was answered otherwise", op.name(), original.0));
    }
}

fn other(case: &Case<'_>, op: &Op<'_>, original: OpId, findings: &mut Findings) {
    // While PostgreSQL is away nobody knows what the key was used for: a gateway may say 202, and the outcome that is found later is the
    // first one's.
    let first = case.ops.get(&original).and_then(|original| finals(original).next());
    let later = op.answers.iter().any(|(_, answer)| answer.status == Some(202)) && first.is_some() && finals(op).all(|answer| Some(answer) == first);
    match op.end {
        Some((_, End::Refused { code })) if code == REUSED => {}
        None | Some((_, End::Unknown)) => {}
        Some(_) if later => {}
        Some((_, end)) => findings.add(Breach::Answer, OTHER_BODY, || format!("{} ended with {end:?}", op.name())),
    }
    for effect in op.request.effects.iter().filter(|effect| !case.effect(effect).is_empty()) {
        findings.add(Breach::Duplicate, OTHER_EFFECT, || format!("{}: {} tells {}", op.name(), effect.event_type, effect.value));
    }
}

/// The outcome of a command names exactly the events that were written for it.
fn outcomes(case: &Case<'_>, findings: &mut Findings) {
    for (command, events) in case.caused.iter().filter(|(command, _)| !case.commands.contains_key(*command)) {
        findings.add(Breach::Lost, OUTCOMELESS, || format!("cmd_{command}: {} events", events.len()));
    }
    for row in &case.facts.commands {
        let named: HashSet<Uuid> = row.events.iter().copied().collect();
        let written: HashSet<Uuid> = case.caused.get(&row.id).into_iter().flatten().map(|event| event.id).collect();
        for event in written.difference(&named) {
            findings.add(Breach::Duplicate, UNNAMED, || format!("cmd_{}: evt_{event}", row.id));
        }
        for event in named.difference(&written) {
            findings.add(Breach::Lost, UNWRITTEN, || format!("cmd_{}: evt_{event}", row.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit::{self, How, Run},
        history::{Answer, Effect, Request, What},
    };

    fn found(run: &Run) -> Vec<(Breach, String)> {
        check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| (finding.breach, finding.what)).collect()
    }

    /// The good run and a repeat of its last request with a key.
    fn repeated(same: bool, how: How) -> Run {
        let mut run = kit::good();
        let command = run.update(1, "cnry0000000001-first");
        let original = run.records.iter().rev().find_map(|record| match &record.what {
            What::Invoke { op, .. } => Some(*op),
            _ => None,
        });
        let before = run.facts.clone();
        let register = Some(Uuid::from_u128(0x500));
        let request =
            Request { kind: "user.update_profile", client: 1, key: Some("k".into()), register, repeats: original, same, ..Request::default() };
        run.request(request, how);
        run.facts = before;
        assert!(run.facts.commands.iter().any(|row| row.id == command));
        run
    }

    #[test]
    fn a_good_run_has_one_effect_a_key() {
        assert_eq!(found(&kit::good()), []);
    }

    #[test]
    fn a_wish_that_took_effect_under_two_commands_is_named() {
        let mut run = kit::good();
        run.event(1, "user.created", 0x777, Some("cnry0000000001-u@example.com"));
        assert_eq!(found(&run), [(Breach::Duplicate, TWICE.to_owned())]);
    }

    #[test]
    fn an_event_that_the_outcome_does_not_name_is_a_second_effect() {
        let mut run = kit::good();
        let command = run.facts.commands[0].id;
        run.facts.events.last_mut().unwrap().command = command;
        assert!(found(&run).contains(&(Breach::Duplicate, UNNAMED.to_owned())));
        assert!(found(&run).contains(&(Breach::Lost, UNWRITTEN.to_owned())));
    }

    #[test]
    fn two_final_answers_to_one_wish_that_differ_are_named() {
        let mut run = kit::good();
        let again = |same| What::Answer { op: OpId(1), answer: Answer { status: Some(200), same, ..Answer::default() } };
        let first = run.records.iter().find_map(|record| match &record.what {
            What::Answer { op: OpId(1), answer } => answer.same,
            _ => None,
        });
        run.add(again(first));
        assert_eq!(found(&run), []);
        run.add(again(Some(1)));
        assert_eq!(found(&run), [(Breach::Answer, CHANGED.to_owned())]);
    }

    #[test]
    fn events_without_an_outcome_are_named() {
        let mut run = kit::good();
        run.facts.commands.remove(0);
        assert_eq!(found(&run), [(Breach::Lost, OUTCOMELESS.to_owned())]);
    }

    #[test]
    fn a_repeat_that_is_answered_otherwise_is_named() {
        // Every request of the kit has an answer of its own: this repeat is not the first one's.
        assert_eq!(found(&repeated(true, How::Succeeds)), [(Breach::Answer, CHANGED.to_owned())]);
    }

    #[test]
    fn a_repeat_with_the_first_answer_is_right() {
        let mut run = repeated(true, How::Succeeds);
        let mut answers: Vec<_> = run
            .records
            .iter()
            .filter_map(|record| match &record.what {
                What::Answer { answer, .. } => answer.same,
                _ => None,
            })
            .collect();
        let (second, first) = (answers.pop(), answers.pop());
        for record in &mut run.records {
            let record = std::sync::Arc::make_mut(record);
            if let What::Answer { answer, .. } = &mut record.what
                && answer.same == second
            {
                answer.same = first;
            }
        }
        assert_eq!(found(&run), []);
    }

    #[test]
    fn another_body_under_a_key_must_be_refused_and_leave_nothing() {
        assert_eq!(found(&repeated(false, How::Refused(REUSED))), []);
        assert_eq!(found(&repeated(false, How::Succeeds)), [(Breach::Answer, OTHER_BODY.to_owned())]);
        let mut run = repeated(false, How::Refused(REUSED));
        let effects = vec![Effect { event_type: "user.profile_updated", value: "cnry0000000001-other".into() }];
        let op = run.invoke(Request { kind: "user.update_profile", client: 1, repeats: Some(OpId(1)), effects, ..Request::default() });
        run.add(What::End { op, end: End::Refused { code: REUSED.into() } });
        assert_eq!(found(&run), []);
        run.event(1, "user.profile_updated", 0x500, Some("cnry0000000001-other"));
        assert_eq!(found(&run), [(Breach::Duplicate, OTHER_EFFECT.to_owned())]);
    }

    #[test]
    fn another_body_may_be_told_202_while_nobody_knows_and_then_the_first_outcome_and_no_other() {
        let told = |same: fn(u64) -> u64| {
            let mut run = repeated(false, How::Succeeds);
            let answers: Vec<u64> =
                run.records.iter().filter_map(|record| if let What::Answer { answer, .. } = &record.what { answer.same } else { None }).collect();
            let (first, second) = (answers[answers.len() - 2], answers[answers.len() - 1]);
            for record in &mut run.records {
                if let What::Answer { answer, .. } = &mut std::sync::Arc::make_mut(record).what
                    && answer.same == Some(second)
                {
                    (answer.status, answer.same) = (Some(202), Some(same(first)));
                }
            }
            found(&run)
        };
        assert_eq!(told(|first| first), []);
        assert_eq!(told(|first| first + 1), [(Breach::Answer, OTHER_BODY.to_owned())]);
    }

    #[test]
    fn two_wishes_with_one_command_are_named() {
        let mut run = kit::good();
        let command = run.facts.commands[0].id;
        run.op("user.create", Some("z"), &[], How::AcceptedOnly(command));
        assert_eq!(found(&run), [(Breach::Answer, SHARED.to_owned())]);
    }
}
