//! Who built an image, when its provenance is a Sigstore bundle: verified by the contract itself, from what the record
//! and the ledger hold. The keyed bundles are made here; the keyless ones by Python's own library, whose verifier takes
//! them too (`cargo testbed up signing`).
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../../descriptors/descriptors/tests/tools/mod.rs"]
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Chain, World, deploy_intent, nsd, open_policy, sign, signed, vnf, world};
use ledger_contract::{
    history::History,
    intent::{IntentKind, Sensitivity},
    policy::{BuilderRule, OrgPolicy, PolicyData, SignedBuilder},
    records::{ImageRecord, PACKAGE_PAYLOAD, ProvenanceBundle, Verdict},
};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};
use serde_json::{Value, json};
use trust::{Digest, identity::OrgRoot, statement::IN_TOTO_PAYLOAD};

const IMAGE: &[u8] = b"what a vendor builds";
const BUILDER: &str = "https://builder.example/2";
const VENDOR: &str = "vendor";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// An organisation that lists one key, `release`.
fn vendor(seed: u8) -> OrgRoot {
    let pem = key(seed).verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    OrgRoot { keys: BTreeMap::from([("release".to_owned(), pem)]), ..OrgRoot::default() }
}

/// A keyed bundle with SLSA provenance of an image.
fn keyed(seed: u8, image: Digest, builder: &str) -> String {
    let payload = serde_json::to_vec(&json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{ "name": "image", "digest": { "sha256": image.hex() } }],
        "predicate": {
            "buildDefinition": { "buildType": "https://b.example/t", "externalParameters": {},
                "resolvedDependencies": [{ "uri": "git+https://s.example", "digest": { "gitCommit": "00" } }] },
            "runDetails": { "builder": { "id": builder } } },
    }))
    .unwrap();
    let signature: Signature = key(seed).sign(&supply::sigstore::pae(IN_TOTO_PAYLOAD, &payload));
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "release" }, "tlogEntries": [] },
        "dsseEnvelope": { "payload": STANDARD.encode(&payload), "payloadType": IN_TOTO_PAYLOAD,
            "signatures": [{ "sig": STANDARD.encode(signature.to_der().as_bytes()) }] },
    })
    .to_string()
}

fn image(bundle: String) -> ImageRecord {
    let provenance_bundle = Some(ProvenanceBundle { org: VENDOR.into(), bundle });
    ImageRecord {
        digest: Digest::of(IMAGE),
        sbom: Some(Digest::of("sbom")),
        contents: None,
        provenance: None,
        provenance_bundle,
    }
}

/// A ledger that knows the vendor, with a package of that image, and the verdict on deploying it.
struct Case {
    w: World,
    image: ImageRecord,
    sensitivity: Sensitivity,
    rule: Option<BuilderRule>,
    change: fn(&mut PolicyData),
}

impl Case {
    fn new(root: OrgRoot, bundle: String) -> Self {
        let mut w = world();
        w.roots.orgs.insert(VENDOR.into(), root);
        let rule = Some(BuilderRule::Level(3));
        Self { w, image: image(bundle), sensitivity: Sensitivity::Internal, rule, change: |_| () }
    }

    fn keyed() -> Self {
        Self::new(vendor(7), keyed(7, Digest::of(IMAGE), BUILDER))
    }

    fn founded(&self) -> Chain {
        let bundle = open_policy();
        let mut data = bundle.data().unwrap();
        data.builders.extend(self.rule.clone().map(|r| (BUILDER.to_owned(), r)));
        (self.change)(&mut data);
        Chain::founded(&self.w, bundle.with_data(&data))
    }

    fn chain(&self) -> (Chain, Verdict) {
        let mut chain = self.founded();
        let mut vnf = vnf(&self.w, "other_vnf");
        vnf.images = vec![self.image.clone()];
        chain.approve(sign(PACKAGE_PAYLOAD, &vnf, &self.w.provider));
        let mut ns = nsd();
        ns.constituents = [("other_vnf".to_owned(), vnf.digest)].into();
        chain.approve(sign(PACKAGE_PAYLOAD, &ns, &self.w.provider));
        let mut intent = deploy_intent("intent-0001", "edge");
        let IntentKind::Deploy(deploy) = &mut intent.action else { panic!("it deploys") };
        (deploy.nsd_package, deploy.sensitivity) = (ns.digest, self.sensitivity);
        let verdict = chain.submit(signed(&self.w, &intent)).verdict;
        (chain, verdict)
    }

