//! The target of processes: what each fault does to them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use runtime::{Config, Stop};
use tokio::runtime::Runtime;

use super::{
    Doors, Order, Target,
    disk::Disk,
    links::{Effect, Link},
    named,
    part::Part,
    stand::Stand,
};
use crate::chaos::{
    fault::{Action, Server},
    kind::Kind,
    plan::{Plan, Shape},
    proxy::{Then, Way},
    reach::Reach,
};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(30);
/// How long a part that was restarted on purpose may take to serve.
const BACK_LIMIT: Duration = Duration::from_secs(60);
/// How long a node may take to end as a lame duck.
const LAME_LIMIT: Duration = Duration::from_secs(60);
/// How long a point may take to be reached.
const POINT_LIMIT: Duration = Duration::from_secs(12);

/// What has to be undone, by fault.
#[derive(Debug)]
enum Undo {
    /// SIGCONT, unless another fault keeps it frozen.
    Thaw(String),
    /// A point that may not have been reached.
    Disarm(String),
    /// A trap in these proxies.
    Untrap(Vec<Link>),
    /// A full disk.
    Free(String),
    /// Its process must be there again.
    Runs(String),
}

/// The cluster as processes.
#[derive(Debug)]
pub struct Processes {
    shape: Shape,
    stand: Arc<Stand>,
    undo: Mutex<BTreeMap<usize, Vec<Undo>>>,
}

