//! What a stack is made of, and what its processes are told.

use std::{collections::BTreeMap, net::SocketAddr, sync::LazyLock};

use chancery::{
    chaos::proxy::Proxy,
    manifest::Manifest,
    privilege::nats::User,
    role::{Consumer, Role},
    servers::nats,
    token,
};

use super::{http::Http, process::Process, servers, stack::Stack, wait::blocking};

/// The keys of all tests: private and public.
pub(super) static KEYS: LazyLock<(String, String)> = LazyLock::new(|| token::keygen().unwrap());
/// The key of mailed tokens and of fingerprints.
const LINK_KEY: &str = "a key of thirty-two characters!!";

/// What a stack consists of; see the methods.
pub(crate) struct Builder {
    gateways: usize,
    workers: usize,
    consumers: Vec<Consumer>,
    environment: BTreeMap<String, String>,
    own_postgres: bool,
    proxied_postgres: bool,
    proxied_nats: bool,
    sync: nats::Sync,
    manifest: &'static Manifest,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            gateways: 1,
            workers: 1,
            consumers: Vec::new(),
            environment: BTreeMap::new(),
            own_postgres: false,
            proxied_postgres: false,
            proxied_nats: false,
            sync: nats::Sync::Default,
            manifest: Manifest::with_examples(),
        }
    }

    /// How many gateways; one unless said otherwise.
    pub(crate) fn gateways(mut self, number: usize) -> Self {
        self.gateways = number;
        self
    }

    /// How many workers; one unless said otherwise.
    pub(crate) fn workers(mut self, number: usize) -> Self {
        self.workers = number;
        self
    }

    /// Which consumers; none unless said.
    pub(crate) fn consumers(mut self, consumers: &[Consumer]) -> Self {
        self.consumers = consumers.to_vec();
        self
    }

    /// A variable for every role.
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.into(), value.to_string());
        self
    }

    /// Answers wait for the outcome, however slow the machine.
    pub(crate) fn patient(self) -> Self {
        self.env("CHANCERY_WAIT_MS", 60_000).env("CHANCERY_REQUEST_TIMEOUT_MS", 90_000)
    }

    /// A PostgreSQL of its own, for tests that kill it.
    pub(crate) fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// The workers (not the others) reach PostgreSQL through [`Stack::postgres_proxy`].
    pub(crate) fn proxied_postgres(mut self) -> Self {
        self.proxied_postgres = true;
        self
    }

    /// The workers (not the others) reach NATS through [`Stack::nats_proxy`].
    pub(crate) fn proxied_nats(mut self) -> Self {
        self.proxied_nats = true;
        self
    }

    /// When nats-server calls `fsync`; by its own default unless said otherwise.
    pub(crate) fn sync(mut self, sync: nats::Sync) -> Self {
        self.sync = sync;
        self
    }

    /// Whose users nats-server has; ours and the examples' unless said otherwise.
    pub(crate) fn manifest(mut self, manifest: &'static Manifest) -> Self {
        self.manifest = manifest;
        self
    }

    /// Starts everything and waits until all of it is ready.
    pub(crate) async fn start(self) -> Stack {
        let (nats, own, database) = blocking(|| {
            let own = self.own_postgres.then(servers::start_postgres);
            let database = servers::fresh_database(own.as_ref().unwrap_or_else(|| servers::shared_postgres()));
            (servers::start_nats(self.sync, self.manifest), own, database)
        });
        let postgres_port = own.as_ref().unwrap_or_else(|| servers::shared_postgres()).port();
        let postgres_proxy = if self.proxied_postgres { Some(in_front_of(postgres_port).await) } else { None };
        let nats_proxy = if self.proxied_nats { Some(in_front_of(nats.port()).await) } else { None };
        let folder = servers::fresh_folder("stack");
        std::fs::create_dir_all(folder.join("mail")).unwrap();
        let mut stack = Stack {
            processes: Vec::new(),
            environment: self.environment,
            postgres_proxy,
            nats_proxy,
            database,
            nats,
            own,
            folder,
            http: Http::new(),
            next_gateway: std::sync::atomic::AtomicUsize::new(0),
        };
        blocking(|| stack.provision());
        for number in 1..=self.gateways {
            stack.add(&numbered("gateway", number), Role::Gateway, &[]);
        }
        for number in 1..=self.workers {
            stack.add(&numbered("worker", number), Role::Worker, &[]);
        }
        for consumer in self.consumers {
            stack.add(consumer.name(), Role::Consumer(consumer), &[]);
        }
        blocking(|| stack.processes.iter_mut().for_each(Process::start));
        blocking(|| stack.processes.iter_mut().for_each(Process::wait_ready));
        stack
    }
}

/// A proxy in front of a port on loopback.
async fn in_front_of(port: u16) -> Proxy {
    Proxy::start(Some(SocketAddr::from(([127, 0, 0, 1], port)))).await.unwrap()
}

fn numbered(name: &str, number: usize) -> String {
    if name == "gateway" && number == 1 { name.into() } else { format!("{name}-{number}") }
}

/// What a process of this stack reads: defaults that suit tests, then the stack's variables, then its own.
pub(super) fn environment(stack: &Stack, name: &str, role: Role, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let worker = role == Role::Worker;
    let through = |proxy: &Option<Proxy>, url: String, port: u16| match proxy {
        Some(proxy) if worker => url.replace(&format!(":{port}"), &format!(":{}", proxy.port())),
        _ => url,
    };
    let database = stack.postgres().url_as(role.database_role(), servers::PASSWORD, &stack.database);
    let mut environment: BTreeMap<String, String> = [
        ("DATABASE_URL", through(&stack.postgres_proxy, database, stack.postgres().port())),
        ("CHANCERY_NATS_URL", through(&stack.nats_proxy, stack.nats.url_as(User::of(role)), stack.nats.port())),
        ("CHANCERY_DATABASE_POOL", "6".into()),
        ("CHANCERY_LEASE_MS", "1500".into()),
        ("CHANCERY_RATE_PER_SECOND", "0".into()),
        ("CHANCERY_PUBLIC_RATE_PER_MINUTE", "100000".into()),
        ("CHANCERY_WORKER_ID", name.into()),
        ("CHANCERY_LOG", "info".into()),
        ("CHANCERY_DATA", stack.folder.display().to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let mut put = |name: &str, value: &str| drop(environment.insert(name.into(), value.into()));
    if role == Role::Gateway {
        put("CHANCERY_TOKEN_PUBLIC_KEY", &KEYS.1);
        put("CHANCERY_TOKEN_PRIVATE_KEY", &KEYS.0);
        put("CHANCERY_FINGERPRINT_KEY", LINK_KEY);
    }
    if role == Role::Gateway || role == Role::Consumer(Consumer::Notifications) {
        put("CHANCERY_LINK_KEY", LINK_KEY);
    }
    if role == Role::Consumer(Consumer::Notifications) {
        put("CHANCERY_MAIL", &format!("file://{}", stack.folder.join("mail").display()));
    }
    stack.environment.iter().for_each(|(name, value)| put(name, value));
    more.iter().for_each(|(name, value)| put(name, value));
    environment
}
