//! Every code of a finding has a minimal input that gives it, where it should, with a hint, and a line in the document.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::{collections::BTreeMap, fs, path::Path};

use descriptors::{Code, Report, Severity, lint};

/// Nothing is said about it.
const GOOD: &str = "\
vnfd:
  id: x
  provider: p
  product-name: x
  version: '1'
  software-version: '1'
  mgmt-cp: m
  vdu:
  - {id: v, name: v, sw-image-desc: i, virtual-compute-desc: c, int-cpd: [{id: e}]}
  virtual-compute-desc: [{id: c}]
  sw-image-desc: [{id: i, name: i, version: '1', min-disk: 1, size: 1, image: i}]
  ext-cpd: [{id: m, int-cpd: {vdu-id: v, cpd: e}}]
  df: [{id: d}]
";

/// Code, severity, what is replaced in [`GOOD`], by what, and the line and column of the finding.
type Case = (Code, Severity, &'static str, &'static str, (u32, u32));

const CASES: [Case; 21] = [
    (Code::YamlSyntax, Severity::Error, "vnfd:", "vnfd: }", (1, 7)),
    (
        Code::YamlBounds,
        Severity::Error,
        "id: x",
        "id: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        (2, 53),
    ),
    (Code::YamlAmbiguous, Severity::Error, "id: x", "id: x\n  id: y", (3, 3)),
    (Code::Unsupported, Severity::Error, "vnfd:", "nst:", (1, 1)),
    (Code::UnknownKey, Severity::Error, "provider", "providr", (3, 3)),
    (Code::WrongType, Severity::Error, "df: [{id: d}]", "df: {id: d}", (13, 7)),
    (Code::BadValue, Severity::Error, "{id: e}", "{id: e, trunk-mode: maybe}", (9, 95)),
    (Code::MissingKey, Severity::Error, "{id: d}", "{description: d}", (13, 8)),
    (Code::Duplicate, Severity::Error, "{id: c}", "{id: c}, {id: c}", (10, 35)),
    (Code::MissingMandatory, Severity::Error, "  mgmt-cp: m\n", "", (2, 3)),
    (Code::DanglingReference, Severity::Error, "mgmt-cp: m", "mgmt-cp: n", (7, 12)),
    (Code::Unused, Severity::Warning, "{id: c}", "{id: c}, {id: spare}", (10, 35)),
    (
        Code::Conflict,
        Severity::Warning,
        "int-cpd: [",
        "cloud-init: a, cloud-init-file: f, int-cpd: [",
        (9, 97),
    ),
    (
        Code::ManagementNetwork,
        Severity::Warning,
        "{id: e}",
        "{id: e, virtual-network-interface-requirement: [{name: e, virtual-interface: {type: SR-IOV}}]}",
        (9, 159),
    ),
    (
        Code::Scaling,
        Severity::Warning,
        "{id: d}",
        "{id: d, scaling-aspect: [{id: s, name: s, max-scale-level: 1}]}",
        (13, 33),
    ),
    (Code::NotDeployable, Severity::Error, "sw-image-desc: i, virtual", "virtual", (9, 5)),
    (
        Code::Ignored,
        Severity::Warning,
        "{id: d}",
        "{id: d, lcm-operations-configuration: {operate-vnf-op-config: {day1-2: [{id: x}]}}}",
        (13, 79),
    ),
    (Code::ForeignAugment, Severity::Warning, "provider: p", "provider: p\n  acme-nfv:turbo: on", (4, 3)),
    (
        Code::Placeholder,
        Severity::Warning,
        "image: i}",
        "image: i, checksum: {algorithm: sha-256, hash: '@sha256:images/i@'}}",
        (11, 119),
    ),
    (
        Code::Day0,
        Severity::Error,
        "int-cpd: [",
        "cloud-init: \"#cloud-config\\nmandate: 1\\n\", int-cpd: [",
        (9, 77),
    ),
    (Code::File, Severity::Error, "int-cpd: [", "cloud-init-file: none, int-cpd: [", (9, 82)),
];

fn judge(text: &str) -> Report {
    lint::bytes(text.as_bytes(), "d", Some(&BTreeMap::from([("cloud_init/f".into(), Vec::new())])))
}

#[test]
fn nothing_is_said_about_a_good_one() {
    assert_eq!(judge(GOOD).diagnostics, []);
}

