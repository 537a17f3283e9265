//! What every acceptance test stands on.
//!
//! ```ignore
//! #[tokio::test(flavor = "multi_thread")]
//! async fn a_killed_worker_loses_nothing() {
//!     let mut stack = Stack::builder().workers(2).consumers(&[Consumer::Audit]).start().await;
//!     let answer = stack.post("/v1/tenants", &stack.operator_token(), &json!({ … })).await;
//!     stack.kill9("worker-1");
//!     wait_until("the audit row", || async { … }).await;
//! }
//! ```
//!
//! A test that fails prints the last lines of every process's log.

mod builder;
mod collector;
mod events;
mod http;
mod process;
mod python;
mod servers;
mod stack;
mod wait;

pub(crate) use builder::Builder;
pub(crate) use chancery::chaos::proxy::Then;
pub(crate) use collector::{Collector, Seen};
pub(crate) use events::{EventStream, Received};
pub(crate) use http::{Answer, Http};
pub(crate) use python::packages;
pub(crate) use servers::{PASSWORD, exe, fresh_folder};
pub(crate) use stack::Stack;
pub(crate) use wait::{blocking, wait_until};
