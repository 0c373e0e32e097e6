//! What an actuator accepts, and every way in which an approval can be wrong, by its code.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::*;
use ledger_contract::{
    Constitution,
    approval::{ActuatorPolicy, RefusalCode, verify},
    evidence::ProvenEntry,
    intent::{Intent, IntentKind, ScaleDirection, Sensitivity},
    records::{ANCHOR_PAYLOAD, ENTRY_VERSION, Entry, Event, Grant, RuleResult},
};
use trust::{Digest, UnixTime, note::NoteSigner};

struct Bench {
    w: World,
    chain: Chain,
    policies: BTreeSet<Digest>,
    at: UnixTime,
    ledger: &'static str,
}

fn bench() -> Bench {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    Bench { w, chain, policies: [policy().digest()].into(), at: NOW.plus(10), ledger: LEDGER }
}

impl Bench {
    fn code(&self, approval: &ProvenEntry) -> Option<RefusalCode> {
        let constitution = Constitution::pinned(self.ledger, &self.w.roots, self.policies.clone());
        let policy = ActuatorPolicy { constitution: &constitution, at: self.at };
        verify(approval, &policy).err().map(|r| r.code)
    }

    /// The approval again, altered by somebody who controls the log itself.
    fn forged(&self, change: impl FnOnce(&mut Entry)) -> ProvenEntry {
        let mut chain = self.chain.clone();
        let mut entry: Entry = serde_json::from_str(chain.entries.last().unwrap()).unwrap();
        entry.position += 1;
        change(&mut entry);
        chain.push(String::from_utf8(entry.to_bytes()).unwrap());
        chain.last()
    }

    fn forged_grant(&self, change: impl FnOnce(&mut Grant)) -> ProvenEntry {
        self.forged(|entry| match &mut entry.event {
            Some(Event::IntentApproved { grant }) => change(grant),
            other => panic!("{other:?}"),
        })
    }
}

#[test]
fn an_approval_verifies_and_says_what_it_is() {
    let b = bench();
    let policy = ActuatorPolicy {
        constitution: &Constitution::pinned(LEDGER, &b.w.roots, b.policies.clone()),

        at: b.at,
    };
    let approved = verify(&b.chain.last(), &policy).unwrap();
    assert_eq!(approved.intent.id, "intent-0001");
    assert_eq!(approved.tenant_identity.to_string(), "alice@acme");
    assert_eq!(approved.position, approved.entry.position);
    assert_eq!(b.code(&b.forged(|_| ())), None, "the forger's tool forges nothing by itself");
}

#[test]
fn scale_and_terminate_verify_too() {
    let mut b = bench();
    b.chain.active(&b.w, "intent-0002", "other");
    for it in [
        scale_intent("intent-0003", "other", ScaleDirection::ScaleOut, 1),
        Intent { id: "intent-0004".into(), ..intent("x", "third", IntentKind::Terminate {}) },
    ] {
        if it.service == "third" {
            b.chain.active(&b.w, "intent-0005", "third");
        }
        b.chain.approve(signed(&b.w, &it));
        assert_eq!(b.code(&b.chain.last()), None);
    }
}

#[test]
fn checkpoint_inclusion_and_entry() {
    let b = bench();
    let good = b.chain.last();
    let mut other = bench();
    other.w.roots.logs = vec![NoteSigner::new(LEDGER, &[1; 32]).unwrap().verifier().to_string()];
    assert_eq!(other.code(&good), Some(RefusalCode::CheckpointSignature));
    other.w.roots.logs.clear();
    assert_eq!(other.code(&good), Some(RefusalCode::CheckpointSignature));
    let mut bad = good.clone();
    bad.proof.path[0].0[0] ^= 1;
    assert_eq!(b.code(&bad), Some(RefusalCode::Inclusion));
    let mut bad = good.clone();
    bad.proof.index -= 1;
    assert_eq!(b.code(&bad), Some(RefusalCode::Inclusion));
    let mut bad = good.clone();
    bad.entry = bad.entry.replace("\"approved\":true", "\"approved\":null");
    assert_eq!(b.code(&bad), Some(RefusalCode::Inclusion), "never read before it is proven");
    for bytes in ["{}".to_owned(), good.entry.replacen(',', ", ", 1), format!("{} ", good.entry)] {
        let mut chain = b.chain.clone();
        chain.push(bytes);
        assert_eq!(b.code(&chain.last()), Some(RefusalCode::EntryFormat));
    }
    assert_eq!(b.code(&b.forged(|e| e.v = ENTRY_VERSION + 1)), Some(RefusalCode::EntryFormat));
    assert_eq!(b.code(&b.forged(|e| e.position = 3)), Some(RefusalCode::Position));
    assert_eq!(b.code(&b.forged(|e| e.ledger = "other".into())), Some(RefusalCode::WrongLedger));
    assert_eq!(Bench { ledger: "other", ..bench() }.code(&good), Some(RefusalCode::WrongLedger));
}

