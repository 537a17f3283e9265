//! What happened to one thing: its events, each with what the thing was before and after it.
//!
//! The recorded events are the only source: they are followed from the first to the page's last, as a worker would.

use std::collections::HashMap;

use aggregates::{Event, State as Aggregate};
use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subjects::{CommandId, Envelope, Kind};
use uuid::Uuid;

use super::Endpoint;
use crate::{
    answer::json,
    gateway::Gateway,
    guard::Access,
    list::{COUNTED, Listing, Params},
    policy::Policy,
    problem::{Code, Problem},
    shown,
    store::{Query, Sight, StoreError},
    view::{HistoryItem, HistoryPage},
};

static LIST: Policy = Policy::query("/v1/tenants/{t}/{kind}/{thing}/history", "history:read");

/// The routes of histories.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&LIST, list)]
}

/// What the paths call the things of a kind.
const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Tenant => "tenants",
        Kind::User => "users",
        Kind::Membership => "members",
        Kind::Invitation => "invitations",
        Kind::Team => "teams",
    }
}

const HISTORY: Listing =
    Listing { view: "events", orders: &[("sequence", "sequence")], default_order: "-sequence", tie: "sequence", filters: &[], attributes: false };

/// What happened to a thing, newest first: each event with what the thing was before and after it.
#[utoipa::path(get, path = "/v1/tenants/{t}/{kind}/{thing}/history", tag = "history",
    params(
        ("page" = Option<u32>, Query), ("pageSize" = Option<u32>, Query),
        ("orderBy" = Option<String>, Query, description = "`sequence` or `-sequence`"),
    ),
    responses((status = 200, body = HistoryPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, access: Access, params: Params) -> Result<Response, Problem> {
    let word = access.path.text("kind")?;
    let kind = Kind::ALL.into_iter().find(|kind| plural(*kind) == word).ok_or_else(Problem::not_found)?;
    let id = kind.parse_id(access.path.text("thing")?).ok_or_else(Problem::not_found)?;
    let window = HISTORY.window(&params)?;
    let (limit, offset) = (window.page_size, window.skipped());
    let sql = format!("SELECT body::text, command_id FROM events WHERE aggregate_id = $1 AND kind = $2 ORDER BY {} LIMIT $3 OFFSET $4", window.order);
    let count = format!("SELECT count(*) FROM (SELECT 1 FROM events WHERE aggregate_id = $1 AND kind = $2 LIMIT {}) AS counted", COUNTED + 1);
    let name = kind.name();
    let kinds = Kind::ALL.map(Kind::name);
    let queries = [
        Query { sql: &sql, params: &[&id, &name, &limit, &offset] },
        Query { sql: &count, params: &[&id, &name] },
        // A person is known as user and as member, and may be erased as either.
        Query { sql: "SELECT kind, state::text FROM aggregates WHERE kind = ANY ($2) AND id = $1", params: &[&id, &&kinds[..]] },
    ];
    let mut answers = gateway.store.read(Sight::of(access.tenant), &queries).await?;
    let (states, counted, page) = (answers.pop().unwrap_or_default(), answers.pop().unwrap_or_default(), answers.pop().unwrap_or_default());
    let total: i64 = counted.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::from)?;
    if total == 0 {
        return Err(Problem::not_found());
    }
    let mut erased = false;
    for row in &states {
        let (kind, state): (&str, &str) = (row.try_get(0).map_err(StoreError::from)?, row.try_get(1).map_err(StoreError::from)?);
        let state = kind.parse::<Kind>().ok().and_then(|kind| Aggregate::parse(kind, state).ok());
        // A state that cannot be read may be an erased one.
        erased |= state.is_none_or(|state| state.is_erased());
    }
    let mut recorded = Vec::with_capacity(page.len());
    for row in &page {
        let (body, command): (&str, Uuid) = (row.try_get(0).map_err(StoreError::from)?, row.try_get(1).map_err(StoreError::from)?);
        let envelope: Envelope = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        recorded.push((envelope, CommandId::new(command)));
    }
    let last = recorded.iter().map(|(envelope, _)| envelope.sequence).max().unwrap_or(0);
    let first = recorded.iter().map(|(envelope, _)| envelope.sequence).min().unwrap_or(0);
    let mut known = follow(&gateway, &access, kind, id, first, last).await?;
    let items = recorded.into_iter().map(|(mut envelope, command)| {
        let states = known.remove(&envelope.sequence);
        let show = |mut value: Value| {
            shown::without_secrets(&mut value);
            if erased {
                shown::erase(kind, &mut value);
            }
            value
        };
        let data = show(std::mem::take(&mut envelope.data));
        let (before, after) = states.map_or((None, None), |(before, after)| (before.map(show), Some(show(after))));
        HistoryItem {
            id: envelope.id.to_string(),
            event_type: envelope.event_type,
            timestamp: subjects::timestamp::format(envelope.timestamp),
            actor: envelope.user_id.map(|actor| actor.to_string()),
            sequence: envelope.sequence,
            aggregate_version: envelope.aggregate_version,
            command_id: command.to_string(),
            causation_id: envelope.causation_id,
            correlation_id: envelope.correlation_id,
            data,
            before,
            after,
        }
    });
    let page = HistoryPage {
        items: items.collect(),
        total: total.min(COUNTED).unsigned_abs(),
        page: window.page.unsigned_abs(),
        page_size: window.page_size.unsigned_abs(),
        total_is_exact: (total > COUNTED).then_some(false),
    };
    Ok(json(serde_json::to_vec(&page).map_err(|error| unreadable(&error))?))
}

