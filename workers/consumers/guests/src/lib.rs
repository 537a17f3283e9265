//! Repeats in every tenant where a user is a guest what their home tenant did: who is suspended or deactivated at home is suspended there,
//! who is reactivated counts again, and who is deleted is a member no more.
//!
//! Events come in any order and more than once, and memberships begin while they are on their way. So a command says what the home tenant
//! says now, not what it said then, with a number that tells which is newer: see [`answer::Home`]. Whoever joins as a guest is looked at,
//! too: a membership is either there when the change is repeated, or begins so late that this look sees the change.

mod answer;

use std::time::Duration;

use runtime::{
    Config, Failure, Stop,
    consume::{
        Durable, Event, Order, Start, consume,
        react::{Reactor, UNTIL_DECIDED},
    },
};
use subjects::stream;

/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "guests";

/// The subjects it wants: those of the events whose rows in the registry name it, and no others.
pub const FILTERS: &[&str] =
    &["evt.*.user.suspended", "evt.*.user.deactivated", "evt.*.user.reactivated", "evt.*.user.deleted", "evt.*.tenant.member_joined"];

/// The commands it gives, and may give.
pub const COMMANDS: &[&str] = &["membership.suspend", "membership.reactivate", "membership.remove"];

/// Its durable.
pub fn durable(_config: &Config) -> Durable {
    Durable {
        name: NAME,
        stream: stream::EVENTS,
        filters: FILTERS,
        order: Order::None,
        start: Start::All,
        ack_wait: Duration::from_secs(10),
        max_deliver: UNTIL_DECIDED,
        max_ack_pending: 256,
        batch: 64,
        backoff: BACKOFF,
    }
}

/// Runs until `stop` is cancelled, then drains.
///
/// # Errors
/// What keeps the role from starting or going on.
pub async fn run(config: Config, stop: Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let reactor = Reactor::connect(&config, NAME, COMMANDS, &stop).await?;
    let answer = async |event: &Event| answer::answer(&reactor, event).await;
    let handler = async |events: &[Event]| -> Result<(), Failure> { reactor.each(events, &answer).await };
    Ok(consume(durable(&config), &config, stop, handler).await?)
}
