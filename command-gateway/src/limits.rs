//! Limits on who may ask how often, per process. Told with `RateLimit-Policy` and `RateLimit` (draft 10 of the IETF's header fields).

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
};
use runtime::Config;
use subjects::{Actor, InvitationId, TenantId};

use crate::{
    auth::Caller,
    problem::{Code, Problem},
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Keys a limiter keeps at most; further ones share one.
const KEYS: usize = 100_000;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Principal(Option<TenantId>, Actor),
    Address(IpAddr),
    Invitation(InvitationId),
    Others,
}

struct Limit {
    name: &'static str,
    quota: u32,
    window: u64,
    limiter: DefaultKeyedRateLimiter<Key, StateInformationMiddleware>,
    clock: DefaultClock,
}

/// What is left of a limit, for the answer's headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    name: &'static str,
    quota: u32,
    window: u64,
    remaining: u32,
    reset: u64,
}

impl Limit {
    fn new(name: &'static str, quota: u32, window: u64, per: fn(NonZeroU32) -> Quota) -> Option<Self> {
        let limiter = RateLimiter::dashmap(per(NonZeroU32::new(quota)?)).with_middleware::<StateInformationMiddleware>();
        Some(Self { name, quota, window, limiter, clock: DefaultClock::default() })
    }

    fn check(&self, key: Key) -> Result<Left, Problem> {
        let key = if self.limiter.len() >= KEYS { Key::Others } else { key };
        let left = |remaining, reset| Left { name: self.name, quota: self.quota, window: self.window, remaining, reset };
        match self.limiter.check_key(&key) {
            Ok(snapshot) => Ok(left(snapshot.remaining_burst_capacity(), self.window)),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let problem = Problem::new(Code::RateLimited).retry_after(seconds.max(1));
                let mut headers = HeaderMap::new();
                left(0, seconds.max(1)).tell(&mut headers);
                Err(headers
                    .into_iter()
                    .filter_map(|(name, value)| Some((name?, value)))
                    .fold(problem, |problem, (name, value)| problem.header(name, value)))
            }
        }
    }
}

impl Left {
    /// Adds the headers to an answer.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let Self { name, quota, window, remaining, reset } = self;
        let policy = HeaderValue::try_from(format!("\"{name}\";q={quota};w={window}"));
        let left = HeaderValue::try_from(format!("\"{name}\";r={remaining};t={reset}"));
        if let (Ok(policy), Ok(left)) = (policy, left) {
            headers.insert(RATE_LIMIT_POLICY, policy);
            headers.insert(RATE_LIMIT, left);
        }
    }
}

/// The gateway's limits.
pub(crate) struct Limits {
    principal: Option<Limit>,
    address: Option<Limit>,
    invitation: Option<Limit>,
}

impl Limits {
    /// The limits of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let public = config.public_rate_per_minute;
        Self {
            principal: Limit::new("principal", config.rate_per_second, 1, Quota::per_second),
            address: Limit::new("address", public, 60, Quota::per_minute),
            invitation: Limit::new("invitation", public, 60, Quota::per_minute),
        }
    }

    /// Counts a request of a caller in the token's tenant.
    pub(crate) fn caller(&self, caller: &Caller) -> Result<Option<Left>, Problem> {
        self.principal.as_ref().map(|limit| limit.check(Key::Principal(caller.tenant, caller.actor))).transpose()
    }

    /// Counts a request of an address; a network of IPv6 addresses counts as one, its owner has them all.
    pub(crate) fn address(&self, address: IpAddr) -> Result<Option<Left>, Problem> {
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        };
        self.address.as_ref().map(|limit| limit.check(Key::Address(address))).transpose()
    }

    /// Counts a request about an invitation.
    pub(crate) fn invitation(&self, invitation: InvitationId) -> Result<(), Problem> {
        self.invitation.as_ref().map_or(Ok(()), |limit| limit.check(Key::Invitation(invitation)).map(|_| ()))
    }

    /// Forgets now and then who has been quiet.
    pub(crate) async fn tidy(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            for limit in [&self.principal, &self.address, &self.invitation].into_iter().flatten() {
                limit.limiter.retain_recent();
                limit.limiter.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: &str, public: &str) -> Limits {
        let lookup = |name: &str| match name {
            "CHANCERY_RATE_PER_SECOND" => Some(rate.to_owned()),
            "CHANCERY_PUBLIC_RATE_PER_MINUTE" => Some(public.to_owned()),
            _ => None,
        };
        Limits::new(&Config::from_lookup(&lookup).unwrap())
    }

    #[test]
    fn too_many_requests_of_an_address_are_told_when_to_come_back() {
        let limits = limits("0", "2");
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(limits.address(address).is_ok());
        let mut headers = HeaderMap::new();
        limits.address(address).unwrap().unwrap().tell(&mut headers);
        assert_eq!(
            (headers["ratelimit-policy"].to_str().unwrap(), headers["ratelimit"].to_str().unwrap()),
            ("\"address\";q=2;w=60", "\"address\";r=0;t=60")
        );
        let refused = axum::response::IntoResponse::into_response(limits.address(address).unwrap_err());
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "30"));
        assert!(limits.address("192.0.2.2".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_addresses_counts_as_one() {
        let limits = limits("0", "1");
        assert!(limits.address("2001:db8::1".parse().unwrap()).is_ok());
        assert!(limits.address("2001:db8::2".parse().unwrap()).is_err());
        assert!(limits.address("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn no_limit_is_no_limit() {
        let limits = limits("0", "1");
        let caller = || Key::Principal(None, Actor::System);
        assert!(limits.principal.is_none());
        assert!(limits.invitation.as_ref().unwrap().check(caller()).is_ok());
    }
}
