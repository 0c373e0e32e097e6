//! Co-signing, attributes, break-glass, standing grants, windows, supply rules: by code, one small ledger each.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::*;
use ledger_contract::{
    Constitution, Intent,
    approval::{ActuatorPolicy, RefusalCode, verify},
    intent::{
        Emergency, Heal, INTENT_PAYLOAD, IntentKind, Isolate, ScaleDirection, Sensitivity, StandingUse,
    },
    policy::{AttributeRule, Day, PolicyData, SigningRule, Window},
    records::{
        ANCHOR_PAYLOAD, Change, Entry, Event, GOVERNANCE_PAYLOAD, Governance, Grant, ImageContents,
        PACKAGE_PAYLOAD, ResourceUse, Revocable, STANDING_PAYLOAD, StandingGrant,
    },
    state::Usage,
};
use trust::{Digest, Envelope, Signer, UnixTime};

type Changes<'a> = &'a dyn Fn(&mut Intent);

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|s| (*s).to_owned()).collect()
}

/// A ledger with its packages, under another policy.
fn under(w: &World, change: impl FnOnce(&mut PolicyData)) -> Chain {
    let mut data = policy().data().unwrap();
    change(&mut data);
    let mut chain = Chain::founded(w, policy().with_data(&data));
    for package in [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    chain.approve(sign(ledger_contract::records::AK_PAYLOAD, &ak("edge-1"), &w.operator));
    chain
}

fn by(it: &Intent, signers: &[&Signer]) -> Envelope {
    Envelope::sign(INTENT_PAYLOAD, payload(it), signers).unwrap()
}

fn granted(event: Option<Event>) -> Grant {
    match event {
        Some(Event::IntentApproved { grant }) => *grant,
        other => panic!("{other:?}"),
    }
}

fn last_code(w: &World, chain: &Chain) -> Option<RefusalCode> {
    let entry: Entry = serde_json::from_str(chain.entries.last().unwrap()).unwrap();
    let rules = Constitution::pinned(LEDGER, &w.roots, BTreeSet::from([entry.verdict.policy]));
    verify(&chain.last(), &ActuatorPolicy { constitution: &rules, at: chain.time }).err().map(|r| r.code)
}

#[test]
fn n_of_m() {
    let w = world();
    let rule = SigningRule { cosigners: 1, organisations: 2, not_suppliers: true, ..SigningRule::default() };
    let mut chain = under(&w, |d| drop(d.signing.insert("deploy".into(), rule)));
    let it = deploy_intent("intent-0001", "edge");
    let outcome = chain.refuse(by(&it, &[&w.acme]), "SIGNATURES_TOO_FEW");
    assert!(outcome.writes.is_empty());
    chain.refuse(by(&it, &[&w.acme, &w.acme]), "SIGNATURES_TOO_FEW");
    chain.refuse(by(&it, &[&w.acme, &w.provider]), "SIGNATURES_TOO_FEW");
    chain.refuse(by(&it, &[&w.acme, &w.impostor]), "SIGNATURES_TOO_FEW");
    let outcome = chain.approve(by(&it, &[&w.acme, &w.operator]));
    let rule = outcome.verdict.rules.iter().find(|r| r.rule == "authorization/signatures").unwrap();
    assert_eq!(rule.detail, "co-signed by olga@op (operator); 1 needed");
    assert_eq!(last_code(&w, &chain), None);
    let roles =
        SigningRule { cosigners: 2, of_role: [("auditor".to_owned(), 1)].into(), ..SigningRule::default() };
    let mut chain = under(&w, |d| drop(d.signing.insert("deploy".into(), roles)));
    chain.refuse(by(&it, &[&w.acme, &w.operator, &w.orchestrator]), "SIGNATURES_TOO_FEW");
    chain.approve(by(&it, &[&w.acme, &w.operator, &w.auditor]));
    let two = SigningRule { cosigners: 1, organisations: 3, ..SigningRule::default() };
    assert!(
        policy()
            .with_data(&{
                let mut d = policy().data().unwrap();
                d.signing.insert("deploy".into(), two);
                d
            })
            .check()
            .is_err()
    );
    let orgs = SigningRule { cosigners: 2, organisations: 3, ..SigningRule::default() };
    let mut chain = under(&w, |d| drop(d.signing.insert("deploy".into(), orgs)));
    chain.refuse(by(&it, &[&w.acme, &w.operator, &w.auditor]), "ORGANISATIONS_TOO_FEW");
}

#[test]
fn attributes_are_asked_for() {
    let w = world();
    let rule = |attribute: &str, value: &str| AttributeRule {
        actions: set(&["deploy"]),
        sensitivity: Some(Sensitivity::Confidential),
        attribute: attribute.into(),
        values: set(&[value]),
    };
    let mut chain = under(&w, |d| d.attributes = vec![rule("mandate.clearance", "secret")]);
    let mut it = deploy_intent("intent-0001", "edge");
    chain.approve(signed(&w, &it));
    if let IntentKind::Deploy(d) = &mut it.action {
        d.sensitivity = Sensitivity::Confidential;
    }
    (it.id, it.service) = ("intent-0002".into(), "secret".into());
    chain.refuse(signed(&w, &it), "ATTRIBUTE_REQUIRED");
    let chain = under(&w, |d| d.attributes = vec![rule("mandate.tenant", "acme")]);
    assert!(chain.decide(&signed(&w, &it)).verdict.approved);
    let rego = "package mandate.tenant\nrules := {\"people\"}\ndeny contains {\"rule\": \"people\", \"code\": \"NOT_ALICE\", \"detail\": \"x\"} if input.identity.attributes[\"mandate.tenant\"] != \"globex\"\n";
    let mut bundle = policy();
    bundle.files.insert("people.rego".into(), rego.into());
    let mut chain = Chain::founded(&w, bundle);
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    chain.refuse(signed(&w, &deploy_intent("intent-0001", "edge")), "NOT_ALICE");
}

#[test]
fn the_glass_is_broken_visibly() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    let mut it = scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 29);
    chain.refuse(signed(&w, &it), "QUOTA_EXCEEDED");
    (it.id, it.emergency) =
        ("intent-0003".into(), Some(Emergency { reason: "flash crowd, ticket 7".into() }));
    let outcome = chain.approve(signed(&w, &it));
    let rule = |name: &str| outcome.verdict.rules.iter().find(|r| r.rule == name).unwrap().clone();
    let waived = rule("quota/instances");
    assert!(waived.passed && waived.code.is_empty());
    assert_eq!(
        waived.detail,
        "waived by break-glass: QUOTA_EXCEEDED: 4 instances in use, 29 more asked for, quota 32"
    );
    assert!(rule("authorization/break-glass").detail.starts_with("BREAK-GLASS by alice@acme: flash crowd"));
    assert_eq!(granted(outcome.event).waived, ["quota/instances"]);
    assert_eq!(last_code(&w, &chain), None);
    // Who asks and what it is are never waived, and not every action is an emergency.
    let cases: [(&str, Changes<'_>, &Signer); 6] = [
        ("TENANT_MISMATCH", &(|_| ()), &w.globex),
        ("ROLE_NOT_ALLOWED", &(|_| ()), &w.provider),
        ("BREAK_GLASS_NOT_ALLOWED", &(|i| i.action = deploy_intent("x", "x").action), &w.acme),
        ("INVALID_INTENT", &(|i| i.emergency = Some(Emergency { reason: " ".into() })), &w.acme),
        ("OPERATION_IN_FLIGHT", &(|_| ()), &w.acme),
        ("REPLAYED", &(|i| i.id = "intent-0003".into()), &w.acme),
    ];
    for (n, (code, change, who)) in cases.into_iter().enumerate() {
        let mut other = it.clone();
        other.id = "intent-0004".into();
        change(&mut other);
        assert_eq!(chain.decide(&by(&other, &[who])).verdict.code(), code, "case {n}");
    }
    let mut none = under(&w, |d| d.emergency = None);
    none.active(&w, "intent-0001", "edge");
    none.refuse(signed(&w, &it), "BREAK_GLASS_NOT_ALLOWED");
    // The operator may, on anybody's service, and that verifies too; without an emergency it may not.
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    let cut = Isolate { targets: vec![], capture_ms: 0, reason: "it attacks others".into() };
    let mut it = intent("intent-0002", "edge", IntentKind::Isolate(cut));
    chain.refuse(by(&it, &[&w.operator]), "ROLE_NOT_ALLOWED");
    it.emergency = Some(Emergency { reason: "it attacks others".into() });
    let outcome = chain.approve(by(&it, &[&w.operator]));
    assert!(granted(outcome.event).waived.is_empty());
    assert_eq!(last_code(&w, &chain), None);
}

