//! What is approved, what is refused and by which code; the life of a quota; determinism.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use common::*;
use ledger_contract::{
    Outcome,
    contract::{NOT_EVALUATED, decide},
    intent::{INTENT_PAYLOAD, Intent, IntentKind, ScaleDirection, Sensitivity, ns_instance_id},
    policy::{Assurance, BySensitivity, DEFAULT_BUILDER},
    records::{AK_PAYLOAD, ANCHOR_PAYLOAD, Event, ImageRecord, PACKAGE_PAYLOAD, PackageRecord, ResourceUse},
    state::{ServiceRecord, ServiceState, Usage},
};
use proptest::prelude::*;
use trust::{Digest, Envelope, UnixTime};

fn usage(chain: &Chain) -> Usage {
    chain.get("usage/acme").unwrap_or_default()
}

/// So many services, with what they use, and what of it is nowhere yet.
fn charged(services: u32, resources: ResourceUse, unplaced: ResourceUse) -> Usage {
    Usage { services, resources, unplaced, ..Usage::default() }
}

#[test]
fn an_approved_deployment() {
    let (w, id) = (world(), "intent-0001");
    let mut chain = Chain::ready(&w);
    let outcome = chain.approve(signed(&w, &deploy_intent(id, "edge")));
    let rules: Vec<_> = outcome.verdict.rules.iter().map(|r| r.rule.as_str()).collect();
    assert_eq!(
        rules,
        [
            "authentication/signature",
            "authorization/role",
            "authorization/organisation",
            "authorization/tenant",
            "authorization/break-glass",
            "authorization/attributes",
            "authorization/signatures",
            "form/intent",
            "freshness/expiry",
            "freshness/replay",
            "compliance/dependencies",
            "compliance/state",
            "compliance/in-flight",
            "provenance/registered",
            "provenance/constituents",
            "provenance/signature",
            "provenance/not-revoked",
            "provenance/supplier",
            "provenance/sbom",
            "provenance/sbom-complete",
            "provenance/licences",
            "provenance/denied",
            "provenance/slsa-level",
            "provenance/refused-digest",
            "compliance/revision",
            "compliance/members",
            "compliance/scaling",
            "quota/services",
            "quota/instances",
            "quota/vcpus",
            "quota/memory",
            "quota/vfs",
            "quota/bandwidth",
            "quota/sites",
            "compliance/lease",
            "compliance/window",
            "compliance/sovereignty",
            "compliance/sensitivity",
            "tenant/no-open-admin-ports",
            "tenant/no-unprotected-vip",
            "tenant/weights-in-range",
        ]
    );
    let Some(Event::IntentApproved { grant }) = outcome.event else { panic!("no grant") };
    assert_eq!(grant.ns_instance_id, ns_instance_id("acme", "edge", id));
    assert_eq!(grant.packages.keys().collect::<Vec<_>>(), ["secure_edge_ns", "vfw_vnf", "vlb_vnf"]);
    assert_eq!(grant.attestation_keys, [ak("edge-1")]);
    assert_eq!(grant.policy, policy().digest());
    assert_eq!(grant.lease_until, Some(NOW.plus(3600)));
    assert!(!grant.attestation_required);
    assert_eq!(usage(&chain).services, 1);
    assert_eq!(usage(&chain).resources, nsd().resources);
}

