//! The consume loop: what stands between a durable consumer's function and JetStream.
//!
//! A consumer is one [`Durable`] literal with nothing defaulted, and one async function. The function says only how it went; the loop
//! alone settles: it acknowledges, retries with growing delays, dead-letters, extends for long work, rebuilds after every kind of
//! silence, and drains.
//!
//! - [`consume`] (`Order::None`): replicas share one durable with explicit acknowledgements; the function gets what is ready, as a slice.
//! - [`consume_in_order`] (`Order::Aggregate`): one active owner by lease; the position is written in the function's own transaction.
//!
//! A [`Failure`](crate::Failure) is judged so: `Outage` is waited for without limit and costs the events nothing; `Retry` and `Poison` of a
//! slice are traced by halving to the event at fault, so that its neighbours never pay. `Retry` comes again until
//! [`Durable::max_deliver`], `Poison` is a dead letter at once. A panic is a `Retry`; an event that ends the process again and again is
//! condemned to be a dead letter.

mod deadletter;
mod decode;
mod durable;
mod effects;
mod feed;
mod feeding;
mod gap;
mod halving;
mod handling;
mod lease;
mod marks;
mod metrics;
mod notes;
mod ordered;
mod panicking;
mod parked;
mod progress;
mod pull;
mod queues;
pub mod react;
mod shared;
mod sql;
mod suspects;

pub use deadpool_postgres::Transaction;
pub use decode::Event;
pub use durable::{Durable, Order, Provisioned, Standing, Start, filters};
pub use ordered::consume_in_order;
pub use shared::consume;
pub use sql::judge;

use crate::Failure;

/// Turns a function of one event into one of a slice. What it did for the events before the failing one is repeated: it must be harmless.
pub fn each<F>(mut handler: F) -> impl AsyncFnMut(&[Event]) -> Result<(), Failure>
where
    F: AsyncFnMut(&Event) -> Result<(), Failure>,
{
    async move |events: &[Event]| {
        for event in events {
            handler(event).await?;
        }
        Ok(())
    }
}
