//! A PostgreSQL of our own: made once, started under guard on loopback with a password, never as root.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::{self, Signal};
use postgres::{Client, NoTls};

use crate::{
    child::{self, Child},
    guard::{self, Guard},
    servers::{
        find::Installed,
        place::{self, ServerUser},
        port,
    },
};

/// The superuser of a server that we make.
pub const ADMIN: &str = "chancery";
/// How long a start may take: a large log to replay after a kill needs time.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How often other ports are tried when somebody was faster.
const PORT_ATTEMPTS: usize = 3;

/// How to make and start a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's folder; made when missing. The server's user must be able to reach it.
    pub root: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
    /// The port to take when it is free.
    pub port: Option<u16>,
    /// The password of [`ADMIN`]; fixed when the data is made.
    pub password: String,
    /// More settings, `name=value`.
    pub settings: Vec<String>,
    /// A folder to remove when the server has ended for good: a test's.
    pub remove: Option<PathBuf>,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    exe: PathBuf,
    installed: Installed,
    options: Options,
    port: u16,
    child: Child,
}

impl Postgres {
    /// Makes the data if there is none, starts the server and waits until it answers. `exe` is this program, which guards it.
    ///
    /// # Errors
    /// The server does not start; the text ends with its last words.
    pub fn start(exe: &Path, installed: &Installed, options: Options) -> anyhow::Result<Self> {
        let user = ServerUser::needed()?;
        create(installed, &options, user)?;
        let port = port::free(options.port)?;
        let child = spawn(exe, installed, &options, port)?;
        let mut server = Self { exe: exe.to_owned(), installed: installed.clone(), options, port, child };
        let mut result = server.wait_ready();
        for _ in 0..PORT_ATTEMPTS {
            if !result.as_ref().is_err_and(port::was_taken) {
                break;
            }
            server.port = port::free(None)?;
            result = server.restart();
        }
        result.map(|()| server)
    }

    /// The server that is running.
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How the superuser reaches a database.
    pub fn url(&self, database: &str) -> String {
        self.url_as(ADMIN, &self.options.password, database)
    }

    /// How another role reaches a database.
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A superuser's connection. Not to be used inside an async runtime.
    ///
    /// # Errors
    /// The server refuses or does not answer.
    pub fn connect(&self, database: &str) -> Result<Client, postgres::Error> {
        let mut config: postgres::Config = self.url(database).parse()?;
        config.connect_timeout(Duration::from_secs(5)).connect(NoTls)
    }

    /// Makes a database unless it exists.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_database(&self, name: &str) -> anyhow::Result<()> {
        let mut client = self.connect("postgres")?;
        if client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name])?.is_none() {
            client.batch_execute(&format!("CREATE DATABASE \"{name}\""))?;
        }
        Ok(())
    }

    /// The guard's process, for signals and to see whether it has ended.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the server itself (not its guard), as a crash would; returns when its guard has noticed.
    ///
    /// # Errors
    /// Its process id cannot be found.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        signal::kill(child::pid(self.pid()?), Signal::SIGKILL)?;
        self.child.wait(Duration::from_secs(10)).context("the guard of postgres does not end")?;
        Ok(())
    }

    /// Starts it again on the same data and port after [`Postgres::kill9`] or [`Postgres::stop`].
    ///
    /// # Errors
    /// See [`Postgres::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// The same without waiting until it answers; see [`Postgres::ready`].
    ///
    /// # Errors
    /// Its guard cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.exe, &self.installed, &self.options, self.port)?;
        Ok(())
    }

    /// True when it answers. Not to be used inside an async runtime.
    pub fn ready(&self) -> bool {
        self.connect("postgres").is_ok_and(|mut client| client.simple_query("SELECT 1").is_ok())
    }

    /// The id of the postmaster.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid"))?;
        Ok(text.lines().next().context("postmaster.pid is empty")?.trim().parse()?)
    }

    /// Fast shutdown: sessions are ended, everything is written. True when it ended cleanly.
    pub fn stop(&mut self) -> bool {
        self.child.stop(Duration::from_secs(30))
    }

    /// Where its files are.
    pub fn data(&self) -> PathBuf {
        self.options.root.join("data")
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let error = match self.connect("postgres") {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.exited() {
                bail!("postgres ended with {status}:\n{}", child::tail(&self.options.log, 12));
            }
            if error.code() == Some(&postgres::error::SqlState::INVALID_PASSWORD) {
                bail!("postgres refuses our password: the keys do not belong to this data; `up --reset` starts anew");
            }
            if Instant::now() > deadline {
                bail!("postgres is not ready after {} s ({error}):\n{}", START_LIMIT.as_secs(), child::tail(&self.options.log, 12));
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.child.end();
        if let Some(folder) = &self.options.remove {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The major version that made the data under `root`.
pub fn made_by(root: &Path) -> Option<u32> {
    fs::read_to_string(root.join("data/PG_VERSION")).ok()?.trim().parse().ok()
}

fn create(installed: &Installed, options: &Options, user: Option<ServerUser>) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let data = options.root.join("data");
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    fs::create_dir_all(&options.root)?;
    fs::set_permissions(&options.root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    place::give(&options.root, user)?;
    // Only a whole data folder gets its name: a start that is interrupted here leaves nothing half made.
    let (fresh, secret) = (options.root.join("data.new"), options.root.join("password"));
    let _ = fs::remove_dir_all(&fresh);
    place::write_private(&secret, &options.password)?;
    place::give(&secret, user)?;
    let mut command = std::process::Command::new(installed.path.join("initdb"));
    command.arg("--pgdata").arg(&fresh).args(["--username", ADMIN, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"]);
    command.arg("--pwfile").arg(&secret).current_dir("/").env("LC_ALL", "C").stdin(std::process::Stdio::null());
    if options.remove.is_some() {
        command.arg("--no-sync");
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output().context("starting initdb")?;
    let _ = fs::remove_file(&secret);
    if !output.status.success() {
        bail!("initdb ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::rename(&fresh, &data).map_err(anyhow::Error::from)
}

fn spawn(exe: &Path, installed: &Installed, options: &Options, port: u16) -> anyhow::Result<Child> {
    let user = ServerUser::needed()?;
    let data = options.root.join("data");
    let mut program = vec![installed.path.join("postgres").display().to_string(), "-D".into(), data.display().to_string()];
    let fixed = [
        "listen_addresses=127.0.0.1",
        // Everything goes over loopback with a password; a socket in a deep folder would exceed the limit of its path.
        "unix_socket_directories=",
        "max_connections=200",
        "password_encryption=scram-sha-256",
        "shared_buffers=256MB",
        "max_wal_size=2GB",
        "checkpoint_timeout=15min",
        "fsync=on",
        "synchronous_commit=on",
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_line_prefix=%m [%p] %u@%d ",
    ];
    let settings = fixed.iter().map(ToString::to_string).chain([format!("port={port}")]).chain(options.settings.iter().cloned());
    program.extend(settings.flat_map(|setting| ["-c".to_owned(), setting]));
    let guard = Guard {
        stop: "INT".into(),
        limit_ms: 20_000,
        lock: Some(guard::lock_path(&options.root)?),
        remove: options.remove.clone(),
        user: user.map(ServerUser::argument),
        folder: Some(options.root.clone()),
        program,
    };
    Child::spawn("postgres", guard.command(exe), &options.log).context("starting the guard of postgres")
}