/// One case: what is sent to a ready ledger, and the code it is refused with.
type Case = (&'static str, fn(&World, &mut Chain) -> Envelope);

fn with(change: impl FnOnce(&mut Intent)) -> Intent {
    let mut it = deploy_intent("intent-0001", "edge");
    change(&mut it);
    it
}

fn deploy_with(change: impl FnOnce(&mut ledger_contract::intent::Deploy)) -> Intent {
    with(|i| {
        if let IntentKind::Deploy(d) = &mut i.action {
            change(d);
        }
    })
}

fn package(w: &World, chain: &mut Chain, record: &PackageRecord) {
    chain.approve(sign(PACKAGE_PAYLOAD, record, &w.provider));
}

/// A second NSD with a VNF package of its own, registered, and a deploy intent for it.
fn with_vnf(
    w: &World,
    chain: &mut Chain,
    sensitivity: Sensitivity,
    change: impl FnOnce(&mut PackageRecord),
) -> Envelope {
    let mut vnf = vnf(w, "other_vnf");
    change(&mut vnf);
    package(w, chain, &vnf);
    let mut ns = nsd();
    (ns.digest, ns.descriptor_id) = (Digest::of("other ns"), "other_ns".into());
    ns.constituents = [("other_vnf".to_owned(), vnf.digest)].into();
    package(w, chain, &ns);
    signed(w, &deploy_with(|d| (d.nsd_package, d.sensitivity) = (ns.digest, sensitivity)))
}

fn params(json: serde_json::Value) -> Intent {
    deploy_with(|d| d.vnf_params = serde_json::from_value(json).unwrap())
}

const REFUSALS: &[Case] = &[
    ("BAD_SIGNATURE", |w, _| {
        let mut e = signed(w, &deploy_intent("intent-0001", "edge"));
        e.payload = payload(&deploy_intent("intent-0002", "edge"));
        e
    }),
    ("IDENTITY_UNKNOWN_ORG", |w, _| sign(INTENT_PAYLOAD, &with(|_| ()), &w.stranger)),
    ("IDENTITY_NOT_VALID", |w, _| sign(INTENT_PAYLOAD, &with(|_| ()), &w.expired)),
    ("ROLE_NOT_ALLOWED", |w, _| sign(INTENT_PAYLOAD, &with(|_| ()), &w.provider)),
    ("ROLE_NOT_ALLOWED", |w, _| sign(PACKAGE_PAYLOAD, &vnf(w, "x"), &w.acme)),
    ("ROLE_NOT_ALLOWED", |w, _| sign(AK_PAYLOAD, &ak("x"), &w.orchestrator)),
    ("ROLE_NOT_ALLOWED", |w, _| sign(ANCHOR_PAYLOAD, &anchor("op-1", "i", "n", "COMPLETED"), &w.operator)),
    ("ORG_NOT_ALLOWED", |w, _| sign(ANCHOR_PAYLOAD, &anchor("op-1", "i", "n", "COMPLETED"), &w.usurper)),
    ("ORG_NOT_ALLOWED", |w, _| sign(INTENT_PAYLOAD, &with(|i| i.tenant = "globex".into()), &w.impostor)),
    ("TENANT_MISMATCH", |w, _| sign(INTENT_PAYLOAD, &with(|_| ()), &w.globex)),
    ("INVALID_INTENT", |w, _| signed(w, &with(|i| i.id = "short".into()))),
    ("INVALID_INTENT", |w, _| signed(w, &with(|i| i.service = "a/b".into()))),
    ("INVALID_INTENT", |w, _| signed(w, &with(|i| i.api_version = "v0".into()))),
    ("INVALID_INTENT", |w, _| signed(w, &deploy_with(|d| d.lease_s = 0))),
    ("INVALID_INTENT", |w, _| {
        signed(w, &deploy_with(|d| d.placement.jurisdictions = vec!["Germany".into()]))
    }),
    ("INVALID_INTENT", |w, _| signed(w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 0))),
    ("EXPIRED", |w, _| signed(w, &with(|i| i.not_after = UnixTime(NOW.0 - 1)))),
    ("REPLAYED", |w, c| {
        let e = signed(w, &with(|_| ()));
        c.approve(e.clone());
        e
    }),
    ("REPLAYED", |w, c| {
        let mut e = signed(w, &with(|_| ()));
        c.approve(e.clone());
        e.cosign(&w.auditor).unwrap();
        e
    }),
    ("INTENT_ID_REUSED", |w, c| {
        c.approve(signed(w, &with(|_| ())));
        signed(w, &with(|i| i.service = "another".into()))
    }),
    ("SERVICE_EXISTS", |w, c| {
        c.active(w, "intent-0001", "edge");
        signed(w, &deploy_intent("intent-0002", "edge"))
    }),
    ("NO_SUCH_SERVICE", |w, _| signed(w, &intent("intent-0002", "edge", IntentKind::Terminate {}))),
    ("NO_SUCH_SERVICE", |w, _| signed(w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1))),
    ("OPERATION_IN_FLIGHT", |w, c| {
        c.approve(signed(w, &with(|_| ())));
        signed(w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1))
    }),
    ("PACKAGE_NOT_REGISTERED", |w, _| {
        signed(w, &deploy_with(|d| d.nsd_package = Digest::of("one byte changed")))
    }),
    ("PACKAGE_KIND", |w, _| signed(w, &deploy_with(|d| d.nsd_package = vnf(w, "vfw_vnf").digest))),
    ("CONSTITUENT_NOT_REGISTERED", |w, c| {
        let mut ns = nsd();
        ns.digest = Digest::of("other ns");
        ns.constituents.insert("missing_vnf".into(), Digest::of("missing"));
        package(w, c, &ns);
        signed(w, &deploy_with(|d| d.nsd_package = ns.digest))
    }),
    ("CONSTITUENT_MISMATCH", |w, c| {
        let mut ns = nsd();
        ns.digest = Digest::of("other ns");
        ns.constituents = [("vfw_vnf".to_owned(), vnf(w, "vlb_vnf").digest)].into();
        package(w, c, &ns);
        signed(w, &deploy_with(|d| d.nsd_package = ns.digest))
    }),
    ("PACKAGE_SIGNATURE", |w, c| {
        // The provider's certificate was revoked after it registered its packages.
        let mut root = w.roots.orgs["prov"].clone();
        root.revoked.insert("0d".into());
        c.state.insert("org/prov".into(), payload(&root));
        signed(w, &with(|_| ()))
    }),
    ("SBOM_MISSING", |w, c| with_vnf(w, c, Sensitivity::Public, |p| p.images[0].sbom = None)),
    ("SBOM_MISSING", |w, c| with_vnf(w, c, Sensitivity::Internal, |p| p.images.clear())),
    ("SLSA_LEVEL_TOO_LOW", |w, c| with_vnf(w, c, Sensitivity::Internal, |p| p.images[0].provenance = None)),
    ("BUILDER_NOT_TRUSTED", |w, c| {
        with_vnf(w, c, Sensitivity::Internal, |p| {
            p.images[0].provenance = Some(provenance(w, p.images[0].digest, "https://evil.example"));
        })
    }),
    ("PROVENANCE_INVALID", |w, c| {
        with_vnf(w, c, Sensitivity::Internal, |p| {
            p.images[0].provenance = Some(provenance(w, Digest::of("another image"), "https://evil.example"));
        })
    }),
    ("PROVENANCE_INVALID", |w, c| {
        with_vnf(w, c, Sensitivity::Public, |p| {
            p.images[0].provenance.as_mut().unwrap().signatures[0].sig[10] ^= 1;
        })
    }),
    ("QUOTA_EXCEEDED", |w, c| {
        for i in 0..4 {
            c.active(w, &format!("intent-100{i}"), &format!("edge-{i}"));
        }
        signed(w, &deploy_intent("intent-0001", "edge"))
    }),
    ("QUOTA_EXCEEDED", |w, c| {
        c.active(w, "intent-0001", "edge");
        signed(w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 29))
    }),
    ("NO_SUCH_ASPECT", |w, c| {
        c.active(w, "intent-0001", "edge");
        let mut it = scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1);
        if let IntentKind::Scale(s) = &mut it.action {
            s.aspect = "sideways".into();
        }
        signed(w, &it)
    }),
    ("SCALE_LEVEL", |w, c| {
        c.active(w, "intent-0001", "edge");
        signed(w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleIn, 5))
    }),
    ("LEASE_TOO_LONG", |w, _| signed(w, &deploy_with(|d| d.lease_s = 2_592_001))),
    ("LEASE_ENDED", |w, c| {
        c.active(w, "intent-0001", "edge");
        c.time = NOW.plus(3601);
        let mut it = scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1);
        it.not_after = NOW.plus(7200);
        signed(w, &it)
    }),
    ("JURISDICTION_REQUIRED", |w, _| signed(w, &deploy_with(|d| d.sensitivity = Sensitivity::Restricted))),
    ("JURISDICTION_NOT_ALLOWED", |w, _| {
        signed(
            w,
            &deploy_with(|d| {
                d.sensitivity = Sensitivity::Restricted;
                d.placement.jurisdictions = vec!["DE".into(), "US".into()];
            }),
        )
    }),
    ("NO_ATTESTATION_KEY", |w, c| {
        c.state.remove("ak/edge-1");
        signed(w, &deploy_with(|d| d.sensitivity = Sensitivity::Confidential))
    }),
    ("ADMIN_PORT_OPEN", |w, _| {
        let rule = serde_json::json!({"id": "ssh", "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "20-25"});
        signed(w, &params(serde_json::json!({"vfw": {"rules": [rule]}})))
    }),
    ("ADMIN_PORT_OPEN", |w, _| {
        let rule = serde_json::json!({"id": "all", "from": "outside", "action": "allow", "source": "::/0"});
        signed(w, &params(serde_json::json!({"vfw": {"rules": [rule]}})))
    }),
    ("ADMIN_PORT_OPEN", |w, _| {
        let half = |id: &str, source: &str| serde_json::json!({"id": id, "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "22", "source": source});
        let rules = [half("low", "0.0.0.0/1"), half("high", "128.0.0.0/1")];
        signed(w, &params(serde_json::json!({"vfw": {"rules": rules}})))
    }),
    ("VIP_WITHOUT_FIREWALL", |w, _| {
        let vip = serde_json::json!({"id": "web", "address": "203.0.113.10", "protocol": 6, "port": 80});
        signed(w, &params(serde_json::json!({"vlb": {"vips": [vip]}})))
    }),
    ("WEIGHT_OUT_OF_RANGE", |w, _| signed(w, &params(serde_json::json!({"vlb": {"weights": [1, 0]}})))),
    ("REPLAYED", |w, _| sign(PACKAGE_PAYLOAD, &nsd(), &w.provider)),
    ("PACKAGE_EXISTS", |w, _| {
        let mut ns = nsd();
        ns.resources.vcpus = 1;
        sign(PACKAGE_PAYLOAD, &ns, &w.provider)
    }),
    ("INVALID_PACKAGE", |w, _| {
        let mut p = vnf(w, "x");
        p.constituents = nsd().constituents;
        sign(PACKAGE_PAYLOAD, &p, &w.provider)
    }),
    ("REPLAYED", |w, _| sign(AK_PAYLOAD, &ak("edge-1"), &w.operator)),
    ("INVALID_ATTESTATION_KEY", |w, _| sign(AK_PAYLOAD, &ak("a/b"), &w.operator)),
    ("NO_SUCH_INTENT", |w, _| {
        sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-9999", "n", "COMPLETED"), &w.orchestrator)
    }),
    ("INVALID_ANCHOR", |w, _| {
        sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-9999", "n", "FINE"), &w.orchestrator)
    }),
    ("INVALID_ANCHOR", |w, c| {
        c.approve(signed(w, &with(|_| ())));
        let ns = ns_instance_id("acme", "edge", "intent-0001");
        let mut a = anchor("op-1", "intent-0001", &ns, "COMPLETED");
        a.isolated = true;
        sign(ANCHOR_PAYLOAD, &a, &w.orchestrator)
    }),
    ("INTENT_NOT_APPROVED", |w, c| {
        c.submit(signed(w, &deploy_with(|d| d.lease_s = u64::MAX)));
        sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-0001", "n", "FAILED"), &w.orchestrator)
    }),
    ("NS_INSTANCE_MISMATCH", |w, c| {
        c.approve(signed(w, &with(|_| ())));
        sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-0001", "ns-other", "COMPLETED"), &w.orchestrator)
    }),
    ("ALREADY_ANCHORED", |w, c| {
        let ns = c.active(w, "intent-0001", "edge");
        let mut again = anchor("op-intent-0001", "intent-0001", &ns, "COMPLETED");
        again.bundle = Digest::of("other evidence");
        sign(ANCHOR_PAYLOAD, &again, &w.orchestrator)
    }),
    ("NOT_IN_FLIGHT", |w, c| {
        let ns = c.active(w, "intent-0001", "edge");
        sign(ANCHOR_PAYLOAD, &anchor("op-second", "intent-0001", &ns, "COMPLETED"), &w.orchestrator)
    }),
    ("ALREADY_FOUNDED", |w, _| genesis(w, policy())),
    ("INVALID_REQUEST", |w, _| sign("text/plain", &"hello", &w.acme)),
];

#[test]
fn every_refusal_has_its_code() {
    let w = world();
    let ready = Chain::ready(&w);
    for (n, (code, case)) in REFUSALS.iter().enumerate() {
        let mut chain = ready.clone();
        let request = case(&w, &mut chain);
        let outcome = if *code == "INVALID_REQUEST" {
            decide(&request, &Default::default(), &chain.tx())
        } else {
            chain.decide(&request)
        };
        assert!(!outcome.verdict.approved, "case {n}: {code}");
        assert_eq!(outcome.verdict.code(), *code, "case {n}: {:#?}", outcome.verdict.rules);
        assert!(outcome.event.is_none(), "case {n}");
        let only_the_intent = outcome.writes.keys().all(|k| k.starts_with("intent/"));
        assert!(only_the_intent, "case {n}: a refusal wrote {:?}", outcome.writes.keys());
        let unlisted = outcome.verdict.rules.iter().filter(|r| !r.passed && r.code.is_empty());
        assert_eq!(unlisted.count(), 0, "case {n}");
    }
}

#[test]
fn every_verdict_of_an_intent_lists_the_same_rules() {
    let w = world();
    let ready = Chain::ready(&w);
    let names =
        |o: &ledger_contract::Outcome| o.verdict.rules.iter().map(|r| r.rule.clone()).collect::<Vec<_>>();
    let approved = names(&ready.decide(&signed(&w, &deploy_intent("intent-0001", "edge"))));
    for (n, (_, case)) in REFUSALS.iter().enumerate() {
        let mut chain = ready.clone();
        let request = case(&w, &mut chain);
        if request.payload_type == INTENT_PAYLOAD {
            assert_eq!(names(&chain.decide(&request)), approved, "case {n}");
        }
    }
}

#[test]
fn what_could_not_be_evaluated_says_so_and_is_not_the_cause() {
    let w = world();
    let outcome = Chain::ready(&w).decide(&sign(INTENT_PAYLOAD, &with(|_| ()), &w.globex));
    assert_eq!(outcome.verdict.code(), "TENANT_MISMATCH");
    let last = outcome.verdict.rules.last().unwrap();
    assert_eq!((last.code.as_str(), last.passed), (NOT_EVALUATED, false));
    assert!(last.detail.contains("authorization/tenant"), "{}", last.detail);
    assert!(outcome.writes.is_empty(), "who may not ask leaves no trace");
}

#[test]
fn with_an_open_policy_organisations_vouch_but_never_for_operators() {
    let w = world();
    let mut chain = Chain::founded(&w, open_policy());
    let it = sign(INTENT_PAYLOAD, &with(|i| i.tenant = "globex".into()), &w.impostor);
    chain.refuse(it, "PACKAGE_NOT_REGISTERED");
    chain.refuse(sign(ANCHOR_PAYLOAD, &anchor("op-1", "i", "n", "FAILED"), &w.usurper), "ORG_NOT_ALLOWED");
}

#[test]
fn life_of_a_quota() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let base = nsd().resources;
    let step = ResourceUse { instances: 1, vcpus: 1, memory_mib: 256, ..ResourceUse::default() };
    let close = |c: &mut Chain, op: &str, id: &str, ns: &str, outcome: &str| {
        c.approve(sign(ANCHOR_PAYLOAD, &anchor(op, id, ns, outcome), &w.orchestrator));
    };
    // Deploy, rolled back: everything is given back, and the name is free again.
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    assert_eq!(usage(&chain), charged(1, base, base));
    close(&mut chain, "op-1", "intent-0001", &ns_instance_id("acme", "edge", "intent-0001"), "ROLLED_BACK");
    assert_eq!(usage(&chain), Usage::default());
    assert!(chain.get::<ServiceRecord>("service/acme/edge").is_none());
    // Deploy again.
    let ns = chain.active(&w, "intent-0002", "edge");
    let service: ServiceRecord = chain.get("service/acme/edge").unwrap();
    assert_eq!((service.state, service.reserved, service.in_flight), (ServiceState::Active, base, None));
    // Scale out: reserved at once, kept when completed.
    chain.approve(signed(&w, &scale_intent("intent-0003", "edge", ScaleDirection::ScaleOut, 2)));
    assert_eq!(usage(&chain).resources, base.plus(&step.times(2)));
    close(&mut chain, "op-3", "intent-0003", &ns, "COMPLETED");
    assert_eq!(usage(&chain).resources, base.plus(&step.times(2)));
    // Scale out, rolled back: given back.
    chain.approve(signed(&w, &scale_intent("intent-0004", "edge", ScaleDirection::ScaleOut, 3)));
    assert_eq!(usage(&chain).resources, base.plus(&step.times(5)));
    close(&mut chain, "op-4", "intent-0004", &ns, "ROLLED_BACK");
    assert_eq!(usage(&chain).resources, base.plus(&step.times(2)));
    // Scale in: given back only when it has happened.
    for (n, (outcome, left)) in [("ROLLED_BACK", 2), ("COMPLETED", 1)].into_iter().enumerate() {
        let id = format!("intent-005{n}");
        chain.approve(signed(&w, &scale_intent(&id, "edge", ScaleDirection::ScaleIn, 1)));
        assert_eq!(usage(&chain).resources, base.plus(&step.times(2)));
        close(&mut chain, &format!("op-5{n}"), &id, &ns, outcome);
        assert_eq!(usage(&chain).resources, base.plus(&step.times(left)));
    }
    // Terminate, failed: still there. Terminate: gone.
    for (id, outcome) in [("intent-0006", "FAILED"), ("intent-0007", "COMPLETED")] {
        chain.approve(signed(&w, &intent(id, "edge", IntentKind::Terminate {})));
        assert_eq!(usage(&chain).services, 1);
        close(&mut chain, &format!("op-{id}"), id, &ns, outcome);
    }
    assert_eq!(usage(&chain), Usage::default());
    assert!(!chain.state.contains_key("service/acme/edge"));
}

#[test]
fn an_isolated_service_keeps_what_it_has_until_it_is_terminated() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    let ns = ns_instance_id("acme", "edge", "intent-0001");
    let mut isolated = anchor("op-1", "intent-0001", &ns, "FAILED");
    isolated.isolated = true;
    chain.approve(sign(ANCHOR_PAYLOAD, &isolated, &w.orchestrator));
    assert_eq!(usage(&chain), charged(1, nsd().resources, ResourceUse::default()));
    let scale = scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1);
    chain.refuse(signed(&w, &scale), "SERVICE_NOT_ACTIVE");
    chain.refuse(signed(&w, &deploy_intent("intent-0003", "edge")), "SERVICE_EXISTS");
    for (id, outcome, state) in
        [("intent-0004", "FAILED", Some(ServiceState::Isolated)), ("intent-0005", "COMPLETED", None)]
    {
        chain.approve(signed(&w, &intent(id, "edge", IntentKind::Terminate {})));
        chain.approve(sign(ANCHOR_PAYLOAD, &anchor(&format!("op-{id}"), id, &ns, outcome), &w.orchestrator));
        assert_eq!(chain.get::<ServiceRecord>("service/acme/edge").map(|s| s.state), state);
    }
    assert_eq!(usage(&chain), Usage::default());
}

