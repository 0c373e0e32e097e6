//! A DSSE envelope and the request in it: what is read is written again the same.
#![no_main]

use descriptors::{provenance, sbom};
use ledger_contract::Request;
use libfuzzer_sys::fuzz_target;
use trust::{Digest, Envelope, TrustRoots, UnixTime};

fuzz_target!(|data: &[u8]| {
    let _ = sbom::check(data, &Digest::of("image"));
    let Ok(envelope) = Envelope::from_json(data) else { return };
    let written = envelope.to_json();
    let again = Envelope::from_json(&written).expect("what was written is read");
    assert_eq!(again, envelope);
    assert!(envelope.verify(&TrustRoots::default(), UnixTime(1_800_000_000)).is_err());
    let _ = provenance::check(&envelope, &Digest::of("image"));
    let _ = Request::parse(&envelope);
});
