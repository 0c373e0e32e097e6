//! Client of a Hyperledger Fabric gateway: transactions by the phases of [`fabric::gateway`], over TLS 1.3.
//!
//! A [`Gateway`] is one peer of one organisation, reached over connections that are made when they are needed. Each phase
//! is one call with a deadline; its error says whether the outcome is known. Nothing is tried again here: what helps is
//! in the error, and the caller's to do. Never: a connection without TLS, a decision about what is submitted. Tests:
//! `tests/fabric.rs` (a real network, and lost answers).

mod connect;
mod gateway;
mod tls;

pub use gateway::{Deadlines, Gateway, Member, Options, Sign};
pub use tls::{ClientTls, OpenError, Tls};
