//! The gate's commands against a running `mandate serve`: a bundle's tests, a change of the policy with its signatures,
//! what is decided under it and acted on, explanations, replay, organisations, standing grants and taking back.
//! The rules themselves: `ledger-contract`'s tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "common/home.rs"]
mod home;

use std::{
    fs,
    time::{Duration, Instant},
};

use home::{Home, intent, packed, root};
use serde_json::Value;

const CLOSED_LIMIT: Duration = Duration::from_secs(30);
const OPERATOR: &str = "operator/operator";
const AUDITOR: &str = "auditor/auditor";

/// A signed change in a file of its own.
fn change(h: &Home, file: &str, arguments: &[&str]) -> String {
    let file = h.path(file);
    let made = h.json(0, &[arguments, &["--reason", "the auditors asked", "-o", &file]].concat());
    assert!(made["id"].is_string() && made["file"] == file.as_str(), "{made}");
    file
}

fn cosign(h: &Home, file: &str, who: &str, signers: &[&str]) {
    assert_eq!(h.json(0, &["cosign", file, "--as", who])["signers"], serde_json::json!(signers));
}

/// What the ledger said: the code, empty when approved.
fn submitted(h: &Home, file: &str) -> String {
    let out = h.run(&["governance", "submit", file, "--json"]);
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    let approved = answer["verdict"]["approved"] == true;
    assert_eq!(out.status.code(), Some(i32::from(!approved)), "{answer}");
    let rules = answer["verdict"]["rules"].as_array().unwrap();
    let refused = rules.iter().find(|r| r["passed"] == false);
    refused.map(|r| r["code"].as_str().unwrap().to_owned()).unwrap_or_default()
}

fn deploy(h: &Home, file: &str, tenant: &str, lease: &str) -> String {
    let arguments = ["deploy", "--service", "edge", "--nsd", "secure_edge_ns", "--tenant", tenant];
    let signer = format!("{tenant}/tenant");
    intent(h, file, &signer, &[&arguments[..], &["--lease", lease]].concat())
}

/// A directory with the bundle in force.
fn bundle(h: &Home) -> String {
    let dir = h.path("bundle");
    fs::create_dir_all(&dir).unwrap();
    let shown = h.json(0, &["policy", "show"]);
    for (name, text) in shown["files"].as_object().unwrap() {
        fs::write(format!("{dir}/{name}"), text.as_str().unwrap()).unwrap();
    }
    assert_eq!(h.json(0, &["policy", "test", &dir])["bundle"], shown["digest"]);
    dir
}

