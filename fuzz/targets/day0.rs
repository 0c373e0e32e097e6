//! A VDU's cloud-init file.
#![no_main]

use descriptors::day0;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = day0::parse(text);
    if let Ok(Some(it)) = day0::parse(&format!("#cloud-config\nmandate:\n{text}")) {
        assert_eq!(it.ports.len(), it.function.roles().len());
    }
});
