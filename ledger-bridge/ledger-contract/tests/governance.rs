//! Changing the rules: who must sign, what is refused by which code, and that a verifier who pinned the first rules
//! follows the right changes and no others.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use ledger_contract::{
    Constitution,
    approval::{ActuatorPolicy, RefusalCode, verify},
    policy::{PolicyData, SigningRule},
    records::{Change, Event, GOVERNANCE_PAYLOAD, Governance, PACKAGE_PAYLOAD, PolicyBundle, Revocable},
};
use trust::{Digest, Envelope, Signer, identity::OrgRoot, issue};

fn governance(id: &str, change: Change) -> Governance {
    let reason = "decided in the consortium's meeting".into();
    Governance { id: id.into(), ledger: LEDGER.into(), not_after: NOW.plus(3600), reason, change }
}

fn signed_by(it: &Governance, by: &[&Signer]) -> Envelope {
    Envelope::sign(GOVERNANCE_PAYLOAD, payload(it), by).unwrap()
}

fn bundle(change: impl FnOnce(&mut PolicyData)) -> PolicyBundle {
    let mut data = policy().data().unwrap();
    change(&mut data);
    policy().with_data(&data)
}

fn fewer() -> PolicyBundle {
    bundle(|d| d.quotas.get_mut("default").unwrap().services = 1)
}

fn policy_change(id: &str, bundle: PolicyBundle, supersedes: Digest) -> Governance {
    governance(id, Change::Policy { bundle, supersedes })
}

fn organisation(id: &str, name: &str, root: Option<OrgRoot>) -> Governance {
    governance(id, Change::Organisation { name: name.into(), root })
}

fn newcomer(name: &str, seed: u8) -> (OrgRoot, issue::Issued) {
    let ca = issue::ca(name, &[seed; 32], FROM, TO).unwrap();
    (OrgRoot { ca: vec![ca.certificate_pem.clone()], ..OrgRoot::default() }, ca)
}

