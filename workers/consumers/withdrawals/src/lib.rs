//! Ends pending invitations that lead nowhere any more: those of a tenant that was cancelled, and those to the address of a user who was
//! deleted, in whichever tenant. What is not pending by then has ended already.

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
pub const NAME: &str = "withdrawals";

/// The subjects it wants: those of the events whose rows in the registry name it, and no others.
pub const FILTERS: &[&str] = &["evt.*.tenant.cancelled", "evt.*.user.deleted"];

/// The commands it gives, and may give.
pub const COMMANDS: &[&str] = &["invitation.remove"];

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
        max_ack_pending: 64,
        batch: 16,
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
