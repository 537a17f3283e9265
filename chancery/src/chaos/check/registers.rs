//! C3, second half: every register (a user's name, a tenant's name) is linearizable. What clients saw of its value and version must fit
//! one order of their operations.
//!
//! Of a write whose end no client knows the table of events says whether and as which version it happened, where it does; that keeps the
//! search short. A value that was read counts as written even if no event tells it: then nothing explains the read.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    case::{Case, Op},
    findings::{Breach, Finding, Findings},
    linear::{self, Action, Found, Operation, State},
};
use crate::chaos::history::End;

const NO_ORDER: &str = "no order of its operations explains what clients saw of a register";
const GIVEN_UP: &str = "a register's history could not be decided";
/// The refusal of a conditional write.
const CONFLICT: &str = "version_conflict";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C3");
    let mut registers: BTreeMap<Uuid, Vec<&Op<'_>>> = BTreeMap::new();
    for op in case.ops.values().filter(|op| op.request.repeats.is_none()) {
        if let Some(register) = op.request.register {
            registers.entry(register).or_default().push(op);
        }
    }
    for (register, ops) in registers {
        let mut history = History::default();
        let mut operations: Vec<(Operation, &Op<'_>)> = ops.into_iter().filter_map(|op| Some((history.operation(case, op)?, op))).collect();
        operations.sort_by_key(|(operation, _)| operation.begin);
        let bare: Vec<Operation> = operations.iter().map(|(operation, _)| *operation).collect();
        judge(register, &operations, linear::search(&bare, history.initial(&bare)), &mut findings);
    }
    findings.done()
}

