//! `chancery doctor` and `chancery status` on a stack in which things are broken one after the other.

use std::time::Duration;

use chancery::{
    privilege::nats::User,
    role::{Consumer, Role},
};
use serde_json::Value;
use subjects::stream;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    harness::{Stack, blocking, wait_until},
    recovery::{command, run, run_with},
};

/// What doctor says about a stack, with the places of its roles and of its nats-server.
async fn doctor(stack: &Stack, environment: &[(&str, &str)]) -> (Option<i32>, Vec<(String, String, String)>) {
    let (parts, monitor) = stack.parts();
    let roles = parts.iter().filter_map(|part| part.admin.map(|admin| format!("{}={admin}", part.name))).collect::<Vec<_>>().join(",");
    let ran = run_with(stack, &["doctor", "--json", "--role", &roles, "--monitor", &monitor.to_string()], environment).await;
    let said = ran.json();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = said["findings"].as_array().unwrap().iter().map(|finding| (text(finding, "level"), text(finding, "what"), text(finding, "found")));
    (ran.code, findings.collect())
}

/// The servers of tests do not wait for their disks, and doctor says so each time.
const OF_TESTS: &str = "PostgreSQL: fsync is off";

/// What is wrong besides, `what: found` each.
async fn wrong(stack: &Stack) -> Vec<String> {
    let (code, findings) = doctor(stack, &[]).await;
    let mut wrong: Vec<String> =
        findings.into_iter().filter(|(level, ..)| level == "wrong").map(|(_, what, found)| format!("{what}: {found}")).collect();
    assert_eq!(code, Some(i32::from(!wrong.is_empty())), "the exit code says whether anything is wrong: {wrong:?}");
    wrong.retain(|wrong| !wrong.starts_with(OF_TESTS));
    wrong
}

/// Waits until this is wrong, and whatever follows from it.
async fn becomes_wrong(stack: &Stack, what: &str) {
    wait_until(&format!("doctor to say {what:?}"), async || {
        let wrong = wrong(stack).await;
        wrong.iter().for_each(|wrong| println!("wrong: {wrong}"));
        wrong.iter().any(|wrong| wrong.starts_with(what))
    })
    .await;
}