#[test]
fn nothing_is_asked_of_the_ledger_that_cannot_be() {
    let h = Home::new();
    h.json(0, &["init"]);
    let (empty, into) = (h.path("empty"), h.path("into"));
    fs::create_dir_all(&empty).unwrap();
    let other = h.path("other.json");
    fs::write(&other, "{\"ca\": [\"no certificate\"]}").unwrap();
    let as_operator = ["--as", OPERATOR, "-o", &into];
    let with = |line: &[&'static str]| line.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let organisation =
        [with(&["governance", "organisation", "acme", "--reason", "x", "--root"]), vec![other]];
    let cases = [
        (2, "UNREADABLE", with(&["policy", "test", "/nowhere"])),
        (2, "USAGE", with(&["policy", "test", "--active", "/nowhere"])),
        (2, "UNREADABLE", with(&["policy", "propose", "/nowhere", "--reason", "x"])),
        (2, "USAGE", with(&["policy", "propose", "/nowhere", "--reason", " "])),
        (2, "ORG_ROOT", organisation.concat()),
        (2, "USAGE", with(&["governance", "organisation", "acme", "--reason", "x"])),
        (2, "USAGE", with(&["governance", "revoke", "--reason", "x"])),
        (2, "USAGE", with(&["governance", "revoke", "--package", "zzz", "--reason", "x"])),
        (2, "USAGE", with(&["standing", "grant", "--tenant", "tenant", "--action", "scale"])),
        (
            2,
            "USAGE",
            with(&["standing", "grant", "--tenant", "tenant", "--action", "heal", "--window", "60"]),
        ),
    ];
    for (exit, code, line) in cases {
        let mut line: Vec<&str> = line.iter().map(String::as_str).collect();
        if line[1] != "test" {
            line.extend(as_operator);
        }
        assert_eq!(h.code(exit, &line), code, "{line:?}");
    }
    assert_eq!(h.code(1, &["policy", "test", &empty]), "POLICY_ERROR");
    assert!(!fs::exists(&into).unwrap(), "what is wrong is not written");
    for line in [vec!["policy", "show"], vec!["policy", "replay"], vec!["standing", "list"]] {
        assert_eq!(h.code(3, &line), "SERVE_NOT_RUNNING");
    }
    let plain = root().join("Cargo.toml").display().to_string();
    assert_eq!(h.code(2, &["governance", "submit", &plain]), "NOT_AN_ENVELOPE");
    assert_eq!(h.code(2, &["cosign", &plain, "--as", OPERATOR]), "NOT_AN_ENVELOPE");
}

#[test]
fn the_gate_from_one_policy_to_the_next() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: `mandate serve` opens host sites, which needs root; run this test as root");
        return;
    }
    let h = Home::new();
    h.json(0, &["init", "--tenant", "acme", "--tenant", "globex"]);
    let serve = h.serve();
    for package in ["vfw_vnf", "vlb_vnf", "secure_edge_ns"].map(|p| packed(&h, p)) {
        h.json(0, &["package", "push", &package, "--as", "provider/provider"]);
    }
    policy_changes(&h);
    decided_under_it(&h);
    organisations(&h);
    standing(&h);
    explained(&h);
    carried(&h);
    taken_back(&h);
    let entries = h.json(0, &["ledger", "log", "--limit", "500"]).as_array().unwrap().len();
    // The orchestrator anchors evidence meanwhile: at least what was there.
    let replayed = h.json(0, &["policy", "replay"]);
    assert!(replayed["agrees"] == true && replayed["entries"].as_u64() >= u64::try_from(entries).ok());
    drop(serve);
    assert_eq!(h.code(3, &["policy", "replay"]), "SERVE_NOT_RUNNING");
}

fn policy_changes(h: &Home) {
    assert_eq!(h.json(0, &["policy", "test"])["failed"], 0);
    let dir = bundle(h);
    let propose = ["policy", "propose", &dir, "--as", OPERATOR];
    assert_eq!(h.code(1, &[&propose[..], &["--reason", "x"]].concat()), "POLICY_UNCHANGED");
    let data = fs::read_to_string(format!("{dir}/data.json")).unwrap();
    let shorter = data.replace("\"internal\": 2592000", "\"internal\": 1800");
    assert_ne!(data, shorter);
    fs::write(format!("{dir}/data.json"), shorter).unwrap();
    let tests = fs::read_to_string(format!("{dir}/tenant_test.rego")).unwrap();
    fs::write(format!("{dir}/tenant_test.rego"), format!("{tests}\ntest_that_fails if 1 == 2\n")).unwrap();
    assert_eq!(h.json(1, &["policy", "test", &dir])["failed"], 1);
    assert_eq!(h.code(1, &[&propose[..], &["--reason", "x"]].concat()), "POLICY_TESTS_FAILED");
    fs::write(format!("{dir}/tenant_test.rego"), tests).unwrap();

    let before = h.json(0, &["policy", "show"])["digest"].clone();
    let file = change(h, "policy.dsse", &propose);
    let late = change(h, "late.dsse", &[&propose[..], &["--expires-in", "1s"]].concat());
    assert_eq!(submitted(h, &file), "SIGNATURES_TOO_FEW");
    assert_eq!(h.code(2, &["cosign", &file, "--as", OPERATOR]), "SIGNED_BEFORE");
    let wrong = h.path("wrong.dsse");
    h.json(0, &["cosign", &file, "--as", "acme/tenant", "-o", &wrong]);
    assert_eq!(submitted(h, &wrong), "SIGNATURES_TOO_FEW", "a tenant is not asked");
    assert_eq!(h.json(0, &["policy", "show"])["digest"], before);
    cosign(h, &file, AUDITOR, &[OPERATOR, AUDITOR]);
    assert_eq!(submitted(h, &file), "");
    let again = h.json(0, &["governance", "submit", &file]);
    assert_eq!(again["decided_before"], true, "{again}");
    let after = h.json(0, &["policy", "show"])["digest"].clone();
    assert_eq!(after, h.json(0, &["policy", "test", &dir])["bundle"]);
    assert_ne!(after, before);
    std::thread::sleep(Duration::from_secs(2));
    cosign(h, &late, AUDITOR, &[OPERATOR, AUDITOR]);
    assert_eq!(submitted(h, &late), "EXPIRED");
}

