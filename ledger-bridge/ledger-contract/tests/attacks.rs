//! What somebody tries who knows the rules well: one attack each, and what stands in its way.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
mod operation;

use std::collections::BTreeSet;

use attestation::AkRecord;
use common::*;
use ledger_contract::{
    Constitution, Intent,
    approval::RefusalCode,
    intent::{Emergency, INTENT_PAYLOAD},
    policy::{OrgPolicy, PolicyData, SigningRule},
    records::{
        AK_PAYLOAD, Change, Entry, Event, GOVERNANCE_PAYLOAD, Governance, PACKAGE_PAYLOAD, PolicyBundle,
        Revocable,
    },
};
use trust::{Digest, Envelope, Signer, TrustRoots, identity::OrgRoot, issue};

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|s| (*s).to_owned()).collect()
}

fn bundle(change: impl FnOnce(&mut PolicyData)) -> PolicyBundle {
    let mut data = policy().data().unwrap();
    change(&mut data);
    policy().with_data(&data)
}

fn governance(id: &str, change: Change) -> Governance {
    let reason = "decided in the consortium's meeting".into();
    Governance { id: id.into(), ledger: LEDGER.into(), not_after: NOW.plus(3600), reason, change }
}

fn decided(w: &World, id: &str, change: Change) -> Envelope {
    Envelope::sign(GOVERNANCE_PAYLOAD, payload(&governance(id, change)), &[&w.operator, &w.auditor]).unwrap()
}

fn by(it: &Intent, signers: &[&Signer]) -> Envelope {
    Envelope::sign(INTENT_PAYLOAD, payload(it), signers).unwrap()
}

/// Another certificate of acme's CA, with a key of this seed.
fn of_acme(name: &str, role: &str, tenant: &str, seed: u8) -> Signer {
    let authority = issue::ca("acme", &[3; 32], FROM, TO).unwrap();
    let attrs = [("mandate.role", role), ("mandate.tenant", tenant)];
    let attrs = attrs.into_iter().filter(|(_, v)| !v.is_empty());
    let attrs = attrs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let it = issue::member(&authority, name, attrs, &[seed; 32], &[0x70, seed], (FROM, TO)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

/// The log shows every request to everybody. Whoever sends an old one again adds a signature of his own, so that it is
/// not the same bytes.
#[test]
fn an_attestation_key_that_was_taken_back_or_replaced_does_not_come_again() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let mut again = sign(AK_PAYLOAD, &ak("edge-1"), &w.operator);
    again.cosign(&w.globex).unwrap();
    chain.refuse(again.clone(), "REPLAYED");
    let what = Revocable::AttestationKey { site: "edge-1".into() };
    chain.approve(sign(GOVERNANCE_PAYLOAD, &governance("change-0001", Change::Revoke { what }), &w.operator));
    chain.refuse(again.clone(), "REPLAYED");
    assert!(!chain.state.contains_key("ak/edge-1"));

    let mut chain = Chain::ready(&w);
    let newer = AkRecord { public_key: "BBBB".into(), ..ak("edge-1") };
    chain.approve(sign(AK_PAYLOAD, &newer, &w.operator));
    chain.refuse(again, "REPLAYED");
    assert_eq!(chain.get::<AkRecord>("ak/edge-1"), Some(newer));
    // The operator may still register it anew: by a record that says so.
    let anew = AkRecord { not_before: NOW, ..ak("edge-1") };
    chain.approve(sign(AK_PAYLOAD, &anew, &w.operator));
}

/// Who has the log's key, and no member's, tells the history with an old change in it once more: a revocation is gone.
#[test]
fn a_change_counts_once_also_in_a_forged_history() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let root = |revoked: &[&str]| OrgRoot { revoked: set(revoked), ..w.roots.orgs["acme"].clone() };
    let acme = |revoked: &[&str]| Change::Organisation { name: "acme".into(), root: Some(root(revoked)) };
    chain.approve(decided(&w, "change-0001", acme(&[])));
    let first: Entry = serde_json::from_str(chain.entries.last().unwrap()).unwrap();
    chain.approve(decided(&w, "change-0002", acme(&["0e"])));
    let rules = Constitution::pinned(LEDGER, &w.roots, BTreeSet::from([policy().digest()]));
    let at = chain.entries.len() as u64;
    let rules = rules.followed(&[chain.proven(0), chain.proven(at - 2), chain.proven(at - 1)]).unwrap();
    assert!(rules.now().roots.orgs["acme"].revoked.contains("0e"));
    let forged = |change: &dyn Fn(&mut Entry)| {
        let mut entry = Entry { position: at, time: chain.time, ..first.clone() };
        change(&mut entry);
        let mut c = chain.clone();
        c.push(String::from_utf8(entry.to_bytes()).unwrap());
        rules.clone().follow(&c.last()).map_err(|r| r.code)
    };
    assert_eq!(forged(&|_| ()), Err(RefusalCode::Constitution), "told twice");
    let anew = decided(&w, "change-0003", acme(&[]));
    assert_eq!(forged(&|e| e.request = anew.clone()), Ok(()), "the forger's tool forges nothing by itself");
    let earlier = trust::UnixTime(NOW.0 - 1);
    assert_eq!(
        forged(&|e| (e.request, e.time) = (anew.clone(), earlier)),
        Err(RefusalCode::Constitution),
        "time does not go back"
    );
}

