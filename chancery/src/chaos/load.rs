//! The load: many clients over many tenants, by a clock and not by answers, every wish followed to a known end.

use std::time::Duration;

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
    /// How long a client asks for the outcome of one wish before it gives up and records `Unknown`.
    pub patience: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { rate_per_second: 40.0, clients: 16, tenants: 12, seed: 1, in_flight: 512, patience: Duration::from_secs(120) }
    }
}