/// Terminates a broken service of acme: first in vain, then for good.
fn terminate_broken(w: &World, chain: &mut Chain, ns: &str, reserved: ResourceUse) {
    let service = chain.get::<ServiceRecord>("service/acme/edge").unwrap();
    assert_eq!((service.state, service.reserved, service.in_flight), (ServiceState::Broken, reserved, None));
    assert_eq!(usage(chain), charged(1, reserved, ResourceUse::default()));
    for direction in [ScaleDirection::ScaleOut, ScaleDirection::ScaleIn] {
        chain.refuse(signed(w, &scale_intent("intent-0007", "edge", direction, 1)), "SERVICE_NOT_ACTIVE");
        chain.state.remove("intent/intent-0007");
    }
    chain.refuse(signed(w, &deploy_intent("intent-0008", "edge")), "SERVICE_EXISTS");
    for (id, outcome) in [("intent-0009", "FAILED"), ("intent-0010", "COMPLETED")] {
        assert_eq!(chain.get::<ServiceRecord>("service/acme/edge").unwrap().state, ServiceState::Broken);
        chain.approve(signed(w, &intent(id, "edge", IntentKind::Terminate {})));
        chain.approve(sign(ANCHOR_PAYLOAD, &anchor(&format!("op-{id}"), id, ns, outcome), &w.orchestrator));
    }
    assert_eq!(usage(chain), Usage::default());
    assert!(!chain.state.contains_key("service/acme/edge"));
}