/// Breaking the glass waives a level that is too low, not a signature that is not there.
#[test]
fn a_forged_provenance_is_never_waived() {
    let w = world();
    let policy = bundle(|d| {
        let rule = d.emergency.as_mut().unwrap();
        rule.actions.insert("deploy".into());
        rule.waives.insert("provenance/slsa-level".into());
    });
    let with = |change: &dyn Fn(&mut Envelope)| {
        let mut chain = Chain::founded(&w, policy.clone());
        let mut bad = vnf(&w, "vfw_vnf");
        change(bad.images[0].provenance.as_mut().unwrap());
        for package in [bad, vnf(&w, "vlb_vnf"), nsd()] {
            chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
        }
        let mut it = deploy_intent("intent-0001", "edge");
        it.emergency = Some(Emergency { reason: "flash crowd, ticket 7".into() });
        chain.submit(signed(&w, &it)).verdict
    };
    assert!(with(&|_| ()).approved);
    let unknown = provenance(&w, Digest::of("the data plane"), "https://example.org/builder");
    assert!(with(&|p| *p = unknown.clone()).approved, "an unknown builder is a level too low");
    assert_eq!(with(&|p| p.payload.push(b' ')).code(), "PROVENANCE_INVALID");
    let other = provenance(&w, Digest::of("another image"), ledger_contract::policy::DEFAULT_BUILDER);
    assert_eq!(with(&|p| *p = other.clone()).code(), "PROVENANCE_INVALID");
}

/// Whoever brings a policy into force can change it again: otherwise one mistake, or one bribe, is for ever.
#[test]
fn a_policy_locks_nobody_out() {
    let w = world();
    let chain = Chain::ready(&w);
    let propose = |bundle: PolicyBundle, by: &[&Signer]| {
        let change = Change::Policy { bundle, supersedes: policy().digest() };
        let it = Envelope::sign(GOVERNANCE_PAYLOAD, payload(&governance("change-0001", change)), by).unwrap();
        chain.decide(&it).verdict.code().to_owned()
    };
    let signing = |rule: SigningRule| bundle(|d| drop(d.signing.insert("policy".into(), rule)));
    let many = SigningRule { cosigners: 15, ..SigningRule::default() };
    assert_eq!(propose(signing(many), &[&w.operator, &w.auditor]), "RULES_LOCKED_OUT");
    let orgs = SigningRule { cosigners: 9, organisations: 9, ..SigningRule::default() };
    assert_eq!(propose(signing(orgs), &[&w.operator, &w.auditor]), "RULES_LOCKED_OUT");
    let silent = bundle(|d| drop(d.orgs.insert("op".into(), OrgPolicy::default())));
    assert_eq!(propose(silent, &[&w.operator, &w.auditor]), "RULES_LOCKED_OUT");
    // More than now is fine: as many have signed.
    let two = SigningRule { cosigners: 2, organisations: 2, ..SigningRule::default() };
    assert_eq!(propose(signing(two.clone()), &[&w.operator, &w.auditor]), "RULES_LOCKED_OUT");
    assert_eq!(propose(signing(two), &[&w.operator, &w.auditor, &w.provider]), "");
}

/// A rival's signature is no second pair of eyes.
#[test]
fn another_tenant_is_no_cosigner() {
    let w = world();
    let rule = SigningRule { cosigners: 1, roles: set(&["tenant"]), ..SigningRule::default() };
    let mut chain = Chain::founded(&w, bundle(|d| drop(d.signing.insert("deploy".into(), rule))));
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let it = deploy_intent("intent-0001", "edge");
    chain.refuse(by(&it, &[&w.acme, &w.globex]), "SIGNATURES_TOO_FEW");
    chain.refuse(by(&it, &[&w.acme, &of_acme("alan", "tenant", "acme", 14)]), "SIGNATURES_TOO_FEW");
    chain.approve(by(&it, &[&w.acme, &of_acme("alan", "tenant", "acme", 51)]));
}

