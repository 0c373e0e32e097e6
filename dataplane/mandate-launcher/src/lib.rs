//! The launcher: what runs on a machine was measured first, and says so under a TPM's signature.
//!
//! It measures an image and its configuration into one PCR and the [`eventlog`], gives privileges up ([`confine`]) and
//! executes the [`sealed`] image in its own place ([`launch`]); it quotes that PCR for a verifier ([`evidence`]) with
//! the [`ak`]. It decides nothing: what must run is in its arguments, whether evidence is good is the verifier's
//! (`attestation::appraise`). A library only so that its tests reach the parts; the program is `mandate-launcher`.
//!
//! Tests are beside the modules and in `tests/`, the latter on a swtpm.

pub mod ak;
pub mod cli;
pub mod confine;
pub mod error;
pub mod eventlog;
pub mod evidence;
pub mod launch;
pub mod sealed;
pub mod tpm;
