//! Lists the SQL files of `migrations/<owner>/` so that the binary carries them.

use std::{env, fmt::Write as _, fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").canonicalize()?;
    println!("cargo::rerun-if-changed={}", root.display());
    let mut code = String::from("pub(super) static OWNERS: &[(&str, &[(&str, &str)])] = &[\n");
    for owner in sorted(&root)? {
        let folder = root.join(&owner);
        if !folder.is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed={}", folder.display());
        let _ = writeln!(code, "    ({owner:?}, &[");
        for file in sorted(&folder)?.into_iter().filter(|file| file.ends_with(".sql")) {
            let path = folder.join(&file);
            println!("cargo::rerun-if-changed={}", path.display());
            let _ = writeln!(code, "        ({file:?}, include_str!({:?})),", path.display().to_string());
        }
        code.push_str("    ]),\n");
    }
    code.push_str("];\n");
    let target = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&target).join("migrations.rs"), code)
}

fn sorted(folder: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}
