//! File descriptors and memory of every process, looked at all the time.

use std::{fs, path::Path, time::Duration};

use tokio::task::JoinHandle;

use crate::chaos::{
    facts::ResourceRow,
    history::History,
    reach::{Part, Reach},
};
use runtime::Stop;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// A watch over the processes of this machine; there is nothing to see of others.
#[derive(Debug)]
pub struct Watch {
    stop: Stop,
    task: JoinHandle<Vec<ResourceRow>>,
}

impl Watch {
    /// Begins to watch.
    pub fn start(reach: &Reach, history: &History) -> Self {
        let stop = Stop::new();
        let task = tokio::spawn(watch(reach.clone(), history.clone(), stop.clone()));
        Self { stop, task }
    }

    /// Ends it with a last look and gives what was seen. To be called when nobody asks anything of the processes any more: what they still
    /// hold then is no client's.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn end(self) -> anyhow::Result<Vec<ResourceRow>> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

async fn watch(reach: Reach, history: History, stop: Stop) -> Vec<ResourceRow> {
    let mut rows = Vec::new();
    loop {
        let is_last = stop.is_cancelled();
        let parts = reach.parts.clone();
        let at = history.now();
        // A look that fails leaves a gap and nothing else.
        let seen = tokio::task::spawn_blocking(move || parts.now().iter().filter_map(|part| look(part, at)).collect::<Vec<_>>()).await;
        rows.extend(seen.unwrap_or_default());
        if is_last {
            return rows;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn look(part: &Part, at: u64) -> Option<ResourceRow> {
    let pid = part.pid?;
    let folder = Path::new("/proc").join(pid.to_string());
    let descriptors = fs::read_dir(folder.join("fd")).ok()?.count() as u64;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory_kib = memory.split_whitespace().next()?.parse().ok()?;
    Some(ResourceRow { part: part.name.clone(), at, pid, descriptors, memory_kib })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn our_own_process_has_descriptors_and_memory_and_one_that_is_gone_has_none() {
        let part = |pid| Part { name: "test".into(), admin: None, pid: Some(pid), log: None };
        let row = look(&part(std::process::id()), 7).unwrap();
        assert!(row.descriptors > 2 && row.memory_kib > 1_000, "{row:?}");
        assert_eq!(look(&part(u32::MAX), 7), None);
    }
}
