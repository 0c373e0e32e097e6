//! An evidence bundle: without trust roots nothing verifies, and nothing panics.
#![no_main]

use ledger_contract::bundle::verify_bundle;
use libfuzzer_sys::fuzz_target;
use trust::TrustRoots;

fuzz_target!(|data: &[u8]| {
    assert!(verify_bundle(data, &TrustRoots::default()).is_err());
});
