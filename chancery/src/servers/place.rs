//! Where things may lie: folders that the server's user can reach, and the cache.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User};

/// The user PostgreSQL runs as when we are root, which it refuses to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl ServerUser {
    /// `postgres` or `nobody` when we are root; nobody else otherwise.
    ///
    /// # Errors
    /// We are root and the system has neither user.
    pub fn needed() -> io::Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
            .ok_or_else(|| io::Error::other("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as"))
    }

    /// As the guard's `--user` takes it.
    pub fn argument(self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

/// True when `user` may enter `folder` and every folder above it.
pub fn reachable(folder: &Path, user: Option<ServerUser>) -> bool {
    let Some(user) = user else { return true };
    let Ok(full) = existing(folder).canonicalize() else { return false };
    full.ancestors().all(|part| {
        fs::metadata(part).is_ok_and(|meta| {
            let bit = if meta.uid() == user.uid {
                0o100
            } else if meta.gid() == user.gid {
                0o010
            } else {
                0o001
            };
            meta.mode() & bit != 0
        })
    })
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"))
}

/// `wanted` when the server's user can reach it, else a folder under `/var/tmp` that belongs to us and is named after `wanted`.
///
/// # Errors
/// The folder under `/var/tmp` is somebody else's or cannot be made.
pub fn reachable_or_elsewhere(wanted: &Path, user: Option<ServerUser>) -> io::Result<PathBuf> {
    if reachable(wanted, user) {
        return Ok(wanted.to_owned());
    }
    let full = std::path::absolute(wanted)?;
    let elsewhere = PathBuf::from("/var/tmp").join(format!("chancery-{:08x}", fold(full.as_os_str().as_encoded_bytes())));
    own_folder(&elsewhere)?;
    Ok(elsewhere)
}

/// Makes a folder that others may enter but not read, and refuses one that somebody else has made before us.
fn own_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() && meta.uid() == Uid::effective().as_raw() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} exists and is not ours", path.display())))
    }
}

/// FNV-1a: names a folder after a path; nothing depends on it being strong.
pub(super) fn fold(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The folder for fetched servers, shared by all clones: the user's cache, or a place the server's user can reach, or `data`.
///
/// # Errors
/// None of them can be written.
pub fn cache(data: &Path) -> io::Result<PathBuf> {
    let user = ServerUser::needed()?;
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or(home.map(|home| home.join(".cache")));
    let mut candidates: Vec<PathBuf> = base.into_iter().map(|base| base.join("chancery")).filter(|path| reachable(path, user)).collect();
    if user.is_some() {
        candidates.push("/var/tmp/chancery-cache-root".into());
    }
    candidates.push(data.join("cache"));
    let writable = |path: &PathBuf| {
        let made = path.parent().is_none_or(|parent| fs::create_dir_all(parent).is_ok()) && own_folder(path).is_ok();
        made && tempfile_in(path).is_ok()
    };
    candidates.into_iter().find(writable).ok_or_else(|| io::Error::other("no folder for fetched servers can be written"))
}

fn tempfile_in(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, b"")?;
    fs::remove_file(probe)
}

/// Gives a folder to the server's user; nothing when no other user is needed.
///
/// # Errors
/// The system refuses.
pub fn give(path: &Path, user: Option<ServerUser>) -> io::Result<()> {
    match user {
        Some(user) => nix::unistd::chown(path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid))).map_err(io::Error::from),
        None => Ok(()),
    }
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// The file cannot be written.
pub fn write_private(path: &Path, content: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    file.write_all(content.as_bytes())
}
