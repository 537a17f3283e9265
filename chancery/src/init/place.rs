//! The folder that `init` writes: what is there already stays as it is.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::unistd::{Gid, chown};

use super::reader::Reader;

/// Secrets as they were drawn, for `init` alone.
const PRIVATE: &str = "private";

/// The folder, and what was written into it.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    groups: bool,
    written: Vec<PathBuf>,
}

impl Place {
    /// Makes or opens the folder.
    pub(super) fn open(root: &Path, groups: bool) -> anyhow::Result<Self> {
        let place = Self { root: root.to_owned(), groups, written: Vec::new() };
        place.folder(root, 0o755, None)?;
        place.folder(&root.join(PRIVATE), 0o700, None)?;
        Ok(place)
    }

    /// What was written, in order, as paths below the folder.
    pub(super) fn finish(self) -> Vec<PathBuf> {
        self.written
    }

    /// A secret of `private/`, drawn when it is missing.
    pub(super) fn secret(&mut self, name: &str, draw: &dyn Fn() -> String) -> anyhow::Result<String> {
        match self.known(name)? {
            Some(text) => Ok(text),
            None => {
                let text = draw();
                self.keep(name, &text)?;
                Ok(text)
            }
        }
    }

    /// A secret of `private/` if it is there.
    pub(super) fn known(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.root.join(PRIVATE).join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes a secret of `private/`.
    pub(super) fn keep(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        self.put(&Path::new(PRIVATE).join(name), text, 0o600, None)
    }

    /// Removes the secrets of `private/` whose names are wanted gone, so that they are drawn anew.
    pub(super) fn forget(&mut self, unwanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.root.join(PRIVATE))? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&unwanted) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a file that `reader` may read, or everybody when there is none.
    pub(super) fn share(&mut self, path: &Path, text: &str, reader: Option<Reader>) -> anyhow::Result<()> {
        let mut folder = self.root.clone();
        for part in path.parent().into_iter().flat_map(Path::iter) {
            folder.push(part);
            // The folder of all credentials is everybody's way to their own.
            let own = reader.filter(|_| folder != self.root.join("credentials"));
            self.folder(&folder, if own.is_some() { 0o750 } else { 0o755 }, own)?;
        }
        self.put(path, text, if reader.is_some() { 0o640 } else { 0o644 }, reader)
    }

    /// Lets `reader` write into a folder that is there, such as a volume.
    pub(super) fn hand_over(&self, folder: &Path, reader: Reader) -> anyhow::Result<()> {
        self.own(folder, 0o2770, Some(reader))
    }

    fn put(&mut self, path: &Path, text: &str, mode: u32, reader: Option<Reader>) -> anyhow::Result<()> {
        let full = self.root.join(path);
        if fs::read_to_string(&full).is_ok_and(|found| found == text) {
            return self.own(&full, mode, reader);
        }
        // Under another name first: whoever reads meanwhile sees the old file or the new one.
        let fresh = full.with_extension("new");
        let write = || -> io::Result<()> {
            let _ = fs::remove_file(&fresh);
            let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("writing {}", fresh.display()))?;
        self.own(&fresh, mode, reader)?;
        fs::rename(&fresh, &full).with_context(|| format!("writing {}", full.display()))?;
        self.written.push(path.to_owned());
        Ok(())
    }

    fn folder(&self, path: &Path, mode: u32, reader: Option<Reader>) -> anyhow::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(|| format!("making {}", path.display())),
            _ => {}
        }
        self.own(path, mode, reader)
    }

    /// Gives a file or folder its mode and its reader's group, unless it has them.
    fn own(&self, path: &Path, mode: u32, reader: Option<Reader>) -> anyhow::Result<()> {
        let meta = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        let group = reader.filter(|_| self.groups).map(Reader::group);
        let refused = |error: io::Error| {
            let who = reader.map_or("its owner", Reader::name);
            anyhow::Error::new(error).context(format!("{} belongs to user {} and cannot be given to {who}", path.display(), meta.uid()))
        };
        if let Some(group) = group.filter(|group| meta.gid() != *group) {
            chown(path, None, Some(Gid::from_raw(group))).map_err(|error| refused(error.into()))?;
        }
        // Without groups nobody but the owner reads what is not everybody's.
        let mode = if reader.is_some() && !self.groups { mode & 0o700 } else { mode };
        // After the group, because a change of group drops set-group-id.
        if meta.mode() & 0o7777 != mode || group.is_some_and(|group| meta.gid() != group) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused)?;
        }
        Ok(())
    }
}
