//! The cluster as processes of this machine: three nodes of NATS, PostgreSQL, two gateways, two workers, every consumer, with a proxy on
//! every connection between two of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use runtime::{Config, Stop, config::Secret, nats::Access};
use tokio::runtime::Runtime;

use super::{
    disk::Disk,
    links::Links,
    part::{Part, Process, Supervised},
};
use crate::{
    chaos::{plan::Shape, reach, target::Doors},
    manifest::Manifest,
    migrate,
    patience::patiently,
    privilege::nats::User,
    provision,
    role::{Consumer, Role},
    servers::{
        cluster::Cluster,
        find, nats,
        place::{self, ServerUser},
        port, postgres,
    },
    up::{Files, Keys, children::Member},
};

/// The database.
const DATABASE: &str = "chancery";
/// How long all roles together may take to get ready.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// Bytes of a disk that is to be full: much more than a run writes.
const DISK: u64 = 2 << 30;
/// What marks the folder of a run.
const PREFIX: &str = "chaos-";

/// A folder that ends with its owner. Field order: disks below it are unmounted first.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
}

impl Folder {
    /// Makes it below `data`, or where the servers' user can reach it; removes what runs that were killed have left.
    fn make(data: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
        let base = place::reachable_or_elsewhere(&data.canonicalize()?, ServerUser::needed()?)?;
        for entry in fs::read_dir(&base)?.filter_map(Result::ok) {
            let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<i32>().ok());
            if pid.is_some_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let root = base.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&root)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        Ok(Self { root })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Everything that runs. Dropped in this order: roles and servers, proxies, disks, files.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) supervised: Supervised,
    pub(super) links: Links,
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) files: Files,
    pub(super) reach: reach::Reach,
    pub(super) doors: Doors,
    pub(super) folder: Folder,
}

impl Stand {
    /// Starts everything and waits until it is ready. `full` names the parts whose disk is to be full some time. Blocking.
    ///
    /// # Errors
    /// A part does not start, or `stop` is cancelled.
    pub(super) fn start(runtime: &Runtime, config: &Config, shape: &Shape, full: &BTreeSet<String>, stop: &Stop) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("finding this program")?;
        let folder = Folder::make(&config.data)?;
        let files = Files::open(&folder.root.join("data"), false)?;
        let keys = files.keys()?;
        let mut disks = BTreeMap::new();
        for (name, path, user) in [("nats", files.root.clone(), None), ("postgres", files.postgres.clone(), ServerUser::needed()?)] {
            for part in full.iter().filter(|part| part.starts_with(name)) {
                let path = if name == "nats" { path.join(part) } else { path.clone() };
                disks.insert(part.clone(), Disk::make(&path, DISK, user)?);
            }
        }

