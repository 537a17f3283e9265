//! Dead letters, for platform operators: looked at, redriven, discarded. What is done is `runtime::letters`, as on the command line.

use axum::{
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::Response,
};
use runtime::letters::{Done, LetterError, Letters, Wanted};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Endpoint;
use crate::{
    answer::json,
    body::{Body, Fields, Form, escaped},
    gateway::Gateway,
    guard::{Path, Signed},
    list::Params,
    policy::Policy,
    problem::{Code, FieldError, Problem},
    view::{DeadLetterDone, DeadLetterPage, DeadLetterWhole},
};
use aggregates::{Reason, text::Line};

static LIST: Policy = Policy::query("/v1/deadletters", "deadletters:read");
static GET: Policy = Policy::query("/v1/deadletters/{number}", "deadletters:read");
static REDRIVE: Policy = Policy::operation("/v1/deadletters/{number}/redrive", "deadletters:write");
static DISCARD: Policy = Policy::operation("/v1/deadletters/{number}/discard", "deadletters:write");

/// Letters in one answer at most, and unless asked otherwise.
const LIMIT: (usize, usize) = (100, 20);

/// The routes of dead letters.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&LIST, list), Endpoint::new(&GET, get), Endpoint::new(&REDRIVE, redrive), Endpoint::new(&DISCARD, discard)]
}

/// The number of a path. What is none names nothing, whatever the body is.
pub(crate) struct Number(u64);

impl FromRequestParts<Gateway> for Number {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        Ok(Self(Path::from_request_parts(parts, gateway).await?.id("number")?))
    }
}

/// No body, or an empty object.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redrive {}

impl Form for Redrive {
    const OPTIONAL: bool = true;

    fn check(_fields: &mut Fields<'_>) {}
}

/// Why an event is given up for good.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discard {
    /// Why; it is written down.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    reason: Line,
}

impl Form for Discard {
    fn check(fields: &mut Fields<'_>) {
        fields.required::<Line>("reason");
    }
}

impl From<LetterError> for Problem {
    fn from(error: LetterError) -> Self {
        match error {
            LetterError::NotFound(_) => Self::not_found(),
            LetterError::Refused(why) => Self::new(Reason::InvalidTransition).detail(why),
            LetterError::Unavailable(error) => {
                tracing::warn!(error, "dead letters are out of reach");
                Self::new(Code::Unavailable)
            }
        }
    }
}

/// Does something with the letters, over a connection to the database that is made for it: few do, and seldom.
async fn with_letters<T>(gateway: &Gateway, does: impl AsyncFnOnce(Letters) -> Result<T, LetterError>) -> Result<T, Problem> {
    let Ok(_permit) = gateway.operations.try_acquire() else { return Err(Problem::new(Code::Overloaded)) };
    let letters = Letters::open(&gateway.config, &gateway.jetstream.client(), "chancery gateway letters").await?;
    Ok(does(letters).await?)
}

fn answer(view: &impl Serialize) -> Response {
    json(serde_json::to_vec(view).unwrap_or_default())
}

