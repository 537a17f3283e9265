//! The acceptance tests: real processes of this program over real servers, one module for each behaviour.
//!
//! `harness` gives every test a nats-server of its own, a fresh database, and the roles it asks for; everything ends with the test.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that meets the unexpected must fail at once")]

mod authorisation;
mod chaos;
mod consumers;
mod control;
mod control_effects;
mod doctor;
mod harness;
mod harness_itself;
mod letters;
mod manifest;
mod migrations;
mod observability;
mod pipeline;
mod privilege;
mod recovery;
mod teams;
mod traces;
mod up;
