//! The policy contract: pure decisions over a snapshot of the ledger.
//!
//! The same code decides in the embedded log and in Fabric chaincode: [`read_set`] names the state it will read,
//! [`decide`] reads nothing else, and neither knows a clock or a random source. What it decides becomes a ledger
//! [`records::Entry`]; an entry with its inclusion proof is an [`approval`], which the actuator verifies by itself, and
//! what was done under it comes back as a [`bundle`] that anybody can verify offline.

mod anchoring;
pub mod approval;
mod authority;
mod built;
pub mod bundle;
pub mod channel;
pub mod constitution;
pub mod contract;
pub mod evidence;
mod governance;
pub mod history;
pub mod intent;
mod intents;
mod memo;
pub mod notice;
pub mod policy;
mod prepared;
mod provenance;
pub mod records;
mod registry;
mod rego;
mod request;
pub mod signing;
pub mod standing;
pub mod state;
pub mod transaction;
mod verdict;
pub mod waive;

pub use bundle::{VerifiedBundle, verify_bundle};
pub use constitution::Constitution;
pub use contract::{Outcome, Request, TxInfo, decide, read_set};
pub use intent::{Intent, IntentKind};
pub use intents::remaining as remaining_at_sites;
pub use state::Snapshot;