/// What a list is asked for: which letters, after which number, how many.
fn asked(params: &Params) -> Result<(Wanted, u64, usize), Problem> {
    let (mut wanted, mut after, mut limit) = (Wanted::default(), 0, LIMIT.1);
    let (mut unknown, mut wrong, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in params.pairs() {
        let place = format!("?{}", escaped(name).replace('\0', "\u{fffd}"));
        if seen.contains(&name) {
            wrong.push(FieldError::new(place, "must be given once"));
            continue;
        }
        seen.push(name);
        match name {
            "consumer" if subjects::is_consumer(value) => wanted.consumer = Some(value.to_owned()),
            "type" if subjects::is_type(value) => wanted.letter_type = Some(value.to_owned()),
            "consumer" => wrong.push(FieldError::new(place, "must be the name of a consumer, or `worker`")),
            "type" => wrong.push(FieldError::new(place, "must be a type, such as `user.created`")),
            "tenant" => match value.parse() {
                Ok(tenant) => wanted.tenant = Some(tenant),
                Err(_) => wrong.push(FieldError::new(place, "must be the id of a tenant")),
            },
            // As the document has it, which knows no greater numbers.
            "after" => match value.parse().ok().filter(|number| i64::try_from(*number).is_ok()) {
                Some(number) => after = number,
                None => wrong.push(FieldError::new(place, "must be a number")),
            },
            "limit" => match value.parse() {
                Ok(number) if (1..=LIMIT.0).contains(&number) => limit = number,
                _ => wrong.push(FieldError::new(place, format!("must be a number from 1 to {}", LIMIT.0))),
            },
            _ => unknown.push(FieldError::new(place, "is no parameter of this list")),
        }
    }
    match (unknown.is_empty(), wrong.is_empty()) {
        (false, _) => Err(Problem::new(Code::Malformed).errors(unknown)),
        (true, false) => Err(Problem::new(Code::ValidationFailed).errors(wrong)),
        (true, true) => Ok((wanted, after, limit)),
    }
}

/// List dead letters by their numbers, with how many there are of each consumer and type.
#[utoipa::path(get, path = "/v1/deadletters", tag = "operations",
    params(
        ("consumer" = Option<String>, Query, description = "who gave up: a consumer, or `worker`"),
        ("type" = Option<String>, Query, description = "on what, such as `user.created`"), ("tenant" = Option<String>, Query),
        ("after" = Option<u64>, Query, description = "only those with a higher number"),
        ("limit" = Option<u32>, Query, description = "so many at most; 20 unless given, 100 at most"),
    ),
    responses((status = 200, body = DeadLetterPage)))]
pub(crate) async fn list(State(gateway): State<Gateway>, _caller: Signed, params: Params) -> Result<Response, Problem> {
    let (wanted, after, limit) = asked(&params)?;
    let page = with_letters(&gateway, async |letters: Letters| {
        Ok(DeadLetterPage::new(&letters.counts(&wanted).await?, &letters.list(&wanted, after, limit).await?))
    });
    Ok(answer(&page.await?))
}

/// Read a dead letter: headers, body, what waits behind it, and what was done about its event before.
#[utoipa::path(get, path = "/v1/deadletters/{number}", tag = "operations", responses((status = 200, body = DeadLetterWhole)))]
pub(crate) async fn get(State(gateway): State<Gateway>, _caller: Signed, Number(number): Number) -> Result<Response, Problem> {
    let whole = with_letters(&gateway, async |letters: Letters| {
        let letter = letters.get(number).await?;
        Ok(DeadLetterWhole::new(&letter, &letters.standing(&letter).await?, &letters.history_of(&letter).await?))
    });
    Ok(answer(&whole.await?))
}

/// Let the event of a dead letter be tried anew by the consumer that gave it up.
#[utoipa::path(post, path = "/v1/deadletters/{number}/redrive", tag = "operations", request_body = Option<Redrive>,
    responses((status = 200, body = DeadLetterDone)))]
pub(crate) async fn redrive(
    State(gateway): State<Gateway>,
    Signed(caller): Signed,
    Number(number): Number,
    _body: Body<Redrive>,
) -> Result<Response, Problem> {
    let Done { what, .. } = with_letters(&gateway, async |letters: Letters| letters.redrive(number, &caller.principal).await).await?;
    Ok(answer(&DeadLetterDone { number, what }))
}

/// Give the event of a dead letter up for good; what waits behind it goes on.
#[utoipa::path(post, path = "/v1/deadletters/{number}/discard", tag = "operations", request_body = Discard,
    responses((status = 200, body = DeadLetterDone)))]
pub(crate) async fn discard(
    State(gateway): State<Gateway>,
    Signed(caller): Signed,
    Number(number): Number,
    body: Body<Discard>,
) -> Result<Response, Problem> {
    let reason = body.data.reason;
    let Done { what, .. } =
        with_letters(&gateway, async |letters: Letters| letters.discard(number, &caller.principal, reason.as_str()).await).await?;
    Ok(answer(&DeadLetterDone { number, what }))
}
