//! Keeps one row for every event in a hash chain per tenant. A repeat is harmless: an event whose id is known is dropped first.
//!
//! The role may insert and select, nobody may change or remove. [`verify`] names the first broken row.

mod chain;
mod head;
mod row;
mod store;
mod verify;

use std::time::Duration;

use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Order, Start, consume},
    store::pool,
};
use subjects::stream;

pub use head::Head;
pub use store::Recorder;
pub use verify::{Broken, Report, VerifyError, verify};

/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "audit";

/// The subjects it wants: those of the events whose rows in the registry name it, and no others.
pub const FILTERS: &[&str] = &[stream::ALL_EVENTS];

/// Its durable.
pub fn durable(config: &Config) -> Durable {
    Durable {
        name: NAME,
        stream: stream::EVENTS,
        filters: FILTERS,
        order: Order::None,
        start: Start::All,
        ack_wait: Duration::from_secs(10),
        max_deliver: 8,
        max_ack_pending: 1_024,
        batch: config.consumer_batch,
        backoff: BACKOFF,
    }
}

/// Runs until `stop` is cancelled, then drains.
///
/// # Errors
/// What keeps the role from starting or going on.
pub async fn run(config: Config, stop: Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut recorder = Recorder::new(pool(&config, "chancery audit")?);
    let handler = async move |events: &[Event]| -> Result<(), Failure> { recorder.record(events).await };
    Ok(consume(durable(&config), &config, stop, handler).await?)
}