#[test]
fn a_failed_deployment_keeps_its_reservation_until_it_is_terminated() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(signed(&w, &deploy_intent("intent-0001", "edge")));
    let ns = ns_instance_id("acme", "edge", "intent-0001");
    chain.approve(sign(ANCHOR_PAYLOAD, &anchor("op-1", "intent-0001", &ns, "FAILED"), &w.orchestrator));
    terminate_broken(&w, &mut chain, &ns, nsd().resources);
}

#[test]
fn a_failed_scaling_keeps_the_larger_reservation() {
    let step = ResourceUse { instances: 1, vcpus: 1, memory_mib: 256, ..ResourceUse::default() };
    let more = nsd().resources.plus(&step);
    for (direction, reserved) in
        [(ScaleDirection::ScaleOut, more), (ScaleDirection::ScaleIn, nsd().resources)]
    {
        let w = world();
        let mut chain = Chain::ready(&w);
        let ns = chain.active(&w, "intent-0001", "edge");
        chain.approve(signed(&w, &scale_intent("intent-0002", "edge", direction, 1)));
        chain.approve(sign(ANCHOR_PAYLOAD, &anchor("op-2", "intent-0002", &ns, "FAILED"), &w.orchestrator));
        terminate_broken(&w, &mut chain, &ns, reserved);
    }
}

