//! Repairs: EVENTS compared with the table and mended, built anew, and a database that went back behind its stream.
//!
//! PostgreSQL is the record of truth. What EVENTS lacks is published again from the table; what EVENTS has and the table does not know is
//! a question for a person, and until it is answered nothing is decided.

pub mod compare;
mod late;
mod rebuild;
mod reconcile;
mod scan;

pub(crate) use scan::Scan;

pub use rebuild::{Rebuild, RebuildError, Rebuilt, Wanted};
pub use reconcile::{ReconcileError, Report, Wrong, reconcile};
