//! Verifying an evidence bundle offline, from the trust roots alone.
//!
//! Every byte of a bundle is significant: each line is compared with its one encoding, each signature covers its
//! payload, each line's digest is in the next one, the body's digest is in the anchor, and the anchor is in the log.
//! What can be computed again is: the appraisal of the attestation, the objectives of the measurement.
//!
//! Certificates are judged at ledger times: the tenant's at the decision's, the orchestrator's at the anchor's.
//! Between plan and outcome, attestation and measurement lines stand where their steps do.
//!
//! Not verified here, because it is not in the bundle: the plan document behind its digest, and that the log shows
//! everybody the same tree (compare the checkpoint with a witness's). Tests: `tests/bundle.rs` flips every byte.

mod plans;
mod receipt;
mod steps;
mod story;

use memchr::{memchr_iter, memrchr};
use trust::{Digest, Identity, TrustRoots, UnixTime};

use crate::{
    evidence::{Objective, Receipt},
    intent::Intent,
    records::{Grant, Verdict},
};

/// Largest bundle accepted, bytes.
pub const MAX_BUNDLE_BYTES: usize = 256 << 20;
/// Most lines accepted.
pub const MAX_BUNDLE_LINES: usize = 100_000;

/// One thing that was verified, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BundleCheck {
    /// What: `line 1: decision`, `decision: approval`, `measurement: loss_ppm`, `receipt: inclusion`, …
    pub name: String,
    /// Did it hold? Everything in a verified bundle is true; that a promise was not kept, an instance not trustworthy
    /// or a step not done is the truth too, and `false` here.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

/// A bundle that verified, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBundle {
    /// Everything that was verified, in order.
    pub checks: Vec<BundleCheck>,
    /// Operation.
    pub operation_id: String,
    /// The intent.
    pub intent: Intent,
    /// What was granted.
    pub grant: Grant,
    /// Who signed the intent.
    pub tenant_identity: Identity,
    /// Who signed the evidence.
    pub orchestrator_identity: Identity,
    /// The decision, with every rule.
    pub verdict: Verdict,
    /// Position and ledger time of the decision.
    pub decided: (u64, UnixTime),
    /// Site that was chosen; `None` when it did not come to a plan.
    pub site: Option<String>,
    /// Number of steps that were told, evidence apart.
    pub steps: usize,
    /// Was the last attestation affirming? `None` when there was none.
    pub attested: Option<bool>,
    /// The objectives of the last measurement, empty when nothing was measured.
    pub slo: Vec<Objective>,
    /// SOL003 final state.
    pub outcome: String,
    /// Why, when it is not `COMPLETED`.
    pub problem: Option<String>,
    /// Digest of the body.
    pub body: Digest,
    /// Position and ledger time of the anchor.
    pub anchored: (u64, UnixTime),
}

/// The first thing in a bundle that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BundleError {
    /// `bundle`, `line 4 (step 2, ensure compute vfw)`, `receipt`.
    pub place: String,
    /// What part of it, and what is wrong.
    pub problem: String,
}

fn broken<T>(place: impl Into<String>, problem: impl Into<String>) -> Result<T, BundleError> {
    Err(BundleError { place: place.into(), problem: problem.into() })
}

/// A bundle from its body (every line ends in a newline) and its receipt.
#[must_use]
pub fn assemble(body: &[u8], receipt: &Receipt) -> Vec<u8> {
    let mut out = body.to_vec();
    // A struct of strings and numbers always encodes.
    out.extend(serde_json::to_vec(receipt).unwrap_or_default());
    out.push(b'\n');
    out
}

/// Verifies everything a bundle says.
pub fn verify_bundle(bytes: &[u8], roots: &TrustRoots) -> Result<VerifiedBundle, BundleError> {
    let (body, last) = split(bytes)?;
    let receipt = receipt::verify(last, roots)?;
    let mut story = story::Story::new(&receipt);
    let mut begin = 0;
    // `split` made sure that every line ends in a newline.
    for (index, end) in memchr_iter(b'\n', body).enumerate() {
        story.line(index, &body[begin..end])?;
        begin = end + 1;
    }
    story.finish(Digest::of(body))
}

/// The body, and the last line without its newline.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), BundleError> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return broken("bundle", format!("{} bytes; at most {MAX_BUNDLE_BYTES} are read", bytes.len()));
    }
    let Some(text) = bytes.strip_suffix(b"\n") else {
        return broken("bundle", "its last line does not end in a newline: it was cut off or altered");
    };
    if memchr_iter(b'\n', text).count() >= MAX_BUNDLE_LINES {
        return broken("bundle", format!("more than {MAX_BUNDLE_LINES} lines"));
    }
    match memrchr(b'\n', text) {
        Some(end) => Ok((&bytes[..=end], &text[end + 1..])),
        None => broken("bundle", "it has one line only; evidence has a body and a receipt"),
    }
}
