//! A container, as Docker has it now.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::cluster::docker::Docker;

/// Where a role that is no gateway answers `/readyz` and `/metrics`.
const ADMIN: u16 = 9090;

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    /// Its id.
    pub(super) id: String,
    /// The part that it is: the service in `compose.yaml`.
    pub(super) part: String,
    /// Its first process, as this machine numbers it; none while it does not run.
    pub(super) pid: Option<u32>,
    /// Its address in a network of the project; none while it does not run.
    pub(super) address: Option<IpAddr>,
    /// This machine, as the container sees it.
    pub(super) machine: Option<String>,
    /// Where Docker keeps what it writes, as lines of JSON.
    pub(super) log: Option<PathBuf>,
}

impl Container {
    /// These containers now; one that is gone is missing.
    pub(super) async fn look(docker: &Docker, ids: &[&str]) -> anyhow::Result<Vec<Self>> {
        let arguments: Vec<&str> = ["inspect", "--type", "container"].into_iter().chain(ids.iter().copied()).collect();
        read(&docker.ask(&arguments).await?)
    }

    /// Where a role that is no gateway answers.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address?, ADMIN))
    }
}

/// Reads what `docker inspect` says.
fn read(text: &str) -> anyhow::Result<Vec<Container>> {
    let answer: Vec<Value> = serde_json::from_str(text).context("reading what docker inspect says")?;
    Ok(answer.iter().filter_map(one).collect())
}

fn one(value: &Value) -> Option<Container> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let networks = || value.pointer("/NetworkSettings/Networks").and_then(Value::as_object).into_iter().flat_map(|networks| networks.values());
    let of_network = |key: &str| networks().find_map(|network| network.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    Some(Container {
        id: text("/Id")?,
        part: value.pointer("/Config/Labels")?.get("com.docker.compose.service")?.as_str()?.to_owned(),
        pid: value.pointer("/State/Pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0),
        address: of_network("IPAddress").and_then(|address| address.parse().ok()),
        machine: of_network("Gateway"),
        log: text("/LogPath").map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_read_while_it_runs_and_when_it_has_ended() {
        let container = |pid: u32, address: &str| {
            json!({ "Id": "1f", "Config": { "Labels": { "com.docker.compose.service": "worker-1" } }, "State": { "Pid": pid }, "LogPath": "/logs/1f",
                "NetworkSettings": { "Networks": { "p_inside": { "IPAddress": address, "Gateway": if pid == 0 { "" } else { "172.18.0.1" } } } } })
        };
        let stranger = json!({ "Id": "2f", "Config": { "Labels": {} } });
        let text = json!([container(4711, "172.18.0.9"), container(0, ""), stranger]).to_string();
        let read = read(&text).unwrap();
        let ended = Container { id: "1f".into(), part: "worker-1".into(), pid: None, address: None, machine: None, log: Some("/logs/1f".into()) };
        let running = Container { pid: Some(4711), address: Some([172, 18, 0, 9].into()), machine: Some("172.18.0.1".into()), ..ended.clone() };
        assert_eq!(running.admin(), Some(SocketAddr::from(([172, 18, 0, 9], 9090))));
        assert_eq!(ended.admin(), None);
        assert_eq!(read, [running, ended]);
        assert!(super::read("no answer").is_err());
    }
}
