//! C9: each tenant's names, addresses and values carry its marker, and the marker turns up in no answer and no event stream of another
//! tenant, and in no log, subject or metric at all.

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};

const ANSWERED: &str = "a tenant was shown something of another";
const WRITTEN: &str = "something personal stands in a log, a subject or a metric";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C9");
    for (marker, place) in &case.leaks {
        findings.add(Breach::Leak, ANSWERED, || format!("{marker} in {place}"));
    }
    for (marker, place) in &case.facts.leaks {
        findings.add(Breach::Leak, WRITTEN, || format!("{marker} in {place}"));
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit::{self, MARKER},
        history::What,
    };

    #[test]
    fn a_marker_in_another_tenants_answer_or_in_a_log_is_named() {
        let mut run = kit::good();
        let found = |run: &kit::Run| -> Vec<String> { check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| finding.what).collect() };
        assert_eq!(found(&run), Vec::<String>::new());
        run.add(What::Leak { marker: MARKER.into(), place: "GET /v1/tenants/tenant_2/users".into() });
        assert_eq!(found(&run), [ANSWERED]);
        run.facts.leaks.push((MARKER.into(), "the log of worker-1".into()));
        assert_eq!(found(&run), [ANSWERED, WRITTEN]);
    }
}
