//! The parts of the stack in the order in which they need each other.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use runtime::{Config, config::Secret};
use serde_json::json;

use super::{
    children::{self, Member},
    files::{self, Files, Keys},
};
use crate::{
    child,
    manifest::Manifest,
    migrate::{self, Passwords},
    privilege::nats::User,
    provision,
    role::{Consumer, Role},
    servers::{cluster::Cluster, find, nats, port, postgres},
    stand,
    token::{self, Claims},
};

/// The database of the stack.
const DATABASE: &str = "chancery";
/// Ports that are tried first, away from the servers' own, which people may have in use.
const NATS_PORT: u16 = 14222;
const NATS_MONITOR_PORT: u16 = 18222;
const POSTGRES_PORT: u16 = 15432;
/// How long all roles together may take to get ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// When a start that takes long says what it is waiting for.
const NOTICE: Duration = Duration::from_secs(10);
/// Gateway processes where there are several nodes of NATS.
const GATEWAYS: usize = 2;
/// Worker processes.
pub(super) const WORKERS: usize = 2;
/// How long the workers may take to share the partitions before the present shares are shown.
const SHARE_LIMIT: Duration = Duration::from_secs(2);
/// How long the operator's token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    manifest: &'static Manifest,
    /// Where its files are.
    pub files: Files,
    /// The gateway's URL.
    pub gateway: String,
    /// Said when the wanted port was taken.
    pub port_note: Option<String>,
    /// Copies of each stream.
    replicas: usize,
    /// The operator's token.
    pub token: Secret,
    members: Vec<Member>,
    nats: Cluster,
    postgres: postgres::Postgres,
    server_trouble: bool,
    drain: Duration,
}

impl Stack {
    /// Starts everything on so many nodes of NATS and waits until it is ready, or until `stop` is set.
    ///
    /// # Errors
    /// A part cannot be started.
    pub fn start(config: &Config, nodes: usize, files: Files, stop: &AtomicBool) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("finding this program")?;
        let keys = files.keys()?;
        files.clear_logs();
        files.same_nodes(nodes)?;
        let manifest = if config.manifest.is_some() { Manifest::of(config)? } else { Manifest::with_examples() };
        let (nats, postgres) = servers(config, manifest, nodes, &files, &keys, &exe)?;

        let begin = Instant::now();
        let admin_url = postgres.url(DATABASE);
        postgres.create_database(DATABASE)?;
        let report = migrate::run(&admin_url, Some(&keys.roles))?;
        let of_database = Config { database_url: Secret::new(admin_url), ..config.clone() };
        provision::teams(&of_database, manifest, &Passwords::One(keys.roles.clone()))?;
        let mut provisioning = config.clone();
        provisioning.nats_url = Secret::new(nats.url_as(User::Provisioner));
        provisioning.replicas = replicas(config, nodes);
        let created = provision::with(&provisioning, manifest).context("creating the streams")?;
        let done = format!("{} applied        streams  {} created", report.applied.len(), created.streams);
        say!(" {:<21} {done:<38}{:>9}", "migrations", seconds(begin.elapsed()));

