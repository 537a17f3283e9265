//! Who calls: access tokens (EdDSA JWT), verified once and remembered until they expire.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use moka::{Expiry, sync::Cache};
use runtime::config::Secret;
use serde::{Deserialize, Serialize};
use subjects::{Actor, Authority, TenantId, UserId};
use time::OffsetDateTime;

use crate::problem::{Code, Problem};

/// Who issues and who reads our tokens.
const ISSUER: &str = "chancery";
/// The scope of a platform operator.
const OPERATOR: &str = "operator";
/// Verified tokens that are remembered at most.
const REMEMBERED: u64 = 100_000;
/// Longer tokens are refused unread.
const LONGEST: usize = 4_096;
/// How long the token lives that follows an accepted invitation.
pub(crate) const SHORT: Duration = Duration::from_secs(15 * 60);

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    tid: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    iat: i64,
    exp: i64,
    iss: String,
    aud: String,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Who acts.
    pub(crate) actor: Actor,
    /// The same as text.
    pub(crate) principal: String,
    /// The token's tenant; none for the platform itself.
    pub(crate) tenant: Option<TenantId>,
    /// Whether the caller operates the platform.
    pub(crate) operator: bool,
    /// What the token allows, as it says.
    pub(crate) scope: String,
    /// When the token ends, in seconds.
    expires: i64,
}

impl Caller {
    /// By which right the caller's commands are given.
    pub(crate) const fn authority(&self) -> Authority {
        if self.operator { Authority::Operator } else { Authority::Member }
    }

    /// Whether the token has ended meanwhile.
    pub(crate) fn is_expired(&self) -> bool {
        self.expires <= now()
    }

    /// The person, if it is one.
    pub(crate) const fn user(&self) -> Option<UserId> {
        self.actor.user()
    }
}

/// A remembered token is forgotten when it ends.
struct UntilExpiry;

impl Expiry<Box<str>, Arc<Caller>> for UntilExpiry {
    fn expire_after_create(&self, _token: &Box<str>, caller: &Arc<Caller>, _created: Instant) -> Option<Duration> {
        Some(Duration::from_secs(u64::try_from(caller.expires - now()).unwrap_or(0)))
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Reads and mints access tokens.
pub(crate) struct Tokens {
    key: DecodingKey,
    rules: Validation,
    seen: Cache<Box<str>, Arc<Caller>>,
    minting: Option<EncodingKey>,
}

impl Tokens {
    /// Reads with the public key; mints only where there is a private one.
    ///
    /// # Errors
    /// A key that is not an Ed25519 key in PEM.
    pub(crate) fn new(public: &Secret, private: Option<&Secret>) -> Result<Self, jsonwebtoken::errors::Error> {
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&[ISSUER]);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.validate_nbf = true;
        rules.leeway = 0;
        Ok(Self {
            key: DecodingKey::from_ed_pem(public.expose().as_bytes())?,
            rules,
            seen: Cache::builder().max_capacity(REMEMBERED).expire_after(UntilExpiry).build(),
            minting: private.map(|key| EncodingKey::from_ed_pem(key.expose().as_bytes())).transpose()?,
        })
    }

    /// The caller that the headers prove, or why they prove none.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
        self.optional_caller(headers)?.ok_or_else(|| unauthenticated("there is no bearer token", "Bearer realm=\"chancery\""))
    }

