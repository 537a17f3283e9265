//! Dashboard, alarms and documentation speak of metrics, labels and values that the running roles show, and of no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use chancery::role::Consumer;
use serde_json::Value;

use super::{Sample, samples};
use crate::{
    consumers::{audited, tenant},
    harness::Stack,
};

/// Labels that Prometheus adds to whatever it asks for.
const ADDED: [&str; 2] = ["job", "instance"];
/// Labels whose values are all there from the start.
const CLOSED: [&str; 7] = ["stage", "fate", "reason", "failure", "change", "stream", "from"];

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What all roles show together.
struct Shown {
    samples: Vec<Sample>,
    /// The type of each metric.
    types: BTreeMap<String, String>,
}

impl Shown {
    async fn by_the_roles() -> Self {
        let stack = Stack::builder().patient().consumers(&[Consumer::Audit]).env("CHANCERY_BACKLOG_LOOK_MS", 50).start().await;
        tenant(&stack).await;
        audited(&stack).await;
        let text: String = ["gateway", "worker-1", "audit"].map(|role| stack.metrics(role)).concat();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        Self { samples: samples(&text), types: types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect() }
    }

    /// The labels of a metric or of a line of a histogram; none if nobody shows it.
    fn labels(&self, name: &str) -> Option<BTreeSet<String>> {
        let of = self.samples.iter().filter(|sample| sample.name == name);
        of.map(|sample| sample.labels.keys().cloned().collect::<BTreeSet<_>>()).reduce(|all, some| &all | &some)
    }

    /// Holds an expression of PromQL against what is shown; returns the labels that its result can have.
    fn check(&self, expression: &str) -> BTreeSet<String> {
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
        let mut known: BTreeSet<String> = ADDED.map(str::to_owned).into();
        let mut uses_some = expression.starts_with("up{");
        for (start, _) in expression.match_indices("chancery_") {
            let rest = &expression[start..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let labels = self.labels(name).unwrap_or_else(|| panic!("nobody shows {name}: {expression}"));
            let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(matchers, _)| matchers);
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let (label, values) = matcher.split_once(['=', '!']).unwrap();
                assert!(labels.contains(label), "{name} has no label {label}: {expression}");
                let values = values.trim_start_matches(['=', '~']).trim_matches('"');
                for value in values.split('|').filter(|_| CLOSED.contains(&label)) {
                    let is_shown = |sample: &Sample| sample.name == name && sample.labels.get(label).is_some_and(|found| found == value);
                    assert!(self.samples.iter().any(is_shown), "no {name} has {label}={value}: {expression}");
                }
            }
            known.extend(labels);
            uses_some = true;
        }
        assert!(uses_some, "it asks for nothing of ours: {expression}");
        let mut result = BTreeSet::new();
        for by in expression.split(" by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(known.contains(label), "nothing has a label {label}: {expression}");
                result.insert(label.to_owned());
            }
        }
        if expression.contains(" by (") { result } else { known }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_alarms_and_documentation_speak_of_what_the_roles_show() {
    let shown = Shown::by_the_roles().await;

    let rules: Value = serde_norway::from_str(&read("deploy/alerts.yaml")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 15, "{}", rules.len());
    for rule in rules {
        let labels = shown.check(rule["expr"].as_str().unwrap());
        for label in rule["annotations"]["summary"].as_str().unwrap().split("$labels.").skip(1) {
            let label = label.split([' ', '}']).next().unwrap();
            assert!(labels.contains(label), "the summary of {} names {label}, which its result does not have", rule["alert"]);
        }
    }

    let board: Value = serde_json::from_str(&read("deploy/grafana/dashboards/chancery.json")).unwrap();
    let mut asked = String::new();
    let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    for target in panels.flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        let labels = shown.check(expression);
        asked.push_str(expression);
        for label in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
            let label = label.split("}}").next().unwrap();
            assert!(labels.contains(label), "the legend names {label}, which the result does not have: {expression}");
        }
    }
    let unseen: Vec<&String> = shown.types.keys().filter(|name| !asked.contains(name.as_str())).collect();
    assert_eq!(unseen, Vec::<&String>::new(), "the dashboard shows nothing of them");

    documentation(&shown);
}

/// The tables of docs/observability.md name every metric with its type and its labels.
fn documentation(shown: &Shown) {
    let page = read("docs/observability.md");
    let mut documented: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `chancery_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<String>>();
        for name in quoted(cells[1]) {
            documented.insert(name, (cells[2].to_owned(), quoted(cells[3])));
        }
    }
    for (name, kind) in &shown.types {
        let (said, labels) = documented.get(name).unwrap_or_else(|| panic!("docs/observability.md has no row for {name}"));
        assert_eq!(said, kind, "the type of {name}");
        let line = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
        assert_eq!(*labels, shown.labels(&line).unwrap(), "the labels of {name}");
    }
    let gone: Vec<&String> = documented.keys().filter(|name| !shown.types.contains_key(*name)).collect();
    assert_eq!(gone, Vec::<&String>::new(), "docs/observability.md has rows for what nobody shows");
}
