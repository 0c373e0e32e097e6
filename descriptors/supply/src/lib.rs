//! Where software comes from: signatures as others make them, and what SLSA provenance says.
//!
//! [`pki`]: certificate chains, CMS and bare keys; [`sigstore`]: Sigstore bundles, verified offline; [`provenance`]: SLSA
//! statements. A crate of its own because both who reads packages (`descriptors`) and the policy contract on the ledger
//! (`ledger-contract`) verify them, and the contract must not carry archives, YAML and SBOMs for that.
//!
//! Never: reads a file or the network, asks a clock, or takes a time that a signer claims. Tests: beside each module, and
//! `sol004_tools.rs`, `signing_tools.rs` of `descriptors` with signatures that others' tools make.

pub mod pki;
pub mod provenance;
pub mod sigstore;
