//! `chancery consumer new`: writes the crate of a consumer that compiles, passes its test and stands in a manifest.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use aggregates::registry;
use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use runtime::Config;
use subjects::FilterParts;

use crate::manifest::Manifest;

/// Kinds of events that its test is given at most.
const TYPES: usize = 3;
/// Every file, with the text it is made from.
const FILES: [(&str, &str); 7] = [
    (".cargo/config.toml", include_str!("new/config.toml.txt")),
    ("Cargo.toml", include_str!("new/Cargo.toml.txt")),
    ("README.md", include_str!("new/README.md.txt")),
    ("migrations/0001_history.sql", include_str!("new/migration.sql.txt")),
    ("src/lib.rs", include_str!("new/lib.rs.txt")),
    ("src/main.rs", include_str!("new/main.rs.txt")),
    ("tests/history.rs", include_str!("new/test.rs.txt")),
];
const ENTRY: &str = include_str!("new/consumer.toml.txt");

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The consumer's name: small letters, digits and single dashes.
    name: String,
    /// The folder in which its folder is made.
    #[arg(long, default_value = ".")]
    into: PathBuf,
    /// What it takes (docs/events.md); several may be named.
    #[arg(long = "filter", default_value = "evt.*.user.>")]
    filters: Vec<String>,
    /// Whether the events of each aggregate come in order; then by one filter.
    #[arg(long, value_enum, default_value_t = Order::Aggregate)]
    order: Order,
    /// Who answers for it.
    #[arg(long, default_value = "me <me@example.org>")]
    owner: String,
    /// The manifest it joins; CHANCERY_MANIFEST, or a new one in its folder, unless named.
    #[arg(long)]
    manifest: Option<PathBuf>,
    /// The checkout of Chancery whose kit it uses; the one that this program was built in unless named.
    #[arg(long)]
    checkout: Option<PathBuf>,
}

/// Which order it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// None: replicas share the events.
    None,
    /// That of each aggregate: one replica works.
    Aggregate,
}

/// Writes everything, or nothing.
///
/// # Errors
/// The name or a filter is refused, its folder is there already, or there is no checkout.
pub(super) fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let checkout = checkout(options.checkout.as_deref())?;
    let into = options.into.canonicalize().with_context(|| format!("looking at {}", options.into.display()))?;
    let folder = into.join(&options.name);
    ensure!(!folder.exists(), "{} is there already, and stays as it is", folder.display());
    let own = folder.join("consumer.toml");
    let manifest = options.manifest.as_ref().or(config.manifest.as_ref());
    let manifest = manifest.map_or(Ok(own.clone()), std::path::absolute)?;
    let values = values(options, &checkout, &manifest, manifest == own);
    // As the provisioner will read it: what it would refuse is refused here.
    let before =
        if manifest.exists() { fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))? } else { String::new() };
    let entry = filled(ENTRY, &values);
    let declared = if before.trim().is_empty() { entry } else { format!("{}\n\n{entry}", before.trim_end()) };
    Manifest::check(&declared)?;
    write(&folder, &values, &checkout).inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
    replace(&manifest, &declared).inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
    println!("{} is made, and declared in {}.", folder.display(), manifest.display());
    println!("Next: cd {} && cargo test", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// What stands for what in the texts.
fn values(options: &Options, checkout: &Path, manifest: &Path, is_own: bool) -> Vec<(&'static str, String)> {
    let quoted = |text: &str| format!("{text:?}");
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let schema = options.name.replace('-', "_");
    let takes = |event_type: &str| options.filters.iter().any(|filter| FilterParts::parse(filter).is_ok_and(|parts| parts.takes(event_type)));
    let types: Vec<String> = registry::EVENTS.iter().map(|entry| entry.event_type.to_owned()).filter(|name| takes(name)).take(TYPES).collect();
    let in_test =
        if is_own { "concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/consumer.toml\")".to_owned() } else { quoted(&manifest.display().to_string()) };
    let shown = if is_own { format!("{}/consumer.toml", options.name) } else { manifest.display().to_string() };
    let (order, variant) = if options.order == Order::None { ("none", "None") } else { ("aggregate", "Aggregate") };
    vec![
        ("@NAME@", options.name.clone()),
        ("@CRATE@", schema.clone()),
        ("@SCHEMA@", schema),
        ("@CHECKOUT@", checkout.display().to_string()),
        ("@OWNER@", quoted(&options.owner)),
        ("@FILTERS@", list(&options.filters)),
        ("@ORDER@", order.to_owned()),
        ("@ORDER_VARIANT@", variant.to_owned()),
        ("@TYPES@", list(&types)),
        ("@MANIFEST@", in_test),
        ("@MANIFEST_SHOWN@", shown),
    ]
}

fn filled(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The crate, with the versions of everything that the checkout was tested with.
fn write(folder: &Path, values: &[(&str, String)], checkout: &Path) -> anyhow::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(|| format!("making the folder of {}", path.display()))?;
        fs::write(&path, filled(text, values)).with_context(|| format!("writing {}", path.display()))?;
    }
    let lock = folder.join("Cargo.lock");
    fs::copy(checkout.join("Cargo.lock"), &lock).with_context(|| format!("writing {}", lock.display()))?;
    fs::write(folder.join(".gitignore"), "/target\n").context("writing .gitignore")?;
    // Names are of any length, so lines are broken by who knows how. Without a rustfmt they stay long.
    let sources = FILES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".rs"));
    let _ = Command::new("rustfmt").args(["--edition", "2024"]).args(sources).current_dir(folder).stderr(Stdio::null()).status();
    Ok(())
}

/// Puts a text in a file's place, so that a crash leaves the one or the other.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("toml.new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Where the kit is.
fn checkout(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let is_one = |folder: &Path| folder.join("workers/kit/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file();
    if let Some(named) = named {
        ensure!(is_one(named), "{} is no checkout of Chancery: it has no workers/kit", named.display());
        return Ok(named.canonicalize()?);
    }
    let built_in = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    for place in [here, built_in].into_iter().flatten() {
        if let Some(found) = place.ancestors().find(|folder| is_one(folder)) {
            return Ok(found.canonicalize()?);
        }
    }
    bail!("no checkout of Chancery is found from here: say where it is with --checkout")
}
