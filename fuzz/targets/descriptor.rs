//! A descriptor's text: any bytes get a verdict, and every finding has its place in the file.
#![no_main]

use descriptors::{Report, lint, parse};
use libfuzzer_sys::fuzz_target;

fn judge(text: &str, report: &Report) {
    assert!(report.is_accepted() || !report.diagnostics.is_empty(), "rejected without a word");
    // The line breaks of YAML 1.2 and those that some readers know beside them.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    for d in &report.diagnostics {
        assert!(d.line >= 1 && d.line as usize <= lines && d.column >= 1, "{d}");
        assert!(d.hint.is_some(), "without a hint: {d}");
        assert!(!d.message.contains(['\n', '\u{1b}']), "{d}");
    }
}

fuzz_target!(|data: &[u8]| {
    if lint::is_package(data) {
        return;
    }
    let report = lint::bytes(data, "d", None);
    let text = String::from_utf8_lossy(data);
    judge(&text, &report);
    let vnf = parse::vnfd(&text, "d");
    let ns = parse::nsd(&text, "d");
    for (value, diagnostics) in [(vnf.value.is_some(), vnf.diagnostics), (ns.value.is_some(), ns.diagnostics)]
    {
        let it = Report { diagnostics, ..Report::default() };
        assert_eq!(value, it.is_deployable(), "{:?}", it.diagnostics);
    }
});
