//! Followers of event streams (SSE): each takes a tenant's events as they come and, after a break, goes on behind the last one it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use runtime::Stop;
use serde_json::Value;
use uuid::Uuid;

use super::{
    client::{Client, uuid},
    world::World,
};
use crate::chaos::history::{History, Seen, What};

/// A stream that shows no life for so long is left; gateways show some every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// The pause before a follower comes again.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest event that is read.
const MAX_EVENT: usize = 1 << 20;

/// Who follows what.
#[derive(Debug, Clone)]
pub(super) struct Follower {
    pub(super) number: usize,
    pub(super) tenant: Uuid,
    pub(super) token: String,
    /// The place of the last event it was sent.
    pub(super) reached: Arc<AtomicU64>,
}

/// Follows until told to stop.
pub(super) async fn follow(follower: Follower, client: Arc<Client>, world: Arc<World>, history: History, stop: Stop) {
    let path = format!("/v1/tenants/tenant_{}/events", follower.tenant);
    let mut last: Option<String> = None;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = one_stream(&follower, &path, &mut last, &client, &world, &history) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Reads one stream to its end.
async fn one_stream(follower: &Follower, path: &str, last: &mut Option<String>, client: &Client, world: &World, history: &History) {
    let Ok(answer) = client.stream(path, &follower.token, last.as_deref()).await else { return };
    if answer.status() != hyper::StatusCode::OK {
        return;
    }
    let mut body = answer.into_body();
    let mut buffer = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let rest = buffer.split_off(end + 2);
            let message = std::mem::replace(&mut buffer, rest);
            take(follower, &String::from_utf8_lossy(&message), last, world, history);
        }
        if buffer.len() > MAX_EVENT {
            return;
        }
    }
}

/// Takes one message: its id is where the next stream goes on.
fn take(follower: &Follower, message: &str, last: &mut Option<String>, world: &World, history: &History) {
    let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if let Some(data) = field("data") {
        for marker in world.strangers(data, Some(follower.tenant)) {
            history.add(What::Leak { marker, place: format!("event stream of tenant_{}", follower.tenant) });
        }
        let body: Value = serde_json::from_str(data).unwrap_or(Value::Null);
        if let (Some(id), Some(sequence)) = (uuid(body.get("id")), body.get("sequence").and_then(Value::as_u64)) {
            follower.reached.fetch_max(sequence, Ordering::Relaxed);
            history.add(What::Seen { seen: Seen { follower: follower.number, tenant: follower.tenant, id, sequence } });
        }
    }
    if let Some(id) = field("id") {
        *last = Some(id.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_recorded_and_its_id_remembered_and_a_sign_of_life_only_remembered() {
        let (history, world, mut last) = (History::new(), World::default(), None);
        let follower = Follower { number: 3, tenant: Uuid::from_u128(9), token: String::new(), reached: Arc::default() };
        let event = format!("id: 1-2-7\nevent: user.created\ndata: {{\"id\":\"evt_{}\",\"sequence\":7}}\n\n", Uuid::from_u128(5));
        take(&follower, &event, &mut last, &world, &history);
        take(&follower, "id: 1-3-8\n: alive\n\n", &mut last, &world, &history);
        assert_eq!(last.as_deref(), Some("1-3-8"));
        let records = history.records();
        assert_eq!(records.len(), 1);
        let seen = Seen { follower: 3, tenant: Uuid::from_u128(9), id: Uuid::from_u128(5), sequence: 7 };
        assert_eq!(records[0].what, What::Seen { seen });
    }
}
