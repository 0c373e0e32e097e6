//! Every action: when it is approved, what it reserves, what each outcome leaves, and that its approval verifies.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::*;
use ledger_contract::{
    Constitution,
    approval::{ActuatorPolicy, verify},
    intent::{
        Heal, Intent, IntentKind, Isolate, Migrate, PlacementHints, Rollback, ScaleDirection, Target, Update,
        VnfParams, parameters_digest,
    },
    records::{ANCHOR_PAYLOAD, Event, Grant, PACKAGE_PAYLOAD, PackageRecord, ResourceUse},
    state::{MAX_BEHIND, RefusedRecord, ServiceRecord, ServiceState, Usage, refused_key},
};
use trust::Digest;

fn service(chain: &Chain) -> ServiceRecord {
    chain.get("service/acme/edge").unwrap()
}

fn usage(chain: &Chain) -> Usage {
    chain.get("usage/acme").unwrap_or_default()
}

fn approve(w: &World, chain: &mut Chain, it: &Intent) -> Grant {
    let outcome = chain.approve(signed(w, it));
    let policies = [policy().digest()].into();
    let policy = ActuatorPolicy {
        constitution: &Constitution::pinned(LEDGER, &w.roots, policies),

        at: chain.time.plus(10),
    };
    verify(&chain.last(), &policy).unwrap();
    match outcome.event {
        Some(Event::IntentApproved { grant }) => *grant,
        other => panic!("{other:?}"),
    }
}

fn close(w: &World, chain: &mut Chain, id: &str, outcome: &str) {
    let ns = service(chain).ns_instance_id;
    chain.approve(sign(ANCHOR_PAYLOAD, &anchor(&format!("op-{id}"), id, &ns, outcome), &w.orchestrator));
}

/// A second version of the NSD: larger by one instance, with a VNF package of its own.
fn second(w: &World, chain: &mut Chain) -> PackageRecord {
    let mut vlb = vnf(w, "vlb_vnf");
    (vlb.digest, vlb.version) = (Digest::of("vlb 2"), "2.0".into());
    chain.approve(sign(PACKAGE_PAYLOAD, &vlb, &w.provider));
    let mut ns = nsd();
    (ns.digest, ns.version) = (Digest::of("ns 2"), "2.0".into());
    ns.constituents.insert("vlb_vnf".into(), vlb.digest);
    ns.resources = ns.resources.plus(&one());
    chain.approve(sign(PACKAGE_PAYLOAD, &ns, &w.provider));
    ns
}

fn one() -> ResourceUse {
    ResourceUse { instances: 1, vcpus: 1, memory_mib: 512, ..ResourceUse::default() }
}

fn weights(n: u32) -> BTreeMap<String, VnfParams> {
    [("vlb".to_owned(), VnfParams { weights: vec![n], ..VnfParams::default() })].into()
}

fn update(id: &str, nsd_package: Digest, vnf_params: BTreeMap<String, VnfParams>) -> Intent {
    let update = Update { nsd_package, sla: None, lease_s: None, vnf_params };
    intent(id, "edge", IntentKind::Update(Box::new(update)))
}

fn rollback(id: &str, to: &str, nsd_package: Digest, vnf_params: BTreeMap<String, VnfParams>) -> Intent {
    let it = Rollback { to: to.into(), nsd_package, vnf_params, reason: "it lost packets".into() };
    intent(id, "edge", IntentKind::Rollback(Box::new(it)))
}

fn heal(id: &str) -> Intent {
    intent(id, "edge", IntentKind::Heal(Heal { targets: vec![], cause: "an instance is gone".into() }))
}

fn isolate(id: &str) -> Intent {
    let it = Isolate { targets: vec![], capture_ms: 100, reason: "it scans its neighbours".into() };
    intent(id, "edge", IntentKind::Isolate(it))
}

fn migrate(id: &str, members: &[&str]) -> Intent {
    let members = members.iter().map(|m| (*m).to_owned()).collect();
    intent(id, "edge", IntentKind::Migrate(Migrate { members, placement: PlacementHints::default() }))
}

fn running() -> (World, Chain) {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    (w, chain)
}

