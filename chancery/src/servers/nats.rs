//! A nats-server of our own: JetStream on disk, started under guard on loopback with a password.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::{self, Signal};

use crate::{
    child::{self, Child},
    guard::{self, Guard},
    manifest::Manifest,
    privilege::nats::{Permissions, User, accounts_with, derived, permissions},
    servers::{find::Installed, place, port},
};

/// The user as which a node connects to another.
const ROUTE_USER: &str = "route";
/// How long a start may take: streams are checked and recovered first.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often other ports are tried when somebody was faster.
const PORT_ATTEMPTS: usize = 3;

/// When the server calls `fsync` for what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Before every acknowledgement: what is acknowledged survives a power cut.
    #[default]
    Always,
    /// Every two minutes, as nats-server does by itself.
    Default,
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's folder: configuration, streams, process id.
    pub root: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// The port to take when it is free.
    pub port: Option<u16>,
    /// The port of its monitoring to take when it is free.
    pub monitor_port: Option<u16>,
    /// The secret that every user's password is derived from.
    pub password: String,
    /// See [`Sync`].
    pub sync: Sync,
    /// Whose users it has.
    pub manifest: &'static Manifest,
    /// Its place in a cluster; none for a server that stands alone.
    pub node: Option<Node>,
    /// A folder to remove when the server has ended for good: a test's.
    pub remove: Option<PathBuf>,
}

/// A server's place in a cluster. It connects to the nodes with lower numbers, by the addresses given here and no others: none of what it
/// hears from the others leads round a proxy that stands between two nodes.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number, from 1.
    pub number: usize,
    /// Its port for the other nodes.
    pub port: u16,
    /// The ports that lead to the nodes before it.
    pub routes: Vec<u16>,
}

/// A running server.
#[derive(Debug)]
pub struct Nats {
    exe: PathBuf,
    installed: Installed,
    options: Options,
    port: u16,
    monitor_port: u16,
    child: Child,
}

impl Nats {
    /// Starts the server and waits until it serves JetStream. `exe` is this program, which guards it.
    ///
    /// # Errors
    /// The server does not start; the text ends with its last words.
    pub fn start(exe: &Path, installed: &Installed, options: Options) -> anyhow::Result<Self> {
        fs::create_dir_all(&options.root)?;
        let (port, monitor_port) = (port::free(options.port)?, port::free(options.monitor_port)?);
        let child = spawn(exe, installed, &options, port, monitor_port)?;
        let mut server = Self { exe: exe.to_owned(), installed: installed.clone(), options, port, monitor_port, child };
        let mut result = server.wait_ready();
        for _ in 0..PORT_ATTEMPTS {
            if !result.as_ref().is_err_and(port::was_taken) {
                break;
            }
            (server.port, server.monitor_port) = (port::free(None)?, port::free(None)?);
            result = server.restart();
        }
        result.map(|()| server)
    }

    /// Its name: stable for its folder, and another for every other folder.
    pub fn name(&self) -> String {
        name(&self.options)
    }

    /// How the operator reaches it, with user and password.
    pub fn url(&self) -> String {
        self.url_as(User::Operator)
    }

    /// How a user reaches it, with its password.
    pub fn url_as(&self, user: User) -> String {
        format!("nats://{}:{}@127.0.0.1:{}", user.name(), self.password(user), self.port)
    }