    /// The code of the first refusal, and what the rule on SLSA says.
    fn decided(&self) -> (String, String) {
        let verdict = self.chain().1;
        let slsa = verdict.rules.iter().find(|r| r.rule == "provenance/slsa-level").unwrap();
        (verdict.code().to_owned(), slsa.detail.clone())
    }

    fn code(&self) -> String {
        self.decided().0
    }
}

fn by(signers: &[&str]) -> Option<BuilderRule> {
    let signers = signers.iter().map(|s| (*s).to_owned()).collect();
    Some(BuilderRule::Signed(SignedBuilder { level: 3, signers }))
}

#[test]
fn the_contract_verifies_a_bundle_itself_and_says_who_built() {
    let mut case = Case::keyed();
    let (code, detail) = case.decided();
    assert_eq!(code, "");
    assert!(detail.contains("level 3"), "{detail}");
    assert!(detail.contains("https://builder.example/2 (signed by release@vendor)"), "{detail}");
    // Whose word the policy takes for the builder.
    case.rule = by(&["release@vendor"]);
    assert_eq!(case.code(), "");
    case.rule = by(&["release@other"]);
    assert_eq!(case.code(), "BUILDER_NOT_TRUSTED");
    case.rule = None;
    assert_eq!(case.code(), "BUILDER_NOT_TRUSTED");
    case.rule = Some(BuilderRule::Level(0));
    assert_eq!(case.code(), "SLSA_LEVEL_TOO_LOW");
}

