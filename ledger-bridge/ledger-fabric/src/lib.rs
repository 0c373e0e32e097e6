//! Client of a Hyperledger Fabric gateway: transactions by the phases of [`fabric::gateway`], over TLS 1.3.
//!
//! A [`Gateway`] is one peer of one organisation, reached over connections that are made when they are needed. Each phase
//! is one call with a deadline; its error says whether the outcome is known. Nothing is tried again by it: what helps is
//! in the error. A [`pool::Pool`] is several gateways, and does what helps, until the outcome is known or the time is up.
//! Never: a connection without TLS, a decision about what is submitted. Tests: `tests/fabric.rs` (a real network, and lost
//! answers), `tests/faults.rs` (nodes that are killed).

mod connect;
mod gateway;
pub mod pool;
mod tls;

pub use gateway::{Deadlines, Gateway, Member, Options, Sign};
pub use tls::{ClientTls, OpenError, Tls};
