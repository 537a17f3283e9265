//! What a request says besides its body: the headers we honour, read once.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use runtime::trace::Trace;
use subjects::CommandId;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    gateway::Gateway,
    guard::Begun,
    policy::Policy,
    problem::{Code, FieldError, Problem},
};

/// Commands with an Idempotency-Key have ids in this namespace (RFC 9562 UUIDv5). It must never change.
const KEYS: Uuid = Uuid::from_u128(0x6f0d_5c86_2f3e_5b0e_9f5a_6b1c_7d42_c0de);
/// The longest Idempotency-Key.
const LONGEST_KEY: usize = 255;
/// Characters kept of a User-Agent.
const LONGEST_AGENT: usize = 256;

/// How long the caller is prepared to wait (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefer {
    /// Says nothing.
    Silent,
    /// `respond-async`.
    Async,
    /// `wait=N`.
    Wait(Duration),
}

impl Prefer {
    /// The value of Preference-Applied.
    pub(crate) fn applied(self) -> Option<String> {
        match self {
            Self::Silent => None,
            Self::Async => Some("respond-async".into()),
            Self::Wait(wait) => Some(format!("wait={}", wait.as_secs())),
        }
    }
}

/// A request's method, path and headers, as far as commands need them.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    /// The route's policy.
    pub(crate) policy: &'static Policy,
    /// When the gateway began to work on it.
    pub(crate) begun: Instant,
    /// The concrete path.
    pub(crate) path: String,
    /// Idempotency-Key.
    pub(crate) key: Option<String>,
    /// If-Match as it was sent.
    pub(crate) if_match: Option<String>,
    /// The version it names.
    pub(crate) version: Option<u64>,
    /// Prefer.
    pub(crate) prefer: Prefer,
    /// The address it came from.
    pub(crate) address: IpAddr,
    /// The program it came from.
    pub(crate) user_agent: Option<String>,
    /// The trace it belongs to.
    pub(crate) trace: Option<Trace>,
}

impl Meta {
    /// The id of the request's command: fresh, or derived from the Idempotency-Key in the scope of tenant, principal, method and path.
    pub(crate) fn command_id(&self, tenant: &str, principal: &str) -> CommandId {
        match &self.key {
            None => CommandId::new(Uuid::now_v7()),
            Some(key) => keyed_id(tenant, principal, self.policy.method.name(), &self.path, key),
        }
    }

    /// When the gateway took it.
    pub(crate) fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

fn keyed_id(tenant: &str, principal: &str, method: &str, path: &str, key: &str) -> CommandId {
    CommandId::new(Uuid::new_v5(&KEYS, format!("{tenant}|{principal}|{method}|{path}|{key}").as_bytes()))
}

impl FromRequestParts<Gateway> for Meta {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        let policy = *parts.extensions.get::<&'static Policy>().ok_or_else(|| Problem::new(Code::Internal))?;
        let headers = &parts.headers;
        let if_match = one(headers, "if-match")?.map(ToOwned::to_owned);
        Ok(Self {
            policy,
            begun: parts.extensions.get::<Begun>().map_or_else(Instant::now, |begun| begun.0),
            path: parts.uri.path().to_owned(),
            key: one(headers, "idempotency-key")?.map(key).transpose()?,
            version: if_match.as_deref().map(version).transpose()?.flatten(),
            if_match,
            prefer: prefer(headers)?,
            address: address(parts),
            user_agent: headers
                .get(header::USER_AGENT)
                .map(|agent| String::from_utf8_lossy(agent.as_bytes()).chars().filter(|c| !c.is_control()).take(LONGEST_AGENT).collect()),
            trace: gateway.telemetry.trace(headers),
        })
    }
}

/// Where a request comes from.
fn address(parts: &Parts) -> IpAddr {
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip())
}

fn wrong(name: &str, detail: &str) -> Problem {
    Problem::new(Code::Malformed).errors(vec![FieldError::new(name, detail)])
}

/// The one value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| wrong(name, "must be visible ASCII")),
        (Some(_), Some(_)) => Err(wrong(name, "must be given once")),
    }
}

