//! What every process of ours begins and ends with: a runtime, signals, and the end of whoever has started it.

use std::{io::Read as _, time::Duration};

use anyhow::Context as _;
use runtime::Stop;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// How much longer than its own limit a drain may take before the process ends itself.
const DRAIN_SLACK: Duration = Duration::from_secs(2);
/// How long a process goes on when its parent has died: what it leaves undone, the next start finishes.
const ORPHAN_LIMIT: Duration = Duration::from_secs(2);

/// A runtime on so many threads; none for as many as there are processors.
///
/// # Errors
/// The system gives no thread or no file descriptor.
pub fn runtime_on(threads: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = if threads == Some(1) { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().context("starting the runtime")
}

/// The first SIGTERM or SIGINT asks for a drain, a second one ends at once; so does a drain that takes longer than `limit`, whoever asked.
///
/// # Errors
/// The system lets us hear no signals.
pub fn drain_on_signals(stop: Stop, limit: Duration) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, () = stop.cancelled() => {} }
        tracing::info!("draining");
        stop.cancel();
        let overdue = tokio::time::sleep(limit + DRAIN_SLACK);
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, () = overdue => tracing::error!("drain took too long") }
        std::process::exit(1);
    });
    Ok(())
}

/// Drains when the parent ends, and ends at the latest two seconds after it.
pub fn drain_with_parent(stop: Stop) {
    let mut gone = parent_gone();
    tokio::spawn(async move {
        if gone.recv().await.is_some() {
            stop.cancel();
            tokio::time::sleep(ORPHAN_LIMIT).await;
            std::process::exit(1);
        }
    });
}

/// Tells when standard input ends, which is when the parent does.
pub fn parent_gone() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        // Nothing is ever written; an error means the pipe is gone as well.
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        let _ = sender.blocking_send(());
    });
    receiver
}
