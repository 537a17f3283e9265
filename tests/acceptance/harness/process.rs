//! One role as a process of the program under test.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use chancery::{
    chaos::reach::Part,
    child::{self, Child},
    role::Role,
    servers::port,
};
use nix::sys::signal::Signal;

use super::servers;

/// How long a role may take to get ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a role may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// A role and its process.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A role that is not started yet.
    pub(crate) fn new(name: String, role: Role, environment: BTreeMap<String, String>, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        Self { name, role, address: SocketAddr::from(([127, 0, 0, 1], port::free(None).unwrap())), environment, log, child: None }
    }

    /// Starts it; [`Process::wait_ready`] waits for it.
    pub(crate) fn start(&mut self) {
        let mut command = Command::new(servers::exe());
        // What the shell that runs the tests has exported must not reach the roles: it may be a running stack's.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CHANCERY") || name.starts_with("DATABASE_URL") || name.starts_with("OTEL_") {
                command.env_remove(&*name);
            }
        }
        let listen = if self.role == Role::Gateway { "CHANCERY_LISTEN" } else { "CHANCERY_ADMIN_LISTEN" };
        command.args(self.role.arguments()).envs(&self.environment).env(listen, self.address.to_string()).env("CHANCERY_GUARDED", "1");
        self.child = Some(Child::spawn(&self.name, command, &self.log).unwrap());
    }

    /// Waits until `/readyz` says so.
    pub(crate) fn wait_ready(&mut self) {
        let begin = Instant::now();
        let mut ports = 0;
        while !self.ready() {
            if let Some(status) = self.ended() {
                // Between our choice of a port and its use somebody else may have taken it.
                ports += 1;
                assert!(ports < 4 && self.text().contains("in use"), "{} ended with {status} before it was ready:\n{}", self.name, self.tail(40));
                self.address.set_port(port::free(None).unwrap());
                self.start();
            }
            assert!(begin.elapsed() < READY_LIMIT, "{} is not ready after {} s:\n{}", self.name, READY_LIMIT.as_secs(), self.tail(40));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// True when `/readyz` says so.
    pub(crate) fn ready(&self) -> bool {
        matches!(port::get(self.address, "/readyz", Duration::from_secs(2)), Ok((200, _)))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(Child::exited)
    }

    /// The process as `chancery chaos` looks at it.
    pub(crate) fn part(&self) -> Part {
        let pid = self.child.as_ref().map(Child::pid);
        Part { name: self.name.clone(), admin: Some(self.address), pid, log: Some(self.log.clone()) }
    }

    /// Sets a variable for its next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    /// Sends a signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.child.as_mut().expect("the process is not running").signal(signal);
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.as_mut().expect("the process is not running").kill9();
    }

    /// Asks it to drain; true when it ended by itself, with success.
    pub(crate) fn stop(&mut self) -> bool {
        self.child.as_mut().expect("the process is not running").stop(DRAIN_LIMIT)
    }

    /// Everything it has written.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it has written.
    pub(crate) fn tail(&self, lines: usize) -> String {
        child::tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that is over needs no drain.
        if let Some(child) = &mut self.child {
            child.kill9();
        }
    }
}