#[test]
fn every_code_is_given_where_it_should_be() {
    let mut misplaced = Vec::new();
    for (code, severity, from, to, place) in CASES {
        assert!(GOOD.contains(from), "{from}");
        let report = judge(&GOOD.replacen(from, to, 1));
        let found = report.diagnostics.iter().find(|d| d.code == code && d.severity == severity);
        let Some(found) = found else { panic!("{code}: {:?}", report.diagnostics) };
        if (found.line, found.column) != place {
            misplaced.push(format!("{found}, expected at {place:?}"));
        }
        assert!(found.hint.as_ref().is_some_and(|h| !h.is_empty()), "{found}");
        assert_eq!(report.is_accepted(), severity == Severity::Warning, "{found}");
    }
    assert_eq!(misplaced, Vec::<String>::new());
    let damaged = lint::bytes(b"\x1f\x8b", "p", None);
    assert_eq!((damaged.verdict(), damaged.diagnostics[0].code), ("reject", Code::Archive));
}

/// A new code does not compile here before it has its case above, and its line in the document.
#[test]
fn every_code_has_its_case_and_is_documented() {
    let known = |code: Code| match code {
        Code::YamlSyntax | Code::YamlBounds | Code::YamlAmbiguous | Code::Unsupported | Code::UnknownKey => {
            true
        }
        Code::WrongType | Code::BadValue | Code::MissingKey | Code::Duplicate | Code::MissingMandatory => {
            true
        }
        Code::DanglingReference | Code::Unused | Code::Conflict | Code::ManagementNetwork => true,
        Code::NotDeployable | Code::Scaling | Code::Ignored | Code::ForeignAugment | Code::Placeholder => {
            true
        }
        Code::Day0 | Code::File => true,
        Code::Archive => false,
    };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lint.md")).unwrap();
    let documented = |code: Code| text.contains(&format!("\n| `{code}` |"));
    for (code, ..) in CASES {
        assert!(known(code) && documented(code), "{code}");
    }
    let codes: std::collections::BTreeSet<Code> = CASES.iter().map(|c| c.0).collect();
    assert_eq!(codes.len(), CASES.len());
    assert!(documented(Code::Archive));
    assert_eq!(
        text.lines()
            .filter(|l| l.starts_with("| `") && l.contains("` | error")
                || l.starts_with("| `") && l.contains("` | warning"))
            .count(),
        CASES.len() + 1
    );
}

/// Found by fuzzing: a finding repeats the file's own words, which may end the line or steer a terminal.
#[test]
fn a_finding_is_one_line_whatever_the_file_says() {
    for name in ["a\\nb", "a\\x1b[31mb", "a\\u202eb", "a\\u2028b"] {
        let text = format!("\"{name}\": 1\n\"{name}\": 1\n");
        let report = judge(&text);
        let found = report.diagnostics.iter().find(|d| d.code == Code::YamlAmbiguous).unwrap();
        assert!(found.message.starts_with("key `a\\"), "{}", found.message);
        for d in &report.diagnostics {
            let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}');
            assert!(!d.to_string().contains(bad), "{d:?}");
        }
    }
}

#[test]
fn a_misspelt_name_is_recognised() {
    for (from, to, meant) in [
        ("provider", "providr", "provider"),
        ("mgmt-cp: m", "mgmt-cp: M", "m"),
        (
            "{id: e}",
            "{id: e, virtual-network-interface-requirement: [{name: e, virtual-interface: {type: SRIOV}}]}",
            "SR-IOV",
        ),
        ("virtual-compute-desc: c,", "virtual-compute-desk: c,", "virtual-compute-desc"),
        ("vdu-id: v", "vdu-id: w", "v"),
    ] {
        let report = judge(&GOOD.replacen(from, to, 1));
        let hints: Vec<_> = report.diagnostics.iter().filter_map(|d| d.hint.as_deref()).collect();
        assert!(hints.iter().any(|h| h.contains(&format!("did you mean `{meant}`?"))), "{to}: {hints:?}");
    }
}

/// The document of `--json` has exactly these fields.
#[test]
fn the_json_is_as_promised() {
    let report = judge(&GOOD.replacen("provider", "providr", 1));
    let found: serde_json::Value = serde_json::to_value(&report).unwrap();
    assert_eq!(
        found["diagnostics"][1],
        serde_json::json!({
            "severity": "error", "code": "UNKNOWN_KEY", "path": "/vnfd/providr", "line": 3, "column": 3,
            "message": "unknown key `providr`", "hint": "did you mean `provider`?"
        })
    );
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["diagnostics", "dialect", "verdict"]);
    assert_eq!((&found["verdict"], &found["dialect"]), (&"reject".into(), &"sol006-vnfd".into()));
}
