//! The documents made from the code: `docs/events.md`, `docs/problems/<code>.md` and `docs/configuration.md` are what the registry, the
//! gateway and the configuration say. Written anew by `CHANCERY_RECORD=1 cargo test -p chancery --test docs`.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected must fail at once")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use aggregates::registry::{self, EventEntry};
use chancery::role::Consumer;
use command_gateway::problem::Code;
use runtime::{Config, config};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Compares files below `docs/` with what they should be, or writes them.
fn compare(present: &BTreeMap<String, String>) {
    let docs = root().join("docs");
    for (name, text) in present {
        let file = docs.join(name);
        if std::env::var_os("CHANCERY_RECORD").is_some_and(|value| value == "1") {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        let different = kept.lines().zip(text.lines()).find(|(kept, text)| kept != text);
        assert!(kept == *text, "docs/{name} has drifted ({different:?}): CHANCERY_RECORD=1 cargo test -p chancery --test docs writes it anew");
    }
}

/// The text of every Rust file below a folder, tests left out.
fn sources(folder: &Path, text: &mut String) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            sources(&entry, text);
        } else if entry.extension().is_some_and(|kind| kind == "rs") {
            text.push_str(&fs::read_to_string(entry).unwrap());
        }
    }
}

/// A field of an event's data: its name in JSON and its doc line.
type Field = (String, String);

/// What the doc comments at an event's variant say: its own line, and its fields.
fn described(source: &str, event_type: &str) -> (String, Vec<Field>) {
    let tag = format!("#[serde(rename = \"{event_type}\")]");
    let (before, after) = source.split_once(&tag).unwrap_or_else(|| panic!("no variant has {tag}"));
    let about =
        before.trim_end().lines().last().and_then(|line| line.trim().strip_prefix("/// ")).unwrap_or_else(|| panic!("{event_type} has no doc line"));
    let body = after.split("\n    },").next().unwrap();
    let mut fields = Vec::new();
    let mut doc = String::new();
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            doc = if doc.is_empty() { text.to_owned() } else { format!("{doc} {text}") };
        } else if let Some((name, _)) = line.split_once(": ").filter(|(name, _)| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())) {
            fields.push((camel(name), std::mem::take(&mut doc)));
        }
    }
    (about.to_owned(), fields)
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("`{item}`")).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// The commands that may emit an event.
fn commands(entry: &EventEntry) -> Vec<String> {
    let emitting = registry::EMITS.iter().filter(|emits| emits.events.contains(&entry.event_type));
    emitting.map(|emits| format!("{}.{}", emits.kind, emits.command)).collect()
}

fn event(source: &str, entry: &EventEntry) -> String {
    let (about, fields) = described(source, entry.event_type);
    let recorded = root().join(format!("workers/aggregates/recorded/events/{}.json", entry.event_type));
    let sample = fs::read_to_string(recorded).unwrap();
    let value: serde_json::Value = serde_json::from_str(&sample).unwrap();
    let in_sample: BTreeSet<&str> = value["data"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        in_sample,
        fields.iter().map(|(name, _)| name.as_str()).collect(),
        "{}: the variant's fields and the recorded sample",
        entry.event_type
    );
    let commands = commands(entry);
    let mut text = format!("\n## {}\n\n{about}\n\n", entry.event_type);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "- {name}: {value}");
    };
    line("subject", format!("`evt.<tenantId>.{}`", entry.event_type));
    line("topic and aggregate", format!("`{}`, `{}`", entry.event_type.split('.').next().unwrap(), entry.kind));
    line("emitted by", list(commands.iter().map(String::as_str)));
    line("consumers", list(entry.consumers.iter().copied()));
    line("audit action", format!("`{}`", entry.audit_action));
    line("personal fields", list(entry.personal.iter().copied()));
    line("JSON Schema of `data`", format!("[schemas/events/{0}.json](schemas/events/{0}.json)", entry.event_type));
    text.push_str("\n| field of `data` | meaning |\n|---|---|\n");
    for (name, about) in fields {
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    let _ = write!(text, "\n```json\n{sample}```\n");
    text
}

