//! Functions that panic, and events that end the process whenever they are tried: none of it stops a consumer for ever, or costs a neighbour.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_nats::jetstream::message::StreamMessage;
use runtime::{
    Failure,
    consume::{Durable, Event, Order, Transaction, consume, each, judge},
};
use subjects::{header, stream as names};

use super::{
    Tenant, count, dead_letters,
    in_order::{FOLLOWER, Follower, effect},
    rename, tenant,
};
use crate::harness::{Stack, wait_until};

/// A consumer without order whose deliveries come again soon.
const SHARED: Durable = Durable { name: "shared", order: Order::None, ack_wait: std::time::Duration::from_secs(1), ..FOLLOWER };
/// The name in the one event that is too much for the function.
const DEADLY: &str = "Deadly";

fn is_deadly(event: &Event) -> bool {
    event.envelope.data["changes"]["name"]["new"] == DEADLY
}

/// One crash makes an event a suspect, and one more, tried alone, condemns it.
async fn stack() -> Stack {
    let stack = Stack::builder().env("CHANCERY_CRASH_LIMIT", 1).env("CHANCERY_LEASE_MS", 1_000).start().await;
    stack.db().await.batch_execute("CREATE TABLE effects (n bigserial PRIMARY KEY, event_id uuid, aggregate text, sequence bigint)").await.unwrap();
    stack
}

/// The sick tenant's deadly event between some of its neighbours.
async fn history(stack: &Stack) -> Tenant {
    let (sick, healthy) = (tenant(stack).await, tenant(stack).await);
    rename(stack, &healthy, "Before").await;
    rename(stack, &sick, DEADLY).await;
    rename(stack, &healthy, "After").await;
    sick
}

async fn letter(stack: &Stack) -> (StreamMessage, String) {
    let letter = stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap().get_raw_message(1).await.unwrap();
    let reason = letter.headers.get(header::REASON).map(|value| value.as_str().to_owned()).unwrap();
    (letter, reason)
}

/// All events but so many have had their effect, each once.
async fn effective(stack: &Stack, but: i64) {
    let left = "SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects)";
    wait_until("its neighbours have their effect", async || count(stack, left).await == but).await;
    assert_eq!(count(stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0, "an event took effect twice");
}

/// The effect of the deadly event: it ends the thread that tries it, as an abort would end the process, after so many tries that only fail.
struct Deadly {
    tries: AtomicUsize,
    fail: usize,
    dead: AtomicBool,
}

impl Deadly {
    fn after(fail: usize) -> Arc<Self> {
        Arc::new(Self { tries: AtomicUsize::new(0), fail, dead: AtomicBool::new(false) })
    }

    async fn tried(&self) -> Result<(), Failure> {
        if self.tries.fetch_add(1, Ordering::SeqCst) < self.fail {
            return Err(Failure::retry("not yet"));
        }
        self.dead.store(true, Ordering::SeqCst);
        std::future::pending().await
    }

    /// Starts one owner after another until there is a letter; how many have died.
    async fn owners(&self, stack: &Stack, start: impl Fn() -> Follower) -> (usize, Follower) {
        let mut deaths = 0;
        loop {
            let owner = start();
            wait_until("it dies, or gives up", async || self.dead.load(Ordering::SeqCst) || dead_letters(stack).await > 0).await;
            if !self.dead.swap(false, Ordering::SeqCst) {
                return (deaths, owner);
            }
            drop(owner);
            deaths += 1;
            assert!(deaths <= 5, "nothing ends it");
        }
    }
}

/// An owner in order that dies at the deadly event.
fn in_order(stack: &Stack, deadly: &Arc<Deadly>) -> Follower {
    let deadly = deadly.clone();
    Follower::of(FOLLOWER, stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        if is_deadly(event) {
            deadly.tried().await?;
        }
        effect(transaction, event).await
    })
}