#[test]
fn who_asked() {
    let b = bench();
    let anchor = sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-0001", "ns", "COMPLETED"), &b.w.orchestrator);
    assert_eq!(b.code(&b.forged(|e| e.request = anchor)), Some(RefusalCode::NotAnIntent));
    let forged = b.forged(|e| e.request.payload = payload(&deploy_intent("intent-0009", "edge")));
    assert_eq!(b.code(&forged), Some(RefusalCode::IntentSignature));
    let by =
        |signer| sign(ledger_contract::intent::INTENT_PAYLOAD, &deploy_intent("intent-0001", "edge"), signer);
    for (signer, code) in [
        (&b.w.stranger, RefusalCode::IntentSignature),
        (&b.w.expired, RefusalCode::IntentSignature),
        (&b.w.provider, RefusalCode::RoleNotAllowed),
        (&b.w.globex, RefusalCode::TenantMismatch),
    ] {
        assert_eq!(b.code(&b.forged(|e| e.request = by(signer))), Some(code));
    }
    let mut revoked = bench();
    revoked.w.roots.orgs.get_mut("acme").unwrap().revoked.insert("0e".into());
    assert_eq!(revoked.code(&b.chain.last()), Some(RefusalCode::IntentSignature));
}

#[test]
fn a_refusal_is_no_approval() {
    let mut b = bench();
    b.chain.refuse(signed(&b.w, &deploy_intent("intent-0002", "edge")), "SERVICE_EXISTS");
    assert_eq!(b.code(&b.chain.last()), Some(RefusalCode::NotApproved));
    let b = bench();
    assert_eq!(b.code(&b.forged(|e| e.verdict.approved = false)), Some(RefusalCode::NotApproved));
    assert_eq!(b.code(&b.forged(|e| e.verdict.rules.clear())), Some(RefusalCode::NotApproved));
    assert_eq!(b.code(&b.forged(|e| e.event = None)), Some(RefusalCode::NotApproved));
    let failed = RuleResult { rule: "x".into(), passed: false, code: "X".into(), detail: String::new() };
    assert_eq!(b.code(&b.forged(|e| e.verdict.rules.push(failed))), Some(RefusalCode::NotApproved));
}

#[test]
fn the_grant_is_what_was_asked_for() {
    let b = bench();
    let changes: [fn(&mut Grant); 11] = [
        |g| g.ledger = "other".into(),
        |g| g.intent_id = "intent-0002".into(),
        |g| g.intent = Digest::of("x"),
        |g| g.tenant = "globex".into(),
        |g| g.ns_instance_id = "ns-000000000000".into(),
        |g| g.action = "terminate".into(),
        |g| g.not_after = g.not_after.plus(1),
        |g| g.lease_until = None,
        |g| g.lease_until = g.lease_until.map(|t| t.plus(1)),
        |g| g.packages.clear(),
        |g| g.policy = Digest::of("x"),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        assert_eq!(b.code(&b.forged_grant(change)), Some(RefusalCode::GrantMismatch), "change {n}");
    }
    let mut b = bench();
    let mut it = deploy_intent("intent-0002", "secret");
    if let IntentKind::Deploy(d) = &mut it.action {
        d.sensitivity = Sensitivity::Confidential;
    }
    b.chain.approve(signed(&b.w, &it));
    assert_eq!(b.code(&b.chain.last()), None);
    assert_eq!(b.code(&b.forged_grant(|g| g.attestation_required = false)), Some(RefusalCode::GrantMismatch));
}

#[test]
fn policy_and_time() {
    let b = bench();
    let good = b.chain.last();
    assert_eq!(
        Bench { policies: BTreeSet::new(), ..bench() }.code(&good),
        Some(RefusalCode::PolicyNotAccepted)
    );
    assert_eq!(Bench { at: NOW.plus(3600), ..bench() }.code(&good), None);
    assert_eq!(Bench { at: NOW.plus(3601), ..bench() }.code(&good), Some(RefusalCode::Expired));
    assert_eq!(Bench { at: UnixTime(NOW.0 - 300), ..bench() }.code(&good), None);
    assert_eq!(Bench { at: UnixTime(NOW.0 - 301), ..bench() }.code(&good), Some(RefusalCode::NotYet));
}

#[test]
fn every_flipped_bit_of_an_approval_is_found() {
    let b = bench();
    let bytes = serde_json::to_vec(&b.chain.last()).unwrap();
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        if let Ok(altered) = serde_json::from_slice::<ProvenEntry>(&changed) {
            assert!(b.code(&altered).is_some(), "byte {i}");
        }
    }
}