fn member(ca: &issue::Issued, name: &str, role: &str, tenant: &str, seed: u8) -> Signer {
    let mut attrs = BTreeMap::from([("mandate.role".to_owned(), role.to_owned())]);
    attrs.extend((!tenant.is_empty()).then(|| ("mandate.tenant".to_owned(), tenant.to_owned())));
    let it = issue::member(ca, name, attrs, &[seed; 32], &[seed], (FROM, TO)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

#[test]
fn a_policy_comes_into_force_when_two_have_signed() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let it = policy_change("change-0001", fewer(), policy().digest());
    let outcome = chain.refuse(signed_by(&it, &[&w.operator]), "SIGNATURES_TOO_FEW");
    assert!(outcome.writes.is_empty(), "it can come again with another signature");
    chain.refuse(signed_by(&it, &[&w.operator, &w.operator]), "SIGNATURES_TOO_FEW");
    chain.refuse(signed_by(&it, &[&w.operator, &w.acme]), "SIGNATURES_TOO_FEW");
    chain.refuse(signed_by(&it, &[&w.auditor, &w.operator]), "ROLE_NOT_ALLOWED");
    let outcome = chain.approve(signed_by(&it, &[&w.operator, &w.auditor]));
    let now = fewer().digest();
    assert_eq!(outcome.event, Some(Event::PolicyChanged { before: policy().digest(), now }));
    chain.active(&w, "intent-0001", "edge");
    let outcome = chain.refuse(signed(&w, &deploy_intent("intent-0002", "second")), "QUOTA_EXCEEDED");
    assert_eq!(outcome.verdict.policy, now);
}

#[test]
fn changes_that_are_refused() {
    let w = world();
    let active = policy().digest();
    let with = |bundle: PolicyBundle, name: &str, text: &str| {
        let mut bundle = bundle;
        bundle.files.insert(name.into(), text.into());
        bundle
    };
    let failing = "package mandate.tenant_test\n\ntest_no if 1 == 2\n";
    let too_many = SigningRule { cosigners: 1, organisations: 5, ..SigningRule::default() };
    let alone = SigningRule::default();
    let (stranger, _) = newcomer("other", 70);
    let (operator, _) = newcomer("op", 71);
    let cases: Vec<(&str, Governance)> = vec![
        ("POLICY_SUPERSEDED", policy_change("change-0001", fewer(), Digest::of("x"))),
        ("POLICY_UNCHANGED", policy_change("change-0001", policy(), active)),
        ("POLICY_ERROR", policy_change("change-0001", with(fewer(), "x.rego", "?"), active)),
        (
            "POLICY_ERROR",
            policy_change(
                "change-0001",
                bundle(|d| drop(d.signing.insert("policy".into(), too_many))),
                active,
            ),
        ),
        (
            "POLICY_ERROR",
            policy_change("change-0001", bundle(|d| drop(d.signing.insert("policy".into(), alone))), active),
        ),
        (
            "POLICY_ERROR",
            policy_change(
                "change-0001",
                bundle(|d| {
                    d.emergency.as_mut().unwrap().waives = BTreeSet::from(["freshness/replay".to_owned()])
                }),
                active,
            ),
        ),
        (
            "POLICY_TESTS_FAILED",
            policy_change("change-0001", with(fewer(), "tenant_test.rego", failing), active),
        ),
        ("INVALID_ORGANISATION", organisation("change-0001", "neworg", Some(stranger.clone()))),
        ("INVALID_ORGANISATION", organisation("change-0001", "a/b", Some(stranger))),
        ("INVALID_ORGANISATION", organisation("change-0001", "neworg", Some(OrgRoot::default()))),
        ("OPERATOR_LOCKED_OUT", organisation("change-0001", "op", Some(operator))),
        ("OPERATOR_LOCKED_OUT", organisation("change-0001", "op", None)),
        ("NO_SUCH_ORGANISATION", organisation("change-0001", "nobody", None)),
        (
            "NO_SUCH_INTENT",
            governance(
                "change-0001",
                Change::Revoke { what: Revocable::Intent { id: "intent-9999".into() } },
            ),
        ),
        (
            "NO_STANDING_GRANT",
            governance("change-0001", Change::Revoke { what: Revocable::StandingGrant { id: "x".into() } }),
        ),
        (
            "PACKAGE_NOT_REGISTERED",
            governance(
                "change-0001",
                Change::Revoke { what: Revocable::Package { digest: Digest::of("x") } },
            ),
        ),
        (
            "NO_ATTESTATION_KEY",
            governance(
                "change-0001",
                Change::Revoke { what: Revocable::AttestationKey { site: "x".into() } },
            ),
        ),
        (
            "EXPIRED",
            Governance {
                not_after: trust::UnixTime(NOW.0 - 1),
                ..policy_change("change-0001", fewer(), active)
            },
        ),
        (
            "WRONG_LEDGER",
            Governance { ledger: "other".into(), ..policy_change("change-0001", fewer(), active) },
        ),
        (
            "INVALID_GOVERNANCE",
            Governance { reason: " ".into(), ..policy_change("change-0001", fewer(), active) },
        ),
        ("INVALID_GOVERNANCE", policy_change("x", fewer(), active)),
    ];
    let ready = Chain::ready(&w);
    for (n, (code, it)) in cases.into_iter().enumerate() {
        let outcome = ready.decide(&signed_by(&it, &[&w.operator, &w.auditor]));
        assert_eq!(outcome.verdict.code(), code, "case {n}: {:?}", outcome.verdict.detail());
        assert!(outcome.writes.is_empty() && outcome.event.is_none(), "case {n}");
    }
    let mut chain = ready;
    let both = [&w.operator, &w.auditor];
    chain.approve(signed_by(&policy_change("change-0001", fewer(), active), &both));
    let again = policy_change("change-0001", policy(), fewer().digest());
    chain.refuse(signed_by(&again, &both), "REPLAYED");
}

#[test]
fn an_organisation_too_few() {
    let w = world();
    let three = SigningRule { cosigners: 3, organisations: 4, ..SigningRule::default() };
    let policy = bundle(|d| drop(d.signing.insert("policy".into(), three)));
    let mut chain = Chain::founded(&w, policy);
    let it = organisation("change-0001", "globex", None);
    chain.refuse(signed_by(&it, &[&w.operator, &w.auditor]), "TOO_FEW_ORGANISATIONS");
}

#[test]
fn what_was_taken_back() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let revoke = |id: &str, what: Revocable| governance(id, Change::Revoke { what });
    // A package, by its provider or the operator.
    let package = || Revocable::Package { digest: nsd().digest };
    chain.refuse(signed_by(&revoke("change-0001", package()), &[&w.acme]), "ROLE_NOT_ALLOWED");
    chain.approve(signed_by(&revoke("change-0001", package()), &[&w.provider]));
    chain.refuse(signed_by(&revoke("change-0002", package()), &[&w.operator]), "REVOKED_BEFORE");
    chain.refuse(signed(&w, &deploy_intent("intent-0001", "edge")), "PACKAGE_REVOKED");
    // A site's key.
    let mut chain = Chain::ready(&w);
    let key = revoke("change-0001", Revocable::AttestationKey { site: "edge-1".into() });
    chain.approve(signed_by(&key, &[&w.operator]));
    assert!(!chain.state.contains_key("ak/edge-1"));
    // An intent, by its tenant or the operator, while it is under way.
    let mut chain = Chain::ready(&w);
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    let intent = |id: &str| revoke(id, Revocable::Intent { id: "intent-0001".into() });
    chain.refuse(signed_by(&intent("change-0001"), &[&w.globex]), "TENANT_MISMATCH");
    let outcome = chain.approve(signed_by(&intent("change-0002"), &[&w.acme]));
    assert!(matches!(outcome.event, Some(Event::IntentRevoked { .. })));
    chain.refuse(signed_by(&intent("change-0003"), &[&w.operator]), "REVOKED_BEFORE");
    let ns = ledger_contract::intent::ns_instance_id("acme", "edge", "intent-0001");
    let anchor = anchor("op-1", "intent-0001", &ns, "ROLLED_BACK");
    chain.approve(sign(ledger_contract::records::ANCHOR_PAYLOAD, &anchor, &w.orchestrator));
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    chain.refuse(signed_by(&intent("change-0001"), &[&w.acme]), "OPERATION_ENDED");
}

