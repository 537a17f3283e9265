//! `chancery up`: the whole stack on one machine, for development.
//!
//! Every role is its own process, as in production; this process only starts, watches and stops them. It is synchronous but for the
//! events it follows. Should it die, even by `kill -9`, everything it started ends by itself.

/// Prints a line for people. Unlike `println!` it goes on when nobody reads any more (`up | head`): the stack matters more than its news.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

pub mod children;
pub(crate) mod demo;
mod files;
mod follow;
mod guide;
mod positions;
mod stack;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use runtime::Config;
use tokio::signal::unix::{SignalKind, signal};

use demo::Demo;
pub use files::{Files, Keys};
pub use stack::Stack;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the command line says.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Remove the data first.
    pub reset: bool,
    /// How many nodes of NATS.
    pub nodes: usize,
    /// Play a scenario with a crash in it, print the proof, then go on.
    pub demo: bool,
}

/// Runs the stack until Ctrl-C.
///
/// # Errors
/// A part cannot be started; the text says what to do.
pub fn run(config: Config, options: Options) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    say!("chancery {} · data in {} · development only, not for production", env!("CARGO_PKG_VERSION"), config.data.display());
    let files = Files::open(&config.data, options.reset)?;
    let side = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting the runtime")?;
    let stop = Arc::new(AtomicBool::new(false));
    side.block_on(async { watch_signals(stop.clone()) })?;

    let mut stack = Stack::start(&config, options.nodes, files, &stop)?;
    let mut proven = true;
    if !stop.load(Ordering::SeqCst) {
        guide::ready(&stack, begin.elapsed());
        if options.demo {
            proven = demonstrate(&side, &mut stack, &stop);
        }
        guide::try_it(&stack);
        side.spawn(follow::events(stack.nats_url(), stack.database_url(), stop.clone()));
        while !stop.load(Ordering::SeqCst) {
            stack.supervise();
            std::thread::sleep(LOOK);
        }
    }
    say!("\n draining …");
    let clean = stack.stop();
    side.shutdown_timeout(Duration::from_millis(200));
    let end = if clean { "stopped cleanly" } else { "stopped; something had to be killed, see the logs" };
    say!(" {end}. Data kept; `up --reset` starts anew.");
    Ok(if clean && proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the scenario while the stack is watched as ever, and kills what it wants killed. True when its proof holds.
fn demonstrate(side: &tokio::runtime::Runtime, stack: &mut Stack, stop: &AtomicBool) -> bool {
    let demo = Demo::start(side, stack);
    while !demo.is_over() {
        if stop.load(Ordering::SeqCst) {
            say!(" the demo was broken off");
            return false;
        }
        if let Some(name) = demo.wish(LOOK) {
            stack.kill9(&name);
        }
        stack.supervise();
    }
    match demo.result(side) {
        Ok(proven) => proven,
        Err(error) => {
            say!(" the demo failed: {error:#}");
            false
        }
    }
}

/// The first signal asks for the end in order; a second one ends at once, and the guards do the rest.
fn watch_signals(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let (mut term, mut int, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv() => {} }
            if stop.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        }
    });
    Ok(())
}
