//! The load: many clients over many tenants, by a clock and not by answers, every wish followed to a known end.

mod client;
mod follow;
mod kinds;
mod learn;
mod mix;
mod pursue;
#[cfg(feature = "planted")]
pub mod script;
mod world;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rand::{SeedableRng as _, rngs::StdRng};
use runtime::{Stop, config::Secret};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::{
    history::{History, What},
    reach::Reach,
};
use crate::token::{self, Claims};
use client::Client;
use follow::{Follower, follow};
use kinds::Kinds;
use mix::{Mix, Wanted};
use world::World;

/// How long the tokens of the load are valid; no run is longer.
const TOKENS: Duration = Duration::from_secs(24 * 3600);
/// The operator who makes tenants.
const OPERATOR: &str = "svc_01890a5d-ac96-774b-bcce-b302099a8057";
/// Tenants whose events somebody follows.
const FOLLOWED: usize = 3;
/// Tenants with somebody whose name many change and read at once.
const WITH_REGISTER: usize = 4;
/// How long the first tenants may take altogether.
const BEGINNING: Duration = Duration::from_secs(60);

/// How often it is looked whether they were.
const LOOK: Duration = Duration::from_millis(50);

/// What the load is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Arrivals in a second, whatever is answered.
    pub rate_per_second: f64,
    /// Clients, each with connections of its own.
    pub clients: usize,
    /// Tenants made at the beginning; a few more are made on the way.
    pub tenants: usize,
    /// The seed of every choice.
    pub seed: u64,
    /// Requests under way at the same time; an arrival beyond it is recorded as shed.
    pub in_flight: usize,
    /// How long a client asks for the outcome of one wish before it gives up and records `Unknown`, and how long followers may take to be
    /// sent the last event when the load has ended.
    pub patience: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { rate_per_second: 40.0, clients: 16, tenants: 12, seed: 1, in_flight: 512, patience: Duration::from_secs(120) }
    }
}

/// What every task of the load shares.
#[derive(Debug)]
struct Shared {
    history: History,
    world: Arc<World>,
    clients: Vec<Arc<Client>>,
    mix: Mutex<Mix>,
    private_key: Secret,
    operator: String,
    patience: Duration,
}

impl Shared {
    /// A token for somebody of a tenant.
    fn token(&self, subject: &str, tenant: &str) -> anyhow::Result<String> {
        token::mint(self.private_key.expose(), &Claims::new(subject, tenant, "", TOKENS))
    }

