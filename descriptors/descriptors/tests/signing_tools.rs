//! What Python's own libraries write and sign: Sigstore bundles, in-toto layouts, SBOMs. Accepted as their own
//! verifiers accept it, and refused when anything is wrong, each with its code.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "tools/csar.rs"]
mod csar;
mod tools;

use std::{collections::BTreeMap, fs, path::Path};

use descriptors::{
    layout,
    package::{self, SignatureKind, SignedProvenance},
    sbom,
    sigstore::{self, Bundle, SigstoreError},
};
use tools::{now, python, script};
use trust::{Digest, TrustRoots, identity::OrgRoot};

const ARTIFACT: &[u8] = b"what a vendor delivers";
/// A hash that is no root of a tree, in base64.
const NO_ROOT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

struct Mini {
    dir: tempfile::TempDir,
    roots: TrustRoots,
}

/// A miniature Sigstore over an artifact; `None`: the tools are missing.
fn mini(artifact: &[u8]) -> Option<Mini> {
    let (dir, root) = tools::sigstore_world(artifact)?;
    let mut roots = common::world().roots;
    roots.orgs.insert("vendor".into(), root);
    Some(Mini { dir, roots })
}

impl Mini {
    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(format!("{name}.sigstore.json"))).unwrap()
    }

    fn verify(&self, name: &str) -> Result<sigstore::Claim, SigstoreError> {
        verify(&self.bytes(name), &self.roots)
    }
}

fn verify(bytes: &[u8], roots: &TrustRoots) -> Result<sigstore::Claim, SigstoreError> {
    sigstore::verify_artifact(&Bundle::from_json(bytes)?, ARTIFACT, roots)
}

#[test]
fn bundles_over_files() {
    let Some(mini) = mini(ARTIFACT) else { return };
    for name in ["message-0.1", "message-0.2", "message-0.3", "stamped", "rekor2"] {
        let claim = mini.verify(name).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!((claim.org.as_str(), claim.name.as_str()), ("vendor", "release@vendor.example"));
        assert!(claim.time.is_some_and(|t| t <= now()));
    }
    for name in ["keyed", "keyed-bare"] {
        assert_eq!(mini.verify(name).unwrap().name, "cosign", "{name}");
    }
    for (name, code) in [
        ("bad-no-log", "SIGSTORE_LOG"),
        ("bad-no-time", "SIGSTORE_NO_TIME"),
        ("bad-late", "CERTIFICATE_NOT_VALID"),
        ("bad-other-entry", "SIGSTORE_LOG"),
        ("bad-other-signature", "SIGSTORE_LOG"),
        ("bad-signature", "SIGNATURE_INVALID"),
        ("bad-no-sct", "SIGSTORE_SCT"),
        ("bad-identity", "SIGSTORE_UNKNOWN_IDENTITY"),
        ("bad-chain", "SIGSTORE_BUNDLE"),
        ("bad-key", "SIGSTORE_UNKNOWN_KEY"),
        ("slsa1", "SIGSTORE_OTHER_SUBJECT"),
    ] {
        assert_eq!(mini.verify(name).unwrap_err().code(), code, "{name}");
    }
    // What the bundle says of the log's tree is what the log signed.
    for (field, value) in [("treeSize", "6"), ("logIndex", "3"), ("rootHash", NO_ROOT)] {
        let mut json: serde_json::Value = serde_json::from_slice(&mini.bytes("message-0.3")).unwrap();
        let proof = &mut json["verificationMaterial"]["tlogEntries"][0]["inclusionProof"];
        assert!(proof[field].is_string(), "{field}");
        proof[field] = value.into();
        let found = verify(&serde_json::to_vec(&json).unwrap(), &mini.roots).unwrap_err();
        assert_eq!(found.code(), "SIGSTORE_LOG", "{field}");
    }
    // Version 0.3 without inclusion proof, and two contents of which one is signed.
    let mut json: serde_json::Value = serde_json::from_slice(&mini.bytes("message-0.3")).unwrap();
    let mut both = json.clone();
    both["dsseEnvelope"] =
        serde_json::json!({"payload": "", "payloadType": "t", "signatures": [{"sig": ""}]});
    json["verificationMaterial"]["tlogEntries"][0].as_object_mut().unwrap().remove("inclusionProof");
    for json in [json, both] {
        let found = verify(&serde_json::to_vec(&json).unwrap(), &mini.roots).unwrap_err();
        assert_eq!(found.code(), "SIGSTORE_BUNDLE");
    }
    let bundle = Bundle::from_json(&mini.bytes("message-0.3")).unwrap();
    let other = sigstore::verify_artifact(&bundle, b"another file", &mini.roots).unwrap_err();
    assert_eq!(other.code(), "SIGSTORE_OTHER_SUBJECT");
}