/// The new bundle decides, says by which line, and the orchestrator follows what it approves.
fn decided_under_it(h: &Home) {
    let long = deploy(h, "long.json", "acme", "1h");
    let refused = h.json(1, &["intent", "submit", &long]);
    let id = refused["id"].as_str().unwrap();
    let why = h.json(0, &["policy", "show", "--why", id]);
    assert_eq!((&why["approved"], &why["policy"]), (&Value::Bool(false), &refused["verdict"]["policy"]));
    let rules = why["rules"].as_array().unwrap();
    let lease = rules.iter().find(|r| r["rule"] == "compliance/lease").unwrap();
    assert_eq!(lease["code"], "LEASE_TOO_LONG");
    assert!(lease["data"][0][1].as_str().unwrap().contains("\"internal\": 1800"), "{lease}");
    assert!(lease["change"].as_str().unwrap().contains("--lease"), "{lease}");
    let quota = rules.iter().find(|r| r["rule"] == "quota/vcpus").unwrap();
    assert!(quota["data"][0][1].as_str().unwrap().contains("\"vcpus\": "), "{quota}");
    assert!(why["read"].as_array().unwrap().iter().any(|k| k == "policy/active"));
    assert_eq!(h.code(2, &["policy", "show", "--why", "i-nothing-like-it"]), "NOT_FOUND");

    let short = deploy(h, "short.json", "acme", "20m");
    let approved = h.json(0, &["intent", "submit", &short]);
    assert_eq!(approved["verdict"]["policy"], h.json(0, &["policy", "show"])["digest"]);
    // Its launcher starts nothing, so the deployment is rolled back; what counts here is that it was taken up.
    let id = approved["id"].as_str().unwrap();
    assert_eq!(closed(h, id)["operation"]["state"], "ROLLED_BACK");
    let revoke = ["governance", "revoke", "--intent", id, "--as", "acme/tenant"];
    assert_eq!(submitted(h, &change(h, "ended.dsse", &revoke)), "OPERATION_ENDED");
    assert_eq!(h.code(2, &["governance", "submit", &short]), "NOT_A_CHANGE");
}