    /// The same where nobody need be signed in; a token that is given must be valid all the same.
    pub(crate) fn optional_caller(&self, headers: &HeaderMap) -> Result<Option<Arc<Caller>>, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(bearer).filter(|token| token.len() <= LONGEST);
        let token = token.ok_or_else(|| invalid("the Authorization header holds no bearer token"))?;
        if let Some(caller) = self.seen.get(token)
            && caller.expires > now()
        {
            return Ok(Some(caller));
        }
        let caller = Arc::new(self.verify(token)?);
        self.seen.insert(token.into(), caller.clone());
        Ok(Some(caller))
    }

    fn verify(&self, token: &str) -> Result<Caller, Problem> {
        use jsonwebtoken::errors::ErrorKind;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.rules).map_err(|error| {
            invalid(if matches!(error.kind(), ErrorKind::ExpiredSignature) { "the token has expired" } else { "the token is not valid" })
        })?;
        let Claims { sub, tid, scope, exp, .. } = claims.claims;
        let actor = match sub.parse() {
            Ok(actor @ (Actor::User(_) | Actor::Service(_))) => actor,
            _ => return Err(invalid("the token's subject is neither a user nor a service")),
        };
        let tenant = match tid.as_str() {
            subjects::PLATFORM => None,
            tid => Some(tid.parse().map_err(|_| invalid("the token's tenant is not one"))?),
        };
        let operator = scope.split(' ').any(|scope| scope == OPERATOR);
        Ok(Caller { actor, principal: sub, tenant, operator, scope, expires: exp })
    }

    /// A token that says anything.
    #[cfg(test)]
    pub(crate) fn mint_for_tests(&self, sub: &str, tid: &str, scope: &str) -> String {
        let (iat, exp) = (now(), now() + 60);
        let claims = Claims { sub: sub.into(), tid: tid.into(), scope: scope.into(), iat, exp, iss: ISSUER.into(), aud: ISSUER.into() };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, self.minting.as_ref().unwrap()).unwrap()
    }

    /// A token for a user in a tenant that ends at a time; none where this gateway may not mint.
    pub(crate) fn mint(&self, user: UserId, tenant: TenantId, ends: OffsetDateTime) -> Option<String> {
        let key = self.minting.as_ref()?;
        let claims = Claims {
            sub: user.to_string(),
            tid: tenant.to_string(),
            scope: String::new(),
            iat: now(),
            exp: ends.unix_timestamp(),
            iss: ISSUER.into(),
            aud: ISSUER.into(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, key).ok()
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then_some(token.trim())
}

fn unauthenticated(detail: &'static str, challenge: &'static str) -> Problem {
    Problem::new(Code::Unauthenticated).detail(detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

fn invalid(detail: &'static str) -> Problem {
    unauthenticated(detail, "Bearer realm=\"chancery\", error=\"invalid_token\"")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key pair for tests only.
    pub(crate) const PRIVATE: &str =
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    /// Its public half (RFC 8037, appendix A).
    pub(crate) const PUBLIC: &str =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    const USER: &str = "user_01890a5d-ac96-774b-bcce-b302099a8057";
    const TENANT: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";

    fn tokens() -> Tokens {
        Tokens::new(&Secret::new(PUBLIC), Some(&Secret::new(PRIVATE))).unwrap()
    }

    fn signed(claims: &serde_json::Value) -> String {
        let key = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
    }

    fn claims(change: impl FnOnce(&mut serde_json::Value)) -> serde_json::Value {
        let mut claims =
            serde_json::json!({ "sub": USER, "tid": TENANT, "scope": "", "iat": now(), "exp": now() + 60, "iss": ISSUER, "aud": ISSUER });
        change(&mut claims);
        claims
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    fn code(result: Result<Arc<Caller>, Problem>) -> Option<&'static str> {
        result.err().map(|problem| problem.code().name())
    }

    #[test]
    fn a_token_names_its_caller_twice_the_same() {
        let tokens = tokens();
        let token = signed(&claims(|claims| claims["scope"] = "read operator".into()));
        let first = tokens.caller(&headers(&format!("Bearer {token}"))).unwrap();
        assert_eq!((first.principal.as_str(), first.operator, first.authority()), (USER, true, Authority::Operator));
        assert_eq!(tokens.caller(&headers(&format!("bearer {token}"))).unwrap(), first);
    }

    #[test]
    fn a_minted_token_is_read_back() {
        let tokens = tokens();
        let token = tokens.mint(USER.parse().unwrap(), TENANT.parse().unwrap(), OffsetDateTime::now_utc() + SHORT).unwrap();
        let caller = tokens.caller(&headers(&format!("Bearer {token}"))).unwrap();
        assert_eq!((caller.tenant, caller.operator), (Some(TENANT.parse().unwrap()), false));
    }

    #[test]
    fn a_token_that_is_expired_foreign_or_forged_proves_nothing() {
        let tokens = tokens();
        let valid = signed(&claims(|_| {}));
        let mut forged = valid.clone();
        forged.replace_range(valid.len() - 4.., "AAAA");
        let cases = [
            signed(&claims(|claims| claims["exp"] = (now() - 1).into())),
            signed(&claims(|claims| claims["aud"] = "elsewhere".into())),
            signed(&claims(|claims| claims["iss"] = "elsewhere".into())),
            signed(&claims(|claims| claims["sub"] = "system".into())),
            signed(&claims(|claims| claims["tid"] = "tenant_x".into())),
            forged,
            format!("{valid}{}", "a".repeat(10_000)),
            "eyJhbGciOiJub25lIn0.e30.".into(),
        ];
        for token in cases {
            assert_eq!(code(tokens.caller(&headers(&format!("Bearer {token}")))), Some("unauthenticated"));
        }
        for value in ["", "Bearer", "Bearer  ", "Basic YTpi", valid.as_str()] {
            assert_eq!(code(tokens.caller(&headers(value))), Some("unauthenticated"), "{value}");
        }
        assert_eq!(code(tokens.caller(&HeaderMap::new())), Some("unauthenticated"));
    }

    #[test]
    fn nobody_signed_in_is_nobody_and_not_an_error() {
        assert!(tokens().optional_caller(&HeaderMap::new()).is_ok_and(|caller| caller.is_none()));
    }
}
