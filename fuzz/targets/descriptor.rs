//! A descriptor's text: any bytes get a verdict, and every finding has its place in the file.
#![no_main]

use descriptors::{Diagnostic, diagnostic::has_errors, parse};
use libfuzzer_sys::fuzz_target;

fn judge(text: &str, value: bool, found: &[Diagnostic]) {
    assert!(!(value && has_errors(found)), "a value beside errors");
    assert!(value || !found.is_empty(), "nothing said");
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    for d in found {
        assert!(d.line >= 1 && d.line as usize <= lines && d.column >= 1, "{d}");
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let vnf = parse::vnfd(text, "d");
    judge(text, vnf.value.is_some(), &vnf.diagnostics);
    let ns = parse::nsd(text, "d");
    judge(text, ns.value.is_some(), &ns.diagnostics);
});
