//! The events of a tenant as they happen: server-sent events.
//!
//! Every stream sends the tenant's history in its dense order and remembers how far it is. Live events come from the tenant's
//! [`feed`](crate::feed); for whatever is missing between, the table is read. So nothing is skipped or repeated, whatever was restarted or
//! created anew in the meantime.

use std::{collections::BTreeSet, time::Duration};

use aggregates::registry;
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures_util::stream;
use subjects::Kind;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use uuid::Uuid;

use super::Endpoint;
use crate::{
    feed::{Following, News, Shown},
    gateway::Gateway,
    guard::{self, Access},
    list::Params,
    policy::Policy,
    problem::{Code, FieldError, Problem},
    shown,
    store::{Sight, StoreError},
};

static STREAM: Policy = Policy::query("/v1/tenants/{t}/events", "events:read");

/// How often the right to read is looked at.
const RIGHT: Duration = Duration::from_millis(500);
/// Events read from the table in one go.
const PAGE: i64 = 100;
/// Chunks that may wait for the connection.
const WAITING: usize = 16;
/// Types that can be asked for at most.
const TYPES: usize = 64;

/// The routes of event streams.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&STREAM, follow)]
}

/// The events of a tenant from now on, or from where an earlier stream ended. Each has `event` (its type), `data` (the event) and `id`.
#[utoipa::path(get, path = "/v1/tenants/{t}/events", tag = "events",
    params(
        ("types" = Option<String>, Query, description = "Only these: event types and topics, as in `user.created,invitation.*`"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last `id` that was received: what came after it is sent first"),
    ),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn follow(State(gateway): State<Gateway>, access: Access, params: Params, headers: HeaderMap) -> Result<Response, Problem> {
    let types = Types::asked(&params)?;
    let after = headers.get("last-event-id").map(resumed).transpose()?;
    let following = gateway.feeds.follow(access.tenant, &access.caller.principal)?;
    // Not before it is followed: what comes between is seen twice, and known by its sequence.
    const LAST: &str = "SELECT coalesce(max(sequence), 0) FROM events WHERE tenant_id = $1";
    let rows = gateway.store.rows(Sight::of(access.tenant), LAST, &[&access.tenant.uuid()]).await?;
    let last: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::from)?;
    if last == 0 {
        return Err(Problem::not_found());
    }
    let last = last.unsigned_abs();
    let (out, chunks) = mpsc::channel(WAITING);
    let stream = Stream { last: after.unwrap_or(last).min(last), place: 0, types, following, out, checked: Instant::now(), access, gateway };
    tokio::spawn(async move {
        let tenant = stream.access.tenant;
        let Err(end) = stream.run().await;
        tracing::debug!(tenant.id = %tenant, ?end, "an event stream ended");
    });
    let chunks =
        stream::unfold(chunks, async |mut chunks: mpsc::Receiver<Bytes>| Some((Ok::<_, std::convert::Infallible>(chunks.recv().await?), chunks)));
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Some proxies collect answers otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Which types are sent: all, or these and those of these topics.
#[derive(Debug, PartialEq, Eq)]
enum Types {
    All,
    Some(BTreeSet<String>),
}

impl Types {
    fn asked(params: &Params) -> Result<Self, Problem> {
        let wrong = |name: &str, detail: String| FieldError::new(format!("?{name}"), detail);
        let mut types = Self::All;
        for (name, value) in params.pairs() {
            if name != "types" {
                return Err(Problem::new(Code::Malformed).errors(vec![wrong("", "only `types` is a parameter of an event stream".into())]));
            }
            if types != Self::All {
                return Err(Problem::new(Code::ValidationFailed).errors(vec![wrong(name, "must be given once".into())]));
            }
            let known = |asked: &str| {
                registry::EVENTS.iter().any(|entry| match asked.strip_suffix(".*") {
                    Some(topic) => entry.event_type.split('.').next() == Some(topic),
                    None => entry.event_type == asked,
                })
            };
            let asked: Vec<&str> = value.split(',').map(str::trim).collect();
            if asked.len() > TYPES || !asked.iter().all(|asked| known(asked)) {
                let detail = format!("must be up to {TYPES} event types (`user.created`) or topics (`user.*`) with `,` between them");
                return Err(Problem::new(Code::ValidationFailed).errors(vec![wrong(name, detail)]));
            }
            types = Self::Some(asked.into_iter().map(ToOwned::to_owned).collect());
        }
        Ok(types)
    }

    fn has(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(types) => {
                let topic = event_type.split('.').next().unwrap_or_default();
                types.contains(event_type) || types.contains(&format!("{topic}.*"))
            }
        }
    }
}

