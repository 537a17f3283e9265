//! What was done and what was answered: an append-only record, in memory for the checkers and on disk (a JSON object a line) for people.
//!
//! Cheap enough to be called from every task of the load: a record costs a lock and a push; a thread of its own writes the file.

mod record;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Context as _;

pub use record::{Answer, Effect, End, EventName, FaultSpan, INJECTED, Injection, OpId, POISON, REPEAT, Record, Request, Seen, What};
use writer::Writer;

/// Records kept; what comes after them is counted and no verdict is given. Some hours at 40 wishes a second, about a gigabyte.
pub const MAX_RECORDS: usize = 2_000_000;

/// The record of a run. Clones are the same record.
#[derive(Debug, Clone)]
pub struct History {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    begin: Instant,
    next_op: AtomicU64,
    full: AtomicBool,
    records: Mutex<Vec<Arc<Record>>>,
    writer: Option<Writer>,
}

impl History {
    /// A record in memory alone.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// A record that is also written to a file, line by line.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn to_file(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self::with(Some(Writer::start(file)?)))
    }

    fn with(writer: Option<Writer>) -> Self {
        let inner =
            Inner { begin: Instant::now(), next_op: AtomicU64::new(1), full: AtomicBool::new(false), records: Mutex::new(Vec::new()), writer };
        Self { inner: Arc::new(inner) }
    }

    /// Microseconds since the run's start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.inner.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A time of the monotonic clock as microseconds since the run's start; 0 for one before it.
    pub fn at(&self, when: Instant) -> u64 {
        u64::try_from(when.saturating_duration_since(self.inner.begin).as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds what happened now.
    pub fn add(&self, what: What) {
        let line = {
            let mut records = self.inner.records.lock().unwrap_or_else(PoisonError::into_inner);
            if records.len() >= MAX_RECORDS {
                self.inner.full.store(true, Ordering::Relaxed);
                return;
            }
            // Under the lock, so that the order of the records is the order of their times.
            let record = Arc::new(Record { at: self.now(), what });
            records.push(record.clone());
            record
        };
        if let Some(writer) = &self.inner.writer {
            writer.write(line);
        }
    }

    /// A new logical request: what the client wants once, however often it has to ask. `due` is when it was meant to start.
    pub fn invoke(&self, due: u64, request: Request) -> OpId {
        let op = OpId(self.inner.next_op.fetch_add(1, Ordering::Relaxed));
        self.add(What::Invoke { op, due, request });
        op
    }

    /// An answer, or that none came, to a try of a request.
    pub fn answer(&self, op: OpId, answer: Answer) {
        self.add(What::Answer { op, answer });
    }

    /// How a request ended for the client.
    pub fn end(&self, op: OpId, end: End) {
        self.add(What::End { op, end });
    }

    /// A part of the run begins: `quiet`, `chaos`, `heal`, `drain` …
    pub fn phase(&self, name: &str) {
        self.add(What::Phase { name: name.to_owned() });
    }

    /// A fault begins. Dropped without [`FaultGuard::end`] it counts as never healed.
    pub fn fault(&self, span: FaultSpan) -> FaultGuard {
        let index = span.index;
        self.add(What::Fault { span });
        FaultGuard { history: self.clone(), index, ended: false }
    }

    /// A message was put into a stream by a fault; the checkers do not hold it against the product.
    pub fn injected(&self, injection: Injection) {
        self.add(What::Injected { injection });
    }

    /// Whether records were lost because there were more than [`MAX_RECORDS`]; then there can be no verdict.
    pub fn is_full(&self) -> bool {
        self.inner.full.load(Ordering::Relaxed)
    }

    /// All records so far, in the order of their times.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything is in the file. Nothing to do for a record in memory.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.inner.writer.as_ref().map_or(Ok(()), Writer::flush)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

/// A fault that is going on.
#[derive(Debug)]
pub struct FaultGuard {
    history: History,
    index: usize,
    ended: bool,
}

impl FaultGuard {
    /// The fault was taken away (the process started again, the link mended); the product has yet to recover.
    pub fn lifted(&self) {
        self.history.add(What::Lifted { fault: self.index });
    }

    /// The part serves again and a probe through it had its outcome: the time to recover ends here.
    pub fn end(mut self) {
        self.ended = true;
        self.history.add(What::Healed { fault: self.index });
    }

    /// It did not recover within its limit.
    pub fn unhealed(mut self, why: &str) {
        self.ended = true;
        self.history.add(What::Unhealed { fault: self.index, why: why.to_owned() });
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        if !self.ended {
            self.history.add(What::Unhealed { fault: self.index, why: "its end was never recorded".to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(index: usize) -> FaultSpan {
        FaultSpan { index, kind: "kill", target: "worker-1".into(), detail: String::new() }
    }

    #[test]
    fn a_fault_whose_guard_is_dropped_counts_as_unhealed_and_one_that_ended_does_not() {
        let history = History::new();
        history.fault(span(0)).end();
        drop(history.fault(span(1)));
        let records = history.records();
        let of = |index: usize| records.iter().filter(|record| matches!(&record.what, What::Unhealed { fault, .. } if *fault == index)).count();
        assert_eq!((of(0), of(1)), (0, 1));
        assert!(records.iter().any(|record| matches!(record.what, What::Healed { fault: 0 })));
    }

    #[test]
    fn the_file_has_every_record_as_a_line_that_can_be_read_again() {
        let path = std::env::temp_dir().join(format!("chancery-history-{}.jsonl", uuid::Uuid::now_v7()));
        let history = History::to_file(&path).unwrap();
        history.phase("quiet");
        history.fault(span(7)).end();
        history.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((lines[0]["what"].as_str(), lines[1]["span"]["index"].as_u64()), (Some("phase"), Some(7)));
    }

    #[test]
    fn times_never_run_backwards_whoever_adds() {
        let history = History::new();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let history = history.clone();
                std::thread::spawn(move || (0..500).for_each(|_| history.phase("x")))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let records = history.records();
        assert_eq!(records.len(), 4_000);
        assert!(records.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
