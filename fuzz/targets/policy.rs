//! A policy bundle: `data.json`, or a file of tenant rules in Rego. What is accepted can decide, and is written as it
//! was read.
#![no_main]

use ledger_contract::{policy::DATA_FILE, records::PolicyBundle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut bundle = PolicyBundle::default_bundle();
    let file = if text.trim_start().starts_with('{') { DATA_FILE } else { "tenant.rego" };
    bundle.files.insert(file.to_owned(), text.to_owned());
    if bundle.check().is_err() {
        return;
    }
    let data = bundle.data().expect("it was checked");
    let again = bundle.with_data(&data);
    assert!(again.check().is_ok(), "what was written is not accepted");
    assert_eq!(again.data().expect("it was checked"), data);
});
