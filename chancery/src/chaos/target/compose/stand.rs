//! The cluster of `compose.yaml`, brought up for a run.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use runtime::{config::Secret, nats::Access};
use tokio::runtime::Handle;

use super::{container::Container, project::Project};
use crate::{
    chaos::{
        plan::Shape,
        reach::{NatsReach, Part, Parts, Reach},
        target::Doors,
    },
    cluster::{
        docker::{Compose, Docker, project_folder},
        image,
        services::Service,
    },
    servers::port,
};

/// How long everything together may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);
/// How long a part may take to say whether it serves.
const ASK: Duration = Duration::from_secs(2);
/// Memory of the servers where their disks are in it; the size of those is in `compose.disks.yaml`.
const DISK_MEMORY: [(&str, &str); 2] = [("CHANCERY_NATS_MEMORY", "2g"), ("CHANCERY_POSTGRES_MEMORY", "5g")];

/// What runs, and how it is reached. Dropped: everything is removed.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) docker: Arc<Docker>,
    pub(super) reach: Reach,
    pub(super) doors: Doors,
    /// Ids of containers by part, and of the holder of the disks.
    pub(super) ids: BTreeMap<String, String>,
    _project: Project,
}

impl Stand {
    /// Brings it up and waits until it serves.
    ///
    /// # Errors
    /// Docker does not answer, or a part does not serve in time.
    pub(super) async fn start(project: Project, shape: &Shape, disks: bool) -> anyhow::Result<Self> {
        let docker = Arc::new(Docker::find().await?);
        let ports = Ports::choose(shape)?;
        let compose = compose(&docker, &project, &ports, disks).await?;
        for image in compose.environment()?.public_images() {
            if docker.ask(&["image", "inspect", "--format", "-", &image]).await.is_err() {
                docker.work(&["pull", "-q", &image]).await.with_context(|| format!("the image {image} cannot be had"))?;
            }
        }
        image::ensure(&docker, &compose, &project.image(), true).await?;
        if let Err(error) = compose.work(&["up", "-d"]).await {
            for service in Service::all(&docker, &compose).await?.iter().filter(|service| service.failed()) {
                eprintln!("{}:\n{}", service.describe(), docker.tail(&service.id).await);
            }
            return Err(error.context("bringing the cluster up"));
        }
        let ids: BTreeMap<String, String> = Service::all(&docker, &compose).await?.into_iter().map(|service| (service.name, service.id)).collect();
        let files = Files::copy(&docker, ids.get("init").context("there is no init")?, &project.folder).await?;
        let doors = doors(&files, &ports)?;
        let reach = reach(&docker, &files, &ports, &doors, &ids, mail(&docker, &project.name).await)?;
        let stand = Self { docker, reach, doors, ids, _project: project };
        stand.ready(shape).await?;
        Ok(stand)
    }

