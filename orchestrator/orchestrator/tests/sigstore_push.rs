//! A package that is signed with Sigstore, from the vendor's tools to its record on the ledger: `mandate package push` of a zip with
//! the package and its bundle. What a bundle must hold: the tests of `descriptors` (`tests/signing_tools.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[allow(dead_code, reason = "other tests use what this one does not")]
#[path = "common/home.rs"]
mod home;
#[path = "../../../descriptors/descriptors/tests/tools/mod.rs"]
mod tools;

use std::{
    fs,
    time::{Duration, Instant},
};

use home::{Home, packed};
use serde_json::Value;

/// Longest that a change of the rules takes to be followed.
const FOLLOWED_LIMIT: Duration = Duration::from_secs(20);
const PROVIDER: &str = "provider/provider";

/// A zip of the package and a bundle, as vendors deliver it.
fn zipped(h: &Home, world: &std::path::Path, bundle: &str) -> String {
    let zip = h.path(&format!("{bundle}.zip"));
    let script = "import sys, zipfile\n\
                  z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
                  z.write('artifact', 'vfw.tar.gz')\n\
                  z.write(sys.argv[2], 'vfw.tar.gz.sigstore.json')\n\
                  z.close()";
    let python = tools::python().unwrap();
    tools::run(world, python, &["-c", script, &zip, &format!("{bundle}.sigstore.json")]);
    zip
}

/// The organisation's signers on the ledger, by a change of the rules with its two signatures; and in the client's roots.
fn trusted(h: &Home, root: &trust::identity::OrgRoot) {
    let file = h.path("home/trust.json");
    let mut roots: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let provider = &mut roots["orgs"]["provider"];
    provider["keys"] = serde_json::to_value(&root.keys).unwrap();
    provider["sigstore"] = serde_json::to_value(&root.sigstore).unwrap();
    let (change, with) = (h.path("organisation.dsse"), h.path("provider.json"));
    fs::write(&with, provider.to_string()).unwrap();
    let line =
        ["governance", "organisation", "provider", "--root", &with, "--reason", "they sign with Sigstore"];
    h.json(0, &[&line[..], &["--as", "operator/operator", "-o", &change]].concat());
    h.json(0, &["cosign", &change, "--as", "auditor/auditor"]);
    assert_eq!(h.json(0, &["governance", "submit", &change])["verdict"]["approved"], true);
    fs::write(&file, roots.to_string()).unwrap();
}

#[test]
fn a_package_with_a_sigstore_bundle_is_pushed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: `mandate serve` opens host sites, which needs root; run this test as root");
        return;
    }
    let h = Home::new();
    h.json(0, &["init"]);
    packed(&h, "vfw_vnf");
    // Without a signature of ours: the bundle is the only one.
    let plain = h.path("vfw_vnf.plain.tar.gz");
    let Some((world, root)) = tools::sigstore_world(&fs::read(&plain).unwrap()) else { return };
    let (keyless, keyed) = (zipped(&h, world.path(), "message-0.3"), zipped(&h, world.path(), "keyed"));
    let forged = zipped(&h, world.path(), "bad-other-entry");
    let _serve = h.serve();

    // Nobody trusts the signer yet.
    assert_eq!(h.code(1, &["package", "push", &keyless, "--as", PROVIDER]), "SIGSTORE_UNKNOWN_IDENTITY");
    trusted(&h, &root);
    let verified = h.json(0, &["package", "verify", &keyless]);
    assert_eq!(verified["signer"], "release@vendor.example@provider", "{verified}");
    assert_eq!(h.code(1, &["package", "push", &forged, "--as", PROVIDER]), "SIGSTORE_LOG");
    assert_eq!(h.json(0, &["package", "list"]), serde_json::json!([]), "nothing of a forged one is kept");

    // The orchestrator follows the change of the rules on its own time.
    let since = Instant::now();
    let pushed = loop {
        let out = h.run(&["package", "push", &keyless, "--as", PROVIDER, "--json"]);
        if out.status.success() {
            break serde_json::from_slice::<Value>(&out.stdout).unwrap();
        }
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(since.elapsed() < FOLLOWED_LIMIT, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(
        (&pushed["verdict"]["approved"], &pushed["descriptor_id"]),
        (&Value::Bool(true), &"vfw_vnf".into())
    );
    let listed = h.json(0, &["package", "list"]);
    assert_eq!((&listed[0]["digest"], &listed[0]["registered"]), (&pushed["digest"], &Value::Bool(true)));
    let log = h.json(0, &["ledger", "log"]);
    let entry = log.as_array().unwrap().iter().find(|e| e["position"] == pushed["position"]).unwrap();
    assert_eq!(entry["verdict"]["approved"], true, "{entry}");

    // The same content under another signature of the organisation is another package of the same version.
    let other = h.run(&["package", "push", &keyed, "--as", PROVIDER, "--json"]);
    let answer: Value = serde_json::from_slice(&other.stdout).unwrap();
    assert_ne!(answer["digest"], pushed["digest"]);
}
