//! A real SMTP server: aiosmtpd, pinned and fetched with pip like the servers of the product, with a handler of ours.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use chancery::servers::port;
use serde_json::Value;

use crate::harness::{Stack, blocking, fresh_folder, packages, wait_until};

/// pip itself refuses whatever has another hash.
const REQUIREMENTS: &str = "\
aiosmtpd==1.4.6 --hash=sha256:72c99179ba5aa9ae0abbda6994668239b64a5ce054471955fe75f581d2592475
atpublic==5.1 --hash=sha256:135783dbd887fbddb6ef032d104da70c124f2b44b9e2d79df07b9da5334825e3
attrs==24.2.0 --hash=sha256:81921eb96de3191c8258c199618104dd27ac608d9366f5e35d011eae1867ede2
";
const HANDLER: &str = include_str!("mail_server.py");

/// Where the packages lie; fetched by the first test that needs them.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| packages("aiosmtpd", REQUIREMENTS));

/// A mail as a mail program reads it.
#[derive(Debug, Clone)]
pub(crate) struct Received(Value);

impl Received {
    fn of(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.of("id")
    }

    pub(crate) fn subject(&self) -> &str {
        self.of("subject")
    }

    pub(crate) fn header(&self) -> &str {
        self.of("header")
    }

    pub(crate) fn content_type(&self) -> &str {
        self.of("type")
    }

    pub(crate) fn text(&self) -> &str {
        self.of("text")
    }

    pub(crate) fn html(&self) -> &str {
        self.of("html")
    }

    /// Whom the conversation named, whatever stands in the mail.
    pub(crate) fn recipients(&self) -> Vec<&str> {
        self.0["to"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
    }

    /// The link of an invitation.
    pub(crate) fn link(&self) -> &str {
        let found = self.text().split_whitespace().find(|word| word.contains("#token="));
        found.unwrap_or_else(|| panic!("no link in {}", self.text()))
    }

    pub(crate) fn token(&self) -> &str {
        self.link().split_once("#token=").unwrap().1
    }
}

/// The server; it ends with the test, also when that is killed: its handler watches a pipe.
pub(crate) struct MailServer {
    port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

impl MailServer {
    /// A server that is not there yet, with an address.
    pub(crate) fn reserved() -> Self {
        Self { port: port::free(None).unwrap(), folder: fresh_folder("smtp"), child: None }
    }

    /// A server that answers.
    pub(crate) async fn start() -> Self {
        let mut server = Self::reserved();
        server.go().await;
        server
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn go(&mut self) {
        let packages = blocking(|| PACKAGES.clone());
        let log = File::create(self.folder.join("log")).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HANDLER, &self.port.to_string()]).arg(&self.folder).env("PYTHONPATH", packages);
        self.child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let port = self.port;
        wait_until("the mail server", async || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the mail server ended with {status}: {}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
            }
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    /// For `CHANCERY_MAIL`.
    pub(crate) fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Everything it has accepted, in order.
    pub(crate) fn all(&self) -> Vec<Received> {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeMap<PathBuf, ()> =
            entries.filter(|path| path.extension().is_some_and(|kind| kind == "json")).map(|path| (path, ())).collect();
        files.keys().map(|path| Received(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())).collect()
    }

    /// What came for an address.
    pub(crate) fn to(&self, address: &str) -> Vec<Received> {
        self.all().into_iter().filter(|mail| mail.recipients() == [address]).collect()
    }

    /// Waits until so many came for an address.
    pub(crate) async fn received(&self, address: &str, number: usize) -> Vec<Received> {
        wait_until(&format!("mail {number} to {address}"), async || self.to(address).len() >= number).await;
        self.to(address)
    }

    /// Waits until the notifier has nothing to send any more: what could come twice has come twice by then.
    pub(crate) async fn quiet(&self, stack: &Stack) {
        super::followed(stack, chancery::role::Consumer::Notifications).await;
        let pending = "SELECT count(*) FROM notifications.ledger WHERE state = 'pending'";
        wait_until("no mail is pending", async || super::count(stack, pending).await == 0).await;
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
