//! Child processes that never outlive their parent.
//!
//! Every child holds the reading end of a pipe whose writing end only we have. When we end, however that happens, the pipe
//! closes: our own roles stop by themselves ([`crate::role`]), servers are stopped by their [`crate::guard`].

use std::{
    fs::OpenOptions,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// How long a child that was asked to stop may take in `drop`, before it is killed.
const DROP_LIMIT: Duration = Duration::from_secs(8);

/// A running child process.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    pipe: Option<ChildStdin>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `command` in a process group of its own (so that a terminal's Ctrl-C reaches only us), its output appended to `log`.
    ///
    /// # Errors
    /// The program or the log file cannot be opened.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0);
        let mut process = command.spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { name: name.into(), process, pipe, status: None })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id. For a guarded server this is the guard's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal; nothing when the child has already ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let _ = signal::kill(pid(self.process.id()), signal);
        }
    }

    /// The exit status, once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.process.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for the end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end with SIGTERM and waits; kills it when `limit` has passed. True when it ended by itself, with success.
    pub fn stop(&mut self, limit: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        match self.wait(limit) {
            Some(status) => status.success(),
            None => {
                self.signal(Signal::SIGKILL);
                self.wait(DROP_LIMIT);
                false
            }
        }
    }

    /// Kills it at once, as a crash would, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(DROP_LIMIT);
    }

    /// Ends it as if we had ended: closes the pipe, and kills it when that does not help.
    pub fn end(&mut self) {
        self.pipe = None;
        self.signal(Signal::SIGCONT);
        if self.wait(DROP_LIMIT).is_none() {
            self.kill9();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// A process id as `nix` wants it.
pub fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

/// The last lines of a log file, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