/// What an orchestrator that pinned the first policy makes of the newest approval.
fn judged(w: &World, chain: &Chain, rules: &Constitution) -> Option<RefusalCode> {
    let _ = w;
    let policy = ActuatorPolicy { constitution: rules, at: chain.time.plus(10) };
    verify(&chain.last(), &policy).err().map(|r| r.code)
}

fn pinned(w: &World) -> Constitution {
    Constitution::pinned(LEDGER, &w.roots, BTreeSet::from([policy().digest()]))
}

#[test]
fn a_verifier_follows_what_was_changed_rightly() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let mut rules = pinned(&w).followed(&[chain.proven(0)]).unwrap();
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    assert_eq!(judged(&w, &chain, &rules), None);
    let both = [&w.operator, &w.auditor];
    chain.approve(signed_by(&policy_change("change-0001", fewer(), policy().digest()), &both));
    let policy_at = chain.entries.len() as u64 - 1;
    let (root, ca) = newcomer("hooli", 60);
    chain.approve(signed_by(&organisation("change-0002", "hooli", Some(root)), &both));
    let joined_at = chain.entries.len() as u64 - 1;
    let open = bundle(|d| {
        d.orgs.clear();
    });
    chain.approve(signed_by(&policy_change("change-0003", open.clone(), fewer().digest()), &both));
    let open_at = chain.entries.len() as u64 - 1;
    let tenant = member(&ca, "helen", "tenant", "hooli", 61);
    let mut it = deploy_intent("intent-0002", "edge");
    it.tenant = "hooli".into();
    chain.approve(sign(ledger_contract::intent::INTENT_PAYLOAD, &it, &tenant));
    // Without the chain: nobody knows who that is, nor that policy.
    assert_eq!(judged(&w, &chain, &rules), Some(RefusalCode::IntentSignature));
    // A change that is left out is noticed.
    let mut gap = rules.clone();
    assert_eq!(gap.follow(&chain.proven(open_at)).unwrap_err().code, RefusalCode::Constitution);
    for at in [policy_at, joined_at, open_at] {
        rules.follow(&chain.proven(at)).unwrap();
        rules.follow(&chain.proven(at)).unwrap();
    }
    assert_eq!(judged(&w, &chain, &rules), None);
    assert!(rules.accepts(open_at + 1, &open.digest()) && !rules.accepts(open_at, &open.digest()));
    assert!(!rules.accepts(open_at + 1, &policy().digest()), "it is in force no more");
    assert_eq!(rules.proofs(u64::MAX).len(), 4);
    assert!(pinned(&w).followed(&[chain.proven(0)]).unwrap().proofs(9).is_empty());
    // Who leaves or is revoked signs no more.
    let revoked = OrgRoot { revoked: ["3d".to_owned()].into(), ..newcomer("hooli", 60).0 };
    let mut later = chain.clone();
    later.approve(signed_by(&organisation("change-0004", "hooli", Some(revoked)), &both));
    rules.follow(&later.last()).unwrap();
    assert_eq!(judged(&w, &chain, &rules), Some(RefusalCode::SignerRevoked));
}

