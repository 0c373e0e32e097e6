//! Evidence that a TPM (swtpm) made, recorded by `mandate-launcher`'s tests: it affirms, and no byte of it can change.
//!
//! Recorded anew with `MANDATE_RECORD_EVIDENCE=…/evidence.json cargo test -p mandate-launcher launch_quote_affirm`.

#![allow(clippy::unwrap_used)] // helpers of tests are not `#[test]` functions

use attestation::{AttestationResult, Evidence, ReferenceValues, appraise};
use serde::Deserialize;
use trust::{Digest, UnixTime};

#[derive(Deserialize)]
struct Case {
    evidence: Evidence,
    reference: ReferenceValues,
    nonce: Digest,
    at: UnixTime,
}

impl Case {
    fn appraise(&self, evidence: &Evidence) -> AttestationResult {
        appraise(evidence, &self.reference, &self.nonce, self.at)
    }
}

fn case() -> Case {
    serde_json::from_slice(include_bytes!("evidence.json")).unwrap()
}

#[test]
fn affirms() {
    let case = case();
    let result = case.appraise(&case.evidence);
    assert!(result.affirming, "{:#?}", result.checks);
    assert_eq!(result.checks.len(), 7 + 2 * case.reference.workloads.len() + 1);
}

/// Every byte of the evidence's JSON, with each of its bits flipped: not read at all, or not affirmed.
#[test]
fn no_bit_can_change() {
    let case = case();
    let good = serde_json::to_vec(&case.evidence).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            if let Ok(evidence) = serde_json::from_slice::<Evidence>(&bad) {
                assert!(!case.appraise(&evidence).affirming, "byte {at}, bit {bit}");
            }
        }
    }
}

/// The same below the encodings: every byte of attest and signature.
#[test]
fn no_byte_under_the_base64_can_change() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let case = case();
    type Field = fn(&mut Evidence) -> &mut String;
    for field in [(|e| &mut e.attest) as Field, |e| &mut e.signature, |e| &mut e.ak] {
        let mut evidence = case.evidence.clone();
        let good = STANDARD.decode(field(&mut evidence).as_bytes()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            *field(&mut evidence) = STANDARD.encode(bad);
            assert!(!case.appraise(&evidence).affirming, "byte {at}");
        }
    }
}
