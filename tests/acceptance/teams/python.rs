//! `examples/python-consumer` as a process of its user, and its database.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use chancery::privilege::nats::User;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{Stack, fresh_folder, packages};

const REQUIREMENTS: &str = include_str!("../../../examples/python-consumer/requirements.txt");
/// Where the packages lie; fetched by the first test that needs them.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| packages("nats-py", REQUIREMENTS));
/// Prints what a query of a SQLite database comes to: a number, or none while there is no such table.
const QUERY: &str = "import sqlite3, sys\ntry: print(sqlite3.connect(sys.argv[1], timeout=30).execute(sys.argv[2]).fetchone()[0])\nexcept sqlite3.OperationalError as error: print(-1) if 'no such table' in str(error) else sys.exit(str(error))";

/// The consumer, which can be killed and started again on the same database.
pub(super) struct Python {
    folder: PathBuf,
    url: String,
    more: Vec<String>,
    child: Option<Child>,
}

impl Python {
    /// Not started yet.
    pub(super) fn of(stack: &Stack, more: &[&str]) -> Self {
        let more = more.iter().map(|argument| (*argument).to_owned()).collect();
        Self { folder: fresh_folder("python"), url: stack.nats.url_as(User::Team("sample-team")), more, child: None }
    }

    pub(super) fn start(&mut self) {
        self.child = Some(self.spawn());
    }

    /// A second one beside it, on the same database, ends at once.
    pub(super) fn second_is_refused(&self) {
        assert!(!self.spawn().wait().unwrap().success());
        assert!(self.log().contains("another consumer works on this database"), "{}", self.log());
    }

    fn spawn(&self) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-consumer/consumer.py");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new("python3");
        command.arg(script).args(["--url", &self.url, "--database"]).arg(self.database()).args(&self.more);
        command.env("PYTHONPATH", &*PACKAGES).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn database(&self) -> PathBuf {
        self.folder.join("invitations.db")
    }

    /// Everything it has said since the first start.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The number that a query of its database comes to; -1 while there is no such table.
    pub(super) fn number(&self, sql: &str) -> i64 {
        let output = Command::new("python3").args(["-c", QUERY]).arg(self.database()).arg(sql).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text} {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub(super) fn kill9(&mut self) {
        let mut child = self.child.take().expect("it is not running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has; whether it ended well.
    pub(super) fn stop(&mut self) -> bool {
        let pid = self.child.as_ref().expect("it is not running").id();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.wait()
    }

    /// Waits until it ends; whether it ended well.
    pub(super) fn wait(&mut self) -> bool {
        let begin = Instant::now();
        let child = self.child.as_mut().expect("it is not running");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status.success();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- examples/python-consumer\n{}", self.log());
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An event of an invitation as the stack would send it: its subject and its body.
pub(super) fn event(tenant: u128, invitation: u128, version: u64, sequence: u64) -> (String, Value) {
    use serde_json::json;
    use subjects::{EventId, InvitationId, TenantId};
    let (tenant, invitation) = (TenantId::new(uuid::Uuid::from_u128(tenant)), InvitationId::new(uuid::Uuid::from_u128(invitation)));
    // What a consumer here does not need of the data is left out.
    let event_type = if version == 1 { "invitation.created" } else { "invitation.attribute_set" };
    let body = json!({
        "id": EventId::new(uuid::Uuid::now_v7()), "type": event_type, "timestamp": "2026-11-22T10:00:00.123Z", "version": "1.0",
        "source": "chancery", "tenantId": tenant, "userId": null, "aggregate": "invitation", "aggregateId": invitation,
        "aggregateVersion": version, "sequence": sequence, "correlationId": "c", "causationId": "c",
        "data": { "tenantId": tenant, "invitationId": invitation },
    });
    (subjects::event(tenant, event_type), body)
}
