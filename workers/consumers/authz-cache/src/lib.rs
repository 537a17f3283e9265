//! Drops what gateways remember of a member, or of a tenant, when an event says that it may have changed. A repeat is harmless: it drops
//! once more, and PostgreSQL is asked once more.

mod beat;
mod bucket;

use std::{collections::BTreeSet, time::Duration};

use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Order, Start, consume},
};
use subjects::{Envelope, Kind, authz::Key, stream};

use self::bucket::Bucket;

/// Delays before the second, third … try.
const BACKOFF: &[Duration] = &[Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(5)];

/// The durable, the role, and what dead letters and metrics call it. No two consumers may share one: they would share the events.
pub const NAME: &str = "authz-cache";

/// The subjects it wants: what may change what somebody may.
pub const FILTERS: &[&str] = &[
    "evt.*.tenant.activated",
    "evt.*.tenant.suspended",
    "evt.*.tenant.cancelled",
    "evt.*.tenant.member_joined",
    "evt.*.tenant.member_role_changed",
    "evt.*.tenant.member_removed",
    "evt.*.tenant.member_suspended",
    "evt.*.tenant.member_reactivated",
    "evt.*.role.assignment_succeeded",
    "evt.*.role.revocation_succeeded",
    "evt.*.user.suspended",
    "evt.*.user.deactivated",
    "evt.*.user.reactivated",
    "evt.*.user.deleted",
];

/// Its durable.
pub fn durable(config: &Config) -> Durable {
    Durable {
        name: NAME,
        stream: stream::EVENTS,
        filters: FILTERS,
        order: Order::None,
        // Nothing is remembered of the time before there was this consumer: without its beat, gateways remember nothing.
        start: Start::New,
        // Short: what a replica that froze had in hand is dropped by another.
        ack_wait: Duration::from_secs(2),
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
    let bucket = Bucket::connect(&config).await?;
    let pool = runtime::store::pool(&config, "chancery authz-cache beat")?;
    let beating = tokio::spawn(beat::go_on(bucket.clone(), pool, config.clone(), stop.clone()));
    let result = consume(durable(&config), &config, stop, async |events: &[Event]| bucket.drop_all(drops(events)?).await).await;
    beating.abort();
    Ok(result?)
}

/// What is to be dropped, each thing once.
fn drops(events: &[Event]) -> Result<BTreeSet<Key>, Failure> {
    events.iter().map(|event| dropped(&event.envelope)).collect()
}

/// What an event drops: a tenant as a whole when it is the tenant's own, otherwise one member.
///
/// # Errors
/// An event of something else, or whose aggregate is no user: a filter that should not be.
fn dropped(envelope: &Envelope) -> Result<Key, Failure> {
    let tenant = envelope.tenant_id;
    match envelope.aggregate {
        Kind::Tenant => Ok(Key::Tenant(tenant)),
        // The aggregate of a membership is the user in that tenant.
        Kind::User | Kind::Membership => {
            let user = envelope.aggregate_id.parse();
            user.map(|user| Key::Member(tenant, user)).map_err(|_| Failure::poison("the aggregate is no user"))
        }
        _ => Err(Failure::poison("an event of something that nobody's rights depend on")),
    }
}

#[cfg(test)]
mod tests {
    use aggregates::registry;
    use serde_json::json;

    use super::*;

    const TENANT: &str = "tenant_00000000-0000-7000-8000-000000000002";
    const USER: &str = "user_00000000-0000-7000-8000-000000000005";

    fn envelope(event_type: &str, aggregate: Kind, id: &str) -> Envelope {
        let json = json!({
            "id": "evt_00000000-0000-7000-8000-000000000001", "type": event_type, "timestamp": "2026-11-22T10:00:00.123Z",
            "version": "1.0", "source": "chancery", "tenantId": TENANT, "userId": null, "aggregate": aggregate, "aggregateId": id,
            "aggregateVersion": 1, "sequence": 1, "correlationId": "c", "causationId": "cmd_00000000-0000-7000-8000-000000000003", "data": {}
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_event_it_listens_to_drops_a_tenant_or_a_member() {
        for entry in registry::EVENTS.iter().filter(|entry| entry.consumers.contains(&NAME)) {
            let id = if entry.kind == Kind::Tenant { TENANT } else { USER };
            let key = dropped(&envelope(entry.event_type, entry.kind, id)).unwrap().to_string();
            let expected = if entry.kind == Kind::Tenant { TENANT.to_owned() } else { format!("{TENANT}.{USER}") };
            assert_eq!(key, expected, "{}", entry.event_type);
        }
        assert!(dropped(&envelope("invitation.sent", Kind::Invitation, "inv_00000000-0000-7000-8000-000000000005")).is_err());
    }
}
