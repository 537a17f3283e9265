//! What an entry may say: nothing that loses messages, that nobody would ever notice, or that is somebody else's.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use aggregates::registry;
use runtime::consume::Order;
use subjects::{FilterParts, PLATFORM, user};

use super::Entry;

/// The longest name: it stands in subjects, in a database role's name and in file names.
const NAME_LENGTH: usize = 32;
/// Filters of one durable.
const FILTERS: usize = 32;
/// Delays that are spelled out.
const DELAYS: usize = 16;
const ACK_WAIT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const PENDING: RangeInclusive<u32> = 1..=65_536;
/// The longest delay between two tries.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Names that are, or would make, users or database roles of the stack.
const TAKEN: [&str; 9] = [user::GATEWAY, user::WORKER, user::PROVISIONER, user::OPERATOR, "system", "owner", "migrate", "nats", "postgres"];

/// Everything that is wrong with an entry beside those before it.
pub(super) fn entry(entry: &Entry, before: &[Entry]) -> Vec<String> {
    let mut wrong = names(entry, before);
    wrong.extend(filters(&entry.filters));
    wrong.extend(settings(entry));
    wrong
}

fn names(entry: &Entry, before: &[Entry]) -> Vec<String> {
    let mut wrong = Vec::new();
    if !is_name(entry.name, b'-', NAME_LENGTH) {
        wrong.push(format!("{:?} is no name: small letters, digits and single dashes, a letter first, {NAME_LENGTH} at most", entry.name));
    }
    if TAKEN.contains(&entry.name) {
        wrong.push("it is a user of the stack".into());
    }
    if before.iter().any(|other| other.name == entry.name) {
        wrong.push("it is declared twice: two that share a durable would share the events".into());
    }
    for (what, text) in [("owner", &entry.owner), ("about", &entry.about)] {
        if text.is_empty() {
            wrong.push(format!("{what} is empty"));
        }
    }
    if let Some(schema) = &entry.schema {
        if !is_name(schema, b'_', NAME_LENGTH) || ["public", "information_schema"].contains(&schema.as_str()) || schema.starts_with("pg_") {
            wrong.push(format!("{schema:?} is no schema of its own: small letters, digits and single underscores, and not one of PostgreSQL's"));
        }
        if let Some(other) = before.iter().find(|other| other.schema.as_ref() == Some(schema)) {
            wrong.push(format!("schema {schema} is {}'s", other.name));
        }
    }
    wrong
}

fn is_name(text: &str, joint: u8, longest: usize) -> bool {
    let (mut last, first) = (joint, text.bytes().next());
    first.is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= longest
        && text.bytes().all(|byte| {
            let fits = byte.is_ascii_lowercase() || byte.is_ascii_digit() || (byte == joint && last != joint);
            last = byte;
            fits
        })
        && last != joint
}

fn filters(filters: &[&'static str]) -> Vec<String> {
    let mut wrong = Vec::new();
    if filters.is_empty() {
        wrong.push("it has no filter, and would wait for ever".into());
    }
    if filters.len() > FILTERS {
        wrong.push(format!("it has {} filters, and {FILTERS} are the most: use wildcards", filters.len()));
    }
    wrong.extend(filters.iter().filter_map(|filter| filter_alone(filter)));
    for (place, one) in filters.iter().enumerate() {
        if let Some(other) = filters[..place].iter().find(|other| subjects::matches(one, other) || subjects::matches(other, one)) {
            wrong.push(format!("{other:?} and {one:?} overlap, which NATS refuses: the wider one is enough"));
        }
    }
    wrong
}

/// What is wrong with one filter.
fn filter_alone(filter: &str) -> Option<String> {
    let parts = match FilterParts::parse(filter) {
        Ok(parts) => parts,
        Err(error) => return Some(format!("{filter:?} is {error}; a tenant is named by its id, or {PLATFORM}")),
    };
    if registry::EVENTS.iter().any(|event| parts.takes(event.event_type)) {
        return None;
    }
    Some(format!("{filter:?} matches no event of the registry, and would wait for ever{}", nearest(&parts)))
}

/// What may have been meant.
fn nearest(parts: &FilterParts<'_>) -> String {
    let wanted = format!("{}.{}", parts.topic.unwrap_or_default(), parts.event.unwrap_or_default());
    let nearest = registry::EVENTS.iter().map(|event| (distance(&wanted, event.event_type), event.event_type)).min();
    match nearest {
        Some((distance, event_type)) if distance <= 1 + wanted.len() / 4 => format!("; the nearest is {event_type}"),
        _ => {
            let topics: BTreeSet<&str> = registry::EVENTS.iter().filter_map(|event| event.event_type.split('.').next()).collect();
            format!("; topics are {}", topics.into_iter().collect::<Vec<_>>().join(", "))
        }
    }
}

/// How many letters must be changed, added or taken away to come from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (place, letter) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = place + 1;
        for (column, other) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

fn settings(entry: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    if !ACK_WAIT.contains(&entry.ack_wait) {
        wrong.push(format!(
            "ack_wait_s is {} and can be 1 to 3600: with less an event is delivered again while it is still worked on",
            entry.ack_wait.as_secs_f64()
        ));
    }
    if entry.max_deliver == 0 {
        wrong.push("max_deliver is 0: every event would be a dead letter without having been tried".into());
    }
    if !PENDING.contains(&entry.max_ack_pending) {
        wrong.push(format!("max_ack_pending is {} and can be 1 to 65536", entry.max_ack_pending));
    }
    if entry.backoff.is_empty() {
        wrong.push("backoff_s is empty: an event that failed would be tried again at once, and be a dead letter before anything could mend".into());
    }
    if entry.backoff.len() > DELAYS || entry.backoff.iter().any(|delay| *delay > LONGEST) {
        wrong.push(format!("backoff_s has {DELAYS} delays at most, each a day at most"));
    }
    if entry.order == Order::Aggregate && !entry.is_ours() && entry.schema.is_none() {
        wrong.push("order = \"aggregate\" needs a schema: it keeps its position in PostgreSQL, in the transaction of its effects".into());
    }
    if entry.order == Order::Aggregate && entry.filters.len() > 1 {
        wrong.push(
            "order = \"aggregate\" takes one filter: its program makes its own readers, and NATS limits what a reader may take by one filter alone; \
             take a wider one and pass over what is not wanted"
                .into(),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_letters() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("acb", "abc"), distance("kitten", "sitting")), (3, 0, 2, 3));
    }
}
