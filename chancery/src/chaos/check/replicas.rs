//! C13: after the faults every node holds the same of every stream, without holes.

use std::collections::BTreeMap;

use subjects::authz;

use super::{
    case::Case,
    findings::{Breach, Finding, Findings},
};
use crate::chaos::facts::ReplicaRow;

const DIFFERENT: &str = "nodes hold different states of a stream";
const ABSENT: &str = "a stream is on fewer nodes than it must be";
const HOLES: &str = "a stream has holes";

/// By how much nodes may differ over the bucket: it is written five times a second while one node after the other is asked.
const BEATS: u64 = 100;

/// Whether nodes hold the same of a stream, as far as that can be said of nodes that are asked one after the other.
pub(in crate::chaos) fn agree(rows: &[&ReplicaRow]) -> bool {
    let same = |one: &ReplicaRow, other: &ReplicaRow| {
        if one.stream == authz::STREAM {
            return one.last.abs_diff(other.last) <= BEATS && one.messages.abs_diff(other.messages) <= BEATS;
        }
        (one.messages, one.first, one.last, one.deleted) == (other.messages, other.first, other.last, other.deleted)
    };
    rows.windows(2).all(|pair| same(pair[0], pair[1]))
}

/// See the module.
pub(super) fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Findings::new("C13");
    let mut streams: BTreeMap<&str, Vec<&ReplicaRow>> = BTreeMap::new();
    for row in &case.facts.replicas {
        streams.entry(&row.stream).or_default().push(row);
    }
    for (stream, rows) in streams {
        if let Some(wanted) = rows.iter().map(|row| row.wanted).max().filter(|wanted| *wanted > rows.len() as u64) {
            findings.add(Breach::Lost, ABSENT, || format!("{stream} is on {} of {wanted}", rows.len()));
        }
        if !agree(&rows) {
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
        kit::found(check, spoil)
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
    fn a_node_without_the_stream_is_missed() {
        assert_eq!(found(|run| _ = run.facts.replicas.pop()), [ABSENT]);
    }

    #[test]
    fn the_bucket_may_be_some_beats_further_on_one_node_and_not_more() {
        let ahead = |by: u64| {
            move |run: &mut Run| {
                run.facts.replicas.iter_mut().for_each(|row| row.stream = authz::STREAM.to_owned());
                run.facts.replicas[2].last += by;
            }
        };
        assert_eq!(found(ahead(20)), Vec::<String>::new());
        assert_eq!(found(ahead(1_000)), [DIFFERENT]);
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
