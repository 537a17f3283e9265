//! The routes, one file an aggregate. Each route is its policy and its handler.

pub(crate) mod audit;
pub(crate) mod bulk;
pub(crate) mod command;
pub(crate) mod deadletter;
pub(crate) mod events;
pub(crate) mod history;
pub(crate) mod invitation;
pub(crate) mod link;
pub(crate) mod me;
pub(crate) mod member;
pub(crate) mod notification;
mod ops;
pub(crate) mod team;
pub(crate) mod tenant;
pub(crate) mod user;

use axum::{
    Router,
    handler::Handler,
    middleware,
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use serde::Serialize;
use subjects::{CommandId, Kind, TenantId, UserId};

use crate::{
    answer::{Created, answer},
    auth::Caller,
    gateway::Gateway,
    guard::{self, Access},
    policy::{Does, Policy, Verb},
    problem::{Code, Problem},
    request::Meta,
    submit::{Draft, Fate},
};

/// A route: its policy and its handler.
pub(crate) struct Endpoint {
    policy: &'static Policy,
    handler: MethodRouter<Gateway>,
}

impl Endpoint {
    fn new<H: Handler<T, Gateway>, T: 'static>(policy: &'static Policy, handler: H) -> Self {
        let filter = match policy.method {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
            Verb::Patch => MethodFilter::PATCH,
            Verb::Delete => MethodFilter::DELETE,
        };
        Self { policy, handler: on(filter, handler) }
    }
}

/// A command to be given: the route's policy names it.
pub(crate) struct Order<'a> {
    id: CommandId,
    tenant: TenantId,
    aggregate: String,
    caller: &'a Caller,
    created: Created,
}

impl<'a> Order<'a> {
    /// To something that exists in the tenant of the path.
    fn to(access: &'a Access, meta: &Meta, aggregate: String) -> Self {
        let id = meta.command_id(&access.tenant.to_string(), &access.caller.principal);
        Self { id, tenant: access.tenant, aggregate, caller: &access.caller, created: Created::Nothing }
    }

    /// Sends it and answers.
    async fn send(self, gateway: &Gateway, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Response, Problem> {
        let (id, created) = (self.id, self.created.clone());
        let fate = self.carry_out(gateway, meta, bytes, data).await?;
        answer(fate, id, meta, created)
    }

    /// Sends it.
    async fn carry_out(self, gateway: &Gateway, meta: &Meta, bytes: &[u8], data: &impl Serialize) -> Result<Fate, Problem> {
        let Does::Command(kind, command) = meta.policy.does else { return Err(Problem::new(Code::Internal)) };
        let Self { id, tenant, aggregate, caller, .. } = self;
        // What changes who may do what must count for the next request.
        let user: Option<UserId> = if matches!(kind, Kind::User | Kind::Membership) { aggregate.parse().ok() } else { None };
        let draft = Draft { id, tenant, kind, command, aggregate, actor: caller.actor, authority: caller.authority(), data: Draft::data(data)? };
        let fate = gateway.commands.carry_out(draft, meta, bytes).await;
        if let Some(user) = user {
            gateway.standings.forget(tenant, user).await;
        }
        fate
    }
}

/// Every route with a policy.
fn endpoints() -> Vec<Endpoint> {
    [
        tenant::endpoints(),
        user::endpoints(),
        member::endpoints(),
        invitation::endpoints(),
        bulk::endpoints(),
        link::endpoints(),
        team::endpoints(),
        command::endpoints(),
        me::endpoints(),
        audit::endpoints(),
        history::endpoints(),
        events::endpoints(),
        notification::endpoints(),
        deadletter::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The policy of every route.
pub fn policies() -> Vec<&'static Policy> {
    endpoints().into_iter().map(|endpoint| endpoint.policy).collect()
}

/// The router of everything.
pub(crate) fn router(gateway: Gateway) -> Router {
    let guarded = endpoints().into_iter().fold(Router::new(), |router, Endpoint { policy, handler }| {
        router.route(policy.path, handler.route_layer(middleware::from_fn_with_state((gateway.clone(), policy), guard::guard)))
    });
    guarded.merge(ops::router()).method_not_allowed_fallback(guard::no_method).fallback(guard::no_route).with_state(gateway)
}

#[cfg(test)]
mod tests;
