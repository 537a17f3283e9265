//! The main job, from a POST to every consumer: exactly once, in order, whatever is killed, frozen or cut off on the way.
//!
//! `check` says what must hold of every run, `history` reads what a run left behind, `load` sends commands as a stubborn client would.

mod bulk;
mod catching_up;
mod check;
mod frozen;
mod histories;
mod history;
mod idempotency;
mod input;
mod isolation;
mod kills;
mod lists;
mod load;
mod points;
mod poison;
mod races;
mod rules;
mod streams;
mod teams;

pub(crate) use history::assert_sound;
pub(crate) use load::{Load, accepted, tenant_body, tenants, without_duplicate_window};
