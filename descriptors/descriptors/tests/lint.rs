//! Golden findings: for each `tests/golden/NAME.yaml`, `NAME.txt` holds what is said about it, line by line.
//! After an intended change, `UPDATE_GOLDEN=1 cargo test -p descriptors --test lint` writes them anew: read the diff.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{fs, path::Path};

use descriptors::{Report, lint, parse};

fn findings(file: &Path) -> String {
    let bytes = fs::read(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    // The name says what it is read as; what it is may be something else.
    let report = if name.starts_with("as-vnfd") {
        let parsed = parse::vnfd(std::str::from_utf8(&bytes).unwrap(), name);
        Report { diagnostics: parsed.diagnostics, ..Report::default() }
    } else {
        lint::bytes(&bytes, name, None)
    };
    let dialect = report.dialect.map_or_else(|| "none".to_owned(), |d| d.to_string());
    let deployable = if report.is_deployable() { "" } else { ", not deployable" };
    let mut out = format!("{} ({dialect}{deployable})\n", report.verdict());
    for d in &report.diagnostics {
        out.push_str(&format!("{d}{}\n", if d.refused_by_osm { " (OSM refuses it too)" } else { "" }));
    }
    out
}

#[test]
fn golden_findings() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = fs::read_dir(golden).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(files.len() >= 8, "the golden files are gone");
    for file in files {
        let found = findings(&file);
        let expected = file.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert!(found == expected, "{}:\n--- found\n{found}--- expected\n{expected}", file.display());
    }
}
