//! What must hold of every run, whatever happened in it: said once, over plain data, so that a bad history can be made by hand.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A row of `events`, as its body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(super) tenant: String,
    pub(super) sequence: u64,
    pub(super) id: String,
    pub(super) command: String,
    pub(super) event_type: String,
    pub(super) aggregate: (String, String),
    pub(super) version: u64,
    pub(super) body: String,
}

/// A message of EVENTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(super) subject: String,
    pub(super) tenant: String,
    pub(super) sequence: u64,
    pub(super) id: String,
    pub(super) body: String,
}

/// A row of `commands`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(super) command: String,
    pub(super) status: String,
    /// The events it names, in order.
    pub(super) events: Vec<String>,
}

/// A row of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audited {
    pub(super) tenant: String,
    pub(super) n: u64,
    pub(super) event: String,
}

/// Everything a run left behind.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// The commands the clients were told are accepted.
    pub(super) accepted: BTreeSet<String>,
    pub(super) outcomes: Vec<Outcome>,
    /// In the order of tenant and sequence.
    pub(super) events: Vec<Recorded>,
    /// In the order of the stream.
    pub(super) stream: Vec<Published>,
    /// Nothing where no audit ran.
    pub(super) audit: Option<Vec<Audited>>,
    /// Versions by tenant, kind and id.
    pub(super) versions: BTreeMap<(String, String, String), u64>,
}

impl History {
    /// Everything that is wrong with it.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.check_outcomes(&mut faults);
        self.check_table(&mut faults);
        self.check_stream(&mut faults);
        self.check_audit(&mut faults);
        self.check_versions(&mut faults);
        faults
    }

    /// Every accepted command has one outcome, and it names exactly the events that were written for it.
    fn check_outcomes(&self, faults: &mut Vec<String>) {
        let mut outcomes: HashMap<&str, usize> = HashMap::new();
        self.outcomes.iter().for_each(|outcome| *outcomes.entry(&outcome.command).or_default() += 1);
        for command in &self.accepted {
            match outcomes.get(command.as_str()) {
                Some(1) => {}
                Some(count) => faults.push(format!("{command} has {count} outcomes")),
                None => faults.push(format!("{command} was accepted and has no outcome")),
            }
        }
        let mut written: HashMap<&str, Vec<&str>> = HashMap::new();
        self.events.iter().for_each(|event| written.entry(&event.command).or_default().push(&event.id));
        for outcome in &self.outcomes {
            let written = written.remove(outcome.command.as_str()).unwrap_or_default();
            if outcome.events != written {
                faults.push(format!("the outcome of {} names {:?}, written are {written:?}", outcome.command, outcome.events));
            }
        }
        written.keys().for_each(|command| faults.push(format!("{command} has events and no outcome")));
    }

    /// The table's sequences are dense for each tenant, and no event is there twice.
    fn check_table(&self, faults: &mut Vec<String>) {
        let mut last: HashMap<&str, u64> = HashMap::new();
        let mut ids = BTreeSet::new();
        for event in &self.events {
            step("events", &mut last, &event.tenant, event.sequence, faults);
            if !ids.insert(&event.id) {
                faults.push(format!("events has {} twice", event.id));
            }
        }
    }

    /// The stream has each event once, as it was written, dense and rising for each tenant.
    fn check_stream(&self, faults: &mut Vec<String>) {
        let mut last: HashMap<&str, u64> = HashMap::new();
        let mut missing: HashMap<&str, &Recorded> = self.events.iter().map(|event| (event.id.as_str(), event)).collect();
        let mut seen = BTreeSet::new();
        for message in &self.stream {
            step("EVENTS", &mut last, &message.tenant, message.sequence, faults);
            if !seen.insert(&message.id) {
                faults.push(format!("EVENTS has {} twice", message.id));
                continue;
            }
            match missing.remove(message.id.as_str()) {
                None => faults.push(format!("EVENTS has {}, the table does not", message.id)),
                Some(event) if event.body != message.body => faults.push(format!("EVENTS has another {} than the table", message.id)),
                Some(event) if message.subject != format!("evt.{}.{}", event.tenant, event.event_type) => {
                    faults.push(format!("{} was published on {}", message.id, message.subject));
                }
                Some(_) => {}
            }
        }
        missing.keys().for_each(|id| faults.push(format!("EVENTS misses {id}")));
    }

    /// The audit has each event once, numbered without gaps for each tenant.
    fn check_audit(&self, faults: &mut Vec<String>) {
        let Some(audit) = &self.audit else { return };
        let mut last: HashMap<&str, u64> = HashMap::new();
        let mut missing: HashMap<&str, &str> = self.events.iter().map(|event| (event.id.as_str(), event.tenant.as_str())).collect();
        for row in audit {
            step("the audit", &mut last, &row.tenant, row.n, faults);
            match missing.remove(row.event.as_str()) {
                None => faults.push(format!("the audit has {} twice, or of nothing", row.event)),
                Some(tenant) if tenant != row.tenant => faults.push(format!("the audit has {} under {}", row.event, row.tenant)),
                Some(_) => {}
            }
        }
        missing.keys().for_each(|id| faults.push(format!("the audit misses {id}")));
    }

    /// A version counts the events that changed the state: none is applied twice, none is left out.
    fn check_versions(&self, faults: &mut Vec<String>) {
        let mut counted: BTreeMap<(String, String, String), u64> = BTreeMap::new();
        for event in &self.events {
            let key = (event.tenant.clone(), event.aggregate.0.clone(), event.aggregate.1.clone());
            let count = counted.entry(key).or_default();
            // An attempt leaves a trace and no change: the events of the topic `role`.
            *count += u64::from(!event.event_type.starts_with("role."));
            if event.version != *count {
                faults.push(format!("{} has version {}, {count} is right", event.id, event.version));
            }
        }
        counted.retain(|_, count| *count > 0);
        for (key, count) in &counted {
            let version = self.versions.get(key).copied().unwrap_or_default();
            if version != *count {
                faults.push(format!("{key:?} has version {version}, {count} events changed it"));
            }
        }
        self.versions.keys().filter(|key| !counted.contains_key(key)).for_each(|key| faults.push(format!("{key:?} has a state and no event")));
    }
}

