//! Where the thing under test is reached, whatever it runs on.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use runtime::config::Secret;

/// Every door of the thing under test. Rights are those of an operator: the checkers look at everything.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Where the gateways listen, reached past all faults of the network between gateway and the rest.
    pub gateways: Vec<SocketAddr>,
    /// The database with a superuser's rights.
    pub database_url: Secret,
    /// JetStream with an operator's rights.
    pub nats: NatsReach,
    /// Signs access tokens: Ed25519, PKCS#8 PEM.
    pub token_private_key: Secret,
    /// The folder where the notifier leaves mails, when it has one.
    pub mail: Option<PathBuf>,
    /// The processes, asked anew each time: a restart changes them.
    pub parts: Parts,
}

/// How NATS is reached.
#[derive(Debug, Clone)]
pub struct NatsReach {
    /// Servers, separated by commas; an address may carry user and password.
    pub urls: Secret,
    /// The user, where no address carries one.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The certificate that signed the servers' (PEM).
    pub ca: Option<PathBuf>,
    /// The monitoring port of every node (`/jsz`), by the node's name.
    pub monitors: Vec<(String, SocketAddr)>,
}

/// A process of the thing under test, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `worker-1`, `audit`, `nats-2` …
    pub name: String,
    /// Where `/metrics` is answered; a gateway's own address for a gateway, none for a server.
    pub admin: Option<SocketAddr>,
    /// The process, where it is one of this machine.
    pub pid: Option<u32>,
    /// What it writes, where that is a file.
    pub log: Option<PathBuf>,
}

/// Asks which processes there are.
#[derive(Clone)]
pub struct Parts(Arc<dyn Fn() -> Vec<Part> + Send + Sync>);

impl Parts {
    /// Answers with what the function says.
    pub fn new(ask: impl Fn() -> Vec<Part> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// The processes now; may block for a moment.
    pub fn now(&self) -> Vec<Part> {
        (self.0)()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}