#[test]
fn the_docs_of_events_are_what_the_registry_says() {
    let mut source = String::new();
    sources(&root().join("workers/aggregates/src"), &mut source);
    let mut text = String::from(
        "# Events\n\nMade from the registry (`workers/aggregates/src/registry.rs`), the doc comments of the events and the recorded samples; see \
         `tests/docs.rs`. Do not edit.\n\nEvery event is a message of the stream `EVENTS` in the envelope that \
         [schemas/envelope.json](schemas/envelope.json) describes; below is its `data`,\nwith everything optional filled. Personal fields are JSON \
         pointers into `data`.\n\n| event | emitted by |",
    );
    for consumer in Consumer::ALL {
        let _ = write!(text, " {} |", consumer.name());
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(Consumer::ALL.len()));
    text.push('\n');
    for entry in registry::EVENTS {
        let commands = commands(entry);
        let _ = write!(text, "| [`{}`](#{}) | {} |", entry.event_type, entry.event_type.replace('.', ""), list(commands.iter().map(String::as_str)));
        for consumer in Consumer::ALL {
            let _ = write!(text, " {} |", if entry.consumers.contains(&consumer.name()) { "×" } else { "" });
        }
        text.push('\n');
    }
    for entry in registry::EVENTS {
        text.push_str(&event(&source, entry));
    }
    compare(&[("events.md".to_owned(), text)].into());
}

#[test]
fn the_rules_for_consumers_name_every_right_header_and_reason() {
    use chancery::{
        manifest::Manifest,
        privilege::nats::{User, permissions},
    };
    use subjects::header;
    const SAMPLE: &str = "sample-team";
    let text = fs::read_to_string(root().join("docs/consumers.md")).unwrap();
    let rights = permissions(Manifest::with_examples(), User::Team(SAMPLE));
    let rights = rights.publish.iter().chain(&rights.subscribe).map(|subject| subject.replace(SAMPLE, "<you>"));
    let headers = [
        header::MESSAGE_ID,
        header::TENANT,
        header::TYPE,
        header::AGGREGATE_ID,
        header::SEQUENCE,
        header::LATE,
        header::TRACEPARENT,
        header::TRACESTATE,
        header::CONTENT_TYPE,
        header::CONSUMER,
        header::REASON,
        header::ERROR,
        header::DELIVERIES,
        header::ORIGIN_STREAM,
        header::ORIGIN_SEQUENCE,
    ];
    let reasons = ["undecodable", "mismatch", "poison", "exhausted"];
    let words = rights.chain(headers.into_iter().chain(reasons).map(str::to_owned));
    let missing: Vec<String> = words.filter(|word| !text.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "docs/consumers.md says nothing of {missing:?}");
}

