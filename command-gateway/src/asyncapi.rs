//! The AsyncAPI document: what is told over NATS, for teams in any language. Made from the registry and from the types of the messages, as
//! the OpenAPI document is made from the routes.
//!
//! The NATS binding knows queues alone, so what streams, acknowledgements and dead letters are stands in `x-` fields, and in words in
//! docs/consumers.md.

use aggregates::{
    registry::{EMITS, EVENTS, EventEntry},
    schema,
};
use serde_json::{Map, Value, json};
use subjects::{EventFilter, SOURCE, header, stream};

/// The version of AsyncAPI.
const ASYNCAPI: &str = "3.0.0";
/// The channel and the message of dead letters.
const DEAD_LETTER: &str = "deadLetter";

/// What an event is called inside the document: some readers allow no dot in the names of channels and messages.
fn key(entry: &EventEntry) -> String {
    entry.event_type.replace('.', "_")
}

/// The filter that takes this event of every tenant.
fn filter(entry: &EventEntry) -> String {
    let (topic, event) = entry.event_type.split_once('.').unwrap_or((entry.event_type, ""));
    EventFilter { topic: Some(topic), event: Some(event), tenant: None }.subject()
}

/// The document, as served under `/asyncapi.json`.
pub fn asyncapi() -> Value {
    let mut channels: Map<String, Value> = EVENTS.iter().map(|entry| (key(entry), channel(entry))).collect();
    channels.insert(DEAD_LETTER.into(), dead_letter_channel());
    let mut operations: Map<String, Value> = EVENTS.iter().map(|entry| (format!("send_{}", key(entry)), operation(entry))).collect();
    operations.insert(format!("receive_{DEAD_LETTER}"), dead_letter_operation());
    let mut messages: Map<String, Value> = EVENTS.iter().map(|entry| (key(entry), message(entry))).collect();
    messages.insert(DEAD_LETTER.into(), dead_letter_message());
    json!({
        "asyncapi": ASYNCAPI,
        "id": format!("urn:{SOURCE}"),
        "info": {
            "title": "Chancery",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What happens in Chancery, as events. Chancery sends them; a consumer receives them through a durable of the stream \
                EVENTS, under a NATS user that may read what it is meant to read. Readers ignore fields they do not know, treat an unknown \
                value of an enum as \"other\", and bear repeats: an event's id is the same for ever.",
        },
        "defaultContentType": header::JSON,
        "servers": { "nats": server() },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": { "eventHeaders": event_headers(), "deadLetterHeaders": dead_letter_headers() },
            "securitySchemes": { "user": { "type": "userPassword", "description": "The NATS user of the consumer; its name is its durable's." } },
        },
    })
}

fn server() -> Value {
    json!({
        "host": "{address}",
        "protocol": "nats",
        "description": "nats-server with JetStream. A user's inboxes begin with `_INBOX_<user>`: set the inbox prefix of the client.",
        "variables": { "address": { "default": "127.0.0.1:4222", "description": "Host and port; a cluster has several." } },
        "security": [{ "$ref": "#/components/securitySchemes/user" }],
    })
}

fn channel(entry: &EventEntry) -> Value {
    json!({
        "address": format!("evt.{{tenantId}}.{}", entry.event_type),
        "title": entry.event_type,
        "messages": { "event": reference(&["components", "messages", &key(entry)]) },
        "parameters": {
            "tenantId": { "description": "The tenant, `tenant_…`; `*` in a filter is every tenant.", "location": "$message.payload#/tenantId" },
        },
        "x-stream": stream::EVENTS,
        "x-filter": filter(entry),
    })
}

