//! Durable consumers of other teams, in Rust: one literal, one function, and SQL files.
//!
//! ```no_run
//! use std::{process::ExitCode, time::Duration};
//!
//! use chancery_kit::{Durable, Event, Failure, Order, Schema, Start, Transaction};
//! use serde::Deserialize;
//!
//! const SEATS: Durable = Durable {
//!     name: "seats",
//!     stream: chancery_kit::EVENTS,
//!     filters: &["evt.*.user.created"],
//!     order: Order::None,
//!     start: Start::All,
//!     ack_wait: Duration::from_secs(30),
//!     max_deliver: 8,
//!     max_ack_pending: 256,
//!     batch: 100,
//!     backoff: &[Duration::from_secs(1), Duration::from_secs(10)],
//! };
//! const SCHEMA: Schema = Schema { name: "seats", migrations: &[("0001_seats", "CREATE TABLE seats.seats (user_id uuid PRIMARY KEY, email text)")] };
//!
//! /// What is wanted of `user.created`; whatever else stands there is ignored.
//! #[derive(Deserialize)]
//! #[serde(rename_all = "camelCase")]
//! struct Created {
//!     user_id: subjects::UserId,
//!     email: String,
//! }
//!
//! async fn seat(transaction: &Transaction<'_>, events: &[Event]) -> Result<(), Failure> {
//!     for event in events {
//!         let created: Created = event.data()?;
//!         transaction.execute("INSERT INTO seats.seats VALUES ($1, $2)", &[&created.user_id.uuid(), &created.email]).await?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     chancery_kit::run(SEATS, SCHEMA, seat)
//! }
//! ```
//!
//! What the function does through its transaction happens exactly once for each event, whatever is killed: the event's id (with
//! `Order::Aggregate`: the position) is committed together with it. So the function needs no guard against repeats, and must do nothing else
//! that a repeat would spoil: what goes to the outside is written down with [`Schema::intend`] and sent by [`run_with_outside`].
//!
//! | `order` | a call has | at the same time |
//! |---|---|---|
//! | `Order::None` | up to `batch` events, in the order of the stream as long as nothing fails | every replica one |
//! | `Order::Aggregate` | one event; those of an aggregate in their order, always | one replica works; up to `batch` events in one transaction, up to 32 aggregates at a time |
//!
//! What fails says what is to happen: [`Failure::Retry`] (again after `backoff`, a dead letter after `max_deliver`), [`Failure::Poison`] (a dead
//! letter at once), [`Failure::Outage`] (waited for without limit; nobody pays). `?` on an error of the database chooses: data that
//! cannot be stored is poison, everything else an outage. In a batch the loop finds the event at fault by halving: write the function as if all
//! were well.
//!
//! The program is told by variables where its servers are (`CHANCERY_NATS_URL`, `DATABASE_URL`, `CHANCERY_ADMIN_LISTEN` for `/livez`, `/readyz`
//! and `/metrics`, `CHANCERY_LOG`, `OTEL_EXPORTER_OTLP_ENDPOINT` …: docs/configuration.md); `chancery up` writes them to
//! `.chancery/teams/<name>.env`. It drains on SIGTERM. The consumer must be declared in the manifest (docs/manifest.md) with the same settings.

pub mod admin;
mod once;
mod outside;
pub mod process;
mod run;
mod schema;
pub mod telemetry;

pub use outside::{Effect, Outside};
pub use run::{run, run_at_least_once, run_with_outside};
pub use runtime::{
    Failure,
    consume::{Durable, Event, Order, Start, Transaction},
};
pub use schema::Schema;
pub use subjects::stream::EVENTS;
pub use {aggregates, subjects, tokio_postgres};
