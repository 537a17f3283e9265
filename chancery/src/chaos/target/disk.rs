//! A small disk (tmpfs) that can be full: its size is set to what is on it. Needs root.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use nix::{sys::statvfs::statvfs, unistd::Uid};

use crate::servers::place::ServerUser;

/// How often the size is asked for again when more was written meanwhile.
const ATTEMPTS: usize = 200;

/// A mounted tmpfs; unmounted when it is dropped, after what uses it.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    /// Whether disks can be made here.
    ///
    /// # Errors
    /// What is missing, as a sentence.
    pub(super) fn possible() -> Result<(), String> {
        if Uid::effective().is_root() { Ok(()) } else { Err("a small disk needs root (mount)".into()) }
    }

    /// Mounts one of so many bytes on a folder, which is made; it belongs to `user`.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn make(path: &Path, bytes: u64, user: Option<ServerUser>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)?;
        let owner = user.map(|user| format!(",uid={},gid={}", user.uid, user.gid)).unwrap_or_default();
        mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700{owner}"), "chancery-chaos"], path)?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Leaves no room.
    ///
    /// # Errors
    /// Whoever writes is always faster.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let stat = statvfs(&self.path)?;
            let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
            if self.resize(used).is_ok() {
                return Ok(());
            }
        }
        bail!("{} is written to faster than it can be filled", self.path.display())
    }

    /// Gives all of it back.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        self.resize(self.bytes)
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        mount(&["-o", &format!("remount,size={bytes}")], &self.path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn mount(options: &[&str], path: &Path) -> anyhow::Result<()> {
    let output = Command::new("mount").args(options).arg(path).stdin(Stdio::null()).output().context("running mount")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("mount {}: {}", options.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        if let Err(why) = Disk::possible() {
            eprintln!("skipped: {why}");
            return;
        }
        let path = std::env::temp_dir().join(format!("chancery-disk-{}", uuid::Uuid::now_v7()));
        let disk = Disk::make(&path, 8 << 20, None).unwrap();
        let mut file = std::fs::File::create(path.join("file")).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        disk.fill().unwrap();
        let more = vec![7; 1 << 20];
        assert_eq!(file.write_all(&more).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        disk.free().unwrap();
        file.write_all(&more).unwrap();
        drop((file, disk));
        assert!(!path.join("file").exists(), "unmounted");
        std::fs::remove_dir(path).unwrap();
    }
}
