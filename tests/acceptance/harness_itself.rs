//! The harness: its faults happen, and its ends are ends. A test built on it can only be trusted if these hold.

use chancery::role::{Consumer, Role};
use serde_json::Value;

use crate::harness::{Answer, Builder, Stack, blocking, wait_until};

fn everything() -> Builder {
    Stack::builder().gateways(2).workers(2).consumers(&[Consumer::Audit]).env("CHANCERY_LOG", "info")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_starts_and_its_processes_can_be_killed_frozen_and_started_again() {
    let mut stack = everything().proxied_postgres().proxied_nats().start().await;
    let answer: Answer = stack.get("/readyz", &stack.operator_token()).await.expect(200);
    assert!(answer.header("content-type").is_some() && stack.gateway_url().starts_with("http://127.0.0.1:"));

    stack.kill9("worker-1");
    assert!(stack.process("worker-1").ended().is_some_and(|status| !status.success()));
    stack.start_again("worker-1", &[("CHANCERY_LOG", "debug")]);
    stack.freeze("worker-2");
    // The signal reaches one thread after the other.
    wait_until("the frozen worker answers nothing", async || !stack.process("worker-2").ready()).await;
    stack.thaw("worker-2");
    wait_until("the thawed worker answers", async || stack.process("worker-2").ready()).await;
    assert!(stack.stop("worker-2"), "SIGTERM ends in success:\n{}", stack.log("worker-2"));
    stack.start_another("worker-3", Role::Worker, &[]);
    stack.postgres_proxy().cut();
    stack.nats_proxy().cut();
    assert!(stack.mail_folder().is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_keep_what_they_have_when_they_are_killed_and_started_again() {
    let mut stack = Stack::builder().gateways(0).workers(0).own_postgres().sync(chancery::servers::nats::Sync::Always).start().await;
    stack.db().await.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await.unwrap();
    let jetstream = stack.jetstream().await;
    let config = async_nats::jetstream::stream::Config { name: "KEPT".into(), subjects: vec!["kept".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept", "seven".into()).await.unwrap().await.unwrap();

    stack.kill_postgres();
    stack.restart_postgres();
    let row = stack.db().await.query_one("SELECT n FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    stack.restart_postgres();
    stack.kill_nats();
    stack.restart_nats();
    stack.restart_nats();
    let kept = stack.jetstream().await.get_stream("KEPT").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(&kept.payload[..], b"seven");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_test_has_a_database_of_its_own() {
    let one = Stack::builder().gateways(0).workers(0).start().await;
    let two = Stack::builder().gateways(0).workers(0).start().await;
    one.db().await.batch_execute("CREATE TABLE mine (n int)").await.unwrap();
    assert!(two.db().await.query("SELECT * FROM mine", &[]).await.is_err());
    assert_eq!(blocking(|| 7), 7);
    assert_ne!(one.config().database_url, two.config().database_url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_say_anything_and_hears_the_answer() {
    let stack = Stack::builder().workers(0).start().await;
    let token = stack.token("user_01890a5d-ac96-774b-bcce-b302099a8057", "tenant_01890a5d-ac96-774b-bcce-b302099a8057", "");
    let answer = stack.post("/v1/nothing-of-that-kind", &token, &Value::from("x")).await;
    assert_eq!(answer.status, 404, "{}", answer.text);
    let raw = stack.send(hyper::Method::GET, "/livez", &[("x-any", "thing")], Vec::new()).await.unwrap();
    assert_eq!(raw.status, 200);
    let answer = Answer { body: serde_json::json!({ "events": [{ "id": "evt_1" }] }), ..raw };
    assert_eq!(answer.text_at("/events/0/id"), "evt_1");
}
