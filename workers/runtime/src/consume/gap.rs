//! Watches the dense sequence of each tenant, in a consumer that takes everything.
//!
//! Replicas of a durable each see a part only. As long as the consumer's own sequence is dense, nothing went to another replica (or was
//! lost on the way to us and comes again), and a hole in a tenant's sequence is a hole in the stream. When it is not dense, the watch
//! begins anew.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use subjects::TenantId;

/// Tenants remembered at most; beyond, the watch begins anew.
const TENANTS: usize = 50_000;
/// Missing events remembered at most.
const MISSING: usize = 4_096;

/// A hole that did not heal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) tenant: TenantId,
    /// The first event that is missing.
    pub(crate) from: u64,
    /// The last one.
    pub(crate) to: u64,
}

/// The watch.
#[derive(Debug)]
pub(crate) struct Watch {
    grace: Duration,
    consumer_sequence: u64,
    last: HashMap<TenantId, u64>,
    missing: BTreeMap<(TenantId, u64), Instant>,
}

impl Watch {
    /// Holes have so long to heal.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { grace, consumer_sequence: 0, last: HashMap::new(), missing: BTreeMap::new() }
    }

    /// Forgets everything: what follows may begin anywhere.
    pub(crate) fn restart(&mut self) {
        self.consumer_sequence = 0;
        self.last.clear();
        self.missing.clear();
    }

    /// Follows one delivery. `again` is one that may come behind its successors: a redelivery, or an event that a repair published late. It
    /// fills a hole and tells nothing about what is to follow.
    pub(crate) fn see(&mut self, consumer_sequence: u64, again: bool, tenant: TenantId, sequence: u64, now: Instant) {
        if consumer_sequence != self.consumer_sequence + 1 {
            self.restart();
        }
        self.consumer_sequence = consumer_sequence;
        self.missing.remove(&(tenant, sequence));
        if again {
            return;
        }
        if self.last.len() >= TENANTS && !self.last.contains_key(&tenant) {
            self.last.clear();
            self.missing.clear();
        }
        let last = self.last.entry(tenant).or_insert(sequence.saturating_sub(1));
        for absent in (*last + 1..sequence).take(MISSING.saturating_sub(self.missing.len())) {
            self.missing.insert((tenant, absent), now);
        }
        *last = sequence.max(*last);
    }

    /// The holes that had their time, each told once.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<Gap> {
        let grace = self.grace;
        let mut gaps: Vec<Gap> = Vec::new();
        self.missing.retain(|(tenant, sequence), since| {
            if now.duration_since(*since) < grace {
                return true;
            }
            match gaps.last_mut() {
                Some(gap) if gap.tenant == *tenant && gap.to + 1 == *sequence => gap.to = *sequence,
                _ => gaps.push(Gap { tenant: *tenant, from: *sequence, to: *sequence }),
            }
            false
        });
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId::new(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_hole_that_does_not_heal_is_told_once() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(60)), Instant::now());
        for (place, sequence) in [(1, 5), (2, 6), (3, 9)] {
            watch.see(place, false, tenant(1), sequence, start);
        }
        assert_eq!(watch.overdue(start + Duration::from_secs(59)), []);
        assert_eq!(watch.overdue(start + Duration::from_secs(60)), [Gap { tenant: tenant(1), from: 7, to: 8 }]);
        assert_eq!(watch.overdue(start + Duration::from_secs(90)), []);
    }

    #[test]
    fn a_late_event_heals_it() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(60)), Instant::now());
        for (place, sequence) in [(1, 5), (2, 7), (3, 6)] {
            watch.see(place, false, tenant(1), sequence, start);
        }
        assert_eq!(watch.overdue(start + Duration::from_secs(61)), []);
    }

    #[test]
    fn an_event_that_a_repair_published_late_is_no_place_to_count_from() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(60)), Instant::now());
        // The first that is seen of the tenant is from long ago.
        watch.see(1, true, tenant(1), 5, start);
        watch.see(2, false, tenant(1), 7_000, start);
        watch.see(3, false, tenant(1), 7_002, start);
        watch.see(4, true, tenant(1), 6, start);
        watch.see(5, true, tenant(1), 7_001, start);
        watch.see(6, false, tenant(1), 7_003, start);
        assert_eq!(watch.overdue(start + Duration::from_secs(61)), []);
    }

    #[test]
    fn what_another_replica_took_is_no_hole() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(60)), Instant::now());
        watch.see(1, false, tenant(1), 5, start);
        watch.see(3, false, tenant(1), 7, start);
        assert_eq!(watch.overdue(start + Duration::from_secs(61)), []);
    }

    #[test]
    fn a_redelivery_and_another_tenant_are_no_hole() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(60)), Instant::now());
        watch.see(1, false, tenant(1), 5, start);
        watch.see(2, false, tenant(2), 40, start);
        watch.see(3, true, tenant(1), 5, start);
        watch.see(4, false, tenant(1), 6, start);
        assert_eq!(watch.overdue(start + Duration::from_secs(61)), []);
    }
}
