//! Other teams' consumers in Rust: the crate that `consumer new` writes, and the example, each built and tested as a team would.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::harness::{exe, fresh_folder, wait_until};

/// The target folder of this build: what a team's crate shares with it needs not be built again.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Runs cargo as a team does, with the program under test for its servers.
fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", target()).env("CHANCERY_PROGRAM", exe()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "cargo {}:\n{text}", arguments.join(" "));
    text
}

/// `chancery consumer new` in a folder.
fn new(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(exe());
    command.args(["consumer", "new", "--into"]).arg(folder).arg("--checkout").arg(checkout()).args(arguments);
    command.env_remove("CHANCERY_MANIFEST").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_crate_that_is_written_for_a_new_consumer_has_ten_thousand_effects_once_and_in_order_whatever_is_killed() {
    let folder = fresh_folder("new");
    let made = new(&folder, &["seats"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let seats = folder.join("seats");
    // A minimal toolchain has no rustfmt; then nothing was broken into lines either.
    if Command::new("rustfmt").arg("--version").output().is_ok_and(|output| output.status.success()) {
        cargo(&seats, &["fmt", "--check"]);
    }
    let test = seats.join("tests/history.rs");
    let text = fs::read_to_string(&test).unwrap();
    assert!(text.contains("EVENTS: i64 = 2_000;"), "{text}");
    fs::write(&test, text.replace("EVENTS: i64 = 2_000;", "EVENTS: i64 = 10_000;")).unwrap();
    let said = cargo(&seats, &["test", "--offline"]);
    assert!(said.contains("every_event_has_its_row_once_whatever_is_killed ... ok"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_new_consumer_without_order_joins_a_manifest_that_is_there_and_has_each_effect_once() {
    let folder = fresh_folder("joins");
    let manifest = folder.join("teams.toml");
    fs::write(&manifest, include_str!("../../../examples/consumers.toml")).unwrap();
    let filters = ["--order", "none", "--filter", "evt.*.invitation.*", "--filter", "evt.*.team.>"];
    let made = new(&folder, &[&["guest-book", "--manifest", manifest.to_str().unwrap()], &filters[..]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let declared = fs::read_to_string(&manifest).unwrap();
    assert!(declared.contains("name = \"sample-team\"") && declared.contains("name = \"guest-book\""), "{declared}");
    let said = cargo(&folder.join("guest-book"), &["test", "--offline"]);
    assert!(said.contains("every_event_has_its_row_once_whatever_is_killed ... ok"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_example_prints_each_letter_once_and_once_more_where_a_crash_left_it_in_doubt() {
    let said = cargo(&checkout(), &["test", "--package", "welcome", "--offline"]);
    assert!(said.contains("members_and_letters_are_as_told_whatever_is_killed ... ok"), "{said}");
    assert!(said.contains("a_letter_that_is_in_doubt_twice_is_printed_no_third_time ... ok"), "{said}");
}

#[test]
fn a_new_consumer_that_would_be_refused_leaves_nothing_behind() {
    let folder = fresh_folder("refused");
    fs::create_dir(folder.join("there")).unwrap();
    for (arguments, why) in [
        (&["Seats"][..], "is no name"),
        (&["logging"], "declared twice"),
        (&["there"], "is there already"),
        (&["seats", "--filter", "evt.*.usr.created"], "the nearest is user.created"),
        (&["seats", "--filter", "evt.*.user.>", "--filter", "evt.*.team.>"], "one filter"),
    ] {
        let refused = new(&folder, arguments);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(why), "{arguments:?}: {text}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only what was there");
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stand_ends_with_its_standard_input_and_takes_its_servers_along() {
    let mut stand = Command::new(exe())
        .arg("stand")
        .env_remove("CHANCERY_MANIFEST")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(stand.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let about: Value = serde_json::from_str(&line).unwrap();
    let sample = &about["consumers"]["sample-team"];
    assert_eq!(sample["NATS_USER"], "sample-team");
    let address = |url: &Value| url.as_str().unwrap().rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let servers = [address(&sample["NATS_URL"]), address(&about["databaseUrl"])];
    for server in &servers {
        TcpStream::connect(server).unwrap();
    }
    drop(stand.stdin.take());
    assert!(stand.wait().unwrap().success());
    wait_until("the servers to be gone", async || servers.iter().all(|server| TcpStream::connect(server).is_err())).await;
}