#[test]
fn an_update_is_a_new_revision_and_a_rollback_refuses_it_from_then_on() {
    let (w, mut chain) = running();
    let base = nsd().resources;
    let v2 = second(&w, &mut chain);
    let grant = approve(&w, &mut chain, &update("intent-0002", v2.digest, weights(7)));
    assert_eq!(grant.packages["secure_edge_ns"], v2.digest);
    assert_eq!((grant.lease_until, grant.packages.len()), (None, 3));
    assert_eq!(service(&chain).nsd_package, nsd().digest, "the old one runs until the evidence is there");
    assert_eq!(usage(&chain).resources, base.plus(&one()), "the larger of both");
    close(&w, &mut chain, "intent-0002", "COMPLETED");
    let now = service(&chain);
    assert_eq!((now.nsd_package, now.reserved), (v2.digest, base.plus(&one())));
    assert_eq!(now.packages["vlb_vnf"], Digest::of("vlb 2"));
    assert_eq!(now.former.iter().map(|r| r.intent_id.as_str()).collect::<Vec<_>>(), ["intent-0001"]);

    // What never was, or was otherwise, is no revision.
    chain.refuse(
        signed(&w, &rollback("intent-0003", "intent-9999", nsd().digest, BTreeMap::new())),
        "NO_SUCH_REVISION",
    );
    chain.refuse(
        signed(&w, &rollback("intent-0004", "intent-0001", nsd().digest, weights(1))),
        "REVISION_MISMATCH",
    );
    approve(&w, &mut chain, &rollback("intent-0005", "intent-0001", nsd().digest, BTreeMap::new()));
    assert_eq!(usage(&chain).resources, base.plus(&one()), "both until it is done");
    close(&w, &mut chain, "intent-0005", "COMPLETED");
    let back = service(&chain);
    assert_eq!((back.nsd_package, back.reserved, back.former.len()), (nsd().digest, base, 0));
    assert_eq!(usage(&chain).resources, base);

    // From now on nothing of the tenant's may name what was left behind; what both have may be named.
    let refused = |d: &Digest| chain.get::<RefusedRecord>(&refused_key("acme", d)).is_some();
    for bad in [v2.digest, Digest::of("vlb 2"), parameters_digest(&weights(7))] {
        assert!(refused(&bad), "{bad}");
    }
    assert!(!refused(&nsd().digest) && !refused(&vnf(&w, "vfw_vnf").digest));
    let outcome =
        chain.refuse(signed(&w, &update("intent-0006", v2.digest, BTreeMap::new())), "DIGEST_REFUSED");
    assert!(outcome.verdict.detail().contains("intent-0005"), "{}", outcome.verdict.detail());
    chain.refuse(signed(&w, &update("intent-0007", nsd().digest, weights(7))), "DIGEST_REFUSED");
    let mut again = deploy_intent("intent-0008", "other");
    if let IntentKind::Deploy(d) = &mut again.action {
        d.nsd_package = v2.digest;
    }
    chain.refuse(signed(&w, &again), "DIGEST_REFUSED");
    approve(&w, &mut chain, &update("intent-0009", nsd().digest, weights(8)));
}

#[test]
fn updates_that_are_none() {
    let (w, mut chain) = running();
    chain.refuse(signed(&w, &update("intent-0002", nsd().digest, BTreeMap::new())), "NOTHING_TO_UPDATE");
    let mut other = nsd();
    (other.digest, other.descriptor_id) = (Digest::of("other"), "other_ns".into());
    chain.approve(sign(PACKAGE_PAYLOAD, &other, &w.provider));
    chain.refuse(signed(&w, &update("intent-0003", other.digest, BTreeMap::new())), "OTHER_NSD");
    chain.refuse(
        signed(&w, &update("intent-0004", Digest::of("?"), BTreeMap::new())),
        "PACKAGE_NOT_REGISTERED",
    );
    // The lease is renewed, by what the policy allows, also after its end.
    let mut renew = update("intent-0005", nsd().digest, BTreeMap::new());
    renew.not_after = NOW.plus(10_000);
    let lease = |it: &mut Intent, s| {
        if let IntentKind::Update(u) = &mut it.action {
            u.lease_s = Some(s)
        }
    };
    lease(&mut renew, u64::MAX);
    chain.refuse(signed(&w, &renew), "LEASE_TOO_LONG");
    chain.time = NOW.plus(5000);
    for (id, action) in
        [("intent-0006", heal("intent-0006").action), ("intent-0007", migrate("x", &[]).action)]
    {
        let mut late = intent(id, "edge", action);
        late.not_after = NOW.plus(10_000);
        chain.refuse(signed(&w, &late), "LEASE_ENDED");
    }
    renew.id = "intent-0008".into();
    lease(&mut renew, 600);
    let grant = approve(&w, &mut chain, &renew);
    assert_eq!(grant.lease_until, Some(NOW.plus(5600)));
    assert_eq!(service(&chain).lease_until, NOW.plus(3600));
    close(&w, &mut chain, "intent-0008", "COMPLETED");
    assert_eq!(service(&chain).lease_until, NOW.plus(5600));
}

