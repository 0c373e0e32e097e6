//! The policy contract as Fabric chaincode, run as a service.
//!
//! [`Contract`] turns a transaction of a channel into calls of `ledger-contract`: the very decisions of the embedded log,
//! over Fabric's state. It and each transaction of it are machines without I/O; [`server`] carries them over gRPC to the
//! peers. State keys are the contract's own, and one of the host's ([`ledger_contract::transaction::request_key`]).
//!
//! | function | arguments | answers |
//! |---|---|---|
//! | `submit` | none; transient `requests`: JSON list of envelopes | [`ledger_contract::transaction::Answer`] |
//! | `state` | key | its value; status 404 when there is none |
//! | `prefix` | prefix, key after which to begin (or empty), limit | JSON list of [`Row`]s in order |
//! | `history` | key, limit | JSON list of [`Was`], newest first |
//!
//! Never: a decision of its own, a write that the contract has not made, a look at the clock (it is an argument).

mod contract;
mod query;
pub mod server;
mod submit;
pub mod tls;

pub use contract::{Contract, Transaction};
pub use query::{MAX_ROWS, Row, Was};
