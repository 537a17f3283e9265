//! Waiting for something to become true, and blocking work inside asynchronous tests.

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it lost. Generous: machines that run tests are busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks again and again until `check` says yes.
///
/// # Panics
/// After a minute, with `what` it waited for.
pub(crate) async fn wait_until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !check().await {
        assert!(begin.elapsed() < LIMIT, "waited {} s in vain for: {what}", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Runs blocking code (servers, the synchronous database client) on a thread of its own.
pub(crate) fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
