//! The consumer under test, as a process that can be killed.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::stand::wait_until;

/// How long a drain may take before the test has failed.
const DRAIN: Duration = Duration::from_secs(30);
/// Lines of the log that a failure shows.
const TAIL: usize = 40;

/// Where a program of the kit can be made to die; in debug builds, which tests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The effects of a batch are done, and not committed.
    BeforeCommit,
    /// They are committed, and nobody has been told.
    Committed,
    /// An effect outside is about to be sent, and counts as sent already.
    BeforeSend,
    /// It is sent, and that is written nowhere.
    Sent,
}

impl Point {
    const fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "consumer_before_commit",
            Self::Committed => "consumer_committed",
            Self::BeforeSend => "effect_before_send",
            Self::Sent => "effect_sent",
        }
    }
}

/// A program on a [`Stand`](crate::Stand). Killed when it is dropped; a test that fails prints the end of its log.
#[derive(Debug)]
pub struct Program {
    exe: PathBuf,
    variables: BTreeMap<String, String>,
    log: PathBuf,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Program {
    pub(crate) fn new(exe: &Path, variables: BTreeMap<String, String>, log: PathBuf) -> Self {
        // Free now, and very likely when it is used.
        let admin = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port");
        Self { exe: exe.to_owned(), variables, log, admin, child: None }
    }

    /// Sets a variable for its next start.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// It is running, or is no program.
    pub fn start(&mut self) {
        self.spawn(None);
    }

    /// Starts it, to die as if killed with -9 when it is at this point for the `nth` time.
    ///
    /// # Panics
    /// It is running, or is no program.
    pub fn start_to_die_at(&mut self, point: Point, nth: u32) {
        self.spawn(Some(format!("{}=abort@{nth}", point.name())));
    }

    fn spawn(&mut self, failpoint: Option<String>) {
        assert!(self.child.is_none(), "it is running already");
        let log = File::options().create(true).append(true).open(&self.log).expect("its log");
        let mut command = Command::new(&self.exe);
        // What the shell that runs the tests has exported may be another stack's.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CHANCERY") || name.starts_with("DATABASE_URL") || name.starts_with("NATS_") || name.starts_with("OTEL_") {
                command.env_remove(&*name);
            }
        }
        command.envs(&self.variables).env("CHANCERY_ADMIN_LISTEN", self.admin.to_string()).env("CHANCERY_GUARDED", "1");
        command.envs(failpoint.map(|point| ("CHANCERY_FAILPOINT", point)));
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("its log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", self.exe.display()));
        self.child = Some(child);
    }

    /// Kills it, as a crash or a lost machine would, and waits until it is gone.
    ///
    /// # Panics
    /// It is not running.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it is not running");
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
    }

    /// Waits until it has died by itself, as [`Program::start_to_die_at`] asked for.
    ///
    /// # Panics
    /// After a minute.
    pub async fn died(&mut self) {
        wait_until("the program's death", async || self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some())))
            .await;
        self.child = None;
    }

    /// Asks it to drain, and waits; how it ended.
    ///
    /// # Panics
    /// It is not running, or still is half a minute later.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is not running");
        let pid = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is running");
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                return status;
            }
            if begin.elapsed() > DRAIN {
                let _ = child.kill();
                panic!("it did not drain in {} s:\n{}", DRAIN.as_secs(), self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether its `/readyz` can be reached: it is up, though it may still wait for something.
    pub fn is_up(&self) -> bool {
        TcpStream::connect(self.admin).is_ok()
    }

    /// Where it serves `/readyz` and `/metrics`.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Everything that it has written, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the end of the log of {}\n{}", self.exe.display(), self.tail());
        }
    }
}
