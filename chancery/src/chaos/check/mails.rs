//! C7: every event that is to be told by mail is in the ledger, and every mail that the ledger calls sent is in the folder. Repeats are
//! counted in the facts and not judged: mail is at least once.

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};

const UNTOLD: &str = "an event that is to be told by mail is told to nobody";
const MISSING: &str = "a mail that is said to have left is not there";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C7");
    if let Some(mails) = &case.facts.mails {
        for event in &mails.untold {
            findings.add(Breach::Lost, UNTOLD, || event.clone());
        }
        for mail in &mails.missing {
            findings.add(Breach::Lost, MISSING, || mail.to_string());
        }
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::chaos::{check::kit, facts::Mails};

    #[test]
    fn what_is_told_to_nobody_and_what_never_left_are_named_and_repeats_are_not() {
        let mut run = kit::good();
        let mut found = |mails: Mails| -> Vec<String> {
            run.facts.mails = Some(mails);
            check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| finding.what).collect()
        };
        assert_eq!(found(Mails { sent: 9, again: 3, pending: 1, ..Mails::default() }), Vec::<String>::new());
        assert_eq!(found(Mails { untold: vec!["evt_1 (user.created)".into()], ..Mails::default() }), [UNTOLD]);
        assert_eq!(found(Mails { missing: vec![Uuid::from_u128(1)], ..Mails::default() }), [MISSING]);
    }
}
