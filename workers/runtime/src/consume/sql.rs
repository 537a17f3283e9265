//! What an error of the database means for the event.

use tokio_postgres::Error;

use crate::{Failure, store::describe};

/// Data that cannot be stored (classes 22 and 23) is the event's fault and stays so. Everything else (connection, lock, resources,
/// rights) is the database's, and passes or is put right by somebody.
pub fn judge(error: &Error) -> Failure {
    let text = describe(error);
    match error.code() {
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => Failure::poison(text),
        _ => Failure::outage(text),
    }
}

impl From<Error> for Failure {
    /// See [`judge`].
    fn from(error: Error) -> Self {
        judge(&error)
    }
}
