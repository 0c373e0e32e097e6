//! Appraisal of evidence made here with a software key: each thing that can be wrong, refused by its own code.
//! `recorded.rs` does the same with evidence that a TPM made.

#![allow(clippy::unwrap_used)] // helpers of tests are not `#[test]` functions

use std::collections::BTreeMap;

use attestation::{
    AkRecord, AttestationResult, Claim, Evidence, Measurement, MeasurementKind, ReferenceValues, Workload,
    ak, appraise, log,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use proptest::prelude::*;
use trust::{Digest, UnixTime};

const PCR: u8 = 14;
const BASELINE: Digest = Digest([0; 32]);
const NOW: UnixTime = UnixTime(1_800_000_000);

fn nonce() -> Digest {
    Digest::of("nonce")
}

/// An attester: everything that evidence is made of, to be changed before it is signed.
struct Attester {
    key: SigningKey,
    pcr: u8,
    nonce: Digest,
    kinds: Vec<MeasurementKind>,
    claims: Vec<Claim>,
}

fn launch(instance: &str, image: &str, configuration: &str) -> MeasurementKind {
    let (image, configuration) = (Digest::of(image), Digest::of(configuration));
    MeasurementKind::Launch { instance: instance.into(), image, configuration }
}

fn configure(instance: &str, configuration: &str) -> MeasurementKind {
    MeasurementKind::Configure { instance: instance.into(), configuration: Digest::of(configuration) }
}

fn claim(instance: &str, image: &str, configuration: &str) -> Claim {
    let (image, configuration) = (Digest::of(image), Digest::of(configuration));
    Claim { instance: instance.into(), image, configuration, generation: 1, isolated: false }
}

fn attester() -> Attester {
    let kinds =
        vec![launch("vfw", "dp", "rules 1"), launch("vlb", "dp", "backends"), configure("vfw", "rules 2")];
    let claims = vec![claim("vfw", "dp", "rules 2"), claim("vlb", "dp", "backends")];
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    Attester { key, pcr: PCR, nonce: nonce(), kinds, claims }
}

fn public_key(key: &SigningKey) -> String {
    let point = key.verifying_key().to_sec1_point(false);
    ak::public_key(point.x().unwrap(), point.y().unwrap()).unwrap()
}

/// `TPMS_ATTEST` of a quote over one PCR.
fn attest(extra: &[u8], pcr: u8, pcr_digest: &[u8]) -> Vec<u8> {
    let mut select = [0; 3];
    select[usize::from(pcr / 8)] = 1 << (pcr % 8);
    let parts: [&[u8]; 8] = [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0, 0, 32],
        extra,
        &[0; 16],
        &[1],
        &[0x20; 8],
        &[0, 0, 0, 1, 0, 0x0b, 3],
        &select,
        &[0, 32],
    ];
    [&parts.concat(), pcr_digest].concat()
}

impl Attester {
    fn evidence(&self) -> Evidence {
        let lines = |(seq, kind): (usize, &MeasurementKind)| {
            log::encode(&Measurement { seq: seq as u64, kind: kind.clone() })
        };
        let log: Vec<String> = self.kinds.iter().enumerate().map(lines).collect();
        let claims = serde_json::to_string(&self.claims).unwrap();
        let value = log::replay(&BASELINE, log.iter().map(String::as_str)).unwrap().value;
        let extra = Evidence::qualifying_data(&self.nonce, &claims);
        let attest = attest(&extra.0, self.pcr, &log::quoted_digest(&value).0);
        let signature: Signature = self.key.sign(&attest);
        let (r, s) = signature.split_bytes();
        Evidence {
            attest: STANDARD.encode(&attest),
            signature: ak::signature_der(&r, &s).unwrap(),
            ak: public_key(&self.key),
            pcr: self.pcr,
            pcr_baseline: BASELINE,
            log,
            claims,
        }
    }
}

fn reference() -> ReferenceValues {
    let workload =
        |configuration: &str| Workload { image: Digest::of("dp"), configuration: Digest::of(configuration) };
    ReferenceValues {
        ak: AkRecord {
            site: "edge-1".into(),
            public_key: public_key(&attester().key),
            pcr: PCR,
            pcr_baseline: BASELINE,
            not_before: UnixTime(NOW.0 - 10),
            not_after: UnixTime(NOW.0 + 10),
        },
        workloads: BTreeMap::from([
            ("vfw".into(), workload("rules 2")),
            ("vlb".into(), workload("backends")),
        ]),
        tee: false,
    }
}

