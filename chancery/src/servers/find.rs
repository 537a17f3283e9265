//! Where the servers are: a variable, the PATH and the usual folders, the cache, the pinned wheel, in this order.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::servers::{
    NATS_LEAST, POSTGRES_LEAST,
    place::{self, ServerUser},
    wheel::Server,
};

/// A server that has answered what version it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The program `nats-server`, or the folder with `postgres` and `initdb`.
    pub path: PathBuf,
    /// Its version as it says it.
    pub version: String,
    /// Where it came from, for people.
    pub origin: &'static str,
}

/// Variables that name a server; `up` reads them once and passes them on.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// `CHANCERY_NATS_SERVER`: the program.
    pub nats: Option<PathBuf>,
    /// `CHANCERY_POSTGRES_BIN`: the folder with `initdb` and `postgres`.
    pub postgres: Option<PathBuf>,
}

impl Named {
    /// Reads both variables.
    pub fn from_env() -> Self {
        let read = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { nats: read("CHANCERY_NATS_SERVER"), postgres: read("CHANCERY_POSTGRES_BIN") }
    }
}

/// Finds or fetches nats-server.
///
/// # Errors
/// There is none and none can be had; the text says what to install.
pub fn nats(named: &Named, data: &Path) -> anyhow::Result<Installed> {
    if let Some(path) = &named.nats {
        return nats_at(path, "CHANCERY_NATS_SERVER").with_context(|| format!("CHANCERY_NATS_SERVER names {}", path.display()));
    }
    let usual = ["/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    for folder in search_path().into_iter().chain(usual) {
        if let Ok(found) = nats_at(&folder.join("nats-server"), "found") {
            return Ok(found);
        }
    }
    let cache = place::cache(data)?;
    if let Some(found) = Server::Nats.cached(&cache).and_then(|folder| nats_at(&folder.join("nats-server"), "cached").ok()) {
        return Ok(found);
    }
    let (folder, origin) = Server::Nats.fetch(&cache)?;
    nats_at(&folder.join("nats-server"), origin)
}

fn nats_at(program: &Path, origin: &'static str) -> anyhow::Result<Installed> {
    let text = ask(program, &["--version"], None)?;
    let text = text.lines().next().unwrap_or_default();
    // `nats-server: v2.15.1`
    let version = text.strip_prefix("nats-server: v").unwrap_or_default().trim().to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < NATS_LEAST {
        bail!("{} is {}; at least {}.{} is needed", program.display(), text.trim(), NATS_LEAST.0, NATS_LEAST.1);
    }
    Ok(Installed { path: program.to_owned(), version, origin })
}

/// Finds or fetches PostgreSQL. `major` asks for the version that made an existing data folder.
///
/// # Errors
/// There is none and none can be had; the text says what to install.
pub fn postgres(named: &Named, data: &Path, major: Option<u32>) -> anyhow::Result<Installed> {
    let user = ServerUser::needed()?;
    if let Some(path) = &named.postgres {
        return postgres_at(path, "CHANCERY_POSTGRES_BIN", user, major).with_context(|| format!("CHANCERY_POSTGRES_BIN names {}", path.display()));
    }
    for folder in search_path().into_iter().chain(postgres_folders()) {
        if let Ok(found) = postgres_at(&folder, "found", user, major) {
            return Ok(found);
        }
    }
    let cache = place::cache(data)?;
    if let Some(found) = Server::Postgres.cached(&cache).and_then(|folder| postgres_at(&folder, "cached", user, major).ok()) {
        return Ok(found);
    }
    let (folder, origin) = Server::Postgres.fetch(&cache)?;
    postgres_at(&folder, origin, user, major)
}

/// A folder counts only when both programs are there, agree on their version, and initdb finds the files it installs from: a wrapper or
/// half an installation is passed over.
fn postgres_at(folder: &Path, origin: &'static str, user: Option<ServerUser>, major: Option<u32>) -> anyhow::Result<Installed> {
    // A link in /usr/local/bin leads to the installation itself, which finds its libraries and files relative to where it lies.
    let program = folder.join("postgres").canonicalize()?;
    let folder = program.parent().context("no folder")?.to_owned();
    let version = postgres_version(&ask(&program, &["--version"], user)?).context("postgres --version gives no version")?;
    if Some(&version) != postgres_version(&ask(&folder.join("initdb"), &["--version"], user)?).as_ref() {
        bail!("postgres and initdb in {} have different versions", folder.display());
    }
    let found = version.split('.').next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    if found < POSTGRES_LEAST {
        bail!("{} is PostgreSQL {version}; at least {POSTGRES_LEAST} is needed", folder.display());
    }
    if let Some(major) = major.filter(|major| *major != found) {
        bail!(
            "the data was made by PostgreSQL {major} and {} is {version}: set CHANCERY_POSTGRES_BIN, or start anew with `up --reset`",
            folder.display()
        );
    }
    ask(&folder.join("initdb"), &["--show", "--pgdata", "/nonexistent"], user)?;
    Ok(Installed { path: folder, version, origin })
}

/// `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` → `15.13`.
fn postgres_version(text: &str) -> Option<String> {
    let word = text.split("(PostgreSQL) ").nth(1)?.split_whitespace().next()?;
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()).unwrap_or_default()
}

/// The folders where packages put PostgreSQL off the PATH, newest version first.
fn postgres_folders() -> Vec<PathBuf> {
    let parents = [
        ("/usr/lib/postgresql", "bin"),
        ("/usr", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/usr/local/opt", "bin"),
        ("/Library/PostgreSQL", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
    ];
    let mut all = Vec::new();
    for (parent, bin) in parents {
        let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut versions: Vec<(u32, String)> = entries
            .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()) || name.starts_with("postgresql@") || name.starts_with("pgsql-"))
            .filter_map(|name| Some((name.trim_start_matches(|c: char| !c.is_ascii_digit()).split('.').next()?.parse().ok()?, name)))
            .collect();
        versions.sort();
        all.extend(versions.into_iter().rev().map(|(_, name)| Path::new(parent).join(name).join(bin)));
    }
    all
}

/// What a program prints, as the server's user, within five seconds.
fn ask(program: &Path, args: &[&str], user: Option<ServerUser>) -> anyhow::Result<String> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.args(args).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
    for _ in 0..500 {
        if child.try_wait()?.is_some() {
            let output = child.wait_with_output()?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no reason given").to_owned();
                bail!("{} {} ended with {}: {why}", program.display(), args.join(" "), output.status);
            }
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    bail!("{} does not answer", program.display())
}

#[cfg(test)]
mod tests {
    use super::postgres_version;

    #[test]
    fn versions_are_read_from_what_the_programs_say() {
        assert_eq!(postgres_version("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n").as_deref(), Some("15.13"));
        assert_eq!(postgres_version("initdb (PostgreSQL) 17.11\n").as_deref(), Some("17.11"));
        assert_eq!(postgres_version("this is a wrapper"), None);
    }
}
