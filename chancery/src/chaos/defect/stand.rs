//! What a scripted scenario runs on: a nats-server of its own, a fresh database, and a few processes that can be armed one by one.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::Signal;
use runtime::{config::Secret, planted::Defect};

use super::{base::Base, process::Process};
use crate::{
    chaos::{
        power::Disk,
        proxy::Proxy,
        reach::{NatsReach, Part, Parts, Reach},
    },
    child::Child,
    connect,
    manifest::Manifest,
    privilege::nats::User,
    role::{Consumer, Role},
    servers::{nats, port},
    token,
};

/// How long anything that a scenario waits for may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The size of a disk whose power is cut.
const DISK: u64 = 1 << 30;
/// The key of mailed tokens and of fingerprints.
const LINK_KEY: &str = "a key of thirty-two characters!!";
/// The lease of a worker: short, so that a takeover is a matter of seconds.
const LEASE_MS: &str = "1500";

/// What a scenario asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// How many workers.
    pub(super) workers: usize,
    /// Which consumers.
    pub(super) consumers: Vec<Consumer>,
    /// Statements for the fresh database.
    pub(super) prepare: Vec<&'static str>,
    /// When nats-server syncs.
    pub(super) sync: nats::Sync,
    /// Whether nats-server lies on a disk whose power can be cut.
    pub(super) disk: bool,
    /// Whether the workers reach PostgreSQL through a proxy.
    pub(super) proxied: bool,
    /// Variables for every process.
    pub(super) environment: Vec<(&'static str, String)>,
}

/// A running stand. Dropped in this order.
#[derive(Debug)]
pub(super) struct Stand<'a> {
    processes: Vec<Process>,
    parts: Arc<Mutex<Vec<Part>>>,
    proxy: Option<Proxy>,
    nats: nats::Nats,
    disk: Option<Disk>,
    database: String,
    folder: PathBuf,
    environment: BTreeMap<String, String>,
    base: &'a mut Base,
}