/// The next number of a tenant must be the last one and one.
fn step<'a>(place: &str, last: &mut HashMap<&'a str, u64>, tenant: &'a str, number: u64, faults: &mut Vec<String>) {
    let last = last.entry(tenant).or_default();
    if number != *last + 1 {
        faults.push(format!("{place}: {number} of {tenant} comes after {last}"));
    }
    *last = number;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tenants, three commands, four events: nothing is wrong.
    fn good() -> History {
        let event = |tenant: &str, sequence: u64, command: &str, event_type: &str, version: u64| Recorded {
            tenant: tenant.into(),
            sequence,
            id: format!("evt-{tenant}-{sequence}"),
            command: command.into(),
            event_type: event_type.into(),
            aggregate: ("tenant".into(), tenant.into()),
            version,
            body: format!("{{{sequence}}}"),
        };
        let events = vec![
            event("a", 1, "c1", "tenant.created", 1),
            event("a", 2, "c1", "role.assignment_attempted", 1),
            event("a", 3, "c2", "tenant.updated", 2),
            event("b", 1, "c3", "tenant.created", 1),
        ];
        let published = |event: &Recorded| Published {
            subject: format!("evt.{}.{}", event.tenant, event.event_type),
            tenant: event.tenant.clone(),
            sequence: event.sequence,
            id: event.id.clone(),
            body: event.body.clone(),
        };
        let outcome = |command: &str| Outcome {
            command: command.into(),
            status: "succeeded".into(),
            events: events.iter().filter(|event| event.command == command).map(|event| event.id.clone()).collect(),
        };
        History {
            accepted: ["c1", "c2", "c3"].map(str::to_owned).into(),
            outcomes: ["c1", "c2", "c3"].map(outcome).into(),
            stream: [0, 3, 1, 2].map(|index| published(&events[index])).into(),
            audit: Some(events.iter().map(|event| Audited { tenant: event.tenant.clone(), n: event.sequence, event: event.id.clone() }).collect()),
            versions: [("a", 2), ("b", 1)].map(|(id, version)| ((id.into(), "tenant".into(), id.into()), version)).into(),
            events,
        }
    }

    /// The faults after something was done to the good history.
    fn after(spoil: impl FnOnce(&mut History)) -> String {
        let mut history = good();
        spoil(&mut history);
        history.faults().join("\n")
    }

    fn assert_says(faults: &str, words: &str) {
        assert!(faults.contains(words), "{words:?} is not among the faults:\n{faults}");
    }

    #[test]
    fn a_good_history_has_no_faults() {
        assert_eq!(good().faults(), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_says(&after(|history| drop(history.outcomes.remove(1))), "c2 was accepted and has no outcome");
        assert_says(&after(|history| drop(history.outcomes.remove(1))), "c2 has events and no outcome");
        assert_says(&after(|history| drop(history.events.remove(1))), "events: 3 of a comes after 1");
        assert_says(&after(|history| drop(history.stream.remove(2))), "EVENTS misses evt-a-2");
        assert_says(&after(|history| drop(history.stream.pop())), "EVENTS misses evt-a-3");
        assert_says(&after(|history| drop(history.audit.as_mut().unwrap().pop())), "the audit misses evt-b-1");
        assert_says(&after(|history| history.versions.retain(|key, _| key.0 != "a")), "has version 0, 2 events changed it");
    }

    #[test]
    fn what_is_there_twice_is_named() {
        assert_says(&after(|history| history.outcomes.push(history.outcomes[0].clone())), "c1 has 2 outcomes");
        assert_says(&after(|history| history.events.insert(1, history.events[0].clone())), "events has evt-a-1 twice");
        assert_says(&after(|history| history.stream.push(history.stream[0].clone())), "EVENTS has evt-a-1 twice");
        let again = |history: &mut History| {
            let audit = history.audit.as_mut().unwrap();
            audit.push(audit[0].clone());
        };
        assert_says(&after(again), "the audit has evt-a-1 twice");
        let applied_twice = |history: &mut History| *history.versions.values_mut().next().unwrap() += 1;
        assert_says(&after(applied_twice), "has version 3, 2 events changed it");
    }

    #[test]
    fn what_is_in_the_wrong_place_is_named() {
        assert_says(&after(|history| history.stream.swap(2, 3)), "EVENTS: 3 of a comes after 1");
        assert_says(&after(|history| history.events[1].sequence = 5), "events: 5 of a comes after 1");
        assert_says(&after(|history| history.audit.as_mut().unwrap()[3].tenant = "a".into()), "the audit has evt-b-1 under a");
        assert_says(&after(|history| history.stream[0].body = "{}".into()), "EVENTS has another evt-a-1 than the table");
        assert_says(&after(|history| history.stream[0].subject = "evt.b.tenant.created".into()), "evt-a-1 was published on evt.b.tenant.created");
        assert_says(&after(|history| history.events[3].command = "c2".into()), "the outcome of c3 names");
        assert_says(&after(|history| history.events[2].version = 1), "evt-a-3 has version 1, 2 is right");
    }
}
