//! Load: many clients that repeat a request under its key until it is accepted, and remember every answer.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::{Value, json};
use subjects::stream as names;
use tokio::task::JoinSet;

use crate::harness::{Answer, Http, Stack, wait_until};

/// Requests on their way at the same time.
const CONCURRENCY: usize = 32;
/// How long one request may be repeated before a test gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries of the same request.
const PAUSE: Duration = Duration::from_millis(100);

/// How many commands a test of the whole sends: few by default, so that debug builds on two cores stay quick.
pub(super) fn commands(default: usize) -> usize {
    std::env::var("CHANCERY_TEST_COMMANDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A request and its last answer.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(super) path: String,
    pub(super) answer: Answer,
    /// How often it was sent.
    pub(super) tries: usize,
}

/// Somebody who can be told to send requests while the test does something else to the stack.
#[derive(Clone)]
pub(super) struct Client {
    http: Http,
    gateways: Vec<SocketAddr>,
    next: Arc<AtomicUsize>,
}

impl Client {
    pub(super) fn of(stack: &Stack) -> Self {
        Self { http: Http::new(), gateways: stack.gateways(), next: Arc::new(AtomicUsize::new(0)) }
    }

    /// One try; an error when no answer came.
    pub(super) async fn once(&self, method: Method, path: &str, token: &str, key: Option<&str>, body: &Value) -> Result<Answer, String> {
        let gateway = self.gateways[self.next.fetch_add(1, Ordering::Relaxed) % self.gateways.len()];
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        if !body.is_null() {
            headers.push(("content-type", "application/json"));
        }
        self.http.send(gateway, method, path, &headers, bytes).await
    }

    /// The same request under its key until it is accepted or refused.
    ///
    /// # Panics
    /// When that does not happen within two minutes.
    pub(super) async fn insist(&self, method: Method, path: &str, token: &str, key: &str, body: &Value) -> Said {
        let begin = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let last = match self.once(method.clone(), path, token, Some(key), body).await {
                // What a client may repeat: it was not accepted, or may not have been.
                Ok(answer) if matches!(answer.status, 408 | 429 | 503) => answer.text,
                Ok(answer) => return Said { path: path.to_owned(), answer, tries },
                Err(error) => error,
            };
            assert!(begin.elapsed() < PATIENCE, "{method} {path} is not accepted after {tries} tries: {last}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A tenant of the load.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(super) id: String,
    pub(super) owner: String,
}

/// Letters that no other call has given: slugs and addresses are unique on the platform.
pub(super) fn fresh(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The body that creates a tenant with room for many members.
pub(crate) fn tenant_body() -> Value {
    let slug = fresh("t");
    json!({ "slug": slug, "name": "Tenant", "plan": "enterprise", "owner": { "email": format!("{slug}@example.com"), "fullName": "Own Er" } })
}

/// The body that creates a person.
pub(super) fn person(number: usize) -> Value {
    json!({ "email": format!("{}@example.com", fresh("u")), "fullName": format!("Person {number}") })
}

/// Creates tenants, all at once; also gives the ids of the commands.
pub(crate) async fn tenants(stack: &Stack, count: usize) -> (Vec<Tenant>, BTreeSet<String>) {
    let (client, token) = (Client::of(stack), stack.operator_token());
    let mut all = JoinSet::new();
    for _ in 0..count {
        let (client, token) = (client.clone(), token.clone());
        all.spawn(async move { client.insist(Method::POST, "/v1/tenants", &token, &fresh("key"), &tenant_body()).await });
    }
    let answers: Vec<Answer> = all.join_all().await.into_iter().map(|said| said.answer.expect(201)).collect();
    let commands = answers.iter().map(|answer| answer.text_at("/commandId")).collect();
    let db = stack.db().await;
    let mut tenants = Vec::new();
    for answer in answers {
        let id = answer.text_at("/aggregateId");
        let uuid: subjects::TenantId = id.parse().unwrap();
        let row = db.query_one("SELECT id FROM aggregates WHERE tenant_id = $1 AND kind = 'membership'", &[&uuid.uuid()]).await.unwrap();
        tenants.push(Tenant { id, owner: subjects::UserId::new(row.get(0)).to_string() });
    }
    (tenants, commands)
}

/// Lets the server forget message ids at once: nothing may rest on its duplicate window, and it must not hide what we do twice.
pub(crate) async fn without_duplicate_window(stack: &Stack) {
    let jetstream = stack.jetstream().await;
    for name in [names::COMMANDS, names::EVENTS] {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        // The shortest there is.
        config.duplicate_window = Duration::from_millis(100);
        jetstream.update_stream(config).await.unwrap();
    }
}

struct Shared {
    said: Mutex<Vec<Said>>,
    begun: AtomicUsize,
    limit: AtomicUsize,
}

/// A running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

impl Load {
    /// Sends `count` commands to these tenants: people are created, and the tenant itself is renamed again and again.
    pub(super) fn start(stack: &Stack, tenants: &[Tenant], count: usize) -> Self {
        let (client, token) = (Client::of(stack), stack.operator_token());
        let shared = Arc::new(Shared { said: Mutex::default(), begun: AtomicUsize::new(0), limit: AtomicUsize::new(count) });
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (client, token, shared, tenants) = (client.clone(), token.clone(), shared.clone(), tenants.to_vec());
            workers.spawn(async move {
                loop {
                    let number = shared.begun.fetch_add(1, Ordering::SeqCst);
                    if number >= shared.limit.load(Ordering::SeqCst) {
                        return;
                    }
                    let said = one(&client, &token, &tenants[number % tenants.len()].id, number).await;
                    shared.said.lock().unwrap().push(said);
                }
            });
        }
        Self { shared, workers }
    }

    /// Goes on until [`Load::finish`] says that it is enough.
    pub(crate) fn endless(stack: &Stack, tenants: &[Tenant]) -> Self {
        Self::start(stack, tenants, usize::MAX)
    }

    /// How many were answered.
    pub(super) fn answered(&self) -> usize {
        self.shared.said.lock().unwrap().len()
    }

    /// Waits until at least so many were answered.
    pub(super) async fn reached(&self, count: usize) {
        wait_until(&format!("{count} answers to the load"), async || self.answered() >= count).await;
    }

    /// Waits until `more` are answered than now.
    pub(crate) async fn goes_on(&self, more: usize) {
        self.reached(self.answered() + more).await;
    }

    /// Lets an endless load come to its end and gives every answer; the others are waited for.
    ///
    /// # Panics
    /// When a command was neither accepted nor in time.
    pub(crate) async fn finish(self) -> Vec<Said> {
        self.shared.limit.compare_exchange(usize::MAX, 0, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_default();
        self.workers.join_all().await;
        std::mem::take(&mut *self.shared.said.lock().unwrap())
    }
}

async fn one(client: &Client, token: &str, tenant: &str, number: usize) -> Said {
    let key = fresh("key");
    if number.is_multiple_of(3) {
        return client.insist(Method::PATCH, &format!("/v1/tenants/{tenant}"), token, &key, &json!({ "name": format!("Name {number}") })).await;
    }
    let mut body = person(number);
    if number % 3 == 1 {
        body["role"] = "member".into();
    }
    client.insist(Method::POST, &format!("/v1/tenants/{tenant}/users"), token, &key, &body).await
}

/// The ids of the accepted commands.
///
/// # Panics
/// When an answer is neither a success nor "accepted, not decided yet": nothing in this load can be refused.
pub(crate) fn accepted(said: &[Said]) -> BTreeSet<String> {
    let ids: BTreeSet<String> = said
        .iter()
        .map(|said| {
            assert!(matches!(said.answer.status, 200..=202), "{} after {} tries: {} {}", said.path, said.tries, said.answer.status, said.answer.text);
            said.answer.text_at("/commandId")
        })
        .collect();
    assert_eq!(ids.len(), said.len(), "two requests share a command");
    ids
}
