//! A stack for one test.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chancery::{
    chaos::{proxy::Proxy, reach::Part},
    connect,
    manifest::Manifest,
    privilege::nats::User,
    provision,
    role::Role,
    servers::{nats::Nats, port, postgres::Postgres},
    token::{self, Claims},
};
use hyper::Method;
use nix::sys::signal::Signal;
use runtime::{Config, config::Secret};
use serde_json::Value;

use super::{
    builder::{self, Builder},
    http::{Answer, Http},
    process::Process,
    servers,
    wait::blocking,
};

/// A running stack. Ends with the test; prints its logs when the test fails.
pub(crate) struct Stack {
    pub(super) processes: Vec<Process>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) postgres_proxy: Option<Proxy>,
    pub(super) nats_proxy: Option<Proxy>,
    pub(super) database: String,
    pub(crate) nats: Nats,
    pub(super) own: Option<Postgres>,
    pub(super) folder: PathBuf,
    pub(super) http: Http,
    pub(super) next_gateway: std::sync::atomic::AtomicUsize,
}

impl Stack {
    /// One gateway and one worker, until the builder says otherwise.
    pub(crate) fn builder() -> Builder {
        Builder::new()
    }

    // ---- what it looks like from outside

    /// Where the first gateway listens.
    pub(crate) fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway())
    }

    /// Where the gateways listen, for a client that goes on while the test does something to the stack.
    pub(crate) fn gateways(&self) -> Vec<SocketAddr> {
        self.processes.iter().filter(|process| process.role == Role::Gateway).map(|process| process.address).collect()
    }

    /// A gateway, each in turn.
    fn gateway(&self) -> SocketAddr {
        let all = self.gateways();
        all[self.next_gateway.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % all.len()]
    }

    /// A token for a user or service of a tenant.
    pub(crate) fn token(&self, subject: &str, tenant: &str, scope: &str) -> String {
        token::mint(&builder::KEYS.0, &Claims::new(subject, tenant, scope, Duration::from_secs(3600))).unwrap()
    }

    /// The same for a lifetime of its own.
    pub(crate) fn short_token(&self, subject: &str, tenant: &str, lifetime: Duration) -> String {
        token::mint(&builder::KEYS.0, &Claims::new(subject, tenant, "", lifetime)).unwrap()
    }

    /// The key that signs tokens of this stack.
    pub(crate) fn private_key(&self) -> &'static str {
        &builder::KEYS.0
    }

    /// A platform operator's token.
    pub(crate) fn operator_token(&self) -> String {
        self.token("svc_01890a5d-ac96-774b-bcce-b302099a8057", "platform", "operator")
    }

    /// A request with everything that can be said; an error means that no answer came.
    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, String> {
        self.http.send(self.gateway(), method, path, headers, body).await
    }

    /// A request with a token, a JSON body (null for none) and more headers.
    ///
    /// # Panics
    /// When no answer comes.
    pub(crate) async fn call(&self, method: Method, path: &str, token: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str())];
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        if !body.is_null() {
            all.push(("content-type", "application/json"));
        }
        all.extend_from_slice(headers);
        self.send(method, path, &all, bytes).await.unwrap()
    }

    /// A POST with a JSON body.
    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, token, &[], body).await
    }

    /// A GET.
    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.call(Method::GET, path, token, &[], &Value::Null).await
    }

    // ---- what it looks like from inside

    /// A superuser's connection to the test's database.
    pub(crate) async fn db(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.database_url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The database as a role sees it, through a proxy of its own that passes everything on until it is told otherwise.
    pub(crate) async fn proxied(&self, role: Role) -> (String, Proxy) {
        let port = self.postgres().port();
        let proxy = Proxy::start(Some(SocketAddr::from(([127, 0, 0, 1], port)))).await.unwrap();
        let url = self.postgres().url_as(role.database_role(), servers::PASSWORD, &self.database);
        (url.replace(&format!(":{port}"), &format!(":{}", proxy.port())), proxy)
    }

    /// How a superuser reaches the test's database.
    pub(crate) fn database_url(&self) -> String {
        self.postgres().url(&self.database)
    }

    /// A connection to the test's nats-server with every right.
    pub(crate) async fn nats(&self) -> async_nats::Client {
        connect::nats(&self.nats.url(), "test").await.unwrap()
    }

    /// JetStream of the test's nats-server.
    pub(crate) async fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.nats().await)
    }

    /// A configuration as a role of this stack would read it, with a superuser's database.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::from_lookup(&|name| self.environment.get(name).cloned()).unwrap();
        config.nats_url = Secret::new(self.nats.url());
        config.database_url = Secret::new(self.database_url());
        config
    }

    /// Makes the streams, the bucket and the durables that are missing, as `chancery provision` does it.
    pub(crate) fn provision(&self) -> provision::Made {
        let mut config = self.config();
        config.nats_url = Secret::new(self.nats.url_as(User::Provisioner));
        provision::run(&config).unwrap()
    }

    /// Makes the durables of the examples, too, as `up` does it.
    pub(crate) fn provision_sample(&self) {
        let mut config = self.config();
        config.nats_url = Secret::new(self.nats.url_as(User::Provisioner));
        blocking(|| provision::with(&config, Manifest::with_examples())).unwrap();
    }

    /// Where mail lands when the notifier runs.
    pub(crate) fn mail_folder(&self) -> PathBuf {
        self.folder.join("mail")
    }

    /// The processes as `chancery chaos` looks at them, and the monitoring port of nats-server.
    pub(crate) fn parts(&self) -> (Vec<Part>, SocketAddr) {
        (self.processes.iter().map(Process::part).collect(), self.nats.monitor())
    }

    /// Everything that a process has written.
    pub(crate) fn log(&self, name: &str) -> String {
        self.processes.iter().find(|process| process.name == name).expect("no process of that name").text()
    }

    /// What a process tells Prometheus.
    pub(crate) fn metrics(&self, name: &str) -> String {
        let process = self.processes.iter().find(|process| process.name == name).expect("no process of that name");
        let (status, text) = blocking(|| port::get(process.address, "/metrics", Duration::from_secs(5)).unwrap());
        assert_eq!(status, 200, "{text}");
        text
    }

    // ---- faults

    /// A process by its name: `gateway`, `gateway-2`, `worker-1`, `audit` …
    pub(crate) fn process(&mut self, name: &str) -> &mut Process {
        let known: Vec<String> = self.processes.iter().map(|process| process.name.clone()).collect();
        let found = self.processes.iter_mut().find(|process| process.name == name);
        found.unwrap_or_else(|| panic!("no process {name} among {}", known.join(", ")))
    }

    /// Kills a process with -9 and waits until it is gone.
    pub(crate) fn kill9(&mut self, name: &str) {
        self.process(name).kill9();
    }

    /// Freezes a process (SIGSTOP).
    pub(crate) fn freeze(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGSTOP);
    }

    /// Lets a frozen process go on (SIGCONT).
    pub(crate) fn thaw(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGCONT);
    }

    /// Asks a process to drain and waits; true when it ended by itself, with success.
    pub(crate) fn stop(&mut self, name: &str) -> bool {
        self.process(name).stop()
    }

    /// Starts a process again that has ended, with more variables, and waits until it is ready.
    pub(crate) fn start_again(&mut self, name: &str, environment: &[(&str, &str)]) {
        let process = self.process(name);
        environment.iter().for_each(|(name, value)| process.set(name, value));
        process.start();
        blocking(|| process.wait_ready());
    }

    /// Starts one more process, with more variables, and waits until it is ready.
    pub(crate) fn start_another(&mut self, name: &str, role: Role, environment: &[(&str, &str)]) {
        self.add(name, role, environment);
        let process = self.process(name);
        process.start();
        blocking(|| process.wait_ready());
    }

    /// Adds a process that is not started yet, with more variables.
    pub(crate) fn add_unstarted(&mut self, name: &str, role: Role, environment: &[(&str, &str)]) {
        self.add(name, role, environment);
    }

    /// Kills nats-server with -9.
    pub(crate) fn kill_nats(&mut self) {
        blocking(|| self.nats.kill9().unwrap());
    }

    /// Starts nats-server again on the same data and port, after a kill or in order.
    pub(crate) fn restart_nats(&mut self) {
        blocking(|| {
            if self.nats.child().exited().is_none() {
                self.nats.stop();
            }
            self.nats.restart().unwrap();
        });
    }

    /// Kills PostgreSQL with -9; it must be the stack's own.
    pub(crate) fn kill_postgres(&mut self) {
        let own = self.own.as_mut().expect("build the stack with own_postgres()");
        blocking(|| own.kill9().unwrap());
    }

    /// Starts the stack's own PostgreSQL again on the same data and port, after a kill or in order.
    pub(crate) fn restart_postgres(&mut self) {
        let own = self.own.as_mut().expect("build the stack with own_postgres()");
        blocking(|| {
            if own.child().exited().is_none() {
                own.stop();
            }
            own.restart().unwrap();
        });
    }

    /// Copies the files of the stack's own PostgreSQL while it is down, as a backup does.
    pub(crate) fn back_up_postgres(&mut self) -> PathBuf {
        let own = self.own.as_mut().expect("build the stack with own_postgres()");
        blocking(|| {
            own.stop();
            let copy = own.data().with_extension("copy");
            let done = std::process::Command::new("cp").arg("-a").args([&own.data(), &copy]).status().unwrap();
            assert!(done.success());
            own.restart().unwrap();
            copy
        })
    }

    /// Puts such a copy in the place of the files, and starts PostgreSQL on it.
    pub(crate) fn restore_postgres(&mut self, copy: &Path) {
        let own = self.own.as_mut().expect("build the stack with own_postgres()");
        blocking(|| {
            own.stop();
            std::fs::remove_dir_all(own.data()).unwrap();
            std::fs::rename(copy, own.data()).unwrap();
            own.restart().unwrap();
        });
    }

    /// What `/readyz` of a process says.
    pub(crate) fn readiness(&mut self, name: &str) -> String {
        let address = self.process(name).part().admin.expect("a process has an address");
        port::get(address, "/readyz", Duration::from_secs(2)).map(|(_, body)| body).unwrap_or_default()
    }

    /// The proxy between workers and PostgreSQL.
    pub(crate) fn postgres_proxy(&self) -> &Proxy {
        self.postgres_proxy.as_ref().expect("build the stack with proxied_postgres()")
    }

    /// The proxy between workers and NATS.
    pub(crate) fn nats_proxy(&self) -> &Proxy {
        self.nats_proxy.as_ref().expect("build the stack with proxied_nats()")
    }

    pub(super) fn postgres(&self) -> &Postgres {
        self.own.as_ref().unwrap_or_else(|| servers::shared_postgres())
    }

    /// Adds a process that is not started yet.
    pub(super) fn add(&mut self, name: &str, role: Role, more: &[(&str, &str)]) {
        let environment = builder::environment(self, name, role, more);
        self.processes.push(Process::new(name.into(), role, environment, &self.folder));
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let begin = Instant::now();
        if std::thread::panicking() {
            for process in &self.processes {
                eprintln!("---- the log of {} ends with\n{}", process.name, process.tail(40));
            }
        }
        self.processes.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
        if begin.elapsed() > Duration::from_secs(5) {
            eprintln!("the end of the stack took {:?}", begin.elapsed());
        }
    }
}
