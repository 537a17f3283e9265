//! `chancery chaos`: load, faults and checkers, which together prove (or refute) what the product promises.
//!
//! A run is: a load that records all it did ([`load`], [`history`]), faults that record when they began and ended, then quiet, then the
//! facts ([`facts`]): what the database, every replica of the streams and every consumer hold. Checkers ([`check`]) are pure functions over
//! the two.

pub mod chance;
pub mod chart;
pub mod check;
pub mod collect;
pub mod facts;
pub mod fault;
pub mod history;
pub mod kind;
pub mod load;
pub mod plan;
pub mod power;
pub mod proxy;
pub mod reach;
pub mod report;
pub mod target;
