//! Something is killed with -9 under load: a worker, a gateway, nats-server, PostgreSQL, a connection. Nothing is lost, nothing twice.

use std::time::Duration;

use chancery::{
    chaos::proxy::Way,
    role::{Consumer, Role},
};
use futures_util::StreamExt as _;
use hyper::Method;
use serde_json::json;
use subjects::stream as names;

use super::{
    history::assert_sound,
    load::{Client, Load, accepted, commands, tenant_body, tenants, without_duplicate_window},
};
use crate::harness::{Stack, Then, blocking, wait_until};

const TENANTS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_the_load_loses_nothing() {
    let count = commands(2_000);
    let mut stack = Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::start(&stack, &tenants, count);
    load.reached(count / 3).await;
    stack.kill9("worker-1");
    // The other one takes over while the load goes on; later the killed one is back and gets its share.
    load.reached(count / 2).await;
    stack.start_again("worker-1", &[]);
    let said = load.finish().await;
    assert_eq!(said.len(), count);
    ids.extend(accepted(&said));
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_the_middle_of_the_load_loses_nothing() {
    let count = commands(2_000) / 2;
    let mut stack = Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::start(&stack, &tenants, count);
    load.reached(count / 4).await;
    stack.kill9("gateway");
    load.reached(count / 2).await;
    stack.start_again("gateway", &[]);
    let said = load.finish().await;
    assert!(said.iter().any(|said| said.tries > 1), "the kill was not felt: nothing was proved");
    ids.extend(accepted(&said));
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_hands_over_without_a_pause_and_loses_nothing() {
    let count = commands(2_000) / 2;
    let mut stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::start(&stack, &tenants, count);
    load.reached(count / 4).await;
    assert!(stack.stop("worker-1"), "a drain ends in success:\n{}", stack.log("worker-1"));
    let rows = stack.db().await.query("SELECT 1 FROM workers WHERE name = 'worker-1'", &[]).await.unwrap();
    assert!(rows.is_empty(), "who drains ends its lease");
    load.reached(count / 2).await;
    stack.start_again("worker-1", &[]);
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_under_load_costs_nothing() {
    let count = commands(2_000) / 2;
    let mut stack = Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::start(&stack, &tenants, count);
    for third in 1..=2 {
        load.reached(count * third / 3).await;
        stack.kill_nats();
        stack.restart_nats();
    }
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_under_load_costs_nothing() {
    let count = commands(2_000) / 2;
    let mut stack = Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).own_postgres().start().await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::start(&stack, &tenants, count);
    for third in 1..=2 {
        load.reached(count * third / 3).await;
        stack.kill_postgres();
        stack.restart_postgres();
    }
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

/// The rows are there and the worker does not know it; or they are not, and it does not know that either.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).proxied_postgres().start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::endless(&stack, &tenants);
    for (round, then) in [Then::CutAfter, Then::CutBefore, Then::CutAfter, Then::CutAfter].into_iter().enumerate() {
        stack.postgres_proxy().at(b"COMMIT", then);
        load.goes_on(50).await;
        assert_eq!(stack.postgres_proxy().caught(), round + 1, "no COMMIT was cut off");
    }
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
    assert!(stack.log("worker-1").contains("no answer to COMMIT"), "{}", stack.log("worker-1"));
}

/// The connection is gone, and the server is still at the COMMIT when the worker looks at the rows: nothing is there yet. It decides
/// again, and finds out by the cursor when the first transaction lets go of the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_lands_after_its_connection_was_lost_is_not_repeated() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).proxied_postgres().start().await;
    let (tenants, mut ids) = tenants(&stack, 4).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (new.body::text LIKE '%Slowly%') EXECUTE FUNCTION slow()";
    stack.db().await.batch_execute(slow).await.unwrap();
    let (client, token) = (Client::of(&stack), stack.operator_token());
    for (round, tenant) in tenants.iter().enumerate() {
        stack.postgres_proxy().at(b"COMMIT", Then::CutAfter);
        let path = format!("/v1/tenants/{}", tenant.id);
        let said = client.insist(Method::PATCH, &path, &token, "slowly", &json!({ "name": "Slowly" })).await;
        assert_eq!(stack.postgres_proxy().caught(), round + 1);
        ids.insert(said.answer.expect(200).text_at("/commandId"));
    }
    stack.db().await.batch_execute("DROP TRIGGER slow ON events").await.unwrap();
    ids.extend(accepted(&Load::start(&stack, &tenants, 60).finish().await));
    assert_sound(&stack, &ids, true).await;
}

/// What settles a publish without a known end publishes too, and that can be cut off just the same; transactions go on all the while.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_cut_off_again_and_again_is_settled_each_time() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).proxied_nats().env("CHANCERY_PUBLISH_TIMEOUT_MS", 700).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::endless(&stack, &tenants);
    let proxy = stack.nats_proxy();
    for (round, then) in [Then::CutAfter, Then::CutBefore, Then::CutAfter].into_iter().cycle().take(9).enumerate() {
        // Only events name a fence that must be the last.
        proxy.at(b"Nats-Expected-Last-Subject-Sequence-Subject", then);
        wait_until("a publish is cut off", async || proxy.caught() > round).await;
    }
    load.goes_on(50).await;
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

/// A delivery without acknowledgement is gone with its connection. Where nothing follows it in its partition, no gap ever shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_delivery_was_lost_with_the_connection_is_read_again_though_nothing_follows() {
    let stack = Stack::builder().proxied_nats().start().await;
    let (tenants, mut ids) = tenants(&stack, 4).await;
    let token = stack.operator_token();
    for tenant in &tenants {
        // Whoever is still beginning again after the cut before would not get through any more.
        wait_until("the reader listens", async || is_listening(&stack, &tenant.id).await).await;
        stack.nats_proxy().hold_answers(true);
        let path = format!("/v1/tenants/{}", tenant.id);
        let later = [("prefer", "respond-async")];
        let said = stack.call(Method::PATCH, &path, &token, &later, &json!({ "name": "Said once" })).await;
        ids.insert(said.expect(202).text_at("/commandId"));
        wait_until("the command is on its way to the worker", async || nothing_waits(&stack).await).await;
        stack.nats_proxy().cut();
        stack.nats_proxy().hold_answers(false);
        assert_sound(&stack, &ids, false).await;
    }
}

/// Whether the reader of a tenant's partition waits for commands.
async fn is_listening(stack: &Stack, tenant: &str) -> bool {
    let stream = stack.jetstream().await.get_stream(names::COMMANDS).await.unwrap();
    let filter = subjects::command_filter(subjects::partition(tenant, 64));
    let readers: Vec<_> = stream.consumers().map(Result::unwrap).collect().await;
    readers.iter().any(|reader| reader.config.filter_subject == filter && reader.num_waiting > 0)
}

/// Whether the server has sent every command to its reader.
async fn nothing_waits(stack: &Stack) -> bool {
    let mut stream = stack.jetstream().await.get_stream(names::COMMANDS).await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let readers: Vec<_> = stream.consumers().map(Result::unwrap).collect().await;
    readers.iter().all(|reader| reader.num_pending == 0) && readers.iter().any(|reader| reader.delivered.stream_sequence == last)
}

/// Connections that break all at once, and servers that answer nothing for a while.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_and_held_cost_nothing() {
    let stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).proxied_postgres().proxied_nats().start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let load = Load::endless(&stack, &tenants);
    for _ in 0..3 {
        stack.postgres_proxy().cut();
        load.goes_on(50).await;
        stack.nats_proxy().cut();
        load.goes_on(50).await;
    }
    // PubAcks that come too late are PubAcks that never came.
    stack.nats_proxy().hold_answers(true);
    load.goes_on(0).await;
    stack.nats_proxy().cut();
    stack.nats_proxy().hold_answers(false);
    load.goes_on(50).await;
    stack.nats_proxy().refuse(true);
    stack.postgres_proxy().refuse(true);
    stack.nats_proxy().refuse(false);
    stack.postgres_proxy().refuse(false);
    load.goes_on(50).await;
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_deleted_and_created_anew_goes_on() {
    let stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, TENANTS).await;
    let (client, token, body) = (Client::of(&stack), stack.operator_token(), tenant_body());
    let old = client.insist(Method::POST, "/v1/tenants", &token, "old", &body).await.answer.expect(201);
    ids.insert(old.text_at("/commandId"));
    ids.extend(accepted(&Load::start(&stack, &tenants, 200).finish().await));
    let before = assert_sound(&stack, &ids, true).await;

    let jetstream = stack.jetstream().await;
    jetstream.delete_stream("COMMANDS").await.unwrap();
    assert_eq!(blocking(|| stack.provision()).streams, 1);

    ids.extend(accepted(&Load::start(&stack, &tenants, 200).finish().await));
    let again = client.insist(Method::POST, "/v1/tenants", &token, "old", &body).await.answer.expect(201);
    assert_eq!(again.body, old.body, "older outcomes are kept");
    let after = assert_sound(&stack, &ids, true).await;
    let kept = before.outcomes.iter().all(|outcome| after.outcomes.contains(outcome));
    assert!(kept && after.events.len() > before.events.len());
    let renamed = json!({ "name": "Renamed after all" });
    client.insist(Method::PATCH, &format!("/v1/tenants/{}", tenants[0].id), &token, "new", &renamed).await.answer.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reads_again_although_a_connection_takes_longer_to_make_than_a_request_waits() {
    let mut stack = Stack::builder().start().await;
    let (url, proxy) = stack.proxied(Role::Gateway).await;
    assert!(stack.stop("gateway"));
    stack.start_again("gateway", &[("DATABASE_URL", &url)]);
    let (tenants, _) = tenants(&stack, 1).await;
    let path = format!("/v1/tenants/{}", tenants[0].id);
    let token = stack.operator_token();
    // A log-in takes three answers, and a request waits for two seconds.
    proxy.delay(Way::Answers, Duration::from_millis(900), Duration::ZERO);
    proxy.cut();
    let mut statuses = Vec::new();
    wait_until("the gateway reads", async || {
        statuses.push(stack.get(&path, &token).await.status);
        statuses.last() == Some(&200)
    })
    .await;
    assert_eq!(statuses[0], 503, "making a connection did not take long enough: nothing was proved");
}
