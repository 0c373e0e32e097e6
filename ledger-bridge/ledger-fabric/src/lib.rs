//! A Hyperledger Fabric channel as the ledger, over TLS 1.3.
//!
//! A [`Gateway`] is one peer of one organisation that transactions go through, by the phases of [`fabric::gateway`]; each is
//! one call with a deadline, whose error says whether the outcome is known. A [`pool::Pool`] is several gateways, and does what
//! helps, until the outcome is known or the time is up. A [`Peer`] is asked for blocks and for its signed word.
//! [`FabricLedger`] is the port: it follows the channel's blocks into a [`mirror`], verified, and has requests decided.
//! Never: a connection without TLS, a decision about what is submitted. Tests: `tests/fabric.rs` (a real network, and lost
//! answers), `tests/faults.rs` (nodes that are killed), `tests/peer.rs`, `tests/port.rs` (the port).

mod connect;
mod deliver;
pub mod follow;
mod gateway;
mod lanes;
mod ledger;
pub mod mirror;
mod peer;
pub mod pool;
mod tls;

pub use deliver::{Blocks, DeliverError};
pub use follow::FollowError;
pub use gateway::{Deadlines, Gateway, Member, Options, Sign};
pub use ledger::{ChannelError, ChannelOptions, FabricLedger, Node};
pub use peer::{Peer, WordError};
pub use tls::{ClientTls, OpenError, Tls};
