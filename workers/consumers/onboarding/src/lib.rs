//! Sends an invitation that was created to be sent: answers `invitation.created` with the command `invitation.send`. A repeat is harmless:
//! the command's id follows from the event's, and a command is decided once.

mod reaction;

use std::time::Duration;

use runtime::{
    Config, Failure, Stop,
    consume::{
        Durable, Event, Order, Start, consume,
        react::{Reactor, Refused, UNTIL_DECIDED},
    },
};
use subjects::stream;

pub use reaction::command;

/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "onboarding";

/// The subjects it wants: those of the events whose rows in the registry name it, and no others.
pub const FILTERS: &[&str] = &["evt.*.invitation.created"];

/// The commands it gives, and may give.
pub const COMMANDS: &[&str] = &["invitation.send"];

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
    let answer = async |event: &Event| -> Result<(), Failure> {
        let mut refused = Refused::default();
        let command = command(&event.envelope)?;
        reactor.give(event, command.as_slice(), &mut refused).await?;
        refused.end()
    };
    let handler = async |events: &[Event]| -> Result<(), Failure> { reactor.each(events, &answer).await };
    Ok(consume(durable(&config), &config, stop, handler).await?)
}
