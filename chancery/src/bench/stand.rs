//! What a bench runs on: servers of its own with fresh data, the processes of both targets, and a folder that goes with them.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use runtime::{Config, Stop};

use super::{Options, usage::Watched};
use crate::{
    child::{self, Child},
    manifest::Manifest,
    servers::{
        find, nats,
        place::{self, ServerUser},
        port, postgres,
    },
    token,
};

/// How long one process may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A process of the product or of the floor.
#[derive(Debug)]
pub(super) struct Process {
    /// Its name in reports.
    pub(super) name: String,
    /// Where it serves `/readyz` and `/metrics`; nobody asks when there is none.
    pub(super) admin: Option<SocketAddr>,
    log: PathBuf,
    child: Child,
}

/// The servers and everything that runs on them. Dropped in this order.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) exe: PathBuf,
    processes: Vec<Process>,
    pub(super) nats: nats::Nats,
    pub(super) postgres: postgres::Postgres,
    postgres_root: PathBuf,
    pub(super) folder: Folder,
    /// Settings of this process that the others are to have, too.
    tuning: Vec<(&'static str, String)>,
}

/// A folder that ends with its owner.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    elsewhere: Option<PathBuf>,
}

impl Folder {
    fn make(data: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
        remove_stale(data);
        let root = data.join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&root)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        let root = root.canonicalize()?;
        let base = place::reachable_or_elsewhere(&root, ServerUser::needed()?)?;
        Ok(Self { elsewhere: (base != root).then_some(base), root })
    }

    fn postgres(&self) -> PathBuf {
        self.elsewhere.as_ref().unwrap_or(&self.root).join("postgres")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for folder in self.elsewhere.iter().chain([&self.root]) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Removes what a bench that was killed has left.
fn remove_stale(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().filter_map(Result::ok) {
        let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix("bench-")?.parse::<i32>().ok());
        if pid.is_some_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Stand {
    /// Starts both servers.
    ///
    /// # Errors
    /// One cannot be found or does not start.
    pub(super) fn start(config: &Config, options: &Options) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("finding this program")?;
        let folder = Folder::make(&config.data)?;
        let named = find::Named::from_env();
        let server = nats::Options {
            root: folder.root.join("nats"),
            log: folder.log("nats-server"),
            port: None,
            monitor_port: None,
            password: token::secret(),
            sync: options.sync.into(),
            manifest: Manifest::of(config)?,
            node: None,
            remove: Some(folder.root.join("nats")),
        };
        let nats = nats::Nats::start(&exe, &find::nats(&named, &config.data)?, server)?;
        let postgres_root = folder.postgres();
        let server = postgres::Options {
            root: postgres_root.clone(),
            log: folder.log("postgres"),
            port: None,
            password: token::secret(),
            settings: if options.teams.is_empty() { Vec::new() } else { vec![super::teams::SESSIONS.into()] },
            remove: Some(postgres_root.clone()),
        };
        let postgres = postgres::Postgres::start(&exe, &find::postgres(&named, &config.data, None)?, server)?;
        let mut tuning = vec![("CHANCERY_PUBLISH_PACE_MS", config.publish_pace.as_millis().to_string())];
        tuning.extend(config.threads.map(|threads| ("CHANCERY_THREADS", threads.to_string())));
        Ok(Self { exe, processes: Vec::new(), nats, postgres, postgres_root, folder, tuning })
    }

    /// Starts a process of this program with these variables and no others, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time, or `stop` is cancelled.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
        admin: Option<SocketAddr>,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let mut command = Command::new(&self.exe);
        command.args(arguments).env_clear().env("CHANCERY_GUARDED", "1").env("CHANCERY_DATA", &self.folder.root);
        command.envs(self.tuning.iter().map(|(name, value)| (name, value)));
        command.env("CHANCERY_NATS_URL", self.nats.url()).envs(environment.iter().map(|(name, value)| (name, value)));
        let log = self.folder.log(&name.replace(' ', "-"));
        let child = Child::spawn(name, command, &log).with_context(|| format!("starting {name}"))?;
        let mut process = Process { name: name.to_owned(), admin, log, child };
        let deadline = Instant::now() + READY_LIMIT;
        while process.admin.is_some_and(|address| !matches!(port::get(address, "/readyz", Duration::from_secs(2)), Ok((200, _)))) {
            if let Some(status) = process.child.exited() {
                bail!("{name} ended with {status}:\n{}", child::tail(&process.log, 12));
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready after {} s:\n{}", READY_LIMIT.as_secs(), child::tail(&process.log, 12));
            }
            if stop.is_cancelled() {
                bail!("stopped");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.processes.push(process);
        Ok(())
    }

    /// The processes that were started, in order.
    pub(super) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Sends a signal to the process of this name.
    pub(super) fn signal(&mut self, name: &str, signal: Signal) {
        for process in self.processes.iter_mut().filter(|process| process.name == name) {
            process.child.signal(signal);
        }
    }

    /// Says which process has ended, with its last words.
    ///
    /// # Errors
    /// One has.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.exited() {
                bail!("{} ended with {status}:\n{}", process.name, child::tail(&process.log, 12));
            }
        }
        Ok(())
    }

    /// The last lines of every log that has an error or warning in it.
    pub(super) fn complaints(&self) -> String {
        let logs = self.processes.iter().map(|process| (process.name.as_str(), &process.log));
        logs.filter_map(|(name, log)| {
            let text = child::tail(log, 2_000);
            let lines: Vec<&str> = text.lines().filter(|line| line.contains("ERROR") || line.contains("WARN") || line.contains("panicked")).collect();
            let last = lines.last()?;
            Some(format!("  {name}: {} complaints, the last: {last}\n", lines.len()))
        })
        .collect()
    }

    /// What to watch for a target: its processes (their names begin with `prefix`), the servers, and this program as the load.
    ///
    /// # Errors
    /// The servers' process ids cannot be read.
    pub(super) fn watched(&self, prefix: &str) -> anyhow::Result<Vec<Watched>> {
        let ours = self.processes.iter().filter_map(|process| Some((process.name.strip_prefix(prefix)?, process.child.pid())));
        let mut all: Vec<Watched> = ours.map(|(name, pid)| Watched { name: name.trim().to_owned(), pid, family: false }).collect();
        let text = fs::read_to_string(self.postgres_root.join("data/postmaster.pid")).context("reading postmaster.pid")?;
        let postmaster = text.lines().next().context("postmaster.pid is empty")?.trim().parse()?;
        all.push(Watched { name: "nats-server".into(), pid: self.nats.pid()?, family: false });
        all.push(Watched { name: "postgres".into(), pid: postmaster, family: true });
        all.push(Watched { name: super::LOAD.into(), pid: std::process::id(), family: false });
        Ok(all)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // Nothing they hold is needed any more: no draining.
        for process in &mut self.processes {
            process.child.signal(Signal::SIGKILL);
        }
    }
}
