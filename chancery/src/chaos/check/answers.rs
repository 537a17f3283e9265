//! C12: what clients were told is true. Nothing that was refused or called failed has an effect; what was told of a decided command is what
//! the table says; nothing is refused without a reason that fits; and what was answered is seen by whoever looks next.

use uuid::Uuid;

use super::{
    case::{Case, Op},
    findings::{Breach, Finding, Findings},
};
use crate::chaos::history::End;

const EFFECT: &str = "a command that was refused or called failed has its effect";
const TABLE: &str = "a command was told otherwise than the table has it";
const REFUSED: &str = "a command was refused for a reason that does not fit";
const ALLOWED: &str = "a command that must be refused was not";
const FAILED: &str = "a command was called failed";
const INTERNAL: &str = "a gateway answered with a defect of its own";
const STALE: &str = "a query after an answer did not see its effect";

/// The code of a gateway's own defects.
const DEFECT: &str = "internal";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C12");
    for op in case.ops.values() {
        if op.writes() {
            told(case, op, &mut findings);
        }
        if op.answers.iter().any(|(_, answer)| answer.code.as_deref() == Some(DEFECT)) {
            findings.add(Breach::Answer, INTERNAL, || op.name());
        }
    }
    for (op, detail) in &case.stale {
        findings.add(Breach::Answer, STALE, || format!("op {}: {detail}", op.0));
    }
    findings.done()
}

fn told(case: &Case<'_>, op: &Op<'_>, findings: &mut Findings) {
    let Some((_, end)) = op.end else { return };
    let outcome = op.command().and_then(|id: Uuid| case.commands.get(&id)).map(|row| row.status.as_str());
    let refused = match end {
        End::Refused { code } => Some(code.as_str()),
        _ => None,
    };
    // What another body under a key is told is C2's.
    let repeats_otherwise = op.request.repeats.is_some() && !op.request.same;
    if repeats_otherwise {
        return;
    }
    match end {
        End::Refused { .. } | End::Failed { .. } => {
            let effect = op.request.effects.iter().find(|effect| op.request.repeats.is_none() && case.own(op, effect).next().is_some());
            if let Some(effect) = effect {
                findings
                    .add(Breach::Answer, EFFECT, || format!("{}: ended with {end:?}, and {} tells {}", op.name(), effect.event_type, effect.value));
            }
            if outcome == Some("succeeded") {
                findings.add(Breach::Answer, TABLE, || format!("{}: ended with {end:?}, and succeeded in the table", op.name()));
            }
        }
        End::Succeeded if op.request.must_refuse => findings.add(Breach::Answer, ALLOWED, || op.name()),
        End::Succeeded | End::Unknown | End::Read => {}
    }
    if let End::Failed { code } = end {
        findings.add(Breach::Answer, FAILED, || format!("{}: {code}", op.name()));
    }
    if let Some(code) = refused.filter(|code| !op.request.refusals.contains(code)) {
        findings.add(Breach::Answer, REFUSED, || format!("{}: {code}, right were {:?}", op.name(), op.request.refusals));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit::{self, How, Run},
        history::{Answer, Effect, OpId, Request, What},
    };

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<String> {
        kit::found(check, spoil)
    }

    #[test]
    fn in_a_good_run_every_answer_is_true() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn a_refusal_whose_effect_is_there_is_named() {
        const VALUE: &str = "user.created:cnry0000000001-liar@example.com";
        let lie = |run: &mut Run| {
            run.op("user.create", Some("liar"), &[VALUE], How::Failed);
            run.event(1, "user.created", 0x888, Some("cnry0000000001-liar@example.com"));
        };
        assert_eq!(found(lie), [EFFECT, FAILED]);
        let table = |run: &mut Run| {
            run.request(Request { kind: "user.create", refusals: vec!["email_taken"], ..Request::default() }, How::Refused("email_taken"));
            run.facts.commands.last_mut().unwrap().status = "succeeded".into();
        };
        assert_eq!(found(table), [TABLE]);
    }

    #[test]
    fn a_refusal_whose_effect_is_that_of_another_wish_for_the_same_is_true() {
        const VALUE: &str = "user.created:cnry0000000001-both@example.com";
        let second = |run: &mut Run| {
            run.op("invitation.accept", Some("one"), &[VALUE], How::Succeeds);
            let effects = vec![Effect { event_type: "user.created", value: "cnry0000000001-both@example.com".into() }];
            let request = Request { kind: "invitation.accept", effects, refusals: vec!["invalid_state"], ..Request::default() };
            run.request(request, How::Refused("invalid_state"));
        };
        assert_eq!(found(second), Vec::<String>::new());
    }

    #[test]
    fn a_refusal_needs_a_reason_that_fits_and_what_must_be_refused_is() {
        let request =
            |refusals: &[&'static str], must_refuse| Request { kind: "user.create", refusals: refusals.to_vec(), must_refuse, ..Request::default() };
        let ends = |refusals: &[&'static str], must_refuse, how| found(|run| _ = run.request(request(refusals, must_refuse), how));
        assert_eq!(ends(&["last_owner"], false, How::Refused("forbidden")), [REFUSED]);
        assert_eq!(ends(&["last_owner"], true, How::Refused("last_owner")), Vec::<String>::new());
        assert_eq!(ends(&["last_owner"], true, How::Succeeds), [ALLOWED]);
    }

    #[test]
    fn a_defect_of_a_gateway_and_a_query_that_saw_nothing_are_named() {
        let defect = |run: &mut Run| {
            run.add(What::Answer { op: OpId(1), answer: Answer { status: Some(500), code: Some(DEFECT.into()), ..Answer::default() } });
        };
        assert_eq!(found(defect), [INTERNAL]);
        assert_eq!(found(|run| _ = run.add(What::Stale { op: OpId(1), detail: "the list of users".into() })), [STALE]);
    }
}
