//! Dead letters, for platform operators: what there is, what can be done about one, and doing it. The command line and the gateway both use
//! this, so that what one does the other has done.
//!
//! There are three kinds. A consumer without order has acknowledged its event, and the letter is all that is left of its turn: redriven, the
//! event is published again for that consumer alone. A consumer in order keeps its event at the head of a queue, with everything of the
//! aggregate that came since: redriven, or discarded, the queue drains in its order. A command that has failed has its one outcome.

mod act;
mod letter;
mod look;

pub use crate::store::letters::{Action, Behind};
pub use act::Done;
pub use letter::Letter;
pub use look::{Count, Letters, Page, Standing, Wanted};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    /// There is no such letter (any more).
    #[error("there is no dead letter {0}")]
    NotFound(u64),
    /// It makes no sense with this letter.
    #[error("{0}")]
    Refused(String),
    /// NATS or the database; what was begun can be done again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<tokio_postgres::Error> for LetterError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Unavailable(format!("database: {}", crate::store::describe(&error)))
    }
}
