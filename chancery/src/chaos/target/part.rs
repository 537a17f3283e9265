//! A part that is a process of this machine, and the supervisor that starts again what has died.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::{self, Signal};

use crate::{
    child::{self, Child},
    servers::{nats::Nats, port, postgres::Postgres},
    up::children::Member,
};

/// How often the supervisor looks.
const LOOK: Duration = Duration::from_millis(20);
/// The pause before a start, as container engines have it: doubled with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Whoever has lived this long begins with the first pause again.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long a part may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What runs.
#[derive(Debug)]
pub(super) enum Process {
    /// A process of this program.
    Role(Box<Member>),
    /// A node.
    Nats(Box<Nats>),
    /// PostgreSQL.
    Postgres(Box<Postgres>),
}

impl Process {
    fn child(&mut self) -> Option<&mut Child> {
        match self {
            Self::Role(member) => member.child(),
            Self::Nats(nats) => Some(nats.child()),
            Self::Postgres(postgres) => Some(postgres.child()),
        }
    }

    fn ended(&mut self) -> bool {
        self.child().is_none_or(|child| child.exited().is_some())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Role(member) => member.start().map_err(Into::into),
            Self::Nats(nats) => nats.spawn(),
            Self::Postgres(postgres) => postgres.spawn(),
        }
    }

    /// The process itself, not its guard.
    fn pid(&mut self) -> anyhow::Result<u32> {
        let (pid, guard) = match self {
            Self::Role(member) => return member.child().map(|child| child.pid()).context("it does not run"),
            Self::Nats(nats) => (nats.pid()?, nats.child().pid()),
            Self::Postgres(postgres) => (postgres.pid()?, postgres.child().pid()),
        };
        // A file that a dead server left names a process that may be anybody's by now.
        if parent(pid) == Some(guard) { Ok(pid) } else { bail!("it does not run") }
    }

    fn serves(&self) -> bool {
        match self {
            Self::Role(member) => member.ready(),
            // Not only that it answers: every stream and consumer on it has caught up.
            Self::Nats(nats) => nats.ready() && matches!(port::get(nats.monitor(), "/healthz", Duration::from_secs(2)), Ok((200, _))),
            Self::Postgres(postgres) => postgres.ready(),
        }
    }
}

/// The fields of `/proc/<pid>/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

#[derive(Debug)]
struct State {
    process: Process,
    started: Instant,
    pause: Duration,
    again: Option<Instant>,
    lives: u64,
    /// Started with a point at which it is to die or to stop.
    armed: bool,
}

/// One part. Everything here may block for as long as a process takes to end.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) log: PathBuf,
    state: Mutex<State>,
}