fn standing(id: &str) -> StandingGrant {
    StandingGrant {
        id: id.into(),
        tenant: "acme".into(),
        services: vec!["edge".into()],
        actions: set(&["heal", "terminate"]),
        budget: 2,
        window_s: 1000,
        cooldown_s: 100,
        not_before: NOW,
        not_after: NOW.plus(100_000),
    }
}

fn by_itself(id: &str, seen: u64) -> Intent {
    let mut it = intent(id, "edge", IntentKind::Heal(Heal { targets: vec![], cause: "gone".into() }));
    it.not_after = NOW.plus(1_000_000);
    it.standing = Some(StandingUse {
        grant: "standing-1".into(),
        observed_at: NOW.plus(seen),
        reason: "a VDU died".into(),
    });
    it
}

/// Heals and anchors, or is refused.
fn heals(w: &World, chain: &mut Chain, id: &str, seen: u64) -> String {
    let outcome = chain.submit(by(&by_itself(id, seen), &[&w.orchestrator]));
    if outcome.verdict.approved {
        assert_eq!(last_code(w, chain), None);
        let grant = granted(outcome.event);
        assert_eq!(grant.standing.as_deref(), Some("standing-1"));
        let a = anchor(&format!("op-{id}"), id, &grant.ns_instance_id, "COMPLETED");
        chain.approve(sign(ANCHOR_PAYLOAD, &a, &w.orchestrator));
    }
    outcome.verdict.code().to_owned()
}

