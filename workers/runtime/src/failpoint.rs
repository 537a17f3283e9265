//! Crash points for tests: `CHANCERY_FAILPOINT=<point>=<abort|stop|error>[@nth]`. Only in builds with debug assertions; elsewhere nothing
//! is compiled in.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// What to do at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
    Error,
}

#[derive(Debug)]
struct Armed {
    point: String,
    action: Action,
    nth: u64,
    hits: AtomicU64,
}

static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();

/// Arms the points named by the configuration. The first call counts.
pub fn arm(specification: Option<&str>) {
    let armed = specification.unwrap_or_default().split(',').filter_map(parse).collect();
    if ARMED.set(armed).is_err() {
        tracing::debug!("failpoints were armed before");
    }
}

fn parse(part: &str) -> Option<Armed> {
    let (point, action) = part.trim().split_once('=')?;
    let (action, nth) = action.split_once('@').unwrap_or((action, "1"));
    let action = match action {
        "abort" => Action::Abort,
        "stop" => Action::Stop,
        "error" => Action::Error,
        _ => return None,
    };
    Some(Armed { point: point.to_owned(), action, nth: nth.parse().ok()?, hits: AtomicU64::new(0) })
}

/// Whether any point is armed; spares the name's making elsewhere.
pub fn armed() -> bool {
    cfg!(debug_assertions) && ARMED.get().is_some_and(|armed| !armed.is_empty())
}

/// Passes a point: the process aborts or freezes here if it is armed and it is its turn. Returns whether an error is wanted.
pub fn hit(point: &str) -> bool {
    if !cfg!(debug_assertions) {
        return false;
    }
    let Some(armed) = ARMED.get().and_then(|armed| armed.iter().find(|armed| armed.point == point)) else { return false };
    if armed.hits.fetch_add(1, Ordering::Relaxed) + 1 != armed.nth {
        return false;
    }
    match armed.action {
        Action::Abort => {
            eprintln!("failpoint {point}: abort");
            std::process::abort()
        }
        Action::Stop => {
            eprintln!("failpoint {point}: stop");
            // The whole process freezes, as by a hypervisor; the test thaws it with SIGCONT.
            if let Err(error) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP) {
                eprintln!("failpoint {point}: cannot stop: {error}");
            }
            false
        }
        Action::Error => true,
    }
}
