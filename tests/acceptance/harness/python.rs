//! Programs of others in Python: their packages, pinned and fetched with pip like the servers of the product, never the system's.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chancery::servers::place;
use sha2::{Digest as _, Sha256};

/// The folder to be `PYTHONPATH`, with the packages of a requirements file unpacked. The file has a hash for each, and pip itself refuses
/// whatever has another. Fetched once; a changed file is another folder.
pub(crate) fn packages(name: &str, requirements: &str) -> PathBuf {
    let cache = place::cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let folder = cache.join(format!("{name}-{}", &hex::encode(Sha256::digest(requirements))[..12]));
    let lock = File::create(cache.join(format!(".{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !folder.exists() {
        let work = cache.join(format!(".{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join("requirements.txt"), requirements).unwrap();
        let mut download = Command::new("python3");
        download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", ".", "-r"]);
        run(download.arg("requirements.txt").env("PIP_DISABLE_PIP_VERSION_CHECK", "1").current_dir(&work));
        let wheels: Vec<PathBuf> = fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().path()).collect();
        for wheel in wheels.iter().filter(|path| path.extension().is_some_and(|kind| kind == "whl")) {
            run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg("ready").current_dir(&work));
        }
        // Only a whole folder is ever moved into place.
        fs::rename(work.join("ready"), &folder).unwrap();
        let _ = fs::remove_dir_all(&work);
    }
    folder
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}
