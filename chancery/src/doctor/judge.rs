//! Judging what was found, without asking anybody.

#[cfg(test)]
mod tests;

use serde::Deserialize;

use super::{Finding, Level};
use crate::{
    overview::{ConsumerState, Overview, StreamState, Waiting},
    provision::{Item, Sign},
    status::age,
};

/// Seconds by which clocks may differ before it is mentioned, and before it is wrong: times of events are the workers'.
const CLOCKS: (f64, f64) = (1.0, 10.0);
/// How full a stream may be before it is mentioned, and before it is wrong.
const FULL: (f64, f64) = (0.8, 0.95);
/// The oldest PostgreSQL.
const POSTGRES: i32 = 150_000;

/// What PostgreSQL says of itself.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) version: i32,
    pub(super) called: String,
    /// What is `off` and must not be.
    pub(super) unsafe_settings: Vec<&'static str>,
}

pub(super) fn database(found: &Database) -> Vec<Finding> {
    let mut findings = vec![if found.version < POSTGRES {
        Finding::wrong("PostgreSQL", format!("{} is too old", found.called), "15 or newer is needed")
    } else {
        Finding::fine("PostgreSQL", found.called.clone())
    }];
    for name in &found.unsafe_settings {
        let lost = "a crash loses what was answered as done";
        findings.push(Finding::wrong("PostgreSQL", format!("{name} is off: {lost}"), format!("set {name} = on")));
    }
    findings
}

/// A clock in seconds since 1970, beside this machine's at about the same moment.
pub(super) fn clock(what: &str, there: f64, here: f64) -> Finding {
    let off = (there - here).abs();
    let found = format!("{} {} this machine's", age(off), if there < here { "behind" } else { "ahead of" });
    match off {
        _ if off < CLOCKS.0 => Finding::fine(what, "as this machine's"),
        _ if off < CLOCKS.1 => Finding::warning(what, found, "let NTP keep both"),
        _ => Finding::wrong(what, found, "let NTP keep both: times of events and ends of leases are read from them"),
    }
}

/// How far an owner's tables are, beside what this program knows.
pub(super) fn schema(owner: &str, known: i32, found: Option<(i32, i32)>) -> Option<Finding> {
    let what = format!("schema {owner}");
    match found {
        None => Some(Finding::wrong(what, "was never migrated", "run `chancery migrate`")),
        Some((version, _)) if version < known => {
            Some(Finding::wrong(what, format!("is at {version}, this program needs {known}"), "run `chancery migrate`"))
        }
        Some((version, oldest)) if oldest > known => Some(Finding::wrong(
            what,
            format!("is at {version} and needs programs that know {oldest}; this one knows {known}"),
            "start the release that migrated it",
        )),
        Some((version, _)) if version > known => Some(Finding::warning(
            what,
            format!("is at {version}, of a newer release; this program knows {known}"),
            "roll the programs after the migration",
        )),
        Some(_) => None,
    }
}

/// Whether this start of PostgreSQL was compared with EVENTS; none if that could not be asked.
pub(super) fn history(checked: Option<bool>) -> Option<Finding> {
    match checked {
        Some(true) => Some(Finding::fine("history", "EVENTS has nothing that PostgreSQL does not know")),
        Some(false) => Some(Finding::wrong(
            "history",
            "PostgreSQL has started anew, and no worker has found it to know all of EVENTS: nobody decides or consumes",
            "start a worker; if its log says that EVENTS is ahead, see docs/operations.md, PostgreSQL restored to an earlier time",
        )),
        None => None,
    }
}