#[test]
fn administration_is_open_only_to_a_source_that_is_known() {
    let w = world();
    let sources = [
        ("198.51.0.0/16", true),
        ("10.0.0.0/8", true),
        ("8.0.0.0/7", false),
        ("0.0.0.0/1", false),
        ("2001:db8::/32", true),
        ("2001::/16", true),
        ("2000::/3", false),
        ("8000::/1", false),
    ];
    for (source, allowed) in sources {
        let rule = serde_json::json!({"id": "ssh", "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "22", "source": source});
        let request = signed(&w, &params(serde_json::json!({"vfw": {"rules": [rule]}})));
        assert_eq!(Chain::ready(&w).decide(&request).verdict.approved, allowed, "{source}");
    }
    // A bundle that forgot the bound is strict, not open.
    let mut data = policy().data().unwrap();
    data.tenant = serde_json::json!({"admin_ports": [22]});
    let mut chain = Chain::founded(&w, policy().with_data(&data));
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let rule = serde_json::json!({"id": "ssh", "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "22", "source": "10.0.0.0/8"});
    chain.refuse(signed(&w, &params(serde_json::json!({"vfw": {"rules": [rule]}}))), "ADMIN_PORT_OPEN");
}

#[test]
fn every_grant_names_the_images_of_its_packages() {
    let w = world();
    let mut chain = Chain::founded(&w, policy());
    let mut other = vnf(&w, "vlb_vnf");
    let second = Digest::of("another data plane");
    other.images.push(ImageRecord {
        digest: second,
        provenance: Some(provenance(&w, second, DEFAULT_BUILDER)),
        provenance_bundle: None,
        ..image(&w)
    });
    for package in [vnf(&w, "vfw_vnf"), other, nsd()] {
        chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let images = BTreeSet::from([image(&w).digest, second]);
    let granted = |o: Outcome| match o.event {
        Some(Event::IntentApproved { grant }) => grant.images,
        other => panic!("no grant but {other:?}"),
    };
    let ns = chain.active(&w, "intent-0001", "edge");
    chain.approve(signed(&w, &deploy_intent("intent-0002", "other")));
    assert_eq!(granted(chain.decide(&signed(&w, &deploy_intent("intent-0003", "third")))), images);
    assert_eq!(
        granted(chain.decide(&signed(&w, &scale_intent("intent-0003", "edge", ScaleDirection::ScaleOut, 1)))),
        images
    );
    assert_eq!(
        granted(chain.decide(&signed(&w, &intent("intent-0003", "edge", IntentKind::Terminate {})))),
        images
    );
    assert!(!ns.is_empty());
}

#[test]
fn a_quota_exceeded_says_the_numbers() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    let outcome =
        chain.decide(&signed(&w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 29)));
    let rule = outcome.verdict.rules.iter().find(|r| r.rule == "quota/instances").unwrap();
    assert_eq!(rule.detail, "4 instances in use, 29 more asked for, quota 32");
}

#[test]
fn confidential_services_are_attested() {
    let w = world();
    let mut chain = Chain::ready(&w);
    let outcome = chain.approve(signed(&w, &deploy_with(|d| d.sensitivity = Sensitivity::Confidential)));
    let Some(Event::IntentApproved { grant }) = outcome.event else { panic!("no grant") };
    assert!(grant.attestation_required);
}

#[test]
fn a_demand_for_a_tee_refuses_with_a_clear_reason() {
    let w = world();
    let mut asks = policy();
    let mut data = asks.data().unwrap();
    data.assurance = Some(BySensitivity {
        public: Assurance::None,
        internal: Assurance::Measured,
        confidential: Assurance::None,
        restricted: Assurance::Tee,
    });
    asks = asks.with_data(&data);
    let decided = |sensitivity: Sensitivity| {
        let mut chain = Chain::founded(&w, asks.clone());
        for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
            chain.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
        }
        chain.approve(sign(ledger_contract::records::AK_PAYLOAD, &ak("edge-1"), &w.operator));
        let intent = deploy_with(|d| {
            (d.sensitivity, d.lease_s) = (sensitivity, 600);
            d.placement.jurisdictions = vec!["AT".into()];
        });
        chain.submit(signed(&w, &intent))
    };
    let refused = decided(Sensitivity::Restricted);
    assert_eq!(refused.verdict.code(), "NO_TEE");
    assert!(refused.verdict.detail().contains("measured launch"), "{}", refused.verdict.detail());
    assert!(refused.event.is_none());
    // The other levels, and confidential services are measured whatever the policy says.
    for (sensitivity, attested) in
        [(Sensitivity::Public, false), (Sensitivity::Internal, true), (Sensitivity::Confidential, true)]
    {
        let outcome = decided(sensitivity);
        let Some(Event::IntentApproved { grant }) = outcome.event else { panic!("{:?}", outcome.verdict) };
        assert_eq!((grant.attestation_required, grant.tee_required), (attested, false), "{sensitivity:?}");
    }
}

#[test]
fn an_unfounded_or_damaged_state_refuses() {
    let w = world();
    let chain = Chain::ready(&w);
    let it = signed(&w, &with(|_| ()));
    let code = |change: fn(&mut ledger_contract::Snapshot)| {
        let mut state = chain.snapshot(&it);
        change(&mut state);
        decide(&it, &state, &chain.tx()).verdict.code().to_owned()
    };
    assert_eq!(code(|s| s.0.clear()), "NO_GENESIS");
    assert_eq!(code(|s| s.insert("genesis", b"?".to_vec())), "STATE_DAMAGED");
    assert_eq!(code(|s| s.insert("usage/acme", b"{}x".to_vec())), "STATE_DAMAGED");
    assert_eq!(code(|s| drop(s.0.remove("policy/active"))), "POLICY_ERROR");
    assert_eq!(code(|s| s.0.retain(|k, _| !k.starts_with("policy/sha"))), "POLICY_ERROR");
    assert_eq!(code(|s| s.0.retain(|k, _| !k.starts_with("org/"))), "IDENTITY_UNKNOWN_ORG");
    let elsewhere = ledger_contract::TxInfo { ledger: "other".into(), ..chain.tx() };
    assert_eq!(decide(&it, &chain.snapshot(&it), &elsewhere).verdict.code(), "WRONG_LEDGER");
}

/// The decision reads what its read set names and nothing else, and that is found in at most three rounds.
#[test]
fn reads_are_named_before_the_decision() {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    let requests = [
        signed(&w, &deploy_intent("intent-0002", "other")),
        signed(&w, &scale_intent("intent-0002", "edge", ScaleDirection::ScaleOut, 1)),
        signed(&w, &intent("intent-0002", "edge", IntentKind::Terminate {})),
    ];
    for request in requests {
        let named = chain.snapshot(&request);
        let everything = ledger_contract::Snapshot(chain.state.clone());
        let tx = chain.tx();
        let (a, b) = (decide(&request, &named, &tx), decide(&request, &everything, &tx));
        assert!(a.verdict.approved, "{:#?}", a.verdict);
        assert_eq!(a, b);
        assert!(named.0.len() < chain.state.len());
        let fixpoint = ledger_contract::read_set(&request, &named).unwrap();
        assert!(named.0.keys().all(|k| fixpoint.contains(k)));
        assert!(fixpoint.iter().all(|k| named.0.contains_key(k) == chain.state.contains_key(k)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any order in which the snapshot was filled gives the same bytes, and so does deciding twice.
    #[test]
    fn deterministic(order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(), case in 0..REFUSALS.len()) {
        let w = world();
        let mut chain = Chain::ready(&w);
        let request = REFUSALS[case].1(&w, &mut chain);
        prop_assume!(request.payload_type != "text/plain");
        let snapshot = chain.snapshot(&request);
        let pairs: Vec<_> = snapshot.0.iter().collect();
        let mut shuffled = ledger_contract::Snapshot::default();
        for i in order.iter().filter(|i| **i < pairs.len()) {
            shuffled.insert(pairs[*i].0.clone(), pairs[*i].1.clone());
        }
        prop_assume!(pairs.len() <= order.len());
        let first = decide(&request, &snapshot, &chain.tx());
        prop_assert_eq!(&first, &decide(&request, &shuffled, &chain.tx()));
        prop_assert_eq!(first.writes_digest(), decide(&request, &snapshot, &chain.tx()).writes_digest());
    }

    /// Whatever bytes come, nothing panics and nothing is approved.
    #[test]
    fn rubbish_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in 0usize..2000) {
        let w = world();
        let chain = Chain::ready(&w);
        let mut it = signed(&w, &deploy_intent("intent-0001", "edge"));
        it.payload = bytes;
        prop_assert!(!decide(&it, &Default::default(), &chain.tx()).verdict.approved);
        let mut json = signed(&w, &deploy_intent("intent-0001", "edge")).to_json();
        let n = json.len();
        json[flip % n] ^= 1;
        if let Ok(altered) = Envelope::from_json(&json)
            && let Ok(state) = ledger_contract::contract::snapshot::<()>(&altered, |k| Ok(chain.state.get(k).cloned()))
            && altered.to_json() == json
        {
            prop_assert!(!decide(&altered, &state, &chain.tx()).verdict.approved);
        }
    }
}

/// What is hashed has the envelope in its one encoding, however serde_json orders the keys of a map.
#[test]
fn entries_and_records_keep_an_envelope_in_its_own_encoding() {
    let w = world();
    let mut chain = Chain::founded(&w, policy());
    let request = sign(PACKAGE_PAYLOAD, &vnf(&w, "vfw_vnf"), &w.provider);
    chain.approve(request.clone());
    let json = String::from_utf8(request.to_json()).unwrap();
    assert!(json.starts_with(r#"{"payloadType":"#), "{json}");
    assert!(chain.entries[1].contains(&json));
    let package = chain.state.iter().find(|(k, _)| k.starts_with("package/")).unwrap();
    assert!(String::from_utf8_lossy(package.1).contains(&json));
}

/// What a thread remembers of earlier decisions changes no decision: neither other roots nor another time nor another
/// policy find the result of the first.
#[test]
fn a_thread_that_remembers_decides_as_one_that_does_not() {
    let w = world();
    let ready = Chain::ready(&w);
    let mut revoked = ready.clone();
    let mut root: trust::identity::OrgRoot = ready.get("org/prov").unwrap();
    root.revoked = BTreeSet::from(["0d".to_owned()]);
    revoked.state.insert("org/prov".into(), payload(&root));
    let mut data = policy().data().unwrap();
    data.tenant =
        serde_json::json!({"admin_ports": [80], "admin_source_min_prefix": {"ipv4": 8, "ipv6": 16}});
    let mut strict = Chain::founded(&w, policy().with_data(&data));
    for package in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        strict.approve(sign(PACKAGE_PAYLOAD, &package, &w.provider));
    }
    let rule = serde_json::json!({"id": "web", "from": "outside", "action": "allow", "protocol": 6, "destination_ports": "80"});
    let request = signed(&w, &params(serde_json::json!({"vfw": {"rules": [rule]}})));
    let chains = [(ready, ""), (revoked, "PACKAGE_SIGNATURE"), (strict, "ADMIN_PORT_OPEN")];
    for (chain, code) in chains.iter().chain(&chains) {
        let warm = chain.decide(&request);
        assert_eq!(warm.verdict.code(), *code, "{:#?}", warm.verdict);
        let cold = std::thread::scope(|s| s.spawn(|| chain.decide(&request)).join().unwrap());
        assert_eq!(warm, cold);
    }
}
