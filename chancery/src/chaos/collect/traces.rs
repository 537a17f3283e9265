//! What consumers left behind that can be listed, and markers of tenants where no personal value may stand: logs, subjects, metrics.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use uuid::Uuid;

use super::{Doors, database, streams::counted};
use crate::{
    chaos::{facts::Facts, reach::Part},
    servers::port,
};

/// What every marker begins with, and how long it is.
const MARK: (&str, usize) = ("cnry", 14);
/// How long a process may take to tell its metrics.
const METRICS: Duration = Duration::from_secs(5);
/// Places of one marker that are kept.
const PLACES: usize = 50;

/// See the module. `subjects` are those of every message that was read.
pub(super) async fn read(doors: &Doors<'_>, subjects: &[(u64, String)], facts: &mut Facts) -> anyhow::Result<()> {
    if facts.consumers.iter().any(|consumer| consumer.name == notifications::NAME) {
        facts.mails = Some(database::mails(doors).await?);
    }
    let audited = counted(facts.audit.iter().map(|row| row.event));
    let parts = doors.reach.parts.clone();
    let (logged, found) = tokio::task::spawn_blocking(move || look(&parts.now())).await??;
    for consumer in &mut facts.consumers {
        match consumer.name.as_str() {
            audit::NAME => consumer.effects = Some(audited.clone()),
            logging::NAME => {
                consumer.effects = logged.as_ref().map(|ids| counted(ids.iter().copied()));
                consumer.repeats = true;
            }
            _ => {}
        }
    }
    facts.leaks.extend(found);
    for (_, subject) in subjects {
        facts.leaks.extend(markers(subject).map(|marker| (marker.to_owned(), format!("the subject {subject}"))));
    }
    facts.leaks.truncate(PLACES);
    Ok(())
}

/// Event ids in the log of the consumer that writes every event to its log, and markers in any log or metric.
type Looked = (Option<BTreeSet<Uuid>>, Vec<(String, String)>);

fn look(parts: &[Part]) -> anyhow::Result<Looked> {
    let (mut logged, mut found) = (None, Vec::new());
    for part in parts.iter().filter(|part| part.admin.is_some()) {
        if let Some(log) = &part.log {
            let ids = read_log(part, log, &mut found)?;
            if part.name.starts_with(logging::NAME) {
                logged.get_or_insert_with(BTreeSet::new).extend(ids);
            }
        }
        // Who does not answer at the moment shows elsewhere.
        if let Some(Ok((200, text))) = part.admin.map(|admin| port::get(admin, "/metrics", METRICS)) {
            found.extend(markers(&text).map(|marker| (marker.to_owned(), format!("the metrics of {}", part.name))));
        }
    }
    Ok((logged, found))
}

/// Reads a log line by line. Gives the ids of the events that are named in it.
fn read_log(part: &Part, log: &Path, found: &mut Vec<(String, String)>) -> anyhow::Result<BTreeSet<Uuid>> {
    let file = File::open(log).with_context(|| format!("reading {}", log.display()))?;
    let mut ids = BTreeSet::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| format!("reading {}", log.display()))?;
        let line = String::from_utf8_lossy(&line);
        found.extend(markers(&line).map(|marker| (marker.to_owned(), format!("the log of {}: {line}", part.name))));
        let id = |rest: &str| rest.get(..36).and_then(|id| Uuid::try_parse(id).ok());
        ids.extend(line.split("evt_").skip(1).filter_map(id));
    }
    Ok(ids)
}

/// The markers in a text.
fn markers(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(MARK.0).filter_map(|(place, _)| text.get(place..place + MARK.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_and_events_in_a_log_are_found() {
        let log = std::env::temp_dir().join(format!("chancery-traces-{}.log", Uuid::now_v7()));
        let id = Uuid::from_u128(7);
        std::fs::write(&log, format!("INFO event event.id=evt_{id} type=user.created\nERROR who is cnry0123456789-u@example.com?\n")).unwrap();
        let part = Part { name: "logging".into(), admin: None, pid: None, log: Some(log.clone()) };
        let mut found = Vec::new();
        let ids = read_log(&part, &log, &mut found).unwrap();
        std::fs::remove_file(&log).unwrap();
        assert_eq!(ids, BTreeSet::from([id]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "cnry0123456789");
        assert!(found[0].1.starts_with("the log of logging: ERROR"), "{found:?}");
    }
}