/// The place in the tenant's history that an id of ours names: `<life of EVENTS>-<place in EVENTS>-<place in the tenant's history>`.
fn resumed(id: &HeaderValue) -> Result<u64, Problem> {
    let parts: Vec<&str> = id.to_str().unwrap_or_default().split('-').collect();
    let number = |text: &str| text.parse::<u64>().ok();
    match parts[..] {
        [life, place, sequence] if number(life).is_some() && number(place).is_some() => number(sequence),
        _ => None,
    }
    .ok_or_else(|| Problem::new(Code::Malformed).errors(vec![FieldError::new("last-event-id", "must be an id as it was received")]))
}

/// Why a stream ends.
#[derive(Debug)]
enum End {
    /// The gateway is to end.
    Stopped,
    /// The client left.
    Left,
    /// The client reads nothing.
    Stalled,
    /// The caller may not read any more, or nobody can tell.
    Forbidden,
    /// The table cannot be read, or not be understood.
    Unreadable,
}

/// One stream.
struct Stream {
    gateway: Gateway,
    access: Access,
    types: Types,
    following: Following,
    out: mpsc::Sender<Bytes>,
    /// The place in the tenant's history up to which everything was sent, or was not asked for.
    last: u64,
    /// The place in EVENTS of what was sent last, where it is known.
    place: u64,
    /// When the right to read was last looked at.
    checked: Instant,
}

