//! A bad command costs itself only: its neighbours in the batch, in the tenant and in the partition live.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{HeaderMap, jetstream::message::StreamMessage};
use chancery::role::{Consumer, Role};
use hyper::Method;
use serde_json::{Value, json, value::RawValue};
use subjects::{Actor, Authority, CommandId, CommandMessage, TenantId, header, stream as names};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    history::{assert_sound, read},
    load::{Client, Load, Tenant, accepted, fresh, tenants},
};
use crate::harness::{Stack, wait_until};

/// A command to a tenant as the gateway would send it.
fn message(tenant: &Tenant, command: &str, data: &Value) -> CommandMessage {
    let id = CommandId::new(Uuid::now_v7());
    CommandMessage {
        id,
        command_type: format!("tenant.{command}"),
        tenant_id: tenant.id.parse().unwrap(),
        aggregate_id: tenant.id.clone(),
        actor: Actor::System,
        authority: Authority::System,
        timestamp: OffsetDateTime::now_utc(),
        correlation_id: id.to_string(),
        causation_id: None,
        if_match: None,
        fingerprint: None,
        keyed: false,
        ip_address: None,
        user_agent: None,
        data: RawValue::from_string(data.to_string()).unwrap(),
    }
}

/// Where a command for the tenant belongs.
fn subject(tenant: &Tenant, aggregate: &str, command: &str) -> String {
    format!("cmd.{}.{}.{aggregate}.{command}", subjects::partition(&tenant.id, 64), tenant.id)
}

/// A trace, as headers carry it.
const TRACE: [(&str, &str); 2] =
    [(header::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"), (header::TRACESTATE, "vendor=something")];

/// Puts bytes into COMMANDS past the gateway; gives their sequence.
async fn publish(stack: &Stack, subject: String, id: CommandId, payload: Vec<u8>) -> u64 {
    let mut headers = HeaderMap::new();
    headers.insert(header::MESSAGE_ID, id.to_string());
    TRACE.iter().for_each(|(name, value)| headers.insert(*name, *value));
    let jetstream = stack.jetstream().await;
    let ack = jetstream.publish_with_headers(subject, headers, payload.into()).await.unwrap();
    ack.await.unwrap().sequence
}

/// The dead letter on this subject, once it is there.
async fn dead_letter(stack: &Stack, subject: &str) -> StreamMessage {
    let stream = stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap();
    wait_until(&format!("a dead letter on {subject}"), async || stream.get_last_raw_message_by_subject(subject).await.is_ok()).await;
    stream.get_last_raw_message_by_subject(subject).await.unwrap()
}

async fn dead_letters(stack: &Stack) -> u64 {
    stack.jetstream().await.get_stream(names::DEADLETTERS).await.unwrap().cached_info().state.messages
}

fn head<'a>(letter: &'a StreamMessage, name: &str) -> &'a str {
    letter.headers.get(name).map_or("", |value| value.as_str())
}

async fn status(stack: &Stack, id: &str) -> Value {
    stack.get(&format!("/v1/commands/{id}"), &stack.operator_token()).await.expect(200).body
}

/// Renames under a key; everything before it in the tenant is decided when it is answered.
async fn rename(stack: &Stack, tenant: &Tenant, name: &str) -> crate::harness::Answer {
    let path = format!("/v1/tenants/{}", tenant.id);
    Client::of(stack).insist(Method::PATCH, &path, &stack.operator_token(), &fresh("key"), &json!({ "name": name })).await.answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_message_is_dead_lettered_and_its_neighbours_live() {
    let stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, 4).await;
    let load = Load::endless(&stack, &tenants);
    load.reached(20).await;
    // No JSON, no UTF-8, another shape, data that does not fit, another tenant's subject.
    let foreign = message(&tenants[1], "update", &json!({ "name": "Mine now" }));
    let misfit = message(&tenants[0], "update", &json!({ "name": 7 }));
    let cases: [(CommandId, Vec<u8>, &str); 5] = [
        (CommandId::new(Uuid::now_v7()), b"no json".to_vec(), "undecodable"),
        (CommandId::new(Uuid::now_v7()), vec![0xff, 0x00, 0xfe], "undecodable"),
        (CommandId::new(Uuid::now_v7()), b"[]".to_vec(), "undecodable"),
        (misfit.id, serde_json::to_vec(&misfit).unwrap(), "undecodable"),
        (foreign.id, serde_json::to_vec(&foreign).unwrap(), "mismatch"),
    ];
    for (number, (id, payload, reason)) in cases.into_iter().enumerate() {
        let sequence = publish(&stack, subject(&tenants[0], "tenant", "update"), id, payload.clone()).await;
        assert_eq!(rename(&stack, &tenants[0], "A neighbour").await.status, 200);
        wait_until("one dead letter more", async || dead_letters(&stack).await == number as u64 + 1).await;
        let letter = dead_letter(&stack, "dlq.worker.tenant.update").await;
        assert_eq!((head(&letter, header::REASON), head(&letter, header::CONSUMER)), (reason, "worker"), "{letter:?}");
        assert_eq!(head(&letter, header::ORIGIN_SEQUENCE), sequence.to_string(), "{letter:?}");
        assert!(TRACE.iter().all(|(name, value)| head(&letter, name) == *value), "the trace goes on: {letter:?}");
        assert_eq!(letter.payload, payload, "the letter is the message as it came");
        assert_eq!(status(&stack, &id.to_string()).await["status"], "failed", "who asks hears that it failed");
    }
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}