#[test]
fn the_docs_of_problems_are_what_the_gateway_serves() {
    let mut index = String::from(
        "# Problems\n\nEvery answer that is not a success has one of these codes. Made from the gateway, which serves the same pages under \
         `/problems/<code>`; see `tests/docs.rs`. Do not edit.\n\n| code | status | meaning |\n|---|---|---|\n",
    );
    let mut codes: Vec<Code> = Code::all().collect();
    codes.sort_by_key(|code| (code.status(), code.name()));
    for code in &codes {
        let _ = writeln!(index, "| [`{0}`]({0}.md) | {1} | {2} |", code.name(), code.status(), code.title());
    }
    let mut files: BTreeMap<String, String> = codes.iter().map(|code| (format!("problems/{}.md", code.name()), code.markdown())).collect();
    files.insert("problems/README.md".into(), index);
    compare(&files);
    let kept = fs::read_dir(root().join("docs/problems")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stale: Vec<String> = kept.filter(|name| !files.contains_key(&format!("problems/{name}"))).collect();
    assert!(stale.is_empty(), "docs/problems has {stale:?}, and there is no such code");
}

/// Variables that are read before there is a configuration, or by tools and tests.
const ELSEWHERE: [(&str, &str); 18] = [
    ("CHANCERY_PROGRAM", "the program `chancery` whose servers a test with the harness has; the checkout's, built when it is needed, unless named"),
    ("CHANCERY_DOCTOR_ROLES", "where roles say how they are, as NAME=HOST:PORT with commas between; for `doctor`"),
    ("CHANCERY_DOCTOR_MONITORS", "where nats-servers' monitoring listens, as HOST:PORT with commas between; for `doctor`"),
    ("CHANCERY_ROLE_PASSWORD", "the password `migrate` gives the database roles; also as `CHANCERY_ROLE_PASSWORD_FILE`"),
    ("CHANCERY_NATS_SERVER", "a nats-server binary for `up`, `bench` and the tests, instead of the one found or fetched"),
    ("CHANCERY_POSTGRES_BIN", "a folder with PostgreSQL's programs for `up`, `bench` and the tests, instead of the one found or fetched"),
    ("CHANCERY_NATS_STORE", "how much each nats-server of a cluster may store; for `init`"),
    ("CHANCERY_NATS_MONITOR", "where the monitoring of a cluster's nats-servers listens; for `init`"),
    ("CHANCERY_IMAGE", "the image of every role; for `compose.yaml`, see compose.md"),
    ("CHANCERY_GATEWAY_1_PORT", "the first gateway's port on this machine; for `compose.yaml`"),
    ("CHANCERY_GATEWAY_2_PORT", "the second gateway's port on this machine; for `compose.yaml`"),
    ("CHANCERY_NATS_IMAGE", "the image of the nats-servers; for `compose.yaml`"),
    ("CHANCERY_POSTGRES_IMAGE", "the image of PostgreSQL; for `compose.yaml`"),
    ("CHANCERY_NATS_MEMORY", "memory of each nats-server; for `compose.yaml`, see compose.md"),
    ("CHANCERY_POSTGRES_MEMORY", "memory of PostgreSQL; for `compose.yaml`, see compose.md"),
    ("CHANCERY_PLANTED", "the defect a build with the feature `planted` has; such builds exist for `chaos --planted` alone"),
    ("CHANCERY_RECORD", "`1` lets the tests record JSON and these documents anew"),
    ("CHANCERY_TEST_COMMANDS", "commands in each of the load tests"),
];

/// Every variable a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let starts = text.match_indices("CHANCERY_").map(|(start, _)| text[start..].chars().take_while(|c| is_part(*c)).collect::<String>());
    starts.map(|name| name.trim_end_matches('_').trim_end_matches("_FILE").to_owned()).filter(|name| name != "CHANCERY").collect()
}

