//! Dead letters as platform operators see them.

use std::collections::BTreeMap;

use runtime::letters::{Action, Behind, Count, Letter, Page, Standing};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subjects::timestamp;
use utoipa::ToSchema;

use crate::shown;

/// How many dead letters of a consumer and a type there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterCount {
    /// Who gave up: a consumer, or `worker`.
    pub consumer: String,
    /// On what: `<topic>.<event>`, or `<aggregate>.<command>` of the worker.
    #[serde(rename = "type")]
    pub letter_type: String,
    /// How many.
    pub count: u64,
    /// Since when.
    pub oldest: String,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterView {
    /// Its number.
    pub number: u64,
    /// When it was stored.
    pub at: String,
    /// Who gave up: a consumer, or `worker`.
    pub consumer: String,
    /// On what: `<topic>.<event>`, or `<aggregate>.<command>` of the worker.
    #[serde(rename = "type")]
    pub letter_type: String,
    /// The tenant, where it is known.
    pub tenant_id: Option<String>,
    /// The event, where it can be read.
    pub event_id: Option<String>,
    /// Why, as a code: `poison`, `exhausted`, `undecodable`, `mismatch`, `condemned`.
    pub reason: String,
    /// Why, in words.
    pub error: String,
    /// How often it was tried.
    pub deliveries: u32,
    /// How often an operator has let it be tried anew.
    pub redrives: u32,
    /// The stream it came from.
    pub origin_stream: String,
    /// Its place there; 0 where it came from the table.
    pub origin_sequence: u64,
}

/// Dead letters by their numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterPage {
    /// How many there are of each consumer and type, the most first; of every tenant.
    pub counts: Vec<DeadLetterCount>,
    /// The letters.
    pub items: Vec<DeadLetterView>,
    /// What to ask for with `after` to see more; null at the end.
    pub next: Option<u64>,
}

/// An event that waits behind another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaitingView {
    /// The event.
    pub event_id: String,
    /// `<topic>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its place in its tenant's history.
    pub sequence: i64,
}

/// How a dead letter stands, which is what can be done about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StandingView {
    /// `unordered` and `waiting` can be redriven; `command`, `unreadable` and `nobody` cannot; of `gone` only the letter is left.
    pub kind: String,
    /// Whose queue it waits in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<String>,
    /// Whether it is given up there; else it is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<bool>,
    /// How many events wait behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// The first of those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<WaitingView>,
}

/// What somebody did about a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterActionView {
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// `redrive` or `discard`.
    pub action: String,
    /// Why.
    pub reason: Option<String>,
    /// Whose letter it was.
    pub consumer: String,
    /// Its number.
    pub letter: u64,
    /// How often its event had been tried anew before.
    pub redrives: u32,
}

/// A dead letter with everything about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterWhole {
    /// The letter.
    pub letter: DeadLetterView,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The event without what is secret. Null for what is no JSON, and for commands, which may hold secrets: `chancery dlq show` has both.
    #[schema(value_type = Option<Object>)]
    pub body: Value,
    /// What can be done about it.
    pub standing: StandingView,
    /// What was done about its event before, the last first.
    pub history: Vec<DeadLetterActionView>,
}

/// What was done about a dead letter, which is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterDone {
    /// Its number.
    pub number: u64,
    /// What became of its event, in words.
    pub what: String,
}

impl DeadLetterView {
    fn new(letter: &Letter) -> Self {
        let Letter { number, consumer, letter_type, reason, error, deliveries, redrives, origin_stream, origin_sequence, .. } = letter.clone();
        let (tenant_id, event_id) = (letter.tenant.map(|id| id.to_string()), letter.event.map(|id| id.to_string()));
        let at = timestamp::format(letter.at);
        Self { number, at, consumer, letter_type, tenant_id, event_id, reason, error, deliveries, redrives, origin_stream, origin_sequence }
    }
}

impl DeadLetterPage {
    pub(crate) fn new(counts: &[Count], page: &Page) -> Self {
        let count = |Count { consumer, letter_type, count, oldest }: &Count| DeadLetterCount {
            consumer: consumer.clone(),
            letter_type: letter_type.clone(),
            count: *count,
            oldest: timestamp::format(*oldest),
        };
        Self { counts: counts.iter().map(count).collect(), items: page.letters.iter().map(DeadLetterView::new).collect(), next: page.next }
    }
}

impl StandingView {
    fn new(standing: &Standing) -> Self {
        let of = |kind: &str| Self { kind: kind.to_owned(), ..Self::default() };
        let waiting = |Behind { event, event_type, sequence }: &Behind| WaitingView {
            event_id: event.clone(),
            event_type: event_type.clone(),
            sequence: *sequence,
        };
        match standing {
            Standing::Command => of("command"),
            Standing::Unordered => of("unordered"),
            Standing::Gone => of("gone"),
            Standing::Unreadable => of("unreadable"),
            Standing::Nobody => of("nobody"),
            Standing::Waiting(parked, behind, first) => Self {
                aggregate: Some(parked.aggregate.clone()),
                given_up: Some(parked.dead),
                behind: Some(*behind),
                first: first.iter().map(waiting).collect(),
                ..of("waiting")
            },
        }
    }
}

impl DeadLetterWhole {
    pub(crate) fn new(letter: &Letter, standing: &Standing, history: &[Action]) -> Self {
        let headers = letter.headers.iter().filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned())));
        let text = std::str::from_utf8(&letter.payload).ok().filter(|_| !letter.is_command());
        let body = text.and_then(|text| serde_json::from_str(&shown::body(text).ok()?).ok()).unwrap_or(Value::Null);
        let action = |action: &Action| {
            let Action { actor, action: what, reason, consumer, letter, redrives, .. } = action.clone();
            DeadLetterActionView { at: timestamp::format(action.at), actor, action: what, reason, consumer, letter, redrives }
        };
        Self {
            letter: DeadLetterView::new(letter),
            headers: headers.collect(),
            body,
            standing: StandingView::new(standing),
            history: history.iter().map(action).collect(),
        }
    }
}