#[test]
fn what_an_operation_leaves_by_its_outcome() {
    let base = nsd().resources;
    type Make = fn(&World, &mut Chain) -> Intent;
    let cases: [(Make, ResourceUse, ServiceState, ResourceUse); 5] = [
        (
            |w, c| update("intent-0002", second(w, c).digest, BTreeMap::new()),
            one(),
            ServiceState::Active,
            base.plus(&one()),
        ),
        (|_, _| migrate("intent-0002", &[]), base, ServiceState::Active, base),
        (|_, _| migrate("intent-0002", &["vlb"]), one(), ServiceState::Active, base),
        (|_, _| heal("intent-0002"), ResourceUse::default(), ServiceState::Active, base),
        (|_, _| isolate("intent-0002"), ResourceUse::default(), ServiceState::Isolated, base),
    ];
    for (n, (make, asked, completed, charged)) in cases.into_iter().enumerate() {
        for outcome in ["COMPLETED", "ROLLED_BACK", "FAILED"] {
            let (w, mut chain) = running();
            let it = make(&w, &mut chain);
            approve(&w, &mut chain, &it);
            assert_eq!(usage(&chain).resources, base.plus(&asked), "case {n}");
            chain.refuse(signed(&w, &heal("intent-0003")), "OPERATION_IN_FLIGHT");
            close(&w, &mut chain, "intent-0002", outcome);
            let (state, left) = match outcome {
                "COMPLETED" => (completed, charged),
                "ROLLED_BACK" => (ServiceState::Active, base),
                _ => (ServiceState::Broken, base.plus(&asked)),
            };
            let now = service(&chain);
            assert_eq!(
                (now.state, now.reserved, now.in_flight.clone()),
                (state, left, None),
                "case {n} {outcome}"
            );
            let used = usage(&chain);
            assert_eq!((used.resources, used.unplaced), (left, ResourceUse::default()), "case {n} {outcome}");
            chain.approve(signed(&w, &intent("intent-0004", "edge", IntentKind::Terminate {})));
            close(&w, &mut chain, "intent-0004", "COMPLETED");
            assert_eq!(usage(&chain), Usage::default());
        }
    }
}

#[test]
fn isolated_and_broken_services_are_healed_isolated_or_terminated() {
    for broken in [true, false] {
        let (w, mut chain) = running();
        approve(&w, &mut chain, &isolate("intent-0002"));
        close(&w, &mut chain, "intent-0002", if broken { "FAILED" } else { "COMPLETED" });
        let mut n = 3;
        let mut next = |make: &dyn Fn(&str) -> Intent| {
            n += 1;
            make(&format!("intent-000{n}"))
        };
        for make in [
            &(|id: &str| update(id, nsd().digest, weights(3))) as &dyn Fn(&str) -> Intent,
            &|id| migrate(id, &[]),
            &|id| scale_intent(id, "edge", ScaleDirection::ScaleOut, 1),
        ] {
            chain.refuse(signed(&w, &next(make)), "SERVICE_NOT_ACTIVE");
        }
        let it = next(&isolate);
        approve(&w, &mut chain, &it);
        close(&w, &mut chain, &it.id, "COMPLETED");
        let it = next(&heal);
        approve(&w, &mut chain, &it);
        close(&w, &mut chain, &it.id, "COMPLETED");
        assert_eq!(service(&chain).state, ServiceState::Active);
    }
}