fn judge(register: Uuid, operations: &[(Operation, &Op<'_>)], found: Found, findings: &mut Findings) {
    match found {
        Found::Order => {}
        Found::None(place) => findings.add(Breach::Disorder, NO_ORDER, || story(register, operations, place)),
        Found::GivenUp => findings.add(Breach::Health, GIVEN_UP, || format!("{register}: {} operations", operations.len())),
    }
}

/// The operation that nothing explains and those around it.
fn story(register: Uuid, operations: &[(Operation, &Op<'_>)], place: usize) -> String {
    let shown = operations.iter().skip(place.saturating_sub(3)).take(5);
    let lines: Vec<String> =
        shown.map(|(operation, op)| format!("{} {}..{:?}: {:?}", op.name(), operation.begin, operation.end, operation.action)).collect();
    let guilty = operations.get(place).map(|(_, op)| op.name()).unwrap_or_default();
    format!("{register}: {guilty}; around it: {}", lines.join(" | "))
}

/// Values by number.
#[derive(Debug, Default)]
struct History<'a> {
    numbers: HashMap<&'a str, u64>,
}

impl<'a> History<'a> {
    fn number(&mut self, value: &'a str) -> u64 {
        // 0 is what nobody has read or written.
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry(value).or_insert(next)
    }

    /// An operation; none for what tells nothing: a read without an answer, a refusal for another reason, a write that never happened.
    fn operation(&mut self, case: &Case<'a>, op: &Op<'a>) -> Option<Operation> {
        let begin = op.begun();
        let last = op.answers.iter().rev().map(|(_, answer)| *answer).find(|answer| answer.version.is_some());
        let known = op.end.filter(|(_, end)| **end != End::Unknown);
        match (op.writes(), known) {
            (false, Some((at, End::Read))) => {
                let answer = last?;
                let (value, version) = (self.number(answer.value.as_deref()?), answer.version?);
                Some(Operation { begin: answer.sent, end: Some(at), action: Action::Read { value, version } })
            }
            (true, Some((at, End::Succeeded))) => {
                let value = self.number(&op.request.effects.first()?.value);
                let version = Some(last?.version?);
                Some(Operation { begin, end: Some(at), action: Action::Write { value, expects: op.request.if_match, version } })
            }
            (true, Some((at, End::Refused { code }))) if code == CONFLICT => {
                Some(Operation { begin, end: Some(at), action: Action::Conflict { expects: op.request.if_match? } })
            }
            (true, None) => {
                let effect = op.request.effects.first()?;
                let version = Some(u64::try_from(case.effect(effect).first()?.version).ok()?);
                let value = self.number(&effect.value);
                Some(Operation { begin, end: None, action: Action::Write { value, expects: op.request.if_match, version } })
            }
            _ => None,
        }
    }

    /// What it held before the first operation: the lowest version that anybody saw, and what was read of it.
    fn initial(&self, operations: &[Operation]) -> State {
        let before = |operation: &Operation| match operation.action {
            Action::Write { version, .. } => version.map(|version| version.saturating_sub(1)),
            Action::Read { version, .. } => Some(version),
            Action::Conflict { .. } => None,
        };
        let version = operations.iter().filter_map(before).min().unwrap_or(1);
        let written = |value| operations.iter().any(|operation| matches!(operation.action, Action::Write { value: other, .. } if other == value));
        let read = operations.iter().find_map(|operation| match operation.action {
            Action::Read { value, version: read } if read == version && !written(value) => Some(value),
            _ => None,
        });
        State { value: read.unwrap_or(0), version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit::{self, How, Run},
        history::{Effect, Request},
    };

    fn found(run: &Run) -> Vec<String> {
        check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_good_run_is_linearizable() {
        assert_eq!(found(&kit::good()), Vec::<String>::new());
    }

    #[test]
    fn a_read_of_an_old_value_is_named() {
        let mut run = kit::good();
        run.read("cnry0000000001-b", 2);
        assert_eq!(found(&run), [NO_ORDER]);
    }

    #[test]
    fn a_read_of_a_value_that_nobody_wrote_is_named() {
        let mut run = kit::good();
        run.read("cnry0000000001-x", 4);
        assert_eq!(found(&run), [NO_ORDER]);
    }

    #[test]
    fn two_writes_that_were_told_the_same_version_are_named() {
        let mut run = kit::good();
        let mut again = kit::good();
        again.update(1, "cnry0000000001-d");
        run.update(1, "cnry0000000001-e");
        // The end of the other run, in which version 4 was given, too.
        let ops = run.records.len() - 4..;
        run.records.extend(again.records[ops].iter().cloned());
        let renumber = |record: &mut std::sync::Arc<crate::chaos::history::Record>, by: u64| {
            use crate::chaos::history::What;
            if let What::Invoke { op, .. } | What::Answer { op, .. } | What::End { op, .. } = &mut std::sync::Arc::make_mut(record).what {
                op.0 += by;
            }
        };
        run.records.iter_mut().rev().take(4).for_each(|record| renumber(record, 1_000));
        assert_eq!(found(&run), [NO_ORDER]);
    }

    #[test]
    fn an_unanswered_write_explains_a_read_when_the_table_has_it() {
        let mut run = kit::good();
        let effects = vec![Effect { event_type: "user.profile_updated", value: "cnry0000000001-q".into() }];
        let register = Some(Uuid::from_u128(0x500));
        run.request(Request { kind: "user.update_profile", client: 4, register, effects, ..Request::default() }, How::Unanswered);
        run.read("cnry0000000001-c", 3);
        assert_eq!(found(&run), Vec::<String>::new());
        run.event(1, "user.profile_updated", 0x500, Some("cnry0000000001-q"));
        run.read("cnry0000000001-q", 4);
        assert_eq!(found(&run), Vec::<String>::new());
        run.read("cnry0000000001-c", 3);
        assert_eq!(found(&run), [NO_ORDER]);
    }

    #[test]
    fn a_conflict_where_the_version_was_right_is_named() {
        let mut run = kit::good();
        let register = Some(Uuid::from_u128(0x500));
        let conditional = |if_match| Request { kind: "user.update_profile", client: 4, register, if_match, ..Request::default() };
        run.request(conditional(Some(2)), How::Refused(CONFLICT));
        assert_eq!(found(&run), Vec::<String>::new());
        run.request(conditional(Some(3)), How::Refused(CONFLICT));
        assert_eq!(found(&run), [NO_ORDER]);
    }

    #[test]
    fn a_register_that_could_not_be_decided_is_no_acquittal() {
        let mut findings = Findings::new("C3");
        judge(Uuid::nil(), &[], Found::GivenUp, &mut findings);
        assert_eq!(findings.done().into_iter().map(|finding| finding.what).collect::<Vec<_>>(), [GIVEN_UP]);
    }
}
