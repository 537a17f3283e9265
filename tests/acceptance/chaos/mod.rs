//! `chancery chaos`: what it is made of, over real servers.

mod loading;
