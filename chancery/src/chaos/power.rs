//! Power that can be cut: a file system of its own for a server's data, of which only what was synced survives.
//!
//! The data lie on ext4 in a file, mounted over a loop device. To cut the power, the server is killed and the file is copied while it is
//! still mounted: what the server wrote without `fsync` is in the system's memory and not in the file. The copy is mounted in its place,
//! and its journal is recovered as after a real power cut. ext4 commits nothing by itself for five minutes (`commit=300`), and the system
//! writes back what has been dirty for `vm.dirty_expire_centisecs` (30 s by default): what a server wrote longer ago may survive unsynced.
//!
//! Needs root, `mkfs.ext4` and loop devices; [`Disk::possible`] says in a sentence what is missing.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::unistd::Uid;

/// How the folders are called: this, the process that made it, a number.
const PREFIX: &str = "chancery-power-";
/// The size of the file that only tries whether all this works.
const TRIAL: u64 = 8 << 20;
/// How often the file is copied again because something was written to it meanwhile.
const COPIES: usize = 10;
/// How long a file system may be busy with processes that are just ending.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// A file system whose power can be cut. Everything goes when it is dropped, after the server that uses it.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    mount: PathBuf,
    /// Which image is mounted: each cut makes another.
    life: u32,
}

impl Disk {
    /// Whether power can be cut here; tried once.
    ///
    /// # Errors
    /// What is missing, as a sentence.
    pub fn possible() -> Result<(), String> {
        static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
        TRIED
            .get_or_init(|| {
                if !Uid::effective().is_root() {
                    return Err("power cannot be cut here: mounting a file system needs root".into());
                }
                Self::make(&std::env::temp_dir(), TRIAL).map(drop).map_err(|error| format!("power cannot be cut here: {error:#}"))
            })
            .clone()
    }

    /// Makes one of so many bytes (taken as they are used) in a folder of its own below `parent`.
    ///
    /// # Errors
    /// See [`Disk::possible`].
    pub fn make(parent: &Path, bytes: u64) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_stale(parent);
        let folder = parent.join(format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let disk = Self { mount: folder.join("disk"), folder, life: 0 };
        fs::create_dir_all(&disk.mount).with_context(|| format!("making {}", disk.mount.display()))?;
        fs::File::create(disk.image())?.set_len(bytes)?;
        // All of it now: nothing that the kernel would do later in the background.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), "-E".as_ref(), lazy.as_ref(), disk.image().as_os_str()])?;
        disk.attach()?;
        Ok(disk)
    }

    /// Where a server may put its folder.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Writes everything that is in memory to the disk: what is there now survives.
    ///
    /// # Errors
    /// The system refuses.
    pub fn sync(&self) -> anyhow::Result<()> {
        run("sync", &["-f".as_ref(), self.mount.as_os_str()])
    }

    /// Cuts the power and brings it back: what was not synced is gone. Whoever wrote here must have been killed before; blocking.
    ///
    /// # Errors
    /// Somebody still uses the file system, or the copy cannot be mounted.
    pub fn cut(&mut self) -> anyhow::Result<()> {
        let (before, after) = (self.image(), self.folder.join(format!("image-{}", self.life + 1)));
        let device = device_of(&self.mount).with_context(|| format!("{} is not mounted", self.mount.display()))?;
        let mut copied = false;
        for _ in 0..COPIES {
            let written = writes(&device)?;
            run("cp", &["--sparse=always".as_ref(), before.as_os_str(), after.as_os_str()])?;
            // A copy of one moment: nothing came in while it was made.
            copied = writes(&device)? == written;
            if copied {
                break;
            }
        }
        if !copied {
            bail!("{} is written to all the time: its power cannot be cut", before.display());
        }
        // Now the system writes what it still has, to the file that goes.
        self.detach()?;
        self.life += 1;
        fs::remove_file(&before)?;
        self.attach()
    }