impl Processes {
    /// Starts it. Disks that the plan fills are small ones. Blocking; to be called outside an async runtime.
    ///
    /// # Errors
    /// A part does not start, or `stop` is cancelled.
    pub fn start(runtime: &Runtime, config: &Config, plan: &Plan, stop: &Stop) -> anyhow::Result<Self> {
        let shape = Shape::default();
        let full: BTreeSet<String> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::DiskFull(part) => Some(part.clone()),
                _ => None,
            })
            .collect();
        let stand = Arc::new(Stand::start(runtime, config, &shape, &full, stop)?);
        Ok(Self { shape, stand, undo: Mutex::default() })
    }

    /// Whether a kind of fault can be done to processes here; known before anything is started.
    ///
    /// # Errors
    /// Why not.
    pub fn possible(kind: Kind) -> Result<(), String> {
        if kind.needs_root() {
            return Disk::possible();
        }
        if kind.needs_debug() && !cfg!(debug_assertions) {
            return Err("points between two steps are in debug builds only".into());
        }
        Ok(())
    }

    /// Where everything logs.
    pub fn logs(&self) -> std::path::PathBuf {
        self.stand.files.root.join("log")
    }

    /// The folder of the run, gone with it.
    pub fn folder(&self) -> &Path {
        &self.stand.folder.root
    }

    fn undo(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Undo>>> {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, fault: usize, undo: Undo) {
        self.undo().entry(fault).or_default().push(undo);
    }

    /// Does something to a part on a thread that may block.
    async fn with<T: Send + 'static>(&self, name: &str, work: impl FnOnce(&Part) -> T + Send + 'static) -> anyhow::Result<T> {
        let (stand, name) = (self.stand.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || stand.supervised.part(&name).map(work)).await?
    }

    async fn kill9(&self, fault: usize, name: &str) -> anyhow::Result<()> {
        self.remember(fault, Undo::Runs(name.to_owned()));
        self.with(name, Part::kill9).await?
    }

    async fn freeze(&self, fault: usize, name: &str) -> anyhow::Result<()> {
        self.remember(fault, Undo::Thaw(name.to_owned()));
        self.with(name, |part| part.signal(Signal::SIGSTOP)).await?
    }

    /// One after the other: the next only when the last one serves again.
    async fn roll(&self, parts: &[String]) -> anyhow::Result<()> {
        let mut trouble = None;
        for name in parts {
            if let Err(error) = self.with(name, Part::restart).await? {
                trouble = Some(error);
            }
            self.until(name, BACK_LIMIT, "does not serve after its restart", Part::serves).await?;
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn until(&self, name: &str, limit: Duration, why: &str, is: impl Fn(&Part) -> bool + Copy + Send + 'static) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.with(name, is).await? {
            if Instant::now() > deadline {
                bail!("{name} {why} in {} s", limit.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn lame_duck(&self, fault: usize, name: &str) -> anyhow::Result<()> {
        self.remember(fault, Undo::Runs(name.to_owned()));
        let lives = self.with(name, Part::lives).await?;
        self.with(name, |part| part.signal(Signal::SIGUSR2)).await??;
        self.until(name, LAME_LIMIT, "does not end as a lame duck", move |part| part.lives() > lives).await
    }

    async fn at_point(&self, order: Order<'_>, name: &str, point: &str, nth: u64, freeze: bool) -> anyhow::Result<()> {
        self.remember(order.fault, Undo::Disarm(name.to_owned()));
        let value = format!("{point}={}@{nth}", if freeze { "stop" } else { "abort" });
        self.with(name, move |part| part.restart_with("CHANCERY_FAILPOINT", &value)).await??;
        let lives = self.with(name, Part::lives).await?;
        let limit = if freeze { POINT_LIMIT } else { order.length };
        self.until(name, limit, &format!("does not pass {point}"), move |part| if freeze { part.stopped() } else { part.lives() > lives }).await
    }

    fn isolate(&self, fault: usize, node: &str, mute: bool, deaf: bool, clients: bool) {
        let nodes = &self.shape.nodes;
        let mut effects = Vec::new();
        for link in self.stand.links.of(node) {
            let between = nodes.contains(&link.0) && nodes.contains(&link.1);
            // What the node sends is a request where it connects, and an answer where it is connected to.
            let (sends, hears) = if link.0 == node { (Way::Requests, Way::Answers) } else { (Way::Answers, Way::Requests) };
            if between || clients {
                effects.extend(mute.then(|| (link.clone(), Effect::Hold(sends))));
                effects.extend(deaf.then(|| (link.clone(), Effect::Hold(hears))));
            }
        }
        self.stand.links.apply(fault, effects);
    }

    /// Holds these links, one way or both.
    fn hold(&self, fault: usize, links: Vec<Link>, way: Option<Way>) {
        let ways = way.map_or_else(|| vec![Way::Requests, Way::Answers], |way| vec![way]);
        let effects = links.into_iter().flat_map(|link| ways.iter().map(move |way| (link.clone(), Effect::Hold(*way))).collect::<Vec<_>>());
        self.stand.links.apply(fault, effects.collect());
    }

    fn to(&self, role: &str, server: Server) -> Vec<Link> {
        self.stand.links.select(|from, to| from == role && (to == "postgres") == (server == Server::Postgres))
    }

    async fn cut_commits(&self, order: Order<'_>, worker: &str, times: u32) -> anyhow::Result<()> {
        let link = self.to(worker, Server::Postgres).into_iter().next().context("no link to PostgreSQL")?;
        self.remember(order.fault, Undo::Untrap(vec![link.clone()]));
        let proxy = self.stand.links.proxy(&link).context("no proxy")?;
        let (deadline, mut cut) = (Instant::now() + order.length, 0);
        while cut < times && Instant::now() < deadline {
            let before = proxy.caught();
            proxy.at(b"COMMIT", Then::CutAfter);
            while proxy.caught() == before && Instant::now() < deadline {
                tokio::time::sleep(LOOK).await;
            }
            cut += u32::from(proxy.caught() > before);
        }
        if cut == 0 { bail!("{worker} committed nothing in {} s", order.length.as_secs()) } else { Ok(()) }
    }

    async fn cut_bytes(&self, order: Order<'_>, links: Vec<Link>, way: Way, bytes: u64) -> anyhow::Result<()> {
        self.remember(order.fault, Undo::Untrap(links.clone()));
        let proxies: Vec<_> = links.iter().filter_map(|link| self.stand.links.proxy(link)).collect();
        let caught = || proxies.iter().map(|proxy| proxy.caught()).sum::<usize>();
        let before = caught();
        proxies.iter().for_each(|proxy| proxy.cut_after(way, bytes));
        let deadline = Instant::now() + order.length;
        while caught() == before {
            if Instant::now() > deadline {
                bail!("fewer than {bytes} bytes were carried in {} s", order.length.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn undo_one(&self, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Thaw(name) => {
                let other = self.undo().values().flatten().any(|undo| matches!(undo, Undo::Thaw(frozen) if *frozen == name));
                // Whoever was killed meanwhile runs again, unfrozen.
                if !other && let Err(error) = self.with(&name, |part| part.signal(Signal::SIGCONT)).await? {
                    tracing::debug!(name, %error, "nobody to continue");
                }
                Ok(())
            }
            Undo::Disarm(name) => self.with(&name, |part| part.disarm()).await?,
            Undo::Untrap(links) => {
                links.iter().filter_map(|link| self.stand.links.proxy(link)).for_each(|proxy| {
                    let _ = proxy.disarm();
                });
                Ok(())
            }
            Undo::Free(name) => {
                self.stand.disks.get(&name).map_or(Ok(()), Disk::free)?;
                // nats-server stops a stream whose disk was full until it is started anew: whoever makes room does that, too.
                if self.shape.nodes.contains(&name) { self.with(&name, Part::restart).await? } else { Ok(()) }
            }
            Undo::Runs(name) => self.until(&name, BACK_LIMIT, "is not started again", Part::runs).await,
        }
    }
}

impl Target for Processes {
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
            Action::KillBackend => {
                let parts = self.stand.clone();
                tokio::task::spawn_blocking(move || super::backend::kill9(&parts.reach.database_url)).await?
            }
            Action::Freeze(part) => self.freeze(fault, part).await,
            Action::FreezeNode(node) => self.freeze(fault, named(node)?).await,
            Action::Roll(parts) => self.roll(parts).await,
            Action::LameDuck(node) => self.lame_duck(fault, named(node)?).await,
            Action::Isolate { node, mute, deaf, clients } => {
                self.isolate(fault, named(node)?, *mute, *deaf, *clients);
                Ok(())
            }
            Action::Scatter => {
                let nodes = &self.shape.nodes;
                let between = |from: &str, to: &str| [from, to].iter().all(|side| nodes.iter().any(|node| node == side));
                self.hold(fault, self.stand.links.select(between), None);
                Ok(())
            }
            Action::CutOff { role, server, way } => {
                self.hold(fault, self.to(role, *server), *way);
                Ok(())
            }
            Action::CutOffGateway(gateway) => {
                self.hold(fault, self.stand.links.select(|from, to| from == "load" && to == gateway), None);
                Ok(())
            }
            Action::Reset { part, times } => {
                let links = self.stand.links.of(part);
                for _ in 0..*times {
                    self.stand.links.cut(&links);
                    tokio::time::sleep(order.length / (*times).max(1)).await;
                }
                Ok(())
            }
            Action::Delay { part, millis, jitter } => {
                let effect = Effect::Delay(Duration::from_millis(*millis), Duration::from_millis(*jitter));
                self.stand.links.apply(fault, self.stand.links.of(part).into_iter().map(|link| (link, effect)).collect());
                Ok(())
            }
            Action::CutCommit { worker, times } => self.cut_commits(order, worker, *times).await,
            Action::CutBytes { role, server, way, bytes } => self.cut_bytes(order, self.to(role, *server), *way, *bytes).await,
            Action::AtPoint { part, point, nth, freeze } => self.at_point(order, part, point, *nth, *freeze).await,
            Action::DiskFull(part) => {
                self.remember(fault, Undo::Free(part.clone()));
                let (stand, part) = (self.stand.clone(), part.clone());
                tokio::task::spawn_blocking(move || stand.disks.get(&part).with_context(|| format!("{part} has no small disk"))?.fill()).await?
            }
            Action::StepDownStream(_) | Action::StepDownConsumer(_) | Action::StepDownMeta | Action::Repeat { .. } | Action::Poison { .. } => {
                bail!("this goes through the doors")
            }
        }
    }

    async fn lift(&self, fault: usize) -> anyhow::Result<()> {
        self.stand.links.lift(fault);
        let undo = self.undo().remove(&fault).unwrap_or_default();
        let mut trouble = None;
        for one in undo {
            if let Err(error) = self.undo_one(one).await {
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
        self.stand.links.lift_all();
        trouble.map_or(Ok(()), Err)
    }

    async fn serves(&self, part: &str) -> bool {
        self.with(part, Part::serves).await.unwrap_or(false)
    }
}