#[test]
fn every_root_is_needed() {
    let Some(mini) = mini(ARTIFACT) else { return };
    for (name, field, code) in [
        ("message-0.3", "tlogs", "SIGSTORE_LOG"),
        ("message-0.3", "certificateAuthorities", "SIGSTORE_NO_TIME"),
        ("stamped", "timestampAuthorities", "SIGSTORE_NO_TIME"),
    ] {
        let mut roots = mini.roots.clone();
        let root = &mut roots.orgs.get_mut("vendor").unwrap().sigstore.as_mut().unwrap().trusted_root;
        root[field] = serde_json::json!([]);
        assert_eq!(verify(&mini.bytes(name), &roots).unwrap_err().code(), code, "{field}");
    }
    // Roots that did not count any more when it was signed.
    for field in ["tlogs", "certificateAuthorities", "ctlogs"] {
        let mut roots = mini.roots.clone();
        let root = &mut roots.orgs.get_mut("vendor").unwrap().sigstore.as_mut().unwrap().trusted_root;
        for it in root[field].as_array_mut().unwrap() {
            let it = if field == "certificateAuthorities" { it } else { &mut it["publicKey"] };
            it["validFor"] =
                serde_json::json!({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"});
        }
        assert!(verify(&mini.bytes("message-0.3"), &roots).is_err(), "{field}");
    }
    // The published roots are read; they vouch for none of this.
    let mut roots = mini.roots.clone();
    let python = python().unwrap();
    let find = "import sigstore._store,pathlib;print(next(pathlib.Path(sigstore._store.__file__).parent.glob('*sigstore.dev/trusted_root.json')).read_text())";
    let text = tools::run(mini.dir.path(), &python, &["-c", find]);
    roots.orgs.get_mut("vendor").unwrap().sigstore.as_mut().unwrap().trusted_root =
        serde_json::from_slice(&text).unwrap();
    assert_eq!(verify(&mini.bytes("message-0.3"), &roots).unwrap_err().code(), "SIGSTORE_LOG");
}

/// Every byte of a bundle with one bit changed: refused, or about the same file by the same signer.
#[test]
fn no_flipped_byte_of_a_bundle_changes_who_signed() {
    let Some(mini) = mini(ARTIFACT) else { return };
    for name in ["stamped", "keyed-bare"] {
        let good = mini.bytes(name);
        let claim = mini.verify(name).unwrap();
        let signed = Bundle::from_json(&good).unwrap();
        for i in 0..good.len() {
            let mut bytes = good.clone();
            bytes[i] ^= 1 << (i % 7);
            // Spaces, hints and the names of fields that can be spared (one of two times) are free; these are not.
            if let Ok(changed) = verify(&bytes, &mini.roots) {
                assert_eq!((&changed.org, &changed.name), (&claim.org, &claim.name), "byte {i}");
                let bundle = Bundle::from_json(&bytes).unwrap();
                assert_eq!(bundle.content.signature(), signed.content.signature(), "byte {i}");
                if name == "stamped" {
                    assert_eq!(bundle.signer, signed.signer, "byte {i}");
                }
            }
        }
    }
}

#[test]
fn bundles_with_provenance() {
    let Some(mini) = mini(csar::IMAGE) else { return };
    for (name, builder) in [
        ("slsa1", "https://builder.example/2"),
        ("slsa02", "https://builder.example/1"),
        ("slsa1-rekor2", "https://builder.example/1"),
        ("keyed-slsa1", "https://builder.example/2"),
    ] {
        let world = common::world();
        let mut files = csar::files(&world);
        files.remove("Files/provenance/mandate-dataplane.slsa.dsse.json").unwrap();
        files.insert("Files/provenance/mandate-dataplane.slsa.sigstore.json".into(), mini.bytes(name));
        let text = csar::manifest(&files);
        let ca = tools::Ca::new(tools::P256);
        let pem = ca.sign(text.as_bytes(), "-binary -certfile inter.pem -outform PEM");
        let mut roots = csar::roots(&world, &ca.text("root.pem"));
        let sigstore = mini.roots.orgs["vendor"].clone();
        roots.orgs.insert("builder-org".into(), sigstore);
        let bytes = csar::csar(&files, &[text.as_bytes(), &pem].concat());
        let verified = package::verify(&bytes, &roots, now()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(verified.images[0].builder, builder, "{name}");
        assert_eq!(verified.images[0].provenance_signer.kind, SignatureKind::Sigstore);
        assert_eq!(verified.images[0].provenance_signer.org, "builder-org");
        let carried = SignedProvenance::Bundle(String::from_utf8(mini.bytes(name)).unwrap());
        assert_eq!(verified.images[0].provenance, carried, "{name}: byte for byte");
    }
}

/// `cosign sign-blob --bundle` over a whole package: in a zip with it, or in a file of its own.
#[test]
fn a_package_with_a_bundle() {
    let world = common::world();
    let packed = package::pack(&common::source("vfw_vnf"), &common::inputs(&world, csar::IMAGE)).unwrap();
    let Some(mini) = mini(&packed) else { return };
    let zip = |bundle: Vec<u8>| {
        csar::zip(&csar::Files::from([
            ("vfw.tar.gz".to_owned(), packed.clone()),
            ("vfw.tar.gz.sigstore.json".to_owned(), bundle),
        ]))
    };
    for name in ["message-0.3", "rekor2", "keyed"] {
        let verified = package::verify(&zip(mini.bytes(name)), &mini.roots, now()).unwrap();
        assert_eq!((verified.signer.org.as_str(), verified.signer.kind), ("vendor", SignatureKind::Sigstore));
        assert_eq!(verified.images.len(), 1);
        let beside = package::verify_with_bundle(&packed, &mini.bytes(name), &mini.roots, now()).unwrap();
        assert_eq!(beside.signer, verified.signer);
    }
    let error = package::verify(&zip(mini.bytes("bad-other-entry")), &mini.roots, now()).unwrap_err();
    assert_eq!(error.code(), "SIGSTORE_LOG");
    let other = package::verify_with_bundle(
        &csar::zip(&csar::files(&world)),
        &mini.bytes("keyed"),
        &mini.roots,
        now(),
    );
    assert_eq!(other.unwrap_err().code(), "SIGSTORE_OTHER_SUBJECT");
}

fn layout_of(dir: &Path, name: &str, roots: &TrustRoots) -> Result<layout::Verified, layout::LayoutError> {
    let mut links = Vec::new();
    for entry in fs::read_dir(dir.join(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "link") {
            links.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    let root = fs::read(dir.join(name).join("root.layout")).unwrap();
    layout::verify(&root, links.iter().map(|(n, b)| (n.as_str(), b.as_slice())), roots, now())
}

#[test]
fn in_toto_layouts() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("image"), csar::IMAGE).unwrap();
    script(&python, dir.path(), tools::LAYOUT_WORLD, "image");
    let mut roots = TrustRoots::default();
    for owner in ["ed25519", "rsa", "ecdsa"] {
        let pem = fs::read_to_string(dir.path().join(format!("owner-{owner}.pem"))).unwrap();
        let root = OrgRoot { keys: BTreeMap::from([("owner".into(), pem)]), ..OrgRoot::default() };
        roots.orgs.insert(owner.into(), root);
    }
    for form in ["metablock", "dsse"] {
        for owner in ["ed25519", "rsa", "ecdsa"] {
            let it = layout_of(dir.path(), &format!("{form}-{owner}"), &roots)
                .unwrap_or_else(|e| panic!("{form} {owner}: {e:?}"));
            assert_eq!(it.org, owner);
            assert_eq!(it.steps_to(&Digest::of(csar::IMAGE)).unwrap(), ["clone", "build"]);
            assert_eq!(it.steps_to(&Digest::of(b"x")).unwrap_err().code(), "LAYOUT_OTHER_PRODUCT");
        }
    }
    for (name, code) in [
        ("bad-expired", "LAYOUT_EXPIRED"),
        ("bad-inspect", "LAYOUT_REFUSED"),
        ("bad-threshold", "LAYOUT_THRESHOLD"),
        ("bad-rule", "LAYOUT_RULE"),
        ("bad-left-over", "LAYOUT_RULE"),
        ("bad-disagree", "LAYOUT_LINKS_DISAGREE"),
        ("bad-stranger", "LAYOUT_NOT_SIGNED"),
    ] {
        assert_eq!(layout_of(dir.path(), name, &roots).unwrap_err().code(), code, "{name}");
    }
    // In a package: the image must be a product of it.
    let world = common::world();
    for (folder, good) in [("dsse-rsa", true), ("bad-rule", false)] {
        let inputs = common::inputs(&world, csar::IMAGE);
        let mut source = common::source("vfw_vnf");
        for entry in fs::read_dir(dir.path().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("in-toto/{}", entry.file_name().to_str().unwrap());
            source.files.insert(name, fs::read(entry.path()).unwrap());
        }
        let signed = package::sign(&package::pack(&source, &inputs).unwrap(), &world.provider).unwrap();
        let mut all = world.roots.clone();
        all.orgs.extend(roots.orgs.clone());
        match package::verify(&signed, &all, common::NOW.min(now())) {
            Ok(it) => assert!(good && it.images[0].steps == ["clone", "build"]),
            Err(e) => assert!(!good && e.code() == "LAYOUT_RULE", "{e:?}"),
        }
    }
}

#[test]
fn sboms_of_every_form() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Digest::of(csar::IMAGE);
    script(&python, dir.path(), tools::SBOM_WORLD, &image.hex());
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let mut seen = Vec::new();
    for name in
        ["cdx-1.5.json", "cdx-1.6.json", "cdx-1.7.json", "spdx-2.3.json", "spdx-2.3.spdx", "spdx-3.0.1.json"]
    {
        let it = sbom::summary(&read(name), &image).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(it.complete, "{name}: {:?}", it.missing);
        assert_eq!(
            it.licences.iter().map(String::as_str).collect::<Vec<_>>(),
            ["GPL-2.0-only", "Zlib"],
            "{name}"
        );
        assert_eq!(it.components.len(), 1, "{name}");
        seen.push(it.components[0].clone());
        assert_eq!(
            sbom::check(&read(name), &Digest::of(b"x")),
            Err(sbom::SbomError::OtherImage(Digest::of(b"x")))
        );
    }
    // The same component, whatever the form: a deny-list needs one entry.
    assert_eq!(seen[0].purl.as_deref(), Some("pkg:deb/debian/zlib1g@1.2.13"));
    assert_eq!(
        seen[0].digests.iter().map(String::as_str).collect::<Vec<_>>(),
        [format!("sha256:{}", "ab".repeat(32))]
    );
    assert!(seen.iter().all(|c| c.id() == seen[0].id() && c.digests == seen[0].digests), "{seen:#?}");
    for (name, word) in [("cdx-1.6.xml", "XML"), ("old-cdx-1.4.json", "1.4"), ("spdx-2.3.yaml", "YAML")] {
        let error = sbom::check(&read(name), &image).unwrap_err().to_string();
        assert!(error.contains(word), "{name}: {error}");
    }
}
