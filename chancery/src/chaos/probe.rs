//! Probes: commands of our own, whose outcomes say that everything between a gateway and the tables works again.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{reach::Reach, target::Doors};
use crate::token::{self, Claims};

/// Tenants that probes are for: enough that every worker decides for some of them.
const TENANTS: usize = 8;
/// How long one probe may take.
const LIMIT: Duration = Duration::from_secs(4);
/// How long making the tenants may take.
const BEGINNING: Duration = Duration::from_secs(60);
/// How long the token is valid; no run is longer.
const TOKEN: Duration = Duration::from_secs(24 * 3600);
/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Asks whether commands have outcomes. Its commands are in no history: they are nothing that a checker knows of.
#[derive(Debug)]
pub(super) struct Prober {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    gateways: Vec<SocketAddr>,
    token: String,
    tenants: Vec<String>,
}

impl Prober {
    /// Makes the tenants.
    ///
    /// # Errors
    /// They cannot be made in a minute.
    pub(super) async fn start(reach: &Reach, doors: &Doors) -> anyhow::Result<Self> {
        let subject = format!("svc_{}", Uuid::now_v7());
        let token = token::mint(reach.token_private_key.expose(), &Claims::new(&subject, "platform", "operator", TOKEN))?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        // A connection that a fault has cut is not used again.
        let http = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let mut prober = Self { http, gateways: doors.gateways.values().copied().collect(), token, tenants: Vec::new() };
        let deadline = tokio::time::Instant::now() + BEGINNING;
        while prober.tenants.len() < TENANTS {
            let name = format!("probe-{}", Uuid::now_v7().simple());
            let body =
                json!({ "slug": name, "name": "Probe", "plan": "free", "owner": { "email": format!("{name}@example.com"), "fullName": "Probe" } });
            let gateway = prober.gateways[prober.tenants.len() % prober.gateways.len().max(1)];
            match prober.send(gateway, Method::POST, "/v1/tenants", &body).await {
                Ok((201 | 200, answer)) => prober.tenants.push(answer["aggregateId"].as_str().context("a tenant without an id")?.to_owned()),
                other if tokio::time::Instant::now() > deadline => bail!("the tenants of the probes cannot be made: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        Ok(prober)
    }

    /// Whether a command for every tenant has its outcome, asked through every gateway in turn, or through one.
    pub(super) async fn ask(&self, gateway: Option<SocketAddr>) -> Result<(), String> {
        let name = json!({ "name": format!("Probe {}", Uuid::now_v7().simple()) });
        let one = async |(index, tenant): (usize, &String)| {
            let gateway = gateway.unwrap_or_else(|| self.gateways[index % self.gateways.len().max(1)]);
            match self.send(gateway, Method::PATCH, &format!("/v1/tenants/{tenant}"), &name).await {
                Ok((200, _)) => Ok(()),
                Ok((status, _)) => Err(format!("a probe was answered with {status}")),
                Err(error) => Err(format!("a probe was not answered: {error}")),
            }
        };
        join_all(self.tenants.iter().enumerate().map(one)).await.into_iter().collect()
    }

    async fn send(&self, gateway: SocketAddr, method: Method, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{gateway}{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header("prefer", "wait=3")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let exchange = async {
            let answer = self.http.request(request).await?;
            let status = answer.status().as_u16();
            let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        };
        tokio::time::timeout(LIMIT, exchange).await.context("no answer in time")?
    }
}
