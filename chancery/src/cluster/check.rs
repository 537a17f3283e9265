//! `chancery cluster check`: that a cluster takes commands through both gateways and tells the audit, also after a nats-server was killed.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::{
    GATEWAYS, Service,
    docker::{Compose, Docker},
    explain, healthy, image, interrupted, start, status,
};
use crate::{
    servers::port,
    up::demo::client::{Client, Order},
};

/// How long the audit may take to have what was answered.
const AUDIT_LIMIT: Duration = Duration::from_secs(60);
/// How often the audit is asked.
const LOOK: Duration = Duration::from_millis(200);
/// How long a check on a cluster of its own may take, from nothing to nothing.
const FRESH_LIMIT: Duration = Duration::from_secs(480);
/// The service that leads this stream is the one to kill: nothing is accepted without it.
const LED: &str = "COMMANDS";

/// Checks a running cluster.
pub(super) async fn run(docker: &Docker, compose: &Compose, crash: bool) -> anyhow::Result<()> {
    let token = compose.ask(&["exec", "-T", GATEWAYS[0].0, "chancery", "token", "operator"]).await.context("asking for a token")?;
    let mut clients = Vec::new();
    for (service, _, _) in GATEWAYS {
        clients.push((service, Client::new(&format!("http://{}", compose.port(service, 8080).await?), token.trim())));
    }
    post(&clients).await?;
    if !crash {
        return Ok(());
    }
    let services = Service::all(docker, compose).await?;
    let streams = status::streams(docker, &services).await;
    let leader = streams.iter().find(|stream| stream.name == LED).map(|stream| stream.leader.clone());
    let leader = leader.with_context(|| format!("{LED} has no leader"))?;
    let victim = services.iter().find(|service| service.name == leader).with_context(|| format!("{leader} is no service"))?;
    docker.ask(&["kill", &victim.id]).await?;
    println!("{leader}, which led {LED}, is killed");
    let posted = post(&clients).await;
    docker.ask(&["start", &victim.id]).await?;
    posted?;
    healthy(docker, compose).await?;
    println!("{leader} is back, and everything is healthy");
    Ok(())
}

/// A tenant through each gateway, and an invitation to it through the other; then the events in the audit.
async fn post(clients: &[(&str, Client)]) -> anyhow::Result<()> {
    for (index, (service, client)) in clients.iter().enumerate() {
        let begin = Instant::now();
        let slug = format!("check-{:08x}", rand::random::<u32>());
        let owner = json!({ "email": format!("ada@{slug}.example"), "fullName": "Ada Lovelace" });
        let body = json!({ "slug": slug, "name": "Check", "plan": "starter", "owner": owner });
        let answer = client.order(Order::post("/v1/tenants", body)).await?;
        let tenant = answer.get("aggregateId").and_then(Value::as_str).with_context(|| format!("no tenant in {answer}"))?;
        let Some((other_service, other)) = clients.get((index + 1) % clients.len()) else { bail!("there is no gateway") };
        let invitations = format!("/v1/tenants/{tenant}/invitations");
        let invited = other.order(Order::post(&invitations, json!({ "email": format!("bob@{slug}.example"), "role": "member" }))).await?;
        let answered = begin.elapsed();
        let events: Vec<&str> = ids(&answer, "/events", "/id").chain(ids(&invited, "/events", "/id")).collect();
        audited(other, tenant, &events).await?;
        println!(
            "tenant through {service}, invitation through {other_service}: answered in {:.1} s, audited after {:.1} s",
            answered.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// Waits until the audit has every event that was answered, once, and what a consumer made of the last one: the invitation's mail.
async fn audited(client: &Client, tenant: &str, events: &[&str]) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let page = client.get(&format!("/v1/tenants/{tenant}/audit?pageSize=100")).await.unwrap_or_default();
        let audited: Vec<&str> = ids(&page, "/items", "/eventId").collect();
        let times = |event: &str| audited.iter().filter(|one| **one == event).count();
        let missing = events.iter().filter(|event| times(event) != 1).count();
        let sent = ids(&page, "/items", "/action").any(|action| action == "INVITATION_SENT");
        if !events.is_empty() && missing == 0 && sent {
            return Ok(());
        }
        if begin.elapsed() > AUDIT_LIMIT {
            let sent = if sent { "" } else { ", and the invitation was not sent" };
            bail!("after {} s the audit of {tenant} has {missing} of {} events not once{sent}: {page}", AUDIT_LIMIT.as_secs(), events.len());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A text of every item of a list.
fn ids<'a>(value: &'a Value, list: &str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let items = value.pointer(list).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(move |item| item.pointer(text)?.as_str())
}

/// The check on a cluster of its own: own name, own ports, own image; all of it removed, whatever happens. Where there is no Docker, or no
/// way to the images, there is nothing to check.
pub(super) async fn fresh(project: Option<String>) -> anyhow::Result<ExitCode> {
    let found = async {
        let docker = Docker::find().await?;
        let name = project.unwrap_or_else(|| format!("chancery-check-{}", std::process::id()));
        let mut compose = Compose::find(&docker, Vec::new(), Some(name.clone())).await?;
        for image in compose.environment()?.public_images() {
            if docker.ask(&["image", "inspect", "--format", "-", &image]).await.is_err() {
                docker.work(&["pull", "-q", &image]).await.with_context(|| format!("the image {image} cannot be had"))?;
            }
        }
        compose.variables.push(("CHANCERY_IMAGE".into(), format!("chancery:{name}")));
        for (_, variable, _) in GATEWAYS {
            compose.variables.push((variable.into(), port::free(None)?.to_string()));
        }
        anyhow::Ok((docker, compose, name))
    };
    let (docker, compose, name) = match found.await {
        Ok(found) => found,
        Err(error) => {
            println!("compose cluster: skipped: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let image = format!("chancery:{name}");
    let work = async {
        image::ensure(&docker, &compose, &image, true).await?;
        start(&docker, &compose, &[]).await?;
        run(&docker, &compose, true).await
    };
    let result = tokio::select! {
        result = work => result,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
        () = tokio::time::sleep(FRESH_LIMIT) => Err(anyhow::anyhow!("the check took longer than {} s", FRESH_LIMIT.as_secs())),
    };
    if result.is_err() {
        let services = Service::all(&docker, &compose).await.unwrap_or_default();
        explain(&docker, services.iter().filter(|service| service.failed())).await;
    }
    let down = compose.show(&["down", "--volumes", "--remove-orphans", "--timeout", "20"]).await;
    let _ = docker.ask(&["rmi", "-f", &image]).await;
    result?;
    down?;
    println!("compose cluster: takes commands through both gateways, also after the leader of {LED} was killed");
    Ok(ExitCode::SUCCESS)
}
