//! Answers to commands.

use aggregates::Reason;
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use subjects::{CommandId, Outcome, OutcomeEvent, Status};

use crate::{
    problem::{Code, Problem, ProblemBody},
    request::Meta,
    submit::Fate,
};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// An event that a command caused.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventRef {
    /// Its id.
    #[schema(example = "evt_01890a5d-ac96-774b-bcce-b302099a8057")]
    pub id: String,
    /// `<topic>.<event>`.
    #[serde(rename = "type")]
    #[schema(example = "tenant.created")]
    pub event_type: String,
}

/// What a command that succeeded answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Success<'a> {
    command_id: CommandId,
    aggregate_id: &'a str,
    version: u64,
    sequence: u64,
    events: &'a [OutcomeEvent],
    #[serde(flatten)]
    extra: Extra,
}

/// What some answers carry besides.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Extra {
    /// The link of an invitation of type `link`, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
    /// A short access token for who has just accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_token: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_type: Option<&'static str>,
    /// Its life in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_in: Option<i64>,
}

/// The body of an answer to a command that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Succeeded {
    /// The command.
    #[schema(example = "cmd_01890a5d-ac96-774b-bcce-b302099a8057")]
    pub command_id: String,
    /// The aggregate it was for.
    pub aggregate_id: String,
    /// The aggregate's version after it; the ETag.
    pub version: u64,
    /// The tenant's last sequence after it.
    pub sequence: u64,
    /// The events it caused, in order.
    pub events: Vec<EventRef>,
    /// The link of an invitation of type `link`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// A short access token for a person who has just accepted an invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// `Bearer`, with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    /// The token's life in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    /// Not decided yet, or not known.
    Pending,
    /// It took effect, or was so already.
    Succeeded,
    /// The domain said no.
    Refused,
    /// It could not be processed.
    Failed,
}

impl From<Status> for CommandState {
    fn from(status: Status) -> Self {
        match status {
            Status::Succeeded => Self::Succeeded,
            Status::Refused => Self::Refused,
            Status::Failed => Self::Failed,
        }
    }
}

/// A command and its outcome.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandView {
    /// The command.
    #[schema(example = "cmd_01890a5d-ac96-774b-bcce-b302099a8057")]
    pub command_id: String,
    /// `<aggregate>.<command>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The aggregate it was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate_id: Option<String>,
    /// How far it is.
    pub status: CommandState,
    /// The aggregate's version after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The tenant's last sequence after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The events it caused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventRef>,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemBody>,
}

impl CommandView {
    /// Not decided yet.
    pub(crate) fn pending(id: CommandId) -> Self {
        Self {
            command_id: id.to_string(),
            command: None,
            aggregate_id: None,
            status: CommandState::Pending,
            version: None,
            sequence: None,
            events: Vec::new(),
            problem: None,
        }
    }

    /// Decided.
    pub(crate) fn decided(outcome: &Outcome) -> Self {
        let succeeded = outcome.status == Status::Succeeded;
        Self {
            command_id: outcome.command_id.to_string(),
            command: Some(outcome.command.clone()),
            aggregate_id: Some(outcome.aggregate_id.clone()),
            status: outcome.status.into(),
            version: outcome.version.filter(|_| succeeded),
            sequence: outcome.sequence.filter(|_| succeeded),
            events: outcome.events.iter().map(|event| EventRef { id: event.id.to_string(), event_type: event.event_type.clone() }).collect(),
            problem: (!succeeded).then(|| problem(outcome).body()),
        }
    }
}

/// The problem of a command that did not succeed.
pub(crate) fn problem(outcome: &Outcome) -> Problem {
    let code = outcome.code.as_deref().unwrap_or_default();
    let problem = match (outcome.status, Reason::ALL.into_iter().find(|reason| reason.code() == code)) {
        (Status::Refused, Some(reason)) => Problem::new(reason),
        // A worker that is newer than this gateway may know more reasons.
        (Status::Refused, None) => Problem::refused(code.to_owned()),
        _ => Problem::new(Code::Failed),
    };
    problem.about(outcome.command_id)
}

/// What a command created, for 201 and Location.
#[derive(Debug, Clone)]
pub(crate) enum Created {
    /// Nothing new.
    Nothing,
    /// The thing at this path.
    At(String),
}

/// The answer to a command.
pub(crate) fn answer(fate: Fate, id: CommandId, meta: &Meta, created: Created) -> Result<Response, Problem> {
    answer_with(fate, id, meta, created, Extra::default())
}

/// The answer to a command, with more in it if it succeeded.
pub(crate) fn answer_with(fate: Fate, id: CommandId, meta: &Meta, created: Created, extra: Extra) -> Result<Response, Problem> {
    let applied = meta.prefer.applied();
    let outcome = match fate {
        Fate::Pending => return Ok(pending(id, applied)),
        Fate::Decided(outcome) => outcome,
    };
    if outcome.status != Status::Succeeded {
        let problem = problem(&outcome);
        return Err(applied.into_iter().fold(problem, |problem, applied| problem.header(PREFERENCE_APPLIED, applied)));
    }
    let version = outcome.version.unwrap_or_default();
    let body = Success {
        command_id: outcome.command_id,
        aggregate_id: &outcome.aggregate_id,
        version,
        sequence: outcome.sequence.unwrap_or_default(),
        events: &outcome.events,
        extra,
    };
    let mut response = json(serde_json::to_vec(&body).unwrap_or_default());
    if let Created::At(place) = created {
        *response.status_mut() = StatusCode::CREATED;
        set(&mut response, header::LOCATION, place);
    }
    set(&mut response, header::ETAG, etag(version));
    if let Some(applied) = applied {
        set(&mut response, PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

fn pending(id: CommandId, applied: Option<String>) -> Response {
    let body = serde_json::to_vec(&CommandView::pending(id)).unwrap_or_default();
    let mut response = json(body);
    *response.status_mut() = StatusCode::ACCEPTED;
    set(&mut response, header::LOCATION, format!("/v1/commands/{id}"));
    if let Some(applied) = applied {
        set(&mut response, PREFERENCE_APPLIED, applied);
    }
    response
}

/// An answer that is JSON already.
pub(crate) fn json(body: impl Into<Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The entity tag of a version.
pub(crate) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn set(response: &mut Response, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}
