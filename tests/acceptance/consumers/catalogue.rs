//! The catalogue as it happens: one story gives every command over HTTP, and every event of the registry is then found in the stream and
//! with each consumer that the registry names.
//!
//! A new command or event fails here by its name until the [`story`] has it.

mod examples;
mod story;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use aggregates::registry;
use chancery::role::Consumer;
use serde_json::Value;
use subjects::{EventId, stream as names};

use super::dead_letters;
use crate::harness::{Stack, wait_until};

/// Every consumer, and a log that can be read; who is deactivated may be deleted at once.
async fn stack() -> Stack {
    let stack = Stack::builder().consumers(&Consumer::ALL).env("CHANCERY_LOG_FORMAT", "json").env("CHANCERY_SOFT_DELETION_S", 0);
    stack.start().await
}

/// Every event of the stream, in its order.
async fn published(stack: &Stack) -> Vec<Value> {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let state = &stream.cached_info().state;
    let mut events = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        // Between the events stand the fences of the partitions' owners.
        let message = stream.get_raw_message(sequence).await.unwrap();
        if subjects::matches(names::ALL_EVENTS, &message.subject) {
            events.push(serde_json::from_slice(&message.payload).unwrap());
        }
    }
    events
}

/// Waits until everything that was written is published; then every event of the stream.
async fn all_published(stack: &Stack) -> Vec<Value> {
    let mut events = Vec::new();
    wait_until("everything is published", async || {
        events = published(stack).await;
        super::count(stack, "SELECT count(*) FROM events").await == events.len() as i64
    })
    .await;
    events
}

/// The commands that have succeeded.
async fn succeeded(stack: &Stack) -> BTreeSet<String> {
    let sql = "SELECT DISTINCT outcome ->> 'command' FROM commands WHERE outcome ->> 'status' = 'succeeded'";
    stack.db().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_reaches_the_stream_and_every_declared_consumer() {
    let stack = stack().await;
    story::tell(&stack).await;

    let succeeded = succeeded(&stack).await;
    let known = registry::COMMANDS.iter().map(|entry| format!("{}.{}", entry.kind, entry.name));
    let untold: Vec<String> = known.filter(|command| !succeeded.contains(command)).collect();
    assert!(untold.is_empty(), "the story of tests/acceptance/consumers/catalogue/story.rs does not give {untold:?}");

    let events = all_published(&stack).await;
    let table = table::complete(&stack, &events).await;
    println!("{table}");
    assert!(table.holes().is_empty(), "{}", table.holes().join("\n"));
    assert_eq!(dead_letters(&stack).await, 0, "nothing was given up on");

    every_event_fits_its_schema(&events);
    every_event_has_a_line_and_a_row(&stack, &events).await;
    // Read before the end of the story: acts that follow by themselves have followed.
    assert_eq!(published(&stack).await.len(), events.len(), "nothing came after the table was made");
}

/// What is published is what the schemas under docs/schemas/ say.
fn every_event_fits_its_schema(events: &[Value]) {
    for event in events {
        let entry = registry::event(event["type"].as_str().unwrap()).unwrap();
        let schema = aggregates::schema::message(entry);
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, [""; 0], "{event:#}");
        let known = schema["properties"]["data"]["properties"].as_object().unwrap();
        let unknown: Vec<&String> = event["data"].as_object().unwrap().keys().filter(|name| !known.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "{} has {unknown:?}, and its schema does not know it", entry.event_type);
    }
}

/// What logging and audit say they have handled is there: a line, and a row with the action of the registry.
async fn every_event_has_a_line_and_a_row(stack: &Stack, events: &[Value]) {
    let log = stack.log("logging");
    let lines: BTreeSet<String> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| line["event.id"].as_str().map(str::to_owned))
        .collect();
    let rows = stack.db().await.query("SELECT event_id, action FROM audit_log", &[]).await.unwrap();
    let actions: BTreeMap<String, String> = rows.iter().map(|row| (EventId::new(row.get(0)).to_string(), row.get(1))).collect();
    for event in events {
        let (id, event_type) = (event["id"].as_str().unwrap(), event["type"].as_str().unwrap());
        assert!(lines.contains(id), "no line of the log is about {event_type} {id}");
        let action = registry::event(event_type).map(|entry| entry.audit_action);
        assert_eq!(actions.get(id).map(String::as_str), action, "the audit's action of {event_type} {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_catalogue_come_out_of_the_stream_field_by_field() {
    let stack = stack().await;
    story::tell(&stack).await;
    let events = all_published(&stack).await;
    for example in examples::all() {
        let event_type = example["type"].as_str().unwrap();
        let mut same_type = events.iter().filter(|event| event["type"] == event_type).peekable();
        assert!(same_type.peek().is_some(), "the story has no {event_type}");
        let differences: Vec<String> = same_type.map(|event| format!("{}\n{event:#}", examples::differences(&example, event).join("\n"))).collect();
        assert!(differences.iter().any(|found| found.starts_with('\n')), "no {event_type} is like its example:\n{}", differences.join("\n\n"));
    }
}
