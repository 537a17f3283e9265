//! One role as a process that can be armed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    child::{self, Child},
    role::Role,
    servers::port,
};

/// How long one process may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A process of the product.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) address: SocketAddr,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) log: PathBuf,
    pub(super) child: Option<Child>,
}

impl Process {
    /// Starts it and waits until it is ready. Blocking.
    pub(super) fn start(&mut self, exe: &Path) -> anyhow::Result<()> {
        let listen = if self.role == Role::Gateway { "CHANCERY_LISTEN" } else { "CHANCERY_ADMIN_LISTEN" };
        let mut command = Command::new(exe);
        command.args(self.role.arguments()).env_clear().envs(&self.environment).env(listen, self.address.to_string());
        let child = self.child.insert(Child::spawn(&self.name, command, &self.log).with_context(|| format!("starting {}", self.name))?);
        let deadline = Instant::now() + READY_LIMIT;
        while !matches!(port::get(self.address, "/readyz", Duration::from_secs(2)), Ok((200, _))) {
            if let Some(status) = child.exited() {
                bail!("{} ended with {status}:\n{}", self.name, child::tail(&self.log, 12));
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {} s:\n{}", self.name, READY_LIMIT.as_secs(), child::tail(&self.log, 12));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