impl Stream {
    async fn run(mut self) -> Result<std::convert::Infallible, End> {
        let stop = self.gateway.feeds.stop.clone();
        let every = self.gateway.config.stream_heartbeat;
        let mut heartbeat = interval_at(Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut right = interval_at(Instant::now() + RIGHT, RIGHT);
        right.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // With an id from the start, so that a stream which ends before its first event is resumed all the same.
        let open = format!("retry: {}\nid: {}\n: open\n\n", self.gateway.config.stream_retry.as_millis(), self.id());
        self.send(open).await?;
        let mut behind = true;
        let out = self.out.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(End::Stopped),
                () = out.closed() => return Err(End::Left),
                _ = right.tick() => self.may().await?,
                _ = heartbeat.tick() => self.send(format!("id: {}\n: alive\n\n", self.id())).await?,
                () = std::future::ready(()), if behind => behind = self.catch_up().await?,
                news = self.following.next() => match news {
                    News::Look => behind = true,
                    // Repaired, or in the table before it was in the stream: it was sent.
                    News::Event(event) if event.sequence <= self.last => {}
                    News::Event(event) if event.sequence == self.last + 1 => self.event(&event).await?,
                    News::Event(_) => behind = true,
                },
            }
        }
    }

    /// Sends the next events of the table. Whether there may be more.
    async fn catch_up(&mut self) -> Result<bool, End> {
        const SQL: &str = "SELECT sequence, type, kind, aggregate_id, body::text FROM events
             WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3";
        let tenant = self.access.tenant;
        let last = i64::try_from(self.last).unwrap_or(i64::MAX);
        let rows = self.gateway.store.rows(Sight::of(tenant), SQL, &[&tenant.uuid(), &last, &PAGE]).await.map_err(unreadable)?;
        for row in &rows {
            let event = shown_row(row).map_err(unreadable)?;
            if event.sequence != self.last + 1 {
                // The table is dense; what is not there cannot be skipped silently.
                return Err(unreadable(format!("a hole in a tenant's history after {}", self.last)));
            }
            self.event(&event).await?;
        }
        Ok(rows.len() as i64 == PAGE)
    }

    /// Sends an event, if it was asked for and may be read.
    async fn event(&mut self, event: &Shown) -> Result<(), End> {
        let person = matches!(event.kind, Some(Kind::User | Kind::Membership));
        if person && event.aggregate == self.access.caller.principal {
            // It may be what takes the right away.
            if let Some(user) = self.access.caller.user() {
                self.gateway.standings.forget(self.access.tenant, user).await;
            }
            self.may().await?;
        } else if self.checked.elapsed() >= RIGHT {
            self.may().await?;
        }
        (self.last, self.place) = (event.sequence, event.stream_sequence);
        if !self.types.has(&event.event_type) {
            return Ok(());
        }
        // The body is one line of JSON; a line break would end it.
        let data = event.body.replace(['\n', '\r'], " ");
        self.send(format!("id: {}\nevent: {}\ndata: {data}\n\n", self.id(), event.event_type)).await
    }

    fn id(&self) -> String {
        format!("{}-{}-{}", self.following.life(), self.place, self.last)
    }

    /// Ends the stream when the caller may not read any more. Who cannot be asked about may not, either.
    async fn may(&mut self) -> Result<(), End> {
        if self.access.caller.is_expired() || guard::may(&self.gateway, &STREAM, &self.access).await.is_err() {
            return Err(End::Forbidden);
        }
        self.checked = Instant::now();
        Ok(())
    }

    async fn send(&self, chunk: String) -> Result<(), End> {
        match timeout(self.gateway.config.stream_stall, self.out.send(chunk.into())).await {
            Ok(sent) => sent.map_err(|_| End::Left),
            Err(_) => Err(End::Stalled),
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> End {
    tracing::warn!(%error, "an event stream cannot go on");
    End::Unreadable
}

fn shown_row(row: &tokio_postgres::Row) -> Result<Shown, String> {
    fn text(error: impl ToString) -> String {
        error.to_string()
    }
    // What a newer worker knows is shown all the same: nobody's right to read depends on it here.
    let kind: Option<Kind> = row.try_get::<_, &str>(2).map_err(text)?.parse().ok();
    let aggregate: Uuid = row.try_get(3).map_err(text)?;
    Ok(Shown {
        sequence: row.try_get::<_, i64>(0).map_err(text)?.unsigned_abs(),
        stream_sequence: 0,
        event_type: row.try_get(1).map_err(text)?,
        kind,
        aggregate: kind.map_or_else(|| aggregate.to_string(), |kind| kind.id(aggregate)),
        body: shown::body(row.try_get(4).map_err(text)?).map_err(text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Result<Types, Problem> {
        Types::asked(&Params::new(&[("types", text)]))
    }

    #[test]
    fn types_are_asked_for_by_name_or_topic() {
        assert_eq!(Types::asked(&Params::new(&[])).unwrap(), Types::All);
        let asked = types("user.created, invitation.*").unwrap();
        assert!(asked.has("user.created") && asked.has("invitation.sent"));
        assert!(!asked.has("user.deleted") && !asked.has("tenant.created"));
        for unknown in ["", "*", "user", "user.teleported", "nothing.*", "user.created,", "user.created.*"] {
            assert_eq!(types(unknown).unwrap_err().code(), Code::ValidationFailed, "{unknown}");
        }
        assert_eq!(Types::asked(&Params::new(&[("type", "user.*")])).unwrap_err().code(), Code::Malformed);
    }

    #[test]
    fn an_id_that_was_not_received_is_refused() {
        let read = |id: &str| resumed(&HeaderValue::from_str(id).unwrap()).ok();
        assert_eq!(read("1764000000000000000-17-4"), Some(4));
        for bad in ["", "4", "17-4", "a-17-4", "1-2-3-4", "1-2--3"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