    async fn ready(&self, shape: &Shape) -> anyhow::Result<()> {
        let begin = Instant::now();
        for part in shape.roles().iter().chain(&shape.nodes) {
            while !self.serves(part).await {
                if begin.elapsed() > READY_LIMIT {
                    let id = self.ids.get(part).map_or("", String::as_str);
                    bail!("{part} does not serve after {} s:\n{}", READY_LIMIT.as_secs(), self.docker.tail(id).await);
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// A part's container, now.
    pub(super) async fn container(&self, part: &str) -> anyhow::Result<Container> {
        let id = self.ids.get(part).with_context(|| format!("there is no {part}"))?;
        let found = Container::look(&self.docker, &[id]).await?;
        found.into_iter().next().with_context(|| format!("{part} is gone"))
    }

    /// A part's first process, now.
    pub(super) async fn pid(&self, part: &str) -> anyhow::Result<u32> {
        self.container(part).await?.pid.with_context(|| format!("{part} does not run"))
    }

    /// All first processes, now.
    pub(super) async fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let ids: Vec<&str> = self.ids.values().map(String::as_str).collect();
        Ok(Container::look(&self.docker, &ids).await?.into_iter().filter_map(|container| container.pid).collect())
    }

    /// Whether a part serves.
    pub(super) async fn serves(&self, part: &str) -> bool {
        let (address, path) = if part == "postgres" {
            let url = self.reach.database_url.clone();
            return tokio::task::spawn_blocking(move || postgres_answers(&url)).await.unwrap_or(false);
        } else if let Some(monitor) = self.doors.monitors.get(part) {
            // Not only that it answers: every stream and consumer on it has caught up.
            (*monitor, "/healthz")
        } else if let Some(gateway) = self.doors.gateways.get(part) {
            (*gateway, "/readyz")
        } else {
            let Some(address) = self.container(part).await.ok().and_then(|container| container.admin()) else { return false };
            (address, "/readyz")
        };
        tokio::task::spawn_blocking(move || matches!(port::get(address, path, ASK), Ok((200, _)))).await.unwrap_or(false)
    }

    /// Leaves the last of what every container wrote in a folder. Blocking.
    pub(super) fn keep_logs(&self, to: &Path) {
        let _ = std::fs::create_dir_all(to);
        for (part, id) in &self.ids {
            let Ok(out) = std::fs::File::create(to.join(format!("{part}.log"))) else { continue };
            let Ok(err) = out.try_clone() else { continue };
            let mut logs = std::process::Command::new("docker");
            let _ = logs.args(["logs", id]).stdin(std::process::Stdio::null()).stdout(out).stderr(err).status();
        }
    }
}

fn postgres_answers(url: &Secret) -> bool {
    let Ok(mut config) = url.expose().parse::<postgres::Config>() else { return false };
    let client = config.connect_timeout(ASK).connect(postgres::NoTls);
    client.is_ok_and(|mut client| client.simple_query("SELECT 1").is_ok())
}

/// Ports of this machine, by part.
struct Ports {
    gateways: BTreeMap<String, u16>,
    nodes: BTreeMap<String, u16>,
    monitors: BTreeMap<String, u16>,
    postgres: u16,
}

impl Ports {
    fn choose(shape: &Shape) -> anyhow::Result<Self> {
        // Each but once: nobody holds one until the container does.
        let mut taken = std::collections::BTreeSet::new();
        let mut one = || -> std::io::Result<u16> {
            loop {
                let port = port::free(None)?;
                if taken.insert(port) {
                    return Ok(port);
                }
            }
        };
        let mut each = |parts: &[String]| parts.iter().map(|part| Ok((part.clone(), one()?))).collect::<std::io::Result<BTreeMap<_, _>>>();
        let (gateways, nodes, monitors) = (each(&shape.gateways)?, each(&shape.nodes)?, each(&shape.nodes)?);
        Ok(Self { gateways, nodes, monitors, postgres: one()? })
    }

    /// By the variables of `compose.yaml` and `compose.chaos.yaml`.
    fn variables(&self) -> Vec<(String, String)> {
        let variable = |part: &str, rest: &str| format!("CHANCERY_{}{rest}_PORT", part.to_uppercase().replace('-', "_"));
        let each = |ports: &BTreeMap<String, u16>, rest: &'static str| {
            ports.iter().map(|(part, port)| (variable(part, rest), port.to_string())).collect::<Vec<_>>()
        };
        let mut all = [each(&self.gateways, ""), each(&self.nodes, ""), each(&self.monitors, "_MONITOR")].concat();
        all.push((variable("postgres", ""), self.postgres.to_string()));
        all
    }
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn compose(docker: &Docker, project: &Project, ports: &Ports, disks: bool) -> anyhow::Result<Compose> {
    let folder = project_folder(&std::env::current_dir()?)?;
    let files = ["compose.yaml", "compose.chaos.yaml"].into_iter().chain(disks.then_some("compose.disks.yaml"));
    let files = files.map(|file| folder.join(file).display().to_string()).collect();
    let mut compose = Compose::find(docker, files, Some(project.name.clone())).await?;
    compose.variables.extend(ports.variables());
    let fixed = [("CHANCERY_IMAGE", project.image()), ("CHANCERY_LOG", "info".to_owned()), ("CHANCERY_LOG_FORMAT", "text".to_owned())];
    compose.variables.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    if disks {
        compose.variables.extend(DISK_MEMORY.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(compose)
}

/// What `init` has made, copied for this run.
struct Files(PathBuf);

impl Files {
    async fn copy(docker: &Docker, init: &str, folder: &Path) -> anyhow::Result<Self> {
        let to = folder.join("init");
        docker.ask(&["cp", &format!("{init}:/run/chancery"), &to.display().to_string()]).await.context("copying the credentials")?;
        Ok(Self(to))
    }

    fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    fn read(&self, reader: &str, name: &str) -> anyhow::Result<Secret> {
        let path = self.0.join("credentials").join(reader).join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Secret::new(text.trim_end()))
    }

    fn access(&self, user: &str, urls: &str) -> anyhow::Result<Access> {
        let password = Some(self.read(user, "nats-password")?);
        Ok(Access { url: Secret::new(urls), user: Some(user.to_owned()), password, ca_file: Some(self.ca()) })
    }
}

fn doors(files: &Files, ports: &Ports) -> anyhow::Result<Doors> {
    let urls: Vec<String> = ports.nodes.values().map(|port| format!("tls://127.0.0.1:{port}")).collect();
    let urls = urls.join(",");
    let published = |ports: &BTreeMap<String, u16>| ports.iter().map(|(part, port)| (part.clone(), here(*port))).collect();
    Ok(Doors {
        operator: files.access("operator", &urls)?,
        worker: files.access("worker", &urls)?,
        gateway: files.access("gateway", &urls)?,
        system: Some(files.access("system", &urls)?),
        monitors: published(&ports.monitors),
        gateways: published(&ports.gateways),
    })
}

fn reach(
    docker: &Arc<Docker>,
    files: &Files,
    ports: &Ports,
    doors: &Doors,
    ids: &BTreeMap<String, String>,
    mail: Option<PathBuf>,
) -> anyhow::Result<Reach> {
    let operator = doors.operator.clone();
    let database = files.read("operator", "database-url")?;
    let monitors = doors.monitors.iter().map(|(node, address)| (node.clone(), *address)).collect();
    Ok(Reach {
        gateways: doors.gateways.values().copied().collect(),
        database_url: Secret::new(database.expose().replace("@postgres:5432/", &format!("@{}/", here(ports.postgres)))),
        nats: NatsReach { urls: operator.url, user: operator.user, password: operator.password, ca: operator.ca_file, monitors },
        token_private_key: files.read("gateway", "token.pem")?,
        mail,
        parts: parts(docker, doors, ids),
    })
}

/// The folder of mails, where Docker keeps volumes on this machine and lets us see them.
async fn mail(docker: &Docker, project: &str) -> Option<PathBuf> {
    let volume = format!("{project}_mail");
    let place = docker.ask(&["volume", "inspect", "--format", "{{ .Mountpoint }}", &volume]).await.ok()?;
    Some(PathBuf::from(place.trim())).filter(|folder| std::fs::read_dir(folder).is_ok())
}

/// Asks Docker each time; what cannot be seen from this machine is left out.
fn parts(docker: &Arc<Docker>, doors: &Doors, ids: &BTreeMap<String, String>) -> Parts {
    let (docker, runtime, gateways, servers) = (docker.clone(), Handle::current(), doors.gateways.clone(), doors.monitors.clone());
    let ids: Vec<String> = ids.values().cloned().collect();
    Parts::new(move || {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let containers = runtime.block_on(Container::look(&docker, &ids)).unwrap_or_default();
        let running = containers.into_iter().filter(|container| container.pid.is_some() && container.part != "disks");
        running
            .map(|container| {
                let server = container.part == "postgres" || servers.contains_key(&container.part);
                let admin = gateways.get(&container.part).copied().or_else(|| container.admin().filter(|_| !server));
                let log = container.log.filter(|log| std::fs::File::open(log).is_ok());
                Part { name: container.part, admin, pid: container.pid, log }
            })
            .collect()
    })
}
