//! The target of containers: the cluster of `compose.yaml`, and what each fault does to its containers.
//!
//! Nothing stands between two containers, so no message can be looked at, delayed or cut at a byte: such kinds are the processes' alone
//! ([`super::processes`]). What is lost is lost by the container's own packet filter; what is reset, by its kernel.

mod container;
mod project;
mod rules;
mod stand;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Uid,
};
use runtime::Stop;
use tokio::{runtime::Runtime, task::JoinHandle};

use self::{project::Project, rules::Rules, stand::Stand};
use super::{Doors, Order, Target, backend, named};
use crate::{
    chaos::{
        fault::Action,
        kind::{Family, Kind},
        plan::{Plan, Shape},
        reach::Reach,
    },
    child,
};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a part that was restarted may take to serve.
const BACK_LIMIT: Duration = Duration::from_secs(60);
/// How long a slow part runs between two times that it stands still.
const RUN: Duration = Duration::from_millis(60);
/// How often a container is asked to be paused.
const PAUSE_ATTEMPTS: usize = 3;
/// How long connections are refused where the kernel cannot end them.
const REFUSED: Duration = Duration::from_millis(400);

/// What has to be undone, by fault; rules of packet filters are kept apart.
#[derive(Debug)]
enum Undo {
    /// Unpaused, unless another fault keeps it paused.
    Thaw(String),
    /// The container must run again.
    Runs(String),
    /// A full disk.
    Free(String),
    /// Stands still again and again.
    Slices(Stop, JoinHandle<()>),
}

/// The cluster as containers.
#[derive(Debug)]
pub struct Containers {
    shape: Shape,
    stand: Arc<Stand>,
    rules: Arc<Rules>,
    undo: Mutex<BTreeMap<usize, Vec<Undo>>>,
}

impl Containers {
    /// Starts it. Disks are small ones in memory where the plan fills any. Blocking; to be called outside an async runtime.
    ///
    /// # Errors
    /// A part does not start, or `stop` is cancelled.
    pub fn start(runtime: &Runtime, plan: &Plan, stop: &Stop) -> anyhow::Result<Self> {
        let shape = Shape::default();
        let disks = plan.steps.iter().any(|step| matches!(step.action, Action::DiskFull(_)));
        // Held outside, so that what was started is removed when the start is given up.
        let project = Project::make()?;
        let stand = runtime.block_on(async {
            tokio::select! {
                stand = Stand::start(project, &shape, disks) => stand,
                () = stop.cancelled() => bail!("stopped"),
            }
        })?;
        Ok(Self { shape, stand: Arc::new(stand), rules: Arc::default(), undo: Mutex::default() })
    }

    /// Whether a kind of fault can be done to containers here; known before anything is started.
    ///
    /// # Errors
    /// Why not.
    pub fn possible(kind: Kind) -> Result<(), String> {
        possible(kind, tools)
    }

    /// Leaves what every container wrote in a folder. Blocking.
    pub fn keep_logs(&self, to: &Path) {
        self.stand.keep_logs(to);
    }