/// What a thing was before and after an event; before its first it was nothing.
type Around = (Option<Value>, Value);

/// Follows the events of a thing from its first to the last that is asked for, as far as the limit goes, and keeps what it was around those
/// between two sequences.
async fn follow(gateway: &Gateway, access: &Access, kind: Kind, id: Uuid, first: u64, last: u64) -> Result<HashMap<u64, Around>, Problem> {
    const SQL: &str = "SELECT body::text FROM events WHERE aggregate_id = $1 AND kind = $2 AND sequence <= $3 ORDER BY sequence LIMIT $4";
    /// As much of a body as following needs.
    #[derive(Deserialize)]
    struct Place {
        sequence: u64,
    }
    let (name, limit) = (kind.name(), i64::from(gateway.config.history_events));
    let last = i64::try_from(last).unwrap_or(i64::MAX);
    // A few at a time: each holds as many events as the limit allows.
    let _turn = gateway.histories.acquire().await.map_err(|_| Problem::new(Code::Internal))?;
    let rows = gateway.store.rows(Sight::of(access.tenant), SQL, &[&id, &name, &last, &limit]).await?;
    let mut state = Aggregate::empty(kind);
    let mut known = HashMap::new();
    let mut begun = false;
    for row in &rows {
        let body: &str = row.try_get(0).map_err(StoreError::from)?;
        let Place { sequence } = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        let event: Event = match serde_json::from_str(body) {
            Ok(event) => event,
            Err(error) => {
                // A newer version's: what the thing is from here on is not known to this one.
                tracing::warn!(%error, aggregate = %kind, aggregate.id = %id, sequence, "a history stops at an event that cannot be read");
                break;
            }
        };
        let asked = sequence >= first;
        let before = if asked && begun { Some(as_json(&state)?) } else { None };
        state.apply(&event);
        begun = true;
        if asked {
            known.insert(sequence, (before, as_json(&state)?));
        }
    }
    Ok(known)
}

/// A state as it is shown. Who is in a team is left out: there may be a thousand, and the events name who came and went.
fn as_json(state: &impl Serialize) -> Result<Value, Problem> {
    let mut value = serde_json::to_value(state).map_err(|error| unreadable(&error))?;
    if let Value::Object(fields) = &mut value {
        fields.remove("members");
    }
    Ok(value)
}

fn unreadable(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "a recorded event cannot be shown");
    Problem::new(Code::Internal)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        assert_eq!(Kind::ALL.map(plural).into_iter().collect::<BTreeSet<_>>().len(), Kind::ALL.len());
    }
}