#[test]
fn what_does_not_verify_is_refused_whatever_the_level_asked_for() {
    let image = Digest::of(IMAGE);
    let good = keyed(7, image, BUILDER);
    let mut altered: Value = serde_json::from_str(&good).unwrap();
    let other: Value = serde_json::from_str(&keyed(7, image, "https://better.example")).unwrap();
    altered["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
    let mut unsigned = altered.clone();
    unsigned["dsseEnvelope"]["signatures"] = json!([]);
    for (what, root, bundle) in [
        ("another key", vendor(8), good.clone()),
        ("no key", OrgRoot::default(), good.clone()),
        ("altered", vendor(7), altered.to_string()),
        ("unsigned", vendor(7), unsigned.to_string()),
        ("another image", vendor(7), keyed(7, Digest::of("another"), BUILDER)),
        ("no bundle", vendor(7), "{}".to_owned()),
    ] {
        for sensitivity in [Sensitivity::Public, Sensitivity::Internal] {
            let mut case = Case::new(root.clone(), bundle.clone());
            case.sensitivity = sensitivity;
            assert_eq!(case.code(), "PROVENANCE_INVALID", "{what}, {sensitivity:?}");
        }
    }
    // The organisation of the record counts, and no other that lists the key too.
    let mut case = Case::keyed();
    case.image.provenance_bundle.as_mut().unwrap().org = "prov".into();
    assert_eq!(case.code(), "PROVENANCE_INVALID");
    case.image.provenance_bundle.as_mut().unwrap().org = "nobody".into();
    assert_eq!(case.code(), "PROVENANCE_INVALID");
}

/// A policy that says what each organisation may vouch for, the vendor for one role.
fn vouching(data: &mut PolicyData, vendor: &str) {
    for (org, role) in [("prov", "provider"), ("acme", "tenant"), (VENDOR, vendor)] {
        let tenants = BTreeSet::from(["acme".to_owned()]);
        data.orgs.insert(org.into(), OrgPolicy { roles: BTreeSet::from([role.to_owned()]), tenants });
    }
}

#[test]
fn the_organisation_must_be_let_vouch_for_builders() {
    let mut case = Case::keyed();
    case.change = |d| vouching(d, "builder");
    assert_eq!(case.code(), "");
    case.change = |d| vouching(d, "auditor");
    assert_eq!(case.code(), "PROVENANCE_INVALID");
    case.change = |d| {
        let allowed = BTreeSet::from([BUILDER.to_owned()]);
        d.supply.builders.insert("acme".into(), allowed);
    };
    assert_eq!(case.code(), "");
    case.change = |d| {
        let allowed = BTreeSet::from(["https://other.example".to_owned()]);
        d.supply.builders.insert("acme".into(), allowed);
    };
    assert_eq!(case.code(), "SUPPLIER_NOT_ALLOWED");
}

#[test]
fn two_forms_and_bundles_beyond_the_bound_are_no_record() {
    let refused = |change: fn(&World, &mut ImageRecord)| {
        let case = Case::keyed();
        let mut vnf = vnf(&case.w, "other_vnf");
        vnf.images = vec![case.image.clone()];
        change(&case.w, &mut vnf.images[0]);
        let request = sign(PACKAGE_PAYLOAD, &vnf, &case.w.provider);
        case.founded().refuse(request, "INVALID_PACKAGE").verdict.detail().to_owned()
    };
    let two = refused(|w, i| i.provenance = common::image(w).provenance);
    assert!(two.contains("two forms"), "{two}");
    let large = refused(|_, i| i.provenance_bundle.as_mut().unwrap().bundle = " ".repeat((512 << 10) + 1));
    assert!(large.contains("524289 bytes"), "{large}");
    let name = refused(|_, i| i.provenance_bundle.as_mut().unwrap().org = "../org".into());
    assert!(name.contains("not a name"), "{name}");
}

/// Whoever has the log can check it: it is decided again from its entries alone.
#[test]
fn a_stranger_decides_it_again_and_today_s_keys_count() {
    let case = Case::keyed();
    let (chain, verdict) = case.chain();
    assert!(verdict.approved);
    let mut history = History::default();
    for entry in &chain.entries {
        history.next(entry).unwrap();
    }
    assert_eq!(history.len(), chain.entries.len() as u64);
    // The vendor's key is taken off its organisation: the package that is registered does not pass any more.
    let (mut chain, _) = Case::keyed().chain();
    chain.state.insert("org/vendor".into(), serde_json::to_vec(&OrgRoot::default()).unwrap());
    let mut intent = deploy_intent("intent-0002", "edge-2");
    let IntentKind::Deploy(deploy) = &mut intent.action else { panic!("it deploys") };
    deploy.nsd_package = nsd().digest;
    let again = chain.submit(signed(&case.w, &intent));
    assert_eq!(again.verdict.code(), "PROVENANCE_INVALID");
}

#[test]
fn keyless_bundles_of_python_s_library() {
    let Some((dir, root)) = tools::sigstore_world(IMAGE) else { return };
    let bundle = |name: &str| fs::read_to_string(dir.path().join(format!("{name}.sigstore.json"))).unwrap();
    for (name, builder, signer) in [
        ("slsa1", "https://builder.example/2", "release@vendor.example@vendor"),
        ("slsa02", "https://builder.example/1", "release@vendor.example@vendor"),
        ("slsa1-rekor2", "https://builder.example/1", "release@vendor.example@vendor"),
        ("keyed-slsa1", "https://builder.example/2", "cosign@vendor"),
    ] {
        let mut case = Case::new(root.clone(), bundle(name));
        case.change = |d| {
            let rule = BuilderRule::Level(3);
            d.builders.insert("https://builder.example/1".into(), rule);
        };
        let (code, detail) = case.decided();
        assert_eq!(code, "", "{name}: {detail}");
        assert!(detail.contains(&format!("{builder} (signed by {signer})")), "{name}: {detail}");
        // An identity that the vendor does not list any more.
        let mut less = root.clone();
        less.keys.clear();
        less.sigstore.as_mut().unwrap().identities.clear();
        assert_eq!(Case::new(less, bundle(name)).code(), "PROVENANCE_INVALID", "{name}");
    }
    // It is a signature over the image, and no statement about it.
    assert_eq!(Case::new(root, bundle("message-0.3")).code(), "PROVENANCE_INVALID");
}