/// A key as it is, or in the quotes of a structured field's string.
fn key(text: &str) -> Result<String, Problem> {
    const NAME: &str = "idempotency-key";
    let fits = |key: &str| (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => {
            let inner = rest.strip_suffix('"').ok_or_else(|| wrong(NAME, "has no closing quote"))?;
            unquoted(inner).ok_or_else(|| wrong(NAME, "is not a structured field's string"))?
        }
    };
    if fits(&key) { Ok(key) } else { Err(wrong(NAME, "must be 1 to 255 visible ASCII characters")) }
}

fn unquoted(inner: &str) -> Option<String> {
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next().filter(|next| matches!(next, '"' | '\\'))?),
            '"' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

/// The version an entity tag of ours names; `*` names none in particular.
fn version(text: &str) -> Result<Option<u64>, Problem> {
    if text.trim() == "*" {
        return Ok(None);
    }
    let number = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or_else(|| wrong("if-match", "must be one entity tag as given in ETag, or *"))
}

fn prefer(headers: &HeaderMap) -> Result<Prefer, Problem> {
    let mut prefer = Prefer::Silent;
    for value in headers.get_all("prefer") {
        let value = value.to_str().map_err(|_| wrong("prefer", "must be visible ASCII"))?;
        for preference in value.split(',') {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => prefer = Prefer::Async,
                // What is no number is ignored, as the RFC asks of preferences that are not understood.
                "wait" if prefer == Prefer::Silent => {
                    let seconds = value.trim().trim_matches('"').parse::<u32>().ok();
                    prefer = seconds.map_or(prefer, |seconds| Prefer::Wait(Duration::from_secs(seconds.into())));
                }
                _ => {}
            }
        }
    }
    Ok(prefer)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_idempotency_key_names_one_command_in_its_scope() {
        let id = |tenant, principal, method, path, key| keyed_id(tenant, principal, method, path, key);
        let base = id("t", "p", "POST", "/v1/tenants", "k");
        assert_eq!(base.to_string(), "cmd_6d8328be-d12e-56e8-ae5f-1cff28120ea8");
        assert_eq!(base, id("t", "p", "POST", "/v1/tenants", "k"));
        for other in [
            id("u", "p", "POST", "/v1/tenants", "k"),
            id("t", "q", "POST", "/v1/tenants", "k"),
            id("t", "p", "PUT", "/v1/tenants", "k"),
            id("t", "p", "POST", "/v1/tenants/x", "k"),
            id("t", "p", "POST", "/v1/tenants", "l"),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn a_key_is_taken_with_or_without_the_quotes_of_the_draft() {
        assert_eq!(key("8e03978e-40d5").ok(), Some("8e03978e-40d5".into()));
        assert_eq!(key("\"8e03978e-40d5\"").ok(), Some("8e03978e-40d5".into()));
        assert_eq!(key(r#""a\"b""#).ok(), Some("a\"b".into()));
        for bad in ["", "\"\"", "a b", "\"a", "\"a\"b\"", &"x".repeat(256), r#""a\b""#] {
            assert!(key(bad).is_err(), "{bad}");
        }
        assert!(key(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn if_match_names_a_version_or_any() {
        assert_eq!(version("\"7\"").ok(), Some(Some(7)));
        assert_eq!(version("*").ok(), Some(None));
        for bad in ["7", "W/\"7\"", "\"x\"", "\"1\", \"2\"", ""] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn preferences_are_read_and_unknown_ones_ignored() {
        let read = |values: &[&str]| prefer(&values.iter().map(|value| (HeaderName::from_static("prefer"), value.parse().unwrap())).collect()).ok();
        assert_eq!(read(&[]), Some(Prefer::Silent));
        assert_eq!(read(&["respond-async, wait=10"]), Some(Prefer::Async));
        assert_eq!(read(&["handling=strict", "Wait=7"]), Some(Prefer::Wait(Duration::from_secs(7))));
        assert_eq!(read(&["wait=soon"]), Some(Prefer::Silent));
        assert_eq!(Prefer::Wait(Duration::from_secs(7)).applied().as_deref(), Some("wait=7"));
    }

    #[test]
    fn a_header_that_must_be_one_is_not_two() {
        let mut twice = headers(&[("if-match", "\"1\"")]);
        twice.append("if-match", "\"2\"".parse().unwrap());
        assert!(one(&twice, "if-match").is_err());
    }
}