    fn mix<T>(&self, ask: impl FnOnce(&mut Mix) -> T) -> T {
        ask(&mut self.mix.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    /// No more arrivals.
    enough: Stop,
    /// No more following.
    leave: Stop,
    arrivals: JoinHandle<JoinSet<()>>,
    followers: JoinSet<()>,
    followed: Vec<Follower>,
    database: Secret,
}

impl Load {
    /// Makes the first tenants and their people, then lets arrivals come until [`Load::stop`].
    ///
    /// # Errors
    /// The first tenants cannot be made in a minute, or the key signs no tokens.
    pub async fn start(reach: &Reach, history: &History, options: LoadOptions) -> anyhow::Result<Self> {
        if reach.gateways.is_empty() || options.tenants < 2 || options.clients == 0 {
            bail!("a load needs a gateway, a client and two tenants");
        }
        let operator = token::mint(reach.token_private_key.expose(), &Claims::new(OPERATOR, "platform", "operator", TOKENS))?;
        // Not of the seed: the same seed may run again on the same data.
        let run = format!("{:08x}", rand::random::<u32>());
        let shared = Arc::new(Shared {
            history: history.clone(),
            world: Arc::default(),
            clients: (0..options.clients).map(|number| Arc::new(Client::new(reach.gateways.clone(), number, history.clone()))).collect(),
            mix: Mutex::new(Mix::new(StdRng::seed_from_u64(options.seed), run, operator.clone())),
            private_key: reach.token_private_key.clone(),
            operator,
            patience: options.patience,
        });
        begin(&shared, options.tenants).await?;
        let (enough, leave) = (Stop::new(), Stop::new());
        let mut followers = JoinSet::new();
        let followed: Vec<Follower> = {
            let tenants = shared.world.tenants();
            let follower = |(number, tenant): (usize, &world::Tenant)| Follower {
                number,
                tenant: tenant.id,
                token: tenant.token.clone(),
                reached: Arc::default(),
            };
            tenants.iter().take(FOLLOWED).enumerate().map(follower).collect()
        };
        for follower in followed.iter().cloned() {
            let client = shared.clients[follower.number % shared.clients.len()].clone();
            followers.spawn(follow(follower, client, shared.world.clone(), history.clone(), leave.clone()));
        }
        let arrivals = tokio::spawn(arrive(shared.clone(), options, enough.clone()));
        Ok(Self { shared, enough, leave, arrivals, followers, followed, database: reach.database_url.clone() })
    }

    /// Lets no more arrive and waits until every wish has its end; each ends by itself when its client's patience is over.
    ///
    /// # Errors
    /// A task of the load panicked.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.enough.cancel();
        let mut running = (&mut self.arrivals).await.context("the arrivals of the load")?;
        while let Some(ended) = running.join_next().await {
            ended.context("a client of the load")?;
        }
        // Whoever is not sent the rest shows in the verdict: the wait only keeps it from being cut off.
        let _ = tokio::time::timeout(self.shared.patience, self.followed_to_the_end()).await;
        Ok(())
    }

    /// Waits until every follower was sent the last event of its tenant.
    async fn followed_to_the_end(&self) -> anyhow::Result<()> {
        let (client, connection) = tokio_postgres::connect(self.database.expose(), tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        for follower in &self.followed {
            let row = client.query_one("SELECT coalesce(max(sequence), 0) FROM events WHERE tenant_id = $1", &[&follower.tenant]).await?;
            let last = u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
            while follower.reached.load(Ordering::Relaxed) < last {
                tokio::time::sleep(LOOK).await;
            }
        }
        connection.abort();
        Ok(())
    }

    /// How many tenants there are by now.
    pub fn tenants(&self) -> usize {
        self.shared.world.tenants().len()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.enough.cancel();
        self.leave.cancel();
        self.arrivals.abort();
        self.followers.abort_all();
    }
}

/// The first tenants, all at once, each with two people.
async fn begin(shared: &Arc<Shared>, count: usize) -> anyhow::Result<()> {
    let mut making = JoinSet::new();
    for number in 0..count {
        let shared = shared.clone();
        making.spawn(async move {
            let wanted = shared.mix(|mix| mix.tenant(&world::marker()));
            let client = shared.clients[number % shared.clients.len()].clone();
            carry_out(&shared, &client, wanted, None).await;
        });
    }
    let all = async { while making.join_next().await.is_some() {} };
    tokio::time::timeout(BEGINNING, all).await.context("the first tenants were not made in time")?;
    let tenants = shared.world.tenants().clone();
    if tenants.len() < count {
        bail!("of {count} first tenants {} were made: see the history", tenants.len());
    }
    let people = tenants.iter().take(WITH_REGISTER).filter_map(|tenant| shared.mix(|mix| mix.hot(tenant)));
    let all = people.zip(shared.clients.iter().cycle()).map(|(wanted, client)| carry_out(shared, client, wanted, None));
    tokio::time::timeout(BEGINNING, futures_util::future::join_all(all)).await.context("the first people were not made in time")?;
    Ok(())
}

/// Arrivals by the clock. Gives those that are under way in the end.
async fn arrive(shared: Arc<Shared>, options: LoadOptions, enough: Stop) -> JoinSet<()> {
    let begin = Instant::now();
    let permits = Arc::new(Semaphore::new(options.in_flight));
    let mut running = JoinSet::new();
    for number in 0_u64.. {
        let due = begin + Duration::from_secs_f64(number as f64 / options.rate_per_second.max(0.1));
        tokio::select! {
            biased;
            () = enough.cancelled() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        while running.try_join_next().is_some() {}
        let at = shared.history.at(due);
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            shared.history.add(What::Shed { due: at });
            continue;
        };
        let place = usize::try_from(number).unwrap_or(usize::MAX) % shared.clients.len();
        let Some(wanted) = shared.mix(|mix| mix.next(&shared.world, place)) else { continue };
        let (shared, client) = (shared.clone(), shared.clients[place].clone());
        running.spawn(async move {
            carry_out(&shared, &client, wanted, Some(at)).await;
            drop(permit);
        });
    }
    running
}

/// One wish to its end, what is learnt of it, and what is asked afterwards.
async fn carry_out(shared: &Shared, client: &Client, wanted: Wanted, due: Option<u64>) {
    let history = &shared.history;
    if let (Kinds::ReadHot, Some(tenant), Some(user)) = (wanted.kind, wanted.tenant, wanted.wish.request.register) {
        return learn::read_register(shared, client, tenant, user).await;
    }
    let op = history.invoke(due.unwrap_or_else(|| history.now()), wanted.wish.request.clone());
    let ended = pursue::pursue(client, history, op, &wanted.wish, shared.patience).await;
    learn::strangers(shared, &wanted, &ended.said.text);
    learn::learn(shared, client, &wanted, op, &ended).await;
    if matches!(ended.end, super::history::End::Unknown) || !shared.mix(Mix::asks_once_more) {
        return;
    }
    let Some(again) = shared.mix(|mix| mix.once_more(&wanted, op)) else { return };
    let op = history.invoke(history.now(), again.request.clone());
    let ended = pursue::pursue(client, history, op, &again, shared.patience).await;
    learn::strangers(shared, &wanted, &ended.said.text);
}
