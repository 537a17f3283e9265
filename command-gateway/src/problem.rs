//! Problems (RFC 9457): every answer that is not a success, with a stable code and a page that explains it.

mod page;

use std::borrow::Cow;

use aggregates::Reason;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use subjects::CommandId;

/// What went wrong. The code is part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request is not well-formed.
    Malformed,
    /// There is no valid access token.
    Unauthenticated,
    /// There is no such route.
    RouteNotFound,
    /// The route knows other methods only.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The body is larger than allowed.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// Some values are not allowed.
    ValidationFailed,
    /// The Idempotency-Key was used for another request.
    IdempotencyKeyReused,
    /// Too many requests.
    RateLimited,
    /// The command could not be processed.
    Failed,
    /// A defect of ours.
    Internal,
    /// The gateway has too much to do.
    Overloaded,
    /// The command was not stored.
    NotAccepted,
    /// The command may have been stored.
    OutcomeUnknown,
    /// Something needed for the answer is out of reach.
    Unavailable,
    /// The domain says no.
    Refused(Reason),
}

impl Code {
    /// Every code that is not a refusal of the domain.
    pub const OWN: [Self; 16] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::ValidationFailed,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::Failed,
        Self::Internal,
        Self::Overloaded,
        Self::NotAccepted,
        Self::OutcomeUnknown,
        Self::Unavailable,
    ];

    /// Every code.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OWN.into_iter().chain(Reason::ALL.into_iter().map(Self::Refused))
    }

    /// The stable text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::ValidationFailed => "validation_failed",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::RateLimited => "rate_limited",
            Self::Failed => "failed",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::NotAccepted => "not_accepted",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Unavailable => "unavailable",
            Self::Refused(reason) => reason.code(),
        }
    }

    /// The HTTP status it is told with.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::RouteNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::ValidationFailed | Self::IdempotencyKeyReused => 422,
            Self::RateLimited => 429,
            Self::Failed | Self::Internal => 500,
            Self::Overloaded | Self::NotAccepted | Self::OutcomeUnknown | Self::Unavailable => 503,
            Self::Refused(reason) => reason.http_status(),
        }
    }

    /// One sentence for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request is not well-formed.",
            Self::Unauthenticated => "A valid access token is needed.",
            Self::RouteNotFound => "There is no such route.",
            Self::MethodNotAllowed => "This route does not know this method.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::TooLarge => "The request body is too large.",
            Self::UnsupportedMediaType => "The request body must be application/json.",
            Self::ValidationFailed => "Some values are not allowed.",
            Self::IdempotencyKeyReused => "This Idempotency-Key was used for another request.",
            Self::RateLimited => "Too many requests.",
            Self::Failed => "The command could not be processed.",
            Self::Internal => "Something went wrong on our side.",
            Self::Overloaded => "Too many requests are being worked on.",
            Self::NotAccepted => "The command was not stored and has no effect.",
            Self::OutcomeUnknown => "The command may have been stored; ask for its outcome.",
            Self::Unavailable => "This cannot be answered at the moment.",
            Self::Refused(reason) => reason.sentence(),
        }
    }
}

impl From<Reason> for Code {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldError {
    /// Where: a JSON pointer into the body, `?name` for a query parameter, a header's name for a header.
    #[schema(example = "/owner/email")]
    pub pointer: String,
    /// What is wrong with it.
    #[schema(example = "must be an e-mail address")]
    pub detail: String,
}

impl FieldError {
    /// Names a place and what is wrong there.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// The body of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `/problems/<code>`: a page about this kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "/problems/slug_taken")]
    pub problem_type: Cow<'static, str>,
    /// One sentence for people.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What it is about this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'static, str>>,
    /// The stable code.
    #[schema(example = "slug_taken")]
    pub code: Cow<'static, str>,
    /// The command it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub command_id: Option<CommandId>,
    /// Everything that is wrong with the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// An answer that is not a success. Boxed, so that a `Result` with it stays small.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    detail: Option<Cow<'static, str>>,
    command: Option<CommandId>,
    errors: Vec<FieldError>,
    headers: HeaderMap,
    /// The code of a refusal that only a newer worker knows.
    foreign: Option<String>,
}

impl Problem {
    /// A problem without further detail.
    pub fn new(code: impl Into<Code>) -> Self {
        let code = code.into();
        let problem = Self(Box::new(Parts { code, detail: None, command: None, errors: Vec::new(), headers: HeaderMap::new(), foreign: None }));
        match code {
            Code::Overloaded | Code::NotAccepted | Code::Unavailable => problem.retry_after(1),
            _ => problem,
        }
    }

    /// A refusal with a code that this version does not know.
    pub(crate) fn refused(code: String) -> Self {
        let mut problem = Self::new(Reason::InvalidTransition);
        problem.0.foreign = Some(code);
        problem
    }

    /// What is not there, or must look so.
    pub fn not_found() -> Self {
        Self::new(Reason::NotFound)
    }

    /// The same with a sentence about this case.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// The same about a command.
    pub fn about(mut self, command: CommandId) -> Self {
        self.0.command = Some(command);
        self
    }

    /// The same with what is wrong in the request, in the order of the pointers.
    pub fn errors(mut self, mut errors: Vec<FieldError>) -> Self {
        errors.sort();
        self.0.errors = errors;
        self
    }

    /// The same, to be tried again after some seconds.
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds.to_string())
    }

    /// The same with a header.
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.0.headers.insert(name, value);
        }
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The body.
    pub fn body(&self) -> ProblemBody {
        let code = self.0.code;
        let name = self.0.foreign.clone().map_or(Cow::Borrowed(code.name()), Cow::Owned);
        ProblemBody {
            problem_type: format!("/problems/{name}").into(),
            title: if self.0.foreign.is_some() { "This is refused.".into() } else { code.title().into() },
            status: code.status(),
            detail: self.0.detail.clone(),
            code: name,
            command_id: self.0.command,
            errors: self.0.errors.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_the_contract_says() {
        let command: CommandId = "cmd_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let problem = Problem::new(Reason::SlugTaken).about(command);
        assert_eq!(
            serde_json::to_string(&problem.body()).unwrap(),
            "{\"type\":\"/problems/slug_taken\",\"title\":\"This slug is taken or reserved.\",\"status\":409,\"code\":\"slug_taken\",\
             \"commandId\":\"cmd_01890a5d-ac96-774b-bcce-b302099a8057\"}"
        );
        let response = problem.into_response();
        assert_eq!((response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()), (409, "application/problem+json"));
    }

    #[test]
    fn every_wrong_place_is_named_in_order() {
        let problem = Problem::new(Code::ValidationFailed).errors(vec![FieldError::new("/slug", "b"), FieldError::new("/name", "a")]);
        assert_eq!(problem.body().errors, vec![FieldError::new("/name", "a"), FieldError::new("/slug", "b")]);
    }

    #[test]
    fn no_two_codes_share_a_name_and_each_has_a_page() {
        let names: std::collections::BTreeSet<_> = Code::all().map(Code::name).collect();
        assert_eq!(names.len(), Code::all().count());
        assert!(Code::all().all(|code| code.html().contains(code.title()) && (400..=503).contains(&code.status())));
    }

    #[test]
    fn what_may_pass_says_when_to_come_back() {
        for code in [Code::Overloaded, Code::NotAccepted, Code::Unavailable] {
            assert!(Problem::new(code).into_response().headers().contains_key("retry-after"));
        }
    }
}