#[test]
fn members_and_forms() {
    let (w, chain) = running();
    let target = |member: &str| Target { member: member.into(), vdu: "v".into(), index: 0 };
    let with = |mut it: Intent, change: &dyn Fn(&mut IntentKind)| {
        change(&mut it.action);
        it
    };
    let cases = [
        ("NO_SUCH_MEMBER", migrate("intent-0002", &["vpn"])),
        ("INVALID_INTENT", migrate("intent-0002", &["vlb", "vlb"])),
        (
            "INVALID_INTENT",
            with(heal("intent-0002"), &|a| {
                if let IntentKind::Heal(h) = a {
                    h.cause = " ".into()
                }
            }),
        ),
        (
            "NO_SUCH_MEMBER",
            with(heal("intent-0002"), &|a| {
                if let IntentKind::Heal(h) = a {
                    h.targets = vec![target("x")]
                }
            }),
        ),
        (
            "INVALID_INTENT",
            with(heal("intent-0002"), &|a| {
                if let IntentKind::Heal(h) = a {
                    h.targets = vec![target("x"); 2]
                }
            }),
        ),
        (
            "INVALID_INTENT",
            with(isolate("intent-0002"), &|a| {
                if let IntentKind::Isolate(i) = a {
                    i.capture_ms = 10_001
                }
            }),
        ),
    ];
    for (n, (code, it)) in cases.into_iter().enumerate() {
        let outcome = chain.decide(&signed(&w, &it));
        assert_eq!(outcome.verdict.code(), code, "case {n}: {}", outcome.verdict.detail());
    }
}

#[test]
fn dependencies_exist_are_the_tenants_and_have_not_failed() {
    let (w, mut chain) = running();
    let after = |id: &str, on: &[&str]| {
        let mut it = deploy_intent(id, "second");
        it.depends_on = on.iter().map(|s| (*s).to_owned()).collect();
        it
    };
    let code = |chain: &Chain, on: &[&str]| {
        chain.decide(&signed(&w, &after("intent-0099", on))).verdict.code().to_owned()
    };
    assert_eq!(code(&chain, &["intent-0001"]), "");
    assert_eq!(code(&chain, &["intent-0098"]), "NO_SUCH_DEPENDENCY");
    assert_eq!(code(&chain, &["intent-0099"]), "INVALID_INTENT");
    assert_eq!(code(&chain, &["intent-0001", "intent-0001"]), "INVALID_INTENT");
    chain.refuse(signed(&w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleIn, 5)), "SCALE_LEVEL");
    assert_eq!(code(&chain, &["intent-0002"]), "DEPENDENCY_NOT_APPROVED");
    approve(&w, &mut chain, &heal("intent-0003"));
    assert_eq!(code(&chain, &["intent-0003"]), "", "waiting for it is the orchestrator's");
    close(&w, &mut chain, "intent-0003", "ROLLED_BACK");
    assert_eq!(code(&chain, &["intent-0001", "intent-0003"]), "DEPENDENCY_FAILED");
    let mut globex = after("intent-0097", &["intent-0001"]);
    globex.tenant = "globex".into();
    let outcome = chain.decide(&sign(ledger_contract::intent::INTENT_PAYLOAD, &globex, &w.globex));
    assert_eq!(outcome.verdict.code(), "NO_SUCH_DEPENDENCY", "nobody learns of another tenant's intents");
}

/// The state that every action reads is named before the decision.
#[test]
fn reads_are_named() {
    let (w, mut chain) = running();
    let v2 = second(&w, &mut chain);
    approve(&w, &mut chain, &update("intent-0002", v2.digest, weights(7)));
    close(&w, &mut chain, "intent-0002", "COMPLETED");
    approve(&w, &mut chain, &rollback("intent-0003", "intent-0001", nsd().digest, BTreeMap::new()));
    close(&w, &mut chain, "intent-0003", "COMPLETED");
    let mut late = heal("intent-0009");
    late.depends_on = vec!["intent-0002".into()];
    for it in [
        update("intent-0009", v2.digest, BTreeMap::new()),
        update("intent-0009", nsd().digest, weights(7)),
        rollback("intent-0009", "intent-0001", nsd().digest, BTreeMap::new()),
        heal("intent-0009"),
        late,
        isolate("intent-0009"),
        migrate("intent-0009", &["vfw"]),
    ] {
        let request = signed(&w, &it);
        let everything = ledger_contract::Snapshot(chain.state.clone());
        assert_eq!(
            chain.decide(&request),
            ledger_contract::contract::decide(&request, &everything, &chain.tx())
        );
    }
}

