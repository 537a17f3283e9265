//! C13: after the faults every node holds the same of every stream, without holes.

use std::collections::BTreeMap;

use subjects::authz;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};
use crate::chaos::facts::ReplicaRow;

const DIFFERENT: &str = "nodes hold different states of a stream";
const HOLES: &str = "a stream has holes";

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C13");
    let mut streams: BTreeMap<&str, Vec<&ReplicaRow>> = BTreeMap::new();
    for row in &case.facts.replicas {
        streams.entry(&row.stream).or_default().push(row);
    }
    for (stream, rows) in streams {
        let state = |row: &ReplicaRow| (row.messages, row.first, row.last, row.deleted);
        if rows.windows(2).any(|pair| state(pair[0]) != state(pair[1])) {
            let show = |row: &&ReplicaRow| format!("{} {} messages {}..{} with {} deleted", row.node, row.messages, row.first, row.last, row.deleted);
            findings.add(Breach::Lost, DIFFERENT, || format!("{stream}: {}", rows.iter().map(show).collect::<Vec<_>>().join("; ")));
        }
        // The bucket keeps the last of each key and so has holes by its nature.
        for row in rows.iter().filter(|row| row.deleted > 0 && stream != authz::STREAM) {
            findings.add(Breach::Lost, HOLES, || format!("{stream} on {}: {}", row.node, row.deleted));
        }
    }
    findings.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::check::kit::{self, Run};

    fn found(spoil: impl FnOnce(&mut Run)) -> Vec<String> {
        let mut run = kit::good();
        spoil(&mut run);
        check(&Case::new(&run.records, &run.facts)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn in_a_good_run_all_nodes_hold_the_same() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn a_node_that_lost_a_message_is_named() {
        assert_eq!(found(|run| run.facts.replicas[1].last -= 1), [DIFFERENT]);
        let hole = |run: &mut Run| {
            run.facts.replicas[2].messages -= 1;
            run.facts.replicas[2].deleted = 1;
        };
        assert_eq!(found(hole), [HOLES, DIFFERENT]);
    }

    #[test]
    fn a_hole_on_every_node_is_named_but_not_in_the_bucket() {
        let everywhere = |stream: &'static str| {
            move |run: &mut Run| {
                run.facts.replicas.iter_mut().for_each(|row| (row.stream, row.deleted) = (stream.to_owned(), 1));
            }
        };
        assert_eq!(found(everywhere("EVENTS")), [HOLES]);
        assert_eq!(found(everywhere(authz::STREAM)), Vec::<String>::new());
    }
}
