//! The OSM corpus beside the checkout (`../shared/corpus`): descriptors from public repositories and mutants of them,
//! with what a real OSM northbound interface answered. Says how often we agree; skips loudly without it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use descriptors::{Diagnostic, Severity, dir, lint};

fn corpus() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    if path.join("verdicts.tsv").is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: no corpus at {}; put it there to see the agreement with OSM", path.display());
    None
}

/// What we think OSM does.
fn osm_refuses(found: &[Diagnostic]) -> bool {
    found.iter().any(|d| d.refused_by_osm && d.severity == Severity::Error)
}

fn errors(found: &[Diagnostic]) -> String {
    found.iter().filter(|d| d.severity == Severity::Error).map(|d| format!("\n    {d}")).collect()
}

/// Every verdict is OSM's: what it refused is refused, and no descriptor of the real world that it took is.
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
        let file = root.join(repo).join(path);
        // OSM was given the descriptor with what stands beside it: most repositories lack its cloud-init files.
        let it = lint::bytes(&fs::read(&file).unwrap(), path, Some(&dir::beside(&file)));
        let refused = status != "201";
        all += 1;
        if it.is_accepted() != refused && osm_refuses(&it.diagnostics) == refused {
            same += 1;
        } else {
            println!("{repo}/{path}: OSM {status} {detail}{}", errors(&it.diagnostics));
        }
        let dialect = it.dialect.unwrap().to_string();
        assert_eq!(dialect, format!("sol006-{kind}"), "{path}");
    }
    println!("descriptors: {same} of {all} verdicts as OSM's");
    assert_eq!(same, all);
}

/// Mutants whose recorded answer is an error of OSM's own, all explained in
/// `docs/adr/0011-where-osm-is-not-followed.md`: what was changed, and whether OSM refused it.
const OSM_ERRS: [(&str, bool); 2] = [
    ("leaf->garbage-string /vnfd/virtual-compute-desc/0/virtual-cpu/num-virtual-cpu", false),
    ("leaf->negative /vnfd/df/0/instantiation-level/0/vdu-level/0/vdu-id", true),
];

#[test]
fn refuses_every_mutant_that_osm_refuses() {
    let Some(root) = corpus() else { return };
    let text = fs::read_to_string(root.join("vnfd-mutants.jsonl")).unwrap();
    let (mut same, mut all, mut stricter) = (0, 0, BTreeMap::<String, u32>::new());
    let (mut missed, mut differ) = (Vec::new(), BTreeSet::new());
    for line in text.lines() {
        let it: serde_json::Value = serde_json::from_str(line).unwrap();
        let (mutation, detail) =
            (it["mutation"].as_str().unwrap(), it["detail"].as_str().unwrap_or_default());
        let found = lint::bytes(it["yaml"].as_str().unwrap().as_bytes(), "d", None);
        let refused = it["status"] != 201;
        all += 1;
        if osm_refuses(&found.diagnostics) == refused {
            same += 1;
        } else {
            differ.insert((mutation.to_owned(), refused));
            println!(
                "{} {mutation}: OSM {} {detail}{}",
                it["repo"],
                it["status"],
                errors(&found.diagnostics)
            );
        }
        if refused && found.is_accepted() {
            missed.push(mutation.to_owned());
        }
        assert!(mutation != "unmutated" || refused || found.is_accepted(), "{}", errors(&found.diagnostics));
        for d in found.diagnostics.iter().filter(|d| !refused && d.severity == Severity::Error) {
            *stricter.entry(d.code.to_string()).or_default() += 1;
        }
    }
    println!("mutants: {same} of {all} verdicts as OSM's; that OSM refuses and we do not: {missed:?}");
    println!("errors here on what OSM accepts: {stricter:?}");
    assert_eq!(missed, Vec::<String>::new());
    // One mutation stands for the descriptors it was made in: the same number is refused differently.
    assert_eq!(differ, OSM_ERRS.map(|(m, refused)| (m.to_owned(), refused)).into());
    assert_eq!(all - same, OSM_ERRS.len(), "{same} of {all}");
}

/// What the corpus's manifest calls other dialects is refused by name.
#[test]
fn names_the_dialects_it_does_not_read() {
    let Some(root) = corpus() else { return };
    for line in fs::read_to_string(root.join("manifest.tsv")).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let (path, kind, dialect) = (root.join(columns[0]).join(columns[1]), columns[2], columns[3]);
        if dialect == "sol006" || !path.is_file() {
            continue;
        }
        let expected = match (kind.trim_start_matches("package:"), dialect) {
            (_, "osm-nst") => "osm-nst".to_owned(),
            (kind, dialect) => format!("{dialect}-{kind}"),
        };
        let found = lint::bytes(&fs::read(&path).unwrap(), columns[1], None);
        let name = found.dialect.map(|d| d.to_string());
        assert_eq!(name.as_deref(), Some(expected.as_str()), "{}: {found:?}", path.display());
        assert!(!found.is_accepted(), "{}", path.display());
    }
}

#[test]
fn opens_the_packages() {
    let Some(root) = corpus() else { return };
    for line in fs::read_to_string(root.join("verdicts.tsv")).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let file = root.join(columns[0]).join(columns[1]);
        if !columns[2].starts_with("package:") {
            continue;
        }
        if !file.is_file() {
            println!("SKIPPED {}: the corpus has its descriptor only", columns[1]);
            continue;
        }
        let bytes = fs::read(&file).unwrap();
        let found = lint::bytes(&bytes, columns[1], None);
        assert!(found.is_accepted(), "{}: {}", columns[1], errors(&found.diagnostics));
        let knf = columns[2] == "package:knf";
        println!("{}: {} findings", columns[1], found.diagnostics.len());
        // Every one of them is opened but a KNF, which Mandate does not deploy.
        assert_eq!(descriptors::package::open(&bytes).is_ok(), !knf, "{}", columns[1]);
        assert_eq!(found.is_deployable(), !knf);
    }
}
