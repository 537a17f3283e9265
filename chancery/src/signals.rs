//! Signals to a run that started servers and processes of its own: the bench, and chaos.

use runtime::Stop;
use tokio::signal::unix::{SignalKind, signal};

/// The first signal ends a run in order; a second one ends at once, and the guards remove what is left.
pub(crate) fn watch_signals(stop: &Stop) -> std::io::Result<()> {
    let (mut term, mut int, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv() => {} }
            if stop.is_cancelled() {
                std::process::exit(130);
            }
            eprintln!("stopping …");
            stop.cancel();
        }
    });
    Ok(())
}
