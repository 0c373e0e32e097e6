//! The OSM corpus beside the checkout (`../shared/corpus`): descriptors from public repositories and mutants of them,
//! with what a real OSM northbound interface answered. Says how often we agree; skips loudly without it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use descriptors::{Diagnostic, Severity, parse};

fn corpus() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    if path.join("verdicts.tsv").is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: no corpus at {}; put it there to see the agreement with OSM", path.display());
    None
}

fn lint(kind: &str, yaml: &str) -> Vec<Diagnostic> {
    if kind == "nsd" { parse::nsd(yaml, "d").diagnostics } else { parse::vnfd(yaml, "d").diagnostics }
}

/// What we think OSM does with the text alone.
fn osm_refuses(found: &[Diagnostic]) -> bool {
    found.iter().any(|d| d.refused_by_osm && d.severity == Severity::Error)
}

fn errors(found: &[Diagnostic]) -> String {
    found.iter().filter(|d| d.severity == Severity::Error).map(|d| format!("\n    {d}")).collect()
}

#[test]
fn agrees_with_the_northbound_interface_on_the_corpus() {
    let Some(root) = corpus() else { return };
    let text = fs::read_to_string(root.join("verdicts.tsv")).unwrap();
    let (mut same, mut all) = (0, 0);
    for line in text.lines().skip(1) {
        let mut columns = line.split('\t');
        let [repo, path, kind, _, status, detail] =
            std::array::from_fn(|_| columns.next().unwrap_or_default());
        if kind.starts_with("package:") {
            continue;
        }
        let yaml = fs::read_to_string(root.join(repo).join(path)).unwrap();
        let found = lint(kind, &yaml);
        // Files of the package are not part of the descriptor, nor is the Helm repository.
        let refused =
            status != "201" && !detail.contains("not present in package") && !detail.contains("helm-chart");
        all += 1;
        if osm_refuses(&found) == refused {
            same += 1;
        } else {
            println!("{repo}/{path}: OSM {status} {detail}{}", errors(&found));
        }
    }
    println!("descriptors: {same} of {all} verdicts as OSM's");
    assert_eq!(same, all);
}

#[test]
fn agrees_with_the_northbound_interface_on_mutants() {
    let Some(root) = corpus() else { return };
    let text = fs::read_to_string(root.join("vnfd-mutants.jsonl")).unwrap();
    let (mut same, mut all, mut missed, mut stricter) = (0, 0, 0, BTreeMap::<String, u32>::new());
    for line in text.lines() {
        let it: serde_json::Value = serde_json::from_str(line).unwrap();
        let detail = it["detail"].as_str().unwrap_or_default();
        if detail.contains("helm-chart '") {
            continue;
        }
        let found = lint("vnfd", it["yaml"].as_str().unwrap());
        let refused = it["status"] != 201;
        all += 1;
        if osm_refuses(&found) == refused {
            same += 1;
        } else {
            println!("{} {}: OSM {} {detail}{}", it["repo"], it["mutation"], it["status"], errors(&found));
        }
        if refused && !found.iter().any(|d| d.severity == Severity::Error) {
            missed += 1;
        }
        for d in found.iter().filter(|d| !refused && d.severity == Severity::Error) {
            *stricter.entry(d.code.to_string()).or_default() += 1;
        }
    }
    println!("mutants: {same} of {all} verdicts as OSM's; {missed} that OSM refuses pass here");
    println!("errors here on what OSM accepts: {stricter:?}");
    assert_eq!(missed, 0);
    assert!(same * 100 >= all * 95, "{same} of {all}");
}

/// What the corpus's manifest calls other dialects is refused by name.
#[test]
fn names_the_dialects_it_does_not_read() {
    let Some(root) = corpus() else { return };
    for line in fs::read_to_string(root.join("manifest.tsv")).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let (path, kind, dialect) = (root.join(columns[0]).join(columns[1]), columns[2], columns[3]);
        if dialect == "sol006" || kind.starts_with("package") {
            continue;
        }
        let found = lint(kind, &fs::read_to_string(&path).unwrap());
        assert!(
            found.iter().any(|d| d.code == descriptors::Code::Unsupported),
            "{}: {found:?}",
            path.display()
        );
    }
}

#[test]
fn opens_the_packages() {
    let Some(root) = corpus() else { return };
    for line in fs::read_to_string(root.join("verdicts.tsv")).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let file = root.join(columns[0]).join(columns[1]);
        if !columns[2].starts_with("package:") || !file.is_file() {
            continue;
        }
        let opened = descriptors::package::open(&fs::read(&file).unwrap());
        let outcome = opened.map(|p| p.diagnostics.len()).map_err(|e| e.to_string());
        println!("{}: {outcome:?}", columns[1]);
        // A KNF is refused by its descriptor; everything else that OSM took is opened.
        assert!(outcome.is_ok() || columns[2] == "package:knf", "{outcome:?}");
    }
}
