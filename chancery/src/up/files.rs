//! What `up` keeps on disk: one folder, locked while it runs, with keys that are made once.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use uuid::Uuid;

use crate::{
    guard,
    servers::place::{self, ServerUser},
    token,
};

/// Marks a folder as ours, so that `--reset` never removes anything else.
const MARK: &str = "chancery-data";

/// Whether there is a folder that holds something which is not ours.
fn is_foreign(root: &Path) -> bool {
    !root.join(MARK).exists() && fs::read_dir(root).is_ok_and(|entries| entries.flatten().any(|entry| !is_left(&entry.file_name().to_string_lossy())))
}

/// Whether other commands leave something of this name in the data folder: fetched servers, the reports of chaos, and what a bench or a run
/// of chaos that was killed had stood on.
fn is_left(name: &str) -> bool {
    let of_a_run = |prefix: &str| name.strip_prefix(prefix).is_some_and(|pid| pid.parse::<u32>().is_ok());
    ["cache", "chaos"].contains(&name) || of_a_run("bench-") || of_a_run("chaos-")
}

/// The data folder of `up`.
#[derive(Debug)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
    /// Where PostgreSQL's data lies: inside, or elsewhere when the server's user cannot reach it there.
    pub postgres: PathBuf,
    lock: File,
}

/// The secrets of a stack, made at the first start.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Signs tokens.
    pub token_private: PathBuf,
    /// Checks tokens.
    pub token_public: PathBuf,
    /// Derives mailed tokens.
    pub link: PathBuf,
    /// Fingerprints requests.
    pub fingerprint: PathBuf,
    /// The superuser's password.
    pub postgres: String,
    /// The password of all database roles.
    pub roles: String,
    /// The password of nats-server.
    pub nats: String,
    /// Who the operator's token belongs to.
    pub operator: String,
}