    fn image(&self) -> PathBuf {
        self.folder.join(format!("image-{}", self.life))
    }

    fn attach(&self) -> anyhow::Result<()> {
        let options = "loop,noatime,commit=300";
        run("mount", &["-t".as_ref(), "ext4".as_ref(), "-o".as_ref(), options.as_ref(), self.image().as_os_str(), self.mount.as_os_str()])
    }

    fn detach(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            match run("umount", &[self.mount.as_os_str()]) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                end => return end,
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if device_of(&self.mount).is_some()
            && let Err(error) = self.detach()
        {
            eprintln!("chancery: {} stays mounted: {error:#}", self.mount.display());
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The device of a mount; none where nothing is mounted.
fn device_of(mount: &Path) -> Option<String> {
    mounts().into_iter().find(|(_, at)| at == mount).map(|(device, _)| device)
}

/// What is mounted where.
fn mounts() -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let pair = |line: &str| line.split_once(' ').and_then(|(device, rest)| Some((device.to_owned(), PathBuf::from(rest.split_once(' ')?.0))));
    text.lines().filter_map(pair).collect()
}

/// How many writes a block device has seen.
fn writes(device: &str) -> anyhow::Result<u64> {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let text = fs::read_to_string(format!("/sys/block/{name}/stat")).with_context(|| format!("reading what was written to {device}"))?;
    text.split_whitespace().nth(4).and_then(|count| count.parse().ok()).with_context(|| format!("{device} does not say what was written"))
}

/// Removes what runs that were killed have left.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<i32>().ok());
        let is_gone = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH);
        if pid.is_some_and(is_gone) {
            let mount = entry.path().join("disk");
            if device_of(&mount).is_none() || run("umount", &[mount.as_os_str()]).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    // Where these live is not in everybody's path.
    command.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_synced_survives_the_power_cut_and_what_was_not_is_gone() {
        if let Err(why) = Disk::possible() {
            eprintln!("skipped: {why}");
            return;
        }
        let mut disk = Disk::make(&std::env::temp_dir(), 64 << 20).unwrap();
        let path = |disk: &Disk, name: &str| disk.path().join(name);
        let mut synced = fs::File::create(path(&disk, "synced")).unwrap();
        synced.write_all(&[1; 100_000]).unwrap();
        synced.sync_all().unwrap();
        // A power cut is a moment: this one's server goes on writing to the file, and to another.
        synced.write_all(&[2; 100_000]).unwrap();
        fs::write(path(&disk, "unsynced"), [3; 100_000]).unwrap();
        assert_eq!(fs::read(path(&disk, "unsynced")).unwrap().len(), 100_000, "until then it is there");
        drop(synced);

        disk.cut().unwrap();
        assert_eq!(fs::read(path(&disk, "synced")).unwrap(), [1; 100_000]);
        assert!(fs::read(path(&disk, "unsynced")).is_ok_and(|bytes| bytes.is_empty()) || !path(&disk, "unsynced").exists());

        // It is a disk like before, and can lose its power again.
        fs::write(path(&disk, "later"), [4; 1_000]).unwrap();
        fs::File::open(path(&disk, "later")).unwrap().sync_all().unwrap();
        disk.cut().unwrap();
        assert_eq!(fs::read(path(&disk, "later")).unwrap(), [4; 1_000]);
        let (folder, mount) = (disk.folder.clone(), disk.mount.clone());
        drop(disk);
        assert!(!folder.exists() && device_of(&mount).is_none(), "nothing is left");
    }

    #[test]
    fn a_disk_in_use_is_not_cut_silently() {
        if let Err(why) = Disk::possible() {
            eprintln!("skipped: {why}");
            return;
        }
        let mut disk = Disk::make(&std::env::temp_dir(), 16 << 20).unwrap();
        let open = fs::File::create(disk.path().join("open")).unwrap();
        assert!(disk.cut().is_err(), "a server that was not killed");
        drop(open);
    }
}
