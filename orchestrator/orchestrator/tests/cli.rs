//! The built `mandate`, as its users call it: one home, one orchestrator, real packages, real refusals. Nothing is
//! deployed here (that needs a data plane: the testbed does it).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "common/home.rs"]
mod home;

use std::{collections::BTreeMap, fs, path::Path};

use home::{Home, intent, packed, root};
use serde_json::Value;
use trust::{
    UnixTime,
    issue::{Issued, member},
};

#[test]
fn usage_and_absence_have_their_codes() {
    let h = Home::new();
    assert_eq!(h.code(2, &["frobnicate"]), "USAGE");
    assert_eq!(h.code(2, &["intent", "new", "scale"]), "USAGE");
    assert_eq!(h.code(3, &["ns", "list"]), "SERVE_NOT_RUNNING");
    assert_eq!(h.code(2, &["serve"]), "UNREADABLE");
    assert_eq!(h.code(2, &["evidence", "verify", "/nowhere"]), "UNREADABLE");
    assert_eq!(h.code(2, &["package", "lint", "/nowhere"]), "UNREADABLE");
    assert_eq!(h.code(2, &["init", "--tenant", "Not Legal"]), "BAD_NAME");
    assert_eq!(h.code(2, &["init", "--tpm", "nowhere=device:/dev/tpm0"]), "UNKNOWN_SITE");
    for wrong in [["--site", "x=Germany"], ["--tpm", "edge-a=foo"]] {
        assert_eq!(h.code(2, &[&["init"], &wrong[..]].concat()), "CONFIG", "{wrong:?}");
    }
    assert!(!Path::new(&h.path("home")).exists());
    for wrong in ["mandate", "--help"] {
        let out = h.run(&[wrong]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(!text.contains('\x1b'), "no colour into a pipe: {text}");
    }
    assert!(h.run(&["--version"]).status.success());
    let help = String::from_utf8(h.run(&["--help"]).stdout).unwrap();
    assert!(help.contains("3  `mandate serve` is not reachable"), "{help}");
    assert!(help.contains("A refusal is an answer") && help.contains("--params "), "{help}");
    for package in ["vfw_vnf", "vlb_vnf", "secure_edge_ns"] {
        assert!(help.contains(&format!("mandate package push {package}.tar.gz")), "{help}");
    }
}

#[test]
fn a_group_without_its_command_shows_what_there_is() {
    let h = Home::new();
    let said = |line: &[&str]| {
        let out = h.run(line);
        assert_eq!(out.status.code(), Some(2), "{line:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(said(&[]).contains("Exit codes:"));
    assert!(said(&["ns"]).contains("timeline") && said(&["intent", "new"]).contains("rollback"));
}

#[test]
fn an_intent_that_the_ledger_would_refuse_anyway_is_not_written() {
    let h = Home::new();
    h.json(0, &["init"]);
    let file = h.path("i.json");
    let new = |rest: &[&str]| {
        let line = [&["intent", "new"], rest, &["--service", "edge", "-o", &file]].concat();
        let code = h.code(2, &line);
        assert!(!Path::new(&file).exists(), "{line:?}");
        code
    };
    assert_eq!(new(&["heal"]), "USAGE", "a cause is asked for");
    assert_eq!(new(&["heal", "--cause", " "]), "USAGE");
    assert_eq!(new(&["heal", "--cause", "x", "--target", "//0"]), "USAGE");
    assert_eq!(new(&["isolate", "--reason", ""]), "USAGE");
    assert_eq!(new(&["scale", "--member", "", "--aspect", "a"]), "USAGE");
    assert_eq!(new(&["terminate", "--emergency", ""]), "USAGE");
    assert_eq!(new(&["terminate", "--tenant", ""]), "INVALID_INTENT");
    assert_eq!(new(&["migrate", "--member", "m", "--member", "m"]), "INVALID_INTENT");
    assert_eq!(new(&["terminate", "--depends-on", "i-1", "--depends-on", "i-1"]), "INVALID_INTENT");
    for absurd in [
        ["--throughput-kbps", "18446744073709551615"],
        ["--latency-p95-us", "60000001"],
        ["--loss-ppm", "1000001"],
        ["--max-site-latency-us", "18446744073709551615"],
        ["--lease", "99999d"],
        ["--expires-in", "18446744073709551615s"],
    ] {
        // The NSD is not looked for: nobody serves.
        let line =
            [&["intent", "new", "deploy", "--service", "edge", "--nsd", "x", "-o", &file][..], &absurd];
        let problem = h.json(2, &line.concat());
        assert_eq!(problem["code"], "USAGE", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("at most"), "{problem}");
    }
    assert_eq!(new(&["scale", "--member", "m", "--aspect", "a", "--steps", "4294967295"]), "USAGE");
    for line in [
        &["site", "enrol", "edge-a", "--as", "operator/operator", "--valid-for", "99999d"][..],
        &["standing", "grant", "--tenant", "t", "--action", "heal", "--as", "t/t", "--window", "99999d"],
        &["intent", "watch", "i-00000000", "--timeout", "99999d"],
    ] {
        let problem = h.json(2, line);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("at most 3650d") && detail.contains("99999d"), "{problem}");
    }
    // Nor is it signed, whoever wrote it; and nobody signs twice.
    h.json(0, &["intent", "new", "terminate", "--service", "edge", "-o", &file]);
    let text = fs::read_to_string(&file).unwrap();
    let sign =
        |code: i32, file: &str| h.code(code, &["intent", "sign", file, "--as", "tenant/tenant", "-o", file]);
    fs::write(&file, text.replace("\"edge\"", "\"Edge\"")).unwrap();
    assert_eq!(sign(2, &file), "INVALID_INTENT");
    fs::write(&file, text).unwrap();
    assert_eq!(sign(0, &file), "");
    assert_eq!(sign(2, &file), "SIGNED_BEFORE");
}

#[test]
fn nobody_signs_with_a_certificate_that_does_not_count() {
    let h = Home::new();
    h.json(0, &["init"]);
    let (file, signed, certificate) =
        (h.path("i.json"), h.path("i.dsse"), h.path("home/pki/tenant/tenant.crt"));
    h.json(0, &["intent", "new", "terminate", "--service", "edge", "-o", &file]);
    let good = fs::read_to_string(&certificate).unwrap();
    let ca = |name: &str| fs::read_to_string(h.path(&format!("home/pki/tenant/ca.{name}"))).unwrap();
    let authority = Issued { key_pem: ca("key"), certificate_pem: ca("crt") };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let sign = ["intent", "sign", &file, "--as", "tenant/tenant", "-o", &signed];
    for (from, to, said) in [(now - 7200, now - 3600, "expired"), (now + 3600, now + 7200, "counts from")] {
        let valid = (UnixTime(from), UnixTime(to));
        let other = member(&authority, "tenant", BTreeMap::new(), &[7; 32], &[0x41; 16], valid).unwrap();
        fs::write(&certificate, &other.certificate_pem).unwrap();
        let key = h.path("home/pki/tenant/tenant.key");
        let kept = fs::read_to_string(&key).unwrap();
        fs::write(&key, &other.key_pem).unwrap();
        let problem = h.json(1, &sign);
        assert_eq!(problem["code"], "CERTIFICATE_NOT_VALID", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
        assert!(problem["hint"].as_str().unwrap().contains("sign again"), "{problem}");
        assert!(!Path::new(&signed).exists(), "nothing is written");
        fs::write(&key, kept).unwrap();
    }
    fs::write(&certificate, good).unwrap();
    h.json(0, &sign);
}

#[test]
fn an_error_says_what_where_why_and_next() {
    let h = Home::new();
    let out = h.run(&["ns", "list"]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.stdout.is_empty(), "errors are not answers");
    assert!(text.contains("error: mandate serve is not running (SERVE_NOT_RUNNING)"), "{text}");
    assert!(text.contains("home/run/mandate.sock") && text.contains("\nnext: "), "{text}");
    let coloured = h.run(&["ns", "list", "--color", "always"]);
    assert!(String::from_utf8(coloured.stderr).unwrap().contains("\x1b[31merror\x1b[0m"));
}

#[test]
fn every_refusal_of_an_input_says_what_next() {
    let h = Home::new();
    let plain = h.path("plain.json");
    fs::write(&plain, "{}").unwrap();
    let image = format!("x={plain}");
    let into = h.path("no/where");
    let vfw = root().join("descriptors/packages/vfw_vnf").display().to_string();
    h.json(0, &["init"]);
    let new = ["intent", "new", "terminate", "--tenant", "tenant", "--service"];
    let change = h.path("change.json");
    h.json(
        0,
        &["governance", "revoke", "--intent", "i", "--reason", "r", "--as", "tenant/tenant", "-o", &change],
    );
    let empty = h.path("empty.jsonl");
    fs::write(&empty, "").unwrap();
    let lines: [(&str, &[&str]); 15] = [
        ("NOT_A_BUNDLE", &["evidence", "show", &empty]),
        ("NOT_AN_INTENT", &["plan", &plain]),
        ("NOT_AN_INTENT", &["plan", &change]),
        ("USAGE", &["ns", "show", ""]),
        ("USAGE", &["ledger", "proof", "x"]),
        ("USAGE", &["ns", "list", "--url", "http://h:1", "--client", "tenant/tenant"]),
        ("UNREADABLE", &["evidence", "verify", "/nowhere"]),
        ("UNREADABLE", &["package", "lint", "/nowhere"]),
        ("UNWRITABLE", &[&new[..], &["edge", "-o", &into]].concat()),
        ("BAD_SERVICE", &[&new[..], &["Edge 1"]].concat()),
        ("BAD_NAME", &["--home", &h.path("other"), "init", "--tenant", "Not Legal"]),
        ("UNKNOWN_SITE", &["--home", &h.path("other"), "init", "--tpm", "x=device:/dev/tpm0"]),
        ("TRUST_ROOTS", &["evidence", "verify", &plain, "--trust", &plain]),
        ("NOT_A_BUNDLE", &["evidence", "verify", &plain]),
        (
            "SBOM",
            &[
                "package",
                "pack",
                &vfw,
                "--image",
                &image,
                "--lockfile",
                &plain,
                "--root-package",
                "x",
                "--builder",
                "provider/builder",
                "-o",
                &into,
            ],
        ),
    ];
    for (code, line) in lines {
        let problem = h.json(2, line);
        assert_eq!(problem["code"], code, "{problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }
}

#[test]
fn evidence_that_does_not_verify_names_the_trust_roots() {
    let h = Home::new();
    h.json(0, &["init"]);
    let statement = br#"{"_type":"x","subject":[],"predicateType":"https://mandate.dev/evidence/step/v1","predicate":{}}"#;
    let signature = trust::dsse::Signature { sig: b"none".to_vec(), certificate: b"none".to_vec() };
    let line = trust::Envelope {
        payload_type: "application/vnd.in-toto+json".into(),
        payload: statement.to_vec(),
        signatures: vec![signature],
    };
    let (file, other) = (h.path("changed.jsonl"), h.path("home/trust.json"));
    // Its receipt is damaged, so nothing in it verifies; a bundle it was.
    fs::write(&file, [line.to_json(), b"\n{\n".to_vec()].concat()).unwrap();
    let problem = h.json(1, &["evidence", "verify", &file]);
    assert_eq!(problem["code"], "BUNDLE_INVALID");
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains(&other) && hint.contains("--trust"), "{hint}");
}

#[test]
fn completions_and_manual_pages() {
    let h = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let out = h.run(&["completions", shell]);
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("evidence"), "{shell}");
    }
    let made = h.json(0, &["man", &h.path("man")]);
    assert!(made["pages"].as_u64().unwrap() > 20, "{made}");
    assert!(fs::read_to_string(h.path("man/mandate-intent-new-deploy.1")).unwrap().contains("jurisdiction"));
}

#[test]
fn lint_names_place_and_verdict() {
    let h = Home::new();
    for name in ["vfw_vnf", "vlb_vnf", "secure_edge_ns"] {
        let path = root().join("descriptors/packages").join(name).display().to_string();
        assert_eq!(h.json(0, &["package", "lint", &path])["verdict"], "accept", "{name}");
    }
    let good =
        fs::read_to_string(root().join("descriptors/packages/secure_edge_ns/secure_edge_nsd.yaml")).unwrap();
    let bad = h.path("bad.yaml");
    fs::write(&bad, good.replacen("virtual-link-desc: client_side", "virtual-link-desc: nowhere", 1))
        .unwrap();
    let found = h.json(1, &["package", "lint", &bad]);
    assert_eq!((found["verdict"].as_str(), found["dialect"].as_str()), (Some("reject"), Some("sol006-nsd")));
    let first = &found["diagnostics"][0];
    let keys: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "column", "hint", "line", "message", "path", "severity"]);
    assert_eq!(found.as_object().unwrap().len(), 3, "{found}");
    assert!(first["line"].as_u64().unwrap() > 1 && first["code"] == "DANGLING_REFERENCE", "{first}");
    let text = String::from_utf8(h.run(&["package", "lint", &bad]).stdout).unwrap();
    assert!(text.contains("bad.yaml:") && text.contains("rejected: sol006-nsd"), "{text}");
    assert!(!text.contains('\x1b'), "no colour into a pipe: {text}");
    let coloured = h.run(&["--color", "always", "package", "lint", &bad]).stdout;
    assert!(String::from_utf8(coloured).unwrap().contains("\x1b["));
}

