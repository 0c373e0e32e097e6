//! What a data-plane process is told and what it answers.
//!
//! [`config`] is the whole configuration of one process: it is written by the planner, measured by the launcher and
//! swapped as a whole. [`protocol`] is the control protocol on a UNIX socket: version first, then requests.
//! [`sync`] is what a balancer tells its standby. [`capture`] is what is copied of the frames that pass. [`day0`] is how a guest gets its configuration. [`traffic`] is what the built-in generator sends and what it reports.
//!
//! Shared by both sides, so: no I/O beyond a given reader or writer, no DPDK, no policy.

mod balancer;
pub mod capture;
pub mod chain;
pub mod config;
pub mod day0;
mod number;
pub mod port;
pub mod protocol;
pub mod sync;
pub mod traffic;

pub use config::{Configuration, Function, MacAddr};
