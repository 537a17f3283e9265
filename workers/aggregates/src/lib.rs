//! The domain: one file per aggregate, `decide` and `apply`; a long one has a folder of its name besides, with a file for each part of
//! its life. Synchronous and pure: no IO, no clock, no randomness; time, identity and everything another aggregate owns are arguments.
//!
//! - A command is decided against the state of its aggregate and the [`Surroundings`] it declares ([`Command::needs`]); the answer is a
//!   [`Decision`]: events, and either done or refused for one [`Reason`] of a closed set.
//! - All commands of a tenant are decided one after the other, so a tenant is the consistency boundary: what `decide` reads is current.
//! - Events are applied to the [`World`] at once, so that later commands of a batch see earlier ones.
//!
//! Adding an aggregate: one file here, one variant in [`catalog`], its rows and samples; `workers/README.md` has every step.

pub mod attributes;
pub mod catalog;
mod decision;
pub mod invitation;
pub mod membership;
mod needs;
mod reason;
pub mod registry;
mod roster;
pub mod schema;
pub mod team;
pub mod tenant;
pub mod text;
pub mod user;
mod world;

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod scenario;

pub use catalog::{Command, Event, ParseError, State};
pub use decision::{About, Answer, Decision, Emitted, decide};
pub use needs::{Follow, Needs};
pub use reason::Reason;
pub use roster::Roster;
pub use world::{Claim, ClaimChange, Holder, Key, Scope, Settings, Surroundings, Versioned, World};
