//! Event streams: nothing lost and nothing twice over restarts, one's own tenant only, ended with the right to read.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use subjects::stream as names;

use super::load::{Client, Tenant, fresh, person, tenants};
use crate::harness::{EventStream, Received, Stack, blocking, wait_until};

/// Renames a tenant so often, whoever is down meanwhile: one event each.
async fn rename(stack: &Stack, tenant: &Tenant, times: usize) {
    let (client, token, path) = (Client::of(stack), stack.operator_token(), format!("/v1/tenants/{}", tenant.id));
    for _ in 0..times {
        client.insist(Method::PATCH, &path, &token, &fresh("key"), &json!({ "name": fresh("Name") })).await.answer.expect(200);
    }
}

fn sequences(received: &[Received]) -> Vec<u64> {
    received.iter().map(Received::sequence).collect()
}

/// Waits until everything written is in the stream.
async fn published(stack: &Stack) {
    let left = "SELECT count(*) FROM partitions WHERE mark_sequence < sequence";
    wait_until("everything is published", async || stack.db().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
}

async fn create_events_anew(stack: &Stack) {
    stack.jetstream().await.delete_stream(names::EVENTS).await.unwrap();
    blocking(|| stack.provision());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_goes_on_over_restarts_of_gateway_and_broker_and_a_stream_created_anew() {
    let mut stack = Stack::builder().gateways(2).start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    let token = stack.token(&tenant.owner, &tenant.id, "");
    let mut stream = stack.events(&tenant.id, &token, "", "").await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    rename(&stack, &tenant, 3).await;
    let first = stream.take(3).await;
    let begin = first[0].sequence();
    // A stream that was opened without an id begins with what is new; and what it says of itself is its place in EVENTS.
    let events = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let life = runtime::streams::incarnation(events.cached_info());
    let subject = subjects::event(tenant.id.parse().unwrap(), "tenant.updated");
    let place = events.get_last_raw_message_by_subject(&subject).await.unwrap().sequence;
    assert_eq!(first[2].id, format!("{life}-{place}-{}", begin + 2));

    // The gateway is asked to end, and ends its streams.
    assert!(stack.stop("gateway"), "{}", stack.log("gateway"));
    assert!(stream.next().await.is_none());
    rename(&stack, &tenant, 3).await;
    stack.start_again("gateway", &[]);
    let mut stream = stack.events(&tenant.id, &token, "", &stream.last_id).await;
    rename(&stack, &tenant, 2).await;
    assert_eq!(sequences(&stream.take(5).await), (begin + 3..begin + 8).collect::<Vec<_>>());

    // The gateway is killed. The client knows its last id.
    stack.kill9("gateway");
    assert!(stream.next().await.is_none());
    rename(&stack, &tenant, 2).await;
    stack.start_again("gateway", &[]);
    let mut stream = stack.events(&tenant.id, &token, "", &stream.last_id).await;
    assert_eq!(sequences(&stream.take(2).await), [begin + 8, begin + 9]);

    // The broker is killed while the stream is open, and before anything follows.
    rename(&stack, &tenant, 1).await;
    stack.kill_nats();
    stack.restart_nats();
    rename(&stack, &tenant, 3).await;
    assert_eq!(sequences(&stream.take(4).await), (begin + 10..begin + 14).collect::<Vec<_>>());

    // EVENTS is created anew while the stream is open; and an id of its former life is resumed.
    let former = stream.last_id.clone();
    rename(&stack, &tenant, 2).await;
    published(&stack).await;
    create_events_anew(&stack).await;
    rename(&stack, &tenant, 2).await;
    let expected: Vec<u64> = (begin + 14..begin + 18).collect();
    assert_eq!(sequences(&stream.take(4).await), expected);
    let mut resumed = stack.events(&tenant.id, &token, "", &former).await;
    assert_eq!(sequences(&resumed.take(4).await), expected);
    // And both go on.
    rename(&stack, &tenant, 1).await;
    assert_eq!(sequences(&stream.take(1).await), [begin + 18]);
    assert_eq!(sequences(&resumed.take(1).await), [begin + 18]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_has_everything_though_little_is_held_for_it() {
    let stack = Stack::builder().env("CHANCERY_STREAM_BUFFER", 2).start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    let token = stack.token(&tenant.owner, &tenant.id, "");
    let mut stream = stack.events(&tenant.id, &token, "", "").await;
    let client = Client::of(&stack);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (client, token, path) = (client.clone(), stack.operator_token(), format!("/v1/tenants/{}", tenant.id));
        all.spawn(
            async move { client.insist(Method::PATCH, &path, &token, &fresh("key"), &json!({ "name": fresh("Name") })).await.answer.expect(200) },
        );
    }
    all.join_all().await;
    let received = sequences(&stream.take(200).await);
    assert_eq!(received, (received[0]..received[0] + 200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_has_its_own_tenant_the_types_asked_for_and_no_secret() {
    let stack = Stack::builder().start().await;
    let (tenants, _) = tenants(&stack, 2).await;
    let tokens: Vec<String> = tenants.iter().map(|tenant| stack.token(&tenant.owner, &tenant.id, "")).collect();
    let mut all = stack.events(&tenants[0].id, &tokens[0], "", "").await;
    let mut some = stack.events(&tenants[0].id, &tokens[0], "?types=user.created,invitation.*", "").await;
    let operator = stack.operator_token();
    for tenant in [&tenants[1], &tenants[0]] {
        let path = |rest: &str| format!("/v1/tenants/{}/{rest}", tenant.id);
        let address = json!({ "email": format!("{}@example.com", fresh("i")) });
        let invitation = stack.post(&path("invitations"), &operator, &address).await.expect(201).text_at("/aggregateId");
        stack.post(&path(&format!("invitations/{invitation}/send")), &operator, &json!({})).await.expect(200);
        // What is not asked for comes before what is.
        rename(&stack, tenant, 1).await;
        stack.post(&path("users"), &operator, &person(1)).await.expect(201);
    }
    let expected = ["invitation.created", "invitation.sent", "tenant.updated", "user.created"];
    let received = all.take(4).await;
    assert_eq!(received.iter().map(|received| received.event.as_str()).collect::<Vec<_>>(), expected);
    let types: Vec<String> = some.take(3).await.into_iter().map(|received| received.event).collect();
    assert_eq!(types, ["invitation.created", "invitation.sent", "user.created"]);
    let hashes = "SELECT count(*) FROM events WHERE body::text LIKE '%tokenHash%'";
    assert!(stack.db().await.query_one(hashes, &[]).await.unwrap().get::<_, i64>(0) >= 4, "there is a secret to be hidden");
    // From the stream and from the table.
    let again = stack.events(&tenants[0].id, &tokens[0], "", &format!("0-0-{}", received[0].sequence() - 1)).await.take(4).await;
    for (live, table) in received.iter().zip(&again) {
        assert_eq!(live.data["tenantId"], tenants[0].id.as_str());
        assert!(!live.data.to_string().contains("tokenHash"), "{}", live.data);
        assert_eq!(live.data, table.data);
    }
    let refused = EventStream::open(stack.gateways()[0], &format!("/v1/tenants/{}/events", tenants[1].id), &tokens[0], "").await;
    assert_eq!(refused.err().map(|(status, _)| status), Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_with_the_right_to_read() {
    let stack = Stack::builder().gateways(2).start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    let operator = stack.operator_token();
    let user = json!({ "email": format!("{}@example.com", fresh("a")), "fullName": "Ad Min", "role": "admin" });
    let user = stack.post(&format!("/v1/tenants/{}/users", tenant.id), &operator, &user).await.expect(201).text_at("/aggregateId");
    let token = stack.token(&user, &tenant.id, "");
    let mut stream = stack.events(&tenant.id, &token, "", "").await;
    let role = format!("/v1/tenants/{}/members/{user}/role", tenant.id);
    rename(&stack, &tenant, 1).await;
    assert_eq!(stream.take(1).await[0].event, "tenant.updated");
    stack.post(&role, &operator, &json!({ "role": "member" })).await.expect(200);
    rename(&stack, &tenant, 1).await;
    // What tells of the loss is not theirs to read any more, and nothing after it.
    let after = async |stream: &mut EventStream| {
        let mut seen = Vec::new();
        while let Some(received) = stream.next().await {
            seen.push(received.event);
        }
        seen
    };
    assert_eq!(after(&mut stream).await, [""; 0]);
    let refused = EventStream::open(stack.gateways()[0], &format!("/v1/tenants/{}/events", tenant.id), &token, "").await;
    assert_eq!(refused.err().map(|(status, _)| status), Some(403));
    // A token ends, too.
    let short = stack.short_token(&tenant.owner, &tenant.id, Duration::from_secs(2));
    let mut stream = stack.events(&tenant.id, &short, "", "").await;
    assert_eq!(after(&mut stream).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_with_the_right_to_read_though_no_event_tells() {
    let mut stack = Stack::builder().start().await;
    let tenant = tenants(&stack, 1).await.0.remove(0);
    let token = stack.token(&tenant.owner, &tenant.id, "");
    let mut stream = stack.events(&tenant.id, &token, "", "").await;
    stack.kill_nats();
    let lost = "UPDATE aggregates SET state = state || '{\"role\":\"readonly\"}' WHERE kind = 'membership'";
    stack.db().await.execute(lost, &[]).await.unwrap();
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_shows_life_and_only_so_many_are_open() {
    let limits = [("CHANCERY_STREAM_HEARTBEAT_MS", 100), ("CHANCERY_STREAMS", 2), ("CHANCERY_STREAMS_PER_CALLER", 1)];
    let stack = limits.into_iter().fold(Stack::builder(), |builder, (name, value)| builder.env(name, value)).start().await;
    let (tenants, _) = tenants(&stack, 3).await;
    let open = async |tenant: &Tenant| {
        let token = stack.token(&tenant.owner, &tenant.id, "");
        EventStream::open(stack.gateways()[0], &format!("/v1/tenants/{}/events", tenant.id), &token, "").await
    };
    let mut first = open(&tenants[0]).await.unwrap();
    first.lives().await;
    first.lives().await;
    assert_eq!(open(&tenants[0]).await.err().map(|(status, _)| status), Some(429));
    let second = open(&tenants[1]).await.unwrap();
    assert_eq!(open(&tenants[2]).await.err().map(|(status, _)| status), Some(503));
    drop((first, second));
    wait_until("the places are free again", async || open(&tenants[2]).await.is_ok()).await;
}
