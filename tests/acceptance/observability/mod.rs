//! What the roles tell Prometheus and an OTLP collector, and the alarms that are made of it.

mod alarms;
mod files;
mod moving;
mod otlp;

use std::collections::BTreeMap;

use crate::harness::{Stack, wait_until};

/// One line of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The lines of `/metrics`. No value of ours has a comma, a quote or a brace.
fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let pairs = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).unwrap();
        Sample { name: name.to_owned(), labels: pairs.map(pair).collect(), value: value.parse().unwrap() }
    };
    lines.map(sample).collect()
}

/// The sum of a metric's series that have these labels; none if there is no such series.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits =
        |sample: &Sample| sample.name == name && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value));
    samples(text).into_iter().filter(fits).map(|sample| sample.value).reduce(|sum, value| sum + value)
}

/// Waits until a role's metric is as it should be.
async fn shows(stack: &Stack, role: &str, name: &str, labels: &[(&str, &str)], check: impl Fn(f64) -> bool) {
    wait_until(&format!("{name}{labels:?} of {role}"), async || value(&stack.metrics(role), name, labels).is_some_and(&check)).await;
}

/// Waits until a counter, or the count of a histogram, has moved.
async fn moves(stack: &Stack, role: &str, name: &str, labels: &[(&str, &str)]) {
    shows(stack, role, name, labels, |value| value > 0.0).await;
}
