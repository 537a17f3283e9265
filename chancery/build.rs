//! Lists the SQL files of `migrations/<owner>/` so that the binary carries them.

use std::{env, fmt::Write as _, fs, io, path::Path};

fn main() -> io::Result<()> {
    // Asked when it runs: a target folder may come from another checkout, and the path it was compiled with would lead there.
    let package = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let root = Path::new(&package).join("../migrations").canonicalize()?;
    println!("cargo::rerun-if-changed=../migrations");
    let mut code = String::from("pub(super) static OWNERS: &[(&str, &[(&str, &str)])] = &[\n");
    for owner in sorted(&root)? {
        let folder = root.join(&owner);
        if !folder.is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed=../migrations/{owner}");
        let _ = writeln!(code, "    ({owner:?}, &[");
        for file in sorted(&folder)?.into_iter().filter(|file| file.ends_with(".sql")) {
            println!("cargo::rerun-if-changed=../migrations/{owner}/{file}");
            // Looked up by the compiler: a checkout that was moved with its target folder does not run this again.
            let path = format!("/../migrations/{owner}/{file}");
            let _ = writeln!(code, "        ({file:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),");
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
