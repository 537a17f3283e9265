//! What is played: tenants with people who are invited by link and accept, people who are created, and changes of their roles.

use anyhow::Context as _;
use futures_util::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use subjects::TenantId;

use super::client::{Client, Order};

/// Tenants.
pub(super) const TENANTS: usize = 6;
/// People of a tenant who are invited: invitation, acceptance, another role.
const INVITED: usize = 4;
/// People of a tenant who are created: creation, another role, revocation, another name.
const CREATED: usize = 5;
/// Commands in all; besides those of people, a tenant's creation and one that has to be refused.
pub(super) const COMMANDS: usize = TENANTS * (2 + INVITED * 3 + CREATED * 4);

/// Plays all of it and gives the tenants.
///
/// # Errors
/// An answer that is not the right one.
pub(super) async fn play(client: &Client) -> anyhow::Result<Vec<TenantId>> {
    try_join_all((0..TENANTS).map(|number| tenant(client, number))).await
}

async fn tenant(client: &Client, number: usize) -> anyhow::Result<TenantId> {
    let name = format!("demo-{}-{number}", client.run);
    let owner = json!({ "email": format!("owner@{name}.example"), "fullName": "Olga Owner" });
    let body = json!({ "slug": name, "name": format!("Demo {number}"), "plan": "starter", "owner": owner });
    let answer = client.order(Order::post("/v1/tenants", body)).await?;
    let tenant: TenantId = text(&answer, "aggregateId")?.parse().map_err(|_| anyhow::anyhow!("no tenant in {answer}"))?;
    let people = try_join_all((0..INVITED).map(|place| invited(client, tenant, &name, place)));
    let colleagues = try_join_all((0..CREATED).map(|place| created(client, tenant, &name, place)));
    let (people, _) = tokio::try_join!(people, colleagues)?;
    // They have that role already: a refusal, which leaves its trace in the history, too.
    let admin = people.first().context("nobody was invited")?;
    let path = format!("/v1/tenants/{tenant}/members/{admin}/role");
    client.order(Order { refusal: Some("already_has_role"), ..Order::post(&path, json!({ "role": "admin" })) }).await?;
    Ok(tenant)
}

/// Somebody is invited by a link, follows it, and becomes an admin.
async fn invited(client: &Client, tenant: TenantId, name: &str, place: usize) -> anyhow::Result<String> {
    let path = format!("/v1/tenants/{tenant}/invitations");
    let body = json!({ "email": format!("guest{place}@{name}.example"), "role": "member", "invitationType": "link" });
    let answer = client.order(Order::post(&path, body)).await?;
    let link = text(&answer, "link")?;
    let token = link.split("token=").nth(1).context("a link without a token")?;
    let acceptance = Order::post("/v1/invitations/accept", json!({ "token": token, "fullName": format!("Greta Guest {place}") }));
    client.order(Order { signed: false, ..acceptance }).await?;
    // A query after a command's answer sees its effect.
    let invitation = client.get(&format!("{path}/{}", text(&answer, "aggregateId")?)).await?;
    let user = text(&invitation, "accountId")?;
    client.order(Order::post(&format!("/v1/tenants/{tenant}/members/{user}/role"), json!({ "role": "admin" }))).await?;
    Ok(user.to_owned())
}

/// Somebody is created as a member, gets another role, loses it, and gets another name.
async fn created(client: &Client, tenant: TenantId, name: &str, place: usize) -> anyhow::Result<()> {
    let body = json!({ "email": format!("user{place}@{name}.example"), "fullName": format!("Ulla User {place}"), "role": "member" });
    let answer = client.order(Order::post(&format!("/v1/tenants/{tenant}/users"), body)).await?;
    let user = text(&answer, "aggregateId")?;
    let role = format!("/v1/tenants/{tenant}/members/{user}/role");
    client.order(Order::post(&role, json!({ "role": "readonly" }))).await?;
    client.order(Order::post(&format!("{role}/revoke"), json!({ "role": "readonly", "reason": "end of the demo" }))).await?;
    let rename = Order::post("", json!({ "fullName": format!("Ulla Unlike {place}") }));
    client.order(Order { method: Method::PATCH, path: &format!("/v1/tenants/{tenant}/users/{user}"), ..rename }).await?;
    Ok(())
}

fn text<'a>(body: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    body.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {body}"))
}
