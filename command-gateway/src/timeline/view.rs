//! What a timeline shows.

use serde::{Deserialize, Serialize};
use subjects::timestamp;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::answer::CommandState;

/// What became of a command on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Timeline {
    /// The command.
    pub(crate) command_id: String,
    /// `<aggregate>.<command>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<String>,
    /// How far it is.
    pub(crate) status: CommandState,
    /// When it was accepted; told once it is decided.
    pub(crate) accepted_at: Option<String>,
    /// When it was decided, and is in effect since.
    pub(crate) decided_at: Option<String>,
    /// Why it was refused, or `failed`: then it is among the dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// Its events, the first hundred.
    pub(crate) events: Vec<EventTimeline>,
    /// Whether nothing is pending any more: it is decided, and every consumer has handled each event or given it up.
    pub(crate) complete: bool,
}

/// What became of an event on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EventTimeline {
    /// Its id.
    pub(crate) id: String,
    /// `<topic>.<event>`.
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    /// Its place in the tenant's history.
    pub(crate) sequence: u64,
    /// Where it stands in the stream.
    pub(crate) published: Publication,
    /// Who takes it, by name.
    pub(crate) consumers: Vec<Handling>,
}

/// How far an event's publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PublicationState {
    /// It is on its way.
    Pending,
    /// It is in the stream.
    Published,
    /// The stream has forgotten it, or was created anew since.
    Forgotten,
}

/// Where an event stands in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Publication {
    /// How far it is.
    pub(crate) state: PublicationState,
    /// Its place in EVENTS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream_sequence: Option<u64>,
    /// When it was stored there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// What a consumer made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HandlingState {
    /// Nothing yet, as far as is known; what was handled is noted a second later.
    Pending,
    /// It failed, and is tried again.
    Retrying,
    /// It is handled.
    Handled,
    /// It was given up.
    DeadLetter,
    /// It is not in the stream any more, and nobody knows.
    Unknown,
}

/// What a consumer made of an event, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Handling {
    /// The consumer.
    pub(crate) consumer: String,
    /// What it made of it.
    pub(crate) state: HandlingState,
    /// When, to a second; not known where the note is not kept any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
    /// How often it was tried, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
}

impl Handling {
    /// What a consumer made of it.
    pub(super) fn new(consumer: &str, state: HandlingState) -> Self {
        Self { consumer: consumer.to_owned(), state, at: None, attempts: None }
    }

    /// So often.
    pub(super) fn tried(self, attempts: u32) -> Self {
        Self { attempts: Some(attempts), ..self }
    }

    /// At a time.
    pub(super) fn at(self, at: OffsetDateTime) -> Self {
        Self { at: Some(timestamp::format(at)), ..self }
    }

    /// Whether nothing is to come.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, HandlingState::Handled | HandlingState::DeadLetter | HandlingState::Unknown)
    }
}