        let named = find::Named::from_env();
        let links = Mutex::new(Links::default());
        let postgres = postgres(&exe, &find::postgres(&named, &config.data, None)?, &files, &keys)?;
        let cluster = nodes(&exe, &find::nats(&named, &config.data)?, &files, &keys, shape, &|from, to, target| {
            let mut links = links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Ok(runtime.block_on(links.add(from, to, target))?)
        })?;
        let mut links = links.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);

        postgres.create_database(DATABASE)?;
        migrate::run(&postgres.url(DATABASE), Some(&keys.roles))?;
        let mut provisioning = config.clone();
        (provisioning.nats_url, provisioning.replicas) = (Secret::new(cluster.url_as(User::Provisioner)), shape.nodes.len());
        // Servers that have just found each other may be busy for longer than a request waits.
        patiently(provisioning.provision_wait, provision::may_pass, || provision::run(&provisioning)).context("creating streams and durables")?;

        let members = runtime.block_on(members(&exe, &files, &keys, &cluster, &postgres, shape, &mut links))?;
        let gateways = members.iter().filter(|member| member.role == Role::Gateway).map(|member| (member.name.clone(), member.address)).collect();
        let doors = doors(&cluster, shape, gateways);
        let mut reach = reach(&cluster, &postgres, &files, &keys, shape)?;
        for gateway in &shape.gateways {
            let address = *doors.gateways.get(gateway).context("a gateway without an address")?;
            reach.gateways.push(runtime.block_on(links.add("load", gateway, address))?);
        }
        let supervised = supervise(&files, cluster, postgres, members, shape)?;
        let (parts, addresses) = (supervised.parts.clone(), admin_addresses(&supervised, &doors));
        reach.parts = reach::Parts::new(move || {
            let part = |part: &Part| reach::Part {
                name: part.name.clone(),
                admin: addresses.get(&part.name).copied(),
                pid: part.pid(),
                log: Some(part.log.clone()),
            };
            parts.iter().map(part).collect()
        });
        let stand = Self { supervised, links, disks, files, reach, doors, folder };
        stand.wait_ready(stop)?;
        Ok(stand)
    }

    fn wait_ready(&self, stop: &Stop) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        for part in self.supervised.parts.iter() {
            while !part.serves() {
                if stop.is_cancelled() {
                    bail!("stopped");
                }
                if Instant::now() > deadline {
                    bail!("{} is not ready after {} s:\n{}", part.name, READY_LIMIT.as_secs(), crate::child::tail(&part.log, 12));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

fn postgres(exe: &Path, installed: &find::Installed, files: &Files, keys: &Keys) -> anyhow::Result<postgres::Postgres> {
    let options = postgres::Options {
        root: files.postgres.clone(),
        log: files.log("postgres"),
        port: None,
        password: keys.postgres.clone(),
        settings: Vec::new(),
        remove: None,
    };
    postgres::Postgres::start(exe, installed, options)
}

/// The nodes, each route through a proxy that `link` makes.
fn nodes(
    exe: &Path,
    installed: &find::Installed,
    files: &Files,
    keys: &Keys,
    shape: &Shape,
    link: &dyn Fn(&str, &str, SocketAddr) -> anyhow::Result<SocketAddr>,
) -> anyhow::Result<Cluster> {
    let options = shape.nodes.iter().map(|name| nats::Options {
        root: files.root.join(name),
        log: files.log(name),
        port: None,
        monitor_port: None,
        password: keys.nats.clone(),
        sync: nats::Sync::Always,
        manifest: Manifest::built_in(),
        node: None,
        remove: None,
    });
    Cluster::start(exe, installed, options.collect(), &|route| {
        let name = |number: usize| shape.nodes.get(number - 1).map(String::as_str).context("a route of no node");
        Ok(link(name(route.from)?, name(route.to)?, SocketAddr::from(([127, 0, 0, 1], route.port)))?.port())
    })
}

/// Every role, told to reach every server through proxies of its own.
async fn members(
    exe: &Path,
    files: &Files,
    keys: &Keys,
    cluster: &Cluster,
    postgres: &postgres::Postgres,
    shape: &Shape,
    links: &mut Links,
) -> anyhow::Result<Vec<Member>> {
    let gateways = shape.gateways.iter().map(|name| (Role::Gateway, name));
    let workers = shape.workers.iter().map(|name| (Role::Worker, name));
    let consumers = Consumer::ALL.into_iter().zip(&shape.consumers).map(|(consumer, name)| (Role::Consumer(consumer), name));
    let mut members = Vec::new();
    for (role, name) in gateways.chain(workers).chain(consumers) {
        let through = |url: &str, from: u16, to: SocketAddr| url.replace(&format!(":{from}"), &format!(":{}", to.port()));
        let mut urls = Vec::new();
        for (node, node_name) in cluster.nodes().iter().zip(&shape.nodes) {
            let proxy = links.add(name, node_name, SocketAddr::from(([127, 0, 0, 1], node.port()))).await?;
            urls.push(through(&node.url_as(User::of(role)), node.port(), proxy));
        }
        let proxy = links.add(name, "postgres", SocketAddr::from(([127, 0, 0, 1], postgres.port()))).await?;
        let database = through(&postgres.url_as(role.database_role(), &keys.roles, DATABASE), postgres.port(), proxy);
        let address = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
        let environment = environment(role, name, address, files, keys, shape, urls.join(","), database);
        members.push(Member::new(role, name.clone(), address, exe.to_owned(), environment, files.log(name)));
    }
    Ok(members)
}

#[expect(clippy::too_many_arguments, reason = "all of it is what one process is told")]
fn environment(
    role: Role,
    name: &str,
    address: SocketAddr,
    files: &Files,
    keys: &Keys,
    shape: &Shape,
    nats: String,
    database: String,
) -> Vec<(String, String)> {
    let path = |path: &Path| path.display().to_string();
    let mut env = vec![
        ("DATABASE_URL", database),
        ("CHANCERY_NATS_URL", nats),
        ("CHANCERY_REPLICAS", shape.nodes.len().to_string()),
        ("CHANCERY_DATA", path(&files.root)),
        ("CHANCERY_WORKER_ID", name.to_owned()),
        // Limits that are about people are not what is tested here.
        ("CHANCERY_RATE_PER_SECOND", "0".into()),
        ("CHANCERY_PUBLIC_RATE_PER_MINUTE", "1000000".into()),
        ("CHANCERY_MAILS_PER_USER_HOUR", "1000000".into()),
        ("CHANCERY_MAILS_PER_TENANT_HOUR", "1000000".into()),
        ("CHANCERY_LOG", "info".into()),
        ("CHANCERY_FAILPOINT", String::new()),
    ];
    match role {
        Role::Gateway => env.extend([
            ("CHANCERY_LISTEN", address.to_string()),
            ("CHANCERY_PUBLIC_URL", format!("http://{address}")),
            ("CHANCERY_TOKEN_PUBLIC_KEY_FILE", path(&keys.token_public)),
            ("CHANCERY_TOKEN_PRIVATE_KEY_FILE", path(&keys.token_private)),
            ("CHANCERY_LINK_KEY_FILE", path(&keys.link)),
            ("CHANCERY_FINGERPRINT_KEY_FILE", path(&keys.fingerprint)),
        ]),
        _ => env.push(("CHANCERY_ADMIN_LISTEN", address.to_string())),
    }
    if role == Role::Consumer(Consumer::Notifications) {
        env.extend([("CHANCERY_MAIL", format!("file://{}", files.root.join("mail").display())), ("CHANCERY_LINK_KEY_FILE", path(&keys.link))]);
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn doors(cluster: &Cluster, shape: &Shape, gateways: BTreeMap<String, SocketAddr>) -> Doors {
    let access = |user| Access::at(&cluster.url_as(user));
    let monitors = shape.nodes.iter().cloned().zip(cluster.nodes().iter().map(nats::Nats::monitor)).collect();
    Doors {
        operator: access(User::Operator),
        worker: access(User::Worker),
        gateway: access(User::Gateway),
        system: Some(access(User::System)),
        monitors,
        gateways,
    }
}

fn reach(cluster: &Cluster, postgres: &postgres::Postgres, files: &Files, keys: &Keys, shape: &Shape) -> anyhow::Result<reach::Reach> {
    let monitors = shape.nodes.iter().cloned().zip(cluster.nodes().iter().map(nats::Nats::monitor)).collect();
    Ok(reach::Reach {
        gateways: Vec::new(),
        database_url: Secret::new(postgres.url(DATABASE)),
        nats: reach::NatsReach { urls: Secret::new(cluster.url()), user: None, password: None, ca: None, monitors },
        token_private_key: Secret::new(fs::read_to_string(&keys.token_private)?),
        mail: Some(files.root.join("mail")),
        parts: reach::Parts::new(Vec::new),
    })
}

/// Starts the roles and hands everything to the supervisor: servers before roles.
fn supervise(files: &Files, cluster: Cluster, postgres: postgres::Postgres, mut members: Vec<Member>, shape: &Shape) -> anyhow::Result<Supervised> {
    for member in &mut members {
        member.start().with_context(|| format!("starting {}", member.name))?;
    }
    let part = |name: &str, process| Part::new(name.to_owned(), files.log(name), process);
    let mut parts = vec![part("postgres", Process::Postgres(Box::new(postgres)))];
    parts.extend(cluster.into_nodes().into_iter().zip(&shape.nodes).map(|(node, name)| part(name, Process::Nats(Box::new(node)))));
    parts.extend(members.into_iter().map(|member| part(&member.name.clone(), Process::Role(Box::new(member)))));
    Supervised::start(parts)
}

/// Where each role answers `/metrics`.
fn admin_addresses(supervised: &Supervised, doors: &Doors) -> BTreeMap<String, SocketAddr> {
    let roles = supervised.parts.iter().filter_map(|part| Some((part.name.clone(), part.address()?)));
    roles.chain(doors.gateways.clone()).collect()
}