    /// A user's password.
    pub fn password(&self, user: User) -> String {
        derived(&self.options.password, user)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of its monitoring.
    pub fn monitor(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.monitor_port))
    }

    /// The guard's process, for signals and to see whether it has ended.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The id of the server's own process.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(fs::read_to_string(self.options.root.join("nats.pid"))?.trim().parse()?)
    }

    /// Kills the server itself (not its guard), as a crash would; returns when its guard has noticed.
    ///
    /// # Errors
    /// Its process id cannot be found.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        signal::kill(child::pid(self.pid()?), Signal::SIGKILL)?;
        self.child.wait(Duration::from_secs(10)).context("the guard of nats-server does not end")?;
        Ok(())
    }

    /// Starts it again on the same folder and port after [`Nats::kill9`] or [`Nats::stop`].
    ///
    /// # Errors
    /// See [`Nats::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// The same without waiting until it serves; see [`Nats::ready`].
    ///
    /// # Errors
    /// Its guard cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        // It would name a process that is no more.
        let _ = fs::remove_file(self.options.root.join("nats.pid"));
        self.child = spawn(&self.exe, &self.installed, &self.options, self.port, self.monitor_port)?;
        Ok(())
    }

    /// True when it serves JetStream.
    pub fn ready(&self) -> bool {
        // The monitoring answers before JetStream is ready; this path asks for JetStream.
        let ready = port::get(self.monitor(), "/healthz?js-enabled-only=true", Duration::from_secs(1));
        matches!(ready, Ok((200, _))) && greets(self.port, &self.name())
    }

    /// Gives its users other permissions, until it starts again. Tests take a right away so. Whom it concerns is disconnected.
    ///
    /// # Errors
    /// Its configuration cannot be written, or its process id cannot be found.
    pub fn reload(&self, permissions: &dyn Fn(User) -> Permissions) -> anyhow::Result<()> {
        let root = std::path::absolute(&self.options.root)?;
        place::write_private(&root.join("nats.conf"), &configuration(&root, &self.options, self.port, self.monitor_port, permissions))?;
        signal::kill(child::pid(self.pid()?), Signal::SIGHUP)?;
        Ok(())
    }

    /// Stops it in order. True when it ended cleanly.
    pub fn stop(&mut self) -> bool {
        self.child.stop(Duration::from_secs(15))
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if self.ready() {
                return Ok(());
            }
            if let Some(status) = self.child.exited() {
                bail!("nats-server ended with {status}:\n{}", child::tail(&self.options.log, 12));
            }
            if Instant::now() > deadline {
                bail!("nats-server is not ready after {} s:\n{}", START_LIMIT.as_secs(), child::tail(&self.options.log, 12));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn name(options: &Options) -> String {
    let fold = place::fold(options.root.as_os_str().as_encoded_bytes());
    match &options.node {
        None => format!("chancery-{fold:08x}"),
        Some(node) => format!("nats-{}-{fold:08x}", node.number),
    }
}

/// The part of the configuration that makes a server a node.
fn cluster(node: &Node, password: &str) -> String {
    // Its own address is passed over; without any the first one would not count as a node.
    let routes: Vec<String> =
        [node.port].iter().chain(&node.routes).map(|port| format!("\"nats://{ROUTE_USER}:{password}@127.0.0.1:{port}\"")).collect();
    format!(
        r#"cluster {{
  name: "chancery"
  listen: "127.0.0.1:{port}"
  authorization {{ user: "{ROUTE_USER}", password: "{password}" }}
  routes: [{routes}]
  # What nodes and clients tell each other of addresses leads nowhere: they have those they were given.
  advertise: "127.0.0.1:1"
  no_advertise: true
}}
"#,
        port = node.port,
        routes = routes.join(", "),
    )
}

/// True when the server on that port introduces itself by this name: another one may have taken the port before ours could.
fn greets(port: u16, name: &str) -> bool {
    let greeting = || -> std::io::Result<String> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
        Ok(line)
    };
    greeting().is_ok_and(|line| line.contains(&format!("\"server_name\":\"{name}\"")))
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.child.end();
        if let Some(folder) = &self.options.remove {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn spawn(exe: &Path, installed: &Installed, options: &Options, port: u16, monitor_port: u16) -> anyhow::Result<Child> {
    // Absolute, because the server reads its paths from its own working folder.
    let root = std::path::absolute(&options.root)?;
    let config = root.join("nats.conf");
    place::write_private(&config, &configuration(&root, options, port, monitor_port, &|user| permissions(options.manifest, user)))?;
    let guard = Guard {
        stop: "TERM".into(),
        limit_ms: 10_000,
        lock: Some(guard::lock_path(&root)?),
        remove: options.remove.clone(),
        user: None,
        folder: Some(root.clone()),
        program: vec![installed.path.display().to_string(), "-c".into(), config.display().to_string()],
    };
    Child::spawn("nats-server", guard.command(exe), &options.log).context("starting the guard of nats-server")
}

fn configuration(root: &Path, options: &Options, port: u16, monitor_port: u16, permissions: &dyn Fn(User) -> Permissions) -> String {
    let sync = match options.sync {
        Sync::Always => "sync_interval: always",
        Sync::Default => "",
    };
    format!(
        r#"# Written by chancery at every start.
server_name: "{name}"
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor_port}"
pid_file: {pid:?}
max_payload: 1MB
{accounts}
jetstream {{
  store_dir: {store:?}
  # Streams reserve their limits; the real limit is the disk.
  max_file_store: 1TB
  max_memory_store: 1GB
  {sync}
}}
{cluster}"#,
        name = name(options),
        pid = root.join("nats.pid"),
        store = root.join("jetstream"),
        accounts = accounts_with(options.manifest, &|user| derived(&options.password, user), permissions),
        cluster = options.node.as_ref().map(|node| cluster(node, &options.password)).unwrap_or_default(),
    )
}
