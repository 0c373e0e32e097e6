//! A member's certificate, DER or PEM, and trust roots that hold it.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use trust::{
    TrustRoots, UnixTime,
    identity::{OrgRoot, claimed, pem_to_der, public_key},
};

fn look(der: &[u8], pem: Option<&str>) {
    let _ = public_key(der);
    let Ok((_, org)) = claimed(der) else { return };
    let ca = pem.map(str::to_owned).into_iter().collect();
    let root = OrgRoot { ca, ..OrgRoot::default() };
    let roots = TrustRoots { orgs: BTreeMap::from([(org, root)]), logs: Vec::new(), channel: None };
    let _ = roots.verify(der, UnixTime(1_800_000_000));
}

fuzz_target!(|data: &[u8]| {
    look(data, None);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(der) = pem_to_der(text) {
        look(&der, Some(text));
    }
});