fn closed(h: &Home, id: &str) -> Value {
    let since = Instant::now();
    loop {
        let status = h.json(0, &["intent", "status", id]);
        if ["ROLLED_BACK", "COMPLETED", "FAILED"].iter().any(|s| status["operation"]["state"] == *s) {
            return status;
        }
        assert!(since.elapsed() < CLOSED_LIMIT, "never closed: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn organisations(h: &Home) {
    let trust: Value = serde_json::from_str(&fs::read_to_string(h.path("home/trust.json")).unwrap()).unwrap();
    let root = h.path("globex.json");
    fs::write(&root, trust["orgs"]["globex"].to_string()).unwrap();
    let organisation = |name: &str, more: &[&str]| {
        let line = [&["governance", "organisation", name, "--as", OPERATOR], more].concat();
        change(h, "organisation.dsse", &line)
    };
    let left = organisation("globex", &["--leave"]);
    assert_eq!(submitted(h, &left), "SIGNATURES_TOO_FEW");
    cosign(h, &left, AUDITOR, &[OPERATOR, AUDITOR]);
    assert_eq!(submitted(h, &left), "");
    let theirs = deploy(h, "theirs.json", "globex", "20m");
    assert_eq!(h.code(1, &["intent", "submit", &theirs]), "IDENTITY_UNKNOWN_ORG");
    let joins = organisation("globex", &["--root", &root]);
    cosign(h, &joins, AUDITOR, &[OPERATOR, AUDITOR]);
    assert_eq!(submitted(h, &joins), "");
    assert_eq!(h.json(0, &["intent", "submit", &theirs])["verdict"]["approved"], true);
    let operator = organisation("operator", &["--leave"]);
    cosign(h, &operator, AUDITOR, &[OPERATOR, AUDITOR]);
    assert_eq!(submitted(h, &operator), "OPERATOR_LOCKED_OUT");
}

fn standing(h: &Home) {
    assert_eq!(h.json(0, &["standing", "list"]), serde_json::json!([]));
    let grant = |file: &str, tenant: &str| {
        let file = h.path(file);
        let line = ["standing", "grant", "--tenant", tenant, "--action", "heal", "--as", "acme/tenant", "-o"];
        let made = h.json(0, &[&line[..], &[&file]].concat());
        (file, made["id"].as_str().unwrap().to_owned())
    };
    assert_eq!(submitted(h, &grant("theirs.dsse", "globex").0), "TENANT_MISMATCH");
    let (file, id) = grant("grant.dsse", "acme");
    assert_eq!(submitted(h, &file), "");
    let listed = h.json(0, &["standing", "list"]);
    assert_eq!((&listed[0]["grant"]["id"], &listed[0]["revoked"]), (&Value::from(id.as_str()), &Value::Null));
    let revoke = |id: &str, who: &str| {
        submitted(h, &change(h, "revoke.dsse", &["standing", "revoke", id, "--as", who]))
    };
    assert_eq!(revoke("standing-none", "acme/tenant"), "NO_STANDING_GRANT");
    assert_eq!(revoke(&id, "globex/tenant"), "TENANT_MISMATCH");
    assert_eq!(revoke(&id, "acme/tenant"), "");
    assert_eq!(revoke(&id, "acme/tenant"), "REVOKED_BEFORE");
    assert!(h.json(0, &["standing", "list"])[0]["revoked"].is_u64());
    let text = String::from_utf8(h.run(&["standing", "list"]).stdout).unwrap();
    assert!(text.contains(&id) && text.contains("taken back at"), "{text}");
}

/// A rule of an explanation.
fn rule<'a>(why: &'a Value, name: &str) -> &'a Value {
    why["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["rule"] == name)
        .unwrap_or_else(|| panic!("{name}: {why}"))
}

/// Not deployments only: each kind of request, by the lines of the bundle that decided it.
fn explained(h: &Home) {
    let log = h.json(0, &["ledger", "log", "--limit", "500"]);
    let of_kind = |kind: &str| {
        let entries = log.as_array().unwrap().iter();
        let found = entries.filter(|e| e["request"]["payloadType"].as_str().unwrap().contains(kind));
        let found: Vec<_> = found.map(|e| (e["position"].to_string(), payload(e)["id"].clone())).collect();
        assert!(!found.is_empty(), "{kind}");
        found
    };
    let line =
        |why: &Value, name: &str| rule(why, name)["data"][0][1].as_str().unwrap_or_default().to_owned();
    let mut gates = std::collections::BTreeSet::new();
    for (position, id) in of_kind("governance") {
        let why = h.json(0, &["policy", "show", "--why", &position]);
        assert_eq!((&why["request"], why["position"].to_string()), (&Value::from("governance"), position));
        gates.insert(line(&why, "authorization/signatures").trim().to_owned());
        let by_id = h.json(0, &["policy", "show", "--why", id.as_str().unwrap()]);
        assert_eq!(by_id["request"], "governance");
    }
    assert!(gates.iter().any(|g| g.starts_with("\"policy\": {")), "{gates:?}");
    assert!(gates.iter().any(|g| g.starts_with("\"organisation\": {")), "{gates:?}");
    let (position, id) = of_kind("standing-grant").remove(0);
    let why = h.json(0, &["policy", "show", "--why", id.as_str().unwrap()]);
    assert_eq!(why["request"], "standing-grant", "{position}");
    // The change of the policy itself was decided under the bundle before it.
    let changed = log.as_array().unwrap().iter().find(|e| e["event"]["type"] == "policy_changed").unwrap();
    let why = h.json(0, &["policy", "show", "--why", &changed["position"].to_string()]);
    assert_eq!(why["policy"], changed["event"]["before"]);
    // A service that is not there has no sensitivity, and what does not apply went by no line.
    let (plain, signed) = (h.path("end.json"), h.path("end.dsse"));
    h.json(0, &["intent", "new", "terminate", "--service", "edge", "--tenant", "acme", "-o", &plain]);
    h.json(0, &["intent", "sign", &plain, "--as", "acme/tenant", "-o", &signed]);
    let refused = h.json(1, &["intent", "submit", &signed]);
    let why = h.json(0, &["policy", "show", "--why", refused["id"].as_str().unwrap()]);
    assert_eq!(rule(&why, "compliance/state")["code"], "NO_SUCH_SERVICE");
    assert_eq!(rule(&why, "provenance/slsa-level")["data"], serde_json::json!([]));
    let text = String::from_utf8(h.run(&["policy", "show", "--why", refused["id"].as_str().unwrap()]).stdout);
    assert!(text.unwrap().contains("NO_SUCH_SERVICE to change"));
}

fn payload(entry: &Value) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = entry["request"]["payload"].as_str().unwrap();
    serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap()
}

