//! Everything between a message and a function: partitions, batches, store, outbox and the consume loop.

pub mod config;
pub mod consume;
pub mod error;
pub mod failpoint;
pub mod health;
pub mod letters;
pub mod metrics;
pub mod nats;
pub mod planted;
pub mod repair;
pub mod store;
pub mod streams;
pub mod trace;
pub mod worker;

pub use config::Config;
pub use error::{Failure, StartError};
pub use tokio_util::sync::CancellationToken as Stop;
