//! Teams that are not us: a consumer in another language, and the documents that such a team is given.

mod documents;
mod python;
mod python_consumer;
mod rust_consumer;
