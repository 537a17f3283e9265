//! Tells people by mail. A repeat is harmless: who is to be told what about an event is one row of a ledger, and a row is sent once.
//!
//! The loop's function only writes rows ([`record`]); a second task sends them ([`Sender`]), with delays of its own, so that a mail
//! server that is away never holds up the events.

mod again;
mod fanout;
mod ledger;
mod link;
mod notice;
mod projection;
mod queue;
mod sender;
mod templates;
mod transport;

use std::time::Duration;

use runtime::{
    Config, Failure, StartError, Stop,
    config::ConfigError,
    consume::{Durable, Event, Order, Start, consume},
    store::pool,
};
use subjects::stream;
use tokio::sync::Notify;

pub use again::send_again;
pub use ledger::record;
pub use link::Links;
pub use sender::Sender;
pub use transport::{SendError, Transport};

/// Delays before the second, third … try.
const BACKOFF: &[Duration] =
    &[Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "notifications";

/// The subjects it wants: those of the events whose rows in the registry name it, and no others.
pub const FILTERS: &[&str] = &[
    "evt.*.tenant.created",
    "evt.*.tenant.updated",
    "evt.*.tenant.activated",
    "evt.*.tenant.suspended",
    "evt.*.tenant.cancelled",
    "evt.*.tenant.plan_upgraded",
    "evt.*.tenant.sso_configured",
    "evt.*.tenant.sso_disabled",
    "evt.*.tenant.member_joined",
    "evt.*.tenant.member_role_changed",
    "evt.*.tenant.member_removed",
    "evt.*.user.>",
    "evt.*.invitation.sent",
    "evt.*.invitation.accepted",
    "evt.*.invitation.expired",
    "evt.*.team.members_added",
];

/// Its durable.
pub fn durable(config: &Config) -> Durable {
    Durable {
        name: NAME,
        stream: stream::EVENTS,
        filters: FILTERS,
        order: Order::None,
        start: Start::All,
        ack_wait: Duration::from_secs(10),
        max_deliver: 12,
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
    let missing = |name| StartError::Config(ConfigError::Missing(name));
    let link_key = config.link_key.as_ref().ok_or(missing("CHANCERY_LINK_KEY"))?;
    let mail = config.mail.as_ref().ok_or(missing("CHANCERY_MAIL"))?;
    let links = Links::new(link_key.expose(), &config.public_url);
    let pool = pool(&config, "chancery notifications")?;
    let transport = Transport::open(mail.expose(), &config.mail_from)?;
    let work = Notify::new();
    let sender = Sender::new(pool.clone(), transport, links.clone(), &config)?;

    let handler = async |events: &[Event]| -> Result<(), Failure> {
        record(&pool, &links, config.mail_page, events).await?;
        work.notify_one();
        Ok(())
    };
    // The sender ends with the loop, whichever way that ends.
    let ended = Stop::new();
    let following = async {
        let result = consume(durable(&config), &config, stop, handler).await;
        ended.cancel();
        result
    };
    let (followed, ()) = tokio::join!(following, sender.run(&work, &ended));
    Ok(followed?)
}

#[cfg(test)]
mod tests {
    use aggregates::registry;

    #[test]
    fn the_filters_cover_what_the_registry_says() {
        let topics = ["tenant", "user"];
        let events = ["invitation.sent", "invitation.accepted", "invitation.expired", "team.members_added"];
        for entry in registry::EVENTS.iter().filter(|entry| entry.consumers.contains(&"notifications")) {
            let topic = entry.event_type.split('.').next().unwrap();
            assert!(topics.contains(&topic) || events.contains(&entry.event_type), "{}", entry.event_type);
        }
    }
}
