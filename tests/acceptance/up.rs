//! `chancery up` as a person uses it: started, stopped, killed, started again.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{exe, fresh_folder};

const LIMIT: Duration = Duration::from_secs(90);

/// A running `up` in a folder of its own.
struct Up {
    process: Child,
    output: PathBuf,
}

impl Up {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_with(folder, arguments, &[])
    }

    fn start_with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let output = folder.join(format!("output-{}", std::fs::read_dir(folder).unwrap().count()));
        let file = std::fs::File::create(&output).unwrap();
        let mut command = Command::new(exe());
        command.arg("up").args(arguments).current_dir(folder).env("CHANCERY_DATA", folder.join("data")).env_remove("DATABASE_URL");
        command.envs(environment.iter().copied());
        let process = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { process, output }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    fn wait_for(&mut self, what: &str) {
        let begin = Instant::now();
        while !self.text().contains(what) {
            assert!(begin.elapsed() < LIMIT, "no {what:?} in\n{}", self.text());
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() || self.text().contains(what), "ended with {ended:?} before {what:?}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    fn wait(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.success();
            }
            assert!(begin.elapsed() < LIMIT, "does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Removes the folder when the test is over, whatever its end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A variable as a shell would have it after sourcing `env`.
fn variable(folder: &Path, name: &str) -> String {
    let script = format!(". ./data/env; printf %s \"${name}\"");
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn up_survives_a_kill_and_stops_cleanly() {
    let folder = Folder(fresh_folder("up"));
    let here = folder.0.as_path();

    let mut first = Up::start(here, &[]);
    first.wait_for("Try it in another shell");
    let (gateway, token) = (variable(here, "CHANCERY"), variable(here, "TOKEN"));
    assert!(gateway.starts_with("http://127.0.0.1:") && token.split('.').count() == 3, "{gateway} {token}");

    let mut second = Up::start(here, &[]);
    assert!(!second.wait(), "a second one on the same data is refused");
    assert!(second.text().contains("another `chancery up` is running"), "{}", second.text());

    first.signal(Signal::SIGKILL);
    first.wait();
    let mut third = Up::start(here, &[]);
    third.wait_for("Try it in another shell");
    assert!(third.text().contains("0 applied"), "the data is still there:\n{}", third.text());
    third.signal(Signal::SIGINT);
    assert!(third.wait() && third.text().contains("stopped cleanly"), "{}", third.text());

    let mut fourth = Up::start(here, &["--reset"]);
    fourth.wait_for("Try it in another shell");
    assert!(!fourth.text().contains(" 0 applied"), "the data is gone:\n{}", fourth.text());
    assert_ne!(variable(here, "TOKEN"), token, "and so are the keys");
    fourth.signal(Signal::SIGTERM);
    assert!(fourth.wait() && fourth.text().contains("stopped cleanly"), "{}", fourth.text());
}

#[test]
fn the_demo_kills_a_worker_and_proves_that_nothing_is_lost_or_twice() {
    let folder = Folder(fresh_folder("demo"));
    let mut up = Up::start(&folder.0, &["--demo"]);
    up.wait_for("Try it in another shell");
    let words: Vec<String> = up.text().split_whitespace().map(str::to_owned).collect();
    assert!(words.windows(5).any(|line| line == ["lost", "0", "twice", "0", "Try"]), "{}", up.text());
    assert!(up.text().contains("is killed with -9") && up.text().contains("started again"), "{}", up.text());
    up.signal(Signal::SIGINT);
    assert!(up.wait(), "{}", up.text());
}

#[test]
fn three_nodes_keep_three_replicas_and_survive_the_kill_of_one() {
    let folder = Folder(fresh_folder("nodes"));
    let here = folder.0.as_path();
    let mut up = Up::start(here, &["--nodes", "3", "--demo"]);
    up.wait_for("Try it in another shell");
    let words: Vec<String> = up.text().split_whitespace().map(str::to_owned).collect();
    assert!(words.windows(5).any(|line| line == ["lost", "0", "twice", "0", "Try"]), "{}", up.text());
    let url = variable(here, "NATS_URL");
    let replicas = async {
        let client = chancery::connect::nats(&url, "test").await.unwrap();
        let mut stream = async_nats::jetstream::new(client).get_stream("EVENTS").await.unwrap();
        let info = stream.info().await.unwrap();
        (info.config.num_replicas, info.cluster.as_ref().map_or(0, |cluster| cluster.replicas.len()))
    };
    assert_eq!(tokio::runtime::Runtime::new().unwrap().block_on(replicas), (3, 2), "a leader and two that follow it");
    let pid: i32 = std::fs::read_to_string(here.join("data/nats-2/nats.pid")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    up.wait_for("nats-server-2 started again");
    up.signal(Signal::SIGINT);
    assert!(up.wait() && up.text().contains("stopped cleanly"), "{}", up.text());
    let mut other = Up::start(here, &[]);
    assert!(!other.wait() && other.text().contains("was made with --nodes 3"), "{}", other.text());
}

#[test]
fn a_role_that_cannot_start_is_named_with_its_reason() {
    let folder = Folder(fresh_folder("unready"));
    let mut up = Up::start_with(&folder.0, &[], &[("CHANCERY_MAIL_FROM", "no address")]);
    assert!(!up.wait(), "{}", up.text());
    assert!(up.text().contains("notifications ended with") && up.text().contains("CHANCERY_MAIL_FROM"), "{}", up.text());
}

#[test]
fn a_role_that_refuses_to_go_on_is_named_with_its_reason() {
    let folder = Folder(fresh_folder("refusing"));
    let here = folder.0.as_path();
    let mut up = Up::start_with(here, &[], &[("CHANCERY_SCHEMA_LOOK_MS", "100")]);
    up.wait_for("Try it in another shell");
    let mut db = postgres::Client::connect(&variable(here, "DATABASE_URL"), postgres::NoTls).unwrap();
    let version: i32 = db.query_one("SELECT version FROM schema_versions WHERE owner = 'audit'", &[]).unwrap().get(0);
    db.batch_execute("UPDATE schema_versions SET version = 99, oldest = 99 WHERE owner = 'audit'").unwrap();
    up.wait_for(&format!(
        " audit ended (exit status: 1); it said: chancery: audit: this program is too old for the database: it knows audit {version}, and only \
         programs that know audit 99"
    ));
    up.wait_for(" audit started again");
    // Only whoever uses these tables.
    for line in up.text().lines().filter(|line| line.contains(" ended (")) {
        assert!(line.starts_with(" audit "), "{line}");
    }
}

#[test]
fn up_leaves_a_folder_alone_that_is_not_its_own() {
    let folder = Folder(fresh_folder("foreign"));
    std::fs::create_dir(folder.0.join("data")).unwrap();
    std::fs::write(folder.0.join("data/thesis.txt"), "years of work").unwrap();
    let mut up = Up::start(&folder.0, &["--reset"]);
    assert!(!up.wait(), "{}", up.text());
    assert!(up.text().contains("is not a data folder of chancery"), "{}", up.text());
    assert_eq!(std::fs::read_to_string(folder.0.join("data/thesis.txt")).unwrap(), "years of work");
}