/// What cuts off or ends is approved whatever is under way; its evidence comes after that of what it ended; and nothing is
/// charged twice or forgotten, whichever of them leaves the service gone.
#[test]
fn isolation_and_termination_do_not_wait() {
    let base = nsd().resources;
    for outcome in ["COMPLETED", "ROLLED_BACK", "FAILED"] {
        let (w, mut chain) = running();
        approve(&w, &mut chain, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1));
        chain.refuse(signed(&w, &heal("intent-0003")), "OPERATION_IN_FLIGHT");
        approve(&w, &mut chain, &isolate("intent-0004"));
        approve(&w, &mut chain, &intent("intent-0005", "edge", IntentKind::Terminate {}));
        chain.refuse(signed(&w, &heal("intent-0006")), "OPERATION_IN_FLIGHT");
        let grown = usage(&chain).resources;
        assert_eq!(
            (grown.instances, service(&chain).reserved),
            (base.instances + 1, grown),
            "they ask for nothing"
        );
        let ns = service(&chain).ns_instance_id;
        let early = |id: &str| {
            sign(ANCHOR_PAYLOAD, &anchor(&format!("op-{id}"), id, &ns, "COMPLETED"), &w.orchestrator)
        };
        chain.refuse(early("intent-0005"), "NOT_IN_FLIGHT");
        chain.refuse(early("intent-0004"), "NOT_IN_FLIGHT");
        close(&w, &mut chain, "intent-0002", outcome);
        let kept = if outcome == "ROLLED_BACK" { base } else { grown };
        assert_eq!((service(&chain).reserved, usage(&chain).resources), (kept, kept), "{outcome}");
        let broken = outcome == "FAILED";
        assert_eq!(service(&chain).state, if broken { ServiceState::Broken } else { ServiceState::Active });
        chain.refuse(early("intent-0002"), "ALREADY_ANCHORED");
        chain.refuse(early("intent-0005"), "NOT_IN_FLIGHT");
        close(&w, &mut chain, "intent-0004", "COMPLETED");
        assert_eq!(service(&chain).state, ServiceState::Isolated);
        close(&w, &mut chain, "intent-0005", "COMPLETED");
        assert_eq!(usage(&chain), Usage::default(), "{outcome}");
        chain.approve(signed(&w, &deploy_intent("intent-0007", "edge")));
    }
}

#[test]
fn what_is_gone_before_its_evidence_is_there_is_charged_for_nothing() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    for id in ["intent-0002", "intent-0003"] {
        chain.approve(signed(&w, &intent(id, "edge", IntentKind::Terminate {})));
    }
    // The deployment had not begun: nothing is left of it, and two intents wait for their evidence still.
    close(&w, &mut chain, "intent-0001", "ROLLED_BACK");
    assert_eq!(usage(&chain), Usage::default());
    assert!(service(&chain).gone);
    chain.refuse(signed(&w, &isolate("intent-0004")), "NO_SUCH_SERVICE");
    chain.refuse(signed(&w, &deploy_intent("intent-0005", "edge")), "SERVICE_EXISTS");
    close(&w, &mut chain, "intent-0002", "COMPLETED");
    assert_eq!(usage(&chain), Usage::default(), "given back once");
    close(&w, &mut chain, "intent-0003", "ROLLED_BACK");
    chain.approve(signed(&w, &deploy_intent("intent-0006", "edge")));
    assert_eq!(usage(&chain).services, 1);
}

#[test]
fn who_may_end_what_is_under_way_and_how_often() {
    let (w, mut chain) = running();
    approve(&w, &mut chain, &migrate("intent-0002", &[]));
    // Nobody else, under nobody's name; and not the orchestrator by itself.
    let cut = isolate("intent-0003");
    let by = |it: &Intent, who| chain.decide(&sign(ledger_contract::intent::INTENT_PAYLOAD, it, who));
    assert_eq!(by(&cut, &w.globex).verdict.code(), "TENANT_MISMATCH");
    assert_eq!(by(&cut, &w.operator).verdict.code(), "ROLE_NOT_ALLOWED");
    assert_eq!(by(&cut, &w.orchestrator).verdict.code(), "ROLE_NOT_ALLOWED");
    for n in 0..MAX_BEHIND {
        approve(&w, &mut chain, &isolate(&format!("intent-1{n:03}")));
    }
    chain.refuse(signed(&w, &isolate("intent-2000")), "OPERATION_IN_FLIGHT");
    chain.refuse(signed(&w, &isolate("intent-1000")), "REPLAYED");
    close(&w, &mut chain, "intent-0002", "FAILED");
    approve(&w, &mut chain, &isolate("intent-2001"));
}
