//! The registry and the consumers that run say the same: who listens to what.
//!
//! What only the domain knows (samples, refusals, who emits what) is checked in `workers/aggregates`, what only the gateway knows in
//! `command-gateway`; that it happens so over real servers is shown by `tests/acceptance/catalogue/`.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected must fail at once")]

use std::collections::BTreeSet;

use aggregates::registry;
use chancery::role::Consumer;
use subjects::{TenantId, event, matches};

/// Every event's subject in some tenant, with its type.
fn subjects() -> Vec<(String, &'static str)> {
    let tenant: TenantId = "tenant_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    registry::EVENTS.iter().map(|entry| (event(tenant, entry.event_type), entry.event_type)).collect()
}

#[test]
fn every_consumer_of_the_registry_runs_and_no_other() {
    let declared: BTreeSet<&str> = registry::CONSUMERS.into_iter().collect();
    let running: BTreeSet<&str> = Consumer::ALL.map(Consumer::name).into_iter().collect();
    assert_eq!(declared, running, "`CONSUMERS` of the registry and `Consumer::ALL` of chancery/src/role.rs");
    assert_eq!(declared.len(), registry::CONSUMERS.len(), "a consumer is declared twice");
}

#[test]
fn every_filter_of_a_consumer_matches_an_event() {
    for consumer in Consumer::ALL {
        for filter in consumer.filters() {
            let matched = subjects().iter().any(|(subject, _)| matches(filter, subject));
            assert!(matched, "the filter {filter} of {} matches no event of the registry", consumer.name());
        }
    }
}

#[test]
fn a_consumer_gets_exactly_the_events_whose_rows_name_it() {
    for consumer in Consumer::ALL {
        let wants = |subject: &str| consumer.filters().iter().any(|filter| matches(filter, subject));
        let filtered: BTreeSet<&str> = subjects().iter().filter(|(subject, _)| wants(subject)).map(|(_, event_type)| *event_type).collect();
        let rows = registry::EVENTS.iter().filter(|entry| entry.consumers.contains(&consumer.name()));
        let declared: BTreeSet<&str> = rows.map(|entry| entry.event_type).collect();
        let name = consumer.name();
        let undeclared: Vec<_> = filtered.difference(&declared).collect();
        assert!(undeclared.is_empty(), "{name} gets {undeclared:?}, and no row of the registry says so");
        let missed: Vec<_> = declared.difference(&filtered).collect();
        assert!(missed.is_empty(), "the registry names {name} as consumer of {missed:?}, and no filter of it matches");
    }
}

#[test]
fn no_two_filters_of_a_consumer_overlap() {
    for consumer in Consumer::ALL {
        for (subject, event_type) in subjects() {
            let matching = consumer.filters().iter().filter(|filter| matches(filter, &subject)).count();
            assert!(matching <= 1, "{} would get {event_type} by {matching} filters: the server refuses such a durable", consumer.name());
        }
    }
}
