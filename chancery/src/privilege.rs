//! Least privilege: who may do what, at NATS and in PostgreSQL. `docs/privileges.md` shows it as tables.

pub mod nats;
