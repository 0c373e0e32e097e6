//! The gate inside OpenStack: answers the remote checks of oslo.policy, so that nova, neutron and glance themselves
//! refuse whatever belongs to no operation that runs now.
//!
//! A service asks (over mutual TLS, with the policy file that [`file`] writes) before it creates, updates, deletes or
//! acts in a managed project; [`request`] reads the question, [`decision`] answers it from [`running`], which the engine
//! keeps in memory: no journal, ledger or cloud is asked, so an answer takes microseconds. Refusals go to
//! [`refusals`], which counts what is refused again and has it journaled beside the answer, never before it.
//!
//! It never answers `True` for want of knowledge: what cannot be read, is not known or belongs to nothing is `False`.
//! Reads are nobody's business here. Tests: beside each module; `tests/remote_policy.rs` over real TLS; and
//! `tests/openstack_policy.rs` in the real Yoga (`cargo testbed test openstack`).

pub mod config;
pub mod decision;
pub mod file;
pub mod refusals;
pub mod request;
pub mod rules;
pub mod running;
pub mod server;

pub use config::{CloudPolicy, PolicyConfig};
pub use decision::{Refusal, decide};
pub use refusals::{Refusals, RefusedCall};
pub use server::{Gate, Source};