/// What provisioning finds.
pub(super) fn plan(items: &[Item], what: &str) -> Vec<Finding> {
    let same = items.iter().filter(|item| item.sign == Sign::Same).count();
    let mut findings = Vec::new();
    if same > 0 {
        findings.push(Finding::fine(what, format!("{same} as declared")));
    }
    for item in items {
        let found = |missing: &str| if item.detail.is_empty() { missing.to_owned() } else { item.detail.clone() };
        match item.sign {
            Sign::Same => {}
            Sign::Add => findings.push(Finding::wrong(&item.what, "does not exist", "run `chancery provision apply`")),
            Sign::Change => findings.push(Finding::wrong(&item.what, found("is different"), "run `chancery provision apply`")),
            Sign::Refused => {
                let advice = "nothing changes it in place: correct the declaration or the setting, or replace it by hand (docs/operations.md)";
                findings.push(Finding::wrong(&item.what, found("is different"), advice));
            }
            Sign::Stray => findings.push(Finding::warning(&item.what, found("is declared nowhere"), "declare it, or remove it by hand")),
        }
    }
    findings
}

/// Copies of each stream, by how many servers are known.
pub(super) fn copies(replicas: usize, servers: usize) -> Option<Finding> {
    let found = "each stream has one copy: a lost disk loses what is not in PostgreSQL, and a server that is down stops everything";
    match (replicas, servers) {
        (2.., _) => None,
        (_, 2..) => Some(Finding::wrong("replicas", found, "set CHANCERY_REPLICAS=3 and make the streams with it")),
        _ => Some(Finding::warning("replicas", found, "for development that is enough; else three servers and CHANCERY_REPLICAS=3")),
    }
}

#[derive(Deserialize)]
struct Jsz {
    config: Option<Store>,
}

#[derive(Deserialize)]
struct Store {
    #[serde(default)]
    sync_always: bool,
    /// Nanoseconds.
    #[serde(default)]
    sync_interval: u64,
}

/// When a server writes to its disk, by its `/jsz?config=true`.
pub(super) fn sync(what: &str, body: &str) -> Finding {
    match serde_json::from_str::<Jsz>(body) {
        Ok(Jsz { config: Some(Store { sync_always: true, .. }) }) => Finding::fine(what, "after every write"),
        Ok(Jsz { config: Some(store) }) => {
            let every = std::time::Duration::from_nanos(store.sync_interval).as_secs_f64();
            let found = format!("lazy, every {}: a power cut loses accepted commands that were acknowledged since", age(every));
            Finding::warning(what, found, "set `sync_interval: always` in its `jetstream` block, except for development")
        }
        Ok(Jsz { config: None }) => Finding::wrong(what, "JetStream is not enabled there", "enable it"),
        Err(error) => Finding::wrong(what, format!("its monitoring answers something else: {error}"), "name the monitoring port"),
    }
}

/// What a role says of itself.
pub(super) fn role(name: &str, status: u16, body: &str) -> Finding {
    if status == 200 {
        return Finding::fine(name, "ready");
    }
    let answer: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let fine =
        |part: &serde_json::Value| part.as_str().map_or_else(|| part.get("ready").and_then(serde_json::Value::as_bool), |word| Some(word == "ready"));
    let parts = answer.get("parts").and_then(serde_json::Value::as_object).into_iter().flatten();
    let bad: Vec<String> = parts.filter(|(_, part)| fine(part) != Some(true)).map(|(part, about)| format!("{part}: {about}")).collect();
    let refused = bad.iter().any(|part| part.starts_with("rights"));
    let advice = if refused {
        "NATS refused it a permission: its log names user and subject; give nats-server the users of this release (docs/privileges.md)"
    } else {
        "see its log"
    };
    let found = if bad.is_empty() { format!("answers {status}") } else { format!("not ready: {}", bad.join("; ")) };
    Finding::wrong(name, found, advice)
}

/// Whether every consumer was seen asking, or is known not to.
pub(super) fn everybody_asks(overview: &Overview) -> bool {
    overview.consumers.iter().all(|consumer| consumer.is_asking || !consumer.exists || consumer.paused_seconds.is_some())
}

