//! Around every handler: the policy, the token, the limits, the span, the count. And the two extractors that handlers begin with.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{ConnectInfo, FromRequestParts, RawPathParams, Request, State},
    http::{HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use prometheus::IntGauge;
use subjects::{Role, TenantId, UserId};
use tracing::Instrument as _;

use crate::{
    access::{Purpose, forbidden},
    auth::Caller,
    gateway::Gateway,
    limits::Left,
    policy::{Does, Least, Policy},
    problem::{Code, Problem},
};

/// When the gateway began to work on a request: every deadline counts from here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun(pub(crate) Instant);

/// A request being worked on, until it is answered or given up.
struct InFlight(IntGauge);

impl InFlight {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers a request to a route, whatever happens inside.
pub(crate) async fn guard(State((gateway, policy)): State<(Gateway, &'static Policy)>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let _counted = InFlight::count(&gateway.metrics.in_flight);
    let span = gateway.telemetry.span(policy, request.headers());
    request.extensions_mut().insert(policy);
    request.extensions_mut().insert(Begun(begun));
    let work = AssertUnwindSafe(admitted(&gateway, policy, request, next).instrument(span.clone())).catch_unwind();
    let mut response = match tokio::time::timeout(gateway.config.request_timeout, work).await {
        Ok(Ok(response)) => response,
        // The panic hook has told where.
        Ok(Err(_)) => Problem::new(Code::Internal).into_response(),
        Err(_) => Problem::new(Code::RequestTimeout).into_response(),
    };
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status().as_u16();
    gateway.metrics.answered(policy, status, begun.elapsed());
    gateway.telemetry.answered(&span, status);
    tracing::debug!(
        http.request.method = policy.method.name(),
        http.route = policy.path,
        http.response.status_code = status,
        duration_us = begun.elapsed().as_micros() as u64,
        "answered"
    );
    response
}

async fn admitted(gateway: &Gateway, policy: &Policy, mut request: Request, next: Next) -> Response {
    let Ok(_permit) = gateway.in_flight.try_acquire() else { return Problem::new(Code::Overloaded).into_response() };
    let left = match admit(gateway, policy, &mut request) {
        Ok(left) => left,
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    if let Some(left) = left
        && !response.headers().contains_key("ratelimit")
    {
        left.tell(response.headers_mut());
    }
    response
}

/// Authenticates and counts; the caller is left for the extractors.
fn admit(gateway: &Gateway, policy: &Policy, request: &mut Request) -> Result<Option<Left>, Problem> {
    if policy.least == Least::Public {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        return peer.map_or(Ok(None), |peer| gateway.limits.address(peer.0.ip()));
    }
    let caller = gateway.tokens.caller(request.headers())?;
    let left = gateway.limits.caller(&caller)?;
    request.extensions_mut().insert(caller);
    Ok(left)
}

/// The ids of a path. One that is not well-formed names nothing.
#[derive(Debug)]
pub(crate) struct Path(Vec<(String, String)>);

impl Path {
    async fn read(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, gateway).await.map_err(|_| Problem::not_found())?;
        Ok(Self(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// A part of the path as text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Problem> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).ok_or_else(Problem::not_found)
    }

    /// A part of the path as an id.
    pub(crate) fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, Problem> {
        self.text(name)?.parse().map_err(|_| Problem::not_found())
    }
}

/// A caller who may use the route in the tenant of its path.
#[derive(Debug)]
pub(crate) struct Access {
    /// Who.
    pub(crate) caller: Arc<Caller>,
    /// The tenant of the path.
    pub(crate) tenant: TenantId,
    /// The ids of the path.
    pub(crate) path: Path,
}

/// The caller of a route outside of tenants.
pub(crate) struct Signed(pub(crate) Arc<Caller>);

fn caller(parts: &Parts) -> Result<Arc<Caller>, Problem> {
    parts.extensions.get::<Arc<Caller>>().cloned().ok_or_else(|| Problem::new(Code::Internal))
}

fn policy(parts: &Parts) -> Result<&'static Policy, Problem> {
    parts.extensions.get::<&'static Policy>().copied().ok_or_else(|| Problem::new(Code::Internal))
}

impl FromRequestParts<Gateway> for Signed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _gateway: &Gateway) -> Result<Self, Problem> {
        let (caller, policy) = (caller(parts)?, policy(parts)?);
        if policy.least == Least::Operator && !caller.operator {
            return Err(forbidden());
        }
        Ok(Self(caller))
    }
}

impl FromRequestParts<Gateway> for Path {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        Self::read(parts, gateway).await
    }
}

impl FromRequestParts<Gateway> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let (caller, policy) = (caller(parts)?, policy(parts)?);
        let path = Path::read(parts, gateway).await?;
        let tenant: TenantId = path.id("t")?;
        // The worker finds out if there is no such tenant.
        if !caller.operator {
            enter(gateway, policy, &caller, tenant, &path).await?;
        }
        Ok(Self { caller, tenant, path })
    }
}

/// Lets the caller into the tenant, or shows nothing of it; then asks for the role.
async fn enter(gateway: &Gateway, policy: &Policy, caller: &Caller, tenant: TenantId, path: &Path) -> Result<(), Problem> {
    let purpose = if policy.does == Does::Query { Purpose::Query } else { Purpose::Command };
    let home = caller.tenant == Some(tenant);
    let least = match policy.least {
        Least::Role(role) => Some(role),
        Least::SelfOr(role) => (caller.user() != path.id("u").ok()).then_some(role),
        Least::Operator => None,
        Least::Public | Least::Caller | Least::Own | Least::Aggregate => None,
    };
    let standing = async |user: UserId| gateway.standings.reaching(tenant, user, least, purpose).await;
    let role: Option<Role> = match (home, caller.user()) {
        // Nothing but the tenant is asked for, and the token names it.
        (true, _) if least.is_none() => None,
        (_, Some(user)) => match standing(user).await? {
            Some(standing) => standing.role,
            None if home => None,
            None => return Err(Problem::not_found()),
        },
        (true, None) => None,
        (false, None) => return Err(Problem::not_found()),
    };
    match (policy.least, least) {
        (Least::Operator, _) => Err(forbidden()),
        (_, Some(least)) if role.is_none_or(|role| role < least) => Err(forbidden()),
        _ => Ok(()),
    }
}

/// Whether who was let in may still use the route: for answers that last.
///
/// # Errors
/// As if they came now.
pub(crate) async fn may(gateway: &Gateway, policy: &Policy, access: &Access) -> Result<(), Problem> {
    if access.caller.operator { Ok(()) } else { enter(gateway, policy, &access.caller, access.tenant, &access.path).await }
}

/// What is no route.
pub(crate) async fn no_route(State(gateway): State<Gateway>) -> Problem {
    gateway.metrics.unmatched(404);
    Problem::new(Code::RouteNotFound)
}

/// What is no method of a route.
pub(crate) async fn no_method(State(gateway): State<Gateway>) -> Problem {
    gateway.metrics.unmatched(405);
    Problem::new(Code::MethodNotAllowed)
}
