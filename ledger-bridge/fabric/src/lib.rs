//! What Hyperledger Fabric 2.5 speaks, without any I/O: messages, the chaincode side of the shim protocol, the client side
//! of the gateway's, and lifecycle packages.
//!
//! Messages are structs with Fabric's field numbers, written by hand as far as they are used, so that nobody needs
//! `protoc` (docs/adr/0030). [`shim::Session`] is one stream between a peer and a chaincode, as a machine: messages in,
//! messages out, time as an argument; [`gateway`] has a transaction's phases; [`proof`] shows to a stranger what was committed,
//! with a [`channel`]'s configuration block as trust root. Never: a socket, a clock, a decision.

pub mod block;
pub mod channel;
pub mod deliver;
pub mod gateway;
pub mod message;
pub mod package;
pub mod proof;
pub mod shim;