/// What several looks show; the last of them counts, but for who was seen asking.
pub(super) fn traffic(looks: &[Overview], patience: f64) -> Vec<Finding> {
    let Some(now) = looks.last() else { return Vec::new() };
    let mut findings = Vec::new();
    let partitions = &now.partitions;
    findings.push(if partitions.without_owner > 0 {
        let found = format!("{} of {} have no worker that decides them", partitions.without_owner, partitions.total);
        Finding::wrong("partitions", found, "start workers; a killed one's are taken over within seconds")
    } else {
        Finding::fine(
            "partitions",
            format!("{}, over {} workers", partitions.total, partitions.owners.iter().filter(|owner| owner.partitions > 0).count()),
        )
    });
    findings.push(waiting("undecided commands", now.undecided, patience, "see the workers' logs; `chancery status` shows who has what"));
    findings.push(waiting(
        "unpublished events",
        now.unpublished,
        patience,
        "EVENTS is full or without a leader, or its worker is gone; nothing is lost meanwhile",
    ));
    findings.extend(now.streams.iter().filter_map(stream));
    for consumer in &now.consumers {
        let seen = |look: &Overview| {
            look.consumers.iter().any(|other| other.name == consumer.name && (other.is_asking || other.handled != consumer.handled))
        };
        // That a durable is missing says the plan.
        if consumer.exists || consumer.is_ordered {
            findings.push(self::consumer(consumer, looks.iter().any(seen), patience));
        }
    }
    if now.dead_letters > 0 {
        findings.push(Finding::warning(
            "dead letters",
            now.dead_letters.to_string(),
            "`chancery dlq ls`, then redrive or discard (docs/deadletters.md)",
        ));
    }
    if now.advisories > 0 {
        let found = format!("{} deliveries that nats-server gave up", now.advisories);
        findings.push(Finding::warning("advisories", found, "a consumer that has no dead letters of its own: docs/deadletters.md"));
    }
    findings
}

fn waiting(what: &str, waiting: Waiting, patience: f64, advice: &str) -> Finding {
    match waiting.oldest_seconds {
        Some(oldest) if oldest > patience => Finding::wrong(what, format!("{}, the oldest for {}", waiting.count, age(oldest)), advice),
        _ => Finding::fine(what, waiting.count.to_string()),
    }
}

fn stream(stream: &StreamState) -> Option<Finding> {
    let what = format!("stream {}", stream.name);
    if stream.replicas > 1 && stream.leader.is_none() {
        return Some(Finding::wrong(what, "has no leader: nothing can be stored", "a majority of the nats-servers must run and reach each other"));
    }
    if !stream.behind.is_empty() {
        let found = format!("{} offline or behind: the next loss stops it", stream.behind.join(", "));
        return Some(Finding::warning(what, found, "start that server; if it stays behind, see its log and its disk"));
    }
    let full = stream.fullness();
    let found = format!("{:.0} % full", full * 100.0);
    match full {
        _ if full > FULL.1 => Some(Finding::wrong(what, found, "raise its limit in bytes; what is refused is kept and tried again, or answered 503")),
        _ if full > FULL.0 => Some(Finding::warning(what, found, "raise its limit in bytes, or find out what fills it")),
        _ => None,
    }
}

fn consumer(consumer: &ConsumerState, is_running: bool, patience: f64) -> Finding {
    let what = format!("consumer {}", consumer.name);
    let waits = format!("{} events wait", consumer.pending + consumer.unanswered);
    // Another team's may be stopped, and nobody else is the worse for it.
    let level = if consumer.is_ours { Level::Wrong } else { Level::Warning };
    if let Some(left) = consumer.paused_seconds {
        return Finding::warning(what, format!("is paused for {} more; {waits}", age(left)), format!("`chancery consumer resume {}`", consumer.name));
    }
    if !is_running {
        let advice = if consumer.is_ours { "start it, and see its log".to_owned() } else { format!("tell {}", consumer.team) };
        return Finding::new(level, what, format!("is not running: nobody asks for its events; {waits}"), advice);
    }
    match consumer.oldest_seconds {
        Some(oldest) if oldest > patience => {
            Finding::new(level, what, format!("is {} behind; {waits}", age(oldest)), "see its log; start more replicas of one without order")
        }
        _ => Finding::fine(what, format!("runs; {waits}")),
    }
}
