//! Writes one structured line for every event. A repeat is harmless: it is a line more, with the same id.

use std::time::Duration;

use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Order, Start, consume},
};
use subjects::stream;

/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "logging";

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
    Ok(consume(durable(&config), &config, stop, async |events| write(events)).await?)
}

/// One line for each. Personal fields stand in the data, and none of the data is written.
///
/// # Errors
/// None: a line that cannot be written stops nobody.
pub fn write(events: &[Event]) -> Result<(), Failure> {
    for event in events {
        let envelope = &event.envelope;
        let actor = envelope.user_id.map_or_else(|| "system".to_owned(), |actor| actor.to_string());
        // The level of a line is part of its macro, so there are two.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    // Not inside the span of the batch: it says nothing about the event.
                    parent: None,
                    event.id = %envelope.id,
                    event.r#type = envelope.event_type,
                    tenant.id = %envelope.tenant_id,
                    aggregate = %envelope.aggregate,
                    aggregate.id = envelope.aggregate_id,
                    sequence = envelope.sequence,
                    actor,
                    command.id = envelope.causation_id,
                    "event"
                )
            };
        }
        if is_failure(&envelope.event_type) { line!(warn) } else { line!(info) }
    }
    Ok(())
}

/// Whether an event tells of an attempt that failed.
fn is_failure(event_type: &str) -> bool {
    event_type.ends_with("_failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_the_rest() {
        assert!(is_failure("role.assignment_failed"));
        assert!(!is_failure("role.assignment_succeeded"));
        assert!(!is_failure("tenant.created"));
    }
}
