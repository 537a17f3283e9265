//! The table "event × consumer, seen": what the stream has, and what each consumer says it has handled.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use aggregates::registry::{self, EventEntry};
use chancery::role::Consumer;
use serde_json::Value;

use crate::harness::Stack;

/// How long the last consumer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often something was seen.
type Counts = BTreeMap<String, u64>;

/// What was seen of each event.
pub(super) struct Table {
    published: Counts,
    handled: Vec<(Consumer, Counts)>,
}

/// What is to be said about an event and a consumer.
enum Cell {
    /// As often as it was published, or more.
    Seen(u64),
    /// It is not for this consumer.
    NotForIt,
    /// It is, and not all of them came.
    Missing,
    /// It came, and nobody declared that.
    Undeclared,
}

impl Table {
    fn of(stack: &Stack, events: &[Value]) -> Self {
        let mut published = Counts::new();
        for event in events {
            *published.entry(event["type"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let handled = Consumer::ALL.map(|consumer| (consumer, handled(&stack.metrics(consumer.name()), consumer))).into();
        Self { published, handled }
    }

    fn published(&self, entry: &EventEntry) -> u64 {
        self.published.get(entry.event_type).copied().unwrap_or_default()
    }

    fn cell(&self, entry: &EventEntry, consumer: Consumer, handled: &Counts) -> Cell {
        let (published, handled) = (self.published(entry), handled.get(entry.event_type).copied().unwrap_or_default());
        match entry.consumers.contains(&consumer.name()) {
            true if handled >= published && published > 0 => Cell::Seen(handled),
            true => Cell::Missing,
            false if handled > 0 => Cell::Undeclared,
            false => Cell::NotForIt,
        }
    }

    /// Everything that is wrong with it, by name.
    pub(super) fn holes(&self) -> Vec<String> {
        let mut holes = Vec::new();
        for entry in registry::EVENTS {
            if self.published(entry) == 0 {
                holes.push(format!(
                    "{} is not in the stream: the story of tests/acceptance/consumers/catalogue/story.rs does not cause it",
                    entry.event_type
                ));
                continue;
            }
            for (consumer, handled) in &self.handled {
                match self.cell(entry, *consumer, handled) {
                    Cell::Missing => holes.push(format!("{} did not handle every {}", consumer.name(), entry.event_type)),
                    Cell::Undeclared => holes.push(format!("{} handled {}, and the registry does not say so", consumer.name(), entry.event_type)),
                    Cell::Seen(_) | Cell::NotForIt => {}
                }
            }
        }
        let unknown = self.published.keys().filter(|event_type| registry::event(event_type).is_none());
        holes.extend(unknown.map(|event_type| format!("the registry does not know {event_type}, which is in the stream")));
        holes
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EVENT: usize = 30;
        let width = |consumer: Consumer| consumer.name().len().max(10) + 2;
        write!(f, "\n{:EVENT$}{:>10}", "event", "EVENTS")?;
        for (consumer, _) in &self.handled {
            write!(f, "{:>1$}", consumer.name(), width(*consumer))?;
        }
        writeln!(f)?;
        for entry in registry::EVENTS {
            let published = match self.published(entry) {
                0 => "MISSING".to_owned(),
                number => format!("✓ {number}"),
            };
            write!(f, "{:EVENT$}{published:>10}", entry.event_type)?;
            for (consumer, handled) in &self.handled {
                let text = match self.cell(entry, *consumer, handled) {
                    Cell::Seen(number) => format!("✓ {number}"),
                    Cell::NotForIt => "–".to_owned(),
                    Cell::Missing => "MISSING".to_owned(),
                    Cell::Undeclared => "UNDECLARED".to_owned(),
                };
                write!(f, "{text:>0$}", width(*consumer))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The table, once it has no hole, or as it stands when patience is over.
pub(super) async fn complete(stack: &Stack, events: &[Value]) -> Table {
    let begin = Instant::now();
    loop {
        let table = Table::of(stack, events);
        if table.holes().is_empty() || begin.elapsed() > PATIENCE {
            return table;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn every_hole_of_the_table_has_its_name() {
    let all = |without: &str| -> Counts {
        registry::EVENTS.iter().filter(|entry| entry.event_type != without).map(|entry| (entry.event_type.to_owned(), 2)).collect()
    };
    let declared = |consumer: Consumer| -> Counts {
        let rows = registry::EVENTS.iter().filter(|entry| entry.consumers.contains(&consumer.name()));
        rows.map(|entry| (entry.event_type.to_owned(), 2)).collect()
    };
    let whole = || Table { published: all(""), handled: Consumer::ALL.map(|consumer| (consumer, declared(consumer))).into() };
    assert_eq!(whole().holes(), Vec::<String>::new());
    let holes = Table { published: all("user.created"), ..whole() }.holes();
    assert!(holes.len() == 1 && holes[0].starts_with("user.created is not in the stream"), "{holes:?}");
    let mut late = whole();
    late.handled[1].1.insert("user.deleted".into(), 1);
    assert_eq!(late.holes(), ["audit did not handle every user.deleted"]);
    assert!(late.to_string().contains("MISSING"));
    let mut unasked = whole();
    unasked.handled.iter_mut().find(|(consumer, _)| *consumer == Consumer::Onboarding).unwrap().1.insert("user.deleted".into(), 1);
    assert_eq!(unasked.holes(), ["onboarding handled user.deleted, and the registry does not say so"]);
    let mut foreign = whole();
    foreign.published.insert("moon.landed".into(), 1);
    assert_eq!(foreign.holes(), ["the registry does not know moon.landed, which is in the stream"]);
}

/// What a consumer says it has handled, by type: `chancery_consumer_handled_total{consumer="audit",type="tenant.created"} 3`.
fn handled(metrics: &str, consumer: Consumer) -> Counts {
    let mut counts = Counts::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("chancery_consumer_handled_total{")) {
        let (labels, number) = line.rsplit_once("} ").unwrap();
        assert!(labels.contains(&format!("consumer=\"{}\"", consumer.name())), "{labels}");
        let event_type = labels.split("type=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        counts.insert(event_type.to_owned(), number.trim().parse::<f64>().unwrap() as u64);
    }
    counts
}
