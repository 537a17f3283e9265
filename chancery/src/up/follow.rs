//! One line for every event as it arrives, with the consumers that have passed it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt as _;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use super::positions::Positions;
use crate::connect;

/// Tenants whose names are remembered at most; beyond, ids are shown.
const NAMES: usize = 10_000;
/// How often the consumers' positions are looked at while lines wait for them.
const LOOK: Duration = Duration::from_millis(5);
/// How long a line waits for the consumers before it is printed with those that have passed.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Lines that wait at most; under load the oldest is printed as it is.
const WAITING: usize = 64;

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Prints events until `stop` is set. Follows again whenever the connection is lost.
pub(super) async fn events(nats_url: String, database_url: String, stop: Arc<AtomicBool>) {
    let mut names = HashMap::new();
    while !stop.load(Ordering::SeqCst) {
        // The roles report trouble; here it only means to try again.
        let _ = follow(&nats_url, &database_url, &stop, &mut names).await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// An event that has been seen and not been printed yet.
struct Line {
    text: String,
    subject: String,
    sequence: u64,
    published: OffsetDateTime,
    passed: Vec<String>,
    give_up: Instant,
}

async fn follow(nats_url: &str, database_url: &str, stop: &AtomicBool, names: &mut HashMap<String, String>) -> Result<(), Trouble> {
    let client = connect::nats(nats_url, "chancery up").await?;
    let stream = jetstream::new(client).get_stream(subjects::stream::EVENTS).await?;
    let config =
        pull::OrderedConfig { deliver_policy: DeliverPolicy::New, filter_subject: subjects::stream::ALL_EVENTS.into(), ..Default::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut positions = Positions::new(stream, database_url).await?;
    let mut lines: VecDeque<Line> = VecDeque::new();
    while !stop.load(Ordering::SeqCst) {
        let pause = if lines.is_empty() { Duration::from_millis(200) } else { LOOK };
        match timeout(pause, messages.next()).await {
            Ok(None) => break,
            Ok(Some(message)) => {
                let message = message?;
                let info = message.info()?;
                if let Ok(event) = serde_json::from_slice::<Value>(&message.payload) {
                    lines.push_back(Line {
                        text: describe(&event, names),
                        subject: message.subject.to_string(),
                        sequence: info.stream_sequence,
                        published: info.published,
                        passed: Vec::new(),
                        give_up: Instant::now() + PATIENCE,
                    });
                }
            }
            Err(_) if lines.is_empty() => continue,
            Err(_) => note(&mut lines, &mut positions).await?,
        }
        while lines
            .front()
            .is_some_and(|line| lines.len() > WAITING || line.give_up <= Instant::now() || positions.all(line.passed.len(), &line.subject))
        {
            if let Some(line) = lines.pop_front() {
                print(&line);
            }
        }
    }
    lines.iter().for_each(print);
    Ok(())
}

/// Writes down who has passed the waiting events since the last look.
async fn note(lines: &mut VecDeque<Line>, positions: &mut Positions) -> Result<(), Trouble> {
    positions.look().await?;
    let now = OffsetDateTime::now_utc();
    for line in lines {
        for consumer in positions.passed(&line.subject, line.sequence) {
            let known = line.passed.iter().any(|entry| entry.split(' ').next() == Some(consumer));
            if !known {
                let took = (now - line.published).whole_milliseconds().max(1);
                line.passed.push(format!("{consumer} ≤ {took} ms"));
            }
        }
    }
    Ok(())
}

fn print(line: &Line) {
    let arrow = if line.passed.is_empty() { "" } else { "  → " };
    say!(" {}{arrow}{}", line.text, line.passed.join(", "));
}

/// `12:00:07 tenant.created acme #1`. Ids and slugs only: an address or a name has no place on a screen that is shared.
fn describe(event: &Value, names: &mut HashMap<String, String>) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let tenant = text("tenantId");
    if let Some(slug) = event.pointer("/data/slug").and_then(Value::as_str)
        && names.len() < NAMES
    {
        names.insert(tenant.to_owned(), slug.to_owned());
    }
    let time = text("timestamp").get(11..19).unwrap_or("--:--:--");
    let shown = names.get(tenant).map_or(tenant, String::as_str);
    let subject = if text("aggregate") == "tenant" { "" } else { text("aggregateId") };
    let sequence = event.get("sequence").and_then(Value::as_i64).unwrap_or_default();
    format!("{time} {} {shown} #{sequence} {subject}", text("type")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_names_the_tenant_by_its_slug_once_known() {
        let mut names = HashMap::new();
        let created = json!({ "type": "tenant.created", "timestamp": "2026-11-22T12:00:07.123Z", "tenantId": "tenant_1", "aggregate": "tenant",
            "aggregateId": "tenant_1", "sequence": 1, "data": { "slug": "acme" } });
        let joined = json!({ "type": "tenant.member_joined", "timestamp": "2026-11-22T12:00:08Z", "tenantId": "tenant_1", "aggregate": "membership",
            "aggregateId": "user_1", "sequence": 2, "data": { "email": "a@b.c" } });
        assert_eq!(describe(&created, &mut names), "12:00:07 tenant.created acme #1");
        assert_eq!(describe(&joined, &mut names), "12:00:08 tenant.member_joined acme #2 user_1");
    }
}