/// Whatever can be read has a verdict; what cannot, has none.
#[test]
fn lint_has_a_verdict_on_whatever_can_be_read() {
    let h = Home::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = h.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let rejected = |path: &str, code: &str| {
        let found = h.json(1, &["package", "lint", path]);
        assert_eq!(found["diagnostics"][0]["code"], code, "{found}");
    };
    rejected(&file("binary", &[0xff; 64]), "YAML_SYNTAX");
    rejected(&file("empty.yaml", b""), "WRONG_TYPE");
    rejected(&file("huge.yaml", &vec![b'a'; 4 << 20]), "YAML_BOUNDS");
    rejected(&file("damaged.tar.gz", b"\x1f\x8b\x08 no gzip"), "ARCHIVE");
    let missing = b"vnfd: {id: x, mgmt-cp: m, vdu: [{id: v, cloud-init-file: none.cfg}], df: [{id: d}]}";
    let found = h.json(1, &["package", "lint", &file("missing.yaml", missing)]);
    assert!(found["diagnostics"].as_array().unwrap().iter().any(|d| d["code"] == "FILE"), "{found}");
    let linked = h.path("linked");
    fs::create_dir(&linked).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", format!("{linked}/passwd")).unwrap();
    rejected(&linked, "ARCHIVE");
    assert_eq!(h.code(2, &["package", "lint", "/dev/zero"]), "UNREADABLE");
    let knf = b"vnfd: {id: k, kdu: [{name: a, helm-chart: stable/a}], df: [{id: d}]}";
    let found = h.json(0, &["package", "lint", &file("knf.yaml", knf)]);
    assert_eq!((&found["verdict"], &found["dialect"]), (&"accept".into(), &"sol006-knf".into()));
}

