//! `chancery cluster status`: the services, and where the streams are.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    docker::{Compose, Docker},
    services::Service,
};

/// A stream as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) leader: String,
    /// The other servers that keep it, and whether each has everything.
    pub(super) followers: Vec<(String, bool)>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Prints both tables; success when every service is healthy and every stream has a leader and current followers.
pub(super) async fn show(docker: &Docker, compose: &Compose) -> anyhow::Result<ExitCode> {
    let services = Service::all(docker, compose).await?;
    if services.is_empty() {
        println!("the cluster is not up (`chancery cluster up`)");
        return Ok(ExitCode::FAILURE);
    }
    let mut fine = services.iter().all(Service::fine);
    println!("{:<16}{:<12}{:<12}{:<10}{:<10}published", "service", "state", "health", "restarts", "since");
    for service in &services {
        let state = if service.state == "exited" { format!("ended {}", service.exit_code) } else { service.state.clone() };
        let health = service.health.as_deref().unwrap_or("-");
        println!("{:<16}{state:<12}{health:<12}{:<10}{:<10}{}", service.name, service.restarts, since(&service.started), service.ports.join(" "));
    }
    let streams = streams(docker, &services).await;
    println!("\n{:<18}{:<10}{:<34}{:>12}{:>14}", "stream", "leader", "followers", "messages", "bytes");
    for stream in &streams {
        let followers = stream.followers.iter().map(|(name, current)| format!("{name}{}", if *current { "" } else { " (behind)" }));
        println!(
            "{:<18}{:<10}{:<34}{:>12}{:>14}",
            stream.name,
            stream.leader,
            followers.collect::<Vec<_>>().join(" "),
            stream.messages,
            stream.bytes
        );
        fine &= stream.followers.iter().all(|(_, current)| *current);
    }
    if streams.is_empty() {
        println!("no stream has a leader");
    }
    Ok(if fine && !streams.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every stream that has a leader, by name.
pub(super) async fn streams(docker: &Docker, services: &[Service]) -> Vec<Stream> {
    let mut found = BTreeMap::new();
    for node in services.iter().filter(|service| service.name.starts_with("nats-") && service.running()) {
        // Monitoring listens in the container only.
        let question = ["exec", &node.id, "wget", "-q", "-O", "-", "http://127.0.0.1:8222/jsz?streams=1"];
        let answer = docker.ask(&question).await.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        // Only a leader knows how its followers are.
        found.extend(answer.iter().flat_map(read).filter(|stream| stream.leader == node.name).map(|stream| (stream.name.clone(), stream)));
    }
    found.into_values().collect()
}

/// The streams in a server's answer, whoever leads them.
fn read(answer: &Value) -> Vec<Stream> {
    let accounts = answer.get("account_details").and_then(Value::as_array).into_iter().flatten();
    let streams = accounts.flat_map(|account| account.get("stream_detail").and_then(Value::as_array).into_iter().flatten());
    let one = |stream: &Value| {
        let replicas = stream.pointer("/cluster/replicas").and_then(Value::as_array).into_iter().flatten();
        let follower = |replica: &Value| Some((replica.get("name")?.as_str()?.to_owned(), replica.get("current")?.as_bool()?));
        Some(Stream {
            name: stream.get("name")?.as_str()?.to_owned(),
            leader: stream.pointer("/cluster/leader")?.as_str()?.to_owned(),
            followers: replicas.filter_map(follower).collect(),
            messages: stream.pointer("/state/messages")?.as_u64()?,
            bytes: stream.pointer("/state/bytes")?.as_u64()?,
        })
    };
    streams.filter_map(one).collect()
}

/// How long ago, in the largest unit that fits.
fn since(time: &str) -> String {
    let Ok(time) = OffsetDateTime::parse(time, &Rfc3339) else { return "-".into() };
    let seconds = (OffsetDateTime::now_utc() - time).whole_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_servers_answer_tells_leaders_and_how_followers_are() {
        let answer = json!({ "account_details": [{ "name": "CHANCERY", "stream_detail": [{ "name": "EVENTS",
            "cluster": { "leader": "nats-3", "replicas": [{ "name": "nats-1", "current": true }, { "name": "nats-2", "current": false }] },
            "state": { "messages": 99, "bytes": 7279 } }, { "name": "LOST", "cluster": { "replicas": [] }, "state": { "messages": 1, "bytes": 1 } }] }] });
        let followers = vec![("nats-1".to_owned(), true), ("nats-2".to_owned(), false)];
        let events = Stream { name: "EVENTS".into(), leader: "nats-3".into(), followers, messages: 99, bytes: 7279 };
        assert_eq!(read(&answer), [events]);
    }
}
