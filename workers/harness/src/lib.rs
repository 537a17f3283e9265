//! Tests of a consumer over real servers: given these events, killed here, expect those rows.
//!
//! ```no_run
//! use chancery_harness::{Point, Stand, Told, tenant, user};
//! use serde_json::json;
//!
//! # async fn test(seats: runtime::consume::Durable) {
//! let stand = Stand::start("consumer.toml", &seats).await;
//! let mut told = Told::default();
//! for n in 1..=1000 {
//!     told.event(tenant(n % 7), "user.created", user(n), json!({ "email": format!("{n}@example.org"), "fullName": "Somebody" }));
//! }
//! stand.give(&told).await;
//! let mut program = stand.program("target/debug/seats");     // in a test: env!("CARGO_BIN_EXE_seats")
//! program.start_to_die_at(Point::BeforeCommit, 3);
//! program.died().await;
//! program.start();
//! stand.settled().await;
//! assert_eq!(stand.number("SELECT count(*) FROM seats.seats").await, 1000);
//! # }
//! ```
//!
//! The servers come from `chancery stand`: a nats-server and a PostgreSQL of the test's own, with the users, rights, durables and schemas of the
//! manifest. What fails, panics and says why: this is for tests. The program `chancery` is the one that `CHANCERY_PROGRAM` names; without it, the one of the
//! checkout that this crate belongs to, which is built when it is needed.

#![expect(clippy::expect_used, reason = "for tests: what meets the unexpected must fail at once")]

mod program;
mod stand;
mod told;

pub use program::{Point, Program};
pub use stand::Stand;
pub use told::{Told, invitation, team, tenant, user};