#[test]
fn from_init_to_refusals_on_the_ledger() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: `mandate serve` opens host sites, which needs root; run this test as root");
        return;
    }
    let h = Home::new();
    let made = h.json(0, &["init", "--tenant", "acme", "--tenant", "globex"]);
    assert_eq!(h.code(1, &["init"]), "HOME_EXISTS");
    let serve = h.serve();
    let packages = ["vfw_vnf", "vlb_vnf", "secure_edge_ns"].map(|p| packed(&h, p));
    for package in &packages {
        let pushed = h.json(0, &["package", "push", package, "--as", "provider/provider"]);
        assert_eq!(pushed["verdict"]["approved"], true, "{pushed}");
    }
    assert_eq!(h.json(0, &["package", "list"]).as_array().unwrap().len(), 3);
    refused_packages(&h, &packages[0]);
    refused_intents(&h);
    looked_at(&h, &made);
    drop(serve);
    assert_eq!(h.code(3, &["ns", "list"]), "SERVE_NOT_RUNNING");
}

fn refused_packages(h: &Home, package: &str) {
    assert_eq!(h.json(1, &["package", "push", package, "--as", "acme/tenant"])["verdict"]["approved"], false);
    assert_eq!(h.code(2, &["package", "push", package, "--as", "nobody/here"]), "UNREADABLE");
    let unsigned = h.json(1, &["package", "verify", &h.path("vfw_vnf.plain.tar.gz")]);
    assert!(unsigned["hint"].as_str().unwrap().contains("mandate package sign"), "{unsigned}");
    let mut bytes = fs::read(package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = h.path("changed.tar.gz");
    fs::write(&changed, bytes).unwrap();
    assert!(h.code(1, &["package", "verify", &changed]).starts_with("PACKAGE_"));
    assert!(h.code(1, &["package", "push", &changed, "--as", "provider/provider"]).starts_with("PACKAGE_"));
}

fn refused_intents(h: &Home) {
    let deploy = ["deploy", "--service", "edge", "--nsd", "secure_edge_ns", "--tenant", "acme"];
    assert_eq!(h.code(2, &["intent", "new", "terminate", "--service", "edge"]), "TENANT");
    assert_eq!(
        h.code(2, &["intent", "new", "deploy", "--service", "e", "--nsd", "x", "--tenant", "acme"]),
        "NOT_FOUND"
    );
    let theirs = intent(h, "theirs.json", "globex/tenant", &deploy);
    let answer = h.json(1, &["intent", "submit", &theirs]);
    assert_eq!(answer["verdict"]["approved"], false);
    assert!(answer["position"].is_u64(), "a refusal is on the ledger too: {answer}");
    // Who may not ask takes no id: the tenant can still use it.
    assert_eq!(h.code(2, &["intent", "status", answer["id"].as_str().unwrap()]), "NOT_FOUND");
    let long = intent(h, "long.json", "acme/tenant", &[&deploy[..], &["--lease", "3650d"]].concat());
    let text = String::from_utf8(h.run(&["intent", "submit", &long]).stdout).unwrap();
    assert!(text.contains("no  compliance/lease") && text.contains("\nrefused "), "{text}");
    assert!(text.contains("\nnext: ask again with a shorter --lease"), "{text}");
    let again = h.json(1, &["intent", "submit", &long]);
    assert_eq!(
        (&answer["decided_before"], &again["decided_before"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    let said = String::from_utf8(h.run(&["intent", "submit", &long]).stderr).unwrap();
    assert!(said.contains("decided before") && said.contains(&again["position"].to_string()), "{said}");
    let id = again["id"].as_str().unwrap();
    assert_eq!(h.json(0, &["intent", "status", id])["verdict"], again["verdict"]);
    assert_eq!(h.json(1, &["intent", "watch", id])["verdict"], again["verdict"]);
    assert_eq!(h.code(2, &["intent", "submit", &h.path("long.json")]), "NOT_AN_ENVELOPE");
    assert_eq!(h.code(2, &["intent", "status", "i-nothing-like-it"]), "NOT_FOUND");
    assert_eq!(h.json(0, &["intent", "list"]).as_array().unwrap().len(), 1);
}

fn looked_at(h: &Home, made: &Value) {
    let sites = h.json(0, &["status"])["components"].as_array().unwrap().clone();
    let site = sites.iter().find(|c| c["name"].as_str().unwrap().starts_with("site/")).unwrap();
    assert_eq!((&site["ready"], &site["optional"]), (&Value::Bool(false), &Value::Bool(true)), "{site}");
    let detail = site["detail"].as_str().unwrap();
    assert!(detail.contains("attestation is not possible") && detail.contains("[site.host.tpm]"), "{detail}");
    let drift = h.json(0, &["drift", "list"]);
    assert!(drift["findings"].is_object() && drift["mitigations"] == serde_json::json!([]), "{drift}");
    let text = String::from_utf8(h.run(&["drift", "list"]).stdout).unwrap();
    assert!(text.contains("nothing was done about drift"), "{text}");
    assert_eq!(h.code(2, &["drift", "show", "tenant/none"]), "NOT_FOUND");
    assert_eq!(h.json(0, &["site", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(h.code(2, &["serve"]), "IN_USE");
    assert_eq!(h.code(1, &["site", "enrol", "edge-a", "--as", "operator/operator"]), "NO_TPM");
    let first = h.run(&["ledger", "log", "--limit", "2"]);
    assert!(String::from_utf8(first.stderr).unwrap().contains(" more: --from 2"));
    assert_eq!(h.json(0, &["ns", "list", "--all"]), serde_json::json!([]));
    let entries = h.json(0, &["ledger", "log"]);
    let positions: Vec<_> =
        entries.as_array().unwrap().iter().map(|e| e["position"].as_u64().unwrap()).collect();
    assert!(positions.len() >= 7 && positions.iter().zip(0..).all(|(p, n)| *p == n), "{positions:?}");
    assert_eq!(h.json(0, &["ledger", "head"])["origin"], made["ledger"]);
    let last = (positions.len() - 1).to_string();
    assert_eq!(h.json(0, &["ledger", "proof", &last])["verified"], true);
    assert_eq!(h.code(2, &["ledger", "proof", "9999"]), "NOT_FOUND");
    // A stranger's trust roots prove nothing.
    let other = Home::new();
    other.json(0, &["init"]);
    let strange = other.path("home/trust.json");
    assert_eq!(h.code(1, &["ledger", "proof", &last, "--trust", &strange]), "CHECKPOINT_SIGNATURE");
    assert_eq!(h.code(1, &["ledger", "head", "--trust", &strange]), "CHECKPOINT_SIGNATURE");
    let nothing = h.path("nothing.jsonl");
    fs::write(&nothing, "{}\n").unwrap();
    assert_eq!(h.code(2, &["evidence", "verify", &nothing]), "NOT_A_BUNDLE");
    assert_eq!(h.code(2, &["evidence", "show", &nothing]), "NOT_A_BUNDLE");
    for line in [["evidence", "export", "edge-1"], ["ns", "show", "edge-1"]] {
        let problem = h.json(2, &line);
        assert_eq!(problem["code"], "NOT_FOUND");
        assert!(problem["hint"].as_str().unwrap().contains("TENANT/SERVICE"), "{problem}");
    }
    // A refused intent is in the log, and no approval.
    let file = h.path("no.approval.json");
    let refused = h.json(0, &["intent", "list"])[0]["position"].to_string();
    assert_eq!(h.code(2, &["approval", "export", &refused, "-o", &file]), "NOT_AN_INTENT");
    assert_eq!(h.code(2, &["approval", "export", "0", "-o", &file]), "NOT_AN_INTENT");
    fs::write(&file, h.json(0, &["ledger", "proof", &refused])["proven"].to_string()).unwrap();
    assert_eq!(h.code(1, &["approval", "verify", &file]), "NOT_APPROVED");
    assert_eq!(h.code(1, &["approval", "deliver", &file]), "NOT_APPROVED");
}
