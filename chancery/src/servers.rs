//! The two servers that `up`, the tests and the bench run on: nats-server and PostgreSQL, found or fetched, started under guard.
//!
//! For development only. Production runs against the operator's own servers.

pub mod cluster;
pub mod find;
pub mod nats;
pub mod place;
pub mod port;
pub mod postgres;
pub mod wheel;

/// The lowest nats-server that has what we need: atomic batches and per-message expectations inside them.
pub const NATS_LEAST: (u32, u32) = (2, 14);
/// The lowest PostgreSQL the SQL is written for.
pub const POSTGRES_LEAST: u32 = 15;
