//! The image of the roles, made from this very program: nothing is compiled twice, and nothing but Docker is needed.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;

use super::docker::{Compose, Docker};

/// The label of an image that was made from a program: the program's SHA-256.
const LABEL: &str = "chancery.program";

/// Makes the image when it is missing, or was made from another program, or when `anew`. One that has been built from source, or fetched,
/// stays.
pub(crate) async fn ensure(docker: &Docker, compose: &Compose, image: &str, anew: bool) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let format = format!("{{{{ index .Config.Labels {LABEL:?} }}}}");
    let found = docker.ask(&["image", "inspect", "--format", &format, image]).await.ok();
    if !anew && found.as_deref().is_some_and(|label| matches!(label.trim(), "" | "<no value>")) {
        println!("using the image {image} as it is; it was not made from this program (`--build` makes it anew)");
        return Ok(());
    }
    if docker.platform != platform() {
        eprintln!("Docker runs {} and this program is for {}: the image is built from source", docker.platform, platform());
        return if found.is_none() || anew { compose.show(&["build", "init"]).await } else { Ok(()) };
    }
    let digest = hex::encode(digest::digest(&digest::SHA256, &fs::read(&program)?));
    if !anew && found.is_some_and(|label| label.trim() == digest) {
        return Ok(());
    }
    eprintln!("making the image {image} from {}", program.display());
    let context = Context::with(&program, &compose.folder.join("Dockerfile"))?;
    let label = format!("{LABEL}={digest}");
    let folder = context.0.display().to_string();
    docker.work(&["build", "--target", "binary", "--label", &label, "--tag", image, &folder]).await.context("making the image")?;
    if let Err(error) = docker.ask(&["run", "--rm", "--network", "none", image, "--version"]).await {
        bail!("this program does not run in the image ({error}): build it from source with `docker build -t {image} .`");
    }
    Ok(())
}

/// What this program runs on, in Docker's words.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}

/// A folder with what the image is made from; gone with the value.
struct Context(std::path::PathBuf);

impl Context {
    fn with(program: &Path, dockerfile: &Path) -> anyhow::Result<Self> {
        let context = Self(std::env::temp_dir().join(format!("chancery-image-{}", std::process::id())));
        let _ = fs::remove_dir_all(&context.0);
        fs::create_dir(&context.0).with_context(|| format!("making {}", context.0.display()))?;
        let there = context.0.join("chancery");
        fs::hard_link(program, &there).or_else(|_| fs::copy(program, &there).map(drop)).context("copying this program")?;
        fs::copy(dockerfile, context.0.join("Dockerfile")).with_context(|| format!("copying {}", dockerfile.display()))?;
        Ok(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
