//! All tests of the crate that use it from outside; one module for each subject.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod balancer;
mod balancer_modes;
mod chain;
mod classify;
mod common;
mod conditions;
mod firewall;
mod golden;
mod guards;
mod in_a_row;
mod maglev;
mod parser;
mod prepare;
mod session;
mod standby;
