//! A consumer that asks for order: each event of an aggregate takes effect once and in its turn, whoever owns the consumer, whatever
//! fails, and whatever the stream has forgotten.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use async_nats::jetstream;
use chancery::role::Consumer;
use runtime::{
    Config, Failure, StartError, Stop,
    consume::{Durable, Event, Order, Start, Transaction, consume_in_order, judge},
};
use serde_json::Value;
use subjects::{header, stream as names};

use super::{Tenant, address, audited, count, invite, rename, tenant};
use crate::harness::{Stack, wait_until};

pub(crate) const FOLLOWER: Durable = Durable {
    name: "follower",
    stream: names::EVENTS,
    filters: &[names::ALL_EVENTS],
    order: Order::Aggregate,
    start: Start::All,
    ack_wait: Duration::from_secs(10),
    max_deliver: 3,
    max_ack_pending: 256,
    batch: 16,
    backoff: &[Duration::from_millis(50)],
};

/// A consumer in a thread of its own. Dropped, it ends as a crash would: in the middle of whatever it does.
pub(crate) struct Follower {
    stop: Stop,
    kill: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    fn start<H>(config: Config, handler: H) -> Self
    where
        H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure> + Send + 'static,
    {
        Self::of(FOLLOWER, config, handler)
    }

    pub(crate) fn of<H>(durable: Durable, config: Config, handler: H) -> Self
    where
        H: AsyncFn(&Transaction<'_>, &Event) -> Result<(), Failure> + Send + 'static,
    {
        Self::that(async move |stop| consume_in_order(durable, &config, stop, handler).await)
    }

    pub(crate) fn that(follows: impl AsyncFnOnce(Stop) -> Result<(), StartError> + Send + 'static) -> Self {
        let (stop, kill) = (Stop::new(), Stop::new());
        let (stopped, killed) = (stop.clone(), kill.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = killed.cancelled() => {}
                    ended = follows(stopped) => ended.unwrap(),
                }
            });
        });
        Self { stop, kill, thread: Some(thread) }
    }

    pub(crate) fn end(mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.kill.cancel();
        if let Some(thread) = self.thread.take() {
            // What it says of its end is the test's failure already.
            let _ = thread.join();
        }
    }
}

/// One effect a call; the table does not mind a repeat, so that one would show.
pub(crate) async fn effect(transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
    let envelope = &event.envelope;
    let sequence = i64::try_from(envelope.sequence).unwrap();
    let insert = "INSERT INTO effects (event_id, aggregate, sequence) VALUES ($1, $2, $3)";
    let aggregate = format!("{}/{}/{}", envelope.tenant_id, envelope.aggregate, envelope.aggregate_id);
    let statement = transaction.prepare_cached(insert).await.map_err(|error| judge(&error))?;
    transaction.execute(&statement, &[&envelope.id.uuid(), &aggregate, &sequence]).await.map(|_| ()).map_err(|error| judge(&error))
}

pub(crate) async fn stack_with_effects(consumers: &[Consumer]) -> Stack {
    // The stream forgets, though not as long as a test lasts.
    let stack = Stack::builder().consumers(consumers).env("CHANCERY_EVENTS_MAX_AGE_S", 3_600).start().await;
    stack.db().await.batch_execute("CREATE TABLE effects (n bigserial PRIMARY KEY, event_id uuid, aggregate text, sequence bigint)").await.unwrap();
    stack
}

/// So many tenants with an event each and one more round of events for every one of them.
async fn history(stack: &Stack, tenants: usize) -> Vec<Tenant> {
    let mut made = Vec::new();
    for _ in 0..tenants {
        made.push(tenant(stack).await);
    }
    more(stack, &made, "again").await;
    made
}

async fn more(stack: &Stack, tenants: &[Tenant], name: &str) {
    for tenant in tenants {
        rename(stack, tenant, name).await;
        invite(stack, tenant, &address("guest")).await;
        rename(stack, tenant, &format!("{name} and again")).await;
    }
}