#[test]
fn a_standing_grant_has_a_budget_and_a_cooldown() {
    let w = world();
    let mut data = policy().data().unwrap();
    data.max_lease_s.internal = 50_000;
    let mut chain = under(&w, |d| *d = data);
    let mut it = deploy_intent("intent-0001", "edge");
    if let IntentKind::Deploy(d) = &mut it.action {
        d.lease_s = 50_000;
    }
    chain.approve(signed(&w, &it));
    let ns = ledger_contract::intent::ns_instance_id("acme", "edge", "intent-0001");
    chain.approve(sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-0001", &ns, "COMPLETED"), &w.orchestrator));
    assert_eq!(heals(&w, &mut chain, "intent-0002", 0), "NO_STANDING_GRANT");
    chain.refuse(sign(STANDING_PAYLOAD, &standing("standing-1"), &w.globex), "TENANT_MISMATCH");
    let bad = [
        StandingGrant { actions: set(&["deploy"]), ..standing("standing-1") },
        StandingGrant { actions: set(&[]), ..standing("standing-1") },
        StandingGrant { budget: 0, ..standing("standing-1") },
        StandingGrant { window_s: 0, ..standing("standing-1") },
        StandingGrant { id: "x".into(), ..standing("standing-1") },
    ];
    for it in bad {
        chain.refuse(sign(STANDING_PAYLOAD, &it, &w.acme), "INVALID_STANDING_GRANT");
    }
    let over = StandingGrant { not_after: UnixTime(NOW.0 - 1), ..standing("standing-1") };
    chain.refuse(sign(STANDING_PAYLOAD, &over, &w.acme), "EXPIRED");
    chain.approve(sign(STANDING_PAYLOAD, &standing("standing-1"), &w.acme));
    chain.refuse(sign(STANDING_PAYLOAD, &standing("standing-1"), &w.acme), "REPLAYED");

    chain.time = NOW.plus(5000);
    assert_eq!(
        heals(&w, &mut chain, "intent-0003", 5001),
        "STANDING_GRANT_MISMATCH",
        "nobody sees the future"
    );
    // The ledger was down: three causes are told late, two are within the budget.
    assert_eq!(heals(&w, &mut chain, "intent-0004", 1000), "");
    assert_eq!(heals(&w, &mut chain, "intent-0005", 1050), "STANDING_COOLDOWN");
    assert_eq!(heals(&w, &mut chain, "intent-0005", 1200), "", "a refusal uses nothing up");
    assert_eq!(heals(&w, &mut chain, "intent-0006", 1400), "STANDING_BUDGET");
    assert_eq!(
        heals(&w, &mut chain, "intent-0006", 500),
        "STANDING_BUDGET",
        "older than all that is remembered"
    );
    assert_eq!(heals(&w, &mut chain, "intent-0006", 2500), "", "the window has moved on");
    // What it does not cover.
    let refused = |chain: &Chain, change: &dyn Fn(&mut Intent)| {
        let mut it = by_itself("intent-0099", 4900);
        change(&mut it);
        chain.decide(&by(&it, &[&w.orchestrator])).verdict.code().to_owned()
    };
    assert_eq!(refused(&chain, &|i| i.service = "other".into()), "STANDING_GRANT_MISMATCH");
    assert_eq!(refused(&chain, &|i| i.tenant = "globex".into()), "STANDING_GRANT_MISMATCH");
    assert_eq!(
        refused(&chain, &|i| i.action = scale_intent("x", "edge", ScaleDirection::ScaleOut, 1).action),
        "STANDING_GRANT_MISMATCH"
    );
    assert_eq!(
        refused(&chain, &|i| i.standing.as_mut().unwrap().observed_at = UnixTime(NOW.0 - 1)),
        "STANDING_GRANT_EXPIRED"
    );
    assert_eq!(
        refused(&chain, &|i| i.emergency = Some(Emergency { reason: "x".into() })),
        "BREAK_GLASS_NOT_ALLOWED"
    );
    assert_eq!(refused(&chain, &|i| i.action = IntentKind::Terminate {}), "LEASE_NOT_ENDED");
    assert_eq!(
        chain.decide(&by(&by_itself("intent-0099", 4900), &[&w.acme])).verdict.code(),
        "ROLE_NOT_ALLOWED"
    );
    let mut ended = chain.clone();
    ended.time = NOW.plus(50_001);
    assert_eq!(refused(&ended, &|i| i.action = IntentKind::Terminate {}), "");
    let revoke = Governance {
        id: "change-0001".into(),
        ledger: LEDGER.into(),
        not_after: NOW.plus(10_000),
        reason: "it heals too much".into(),
        change: Change::Revoke { what: Revocable::StandingGrant { id: "standing-1".into() } },
    };
    let outcome = chain.approve(sign(GOVERNANCE_PAYLOAD, &revoke, &w.acme));
    assert_eq!(outcome.event, Some(Event::StandingRevoked { id: "standing-1".into() }));
    assert_eq!(refused(&chain, &|_| ()), "STANDING_GRANT_REVOKED");
}

#[test]
fn windows_by_ledger_time() {
    let w = world();
    // NOW is Friday 2027-01-15, 08:00 UTC.
    let window = |days: &[Day], from_hour, to_hour| Window {
        tenants: set(&["acme"]),
        actions: set(&["deploy", "heal"]),
        days: days.iter().copied().collect(),
        from_hour,
        to_hour,
    };
    let cases = [
        (window(&[Day::Fri], 8, 9), true),
        (window(&[Day::Fri], 9, 8), false),
        (window(&[Day::Thu], 9, 8), false),
        (window(&[Day::Thu], 22, 9), true),
        (window(&[Day::Sat], 0, 24), false),
        (window(&[], 0, 8), false),
        (window(&[], 8, 24), true),
    ];
    for (n, (window, open)) in cases.into_iter().enumerate() {
        let chain = under(&w, |d| d.windows = vec![window]);
        let outcome = chain.decide(&signed(&w, &deploy_intent("intent-0001", "edge")));
        assert_eq!(outcome.verdict.code(), if open { "" } else { "OUTSIDE_WINDOW" }, "case {n}");
    }
    let mut chain = under(&w, |d| d.windows = vec![window(&[], 8, 9)]);
    chain.active(&w, "intent-0001", "edge");
    chain.time = NOW.plus(3601);
    let mut it =
        intent("intent-0002", "edge", IntentKind::Heal(Heal { targets: vec![], cause: "gone".into() }));
    it.not_after = NOW.plus(9000);
    chain.refuse(signed(&w, &it), "LEASE_ENDED");
}

#[test]
fn supply() {
    let w = world();
    let contents = ImageContents {
        complete: false,
        licences: set(&["MIT OR Apache-2.0", "AGPL-3.0-only"]),
        components: set(&["pkg:cargo/openssl@1.0"]),
    };
    let with = |contents: Option<ImageContents>, change: &dyn Fn(&mut PolicyData)| {
        let mut data = policy().data().unwrap();
        change(&mut data);
        let mut chain = Chain::founded(&w, policy().with_data(&data));
        let mut fw = vnf(&w, "vfw_vnf");
        fw.images[0].contents = contents;
        for package in [fw, vnf(&w, "vlb_vnf"), nsd()] {
            chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
        }
        chain.decide(&signed(&w, &deploy_intent("intent-0001", "edge"))).verdict.code().to_owned()
    };
    let known = Some(contents);
    assert_eq!(with(known.clone(), &|_| ()), "");
    assert_eq!(
        with(known.clone(), &|d| d.supply.complete_sbom_from = Some(Sensitivity::Internal)),
        "SBOM_INCOMPLETE"
    );
    assert_eq!(with(known.clone(), &|d| d.supply.complete_sbom_from = Some(Sensitivity::Confidential)), "");
    assert_eq!(
        with(known.clone(), &|d| d.supply.denied_licences = set(&["AGPL-3.0-only"])),
        "LICENCE_DENIED"
    );
    assert_eq!(
        with(known.clone(), &|d| d.supply.denied_licences = set(&["MIT"])),
        "",
        "there is another to choose"
    );
    assert_eq!(
        with(known.clone(), &|d| d.supply.denied_licences = set(&["MIT", "Apache-2.0"])),
        "LICENCE_DENIED"
    );
    let deny = |id: String| {
        move |d: &mut PolicyData| drop(d.supply.denied.insert(id.clone(), "CVE-2014-0160".into()))
    };
    assert_eq!(with(known.clone(), &deny("pkg:cargo/openssl@1.0".into())), "COMPONENT_DENIED");
    assert_eq!(with(None, &deny(nsd().digest.to_string())), "COMPONENT_DENIED");
    assert_eq!(with(None, &deny(Digest::of("the data plane").to_string())), "COMPONENT_DENIED");
    let only = |orgs: &'static [&'static str]| {
        move |d: &mut PolicyData| drop(d.supply.providers.insert("acme".into(), set(orgs)))
    };
    assert_eq!(with(None, &only(&["prov"])), "");
    assert_eq!(with(None, &only(&["globex"])), "SUPPLIER_NOT_ALLOWED");
    let built = |by: &'static str| {
        move |d: &mut PolicyData| drop(d.supply.builders.insert("default".into(), set(&[by])))
    };
    assert_eq!(with(None, &built(ledger_contract::policy::DEFAULT_BUILDER)), "");
    assert_eq!(with(None, &built("https://other.example")), "SUPPLIER_NOT_ALLOWED");
}