/// Who signed the software is the same person under another name: the key says so.
#[test]
fn a_supplier_under_another_name_is_still_one() {
    let w = world();
    let rule = SigningRule { not_suppliers: true, ..SigningRule::default() };
    let mut chain = Chain::founded(&w, bundle(|d| drop(d.signing.insert("deploy".into(), rule))));
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let it = deploy_intent("intent-0001", "edge");
    chain.refuse(by(&it, &[&of_acme("alan", "tenant", "acme", 13)]), "SIGNER_NOT_SEPARATE");
    chain.approve(by(&it, &[&w.acme]));
}

/// The log's owner has an old, lenient policy decide after another one came into force.
#[test]
fn evidence_of_a_decision_under_a_policy_of_the_past() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(sign(AK_PAYLOAD, &operation::software_ak(), &w.operator));
    let fewer = bundle(|d| d.quotas.get_mut("default").unwrap().services = 1);
    let change = Change::Policy { bundle: fewer, supersedes: policy().digest() };
    chain.approve(decided(&w, "change-0001", change));
    let changed_at = chain.entries.len() as u64 - 1;
    let roots: TrustRoots = w.roots.clone();
    let mut op = operation::of(w, chain, &operation::intent());
    op.followed = vec![0, changed_at];
    op.verify().unwrap();
    // What was followed is remembered for these bytes and these roots, and for no others.
    let good = String::from_utf8(op.bundle()).unwrap();
    let at = good.rfind("\"constitution\"").unwrap();
    let altered = format!("{}{}", &good[..at], good[at..].replacen("change-", "chance-", 1));
    assert_ne!(altered, good);
    let problem = ledger_contract::verify_bundle(altered.as_bytes(), &roots).unwrap_err().to_string();
    assert!(problem.starts_with("receipt: the rules at its time"), "{problem}");
    let mut others = roots.clone();
    others.logs.clear();
    ledger_contract::verify_bundle(good.as_bytes(), &others).unwrap_err();
    ledger_contract::verify_bundle(good.as_bytes(), &roots).unwrap();
    let mut entry: Entry = serde_json::from_str(op.chain.entries.last().unwrap()).unwrap();
    entry.position += 1;
    entry.verdict.policy = policy().digest();
    let Some(Event::IntentApproved { grant }) = &mut entry.event else { panic!("{:?}", entry.event) };
    grant.policy = policy().digest();
    op.chain.push(String::from_utf8(entry.to_bytes()).unwrap());
    let problem = ledger_contract::verify_bundle(&op.bundle(), &roots).unwrap_err().to_string();
    assert!(problem.contains("was not in force"), "{problem}");
}

/// Whom a certificate still makes a member is asked of the newest rules.
#[test]
fn who_left_was_revoked_or_says_too_much_is_no_member() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let rules = Constitution::pinned(LEDGER, &w.roots, BTreeSet::from([policy().digest()]));
    let mut rules = rules.followed(&[chain.proven(0)]).unwrap();
    let is = |rules: &Constitution, who: &Signer| rules.member(who.certificate(), NOW).is_ok();
    assert!(is(&rules, &w.operator) && is(&rules, &w.acme) && is(&rules, &w.auditor));
    for stranger in [&w.usurper, &w.impostor, &w.stranger, &w.expired] {
        assert!(!is(&rules, stranger));
    }
    let tenant = rules.member(w.globex.certificate(), NOW).unwrap();
    let revoked = OrgRoot { revoked: set(&["0e"]), ..w.roots.orgs["acme"].clone() };
    chain.approve(decided(
        &w,
        "change-0001",
        Change::Organisation { name: "acme".into(), root: Some(revoked) },
    ));
    rules.follow(&chain.last()).unwrap();
    assert!(!is(&rules, &w.acme) && !rules.revoked_since(&tenant));
    chain.approve(decided(&w, "change-0002", Change::Organisation { name: "globex".into(), root: None }));
    rules.follow(&chain.last()).unwrap();
    assert!(!is(&rules, &w.globex) && rules.revoked_since(&tenant));
}

/// A slip in the founding policy would be for ever.
#[test]
fn nobody_founds_a_ledger_that_nobody_can_change() {
    let w = world();
    let found = |organisations: u32| {
        let rule = SigningRule { cosigners: 9, organisations, ..SigningRule::default() };
        let policy = bundle(|d| drop(d.signing.insert("policy".into(), rule)));
        let tx = ledger_contract::TxInfo {
            v: ledger_contract::records::ENTRY_VERSION,
            ledger: LEDGER.into(),
            position: 0,
            time: NOW,
        };
        let outcome = ledger_contract::decide(&genesis(&w, policy), &Default::default(), &tx);
        outcome.verdict.code().to_owned()
    };
    assert_eq!((found(4).as_str(), found(5).as_str()), ("", "RULES_LOCKED_OUT"));
}
