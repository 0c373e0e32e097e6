//! A package's bytes: as they are, and as the tar archive inside a gzip member, which no mutation would get right.
#![no_main]

use std::io::Write as _;

use descriptors::{lint, package};
use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = lint::bytes(data, "p", None);
    if let Ok(opened) = package::open(data) {
        assert!(opened.files.contains_key(&opened.descriptor_path));
    }
    let mut gz = GzEncoder::new(Vec::new(), Compression::none());
    if gz.write_all(data).is_err() {
        return;
    }
    let Ok(bytes) = gz.finish() else { return };
    if let Ok(opened) = package::open(&bytes) {
        for path in opened.files.keys() {
            assert!(!path.starts_with('/') && path.split('/').all(|p| !matches!(p, "" | "." | "..")));
        }
    }
});