async fn becomes_sound(stack: &Stack) {
    wait_until("doctor to find nothing wrong", async || {
        let wrong = wrong(stack).await;
        // The last of these lines tells why a test failed.
        wrong.iter().for_each(|wrong| println!("still wrong: {wrong}"));
        wrong.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_finds_nothing_wrong_with_a_sound_stack_and_names_whatever_is_broken() {
    let mut stack = Stack::builder().workers(2).consumers(&Consumer::ALL).start().await;
    becomes_sound(&stack).await;
    let (_, findings) = doctor(&stack, &[]).await;
    let level_of = |what: &str| findings.iter().find(|finding| finding.1.starts_with(what)).map(|finding| finding.0.clone());
    // One copy is enough for development, and is said.
    assert_eq!(level_of("replicas").as_deref(), Some("warning"));
    assert_eq!(level_of("fsync of").as_deref(), Some("warning"));
    assert!(findings.iter().any(|(_, what, found)| format!("{what}: {found}").starts_with(OF_TESTS)), "{findings:#?}");

    stack.kill9("audit");
    becomes_wrong(&stack, "audit: nobody answers").await;
    stack.start_again("audit", &[]);
    becomes_sound(&stack).await;

    stack.kill9("worker-1");
    stack.kill9("worker-2");
    becomes_wrong(&stack, "partitions: 64 of 64 have no worker").await;
    stack.start_again("worker-1", &[]);
    stack.start_again("worker-2", &[]);
    becomes_sound(&stack).await;

    let jetstream = stack.jetstream().await;
    jetstream.delete_stream(stream::ADVISORIES).await.unwrap();
    becomes_wrong(&stack, "stream ADVISORIES: does not exist").await;
    jetstream.delete_consumer_from_stream("logging", stream::EVENTS).await.unwrap();
    becomes_wrong(&stack, "durable logging: does not exist").await;
    blocking(|| stack.provision());
    becomes_sound(&stack).await;

    let db = stack.db().await;
    db.batch_execute("UPDATE schema_versions SET version = version - 1, oldest = 0 WHERE owner = 'audit'").await.unwrap();
    becomes_wrong(&stack, "schema audit: is at").await;
    db.batch_execute("UPDATE schema_versions SET version = version + 1 WHERE owner = 'audit'").await.unwrap();

    // Who is not the operator is told so, and not that something is missing.
    let as_consumer = stack.nats.url_as(User::of(Role::Consumer(Consumer::Logging)));
    let (code, findings) = doctor(&stack, &[("CHANCERY_NATS_URL", &as_consumer)]).await;
    assert_eq!(code, Some(1));
    assert!(findings.iter().any(|(level, _, found)| level == "wrong" && found.contains("does not let user logging publish to")), "{findings:#?}");

    stack.kill_nats();
    becomes_wrong(&stack, "NATS: ").await;
    stack.restart_nats();
    becomes_sound(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_not_running_is_named_with_what_waits_for_it() {
    let mut stack = Stack::builder().consumers(&Consumer::ALL).start().await;
    let operator = stack.operator_token();
    assert!(stack.stop("logging"));
    let body =
        serde_json::json!({ "slug": "waits", "name": "Waits", "plan": "starter", "owner": { "email": "ada@waits.example", "fullName": "Ada" } });
    assert_eq!(stack.post("/v1/tenants", &operator, &body).await.status, 201);
    becomes_wrong(&stack, "consumer logging: is not running: nobody asks for its events; 3 events wait").await;

    let seen = run(&stack, &["status", "--json"]).await.expect(0).json();
    let consumer = |name: &str| seen["consumers"].as_array().unwrap().iter().find(|consumer| consumer["name"] == name).unwrap().clone();
    assert_eq!((consumer("logging")["pending"].as_u64(), consumer("audit")["pending"].as_u64()), (Some(3), Some(0)));
    assert!(consumer("logging")["oldestSeconds"].as_f64().unwrap() > 0.0 && consumer("audit")["oldestSeconds"].is_null(), "{seen:#}");
    let owners = seen["partitions"]["owners"].as_array().unwrap();
    assert_eq!((owners.len(), owners[0]["partitions"].as_u64(), seen["partitions"]["events"].as_u64()), (1, Some(64), Some(3)));
    let text = run(&stack, &["status"]).await.expect(0).out;
    assert!(text.contains("worker-1") && text.lines().any(|line| line.starts_with("logging") && line.ends_with("nobody asks")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_and_not_decided_is_counted_and_watched() {
    let mut stack = Stack::builder().start().await;
    let operator = stack.operator_token();
    let mut watching =
        command(&stack, &["status", "--json", "--watch", "1"], &[]).stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("a line in time").unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(next().await["undecided"]["count"], 0);
    stack.kill9("worker-1");
    let body = |number: usize| {
        serde_json::json!({ "slug": format!("slow-{number}"), "name": "Slow", "plan": "starter",
            "owner": { "email": format!("ada@slow-{number}.example"), "fullName": "Ada" } })
    };
    for number in 0..3 {
        let answer = stack.call(hyper::Method::POST, "/v1/tenants", &operator, &[("Prefer", "respond-async")], &body(number)).await;
        assert_eq!(answer.status, 202);
    }
    let mut seen = next().await;
    while seen["undecided"]["count"] != 3 {
        seen = next().await;
    }
    assert!(seen["undecided"]["oldestSeconds"].as_f64().unwrap() >= 0.0, "{seen:#}");
    stack.start_again("worker-1", &[]);
    while seen["undecided"]["count"] != 0 || seen["partitions"]["events"] != 9 {
        seen = next().await;
    }
}