/// An approval that was decided under a later policy verifies from the pins of the founding, far from the ledger.
fn carried(h: &Home) {
    let short = deploy(h, "carried.json", "acme", "20m");
    let approved = h.json(0, &["intent", "submit", &short]);
    let id = approved["id"].as_str().unwrap();
    let file = h.path("approval.json");
    h.json(0, &["approval", "export", id, "-o", &file]);
    let document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(document["constitution"].as_array().unwrap().len(), 4, "genesis, policy, globex twice");
    let verified = h.json(0, &["approval", "verify", &file]);
    assert_eq!((&verified["verified"], &verified["changes_followed"]), (&Value::Bool(true), &Value::from(3)));

    // A stranger has the trust roots of the founding and nothing else.
    let stranger = Home::new();
    fs::create_dir_all(stranger.path("home")).unwrap();
    let trust = h.path("home/trust.json");
    let verify = |file: &str| stranger.code(1, &["approval", "verify", file, "--trust", &trust]);
    assert_eq!(stranger.json(0, &["approval", "verify", &file, "--trust", &trust])["verified"], true);
    let with = |name: &str, change: &dyn Fn(&mut Vec<Value>)| {
        let mut altered = document.clone();
        change(altered["constitution"].as_array_mut().unwrap());
        let path = h.path(name);
        fs::write(&path, altered.to_string()).unwrap();
        path
    };
    // The policy that decided is not the one that was pinned, and nothing says how it came into force.
    let silent = with("silent.json", &|all| all.clear());
    assert_eq!(h.code(1, &["approval", "verify", &silent]), "POLICY_NOT_ACCEPTED");
    // A change that is left out, and one that was altered.
    let gap = with("gap.json", &|all| drop(all.remove(1)));
    assert_eq!(verify(&gap), "POLICY_NOT_ACCEPTED");
    let headless = with("headless.json", &|all| drop(all.remove(0)));
    assert_eq!(verify(&headless), "CONSTITUTION");
    let altered = with("altered.json", &|all| {
        all[1]["entry"] = all[1]["entry"].as_str().unwrap().replace("auditors", "creditors").into();
    });
    assert_eq!(verify(&altered), "INCLUSION");
    closed(h, id);
}

fn taken_back(h: &Home) {
    let packages = h.json(0, &["package", "list"]);
    let nsd = packages.as_array().unwrap().iter().find(|p| p.to_string().contains("secure_edge_ns")).unwrap();
    let digest = nsd["digest"].as_str().unwrap();
    let revoke = |who: &str| {
        submitted(h, &change(h, "package.dsse", &["governance", "revoke", "--package", digest, "--as", who]))
    };
    assert_eq!(revoke("acme/tenant"), "ROLE_NOT_ALLOWED");
    assert_eq!(revoke("provider/provider"), "");
    assert_eq!(revoke(OPERATOR), "REVOKED_BEFORE");
    let late = deploy(h, "revoked.json", "acme", "20m");
    let refused = h.json(1, &["intent", "submit", &late]);
    assert!(refused.to_string().contains("PACKAGE_REVOKED"), "{refused}");
    let key = change(h, "key.dsse", &["governance", "revoke", "--key", "edge-a", "--as", OPERATOR]);
    assert_eq!(submitted(h, &key), "NO_ATTESTATION_KEY");
}
