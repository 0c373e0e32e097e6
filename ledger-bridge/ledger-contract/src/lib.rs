//! The policy contract: pure decisions over a snapshot of the ledger.
//!
//! The same code decides in the embedded log and in Fabric chaincode: [`read_set`] names the state it will read,
//! [`decide`] reads nothing else, and neither knows a clock or a random source. What it decides becomes a ledger
//! [`entry`]; an entry with its inclusion proof is an [`approval`], which the actuator verifies by itself.

pub mod evidence;
pub mod intent;
pub mod records;

pub use intent::{Intent, IntentKind};
