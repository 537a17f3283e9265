//! Planted defects stay out of everything that is delivered: the program has no trace of them, and nothing that builds an image asks for
//! them. With the feature, the same traces are there, and such a program does not start by accident.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected must fail at once")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words that the defects leave in a program: their names, what they log, the symbols of their code.
const TRACES: [&str; 14] = [
    "publish_before_commit",
    "pipelined_outbox",
    "no_fence",
    "no_cursor_check",
    "ack_all",
    "no_inbox",
    "outbox_by_id",
    "skip_undecodable",
    "audit_without_key",
    "lazy_fsync",
    "CHANCERY_PLANTED",
    "WITH PLANTED DEFECTS",
    "planted_lane",
    "one of many publishes is repeated",
];

fn traces() -> Vec<&'static str> {
    let program = fs::read(env!("CARGO_BIN_EXE_chancery")).unwrap();
    // As text, because the search for text is the quick one.
    let program = String::from_utf8_lossy(&program);
    TRACES.into_iter().filter(|trace| program.contains(trace)).collect()
}

#[cfg(not(feature = "planted"))]
#[test]
fn a_program_without_the_feature_has_no_trace_of_planted_defects() {
    assert_eq!(traces(), Vec::<&str>::new());
}

#[cfg(feature = "planted")]
#[test]
fn a_program_with_the_feature_has_every_trace_that_the_other_one_is_searched_for() {
    assert_eq!(traces(), TRACES);
}

#[cfg(feature = "planted")]
#[test]
fn a_program_with_planted_defects_says_so_and_runs_no_role_unless_told_which() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_chancery"));
        let output = command.args(arguments).env_clear().stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (_, version) = run(&["--version"]);
    assert!(version.contains("WITH PLANTED DEFECTS"), "{version}");
    for role in [&["worker"][..], &["gateway"], &["consumer", "audit"]] {
        let (success, said) = run(role);
        assert!(!success && said.contains("CHANCERY_PLANTED"), "{role:?}: {said}");
    }
}

/// Everything that says how an image or a release is built.
fn builders(root: &Path) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
        name.contains("dockerfile") || name.contains("containerfile") || name.starts_with("compose") || name.starts_with("docker-compose")
    };
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let mut files: Vec<PathBuf> = entries(root.to_owned()).into_iter().filter(is_one).collect();
    let mut folders = vec![root.join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in entries(folder) {
            if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
        }
    }
    files
}

/// What asks for the defects in a file, if anything does.
fn asks(text: &str) -> Option<&'static str> {
    ["planted", "--all-features"].into_iter().find(|words| text.contains(words))
}

#[test]
fn nothing_that_builds_an_image_asks_for_planted_defects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in builders(root) {
        let asked = asks(&String::from_utf8_lossy(&fs::read(&file).unwrap()));
        assert_eq!(asked, None, "{}", file.display());
    }
    assert_eq!(asks("RUN cargo build --release --features planted"), Some("planted"));
    assert_eq!(asks("RUN cargo build --release --all-features"), Some("--all-features"));
    // Nor may a crate have them by default.
    for manifest in ["workers/runtime/Cargo.toml", "chancery/Cargo.toml"] {
        let text = fs::read_to_string(root.join(manifest)).unwrap();
        assert!(text.contains("\nplanted = ") && !text.contains("\ndefault = "), "{manifest}");
    }
}