fn operation(entry: &EventEntry) -> Value {
    let commands: Vec<String> =
        EMITS.iter().filter(|emits| emits.events.contains(&entry.event_type)).map(|emits| format!("{}.{}", emits.kind, emits.command)).collect();
    json!({
        "action": "send",
        "channel": reference(&["channels", &key(entry)]),
        "messages": [reference(&["channels", &key(entry), "messages", "event"])],
        "x-commands": commands,
        "x-consumers": entry.consumers,
        "x-audit-action": entry.audit_action,
        "x-delivery": {
            "guarantee": "at least once to every durable; a repeat has the same id",
            "order": "by `sequence` within a tenant; an event with the header Chancery-Late was published again by a repair",
            "ack": "explicit, after the effect is stored; in progress while it takes longer than the durable's ack wait",
            "retry": "negative acknowledgement with a delay; the server never gives up by itself",
        },
        "x-dead-letter": subjects::dead_letter("{consumer}", entry.event_type),
    })
}

fn message(entry: &EventEntry) -> Value {
    let payload = schema::message(entry);
    json!({
        "name": entry.event_type,
        "title": entry.event_type,
        "summary": payload["description"],
        "contentType": header::JSON,
        "headers": { "$ref": "#/components/schemas/eventHeaders" },
        "correlationId": { "description": "Ties together everything that one request caused.", "location": "$message.payload#/correlationId" },
        "payload": payload,
        "x-aggregate": entry.kind.name(),
        "x-personal": entry.personal,
        "x-schema": format!("docs/schemas/events/{}.json", entry.event_type),
    })
}

fn dead_letter_channel() -> Value {
    json!({
        "address": "dlq.{consumer}.{topic}.{event}",
        "title": "What a consumer gave up on",
        "messages": { DEAD_LETTER: reference(&["components", "messages", DEAD_LETTER]) },
        "parameters": {
            "consumer": { "description": "The consumer: its durable's name.", "location": "$message.header#/Chancery-Consumer" },
            "topic": { "description": "The topic of the event." },
            "event": { "description": "The event within its topic." },
        },
        "x-stream": stream::DEADLETTERS,
    })
}

fn dead_letter_operation() -> Value {
    json!({
        "action": "receive",
        "channel": reference(&["channels", DEAD_LETTER]),
        "messages": [reference(&["channels", DEAD_LETTER, "messages", DEAD_LETTER])],
        "summary": "Stored by the consumer before it acknowledges the event; the PubAck of the stream must have come.",
    })
}

fn dead_letter_message() -> Value {
    json!({
        "name": DEAD_LETTER,
        "title": "A dead letter",
        "summary": "The event's body as it came, byte by byte, with its headers but those of the server, and why it is here.",
        "headers": { "$ref": "#/components/schemas/deadLetterHeaders" },
        "payload": { "description": "The body as it came, which may be no JSON." },
    })
}