#[test]
fn quotas_at_a_site_and_of_virtual_functions() {
    let w = world();
    let limit = ResourceUse { instances: 6, vcpus: 100, memory_mib: 100_000, ..ResourceUse::default() };
    let at = |it: &mut Intent| {
        if let IntentKind::Deploy(d) = &mut it.action {
            d.placement.sites = vec!["edge-1".into()]
        }
    };
    let mut chain =
        under(&w, |d| d.quotas.get_mut("default").unwrap().sites = [("edge-1".to_owned(), limit)].into());
    let outcome = chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    assert_eq!(granted(outcome.event).site_quotas["edge-1"], limit);
    // Nobody knows yet where that will run: it may be there.
    let mut second = deploy_intent("intent-0002", "second");
    at(&mut second);
    chain.refuse(signed(&w, &second), "SITE_QUOTA_EXCEEDED");
    let ns = ledger_contract::intent::ns_instance_id("acme", "edge", "intent-0001");
    let mut done = anchor("op-1", "intent-0001", &ns, "COMPLETED");
    let elsewhere = ResourceUse { instances: 3, ..nsd().resources };
    let here = ResourceUse { instances: 1, ..ResourceUse::default() };
    done.sites = Some([("edge-2".to_owned(), elsewhere), ("edge-1".to_owned(), here)].into());
    chain.approve(sign(ANCHOR_PAYLOAD, &done, &w.orchestrator));
    second.id = "intent-0003".into();
    let outcome = chain.approve(signed(&w, &second));
    assert_eq!(granted(outcome.event).site_quotas["edge-1"].instances, 5);
    chain.approve(signed(&w, &intent("intent-0004", "edge", IntentKind::Terminate {})));
    chain.approve(sign(ANCHOR_PAYLOAD, &anchor("op-4", "intent-0004", &ns, "COMPLETED"), &w.orchestrator));
    assert!(chain.get::<Usage>("usage/acme").unwrap().sites.is_empty());

    let mut chain = Chain::founded(&w, {
        let mut data = policy().data().unwrap();
        (
            data.quotas.get_mut("default").unwrap().vfs,
            data.quotas.get_mut("default").unwrap().bandwidth_mbps,
        ) = (Some(1), Some(10));
        policy().with_data(&data)
    });
    let mut ns = nsd();
    ns.resources.vfs = 2;
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), ns] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let outcome = chain.refuse(signed(&w, &deploy_intent("intent-0001", "edge")), "QUOTA_EXCEEDED");
    assert_eq!(outcome.verdict.detail(), "0 virtual functions in use, 2 more asked for, quota 1");
}
