//! Client of a Hyperledger Fabric gateway: transactions by the phases of [`fabric::gateway`], over TLS 1.3.
//!
//! A [`Gateway`] is one peer of one organisation, reached over connections that are made when they are needed. Each phase
//! is one call with a deadline; its error says whether the outcome is known. Nothing is tried again by it: what helps is
//! in the error. A [`pool::Pool`] is several gateways, and does what helps, until the outcome is known or the time is up.
//! A [`Peer`] is asked itself: for blocks, and for its signed word that a transaction is valid, of which [`fabric::proof`]
//! makes a proof. Never: a connection without TLS, a decision about what is submitted. Tests: `tests/fabric.rs` (a real network, and lost
//! answers), `tests/faults.rs` (nodes that are killed), `tests/peer.rs`.

mod connect;
mod deliver;
mod gateway;
mod peer;
pub mod pool;
mod tls;

pub use deliver::{Blocks, DeliverError};
pub use gateway::{Deadlines, Gateway, Member, Options, Sign};
pub use peer::{Peer, WordError};
pub use tls::{ClientTls, OpenError, Tls};