impl Part {
    pub(super) fn new(name: String, log: PathBuf, process: Process) -> Self {
        let state = State { process, started: Instant::now(), pause: FIRST_PAUSE, again: None, lives: 1, armed: false };
        Self { name, log, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process itself, if it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.state().process.pid().ok()
    }

    /// How often it was started.
    pub(super) fn lives(&self) -> u64 {
        self.state().lives
    }

    /// Whether its process is there.
    pub(super) fn runs(&self) -> bool {
        !self.state().process.ended()
    }

    /// Whether it serves.
    pub(super) fn serves(&self) -> bool {
        // Without the lock: an answer may take seconds, and the supervisor is to look meanwhile.
        let state = self.state();
        match &state.process {
            Process::Role(member) => {
                let address = member.address;
                drop(state);
                matches!(port::get(address, "/readyz", Duration::from_secs(2)), Ok((200, _)))
            }
            _ => state.process.serves(),
        }
    }

    /// Whether its process is stopped (SIGSTOP).
    pub(super) fn stopped(&self) -> bool {
        self.pid().and_then(stat).and_then(|fields| fields.first().cloned()).is_some_and(|state| state == "T")
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.state().process.pid()?;
        signal::kill(child::pid(pid), signal).map_err(Into::into)
    }

    /// kill -9, and waits until it is gone. Nothing when it is gone already.
    pub(super) fn kill9(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        if state.process.ended() {
            return Ok(());
        }
        match &mut state.process {
            Process::Role(member) => member.child().map(Child::kill9).context("it does not run"),
            Process::Nats(nats) => nats.kill9(),
            Process::Postgres(postgres) => postgres.kill9(),
        }
    }

    /// Ends it in order and starts it again at once.
    pub(super) fn restart(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        let in_order = match &mut state.process {
            Process::Role(member) => member.child().is_none_or(|child| child.stop(STOP_LIMIT)),
            Process::Nats(nats) => nats.stop(),
            Process::Postgres(postgres) => postgres.stop(),
        };
        state.start()?;
        if in_order { Ok(()) } else { bail!("{} did not end in order", self.name) }
    }

    /// Kills it and starts it again at once with a variable for this life alone.
    pub(super) fn restart_with(&self, variable: &str, value: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        let Process::Role(member) = &mut state.process else { bail!("{} is no role", self.name) };
        member.set(variable, value);
        if let Some(child) = member.child() {
            child.kill9();
        }
        let started = state.start();
        state.armed = !value.is_empty();
        if let Process::Role(member) = &mut state.process {
            member.set(variable, "");
        }
        started
    }

    /// Lets it go on from a point at which it stopped; whoever has not reached its point yet is started anew without one.
    pub(super) fn disarm(&self) -> anyhow::Result<()> {
        let armed = self.state().armed;
        if self.stopped() {
            self.state().armed = false;
            return self.signal(Signal::SIGCONT);
        }
        if armed { self.restart_with("CHANCERY_FAILPOINT", "") } else { Ok(()) }
    }

    /// Where `/readyz` and `/metrics` of a role are.
    pub(super) fn address(&self) -> Option<std::net::SocketAddr> {
        match &self.state().process {
            Process::Role(member) => Some(member.address),
            _ => None,
        }
    }

    /// Starts it again when it has died and its pause is over.
    fn supervise(&self) {
        // Somebody who holds the lock is ending or starting it.
        let Ok(mut state) = self.state.try_lock() else { return };
        if !state.process.ended() {
            return;
        }
        match state.again {
            None => {
                if state.started.elapsed() > HEALTHY {
                    state.pause = FIRST_PAUSE;
                }
                state.again = Some(Instant::now() + state.pause);
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
            }
            Some(at) if at <= Instant::now() => {
                if let Err(error) = state.start() {
                    tracing::error!(part = self.name, %error, "cannot be started");
                    state.again = Some(Instant::now() + state.pause);
                }
            }
            Some(_) => {}
        }
    }

    /// Ends it for good, at once.
    fn end(&self) {
        let mut state = self.state();
        if let Some(child) = state.process.child() {
            child.signal(Signal::SIGCONT);
        }
        if matches!(state.process, Process::Role(_)) {
            if let Some(child) = state.process.child() {
                child.kill9();
            }
        } else if let Some(child) = state.process.child() {
            child.end();
        }
    }
}

impl State {
    fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        self.started = Instant::now();
        self.again = None;
        self.armed = false;
        self.lives += 1;
        Ok(())
    }
}

/// All parts, and the thread that watches them. Dropped, it ends them: roles first, then what they stand on.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) parts: Arc<Vec<Part>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervised {
    /// Watches these; servers stand before roles.
    pub(super) fn start(parts: Vec<Part>) -> anyhow::Result<Self> {
        let (parts, over) = (Arc::new(parts), Arc::new(AtomicBool::new(false)));
        let (watched, end) = (parts.clone(), over.clone());
        let work = move || {
            while !end.load(Ordering::SeqCst) {
                watched.iter().for_each(Part::supervise);
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("supervisor".into()).spawn(work).context("starting the supervisor")?;
        Ok(Self { parts, over, thread: Some(thread) })
    }

    pub(super) fn part(&self, name: &str) -> anyhow::Result<&Part> {
        self.parts.iter().find(|part| part.name == name).with_context(|| format!("there is no part {name}"))
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.parts.iter().rev().for_each(Part::end);
    }
}
