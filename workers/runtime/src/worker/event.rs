//! From a decided event to the row and message it becomes.

use std::collections::BTreeMap;

use aggregates::{Emitted, Event};
use serde::Serialize;
use subjects::{Actor, CommandMessage, EventId, Kind, SOURCE, TenantId, VERSION, header, timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    store::commit::EventRow,
    trace::{self, Trace},
};

/// The body, written straight from the typed event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    id: EventId,
    #[serde(flatten)]
    event: &'a Event,
    timestamp: String,
    version: &'static str,
    source: &'static str,
    tenant_id: TenantId,
    user_id: Option<Actor>,
    aggregate: Kind,
    aggregate_id: String,
    aggregate_version: u64,
    sequence: u64,
    correlation_id: &'a str,
    causation_id: subjects::CommandId,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) partition: u16,
    pub(crate) partition_sequence: u64,
    pub(crate) sequence: u64,
    pub(crate) aggregate_version: u64,
    pub(crate) at: OffsetDateTime,
}

/// Makes the row of an event. The id is new, sorts by time, and stays with the event for ever.
pub(crate) fn row(emitted: &Emitted, message: &CommandMessage, place: Place, meta: Option<String>) -> serde_json::Result<EventRow> {
    let kind = emitted.event.kind();
    let id = EventId::new(Uuid::now_v7());
    let body = serde_json::to_string(&Outgoing {
        id,
        event: &emitted.event,
        timestamp: timestamp::format(place.at),
        version: VERSION,
        source: SOURCE,
        tenant_id: message.tenant_id,
        user_id: (message.actor != Actor::System).then_some(message.actor),
        aggregate: kind,
        aggregate_id: kind.id(emitted.id),
        aggregate_version: place.aggregate_version,
        sequence: place.sequence,
        correlation_id: &message.correlation_id,
        causation_id: message.id,
    })?;
    Ok(EventRow {
        partition: place.partition,
        partition_sequence: place.partition_sequence,
        tenant: message.tenant_id,
        sequence: place.sequence,
        id: id.uuid(),
        event_type: emitted.event.event_type().to_owned(),
        kind: kind.name(),
        aggregate_id: emitted.id,
        command: message.id.uuid(),
        occurred_at: place.at,
        meta,
        body,
    })
}

/// Further headers of a command's events, as stored with them: trace context, and where the request came from. The latter is personal, and
/// goes nowhere else.
pub(crate) fn meta(message: &CommandMessage, traceparent: Option<&str>, tracestate: Option<&str>) -> Option<String> {
    let mut meta = BTreeMap::new();
    meta.extend(traceparent.map(|parent| (header::TRACEPARENT, parent)));
    meta.extend(tracestate.map(|state| (header::TRACESTATE, state)));
    // A header value must stay on one line; what came from outside is cut to what can be sent.
    let clean = |text: &String| text.chars().filter(|c| !c.is_control()).take(256).collect::<String>();
    let address = message.ip_address.as_ref().map(clean);
    let agent = message.user_agent.as_ref().map(clean);
    if let Some(address) = &address {
        meta.insert(header::IP, address);
    }
    if let Some(agent) = &agent {
        meta.insert(header::USER_AGENT, agent);
    }
    if meta.is_empty() { None } else { serde_json::to_string(&meta).ok() }
}

/// The trace in what [`meta`] wrote, if it is kept.
pub(crate) fn kept(meta: &str) -> Option<Trace> {
    // Most are not: a look at the text tells, whatever the database has made of its spaces. Where somebody's program names itself so that
    // it looks like one, it is read in vain.
    let (_, after) = meta.split_once("\"traceparent\"")?;
    if !trace::is_kept(after.trim_start_matches([' ', ':', '"'])) {
        return None;
    }
    let headers = meta_headers(meta);
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    Trace::read(header).filter(Trace::is_kept)
}

/// Reads what [`meta`] wrote.
pub(crate) fn meta_headers(meta: &str) -> Vec<(String, String)> {
    serde_json::from_str::<BTreeMap<String, String>>(meta).map(|map| map.into_iter().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_found_in_what_is_stored_if_it_is_kept_and_nobody_else_is_taken_for_it() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let meta = |parent: &str| format!(r#"{{"Chancery-Ip":"192.0.2.1","traceparent":"{parent}","tracestate":"vendor=something"}}"#);
        let trace = Trace { parent: parent.into(), state: Some("vendor=something".into()) };
        assert_eq!(kept(&meta(parent)), Some(trace.clone()));
        assert_eq!(kept(&meta(parent).replace("\":\"", "\" : \"")), Some(trace));
        assert_eq!(kept(&meta(&parent.replace("-01", "-00"))), None);
        assert_eq!(kept(r#"{"Chancery-Ip":"192.0.2.1"}"#), None);
        let agent = format!(r#""traceparent":"{parent}""#);
        let headers = BTreeMap::from([(header::USER_AGENT, agent.as_str())]);
        assert_eq!(serde_json::to_string(&headers).ok().as_deref().and_then(kept), None);
    }
}