    fn undo(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Undo>>> {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, fault: usize, undo: Undo) {
        self.undo().entry(fault).or_default().push(undo);
    }

    /// `docker <what> <container>`.
    async fn docker(&self, what: &[&str], part: &str) -> anyhow::Result<()> {
        let id = self.stand.ids.get(part).with_context(|| format!("there is no {part}"))?;
        self.stand.docker.work(&[what, &[id.as_str()]].concat()).await.map(drop).with_context(|| format!("docker {} {part}", what.join(" ")))
    }

    /// kill -9. Docker takes that for somebody's wish and does not start it again, whatever its restart policy says: lifting does.
    async fn kill9(&self, fault: usize, part: &str) -> anyhow::Result<()> {
        self.remember(fault, Undo::Runs(part.to_owned()));
        self.docker(&["kill", "-s", "KILL"], part).await
    }

    async fn freeze(&self, fault: usize, part: &str) -> anyhow::Result<()> {
        let already = self.undo().values().flatten().any(|undo| matches!(undo, Undo::Thaw(frozen) if frozen == part));
        self.remember(fault, Undo::Thaw(part.to_owned()));
        let mut attempt = 0;
        // A busy kernel does not freeze a process that is in the middle of something, and Docker gives up at once.
        while !already && let Err(error) = self.docker(&["pause"], part).await {
            attempt += 1;
            if attempt == PAUSE_ATTEMPTS {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Starts a container that has ended, and only that; rules that are still to be on it are put on it again.
    async fn run_again(&self, part: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + BACK_LIMIT;
        loop {
            match self.docker(&["start"], part).await {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        let (rules, part, pid) = (self.rules.clone(), part.to_owned(), self.stand.pid(part).await?);
        tokio::task::spawn_blocking(move || rules.restore(&part, pid)).await?;
        Ok(())
    }

    /// `docker stop`, which sends the signal that `compose.yaml` names (lame duck for a node, a fast shutdown for PostgreSQL), and a start;
    /// one part after the other: the next only when the last one serves again.
    async fn roll(&self, fault: usize, parts: &[String]) -> anyhow::Result<()> {
        for part in parts {
            self.remember(fault, Undo::Runs(part.clone()));
            self.docker(&["stop"], part).await?;
            self.run_again(part).await?;
            let deadline = Instant::now() + BACK_LIMIT;
            while !self.stand.serves(part).await {
                if Instant::now() > deadline {
                    bail!("{part} does not serve {} s after its restart", BACK_LIMIT.as_secs());
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    async fn kill_backend(&self) -> anyhow::Result<()> {
        let url = self.stand.reach.database_url.clone();
        let pid = tokio::task::spawn_blocking(move || backend::session(&url)).await??.to_string();
        let id = self.stand.ids.get("postgres").context("there is no postgres")?;
        // By the shell: not every image has a program of that name.
        self.stand.docker.ask(&["exec", id, "sh", "-c", "kill -9 \"$0\"", &pid]).await.map(drop)
    }

    async fn filter(&self, fault: usize, part: &str, rules: Vec<rules::Rule>) -> anyhow::Result<()> {
        let (all, part, pid) = (self.rules.clone(), part.to_owned(), self.stand.pid(part).await?);
        tokio::task::spawn_blocking(move || all.apply(fault, &part, pid, rules)).await?
    }

    async fn isolate(&self, fault: usize, node: &str, mute: bool, deaf: bool, clients: bool) -> anyhow::Result<()> {
        let machine = if clients { self.stand.container(node).await?.machine } else { None };
        self.filter(fault, node, rules::isolate(mute, deaf, clients, machine.as_deref())).await
    }

    async fn scatter(&self, fault: usize) -> anyhow::Result<()> {
        for node in &self.shape.nodes {
            self.isolate(fault, node, true, true, false).await?;
        }
        Ok(())
    }

    /// The container's kernel ends all its connections, or where it cannot, refuses every packet for a moment.
    async fn reset(&self, part: &str) -> anyhow::Result<()> {
        let pid = self.stand.pid(part).await?;
        tokio::task::spawn_blocking(move || {
            let ended = rules::inside(pid, &["ss", "-K", "-H", "-t", "-n", "state", "established"]);
            if ended.is_ok_and(|lines| !lines.trim().is_empty()) {
                return Ok(());
            }
            let refuse = |what: &str| {
                ["INPUT", "OUTPUT"].into_iter().try_for_each(|chain| {
                    let words = ["iptables", "-w", "5", what, chain, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"];
                    rules::inside(pid, &words).map(drop)
                })
            };
            let refused = refuse("-I");
            std::thread::sleep(REFUSED);
            refused.and(refuse("-D"))
        })
        .await?
    }

    /// Stands still for `still`, runs for a moment, and so on: what is behind it waits for it again and again.
    async fn slow(&self, fault: usize, part: &str, still: Duration) -> anyhow::Result<()> {
        let (stand, part, stop) = (self.stand.clone(), part.to_owned(), Stop::new());
        stand.pid(&part).await?;
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                // Asked anew: it may have been killed and started again.
                let Ok(pid) = stand.pid(&part).await else {
                    tokio::time::sleep(LOOK).await;
                    continue;
                };
                let _ = signal::kill(child::pid(pid), Signal::SIGSTOP);
                tokio::select! { () = tokio::time::sleep(still) => {}, () = stopped.cancelled() => {} }
                let _ = signal::kill(child::pid(pid), Signal::SIGCONT);
                tokio::time::sleep(RUN).await;
            }
        });
        self.remember(fault, Undo::Slices(stop, task));
        Ok(())
    }

    async fn fill(&self, fault: usize, part: &str) -> anyhow::Result<()> {
        self.remember(fault, Undo::Free(part.to_owned()));
        // In large pieces, then in small ones, until there is no room.
        let fill = format!(
            "dd if=/dev/zero of=/disks/{part}/fill-{fault} bs=1M; dd if=/dev/zero of=/disks/{part}/fill-{fault} bs=4k oflag=append conv=notrunc"
        );
        let full = format!("{fill} 2>&1 | grep -q 'No space left'");
        self.on_disks(&full).await.with_context(|| format!("filling the disk of {part}"))
    }

    async fn on_disks(&self, script: &str) -> anyhow::Result<()> {
        let id = self.stand.ids.get("disks").context("the disks are not small ones")?;
        self.stand.docker.work(&["exec", id, "sh", "-c", script]).await.map(drop)
    }

    async fn undo_one(&self, fault: usize, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Thaw(part) => {
                let other = self.undo().values().flatten().any(|undo| matches!(undo, Undo::Thaw(frozen) if *frozen == part));
                // Whoever was killed meanwhile is not paused any more.
                if !other && let Err(error) = self.docker(&["unpause"], &part).await {
                    tracing::debug!(part, %error, "nobody to continue");
                }
                Ok(())
            }
            Undo::Runs(part) => self.run_again(&part).await,
            Undo::Free(part) => {
                self.on_disks(&format!("rm -f /disks/{part}/fill-{fault}")).await?;
                // A node that has found no room keeps nothing any more until somebody starts it again; an operator does.
                if self.shape.nodes.contains(&part) && !self.stand.serves(&part).await {
                    self.docker(&["restart"], &part).await?;
                    self.run_again(&part).await?;
                }
                Ok(())
            }
            Undo::Slices(stop, task) => {
                stop.cancel();
                Ok(task.await?)
            }
        }
    }
}

/// Whether a kind can be done, where `networks` says whether a container's network can be entered.
fn possible(kind: Kind, networks: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let processes = |why: &str| Err(format!("{why}: --target processes does it"));
    match kind {
        Kind::CrashWorker | Kind::CrashConsumer | Kind::FreezeAtPoint => processes("a container is not started anew with a point to die at"),
        Kind::Delay => processes("nothing stands between two containers that could make each message wait"),
        Kind::CutCommit | Kind::CutBytes => processes("nothing stands between two containers that could read what they say"),
        // A slow consumer's process gets signals, for which the same is needed.
        _ if kind.family() == Family::Network => networks(),
        _ => Ok(()),
    }
}

/// Whether a container's network can be entered.
fn tools() -> Result<(), String> {
    if !cfg!(target_os = "linux") || !Uid::effective().is_root() {
        return Err("a container's packet filter needs root on the machine of the containers (nsenter, iptables)".into());
    }
    let found =
        |program: &str| std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    match ["nsenter", "iptables", "ss"].into_iter().find(|program| !found(program)) {
        None => Ok(()),
        Some(missing) => Err(format!("there is no {missing} on the PATH")),
    }
}

impl Target for Containers {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn reach(&self) -> &Reach {
        &self.stand.reach
    }

    fn doors(&self) -> &Doors {
        &self.stand.doors
    }

    fn able(&self, kind: Kind) -> Result<(), String> {
        Self::possible(kind)
    }

    async fn begin(&self, order: Order<'_>) -> anyhow::Result<()> {
        let fault = order.fault;
        match order.action {
            Action::Kill(part) => self.kill9(fault, part).await,
            Action::KillNode(node) => self.kill9(fault, named(node)?).await,
            Action::KillBackend => self.kill_backend().await,
            Action::Freeze(part) => self.freeze(fault, part).await,
            Action::FreezeNode(node) => self.freeze(fault, named(node)?).await,
            Action::Roll(parts) => self.roll(fault, parts).await,
            Action::LameDuck(node) => self.roll(fault, &[named(node)?.to_owned()]).await,
            Action::Isolate { node, mute, deaf, clients } => self.isolate(fault, named(node)?, *mute, *deaf, *clients).await,
            Action::Scatter => self.scatter(fault).await,
            Action::CutOff { role, server, way } => self.filter(fault, role, rules::cut_off(*server, *way)).await,
            Action::CutOffGateway(gateway) => self.filter(fault, gateway, rules::cut_off_gateway()).await,
            Action::Reset { part, times } => {
                for _ in 0..*times {
                    self.reset(part).await?;
                    tokio::time::sleep(order.length / (*times).max(1)).await;
                }
                Ok(())
            }
            Action::Delay { part, millis, .. } if self.shape.consumers.contains(part) => self.slow(fault, part, Duration::from_millis(*millis)).await,
            Action::DiskFull(part) => self.fill(fault, part).await,
            Action::Delay { .. } | Action::CutCommit { .. } | Action::CutBytes { .. } | Action::AtPoint { .. } => {
                bail!("this cannot be done to containers")
            }
            Action::StepDownStream(_) | Action::StepDownConsumer(_) | Action::StepDownMeta | Action::Repeat { .. } | Action::Poison { .. } => {
                bail!("this goes through the doors")
            }
        }
    }

    async fn lift(&self, fault: usize) -> anyhow::Result<()> {
        let rules = self.rules.clone();
        let mut trouble = tokio::task::spawn_blocking(move || rules.lift(fault)).await?.err();
        let undo = self.undo().remove(&fault).unwrap_or_default();
        for one in undo {
            if let Err(error) = self.undo_one(fault, one).await {
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn lift_all(&self) -> anyhow::Result<()> {
        let faults: Vec<usize> = self.undo().keys().copied().collect();
        let mut trouble = None;
        for fault in faults {
            if let Err(error) = self.lift(fault).await {
                trouble = Some(error);
            }
        }
        let (rules, pids) = (self.rules.clone(), self.stand.pids().await?);
        tokio::task::spawn_blocking(move || rules.lift_all(&pids)).await?;
        trouble.map_or(Ok(()), Err)
    }

    async fn serves(&self, part: &str) -> bool {
        self.stand.serves(part).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_faults_says_of_every_kind_whether_containers_have_it() {
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/chaos.md")).unwrap();
        for kind in Kind::ALL {
            let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{}`", kind.name())));
            let row = row.unwrap_or_else(|| panic!("docs/chaos.md has no {kind}"));
            let never = Containers::possible(*kind).is_err_and(|why| why.contains("--target processes"));
            assert_eq!(row.rsplit_once(" | ").unwrap().1.starts_with("not done"), never, "{row}");
        }
    }

    #[test]
    fn faults_of_the_network_are_not_promised_where_no_network_can_be_entered() {
        let refuses = || Err("no root".to_owned());
        for kind in Kind::ALL.iter().filter(|kind| possible(**kind, || Ok(())).is_ok()) {
            assert_eq!(possible(*kind, refuses).is_err(), kind.family() == Family::Network, "{kind}");
        }
    }
}
