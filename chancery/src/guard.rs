//! `chancery guard`: runs a foreign server and ends it when our parent is gone.
//!
//! nats-server and PostgreSQL know nothing of the process that started them and would outlive it. The guard stands between: it
//! holds a pipe from its parent as standard input, and when that closes (the parent ended, even by `kill -9`) it stops the server.
//! It also drops root's rights where the server must not have them, and holds a lock on the server's folder, which the server
//! inherits: as long as any process of an old server lives, a new one waits.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{self, Signal},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::child::pid;

/// What a guard needs to know; see [`Guard::command`].
#[derive(Debug, Clone, clap::Args)]
pub struct Guard {
    /// The signal that asks the server to end: `INT` (PostgreSQL's fast shutdown) or `TERM`.
    #[arg(long, default_value = "TERM")]
    pub stop: String,
    /// Milliseconds the server may take to end before it is killed.
    #[arg(long, default_value_t = 10_000)]
    pub limit_ms: u64,
    /// A file to hold locked while the server lives.
    #[arg(long)]
    pub lock: Option<PathBuf>,
    /// A folder to remove when the parent is gone and the server has ended: a test's.
    #[arg(long)]
    pub remove: Option<PathBuf>,
    /// `uid:gid` to run the server as.
    #[arg(long)]
    pub user: Option<String>,
    /// The working folder of the server.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// The server and its arguments.
    #[arg(last = true, required = true)]
    pub program: Vec<String>,
}

impl Guard {
    /// The command line that runs this guard with the program at `exe`, which is this program.
    pub fn command(&self, exe: &Path) -> std::process::Command {
        let mut command = std::process::Command::new(exe);
        command.arg("guard").args(["--stop", &self.stop, "--limit-ms", &self.limit_ms.to_string()]);
        for (name, value) in [("--lock", &self.lock), ("--remove", &self.remove), ("--folder", &self.folder)] {
            if let Some(path) = value {
                command.arg(name).arg(path);
            }
        }
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        command.arg("--").args(&self.program);
        command
    }

    /// Runs the server until it ends, the parent ends, or a signal asks for the end.
    ///
    /// # Errors
    /// The server cannot be started or its folder is in use.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lock = self.lock.as_deref().map(lock).transpose()?;
        let code = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.guard());
        drop(lock);
        let (code, parent_gone) = code?;
        if let Some(folder) = self.remove.as_ref().filter(|_| parent_gone) {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(code)
    }

    /// The exit code, and whether the parent's end was the reason.
    async fn guard(&self) -> anyhow::Result<(ExitCode, bool)> {
        let (program, args) = self.program.split_first().context("no program to guard")?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if let Some((uid, gid)) = self.user.as_deref().and_then(|user| user.split_once(':')) {
            command.uid(uid.parse()?).gid(gid.parse()?);
        }
        let mut server = command.spawn().with_context(|| format!("starting {program}"))?;
        let id = server.id().context("the server ended at once")?;
        let mut parent = chancery_kit::process::parent_gone();
        let (mut term, mut int, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
        let status = tokio::select! {
            status = server.wait() => status?,
            gone = async { tokio::select! { _ = parent.recv() => true, _ = term.recv() => false, _ = int.recv() => false, _ = hup.recv() => false } } => {
                let ask = if self.stop == "INT" { Signal::SIGINT } else { Signal::SIGTERM };
                let _ = signal::kill(pid(id), ask);
                // A stopped (SIGSTOP) server would never see the request.
                let _ = signal::kill(pid(id), Signal::SIGCONT);
                match tokio::time::timeout(Duration::from_millis(self.limit_ms), server.wait()).await {
                    Ok(_) => return Ok((ExitCode::SUCCESS, gone)),
                    Err(_) => {
                        server.kill().await?;
                        return Ok((ExitCode::FAILURE, gone));
                    }
                }
            }
        };
        Ok((status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from), false))
    }
}

/// The lock of a server's folder: beside the folder, not in it, because the folder may belong to the server's user and may be removed.
///
/// # Errors
/// The folder has no name.
pub fn lock_path(root: &Path) -> std::io::Result<PathBuf> {
    let name = root.file_name().ok_or_else(|| std::io::Error::other("the server's folder has no name"))?;
    Ok(root.with_file_name(format!("{}.lock", name.to_string_lossy())))
}

/// Waits until no process of an older server is left, and holds its lock.
///
/// # Errors
/// The old server does not end.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => anyhow::bail!("an older server still uses {}", path.display()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    // The server inherits the lock, so that it counts as in use even if this guard is killed.
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(file)
}
