//! The containers of the project, as Docker has them.

use anyhow::Context as _;
use serde_json::Value;

use super::docker::{Compose, Docker};

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// The container's id.
    pub(crate) id: String,
    /// The service's name in `compose.yaml`.
    pub(crate) name: String,
    /// `running`, `exited`, …
    pub(crate) state: String,
    /// `healthy`, `starting`, `unhealthy`; none without a health check.
    pub(crate) health: Option<String>,
    /// How it ended, if it has.
    pub(crate) exit_code: i64,
    /// How often Docker has started it again.
    pub(crate) restarts: i64,
    /// When it was started last, RFC 3339.
    pub(crate) started: String,
    /// Where it is published on this machine.
    pub(crate) ports: Vec<String>,
}

impl Service {
    /// All containers of the project, by name.
    pub(crate) async fn all(docker: &Docker, compose: &Compose) -> anyhow::Result<Vec<Self>> {
        let ids = compose.ask(&["--profile", "mail", "--profile", "observability", "ps", "-q", "-a"]).await?;
        let ids: Vec<&str> = ids.lines().map(str::trim).filter(|id| !id.is_empty()).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let arguments: Vec<&str> = ["inspect"].into_iter().chain(ids).collect();
        let answer: Vec<Value> = serde_json::from_str(&docker.ask(&arguments).await?).context("reading what docker inspect says")?;
        let mut services: Vec<Self> = answer.iter().filter_map(Self::read).collect();
        services.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(services)
    }

    fn read(container: &Value) -> Option<Self> {
        let text = |pointer: &str| container.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let number = |pointer: &str| container.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
        let bindings = container.pointer("/NetworkSettings/Ports").and_then(Value::as_object).into_iter().flatten();
        let addresses = bindings.flat_map(|(_, hosts)| hosts.as_array().into_iter().flatten());
        let address = |host: &Value| Some(format!("{}:{}", host.get("HostIp")?.as_str()?, host.get("HostPort")?.as_str()?));
        Some(Self {
            id: text("/Id")?,
            // The label's name has slashes' escapes to spare: it is no path of keys.
            name: container.pointer("/Config/Labels")?.get("com.docker.compose.service")?.as_str()?.to_owned(),
            state: text("/State/Status")?,
            health: text("/State/Health/Status"),
            exit_code: number("/State/ExitCode"),
            restarts: number("/RestartCount"),
            started: text("/State/StartedAt").unwrap_or_default(),
            ports: addresses.filter_map(address).collect(),
        })
    }

    /// True while its process runs.
    pub(crate) fn running(&self) -> bool {
        self.state == "running"
    }

    /// As it should be: running and healthy, or done.
    pub(crate) fn fine(&self) -> bool {
        match self.state.as_str() {
            "running" => self.health.as_deref().is_none_or(|health| health == "healthy"),
            "exited" => self.exit_code == 0 && self.health.is_none(),
            _ => false,
        }
    }

    /// True when it will not become fine by waiting, or says so.
    pub(crate) fn failed(&self) -> bool {
        matches!(self.state.as_str(), "exited" | "dead" | "restarting") && !self.fine() || self.health.as_deref() == Some("unhealthy")
    }

    /// Its name and how it is.
    pub(crate) fn describe(&self) -> String {
        match (&self.health, self.state.as_str()) {
            (Some(health), "running") => format!("{} ({health})", self.name),
            (_, "exited") => format!("{} (ended with {})", self.name, self.exit_code),
            (_, state) => format!("{} ({state})", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(state: &Value) -> Service {
        let value = json!({ "Id": "1", "Config": { "Labels": { "com.docker.compose.service": "worker-1" } }, "State": state, "RestartCount": 2,
            "NetworkSettings": { "Ports": { "9090/tcp": null, "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8081" }] } } });
        Service::read(&value).unwrap_or_else(|| panic!("{value} was not read"))
    }

    #[test]
    fn a_service_is_fine_when_it_is_healthy_or_done_and_not_otherwise() {
        let healthy = container(&json!({ "Status": "running", "Health": { "Status": "healthy" }, "ExitCode": 0 }));
        assert!(healthy.fine() && !healthy.failed());
        assert_eq!((healthy.restarts, healthy.ports), (2, vec!["127.0.0.1:8081".to_owned()]));
        let done = container(&json!({ "Status": "exited", "ExitCode": 0 }));
        assert!(done.fine() && !done.failed());
        let starting = container(&json!({ "Status": "running", "Health": { "Status": "starting" } }));
        assert!(!starting.fine() && !starting.failed());
        // A role that has ended is missed, however well it ended.
        for ended in [json!({ "Status": "exited", "ExitCode": 1 }), json!({ "Status": "exited", "ExitCode": 0, "Health": { "Status": "healthy" } })] {
            assert!(container(&ended).failed() && !container(&ended).fine());
        }
    }
}
