//! Who may do what, held against the real servers; and what happens when a right is missing.

mod matrix;
mod postgres;
mod refusal;
mod rows;
mod table;
