//! What processes use, as the system counts it: CPU time and resident memory from `/proc`.

use std::{collections::BTreeMap, fs, path::Path};

/// Ticks of `/proc/<pid>/stat` in a second: fixed by Linux for programs.
const TICKS: f64 = 100.0;

/// A process to be watched.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// Its name in reports.
    pub(super) name: String,
    /// Its id.
    pub(super) pid: u32,
    /// Whether its children count: PostgreSQL's sessions.
    pub(super) family: bool,
}

/// CPU seconds by name at some moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(BTreeMap<String, f64>);

impl Clock {
    /// Reads the clocks.
    pub(super) fn read(watched: &[Watched]) -> Self {
        let mut seconds = BTreeMap::new();
        for process in watched {
            *seconds.entry(process.name.clone()).or_default() += cpu(process).unwrap_or_default();
        }
        Self(seconds)
    }

    /// CPU seconds since an earlier reading.
    pub(super) fn since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        self.0.iter().map(|(name, now)| (name.clone(), now - earlier.0.get(name).copied().unwrap_or_default())).collect()
    }
}

/// The fields of `/proc/<pid>/stat` from the state on; the name before it may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn ticks(stat: &[String], fields: std::ops::Range<usize>) -> f64 {
    stat.get(fields).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum()
}

fn cpu(process: &Watched) -> Option<f64> {
    let own = stat(process.pid)?;
    if !process.family {
        return Some(ticks(&own, 11..13) / TICKS);
    }
    // Its own, that of children that have ended, and that of those alive.
    let living: f64 = children(process.pid).into_iter().filter_map(stat).map(|child| ticks(&child, 11..13)).sum();
    Some((ticks(&own, 11..15) + living) / TICKS)
}

/// The ids of a process's children.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| stat(*pid).and_then(|stat| stat.get(1).cloned()).as_ref() == Some(&parent)).collect()
}

/// Resident memory by name in MB. A family is counted by its proportional share, so that shared buffers count once.
pub(super) fn memory(watched: &[Watched]) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<String, f64> = BTreeMap::new();
    for process in watched {
        let kib = if process.family {
            let members = children(process.pid).into_iter().chain([process.pid]);
            members.filter_map(|pid| field(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:")).sum()
        } else {
            field(Path::new(&format!("/proc/{}/status", process.pid)), "VmRSS:").unwrap_or_default()
        };
        *all.entry(process.name.clone()).or_default() += kib / 1024.0;
    }
    all
}

fn field(file: &Path, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The machine, in a line: processors, and how busy it is with other things.
pub(super) fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next().map(str::to_owned));
    format!("{processors} processors, load {}", load.unwrap_or_else(|| "unknown".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn our_own_process_uses_memory_and_time() {
        let watched = [Watched { name: "test".into(), pid: std::process::id(), family: false }];
        assert!(memory(&watched)["test"] > 0.1);
        let clock = Clock::read(&watched);
        assert!(clock.since(&clock)["test"].abs() < f64::EPSILON);
    }
}