fn result(evidence: &Evidence) -> AttestationResult {
    appraise(evidence, &reference(), &nonce(), NOW)
}

fn failed(result: &AttestationResult) -> Vec<&str> {
    assert_eq!(result.affirming, result.checks.iter().all(|c| c.passed));
    result.checks.iter().filter(|c| !c.passed).map(|c| c.code.as_str()).collect()
}

#[test]
fn good_evidence_affirms_and_lists_every_check_in_order() {
    let result = result(&attester().evidence());
    assert_eq!(failed(&result), Vec::<&str>::new());
    let codes: Vec<&str> = result.checks.iter().map(|c| c.code.as_str()).collect();
    assert_eq!(codes, ALL);
}

const ALL: [&str; 12] = [
    "AK_REGISTERED",
    "AK_VALID",
    "SIGNATURE",
    "NONCE",
    "PCR_SELECTION",
    "PCR_BASELINE",
    "LOG_REPLAY",
    "IMAGE:vfw",
    "CONFIGURATION:vfw",
    "IMAGE:vlb",
    "CONFIGURATION:vlb",
    "CLAIMS",
];

#[test]
fn another_nonce() {
    let mut it = attester();
    it.nonce = Digest::of("yesterday's");
    assert_eq!(failed(&result(&it.evidence())), ["NONCE"]);
}

#[test]
fn another_key() {
    let mut it = attester();
    it.key = SigningKey::from_slice(&[8; 32]).unwrap();
    assert_eq!(failed(&result(&it.evidence())), ["AK_REGISTERED", "SIGNATURE"]);
    // Saying that it is the registered key does not help.
    let lie = Evidence { ak: reference().ak.public_key, ..it.evidence() };
    assert_eq!(failed(&result(&lie)), ["SIGNATURE"]);
}

#[test]
fn key_outside_its_validity() {
    let evidence = attester().evidence();
    for (at, good) in [(NOW.0 - 11, false), (NOW.0 - 10, true), (NOW.0 + 10, true), (NOW.0 + 11, false)] {
        let result = appraise(&evidence, &reference(), &nonce(), UnixTime(at));
        assert_eq!(failed(&result).is_empty(), good, "{at}");
        assert_eq!(result.checks[1].passed, good);
    }
}

#[test]
fn another_pcr() {
    let mut it = attester();
    it.pcr = 13;
    assert_eq!(failed(&result(&it.evidence())), ["PCR_SELECTION"]);
    let lie = Evidence { pcr: PCR, ..it.evidence() };
    assert_eq!(failed(&result(&lie)), ["PCR_SELECTION"]);
    // A PCR that software can reset proves nothing, even when an operator registers it.
    it.pcr = 23;
    let mut reference = reference();
    reference.ak.pcr = 23;
    assert_eq!(failed(&appraise(&it.evidence(), &reference, &nonce(), NOW)), ["PCR_SELECTION"]);
}

#[test]
fn no_quote_shows_a_trusted_execution_environment() {
    let evidence = attester().evidence();
    assert!(result(&evidence).affirming);
    let reference = ReferenceValues { tee: true, ..reference() };
    let result = appraise(&evidence, &reference, &nonce(), NOW);
    assert_eq!(failed(&result), ["TEE"]);
    assert!(!result.affirming && result.checks.last().unwrap().detail.contains("TPM quote"));
}

#[test]
fn another_baseline() {
    let evidence = Evidence { pcr_baseline: Digest::of("other"), ..attester().evidence() };
    assert_eq!(failed(&result(&evidence)), ["PCR_BASELINE"]);
    let mut reference = reference();
    reference.ak.pcr_baseline = Digest::of("other");
    assert_eq!(failed(&appraise(&evidence, &reference, &nonce(), NOW)), ["LOG_REPLAY"]);
}

