//! Dead letters: listed, redriven and discarded by operators, whatever kind of consumer gave up, and whoever is killed in between.

mod advisories;
mod operators;
mod queues;
mod redriving;
mod widening;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use hyper::Method;
use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Order, consume, each},
};
use serde_json::{Value, json};

use crate::{
    consumers::{Tenant, dead_letters, in_order::FOLLOWER},
    harness::{Stack, wait_until},
    recovery::{Ran, run},
};

/// A consumer without order, of this test alone.
pub(crate) const PICKY: Durable = Durable { name: "picky", filters: &["evt.*.tenant.updated"], order: Order::None, ..FOLLOWER };
/// Another one that takes the same.
pub(crate) const OTHER: Durable = Durable { name: "other", ..PICKY };

/// A consumer without order in a thread of its own: what it has handled, and a switch that makes it give up whatever it gets.
pub(crate) struct Consumer {
    handled: Arc<Mutex<Vec<(String, u32)>>>,
    broken: Arc<AtomicBool>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    pub(crate) async fn start(stack: &Stack, durable: Durable) -> Self {
        durable.provision(&stack.jetstream().await, &stack.config()).await.unwrap();
        let (handled, broken, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)), Stop::new());
        let (notes, fails, stopped, config): (_, _, _, Config) = (handled.clone(), broken.clone(), stop.clone(), stack.config());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let handler = each(async |event: &Event| {
                if fails.load(Ordering::SeqCst) {
                    return Err(Failure::poison("not today"));
                }
                notes.lock().unwrap().push((event.envelope.id.to_string(), event.redrives()));
                Ok(())
            });
            runtime.block_on(consume(durable, &config, stopped, handler)).unwrap();
        });
        Self { handled, broken, stop, thread: Some(thread) }
    }

    pub(crate) fn breaks(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// The events it has handled, and how often each had been redriven.
    pub(crate) fn handled(&self) -> Vec<(String, u32)> {
        self.handled.lock().unwrap().clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // What it says of its end is the test's failure already.
            let _ = thread.join();
        }
    }
}

/// Renames a tenant; the command, and the event it led to.
pub(crate) async fn renamed(stack: &Stack, tenant: &Tenant, name: &str) -> (String, String) {
    let answer = stack.call(Method::PATCH, &tenant.path(""), &stack.operator_token(), &[], &json!({ "name": name })).await.expect(200);
    (answer.text_at("/commandId"), answer.text_at("/events/0/id"))
}

/// `chancery dlq` with these arguments.
async fn dlq(stack: &Stack, arguments: &[&str]) -> Ran {
    run(stack, &[&["dlq"], arguments].concat()).await
}

/// The letters there are.
async fn listed(stack: &Stack) -> Vec<Value> {
    let listed = dlq(stack, &["ls", "--json"]).await.expect(0).json();
    listed["letters"].as_array().unwrap().clone()
}

/// Waits until there are so many letters.
async fn letters(stack: &Stack, number: u64) {
    wait_until(&format!("{number} dead letters"), async || dead_letters(stack).await == number).await;
}

/// What was done about letters, the first first: who, what, and why.
async fn history(stack: &Stack) -> Vec<(String, String, Value)> {
    let rows = dlq(stack, &["history", "--json"]).await.expect(0).json();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().rev().map(|row| (text(row, "actor"), text(row, "action"), row["reason"].clone())).collect()
}
