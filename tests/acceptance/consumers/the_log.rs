//! One line an event, and nothing about anybody in it.

use std::collections::BTreeMap;

use chancery::role::Consumer;
use hyper::Method;
use serde_json::{Value, json};
use subjects::EventId;

use super::{address, followed, invite, tenant};
use crate::harness::{Stack, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_one_line_of_the_log_and_no_line_says_who_somebody_is() {
    let all = [Consumer::Logging, Consumer::Audit, Consumer::Notifications, Consumer::Onboarding];
    let stack = Stack::builder().consumers(&all).env("CHANCERY_LOG_FORMAT", "json").start().await;
    let tenant = tenant(&stack).await;
    let (guest, person) = (address("guest"), address("person"));
    let invitation = invite(&stack, &tenant, &guest).await;
    let user = json!({ "email": person, "fullName": "Zebedee Quux", "role": "member" });
    let user = stack.post(&tenant.path("/users"), &stack.operator_token(), &user).await.expect(201).text_at("/aggregateId");
    // An attempt that fails is an event too.
    let owner = stack.token(&user, &tenant.id, "");
    stack.call(Method::POST, &tenant.path(&format!("/members/{user}/role")), &owner, &[], &json!({ "role": "owner" })).await.expect(403);
    wait_until("it is sent", async || super::events_of(&stack, &invitation, "invitation.sent").await == 1).await;

    let rows = stack.db().await.query("SELECT id, body::text FROM events", &[]).await.unwrap();
    let events: BTreeMap<String, Value> =
        rows.iter().map(|row| (EventId::new(row.get(0)).to_string(), serde_json::from_str(row.get(1)).unwrap())).collect();
    let lines = || -> Vec<Value> {
        let parsed = stack.log("logging").lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>();
        parsed.into_iter().filter(|line| line["event.id"].is_string() && line["message"] == "event").collect()
    };
    wait_until("a line for every event", async || lines().len() >= events.len()).await;
    followed(&stack, Consumer::Logging).await;
    let lines = lines();
    assert_eq!(lines.len(), events.len(), "one each");
    for line in &lines {
        let event = &events[line["event.id"].as_str().unwrap()];
        let is_failure = event["type"].as_str().unwrap().ends_with("_failed");
        assert_eq!(line["level"], if is_failure { "WARN" } else { "INFO" }, "{line}");
        let pairs = [
            ("event.type", "type"),
            ("tenant.id", "tenantId"),
            ("aggregate.id", "aggregateId"),
            ("sequence", "sequence"),
            ("command.id", "causationId"),
        ];
        for (name, field) in pairs {
            assert_eq!(line[name], event[field], "{name} of {line}");
        }
        assert_eq!(line["actor"], if event["userId"].is_null() { json!("system") } else { event["userId"].clone() }, "{line}");
    }
    assert!(lines.iter().any(|line| line["event.type"] == "role.assignment_failed"), "an attempt that failed");
    for process in ["gateway", "worker-1", "logging", "audit", "notifications", "onboarding"] {
        let log = stack.log(process);
        for personal in [guest.as_str(), &person, &tenant.email, "Zebedee", "Own Er"] {
            assert!(!log.contains(personal), "{personal} stands in the log of {process}");
        }
    }
}
