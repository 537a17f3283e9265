//! The roles as child processes: started, watched, started again with growing pauses, stopped.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{child::Child, role::Role};

/// The pause before the first restart; doubled with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A child that has lived this long begins with the first pause again.
const HEALTHY: Duration = Duration::from_secs(30);

/// One role and the process that runs it now.
#[derive(Debug)]
pub struct Member {
    /// The role.
    pub role: Role,
    /// Its name: the role's, with a number for a worker.
    pub name: String,
    /// Where `/readyz` answers.
    pub address: std::net::SocketAddr,
    exe: PathBuf,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    again_at: Option<Instant>,
}

impl Member {
    /// A role that is not started yet.
    pub fn new(role: Role, name: String, address: std::net::SocketAddr, exe: PathBuf, environment: Vec<(String, String)>, log: PathBuf) -> Self {
        Self { role, name, address, exe, environment, log, child: None, started: Instant::now(), pause: FIRST_PAUSE, again_at: None }
    }

    /// Starts its process.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self) -> std::io::Result<()> {
        let mut command = Command::new(&self.exe);
        // Whoever starts `up` may have sourced its `env`: a role gets the keys that are meant for it and no others.
        for name in ["TOKEN_PRIVATE_KEY", "TOKEN_PUBLIC_KEY", "LINK_KEY", "FINGERPRINT_KEY", "MAIL", "ROLE_PASSWORD"] {
            command.env_remove(format!("CHANCERY_{name}")).env_remove(format!("CHANCERY_{name}_FILE"));
        }
        command.args(self.role.arguments()).env_remove("TOKEN").env("CHANCERY_GUARDED", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(Child::spawn(&self.name, command, &self.log)?);
        self.started = Instant::now();
        self.again_at = None;
        Ok(())
    }

    /// Sets a variable for its next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The process that runs it now.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// True once `/readyz` says so.
    pub fn ready(&self) -> bool {
        matches!(crate::servers::port::get(self.address, "/readyz", Duration::from_secs(2)), Ok((200, _)))
    }

    /// Why it is not ready: the parts that `/readyz` calls unready, and the last line of its log.
    pub fn why_not_ready(&self) -> String {
        let answer = crate::servers::port::get(self.address, "/readyz", Duration::from_secs(2)).map(|(_, body)| body).unwrap_or_default();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        let parts = answer.get("parts").and_then(serde_json::Value::as_object).into_iter().flatten();
        let unready: Vec<String> = parts
            .filter(|(_, part)| part.get("ready") == Some(&false.into()) || *part == "not_ready")
            .map(|(name, part)| format!("{name}: {}", part.get("detail").and_then(serde_json::Value::as_str).unwrap_or("not ready")))
            .collect();
        let says = if unready.is_empty() { "has not said yet what it is doing".to_owned() } else { unready.join(", ") };
        format!("{} ({says}); last in its log: {}", self.name, crate::child::tail(&self.log, 1))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.exited()?;
        Some(status.to_string())
    }

    /// Starts it again when it has died, after a pause, and says so.
    pub fn supervise(&mut self) {
        if let Some(how) = self.ended() {
            if self.started.elapsed() > HEALTHY {
                self.pause = FIRST_PAUSE;
            }
            // Whoever ends by itself says why: otherwise one that refuses would only be seen to end again and again.
            let own = self.child.as_mut().and_then(Child::exited).is_some_and(|status| status.code().is_some());
            let why = if own { format!("; it said: {}", crate::child::tail(&self.log, 1)) } else { String::new() };
            say!(" {} ended ({how}){why}; started again in {} ms; log: {}", self.name, self.pause.as_millis(), self.log.display());
            self.child = None;
            self.again_at = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        if self.again_at.is_some_and(|at| at <= Instant::now()) {
            match self.start() {
                Ok(()) => say!(" {} started again", self.name),
                Err(error) => {
                    say!(" {} cannot be started: {error}", self.name);
                    self.again_at = Some(Instant::now() + self.pause);
                }
            }
        }
    }
}

/// Asks all of them to end, waits for all together, and kills what is left. True when every one ended by itself, with success.
pub fn stop<'a>(members: impl Iterator<Item = &'a mut Member>, limit: Duration) -> bool {
    let mut asked: Vec<&mut Member> = members.collect();
    for member in &mut asked {
        if let Some(child) = &mut member.child {
            child.signal(nix::sys::signal::Signal::SIGTERM);
        }
    }
    let deadline = Instant::now() + limit;
    let mut clean = true;
    for member in asked {
        let Some(mut child) = member.child.take() else { continue };
        match child.wait(deadline.saturating_duration_since(Instant::now())) {
            Some(status) if status.success() => {}
            Some(status) => {
                say!(" {} ended with {status}; log: {}", member.name, member.log.display());
                clean = false;
            }
            None => {
                say!(" {} did not end and was killed; log: {}", member.name, member.log.display());
                child.kill9();
                clean = false;
            }
        }
        member.again_at = None;
    }
    clean
}
