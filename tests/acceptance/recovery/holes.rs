//! Holes in EVENTS: found and filled while everything runs, and no effect happens twice or out of its turn.

use std::time::Duration;

use chancery::role::Consumer;

use runtime::consume::{Durable, Start};
use subjects::stream as names;

use super::{FIRST, SECOND, effective, follower, history, make_holes, more, outward, prepare_effects, published, run, settled};
use crate::{
    consumers::{audited, count},
    harness::{Stack, blocking, wait_until},
};

#[tokio::test(flavor = "multi_thread")]
async fn holes_in_the_stream_are_found_and_filled_and_each_consumer_has_each_effect_once() {
    let consumers = [Consumer::Audit, Consumer::Notifications, Consumer::Onboarding];
    let mut stack = Stack::builder().workers(2).consumers(&consumers).start().await;
    prepare_effects(&stack).await;
    // One consumer has handled everything before it is lost; another, and the audit, have not.
    let first = follower(&stack, FIRST);
    let tenants = history(&stack, 4).await;
    settled(&stack).await;
    effective(&stack, FIRST).await;
    audited(&stack).await;
    assert!(stack.stop("audit"));
    more(&stack, &tenants).await;
    settled(&stack).await;
    effective(&stack, FIRST).await;
    let before = outward(&stack).await;
    let well = run(&stack, &["events", "reconcile", "--json"]).await.expect(0).json();
    assert_eq!((well["missing"].as_u64(), well["matched"].as_i64()), (Some(0), Some(count(&stack, "SELECT count(*) FROM events").await)), "{well}");

    // The server still remembers the ids of what it has lost: a publish would be answered and not stored.
    let lost_events = make_holes(&stack, Duration::from_secs(2)).await;
    let dry = run(&stack, &["events", "reconcile", "--dry-run", "--json"]).await.expect(1).json();
    assert_eq!((dry["missing"].as_u64(), dry["mended"].as_u64()), (Some(lost_events), Some(0)), "{dry}");
    assert!(lost_events > 20, "{lost_events}");
    // Whoever comes now meets the holes: each is filled from the table in its turn.
    let second = follower(&stack, SECOND);
    effective(&stack, SECOND).await;
    // Mended while more happens.
    let (report, ()) = tokio::join!(run(&stack, &["events", "reconcile", "--json"]), more(&stack, &tenants));
    let report = report.expect(0).json();
    assert_eq!((report["missing"].as_u64(), report["mended"].as_u64()), (Some(lost_events), Some(lost_events)), "{report}");
    stack.start_again("audit", &[]);
    settled(&stack).await;
    audited(&stack).await;
    effective(&stack, FIRST).await;
    effective(&stack, SECOND).await;
    let again = run(&stack, &["events", "reconcile", "--json"]).await.expect(0).json();
    assert_eq!((again["missing"].as_u64(), again["repeated"].as_u64(), again["outOfOrder"].as_u64()), (Some(0), Some(0), Some(0)), "{again}");
    // What was told before the holes was not told again.
    let chain = audit::verify(&stack.database_url(), None, &[]).await.unwrap();
    assert!(chain.broken.is_empty(), "{chain:?}");
    let after = outward(&stack).await;
    let invitations = i64::try_from(tenants.len()).unwrap();
    assert_eq!((after.0 - before.0, after.1 - before.1), (invitations, invitations), "one mail and one command for each invitation since");
    first.end();
    second.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reconcile_cannot_mend_it_tells_and_fails() {
    let stack = Stack::builder().start().await;
    let tenants = history(&stack, 2).await;
    published(&stack).await;
    // An event that the table does not know, one with another body, and a repeat without the mark of a late one.
    let db = stack.db().await;
    let row = db.query_one("SELECT body::text, id, tenant_id FROM events WHERE sequence = 2 ORDER BY tenant_id LIMIT 1", &[]).await.unwrap();
    let (body, tenant): (String, uuid::Uuid) = (row.get(0), row.get(2));
    let tenant = subjects::TenantId::new(tenant);
    let envelope: subjects::Envelope = serde_json::from_str(&body).unwrap();
    let publish = async |id: subjects::EventId, sequence: u64| {
        let mut headers = async_nats::HeaderMap::new();
        // Out of the server's memory of ids, which would hide a repeat.
        headers.insert("Nats-Msg-Id", id.to_string());
        headers.insert("Chancery-Sequence", sequence.to_string());
        let subject = subjects::event(tenant, &envelope.event_type);
        let ack = stack.jetstream().await.publish_with_headers(subject, headers, body.clone().into()).await.unwrap().await.unwrap();
        assert!(!ack.duplicate);
    };
    make_remember_nothing(&stack).await;
    publish(subjects::EventId::new(uuid::Uuid::from_u128(77)), 2).await;
    publish(envelope.id, 2).await;
    let report = run(&stack, &["events", "reconcile", "--json"]).await.expect(1).json();
    let counts = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((counts("missing"), counts("extra"), counts("repeated")), (0, 1, 1), "{report}");
    let extra = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "extra").unwrap();
    assert_eq!(extra["tenantId"], tenant.to_string());
    assert_eq!(report["tenants"][tenant.to_string()], 2, "{report}");
    // A body that is not the table's any more.
    db.execute("UPDATE events SET body = '{}' WHERE tenant_id = $1 AND sequence = 3", &[&tenant.uuid()]).await.unwrap();
    let report = run(&stack, &["events", "reconcile", "--json"]).await.expect(1).json();
    assert_eq!(report["differs"], 1, "{report}");
    drop(tenants);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_new_events_is_not_fed_what_was_before_it_began_though_events_is_created_anew() {
    let stack = Stack::builder().start().await;
    prepare_effects(&stack).await;
    let tenants = history(&stack, 3).await;
    published(&stack).await;
    stack.db().await.batch_execute("CREATE TABLE old AS SELECT id FROM events").await.unwrap();
    let new = Durable { start: Start::New, ..FIRST };
    let placed = async || {
        let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
        let life = runtime::streams::incarnation(stream.cached_info());
        let here = format!("SELECT count(*) FROM consumer_positions WHERE consumer = '{}' AND incarnation = '{life}'", FIRST.name);
        wait_until("it has a place in this life of EVENTS", async || count(&stack, &here).await == 1).await;
    };
    let consumer = follower(&stack, new);
    placed().await;
    consumer.end();
    // What comes while it is away is lost with EVENTS: of a tenant from before, and of one that it has never heard of.
    more(&stack, &tenants[..1]).await;
    history(&stack, 1).await;
    published(&stack).await;
    stack.jetstream().await.delete_stream(names::EVENTS).await.unwrap();
    blocking(|| stack.provision());
    let consumer = follower(&stack, new);
    placed().await;
    // Another tenant from before is heard of in the stream alone; of the third nothing new comes at all.
    more(&stack, &tenants[1..2]).await;
    let left = "SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT FROM old WHERE old.id = e.id) AND NOT EXISTS (SELECT FROM effects f WHERE f.event_id = e.id)";
    wait_until("what is new has its effect", async || count(&stack, left).await == 0).await;
    assert_eq!(count(&stack, "SELECT count(*) FROM effects f JOIN old ON old.id = f.event_id").await, 0, "it was fed what was before it began");
    assert_eq!(count(&stack, "SELECT count(*) - count(DISTINCT event_id) FROM effects").await, 0, "an event took effect twice");
    consumer.end();
}

async fn make_remember_nothing(stack: &Stack) {
    let jetstream = stack.jetstream().await;
    let config = jetstream.get_stream(subjects::stream::EVENTS).await.unwrap().cached_info().config.clone();
    let short = async_nats::jetstream::stream::Config { duplicate_window: Duration::from_millis(100), ..config };
    jetstream.update_stream(short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
}
