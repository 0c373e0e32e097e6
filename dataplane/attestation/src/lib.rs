//! Attestation after RFC 9334: evidence, reference values, and their appraisal.
//!
//! The attester is a machine with a TPM 2.0. The launcher extends one PCR with a digest per *measurement* (what was
//! started with which configuration, what was reconfigured) and keeps the measurements in an event log. Evidence is
//! a quote over that PCR, the log, and what each running function claims of itself; the quote's `extraData` binds
//! the verifier's nonce and the claims. Pure: no TPM, no clock, no randomness; both sides share these types.

pub mod ak;
pub mod appraise;
pub mod evidence;
pub mod log;
pub mod quote;

pub use appraise::{AkRecord, AttestationResult, Check, ReferenceValues, Workload, appraise};
pub use evidence::{Claim, Evidence, Measurement, MeasurementKind};
