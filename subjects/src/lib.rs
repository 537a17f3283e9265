//! Every name others meet at: ids, subjects, streams, headers and the two message bodies. Pure; no IO, no settings.
//!
//! The names are Chancery's contract with clients and independent consumers. Nothing else in the workspace spells a subject.

pub mod authz;
mod command;
mod event;
pub mod header;
mod id;
mod kind;
pub mod stream;
mod subject;
pub mod timestamp;
pub mod user;

pub use command::{Actor, Authority, Message as CommandMessage, Outcome, OutcomeEvent, Status};
pub use event::{Envelope, SOURCE, VERSION};
pub use id::{CommandId, EventId, Id, IdError, InvitationId, RoleId, ServiceId, SessionId, TeamId, TenantId, UserId, derive, prefix};
pub use kind::{Kind, Role};
pub use subject::{
    ANY_COMMAND, ANY_DEAD_LETTER, ANY_EVENT, ANY_FENCE, ANY_PARTITION, ANY_REDRIVE, ANY_TENANT, CommandSubject, DeadLetterSubject, EventFilter,
    EventSubject, FilterParts, PLATFORM, PROBE, RedriveSubject, SubjectError, any_dead_letter, any_tenants, command, command_filter, dead_letter,
    dead_letter_worker, dead_letters, event, fence, is_consumer, is_type, matches, partition, redrive, redrives,
};
