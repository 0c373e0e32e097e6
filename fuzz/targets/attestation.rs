//! A TPM quote and a measurement log.
#![no_main]

use attestation::{
    log::{decode, encode, replay},
    quote::Quote,
};
use libfuzzer_sys::fuzz_target;
use trust::Digest;

fuzz_target!(|data: &[u8]| {
    if let Ok(quote) = Quote::parse(data) {
        let _ = quote.selects_exactly(14);
        for bank in &quote.selection {
            let _ = bank.to_string();
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(measurement) = decode(text) {
        assert_eq!(encode(&measurement), text, "one encoding only");
    }
    let lines: Vec<&str> = text.lines().collect();
    let _ = replay(&Digest::of("baseline"), lines.into_iter());
});