/// Data that passes every rule of ours and not the database's: here a constraint of the test's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_the_database_refuses_costs_only_itself() {
    let stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, 4).await;
    let constraint = "ALTER TABLE events ADD CONSTRAINT refuses CHECK (body::text NOT LIKE '%poisonous%')";
    stack.db().await.batch_execute(constraint).await.unwrap();
    let load = Load::endless(&stack, &tenants);
    for _ in 0..5 {
        load.goes_on(20).await;
        let answer = rename(&stack, &tenants[0], "A poisonous name").await.expect(500);
        assert_eq!((answer.text_at("/code").as_str(), answer.header("content-type")), ("failed", Some("application/problem+json")));
        assert!(!answer.text.contains("constraint"), "what the database says is not for clients: {}", answer.text);
        let id = answer.text_at("/commandId");
        assert_eq!(status(&stack, &id).await["status"], "failed");
        ids.insert(id);
    }
    ids.extend(accepted(&load.finish().await));
    let letter = dead_letter(&stack, "dlq.worker.tenant.update").await;
    assert!(!head(&letter, header::ERROR).is_empty(), "{letter:?}");
    wait_until("five dead letters", async || dead_letters(&stack).await == 5).await;
    let history = assert_sound(&stack, &ids, true).await;
    let failed = history.outcomes.iter().filter(|outcome| outcome.status == "failed").count();
    assert_eq!(failed, 5, "and nobody else");
}

/// jsonb has no NUL. The gateway takes none, but a reactor's message might carry one.
#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_with_nul_is_failed_and_its_neighbours_live() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, 2).await;
    let path = format!("/v1/tenants/{}/invitations", tenants[0].id);
    let body = json!({ "email": format!("{}@example.com", fresh("i")) });
    let invitation = stack.post(&path, &stack.operator_token(), &body).await.expect(201);
    let load = Load::endless(&stack, &tenants);
    load.reached(20).await;
    let mut bad = message(&tenants[0], "", &json!({ "key": "note", "value": "a\u{0}b" }));
    bad.command_type = "invitation.set_attribute".into();
    bad.aggregate_id = invitation.text_at("/aggregateId");
    publish(&stack, subject(&tenants[0], "invitation", "set_attribute"), bad.id, serde_json::to_vec(&bad).unwrap()).await;
    assert_eq!(rename(&stack, &tenants[0], "A neighbour").await.status, 200);
    let id = bad.id.to_string();
    wait_until("it has failed", async || status(&stack, &id).await["status"] == "failed").await;
    dead_letter(&stack, "dlq.worker.invitation.set_attribute").await;
    ids.extend(accepted(&load.finish().await));
    ids.insert(id);
    let history = assert_sound(&stack, &ids, true).await;
    assert_eq!(history.outcomes.iter().filter(|outcome| outcome.status == "failed").count(), 1, "and nobody else");
}