#[test]
fn tampered_log() {
    let good = attester().evidence();
    let with = |log: Vec<String>| Evidence { log, ..good.clone() };
    let mut line = good.log.clone();
    line[1] = line[1].replace(&Digest::of("backends").hex(), &Digest::of("evil").hex());
    assert_eq!(failed(&result(&with(line))), ["LOG_REPLAY", "CONFIGURATION:vlb"]);
    let mut order = good.log.clone();
    order.swap(0, 1);
    assert!(failed(&result(&with(order))).contains(&"LOG_REPLAY"));
    // A dropped reconfiguration would make the old rules look current.
    assert_eq!(failed(&result(&with(good.log[..2].to_vec()))), ["LOG_REPLAY", "CONFIGURATION:vfw"]);
    assert!(failed(&result(&with(vec![]))).contains(&"LOG_REPLAY"));
    let long = vec![good.log[0].clone(); 100_001];
    assert!(failed(&result(&with(long))).contains(&"LOG_REPLAY"));
}

#[test]
fn another_image_or_configuration_measured() {
    let mut it = attester();
    it.kinds.push(launch("vlb", "evil", "backends"));
    assert_eq!(failed(&result(&it.evidence())), ["IMAGE:vlb"]);
    let mut it = attester();
    it.kinds.push(configure("vfw", "rules 3"));
    assert_eq!(failed(&result(&it.evidence())), ["CONFIGURATION:vfw"]);
    let mut it = attester();
    it.kinds.remove(1);
    assert_eq!(failed(&result(&it.evidence())), ["IMAGE:vlb", "CONFIGURATION:vlb"]);
    // A relaunch takes the configuration back to the one it was started with.
    let mut it = attester();
    it.kinds.push(launch("vfw", "dp", "rules 1"));
    assert_eq!(failed(&result(&it.evidence())), ["CONFIGURATION:vfw"]);
}

#[test]
fn claims_that_disagree() {
    type Damage = fn(&mut Vec<Claim>);
    let cases: [(Damage, &[&str]); 7] = [
        (|c| c[0].image = Digest::of("evil"), &["IMAGE:vfw"]),
        (|c| c[0].configuration = Digest::of("rules 1"), &["CONFIGURATION:vfw"]),
        (|c| c[1].isolated = true, &["CLAIMS"]),
        (|c| drop(c.remove(1)), &["IMAGE:vlb", "CONFIGURATION:vlb", "CLAIMS"]),
        (|c| c.push(c[1].clone()), &["IMAGE:vlb", "CONFIGURATION:vlb", "CLAIMS"]),
        (|c| c[1].instance = "other".into(), &["IMAGE:vlb", "CONFIGURATION:vlb", "CLAIMS"]),
        (|c| c.push(claim("other", "dp", "x")), &["CLAIMS"]),
    ];
    for (i, (damage, expected)) in cases.into_iter().enumerate() {
        let mut it = attester();
        damage(&mut it.claims);
        assert_eq!(failed(&result(&it.evidence())), expected, "case {i}");
    }
}

#[test]
fn claims_changed_after_the_quote() {
    let good = attester().evidence();
    let claims = good.claims.replace("false", "true");
    let all_isolated = Evidence { claims, ..good };
    assert_eq!(failed(&result(&all_isolated)), ["NONCE", "CLAIMS"]);
}

#[test]
fn unreadable_evidence_still_lists_every_check() {
    let empty = Evidence {
        attest: String::new(),
        signature: String::new(),
        ak: String::new(),
        pcr: 0,
        pcr_baseline: BASELINE,
        log: vec!["no JSON".into()],
        claims: String::new(),
    };
    let result = result(&empty);
    let codes: Vec<&str> = result.checks.iter().map(|c| c.code.as_str()).collect();
    assert_eq!(codes, ALL);
    assert!(!result.affirming && result.checks.iter().all(|c| !c.detail.is_empty()));
}

proptest! {
    #[test]
    fn random_evidence_never_panics(
        attest in proptest::collection::vec(any::<u8>(), 0..300),
        signature in "[A-Za-z0-9+/=]{0,120}",
        ak in "[A-Za-z0-9+/=]{0,150}",
        pcr: u8,
        log in proptest::collection::vec(".{0,80}", 0..4),
        claims in ".{0,200}",
    ) {
        let attest = STANDARD.encode(attest);
        let evidence = Evidence { attest, signature, ak, pcr, pcr_baseline: BASELINE, log, claims };
        prop_assert!(!result(&evidence).affirming);
    }
}
