//! Single wishes in a chosen order, for scenarios that need to know what comes after what. They are recorded like those of the load.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    OPERATOR, TOKENS,
    client::Client,
    pursue::{Ended, Wish, pursue},
    world,
};
use crate::{
    chaos::{
        history::{Effect, End, History, Request},
        reach::Reach,
    },
    token::{self, Claims},
};

/// The client's number: beyond those of any load.
const NUMBER: usize = 1_000_000;

/// A client that does as it is told.
#[derive(Debug)]
pub struct Script {
    client: Client,
    history: History,
    operator: String,
    patience: Duration,
    count: AtomicU64,
}

/// A tenant of a script.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id without prefix.
    pub id: Uuid,
    marker: String,
}

/// An accepted wish.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// The command's id without prefix.
    pub command: Uuid,
}

impl Script {
    /// Asks the gateways in turn, as an operator.
    ///
    /// # Errors
    /// The key signs no tokens.
    pub fn new(reach: &Reach, history: &History, patience: Duration) -> anyhow::Result<Self> {
        let operator = token::mint(reach.token_private_key.expose(), &Claims::new(OPERATOR, "platform", "operator", TOKENS))?;
        let client = Client::new(reach.gateways.clone(), 0, history.clone());
        Ok(Self { client, history: history.clone(), operator, patience, count: AtomicU64::new(0) })
    }

    /// Creates a tenant.
    ///
    /// # Errors
    /// It was not created in time.
    pub async fn tenant(&self) -> anyhow::Result<Tenant> {
        let marker = world::marker();
        let owner = json!({ "email": format!("owner.{marker}@example.com"), "fullName": format!("Owner {marker}") });
        let body = json!({ "slug": marker, "name": format!("Tenant {marker}"), "plan": "enterprise", "owner": owner });
        let effect = Effect { event_type: "tenant.created", value: marker.clone() };
        let ended = self.ask("tenant.create", None, "POST", "/v1/tenants".into(), body, effect).await;
        let id = ended.said.answer.aggregate.with_context(|| format!("the tenant was not created: {:?}", ended.end))?;
        Ok(Tenant { id, marker })
    }

    /// Gives a tenant a name that nobody else gives.
    ///
    /// # Errors
    /// The outcome is another than a success, or not known in time.
    pub async fn rename(&self, tenant: &Tenant) -> anyhow::Result<Done> {
        let name = format!("Name {} {}", self.count.fetch_add(1, Ordering::Relaxed), tenant.marker);
        let effect = Effect { event_type: "tenant.updated", value: name.clone() };
        let path = format!("/v1/tenants/tenant_{}", tenant.id);
        succeeded(self.ask("tenant.update", Some(tenant.id), "PATCH", path, json!({ "name": name }), effect).await)
    }

    /// Invites somebody with attributes of so many letters: an event of that size.
    ///
    /// # Errors
    /// As for [`Script::rename`].
    pub async fn invite(&self, tenant: &Tenant, letters: usize) -> anyhow::Result<Done> {
        let email = format!("guest{}.{}@example.com", self.count.fetch_add(1, Ordering::Relaxed), tenant.marker);
        let effect = Effect { event_type: "invitation.created", value: email.clone() };
        let path = format!("/v1/tenants/tenant_{}/invitations", tenant.id);
        let body = json!({ "email": email, "role": "member", "attributes": { "long": "x".repeat(letters) } });
        succeeded(self.ask("invitation.create", Some(tenant.id), "POST", path, body, effect).await)
    }

    async fn ask(&self, kind: &'static str, tenant: Option<Uuid>, method: &str, path: String, body: Value, effect: Effect) -> Ended {
        let request = Request {
            kind,
            client: NUMBER,
            tenant,
            method: method.into(),
            path,
            key: Some(format!("script-{}", Uuid::now_v7())),
            effects: vec![effect],
            ..Request::default()
        };
        let op = self.history.invoke(self.history.now(), request.clone());
        let wish = Wish { request, token: Some(self.operator.clone()), body: Some(body), reader: self.operator.clone() };
        pursue(&self.client, &self.history, op, &wish, self.patience).await
    }
}

fn succeeded(ended: Ended) -> anyhow::Result<Done> {
    match (ended.end, ended.said.answer.command) {
        (End::Succeeded, Some(command)) => Ok(Done { command }),
        (end, _) => bail!("a wish of the script ended with {end:?}"),
    }
}