impl<'a> Stand<'a> {
    /// Starts everything that is wanted, with a defect or without one.
    ///
    /// # Errors
    /// Something does not start.
    pub(super) async fn start(base: &'a mut Base, wanted: Wanted, planted: Option<Defect>) -> anyhow::Result<Self> {
        let database = blocking(|| base.database())?;
        let folder = base.folder().join(&database);
        fs::create_dir_all(folder.join("mail"))?;
        let disk = if wanted.disk { Some(blocking(|| Disk::make(&folder, DISK))?) } else { None };
        let options = nats::Options {
            root: disk.as_ref().map_or(folder.as_path(), Disk::path).join("nats"),
            log: folder.join("nats.log"),
            port: None,
            monitor_port: None,
            password: token::secret(),
            sync: wanted.sync,
            remove: None,
            manifest: Manifest::built_in(),
            node: None,
        };
        let nats = blocking(|| nats::Nats::start(&base.exe, &base.nats, options))?;
        let server = SocketAddr::from(([127, 0, 0, 1], base.postgres.port()));
        let proxy = if wanted.proxied { Some(Proxy::start(Some(server)).await?) } else { None };
        let mut environment: BTreeMap<String, String> = BTreeMap::new();
        environment.insert(runtime::planted::VARIABLE.into(), planted.map_or("none", Defect::name).into());
        environment.extend(wanted.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut stand = Self { processes: Vec::new(), parts: Arc::default(), proxy, nats, disk, database, folder, environment, base };
        let client = stand.database().await?;
        for statement in &wanted.prepare {
            client.batch_execute(statement).await?;
        }
        stand.provision()?;
        stand.without_duplicate_window().await?;
        stand.without_durables_but(&wanted.consumers).await?;
        stand.start_role("gateway-1", Role::Gateway, &[]).await?;
        stand.start_role("gateway-2", Role::Gateway, &[]).await?;
        for consumer in wanted.consumers {
            stand.start_role(consumer.name(), Role::Consumer(consumer), &[]).await?;
        }
        for number in 1..=wanted.workers {
            stand.start_role(&format!("worker-{number}"), Role::Worker, &[]).await?;
        }
        Ok(stand)
    }

    /// Makes the streams and the durables, as a process of the program: a defect may be in how they are made.
    fn provision(&self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.base.exe);
        command.arg("provision").env_clear().envs(&self.environment).env("CHANCERY_NATS_URL", self.nats.url_as(User::Provisioner));
        let output = command.stdin(Stdio::null()).output().context("starting the provisioner")?;
        if !output.status.success() {
            bail!("the provisioner: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        // What was there before a scenario begins is on the disk, whenever the server would have synced it.
        self.disk.as_ref().map_or(Ok(()), Disk::sync)
    }

    /// Lets the server forget message ids at once: nothing may rest on its window, and it must not hide what a defect does twice.
    async fn without_duplicate_window(&self) -> anyhow::Result<()> {
        let jetstream = self.jetstream().await?;
        for name in [subjects::stream::COMMANDS, subjects::stream::EVENTS] {
            let mut config = jetstream.get_stream(name).await?.cached_info().config.clone();
            config.duplicate_window = Duration::from_millis(100);
            jetstream.update_stream(config).await?;
        }
        Ok(())
    }

    /// Removes the durables that nobody serves here: they would never come to rest.
    async fn without_durables_but(&self, served: &[Consumer]) -> anyhow::Result<()> {
        let events = self.jetstream().await?.get_stream(subjects::stream::EVENTS).await?;
        for consumer in Consumer::ALL.iter().filter(|consumer| !served.contains(consumer)) {
            events.delete_consumer(consumer.name()).await?;
        }
        Ok(())
    }

    // ---- what it looks like

    /// Every door of it.
    pub(super) fn reach(&self) -> Reach {
        let parts = self.parts.clone();
        Reach {
            gateways: self.processes.iter().filter(|process| process.role == Role::Gateway).map(|process| process.address).collect(),
            database_url: Secret::new(self.database_url()),
            nats: NatsReach {
                urls: Secret::new(self.nats.url()),
                user: None,
                password: None,
                ca: None,
                monitors: vec![("nats-1".into(), self.nats.monitor())],
            },
            token_private_key: Secret::new(self.base.keys.0.clone()),
            mail: Some(self.folder.join("mail")),
            parts: Parts::new(move || parts.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    fn database_url(&self) -> String {
        self.base.postgres.url(&self.database)
    }

    /// A superuser's connection.
    pub(super) async fn database(&self) -> anyhow::Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.database_url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A number from the database.
    pub(super) async fn count(&self, sql: &str) -> anyhow::Result<i64> {
        Ok(self.database().await?.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// JetStream with an operator's rights.
    pub(super) async fn jetstream(&self) -> anyhow::Result<async_nats::jetstream::Context> {
        let client = connect::nats(&self.nats.url(), "chancery chaos").await.map_err(|error| anyhow!("{error}"))?;
        Ok(async_nats::jetstream::new(client))
    }

    /// The last place in EVENTS.
    pub(super) async fn last_event(&self) -> anyhow::Result<u64> {
        Ok(self.jetstream().await?.get_stream(subjects::stream::EVENTS).await?.cached_info().state.last_sequence)
    }

    /// The proxy between workers and PostgreSQL.
    pub(super) fn proxy(&self) -> anyhow::Result<&Proxy> {
        self.proxy.as_ref().context("the scenario asked for no proxy")
    }

    /// Everything a process has written.
    pub(super) fn log(&self, name: &str) -> String {
        let process = self.processes.iter().find(|process| process.name == name);
        process.map(|process| fs::read_to_string(&process.log).unwrap_or_default()).unwrap_or_default()
    }

    // ---- what is done to it

    /// Starts a role as a new process with more variables, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub(super) async fn start_role(&mut self, name: &str, role: Role, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let environment = self.variables(name, role);
        let address = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
        let log = self.folder.join(format!("{name}.log"));
        self.processes.push(Process { name: name.to_owned(), role, address, environment, log, child: None });
        self.start_again(name, more).await
    }

    /// Starts a process that has ended, with other variables; what it was given at an earlier start stays.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub(super) async fn start_again(&mut self, name: &str, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let (exe, process) = (self.base.exe.clone(), self.process(name)?);
        process.environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        blocking(|| process.start(&exe))?;
        let part = |process: &Process| Part {
            name: process.name.clone(),
            admin: Some(process.address),
            pid: process.child.as_ref().map(Child::pid),
            log: Some(process.log.clone()),
        };
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = self.processes.iter().map(part).collect();
        Ok(())
    }

    /// Kills a process with -9.
    pub(super) fn kill9(&mut self, name: &str) -> anyhow::Result<()> {
        self.child(name).map(Child::kill9)
    }

    /// Sends a signal.
    pub(super) fn signal(&mut self, name: &str, signal: Signal) -> anyhow::Result<()> {
        self.child(name).map(|child| child.signal(signal))
    }

    /// Waits until a process has ended by itself.
    pub(super) async fn ends(&mut self, name: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.child(name)?.exited().is_none() {
            if begin.elapsed() > LIMIT {
                bail!("{name} does not end");
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// Waits until a process has written these words.
    pub(super) async fn says(&self, name: &str, words: &str) -> anyhow::Result<()> {
        until(&format!("{words:?} in the log of {name}"), async || Ok(self.log(name).contains(words))).await
    }

    /// Kills nats-server, cuts the power of its disk, and starts it again on what is left.
    pub(super) fn power_off(&mut self) -> anyhow::Result<()> {
        let disk = self.disk.as_mut().context("the scenario asked for no disk")?;
        blocking(|| {
            self.nats.kill9()?;
            disk.cut()?;
            self.nats.restart()
        })
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes.iter_mut().find(|process| process.name == name).with_context(|| format!("there is no process {name}"))
    }

    fn child(&mut self, name: &str) -> anyhow::Result<&mut Child> {
        self.process(name)?.child.as_mut().with_context(|| format!("{name} was not started"))
    }

    fn variables(&self, name: &str, role: Role) -> BTreeMap<String, String> {
        let postgres = &self.base.postgres;
        let database = postgres.url_as(role.database_role(), &self.base.password, &self.database);
        let database = match &self.proxy {
            Some(proxy) if role == Role::Worker => database.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port())),
            _ => database,
        };
        let mut all: BTreeMap<String, String> = [
            ("DATABASE_URL", database),
            ("CHANCERY_NATS_URL", self.nats.url_as(User::of(role))),
            ("CHANCERY_DATABASE_POOL", "6".into()),
            ("CHANCERY_LEASE_MS", LEASE_MS.into()),
            ("CHANCERY_RATE_PER_SECOND", "0".into()),
            ("CHANCERY_PUBLIC_RATE_PER_MINUTE", "1000000".into()),
            ("CHANCERY_WORKER_ID", name.into()),
            ("CHANCERY_LOG", "info".into()),
            ("CHANCERY_DATA", self.folder.display().to_string()),
            ("CHANCERY_GUARDED", "1".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut put = |name: &str, value: &str| drop(all.insert(name.to_owned(), value.to_owned()));
        if role == Role::Gateway {
            put("CHANCERY_TOKEN_PRIVATE_KEY", &self.base.keys.0);
            put("CHANCERY_TOKEN_PUBLIC_KEY", &self.base.keys.1);
            put("CHANCERY_FINGERPRINT_KEY", LINK_KEY);
        }
        if matches!(role, Role::Gateway | Role::Consumer(Consumer::Notifications)) {
            put("CHANCERY_LINK_KEY", LINK_KEY);
            put("CHANCERY_MAIL", &format!("file://{}", self.folder.join("mail").display()));
        }
        all.extend(self.environment.clone());
        all
    }
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        // Nothing they hold is needed any more: no draining.
        self.processes.iter_mut().filter_map(|process| process.child.as_mut()).for_each(|child| {
            child.signal(Signal::SIGCONT);
            child.kill9();
        });
    }
}

/// Asks again and again until `check` says yes.
///
/// # Errors
/// It does not within a minute, or cannot be asked.
pub(super) async fn until(what: &str, mut check: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !check().await? {
        if begin.elapsed() > LIMIT {
            bail!("waited {} s in vain for: {what}", LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

/// Runs blocking code (servers, the synchronous database client) on a thread of its own.
fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
