//! The headers of an event message.

use async_nats::HeaderMap;
use subjects::{UserId, header};

use super::event::meta_headers;
use crate::store::commit::EventRow;

/// What every consumer sees; publishing adds what the server asks for.
pub(crate) fn event_headers(event: &EventRow) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(names::MESSAGE_ID.clone(), subjects::EventId::new(event.id).to_string());
    headers.insert(names::TENANT.clone(), event.tenant.to_string());
    headers.insert(names::TYPE.clone(), event.event_type.as_str());
    headers.insert(names::AGGREGATE_ID.clone(), aggregate_id(event));
    headers.insert(names::SEQUENCE.clone(), event.sequence.to_string());
    headers.insert(names::CONTENT_TYPE.clone(), header::JSON);
    for (name, value) in event.meta.as_deref().map(meta_headers).unwrap_or_default() {
        headers.insert(name, value);
    }
    headers
}

fn aggregate_id(event: &EventRow) -> String {
    match event.kind.parse::<subjects::Kind>() {
        Ok(kind) => kind.id(event.aggregate_id),
        Err(()) => UserId::new(event.aggregate_id).to_string(),
    }
}

/// The names of an event's headers, made once.
pub(crate) mod names {
    use async_nats::HeaderName;
    use subjects::header;

    pub(crate) static MESSAGE_ID: HeaderName = HeaderName::from_static(header::MESSAGE_ID);
    pub(crate) static TENANT: HeaderName = HeaderName::from_static(header::TENANT);
    pub(crate) static TYPE: HeaderName = HeaderName::from_static(header::TYPE);
    pub(crate) static AGGREGATE_ID: HeaderName = HeaderName::from_static(header::AGGREGATE_ID);
    pub(crate) static SEQUENCE: HeaderName = HeaderName::from_static(header::SEQUENCE);
    pub(crate) static CONTENT_TYPE: HeaderName = HeaderName::from_static(header::CONTENT_TYPE);
    pub(crate) static EXPECTED: HeaderName = HeaderName::from_static(header::EXPECTED_LAST_SUBJECT_SEQUENCE);
    pub(crate) static EXPECTED_SUBJECT: HeaderName = HeaderName::from_static(header::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT);
    pub(crate) static BATCH_ID: HeaderName = HeaderName::from_static(header::BATCH_ID);
    pub(crate) static BATCH_SEQUENCE: HeaderName = HeaderName::from_static(header::BATCH_SEQUENCE);
    pub(crate) static BATCH_COMMIT: HeaderName = HeaderName::from_static(header::BATCH_COMMIT);
}
