//! Sigstore bundles and trusted roots: what a miniature Fulcio, Rekor and time-stamping authority sign, mutated.
#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use descriptors::sigstore::{self, Bundle, TrustedRoot};
use libfuzzer_sys::fuzz_target;
use trust::{
    TrustRoots,
    identity::{OrgRoot, SigstoreIdentity, SigstoreTrust},
};

/// What the seeds sign.
const ARTIFACT: &[u8] = b"what a vendor delivers";

static ROOTS: LazyLock<TrustRoots> = LazyLock::new(|| {
    let trusted_root = serde_json::from_str(include_str!("../keys/trusted_root.json")).expect("JSON");
    let identity = SigstoreIdentity {
        issuer: "https://accounts.example".into(),
        subject: "release@vendor.example".into(),
    };
    let vendor = OrgRoot {
        keys: BTreeMap::from([("cosign".into(), include_str!("../keys/sigstore-key.pem").into())]),
        sigstore: Some(SigstoreTrust { trusted_root, identities: vec![identity] }),
        ..OrgRoot::default()
    };
    TrustRoots { orgs: BTreeMap::from([("vendor".into(), vendor)]), logs: Vec::new(), channel: None }
});

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::from_json(data) {
        if let Ok(claim) = sigstore::verify_artifact(&bundle, ARTIFACT, &ROOTS) {
            assert_eq!(claim.org, "vendor");
            assert!(sigstore::verify_artifact(&bundle, b"other", &ROOTS).is_err());
        }
        let _ = sigstore::verify_statement(&bundle, &ROOTS);
        assert!(sigstore::verify_artifact(&bundle, ARTIFACT, &TrustRoots::default()).is_err());
    }
    if let Ok(json) = serde_json::from_slice(data) {
        let _ = TrustedRoot::read(&json, "vendor");
    }
});