#[test]
fn the_docs_of_the_configuration_are_what_is_read() {
    let mut text = String::from(
        "# Configuration\n\nEvery setting is a variable, read once at start. Made from the doc lines of `workers/runtime/src/config.rs`; see \
         `tests/docs.rs`. Do not edit. A secret `X` may\nalso be in a file that `X_FILE` names. `chancery config` prints what each comes to and where \
         from, secrets redacted.\n\n| variable | takes | default | meaning |\n|---|---|---|---|\n",
    );
    for (variable, setting) in config::variables().iter().zip(Config::settings(&|_| None).unwrap()) {
        let in_words = variable.about.split_once("Default: ").map(|(_, words)| words.trim_end_matches('.').to_owned());
        let default = in_words.or_else(|| setting.value.map(|value| format!("`{value}`"))).unwrap_or_default();
        let about = variable.about.replace('|', "\\|");
        let name = if variable.has_file { format!("`{0}`, `{0}_FILE`", variable.name) } else { format!("`{}`", variable.name) };
        let _ = writeln!(text, "| {name} | {} | {default} | {about} |", setting.takes);
    }
    text.push_str("\n## Outside of it\n\n| variable | meaning |\n|---|---|\n");
    for (name, about) in ELSEWHERE {
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    compare(&[("configuration.md".to_owned(), text)].into());

    let mut source = String::new();
    for folder in ["subjects", "command-gateway", "chancery", "workers", "tests"] {
        sources(&root().join(folder), &mut source);
    }
    let documented = config::variables().into_iter().map(|variable| variable.name).chain(ELSEWHERE.iter().map(|(name, _)| *name));
    let documented: BTreeSet<String> = documented.map(|name| name.trim_end_matches("_FILE").to_owned()).collect();
    let unknown: Vec<String> = named(&source).difference(&documented).cloned().collect();
    assert!(unknown.is_empty(), "the sources name {unknown:?}, which docs/configuration.md does not know");
}

#[expect(dead_code, reason = "what tries the table on servers is not needed here")]
#[path = "acceptance/privilege/table.rs"]
mod privileges;

#[test]
fn the_docs_of_privileges_are_the_table_that_the_servers_are_held_against() {
    use chancery::migrate::ROLES;
    use privileges::{STATEMENTS, STREAM_REQUESTS, STREAMS, SUBJECTS, TABLES, Verb, rights, users};
    let names = |who: &[&str]| if who.is_empty() { "nobody".to_owned() } else { who.join(", ") };
    let cell = |text: &str| text.replace('|', "\\|");
    let mut text = String::from(
        "# Privileges\n\nMade from `tests/acceptance/privilege/table.rs`; see `tests/docs.rs`. Do not edit. The tests beside that table hold a real nats-server \
         and a real PostgreSQL against every\nline and user of it: what is not here is refused. `own` is the user that `{d}` (a durable) or `{u}` (a user) \
         stands for, `consumers` are all consumers, another team's\nincluded, `{t}` is a tenant, and `worker@gateway` is the worker where `{u}` is the gateway.\n\n\
         ## Users at NATS\n\n",
    );
    let exact: Vec<String> = users().iter().map(|user| format!("`{}`", user.name())).collect();
    let _ = writeln!(
        text,
        "{}: what the tables say. `operator`: everything in the account `{}`; no process of the stack is it. `system`: the servers, in the account `{}`.\n",
        exact.join(", "),
        chancery::privilege::nats::ACCOUNT,
        chancery::privilege::nats::SYSTEM_ACCOUNT,
    );
    text.push_str("### Subjects\n\n| what | may | subject | who |\n|---|---|---|---|\n");
    for row in SUBJECTS {
        let verb = if row.verb == Verb::Publish { "publish" } else { "subscribe" };
        let _ = writeln!(text, "| {} | {verb} | `{}` | {} |", row.what, cell(row.subject), names(row.who));
    }
    let _ =
        write!(text, "\n### Requests about each stream, `$JS.API.…`\n\n| what | request | {} |\n|---|---|---|---|---|---|\n", STREAMS.join(" | "));
    for (what, request, who) in STREAM_REQUESTS {
        let of_streams: Vec<String> = who.iter().map(|who| if who.is_empty() { "–".to_owned() } else { who.join(", ") }).collect();
        let _ = writeln!(text, "| {what} | `{request}` | {} |", of_streams.join(" | "));
    }
    let _ = write!(
        text,
        "\n## Roles of PostgreSQL\n\nBy their first letters, what a role may do to a table: {}; `s` reads some of its columns. Row level security narrows what \
         rows\nthat is about: the gateway sees one tenant, a consumer only what it keeps about itself.\n\n| table |",
        STATEMENTS.join(", ")
    );
    for role in ROLES {
        let _ = write!(text, " {} |", role.trim_start_matches("chancery_"));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(ROLES.len()));
    for (table, _) in TABLES {
        let _ = write!(text, "| `{table}` |");
        for role in ROLES {
            let letters = STATEMENTS.iter().zip(rights(table, role)).map(|(kind, right)| match right {
                "*" => kind[..1].to_owned(),
                "some" => "s".to_owned(),
                _ => String::new(),
            });
            let _ = write!(text, " {} |", letters.collect::<String>());
        }
        text.push('\n');
    }
    compare(&[("privileges.md".to_owned(), text)].into());
}
