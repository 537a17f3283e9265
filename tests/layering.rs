//! The folders are the architecture: arrows point down only, and the two lowest layers touch no IO.
//!
//! Read from `cargo metadata`, so that a line in a `Cargo.toml` is enough to fail.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected must fail at once")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Which of our crates a crate may depend on. A new crate fails until it has a line here.
const ARROWS: [(&str, &[&str]); 15] = [
    ("subjects", &[]),
    ("aggregates", &["subjects"]),
    ("runtime", &["aggregates", "subjects"]),
    ("chancery-kit", &["runtime", "aggregates", "subjects"]),
    ("chancery-harness", &["runtime", "aggregates", "subjects"]),
    ("command-gateway", &["runtime", "aggregates", "subjects"]),
    ("logging", &["runtime", "aggregates", "subjects"]),
    ("audit", &["runtime", "aggregates", "subjects"]),
    ("notifications", &["runtime", "aggregates", "subjects"]),
    ("onboarding", &["runtime", "aggregates", "subjects"]),
    ("guests", &["runtime", "aggregates", "subjects"]),
    ("withdrawals", &["runtime", "aggregates", "subjects"]),
    ("authz-cache", &["runtime", "aggregates", "subjects"]),
    ("welcome", &["chancery-kit", "chancery-harness"]),
    (
        "chancery",
        &[
            "command-gateway",
            "chancery-kit",
            "logging",
            "audit",
            "notifications",
            "onboarding",
            "guests",
            "withdrawals",
            "authz-cache",
            "runtime",
            "aggregates",
            "subjects",
        ],
    ),
];

/// The crates that decide without IO, clock or randomness.
const PURE: [&str; 2] = ["aggregates", "subjects"];

/// What they may use: data and arithmetic.
const HARMLESS: [&str; 12] =
    ["serde", "serde_json", "schemars", "uuid", "time", "thiserror", "fnv", "idna", "unicode-normalization", "hmac", "sha2", "base64"];

/// What cargo says of the packages of the workspace.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path", manifest]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().expect("cargo metadata lists packages").clone()
}

/// Every crate of the workspace with what it depends on, tests included.
fn crates() -> BTreeMap<String, Vec<Value>> {
    packages().iter().map(|package| (name(package).to_owned(), package["dependencies"].as_array().unwrap().clone())).collect()
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap()
}

#[test]
fn arrows_between_our_crates_point_down_only() {
    let crates = crates();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut wrong = Vec::new();
    for (from, dependencies) in &crates {
        let Some(below) = allowed.get(from.as_str()) else {
            wrong.push(format!("{from} has no place in the layers yet: give it a line in tests/layering.rs"));
            continue;
        };
        for to in dependencies.iter().map(name).filter(|to| crates.contains_key(*to)) {
            if !below.contains(&to) {
                wrong.push(format!("{from} must not depend on {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_of_the_layers_exists() {
    let found: BTreeSet<String> = crates().into_keys().collect();
    let listed: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, found);
}

#[test]
fn deciding_crates_have_no_way_to_reach_the_world() {
    let crates = crates();
    let mut wrong = Vec::new();
    for pure in PURE {
        for dependency in crates[pure].iter().filter(|dependency| dependency["kind"] != "dev") {
            let name = name(dependency);
            if !HARMLESS.contains(&name) && !crates.contains_key(name) {
                wrong.push(format!("{pure} must not depend on {name}: it is not on the list of harmless crates"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_binary_is_a_binary() {
    let packages = packages();
    let is_binary = |package: &&Value| package["targets"].as_array().unwrap().iter().any(|target| target["kind"][0] == "bin");
    let binaries: Vec<&str> = packages.iter().filter(is_binary).map(name).collect();
    // The example is no default member.
    assert_eq!(binaries, ["chancery", "welcome"], "`cargo run -- up` works from the root only while there is one binary");
}