/// A header and what it says.
fn headers(of: &[(&str, &str)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        of.iter().map(|(name, about)| ((*name).to_owned(), json!({ "type": "string", "description": about }))).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

const EVENT_HEADERS: [(&str, &str); 9] = [
    (header::MESSAGE_ID, "The event's id, `evt_…`."),
    (header::TENANT, "`tenantId` of the body."),
    (header::TYPE, "`type` of the body."),
    (header::AGGREGATE_ID, "`aggregateId` of the body."),
    (header::SEQUENCE, "`sequence` of the body."),
    (header::LATE, "`true` on an event that a repair published again, behind its successors."),
    (header::TRACEPARENT, "W3C trace context."),
    (header::TRACESTATE, "W3C trace state."),
    (header::CONTENT_TYPE, "`application/json`."),
];

fn event_headers() -> Value {
    headers(&EVENT_HEADERS, &[header::MESSAGE_ID, header::TENANT, header::TYPE, header::AGGREGATE_ID, header::SEQUENCE, header::CONTENT_TYPE])
}

fn dead_letter_headers() -> Value {
    let own = [
        (header::MESSAGE_ID, "`<consumer>:<stream>:<sequence>` of the original: putting it aside twice stores it once."),
        (header::CONSUMER, "Which consumer gave up."),
        (header::REASON, "Why, as a code: `poison`, `exhausted`, `undecodable`, `mismatch`, `condemned`."),
        (header::ERROR, "Why, in words; nothing personal, at most 500 characters."),
        (header::DELIVERIES, "How often it was tried."),
        (header::ORIGIN_STREAM, "The stream it came from."),
        (header::ORIGIN_SEQUENCE, "Its sequence there."),
    ];
    let kept: Vec<_> = EVENT_HEADERS.into_iter().filter(|(name, _)| *name != header::MESSAGE_ID).collect();
    let names: Vec<&str> = own.iter().map(|(name, _)| *name).collect();
    headers(&[&own[..], &kept].concat(), &names)
}

fn reference(path: &[&str]) -> Value {
    json!({ "$ref": format!("#/{}", path.join("/")) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_event_of_the_registry_is_a_channel_a_message_and_an_operation_and_nothing_else_is() {
        let document = asyncapi();
        let mut events: BTreeSet<String> = EVENTS.iter().map(key).collect();
        events.insert(DEAD_LETTER.into());
        assert_eq!(events.len(), EVENTS.len() + 1, "every event has a key of its own");
        assert_eq!(keys(&document["channels"]), events);
        assert_eq!(keys(&document["components"]["messages"]), events);
        let sent: BTreeSet<String> = EVENTS.iter().map(|entry| format!("send_{}", key(entry))).chain(["receive_deadLetter".into()]).collect();
        assert_eq!(keys(&document["operations"]), sent);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        assert!(crate::references::all_lead_somewhere(&asyncapi()) > EVENTS.len() * 3);
    }

    #[test]
    fn an_operation_names_the_message_of_its_own_channel() {
        let document = asyncapi();
        for (name, operation) in document["operations"].as_object().unwrap() {
            let channel = operation["channel"]["$ref"].as_str().unwrap();
            let messages = operation["messages"].as_array().unwrap();
            assert!(messages.iter().all(|message| message["$ref"].as_str().unwrap().starts_with(&format!("{channel}/messages/"))), "{name}");
            assert!(["send", "receive"].contains(&operation["action"].as_str().unwrap()));
        }
    }

    #[test]
    fn an_address_with_its_parameters_filled_in_is_the_subject_of_the_event() {
        let document = asyncapi();
        let tenant: subjects::TenantId = "tenant_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        for entry in EVENTS {
            let channel = &document["channels"][key(entry)];
            let address = channel["address"].as_str().unwrap().replace("{tenantId}", &tenant.to_string());
            assert_eq!(address, subjects::event(tenant, entry.event_type));
            assert!(subjects::matches(channel["x-filter"].as_str().unwrap(), &address), "{address}");
        }
        for (name, channel) in document["channels"].as_object().unwrap() {
            let expressions = channel["address"].as_str().unwrap().split(['{', '}']).skip(1).step_by(2).map(str::to_owned).collect();
            assert_eq!(keys(&channel["parameters"]), expressions, "{name}");
        }
    }

    #[test]
    fn every_message_has_headers_a_payload_and_a_correlation_id_that_exist() {
        let document = asyncapi();
        for entry in EVENTS {
            let message = &document["components"]["messages"][key(entry)];
            let location = message["correlationId"]["location"].as_str().unwrap();
            let name = location.strip_prefix("$message.payload#/").unwrap();
            assert!(message["payload"]["properties"][name].is_object(), "{}", entry.event_type);
            assert_eq!(message["payload"]["properties"]["type"]["const"], entry.event_type);
            assert!(message["summary"].as_str().is_some_and(|text| !text.is_empty()), "{}", entry.event_type);
        }
        let headers = keys(&document["components"]["schemas"]["deadLetterHeaders"]["properties"]);
        let of_the_contract = ["Consumer", "Reason", "Error", "Deliveries", "Origin-Stream", "Origin-Sequence", "Tenant", "Type"];
        assert!(of_the_contract.iter().all(|name| headers.contains(&format!("Chancery-{name}"))), "{headers:?}");
    }
}