/// Whatever a well-formed message carries in its free texts, NUL included, it ends in an outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_nul_in_its_texts_stops_nobody() {
    let stack = Stack::builder().start().await;
    let (tenants, mut ids) = tenants(&stack, 2).await;
    let nul = "a\0b".to_owned();
    let spoil: [fn(&mut CommandMessage, String); 4] = [
        |message, nul| message.correlation_id = nul,
        |message, nul| message.user_agent = Some(nul),
        |message, nul| message.ip_address = Some(nul),
        |message, nul| message.fingerprint = Some(nul),
    ];
    for spoil in spoil {
        let mut message = message(&tenants[0], "update", &json!({ "name": fresh("name") }));
        spoil(&mut message, nul.clone());
        publish(&stack, subject(&tenants[0], "tenant", "update"), message.id, serde_json::to_vec(&message).unwrap()).await;
        assert_eq!(rename(&stack, &tenants[0], "A neighbour").await.status, 200);
        ids.insert(message.id.to_string());
    }
    assert_sound(&stack, &ids, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_kills_its_worker_is_condemned_and_its_neighbours_live() {
    let mut stack = Stack::builder().gateways(1).consumers(&[Consumer::Audit]).start().await;
    let (tenants, mut ids) = tenants(&stack, 10).await;
    let deadly = [("CHANCERY_FAILPOINT", "decide.tenant.suspend=abort@1")];
    stack.kill9("worker-1");
    stack.start_again("worker-1", &deadly);
    stack.start_another("worker-2", Role::Worker, &deadly);
    let load = Load::endless(&stack, &tenants);
    load.reached(20).await;
    let victim = message(&tenants[0], "suspend", &json!({}));
    let id = victim.id.to_string();
    publish(&stack, subject(&tenants[0], "tenant", "suspend"), victim.id, serde_json::to_vec(&victim).unwrap()).await;
    let mut crashes = 0;
    wait_until("the command is condemned", async || {
        // As a supervisor does: who ends is started again.
        for name in ["worker-1", "worker-2"] {
            let worker = stack.process(name);
            if worker.ended().is_some() {
                crashes += 1;
                worker.start();
            }
        }
        status(&stack, &id).await["status"] == "failed"
    })
    .await;
    assert!((3..=8).contains(&crashes), "{crashes} crashes");
    for name in ["worker-1", "worker-2"] {
        wait_until("both workers are back", async || stack.process(name).ready()).await;
    }
    load.goes_on(50).await;
    ids.extend(accepted(&load.finish().await));
    ids.insert(id);
    let letter = dead_letter(&stack, "dlq.worker.tenant.suspend").await;
    assert_eq!(head(&letter, header::REASON), "condemned", "{letter:?}");
    let history = assert_sound(&stack, &ids, true).await;
    let failed = history.outcomes.iter().filter(|outcome| outcome.status == "failed").count();
    assert_eq!(failed, 1, "and nobody else");
}

/// After several crashes every partition is suspected: none may wait until another's commands have been tried one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn after_several_crashes_no_partition_waits_for_the_backlog_of_another() {
    let mut stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    let (mut tenants, mut ids) = tenants(&stack, 12).await;
    tenants.sort_by_key(|tenant| subjects::partition(&tenant.id, 64));
    stack.kill9("worker-1");
    let mut rename = async |tenant: &Tenant, name: String| {
        let command = message(tenant, "update", &json!({ "name": name }));
        ids.insert(command.id.to_string());
        publish(&stack, subject(tenant, "tenant", "update"), command.id, serde_json::to_vec(&command).unwrap()).await;
        command.id
    };
    let mut backlog = Vec::new();
    for number in 0..15 {
        backlog.push(rename(&tenants[0], format!("Name {number}")).await);
    }
    let last = rename(&tenants[11], "Only".into()).await;
    // As if workers had crashed again and again, which would take its time.
    stack.db().await.execute("UPDATE partitions SET crashes = 5, crash_at = now()", &[]).await.unwrap();
    stack.start_again("worker-1", &[]);
    wait_until("everything is decided", async || status(&stack, &backlog[14].to_string()).await["status"] == "succeeded").await;
    let db = stack.db().await;
    let decided = async |id: &CommandId| -> OffsetDateTime {
        db.query_one("SELECT decided_at FROM commands WHERE id = $1", &[&id.uuid()]).await.unwrap().get(0)
    };
    assert!(decided(&last).await < decided(&backlog[3]).await, "the only command of a partition was tried behind the backlog of another");
    assert_sound(&stack, &ids, true).await;
}

/// It may come from a newer gateway: it waits, with what is behind it, for a newer worker; the other partitions go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_a_newer_version_stops_its_partition_only_and_is_not_lost() {
    let stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
    let (mut tenants, mut ids) = tenants(&stack, 12).await;
    let stopped = tenants.remove(0);
    let partition = |tenant: &Tenant| subjects::partition(&tenant.id, 64);
    tenants.retain(|tenant| partition(tenant) != partition(&stopped));
    let newer = message(&stopped, "frobnicate", &json!({ "how": "newly" }));
    let sequence = publish(&stack, subject(&stopped, "tenant", "frobnicate"), newer.id, serde_json::to_vec(&newer).unwrap()).await;

    let behind = stack
        .call(Method::PATCH, &format!("/v1/tenants/{}", stopped.id), &stack.operator_token(), &[("prefer", "wait=1")], &json!({ "name": "Later" }))
        .await
        .expect(202);
    ids.extend(accepted(&Load::start(&stack, &tenants, 100).finish().await));
    let commands = BTreeSet::from([newer.id.to_string(), behind.text_at("/commandId")]);
    let decided = read(&stack, &ids, false).await.outcomes.iter().any(|outcome| commands.contains(&outcome.command));
    assert!(!decided, "nothing is decided past it");
    let stream = stack.jetstream().await.get_stream(names::COMMANDS).await.unwrap();
    assert!(stream.get_raw_message(sequence).await.is_ok(), "it waits in the stream");

    // What cannot wait for a newer worker is removed by hand; what was behind it is decided then.
    assert!(stream.delete_message(sequence).await.unwrap());
    let id = behind.text_at("/commandId");
    let begin = std::time::Instant::now();
    while status(&stack, &id).await["status"] != "succeeded" {
        assert!(begin.elapsed() < Duration::from_secs(120), "what was behind it is still not decided");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ids.insert(id);
    assert_sound(&stack, &ids, true).await;
    let tenant: TenantId = stopped.id.parse().unwrap();
    let db = stack.db().await;
    let row = db.query_one("SELECT state ->> 'name' FROM aggregates WHERE tenant_id = $1 AND kind = 'tenant'", &[&tenant.uuid()]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "Later");
}
