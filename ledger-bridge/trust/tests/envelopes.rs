//! Envelopes and identities, end to end: what verifies, and that nothing altered does.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use trust::{
    Envelope, Signer, TrustRoots, UnixTime,
    dsse::DsseError,
    identity::{IdentityError, OrgRoot, Vouches},
    issue::{Issued, ca, member},
};

const FROM: UnixTime = UnixTime(1_700_000_000);
const TO: UnixTime = UnixTime(1_900_000_000);
const NOW: UnixTime = UnixTime(1_800_000_000);

fn org(name: &str, seed: u8) -> (Issued, OrgRoot) {
    let ca = ca(name, &[seed; 32], FROM, TO).unwrap();
    let root = OrgRoot { ca: vec![ca.certificate_pem.clone()], ..OrgRoot::default() };
    (ca, root)
}

fn alice(authority: &Issued) -> Signer {
    let attrs =
        BTreeMap::from([("mandate.role".into(), "tenant".into()), ("mandate.tenant".into(), "acme".into())]);
    let it = member(authority, "alice", attrs, &[9; 32], &[0x10], (FROM, TO)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

fn world() -> (Signer, TrustRoots) {
    let (authority, root) = org("acme", 3);
    let roots = TrustRoots { orgs: BTreeMap::from([("acme".into(), root)]), logs: vec![], channel: None };
    (alice(&authority), roots)
}

#[test]
fn signs_and_says_who() {
    let (signer, roots) = world();
    let envelope = Envelope::sign("text/plain", b"hello".to_vec(), &[&signer]).unwrap();
    let again = Envelope::from_json(&envelope.to_json()).unwrap();
    let verified = again.verify_type("text/plain", &roots, NOW).unwrap();
    assert_eq!(verified.payload, b"hello");
    assert_eq!(verified.signers[0].role(), "tenant");
    assert_eq!(verified.signers[0].tenant(), "acme");
    assert_eq!(verified.signers[0].to_string(), "alice@acme");
}

#[test]
fn every_flipped_bit_is_found() {
    let (signer, roots) = world();
    let bytes = Envelope::sign("text/plain", b"hello".to_vec(), &[&signer]).unwrap().to_json();
    for i in 0..bytes.len() {
        for bit in [0x01, 0x20] {
            let mut changed = bytes.clone();
            changed[i] ^= bit;
            let outcome = Envelope::from_json(&changed).and_then(|e| e.verify(&roots, NOW).map(|_| ()));
            assert!(
                outcome.is_err() || Envelope::from_json(&changed).unwrap().to_json() != changed,
                "byte {i} bit {bit:#x} went unnoticed"
            );
        }
    }
}

#[test]
fn refuses_other_roots_times_and_revoked() {
    let (signer, mut roots) = world();
    let envelope = Envelope::sign("text/plain", b"hello".to_vec(), &[&signer]).unwrap();
    let fails = |roots: &TrustRoots, at| match envelope.verify(roots, at) {
        Err(DsseError::Identity { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(fails(&roots, UnixTime(1)), IdentityError::NotValidAt { .. }));
    let (_, impostor) = org("acme", 4);
    let wrong = TrustRoots { orgs: BTreeMap::from([("acme".into(), impostor)]), logs: vec![], channel: None };
    assert!(matches!(fails(&wrong, NOW), IdentityError::NotIssuedBy(_)));
    assert!(matches!(fails(&TrustRoots::default(), NOW), IdentityError::UnknownOrganisation(_)));
    roots.orgs.get_mut("acme").unwrap().revoked.insert("10".into());
    assert!(matches!(fails(&roots, NOW), IdentityError::Revoked(_)));
}

#[test]
fn a_ca_speaks_only_for_whom_it_may() {
    let (signer, mut roots) = world();
    let envelope = Envelope::sign("text/plain", b"hello".to_vec(), &[&signer]).unwrap();
    let set = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
    let mut outcome = |roles: &[&str], tenants: &[&str]| {
        let vouches = Vouches { roles: set(roles), tenants: set(tenants) };
        roots.orgs.get_mut("acme").unwrap().vouches = Some(vouches);
        envelope.verify(&roots, NOW).map(|_| ()).map_err(|e| e.to_string())
    };
    outcome(&["tenant"], &["acme"]).unwrap();
    for (roles, tenants) in [(&["operator"], &["acme"]), (&["tenant"], &["globex"])] {
        let refused = outcome(roles, tenants).unwrap_err();
        assert!(refused.contains("signature 0"), "{refused}");
    }
}

#[test]
fn a_ca_certificate_signs_no_envelope() {
    let (authority, root) = org("acme", 3);
    let roots = TrustRoots { orgs: BTreeMap::from([("acme".into(), root)]), logs: vec![], channel: None };
    let signer = Signer::from_pem(&authority.key_pem, &authority.certificate_pem).unwrap();
    let envelope = Envelope::sign("text/plain", b"hello".to_vec(), &[&signer]).unwrap();
    assert!(matches!(
        envelope.verify(&roots, NOW),
        Err(DsseError::Identity { source: IdentityError::Usage, .. })
    ));
}

/// Of all texts of an envelope, one is canonical: the one that is written.
#[test]
fn one_text_is_canonical() {
    let (signer, _) = world();
    for (kind, signers) in [("text/plain", 1), ("a \"quoted\" \u{e9} \n type/x", 3)] {
        let envelope = Envelope::sign(kind, b"hello".to_vec(), &vec![&signer; signers]).unwrap();
        let text = envelope.to_json();
        assert_eq!(Envelope::from_canonical(&text).unwrap(), envelope);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let other_order = serde_json::json!({ "signatures": value["signatures"], "payload": value["payload"],
            "payloadType": value["payloadType"] });
        let ascii = String::from_utf8(text.clone()).unwrap();
        let others = [
            serde_json::to_string_pretty(&value).unwrap(),
            other_order.to_string().replacen("payloadType", "payloadTyp\\u0065", 1),
            ascii.replacen("payload", "p\\u0061yload", 1),
            ascii.replacen("sha256:", "sha256\\u003a", 1),
            ascii.replacen(':', ": ", 1),
            format!(" {ascii}"),
            format!("{ascii}\n"),
        ];
        for other in others {
            assert_eq!(Envelope::from_json(other.as_bytes()), Ok(envelope.clone()), "{other}");
            assert_eq!(Envelope::from_canonical(other.as_bytes()), Err(DsseError::NotCanonical), "{other}");
        }
        let through: Envelope = serde_json::from_value(value).unwrap();
        assert_eq!(through, envelope);
        // Whatever is read is written as it was read, or refused.
        for i in 0..text.len() {
            for bit in [0x01, 0x10, 0x20] {
                let mut changed = text.clone();
                changed[i] ^= bit;
                let canonical = Envelope::from_json(&changed).ok().filter(|e| e.to_json() == changed);
                assert_eq!(Envelope::from_canonical(&changed).ok(), canonical, "byte {i}");
            }
        }
    }
}