async fn is_condemned_in_order(deadly: Arc<Deadly>, after: usize) {
    let stack = stack().await;
    let sick = history(&stack).await;
    let (deaths, owner) = deadly.owners(&stack, || in_order(&stack, &deadly)).await;
    assert!(deaths >= after, "condemned after {deaths}, without having been tried alone");
    let (letter, reason) = letter(&stack).await;
    assert_eq!(reason, "condemned", "{letter:?}");
    assert!(String::from_utf8_lossy(&letter.payload).contains(DEADLY), "{letter:?}");
    rename(&stack, &sick, "Behind").await;
    effective(&stack, 2).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_suspects").await, 0, "a note stays");
    // Mended, and redriven: it has its turn, and what waited behind it.
    owner.end();
    let mended = Follower::of(FOLLOWER, stack.config(), effect);
    let letters = runtime::letters::Letters::open(&stack.config(), &stack.nats().await, "test").await.unwrap();
    letters.redrive(1, "test").await.unwrap();
    effective(&stack, 0).await;
    mended.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_every_owner_in_order_is_condemned_and_stops_only_its_aggregate() {
    is_condemned_in_order(Deadly::after(0), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_every_owner_once_it_waits_in_its_queue_is_condemned() {
    // Once with its neighbours, and then alone three times: what follows is in the queue, where each try is noted.
    is_condemned_in_order(Deadly::after(4), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_every_process_without_order_is_condemned_and_its_neighbours_are_handled() {
    let stack = stack().await;
    SHARED.provision(&stack.jetstream().await, &stack.config()).await.unwrap();
    history(&stack).await;
    let deadly = Deadly::after(0);
    let start = || {
        let (deadly, config) = (deadly.clone(), stack.config());
        let pool = runtime::store::pool(&config, "test").unwrap();
        let handler = each(async move |event: &Event| {
            if is_deadly(event) {
                deadly.tried().await?;
            }
            let client = pool.get().await.map_err(Failure::outage)?;
            let insert = "INSERT INTO effects (event_id) SELECT $1 WHERE NOT EXISTS (SELECT FROM effects WHERE event_id = $1)";
            client.execute(insert, &[&event.envelope.id.uuid()]).await.map(|_| ()).map_err(|error| judge(&error))
        });
        Follower::that(async move |stop| consume(SHARED, &config, stop, handler).await)
    };
    let (deaths, owner) = deadly.owners(&stack, start).await;
    assert!(deaths >= 2, "condemned after {deaths}, without having been tried alone");
    let (letter, reason) = letter(&stack).await;
    assert_eq!(reason, "condemned", "{letter:?}");
    effective(&stack, 1).await;
    wait_until("no note stays", async || count(&stack, "SELECT count(*) FROM consumer_suspects").await == 0).await;
    owner.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_panics_has_failed_and_goes_on() {
    let stack = stack().await;
    SHARED.provision(&stack.jetstream().await, &stack.config()).await.unwrap();
    history(&stack).await;
    let ordered = Follower::of(FOLLOWER, stack.config(), async |transaction: &Transaction<'_>, event: &Event| {
        effect(transaction, event).await?;
        assert!(!is_deadly(event), "this one is too much");
        Ok(())
    });
    wait_until("it is given up", async || dead_letters(&stack).await == 1).await;
    let (in_order, reason) = letter(&stack).await;
    assert_eq!(reason, "exhausted", "{in_order:?}");
    assert_eq!(in_order.headers.get(header::ERROR).map(|value| value.as_str()), Some("the function panicked: this one is too much"));
    effective(&stack, 1).await;
    ordered.end();

    let (config, handled) = (stack.config(), Arc::new(AtomicUsize::new(0)));
    let counted = handled.clone();
    let handler = each(async move |event: &Event| {
        assert!(!is_deadly(event), "this one is too much");
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let shared = Follower::that(async move |stop| consume(SHARED, &config, stop, handler).await);
    wait_until("it is given up here, too", async || dead_letters(&stack).await == 2).await;
    let all = usize::try_from(count(&stack, "SELECT count(*) FROM events").await).unwrap();
    // Neighbours may be handled again when a slice with them fails; none is left out.
    wait_until("its neighbours are handled", async || handled.load(Ordering::SeqCst) >= all - 1).await;
    shared.end();
}