async fn published(stack: &Stack) {
    wait_until("everything is published", async || count(stack, "SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await == 0).await;
}

async fn effective(stack: &Stack) {
    wait_until("every event has its effect", async || {
        count(stack, "SELECT (SELECT count(*) FROM events) - (SELECT count(DISTINCT event_id) FROM effects)").await == 0
    })
    .await;
    assert_eq!(count(stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0, "an event took effect twice");
    let disorder =
        "SELECT count(*) FROM (SELECT sequence < lag(sequence) OVER (PARTITION BY aggregate ORDER BY n) AS back FROM effects) e WHERE back";
    assert_eq!(count(stack, disorder).await, 0, "an aggregate's events took effect out of order");
}

/// The stream forgets everything it has, as it does when its age limit has passed.
pub(crate) async fn forget(stack: &Stack) {
    published(stack).await;
    let jetstream = stack.jetstream().await;
    let before = jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().config.clone();
    let short = Duration::from_millis(200);
    jetstream.update_stream(jetstream::stream::Config { max_age: short, duplicate_window: short, ..before.clone() }).await.unwrap();
    wait_until("the stream is empty", async || jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().state.messages == 0).await;
    jetstream.update_stream(before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_take_effect_once_and_in_order_though_one_owner_after_another_is_cut_off() {
    let stack = stack_with_effects(&[]).await;
    // A COMMIT takes its time, so that some owners end in the middle of one.
    let slow_commit = "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slowly()";
    stack.db().await.batch_execute(slow_commit).await.unwrap();
    let tenants = history(&stack, 12).await;
    for round in 0..3 {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        // A second one stands by and takes over. Some calls last, so that the end meets a transaction that is under way.
        let handler = move || {
            let counted = counted.clone();
            async move |transaction: &Transaction<'_>, event: &Event| {
                if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                effect(transaction, event).await
            }
        };
        let first = Follower::start(stack.config(), handler());
        wait_until("the first works", async || calls.load(Ordering::Relaxed) > 20).await;
        let second = Follower::start(stack.config(), handler());
        drop(first);
        more(&stack, &tenants, &format!("round {round}")).await;
        effective(&stack).await;
        second.end();
        more(&stack, &tenants, &format!("after round {round}")).await;
    }
    let last = Follower::start(stack.config(), effect);
    effective(&stack).await;
    last.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_of_one_batch_are_worked_on_at_the_same_time() {
    let stack = stack_with_effects(&[]).await;
    history(&stack, 6).await;
    published(&stack).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let follower = Follower::start(stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let done = effect(transaction, event).await;
        counted.fetch_sub(1, Ordering::SeqCst);
        done
    });
    effective(&stack).await;
    follower.end();
    assert!(most.load(Ordering::SeqCst) > 1, "one at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_holds_up_its_aggregate_and_nobody_else() {
    let stack = stack_with_effects(&[]).await;
    let tenants = history(&stack, 4).await;
    let (sick, broken) = (tenants[1].id.clone(), Arc::new(AtomicBool::new(true)));
    let (patient, fails) = (sick.clone(), broken.clone());
    let follower = Follower::start(stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        if event.envelope.aggregate_id == patient && fails.load(Ordering::SeqCst) {
            return Err(Failure::retry("not today"));
        }
        effect(transaction, event).await
    });
    let waiting = format!("SELECT count(*) FROM events WHERE kind = 'tenant' AND 'tenant_' || aggregate_id = '{sick}'");
    more(&stack, &tenants, "meanwhile").await;
    wait_until("all others have their effect", async || {
        let missing = "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM effects)";
        count(&stack, missing).await == count(&stack, &waiting).await
    })
    .await;
    // After the last try it is a dead letter, once, and its aggregate waits for somebody.
    wait_until("a dead letter", async || super::dead_letters(&stack).await == 1).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_parked").await, count(&stack, &waiting).await);
    broken.store(false, Ordering::SeqCst);
    let letters = runtime::letters::Letters::open(&stack.config(), &stack.nats().await, "test").await.unwrap();
    letters.redrive(1, "test").await.unwrap();
    effective(&stack).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM consumer_parked").await, 0);
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_has_forgotten_comes_from_the_table() {
    let mut stack = stack_with_effects(&[Consumer::Audit]).await;
    // A consumer that is new, and one that was away.
    let tenants = history(&stack, 5).await;
    audited(&stack).await;
    assert!(stack.stop("audit"));
    more(&stack, &tenants, "forgotten").await;
    forget(&stack).await;
    more(&stack, &tenants, "kept").await;
    let follower = Follower::start(stack.config(), effect);
    effective(&stack).await;
    follower.end();
    stack.start_again("audit", &[]);
    audited(&stack).await;
    // The same for one that has been fed before, and with nothing in the stream at all; two at once share the feeding.
    assert!(stack.stop("audit"));
    more(&stack, &tenants, "forgotten too").await;
    forget(&stack).await;
    let follower = Follower::start(stack.config(), effect);
    effective(&stack).await;
    stack.start_again("audit", &[]);
    stack.start_another("audit-2", chancery::role::Role::Consumer(Consumer::Audit), &[]);
    audited(&stack).await;
    more(&stack, &tenants, "new").await;
    effective(&stack).await;
    audited(&stack).await;
    follower.end();
    let report = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(report.broken.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feeding_that_is_cut_off_goes_on_and_repeats_no_effect() {
    let stack = stack_with_effects(&[]).await;
    let tenants = history(&stack, 8).await;
    forget(&stack).await;
    for round in 1..=3 {
        let follower = Follower::start(stack.config(), async |transaction: &Transaction<'_>, event: &Event| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            effect(transaction, event).await
        });
        wait_until("a part is fed", async || count(&stack, "SELECT count(*) FROM effects").await >= round * 8).await;
        drop(follower);
        let left = "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM effects)";
        assert!(count(&stack, left).await > 0, "it was done before it was cut off: nothing was proved");
    }
    more(&stack, &tenants, "new").await;
    let follower = Follower::start(stack.config(), effect);
    effective(&stack).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_event_below_the_mark_takes_no_effect_again() {
    let stack = stack_with_effects(&[]).await;
    let tenant = tenant(&stack).await;
    rename(&stack, &tenant, "Renamed").await;
    let follower = Follower::start(stack.config(), effect);
    effective(&stack).await;
    // What an operator publishes who repairs a hole, and does it twice; beside it a repeat that is none of the kind. All of it was handled.
    let body: String = stack.db().await.query_one("SELECT body::text FROM events WHERE sequence = 1", &[]).await.unwrap().get(0);
    let event: Value = serde_json::from_str(&body).unwrap();
    let subject = subjects::event(tenant.id.parse().unwrap(), event["type"].as_str().unwrap());
    let jetstream = stack.jetstream().await;
    jetstream.publish(subject.clone(), body.clone().into()).await.unwrap().await.unwrap();
    for _ in 0..2 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::LATE, "true");
        jetstream.publish_with_headers(subject.clone(), headers, body.clone().into()).await.unwrap().await.unwrap();
    }
    rename(&stack, &tenant, "Renamed again").await;
    effective(&stack).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_slower_than_the_stream_forgets_is_not_skipped_forward() {
    let stack = stack_with_effects(&[]).await;
    let tenants = history(&stack, 5).await;
    let stuck = Arc::new(AtomicBool::new(true));
    let waits = stuck.clone();
    // Little is read ahead, so that most is forgotten before it is delivered.
    let slow = Durable { batch: 2, max_ack_pending: 2, ..FOLLOWER };
    let follower = Follower::of(slow, stack.config(), async move |transaction: &Transaction<'_>, event: &Event| {
        while waits.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        effect(transaction, event).await
    });
    forget(&stack).await;
    more(&stack, &tenants, "kept").await;
    assert_eq!(count(&stack, "SELECT count(*) FROM effects").await, 0, "it was not slow");
    stuck.store(false, Ordering::SeqCst);
    effective(&stack).await;
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_new_events_has_those_between_its_first_two_starts_and_none_before() {
    let stack = stack_with_effects(&[]).await;
    let tenants = history(&stack, 3).await;
    published(&stack).await;
    let old = count(&stack, "SELECT count(*) FROM events").await;
    let new = Durable { start: Start::New, ..FOLLOWER };
    let follower = Follower::of(new, stack.config(), effect);
    wait_until("it has a place", async || count(&stack, "SELECT count(*) FROM consumer_positions WHERE incarnation <> ''").await == 1).await;
    follower.end();
    more(&stack, &tenants, "while it is away").await;
    let follower = Follower::of(new, stack.config(), effect);
    wait_until("what is new has its effect", async || {
        count(&stack, "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM effects)").await == old
    })
    .await;
    let first = "SELECT count(*) FROM effects f JOIN events e ON e.id = f.event_id JOIN tenants t USING (tenant_id) WHERE e.sequence = 1";
    assert_eq!(count(&stack, first).await, 0, "an event from before its first start");
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_whose_commit_is_refused_are_not_passed_over() {
    let stack = stack_with_effects(&[]).await;
    // What a sequence counts is not rolled back: the first three COMMITs with effects are refused.
    let refuse = "CREATE SEQUENCE tries;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF nextval('tries') <= 3 THEN RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.db().await.batch_execute(refuse).await.unwrap();
    history(&stack, 3).await;
    let follower = Follower::start(stack.config(), effect);
    effective(&stack).await;
    assert!(count(&stack, "SELECT last_value FROM tries").await > 3, "nothing was refused");
    follower.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_function_went_on_after_an_error_of_the_database_is_a_dead_letter_and_stops_nobody_else() {
    let stack = stack_with_effects(&[]).await;
    let (first, second) = (tenant(&stack).await, tenant(&stack).await);
    published(&stack).await;
    let all = count(&stack, "SELECT count(*) FROM events").await;
    let follower = Follower::start(stack.config(), async |transaction: &Transaction<'_>, event: &Event| {
        effect(transaction, event).await?;
        if event.envelope.event_type == "tenant.updated" {
            // As somebody might who takes it for a repeat: the transaction is lost, and its COMMIT would say nothing.
            let _ = transaction.execute("INSERT INTO effects (n) SELECT n FROM effects LIMIT 1", &[]).await;
        }
        Ok(())
    });
    wait_until("what there is has its effect", async || count(&stack, "SELECT count(*) FROM effects").await == all).await;
    rename(&stack, &first, "Renamed").await;
    invite(&stack, &second, &address("guest")).await;
    wait_until("it is given up", async || {
        let stream = stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap();
        stream.cached_info().state.messages == 1
    })
    .await;
    wait_until("others have their effect", async || {
        count(&stack, "SELECT (SELECT count(*) FROM events WHERE type <> 'tenant.updated') - (SELECT count(*) FROM effects)").await == 0
    })
    .await;
    follower.end();
}
