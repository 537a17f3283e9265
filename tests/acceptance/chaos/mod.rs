//! `chancery chaos`: what it is made of, over real servers.

mod checking;
mod loading;