/// Somebody who controls the log itself, but not the keys of two people.
#[test]
fn a_verifier_follows_nothing_else() {
    let w = world();
    let chain = Chain::ready(&w);
    let evil = bundle(|d| d.quotas.get_mut("default").unwrap().services = 1_000_000);
    let it = policy_change("change-0001", evil.clone(), policy().digest());
    let good = {
        let mut c = chain.clone();
        c.approve(signed_by(&it, &[&w.operator, &w.auditor]));
        serde_json::from_str::<ledger_contract::records::Entry>(c.entries.last().unwrap()).unwrap()
    };
    let forged = |by: &[&Signer]| {
        let mut entry = good.clone();
        entry.request = signed_by(&it, by);
        let mut c = chain.clone();
        c.push(String::from_utf8(entry.to_bytes()).unwrap());
        c.last()
    };
    let follow =
        |proven| pinned(&w).followed(&[chain.proven(0)]).unwrap().follow(&proven).map_err(|r| r.code);
    assert_eq!(
        follow(forged(&[&w.operator, &w.auditor])),
        Ok(()),
        "the forger's tool forges nothing by itself"
    );
    let refused = Err(RefusalCode::Constitution);
    assert_eq!(follow(forged(&[&w.operator])), refused);
    assert_eq!(follow(forged(&[&w.operator, &w.operator])), refused);
    assert_eq!(follow(forged(&[&w.operator, &w.acme])), refused);
    assert_eq!(follow(forged(&[&w.auditor, &w.operator])), refused);
    assert_eq!(follow(forged(&[&w.operator, &w.stranger])), refused);
    assert_eq!(follow(forged(&[&w.usurper, &w.auditor])), refused);
    assert_eq!(
        pinned(&w).follow(&forged(&[&w.operator, &w.auditor])).unwrap_err().code,
        RefusalCode::Constitution
    );
    // A policy that nobody pinned is not accepted because somebody changed it.
    let other = Constitution::pinned(LEDGER, &w.roots, BTreeSet::from([Digest::of("another")]));
    let followed = other.followed(&[chain.proven(0), forged(&[&w.operator, &w.auditor])]).unwrap();
    assert!(!followed.accepts(u64::MAX, &evil.digest()));
    let mut c = chain.clone();
    c.approve(sign(PACKAGE_PAYLOAD, &vnf(&w, "third_vnf"), &w.provider));
    assert_eq!(pinned(&w).follow(&c.last()).unwrap_err().code, RefusalCode::Constitution);
}