impl Files {
    /// Makes or opens the folder and locks it; `reset` removes what is in it first.
    ///
    /// # Errors
    /// Another `up` runs on it, or it is not ours.
    pub fn open(root: &Path, reset: bool) -> anyhow::Result<Self> {
        if is_foreign(root) {
            bail!("{} exists and is not a data folder of chancery: set CHANCERY_DATA to another", root.display());
        }
        fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        // Entered by the database's user, so not closed; every secret in it is.
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).with_context(|| format!("{} belongs to somebody else", root.display()))?;
        let root = root.canonicalize()?;
        fs::write(root.join(MARK), "The data of `chancery up`; `up --reset` removes it.\n")?;
        fs::write(root.join(".gitignore"), "*\n")?;
        let lock = File::options().create(true).append(true).open(root.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another `chancery up` is running on {}: stop it first, or set CHANCERY_DATA", root.display()),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the data folder"),
        }
        let user = ServerUser::needed()?;
        let wanted = root.join("postgres");
        let base = place::reachable_or_elsewhere(&root, user)?;
        let postgres = base.join("postgres");
        if postgres != wanted {
            say!(" postgres data in {} (its user cannot enter {})", postgres.display(), root.display());
        }
        let files = Self { root, postgres, lock };
        if reset {
            files.reset()?;
        }
        for name in ["keys", "log", "mail"] {
            fs::create_dir_all(files.root.join(name))?;
            fs::set_permissions(files.root.join(name), fs::Permissions::from_mode(0o700))?;
        }
        Ok(files)
    }

    /// Removes everything but the lock, which we hold, and fetched servers.
    fn reset(&self) -> anyhow::Result<()> {
        // The servers of an `up` that was killed may still be ending.
        let nats: Vec<PathBuf> = self.nats_folders().into_iter().map(|name| self.root.join(name)).collect();
        for server in nats.iter().chain([&self.postgres]) {
            drop(guard::lock(&guard::lock_path(server)?)?);
        }
        for folder in nats {
            remove(&folder)?;
        }
        for name in ["nats-config", "postgres", "keys", "log", "mail"] {
            remove(&self.root.join(name))?;
        }
        remove(&self.postgres)?;
        match fs::remove_file(self.root.join("env")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing env"),
            _ => Ok(()),
        }
    }

    /// The folders of nodes of NATS that there are, by name.
    fn nats_folders(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut folders: Vec<String> =
            names.filter(|name| name == "nats" || name.strip_prefix("nats-").is_some_and(|number| number.parse::<usize>().is_ok())).collect();
        folders.sort();
        folders
    }

    /// Refuses data that was made by another number of nodes: its streams have other replicas.
    ///
    /// # Errors
    /// They are another number.
    pub fn same_nodes(&self, nodes: usize) -> anyhow::Result<()> {
        let found = self.nats_folders();
        let wanted: Vec<String> = (0..nodes).map(|index| node(index, nodes, "nats")).collect();
        if found.is_empty() || found == wanted {
            return Ok(());
        }
        let was = found.len();
        bail!("the data in {} was made with --nodes {was}: say so again, or start anew with `up --reset`", self.root.display())
    }

    /// The log file of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Begins every log anew: a run's logs are that run's.
    pub fn clear_logs(&self) {
        for entry in fs::read_dir(self.root.join("log")).into_iter().flatten().filter_map(Result::ok) {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Reads the keys and makes those that are missing.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn keys(&self) -> anyhow::Result<Keys> {
        let folder = self.root.join("keys");
        let (token_private, token_public) = (folder.join("token.pem"), folder.join("token.pub.pem"));
        if !(token_private.exists() && token_public.exists()) {
            let (private, public) = token::keygen()?;
            place::write_private(&token_private, &private)?;
            place::write_private(&token_public, &public)?;
        }
        let once = |name: &str, make: &dyn Fn() -> String| -> anyhow::Result<String> {
            let path = folder.join(name);
            if !path.exists() {
                place::write_private(&path, &make())?;
            }
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        once("link", &token::secret)?;
        once("fingerprint", &token::secret)?;
        Ok(Keys {
            token_private,
            token_public,
            link: folder.join("link"),
            fingerprint: folder.join("fingerprint"),
            postgres: once("postgres", &token::secret)?,
            roles: once("roles", &token::secret)?,
            nats: once("nats", &token::secret)?,
            operator: once("operator", &|| format!("svc_{}", Uuid::now_v7()))?,
        })
    }

    /// Writes `env`: plain `export NAME=value` lines that any shell can read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_env(&self, pairs: &[(&str, String)]) -> anyhow::Result<()> {
        place::write_private(&self.root.join("env"), &exports(pairs)).context("writing env")
    }

    /// Writes the examples of the manifest, for tools that are to know the consumers that `up` has made; where they are.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_examples(&self, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join("examples.toml");
        fs::write(&path, text).context("writing the examples of the manifest")?;
        Ok(path)
    }

    /// Writes what another team's program is started with: `teams/<name>.env`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_team(&self, name: &str, pairs: &[(&str, String)]) -> anyhow::Result<()> {
        let path = self.team(name);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        place::write_private(&path, &exports(pairs)).context("writing a team's env")
    }

    /// Where that is.
    pub fn team(&self, name: &str) -> PathBuf {
        self.root.join("teams").join(format!("{name}.env"))
    }

    /// A folder to be named by `XDG_CONFIG_HOME` when the `nats` program is to know the context `chancery`.
    pub fn nats_config(&self) -> PathBuf {
        self.root.join("nats-config")
    }

    /// Writes that context.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_nats_context(&self, context: &serde_json::Value) -> anyhow::Result<()> {
        let folder = self.nats_config().join("nats").join("context");
        fs::create_dir_all(&folder)?;
        place::write_private(&folder.join("chancery.json"), &format!("{context:#}\n")).context("writing the context for nats")
    }

    /// True while nobody else can have the folder; always, as long as this value lives.
    pub fn locked(&self) -> bool {
        self.lock.metadata().is_ok()
    }
}

/// What belongs to one of several: with its number, from 1; without where there is only one.
pub(super) fn node(index: usize, of: usize, what: &str) -> String {
    if of > 1 { format!("{what}-{}", index + 1) } else { what.to_owned() }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("removing {}", folder.display())),
        _ => Ok(()),
    }
}

/// Lines for a shell to source.
fn exports(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// A word for a shell: as it is when it is harmless, else in single quotes.
fn quoted(value: &str) -> String {
    let harmless = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c));
    if harmless { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::{is_foreign, quoted};

    #[test]
    fn what_bench_and_chaos_leave_keeps_up_from_nothing_and_anything_else_does() {
        let root = std::env::temp_dir().join(format!("chancery-files-{}", uuid::Uuid::now_v7()));
        for name in ["cache", "chaos/5", "bench-17", "chaos-4711"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        assert!(!is_foreign(&root));
        std::fs::create_dir(root.join("chaos-theory")).unwrap();
        assert!(is_foreign(&root));
        std::fs::remove_dir_all(&root).unwrap();
        assert!(!is_foreign(&root), "there is no folder");
    }

    #[test]
    fn a_value_survives_the_shell() {
        assert_eq!(quoted("postgres://a:b@127.0.0.1:5432/x"), "postgres://a:b@127.0.0.1:5432/x");
        assert_eq!(quoted("/home/o'neil/my data"), r"'/home/o'\''neil/my data'");
    }
}
