//! Signatures as others make them: CMS, time stamps, certificates and keys, DER, BER and PEM.
#![no_main]

use std::{collections::BTreeSet, sync::LazyLock};

use descriptors::pki::{
    Anchor, Hash, PublicKey, Purpose, chain,
    cms::{self, SignedData, Trust},
    timestamp,
};
use libfuzzer_sys::fuzz_target;
use trust::UnixTime;

/// When the seeds' certificates are valid.
const NOW: UnixTime = UnixTime(1_800_000_000);
/// What the seeds sign.
const CONTENT: &[u8] = b"what a vendor delivers";

static ANCHORS: LazyLock<Vec<Anchor>> = LazyLock::new(|| {
    let pems = [include_str!("../keys/vendor.pem"), include_str!("../keys/tsa.pem")];
    let roots = pems.into_iter().flat_map(|p| chain::from_pem(p).expect("our own roots"));
    roots.map(|certificate| Anchor { org: "vendor".into(), certificate }).collect()
});

fn trust_at(purpose: Purpose, revoked: &BTreeSet<(String, String)>) -> Trust<'_> {
    Trust { anchors: &ANCHORS, revoked, purpose, at: NOW }
}

fn certificates(list: &[Vec<u8>]) {
    for der in list {
        let _ = PublicKey::of_certificate(der);
    }
    let Some((leaf, others)) = list.split_first() else { return };
    for purpose in [Purpose::Package, Purpose::Code, Purpose::Time] {
        if let Ok(it) = chain::verify(leaf, others, &ANCHORS, &BTreeSet::new(), purpose, NOW) {
            assert_eq!(it.org, "vendor");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let nothing = BTreeSet::new();
    if let Ok(signed) = SignedData::from_file(data) {
        certificates(&signed.certificates);
        for purpose in [Purpose::Package, Purpose::Time] {
            if let Ok(signers) = signed.verify(&[CONTENT], &[], trust_at(purpose, &nothing)) {
                assert!(!signers.is_empty(), "good without a signer");
                // The same signature is not good for anything else.
                assert!(signed.verify(&[b"other"], &[], trust_at(purpose, &nothing)).is_err());
            }
        }
    }
    if let Ok(list) = cms::certificates_of(data) {
        certificates(&list);
    }
    if let Ok(list) = chain::from_file(data) {
        certificates(&list);
    }
    let _ = timestamp::verify(data, CONTENT, &ANCHORS, &[]);
    if let Ok(key) = PublicKey::from_spki(data) {
        assert!(key.verify(key.usual(), CONTENT, &Hash::Sha256.digest(data)).is_err());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = PublicKey::from_pem(text);
    }
});
