//! The one program: every role, the development stack, and the operator's tools.
//!
//! `main` is synchronous. Migrations and servers are handled before any async runtime starts; a role then gets a runtime of its own.

pub mod bench;
pub mod chaos;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod connect;
pub mod consumer;
pub mod dlq;
pub mod doctor;
pub mod events;
pub mod guard;
pub mod health;
pub mod init;
pub mod mail;
pub mod manifest;
pub mod migrate;
pub mod overview;
pub mod patience;
pub mod privilege;
pub mod provision;
pub mod role;
mod schema;
pub mod servers;
mod signals;
pub mod stand;
pub mod status;
pub mod token;
pub mod up;
