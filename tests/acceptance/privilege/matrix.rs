//! Every user at NATS, and every subject of the table.

use std::collections::BTreeSet;

use chancery::{
    manifest::Manifest,
    privilege::nats::{User, permissions},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::table::{Case, Verb, cases, users};
use crate::harness::Stack;

/// Tries every case as this user, over a connection that speaks the protocol itself; the subjects that the server refused.
async fn refused(stack: &Stack, user: User, cases: &[Case]) -> BTreeSet<(Verb, String)> {
    let (read, mut write) = TcpStream::connect(("127.0.0.1", stack.nats.port())).await.unwrap().into_split();
    let mut lines = BufReader::new(read).lines();
    let hello = json!({ "user": user.name(), "pass": stack.nats.password(user), "verbose": false, "pedantic": false, "headers": true,
        "no_responders": true, "protocol": 1, "lang": "test", "version": "1" });
    let mut text = format!("CONNECT {hello}\r\n");
    for (number, case) in cases.iter().enumerate() {
        match case.verb {
            // Whatever is allowed must do no harm: no stream is of that name, and no request to JetStream reads so.
            Verb::Publish => {
                let header = "NATS/1.0\r\nNats-Expected-Stream: none\r\n\r\n";
                let size = header.len();
                text.push_str(&format!("HPUB {} {size} {}\r\n{header}x\r\n", case.subject, size + 1));
            }
            Verb::Subscribe => text.push_str(&format!("SUB {} {}\r\n", case.subject, number + 1)),
        }
    }
    text.push_str("PING\r\n");
    write.write_all(text.as_bytes()).await.unwrap();
    let mut refused = BTreeSet::new();
    loop {
        let line = lines.next_line().await.unwrap().expect("the server closed the connection");
        if line == "PONG" {
            return refused;
        }
        let Some(error) = line.strip_prefix("-ERR '") else { continue };
        let verb = if error.starts_with("Permissions Violation for Publish") { Verb::Publish } else { Verb::Subscribe };
        let subject = error.split('"').nth(1).unwrap_or_else(|| panic!("{}: {line}", user.name()));
        assert!(error.starts_with("Permissions Violation for "), "{}: {line}", user.name());
        refused.insert((verb, subject.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_may_do_at_nats_what_the_table_says_and_nothing_else() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let cases = cases();
    let mut wrong = Vec::new();
    let mut may = Vec::new();
    for user in users() {
        let refused = refused(&stack, user, &cases).await;
        let allowed: Vec<bool> = cases.iter().map(|case| !refused.contains(&(case.verb, case.subject.clone()))).collect();
        for (case, allowed) in cases.iter().zip(&allowed) {
            if *allowed != case.who.contains(&user.name()) {
                let what = if *allowed { "may, and must not," } else { "may not, and must," };
                wrong.push(format!("{} {what} {:?} {} ({})", user.name(), case.verb, case.subject, case.what));
            }
        }
        may.push(allowed);
    }
    for (number, case) in cases.iter().enumerate() {
        let marks: String = may.iter().map(|allowed| if allowed[number] { " ×" } else { " ·" }).collect();
        println!("{marks}  {:?} {}", case.verb, case.subject);
    }
    println!("{} users, {} cases each", may.len(), cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_permission_stands_in_the_table() {
    let cases = cases();
    for user in users() {
        let of = |verb: Verb, pattern: &str| {
            let covers = |case: &Case| case.verb == verb && case.who.contains(&user.name()) && subjects::matches(pattern, &case.subject);
            assert!(cases.iter().any(covers), "{} may {verb:?} {pattern}, and no line of the table needs it", user.name());
        };
        let permissions = permissions(Manifest::with_examples(), user);
        permissions.publish.iter().for_each(|pattern| of(Verb::Publish, pattern));
        permissions.subscribe.iter().for_each(|pattern| of(Verb::Subscribe, pattern));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_takes_no_more_than_the_subject_says_that_makes_it() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let client = chancery::connect::nats(&stack.nats.url_as(User::Gateway), "test").await.unwrap();
    let tenant = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
    let make = async |name: &str, filters: serde_json::Value| {
        let mut config = json!({ "name": name, "ack_policy": "none", "deliver_policy": "all", "inactive_threshold": 10_000_000_000_u64 });
        config.as_object_mut().unwrap().extend(filters.as_object().unwrap().clone());
        let subject = format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}.evt.{tenant}.>");
        let body = json!({ "stream_name": "EVENTS", "config": config }).to_string();
        let answer = client.request(subject, body.into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        answer["error"]["description"].as_str().map(str::to_owned)
    };
    assert_eq!(make("right", json!({ "filter_subject": format!("evt.{tenant}.>") })).await, None);
    for (name, filters) in [
        ("wider", json!({ "filter_subject": "evt.>" })),
        ("several", json!({ "filter_subjects": ["evt.>"] })),
        ("both", json!({ "filter_subject": format!("evt.{tenant}.>"), "filter_subjects": ["evt.>"] })),
        ("none", json!({})),
        ("durable", json!({ "filter_subject": format!("evt.{tenant}.>"), "durable_name": "audit" })),
    ] {
        assert!(make(name, filters).await.is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_no_servers_and_the_system_user_no_messages() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let operator = chancery::connect::nats(&stack.nats.url_as(User::Operator), "test").await.unwrap();
    assert!(operator.request("$SYS.REQ.SERVER.PING.VARZ", "".into()).await.is_err());
    let system = chancery::connect::nats(&stack.nats.url_as(User::System), "test").await.unwrap();
    assert!(system.request("$SYS.REQ.SERVER.PING.VARZ", "".into()).await.is_ok());
    let refused = async_nats::jetstream::new(system).get_stream("EVENTS").await;
    assert!(refused.is_err());
}