        let wanted = config.listen.port();
        let listen = SocketAddr::new(config.listen.ip(), port::next_free(wanted)?);
        let port_note = (listen.port() != wanted).then(|| format!("   ({wanted} was taken: {})", listen.port()));
        let gateway = format!("http://{listen}");
        let members = members(&exe, &files, &keys, &nats, &postgres, listen, provisioning.replicas)?;
        let drain = config.drain + Duration::from_secs(3);
        let private = std::fs::read_to_string(&keys.token_private)?;
        let token = Secret::new(token::mint(&private, &Claims::new(&keys.operator, "platform", "operator", TOKEN_LIFETIME))?);
        let replicas = provisioning.replicas;
        let mut stack = Self { files, manifest, replicas, gateway, port_note, token, members, nats, postgres, server_trouble: false, drain };
        stack.write_env(config, &keys)?;
        stack.write_teams(manifest, &keys)?;
        for member in &mut stack.members {
            member.start().with_context(|| format!("starting {}", member.name))?;
        }
        stack.wait_ready(stop)?;
        Ok(stack)
    }

    /// How a client reaches NATS.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// The consumers of other teams that are declared.
    pub fn teams(&self) -> impl Iterator<Item = &'static str> {
        self.manifest.of_teams().map(|entry| entry.name)
    }

    /// How the superuser reaches the database.
    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// The roles.
    pub fn members(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// Kills a role's process as a crash would; [`Stack::supervise`] starts it again.
    pub fn kill9(&mut self, name: &str) {
        if let Some(child) = self.members.iter_mut().find(|member| member.name == name).and_then(Member::child) {
            child.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// The numbers of partitions that the workers hold, as the database has them; waits a little for the second worker's share.
    pub fn partitions(&self) -> Vec<i64> {
        let query = "SELECT count(*) FROM partitions WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1 DESC";
        let Ok(mut client) = self.postgres.connect(DATABASE) else { return Vec::new() };
        let deadline = Instant::now() + SHARE_LIMIT;
        loop {
            let shares: Vec<i64> =
                client.query(query, &[]).map(|rows| rows.iter().filter_map(|row| row.try_get(0).ok()).collect()).unwrap_or_default();
            let even = shares.len() == WORKERS && shares.first().zip(shares.last()).is_some_and(|(most, least)| most - least <= 1);
            if even || Instant::now() > deadline {
                return shares;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts again what has died.
    pub fn supervise(&mut self) {
        for member in &mut self.members {
            member.supervise();
        }
        let node_ended = self.nats.nodes_mut().iter_mut().enumerate().find_map(|(index, node)| Some((Some(index), node.child().exited()?)));
        let Some((node, status)) = node_ended.or_else(|| Some((None, self.postgres.child().exited()?))) else { return };
        let name = node.map_or_else(|| "postgres".to_owned(), |index| files::node(index, self.nats.nodes().len(), "nats-server"));
        if !self.server_trouble {
            say!(" {name} ended ({status}); starting it again; log: {}", self.files.log(&name).display());
        }
        let result = match node.and_then(|index| self.nats.nodes_mut().get_mut(index)) {
            Some(node) => node.restart(),
            None => self.postgres.restart(),
        };
        self.server_trouble = result.is_err();
        match result {
            Ok(()) => say!(" {name} started again"),
            Err(error) => {
                say!(" {name} does not start: {error:#}");
                std::thread::sleep(Duration::from_secs(2));
            }
        }
    }

    /// Stops in the order in which work flows: gateways, workers, consumers, then the servers. True when nothing had to be killed.
    pub fn stop(&mut self) -> bool {
        let mut clean = true;
        for turn in [0, 1, 2] {
            let group = self.members.iter_mut().filter(|member| turn_of(member.role) == turn);
            clean &= children::stop(group, self.drain);
        }
        clean &= self.nats.stop();
        clean & self.postgres.stop()
    }

    /// Waits for every role. One that ends, or is not ready in time, is named with its reason.
    fn wait_ready(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut notice = Some(begin + NOTICE);
        let mut waiting: Vec<usize> = (0..self.members.len()).collect();
        while !waiting.is_empty() {
            waiting.retain(|index| !self.members[*index].ready());
            for index in &waiting {
                let member = &mut self.members[*index];
                if let Some(how) = member.ended() {
                    bail!("{} ended with {how}:\n{}", member.name, child::tail(&self.files.log(&member.name), 12));
                }
            }
            let reasons = || -> String { waiting.iter().map(|index| format!("\n  {}", self.members[*index].why_not_ready())).collect() };
            if begin.elapsed() > READY_LIMIT {
                bail!("not ready after {} s:{}\nlogs in {}", READY_LIMIT.as_secs(), reasons(), self.files.root.join("log").display());
            }
            if !waiting.is_empty() && stop.load(Ordering::SeqCst) {
                say!(" stopped before everything was ready:{}", reasons());
                return Ok(());
            }
            if !waiting.is_empty() && notice.is_some_and(|at| at < Instant::now()) {
                notice = None;
                say!(" still waiting for:{}", reasons());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the programs of other teams are started with.
    fn write_teams(&self, manifest: &Manifest, keys: &Keys) -> anyhow::Result<()> {
        for entry in manifest.of_teams() {
            let database = entry.database_role().map(|role| self.postgres.url_as(&role, &keys.roles, DATABASE));
            self.files.write_team(entry.name, &stand::variables(entry, self.nats.url_as(User::Team(entry.name)), database))?;
        }
        Ok(())
    }

    fn write_env(&self, config: &Config, keys: &Keys) -> anyhow::Result<()> {
        let manifest = match &config.manifest {
            Some(path) => std::path::absolute(path)?,
            None => self.files.write_examples(Manifest::examples())?,
        };
        let server = self.nats.servers();
        let description = "the server of `chancery up`";
        self.files.write_nats_context(
            &json!({ "description": description, "url": server, "user": User::Operator.name(), "password": self.nats.password(User::Operator) }),
        )?;
        self.files.write_env(&[
            ("CHANCERY", self.gateway.clone()),
            ("TOKEN", self.token.expose().to_owned()),
            ("DATABASE_URL", self.database_url()),
            ("NATS_URL", self.nats_url()),
            ("CHANCERY_NATS_URL", self.nats_url()),
            ("CHANCERY_DATA", self.files.root.display().to_string()),
            ("CHANCERY_MAIL", format!("file://{}", self.files.root.join("mail").display())),
            ("CHANCERY_PUBLIC_URL", self.gateway.clone()),
            ("CHANCERY_TOKEN_PRIVATE_KEY_FILE", keys.token_private.display().to_string()),
            ("CHANCERY_TOKEN_PUBLIC_KEY_FILE", keys.token_public.display().to_string()),
            ("CHANCERY_MANIFEST", manifest.display().to_string()),
            ("CHANCERY_REPLICAS", self.replicas.to_string()),
            ("CHANCERY_DOCTOR_ROLES", joined(self.members.iter().map(|member| format!("{}={}", member.name, member.address)))),
            ("CHANCERY_DOCTOR_MONITORS", joined(self.nats.nodes().iter().map(|node| node.monitor().to_string()))),
        ])
    }
}

fn joined(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(",")
}

/// Both servers at once: either may have to be fetched.
fn servers(
    config: &Config,
    manifest: &'static Manifest,
    nodes: usize,
    files: &Files,
    keys: &Keys,
    exe: &std::path::Path,
) -> anyhow::Result<(Cluster, postgres::Postgres)> {
    let named = find::Named::from_env();
    let with_nats = || -> anyhow::Result<Cluster> {
        let begin = Instant::now();
        let found = find::nats(&named, &config.data)?;
        let origin = if nodes > 1 { format!("{} ×{nodes}", found.origin) } else { found.origin.to_owned() };
        say!(" nats-server {:<9} {origin:<38}{:>9}", found.version, seconds(begin.elapsed()));
        let options = (0..nodes).zip(0..).map(|(index, offset)| nats::Options {
            root: files.root.join(files::node(index, nodes, "nats")),
            log: files.log(&files::node(index, nodes, "nats-server")),
            port: Some(NATS_PORT + offset),
            monitor_port: Some(NATS_MONITOR_PORT + offset),
            password: keys.nats.clone(),
            sync: nats::Sync::Always,
            manifest,
            node: None,
            remove: None,
        });
        Cluster::start(exe, &found, options.collect(), &|route| Ok(route.port))
    };
    let with_postgres = || -> anyhow::Result<postgres::Postgres> {
        let begin = Instant::now();
        let found = find::postgres(&named, &config.data, postgres::made_by(&files.postgres))?;
        say!(" postgres {:<12} {:<38}{:>9}", found.version, found.origin, seconds(begin.elapsed()));
        let options = postgres::Options {
            root: files.postgres.clone(),
            log: files.log("postgres"),
            port: Some(POSTGRES_PORT),
            password: keys.postgres.clone(),
            settings: Vec::new(),
            remove: None,
        };
        postgres::Postgres::start(exe, &found, options)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(with_nats);
        let postgres = with_postgres();
        let nats = other.join().unwrap_or_else(|_| bail!("the thread that starts nats-server panicked"));
        match (nats, postgres) {
            // Both at once, so that nobody installs one only to hear of the other.
            (Err(one), Err(other)) => bail!("{one:#}\nchancery: {other:#}"),
            (nats, postgres) => Ok((nats?, postgres?)),
        }
    })
}

fn members(
    exe: &std::path::Path,
    files: &Files,
    keys: &Keys,
    nats: &Cluster,
    postgres: &postgres::Postgres,
    listen: SocketAddr,
    replicas: usize,
) -> anyhow::Result<Vec<Member>> {
    let nodes = nats.nodes().len();
    let gateways = if nodes > 1 { GATEWAYS } else { 1 };
    let mut roles: Vec<(Role, String)> = (0..gateways).map(|index| (Role::Gateway, files::node(index, gateways, "gateway"))).collect();
    roles.extend((1..=WORKERS).map(|number| (Role::Worker, format!("worker-{number}"))));
    roles.extend(Consumer::ALL.map(|consumer| (Role::Consumer(consumer), consumer.name().to_owned())));
    let mut next = listen;
    let member = |(role, name): (Role, String)| -> anyhow::Result<Member> {
        let admin = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
        let own = next;
        if role == Role::Gateway {
            next.set_port(port::next_free(own.port().saturating_add(1))?);
        }
        let mut env = vec![
            ("DATABASE_URL", postgres.url_as(role.database_role(), &keys.roles, DATABASE)),
            ("CHANCERY_NATS_URL", nats.url_as(User::of(role))),
            ("CHANCERY_PUBLIC_URL", format!("http://{listen}")),
            ("CHANCERY_DATA", files.root.display().to_string()),
            ("CHANCERY_WORKER_ID", name.clone()),
            ("CHANCERY_REPLICAS", replicas.to_string()),
        ];
        let path = |path: &std::path::Path| path.display().to_string();
        match role {
            Role::Gateway => env.extend([
                ("CHANCERY_LISTEN", own.to_string()),
                ("CHANCERY_TOKEN_PUBLIC_KEY_FILE", path(&keys.token_public)),
                ("CHANCERY_TOKEN_PRIVATE_KEY_FILE", path(&keys.token_private)),
                ("CHANCERY_LINK_KEY_FILE", path(&keys.link)),
                ("CHANCERY_FINGERPRINT_KEY_FILE", path(&keys.fingerprint)),
                // With replicas the server calls fsync once for many messages by itself.
                ("CHANCERY_GROUP_COMMIT", if replicas > 1 { "0" } else { "16" }.into()),
            ]),
            _ => env.push(("CHANCERY_ADMIN_LISTEN", admin.to_string())),
        }
        if role == Role::Consumer(Consumer::Notifications) {
            env.extend([("CHANCERY_MAIL", format!("file://{}", files.root.join("mail").display())), ("CHANCERY_LINK_KEY_FILE", path(&keys.link))]);
        }
        let environment = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let address = if role == Role::Gateway { own } else { admin };
        let log = files.log(&name);
        Ok(Member::new(role, name, address, exe.to_owned(), environment, log))
    };
    roles.into_iter().map(member).collect()
}

/// Replicas of every stream: one on each node, unless there is one node and the configuration says something else.
fn replicas(config: &Config, nodes: usize) -> usize {
    if nodes > 1 { nodes } else { config.replicas }
}

fn turn_of(role: Role) -> u8 {
    match role {
        Role::Gateway => 0,
        Role::Worker => 1,
        Role::Consumer(_) => 2,
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
