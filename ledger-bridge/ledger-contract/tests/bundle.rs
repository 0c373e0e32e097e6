//! Evidence bundles: a good one verifies and tells its story; every flipped byte is found and its line named (`--ignored` for
//! all of them); what an
//! orchestrator could lie about is found too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use attestation::{AkRecord, AttestationResult, Evidence, ReferenceValues};
use common::*;
use dataplane_control::traffic::{Expectation, FlowGroup, GroupReport, TrafficProfile, TrafficReport};
use ledger_contract::{
    VerifiedBundle,
    bundle::{BundleError, assemble},
    evidence::{
        ATTESTATION, AttestationClaim, DECISION, DecisionClaim, Link, MEASUREMENT, MeasurementClaim, OUTCOME,
        OutcomeClaim, PLAN, PlanClaim, Receipt, STEP, StepClaim, objectives,
    },
    intent::{IntentKind, Sensitivity, ns_instance_id},
    records::{AK_PAYLOAD, ANCHOR_PAYLOAD, Anchor},
    verify_bundle,
};
use serde::Serialize;
use trust::{
    Digest, Signer,
    statement::{ResourceDescriptor, Statement},
};

/// Evidence that a TPM made, with the key and nonce it was made for.
#[derive(serde::Deserialize)]
struct Recorded {
    evidence: Evidence,
    nonce: Digest,
    reference: ReferenceValues,
}

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("../../../dataplane/attestation/tests/evidence.json")).unwrap()
}

/// An operation that was carried out, ready to be told; tests change what it tells.
struct Operation {
    w: World,
    chain: Chain,
    intent: Digest,
    plan: PlanClaim,
    steps: Vec<StepClaim>,
    attestation: Option<AttestationClaim>,
    measurement: Option<MeasurementClaim>,
    outcome: OutcomeClaim,
    anchor: Anchor,
    /// Who signs line n, when not the orchestrator.
    signer: Option<(usize, Signer)>,
    /// The line that follows another one than it should.
    unlinked: Option<usize>,
    /// What becomes of the lines before they are anchored.
    edit: fn(&mut Vec<String>),
}

fn step(step: u32, action: &str, object: &str) -> StepClaim {
    let observed = serde_json::json!({"id": "x", "ports": ["a", "b"]});
    StepClaim { step, action: action.into(), object: object.into(), state: "DONE".into(), observed }
}

fn measurement() -> MeasurementClaim {
    let sla = deploy(Sensitivity::Public).sla;
    let group = |id: &str, expect| FlowGroup {
        id: id.into(),
        protocol: 17,
        source: "198.18.0.1".parse().unwrap(),
        destination: "203.0.113.10".parse().unwrap(),
        destination_port: 53,
        first: 0,
        count: 4,
        expect,
    };
    let balanced = Expectation::Balanced { backends: vec![], table_size: 7 };
    let profile = TrafficProfile {
        groups: vec![group("in", balanced), group("out", Expectation::Blocked)],
        frame_bytes: 508,
        rate_pps: 1000,
        duration_ms: 1000,
        drain_ms: 100,
    };
    let report = TrafficReport {
        elapsed_us: 1_000_000,
        tx_frames: 1000,
        rx_frames: 1000,
        loss_ppm: 0,
        throughput_kbps: 4000,
        shortfall_frames: 0,
        latency_p50_us: 100,
        latency_p95_us: 200,
        latency_p99_us: 300,
        jitter_us: 10,
        groups: BTreeMap::from([(
            "in".to_owned(),
            GroupReport { flows: 4, arrived: 4, ..GroupReport::default() },
        )]),
        neighbours: BTreeMap::new(),
    };
    let slo = objectives(&sla, &profile, &report);
    MeasurementClaim { sla, profile, report, slo }
}

fn operation() -> Operation {
    let w = world();
    let mut chain = Chain::ready(&w);
    let Recorded { evidence, nonce, reference } = recorded();
    chain.approve(sign(AK_PAYLOAD, &reference.ak, &w.operator));
    let mut it = deploy_intent("intent-0001", "edge");
    if let IntentKind::Deploy(d) = &mut it.action {
        d.sensitivity = Sensitivity::Confidential;
        d.placement.sites = vec!["edge-1".into(), "edge-2".into()];
    }
    let request = signed(&w, &it);
    let intent = Digest::of(&request.payload);
    chain.approve(request);
    let result = attestation::appraise(&evidence, &reference, &nonce, NOW.plus(5));
    assert!(result.affirming, "{result:?}");
    let steps = [(1, "ensure network left"), (2, "ensure compute vfw"), (3, "attest"), (4, "measure")];
    Operation {
        intent,
        plan: PlanClaim {
            plan: Digest::of("plan"),
            site: "edge-1".into(),
            refused: vec![("edge-2".into(), "too far".into())],
            steps: steps.iter().map(|(id, what)| (*id, (*what).to_owned())).collect(),
            isolation: Vec::new(),
        },
        steps: vec![step(1, "ensure network", "left"), step(2, "ensure compute", "vfw")],
        attestation: Some(AttestationClaim { nonce, evidence, reference, at: NOW.plus(5), result }),
        measurement: Some(measurement()),
        outcome: OutcomeClaim { state: "COMPLETED".into(), problem: None },
        anchor: Anchor {
            sla_met: Some(true),
            ..anchor("op-1", "intent-0001", &ns_instance_id("acme", "edge", "intent-0001"), "COMPLETED")
        },
        signer: None,
        unlinked: None,
        edit: |_| (),
        w,
        chain,
    }
}

struct Teller<'a> {
    op: &'a Operation,
    lines: Vec<String>,
}

impl Teller<'_> {
    fn tell<P: Serialize>(&mut self, kind: &str, claim: P) {
        let index = self.lines.len();
        let mut previous = self.lines.last().map(Digest::of);
        if self.op.unlinked == Some(index) {
            previous = Some(Digest::of("another line"));
        }
        let link =
            Link { operation_id: "op-1".into(), index: u32::try_from(index).unwrap(), previous, claim };
        let subject = vec![ResourceDescriptor::new("intent/intent-0001", self.op.intent)];
        let signer = match &self.op.signer {
            Some((n, signer)) if *n == index => signer,
            _ => &self.op.w.orchestrator,
        };
        let line = Statement::new(subject, kind, link).sign(signer).unwrap().to_json();
        self.lines.push(String::from_utf8(line).unwrap());
    }
}

impl Operation {
    fn body(&self) -> Vec<u8> {
        let mut t = Teller { op: self, lines: vec![] };
        t.tell(DECISION, DecisionClaim { approval: self.chain.last() });
        t.tell(PLAN, &self.plan);
        self.steps.iter().for_each(|s| t.tell(STEP, s));
        self.attestation.iter().for_each(|a| t.tell(ATTESTATION, a));
        self.measurement.iter().for_each(|m| t.tell(MEASUREMENT, m));
        t.tell(OUTCOME, &self.outcome);
        (self.edit)(&mut t.lines);
        t.lines.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect()
    }

    fn bundle(&self) -> Vec<u8> {
        let body = self.body();
        let mut chain = self.chain.clone();
        chain.time = NOW.plus(60);
        let anchor = Anchor { bundle: Digest::of(&body), ..self.anchor.clone() };
        chain.submit(sign(ANCHOR_PAYLOAD, &anchor, &self.w.orchestrator));
        chain.submit(signed(&self.w, &deploy_intent("intent-0002", "later")));
        assemble(&body, &Receipt { anchor: chain.proven(chain.entries.len() as u64 - 2) })
    }

    fn verify(&self) -> Result<VerifiedBundle, BundleError> {
        verify_bundle(&self.bundle(), &self.w.roots)
    }

    fn problem(&self) -> String {
        self.verify().unwrap_err().to_string()
    }
}

#[test]
fn a_good_bundle_tells_its_story() {
    let op = operation();
    let it = op.verify().unwrap();
    assert_eq!((it.operation_id.as_str(), it.outcome.as_str(), it.steps), ("op-1", "COMPLETED", 2));
    assert_eq!((it.site.as_deref(), it.attested), (Some("edge-1"), Some(true)));
    assert_eq!(it.tenant_identity.to_string(), "alice@acme");
    assert_eq!(it.orchestrator_identity.to_string(), "orchestrator-1@op");
    assert!(it.slo.iter().all(|o| o.kept) && it.slo.len() == 6);
    assert_eq!(it.anchored, (7, NOW.plus(60)));
    assert!(it.checks.iter().all(|c| c.ok), "{:#?}", it.checks);
    let names: Vec<_> = it.checks.iter().map(|c| c.name.as_str()).collect();
    for expected in [
        "line 1 (decision)",
        "line 4 (step 2, ensure compute vfw)",
        "attestation: NONCE",
        "measurement: loss_ppm",
        "receipt: inclusion",
    ] {
        assert!(names.contains(&expected), "{expected} is not among {names:?}");
    }
}

/// Where a byte of the bundle is: `line n` or `receipt`.
fn part(bytes: &[u8], at: usize) -> String {
    let line = bytes[..at].iter().filter(|b| **b == b'\n').count();
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    if line + 1 == lines { "receipt".to_owned() } else { format!("line {}", line + 1) }
}

/// Every byte; `a_flipped_byte_is_found_and_named` does a sample of them each time.
#[test]
#[ignore = "takes five minutes: verifies the bundle once for each of its bytes"]
fn every_flipped_byte_is_found_and_named() {
    flip(1);
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    flip(61);
}

fn flip(stride: usize) {
    let op = operation();
    let bytes = op.bundle();
    for i in (0..bytes.len()).filter(|i| i % stride == 0 || bytes[*i] == b'\n') {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        let Err(error) = verify_bundle(&changed, &op.w.roots) else { panic!("byte {i} went unnoticed") };
        if bytes[i] != b'\n' {
            let named = error.place.split(' ').take(2).collect::<Vec<_>>().join(" ");
            assert_eq!(named, part(&bytes, i), "byte {i}: {error}");
        }
    }
}

#[test]
fn every_cut_is_found() {
    let op = operation();
    let bytes = op.bundle();
    for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(verify_bundle(&bytes[..end], &op.w.roots).is_err(), "cut at {end}");
    }
    assert!(verify_bundle(&[&bytes[..], b"\n"].concat(), &op.w.roots).is_err());
}

#[test]
fn an_error_says_which_line_and_what() {
    let op = operation();
    let bytes = op.bundle();
    let line = |n: usize| bytes.split(|b| *b == b'\n').take(n).map(|l| l.len() + 1).sum::<usize>();
    let sig = String::from_utf8_lossy(&bytes[line(3)..]).find("\"sig\":\"").unwrap() + line(3) + 40;
    let mut changed = bytes.clone();
    changed[sig] = if changed[sig] == b'A' { b'B' } else { b'A' };
    let error = verify_bundle(&changed, &op.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("line 4 (step 2, ensure compute vfw): signature 0 does not verify"), "{error}");
    let path = String::from_utf8_lossy(&bytes).rfind("\"path\":[\"sha256:").unwrap() + 20;
    let mut changed = bytes.clone();
    changed[path] = if changed[path] == b'a' { b'b' } else { b'a' };
    let error = verify_bundle(&changed, &op.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("receipt: inclusion proof of entry 7 of 9"), "{error}");
}

/// One lie, and what of the complaint must be said.
type Lie = (fn(&mut Operation), &'static str);

const LIES: &[Lie] = &[
    (|o| o.edit = |l| drop(l.remove(2)), "it says it is line 4"),
    (|o| o.edit = |l| l.swap(2, 3), "lines are missing or in another order"),
    (|o| o.edit = |l| drop(l.remove(0)), "evidence begins with the decision"),
    (|o| o.edit = |l| drop(l.pop()), "it has no outcome"),
    (|o| o.edit = |l| l[5].insert(1, ' '), "not in its canonical encoding"),
    (|o| o.unlinked = Some(3), "it does not follow the line before"),
    (|o| o.unlinked = Some(0), "it does not follow the line before"),
    (|o| o.signer = Some((2, o.w.usurper.clone())), "signed by mallory@acme"),
    (|o| o.signer = Some((2, o.w.operator.clone())), "has the role `operator`"),
    (|o| o.plan.site = "far-away".into(), "site `far-away` is none that the intent allows"),
    (|o| o.plan.steps.push((1, "again".into())), "the same id"),
    (|o| o.steps[1].step = 9, "step 9 is not in the plan"),
    (|o| o.steps[1].step = 1, "step 1 is there twice"),
    (|o| o.steps[1].state = "FAILED".into(), "COMPLETED, but step 2 is FAILED"),
    (|o| drop(o.steps.pop()), "3 steps of the plan have no line"),
    (
        |o| {
            o.attestation = None;
            o.plan.steps.remove(2);
        },
        "without the attestation",
    ),
    (|o| o.attestation.as_mut().unwrap().nonce = Digest::of("old"), "appraising the evidence again"),
    (|o| o.attestation.as_mut().unwrap().at = NOW.plus(3000), "outside of the operation"),
    (
        |o| {
            // An appraisal that failed, honestly told, in an operation that calls itself complete.
            let a = o.attestation.as_mut().unwrap();
            a.nonce = Digest::of("old");
            a.result = attestation::appraise(&a.evidence, &a.reference, &a.nonce, a.at);
        },
        "the attestation is not affirming",
    ),
    (
        |o| {
            let a = o.attestation.as_mut().unwrap();
            a.reference.ak = AkRecord { pcr: 7, ..a.reference.ak.clone() };
        },
        "not the one registered",
    ),
    (
        |o| {
            let a = o.attestation.as_mut().unwrap();
            a.result = AttestationResult { affirming: true, checks: vec![] };
        },
        "appraising the evidence again",
    ),
    (|o| o.measurement.as_mut().unwrap().report.loss_ppm = 5000, "computing the objectives again"),
    (|o| o.measurement.as_mut().unwrap().slo[0].measured += 1, "computing the objectives again"),
    (
        |o| {
            let m = o.measurement.as_mut().unwrap();
            m.sla.loss_ppm = 1_000_000;
            m.slo = objectives(&m.sla, &m.profile, &m.report);
        },
        "another SLA",
    ),
    (
        |o| {
            let m = o.measurement.as_mut().unwrap();
            m.report.loss_ppm = 5000;
            m.slo = objectives(&m.sla, &m.profile, &m.report);
        },
        "the anchor says SLA met: Some(true), the measurement: Some(false)",
    ),
    (|o| o.outcome.state = "FAILED".into(), "it says FAILED, the anchor COMPLETED"),
    (|o| o.anchor.operation_id = "op-2".into(), "operation: anchored `op-2`"),
    (|o| o.anchor.intent_id = "intent-0009".into(), "the ledger refused the anchor"),
    (|o| o.anchor.ns_instance_id = "ns-x".into(), "the ledger refused the anchor"),
    (|o| o.w.roots.logs.clear(), "receipt: the checkpoint"),
    (|o| drop(o.w.roots.orgs.remove("op")), "receipt: the anchor's signature"),
    (|o| drop(o.w.roots.orgs.remove("acme")), "line 1 (decision): the approval"),
];

#[test]
fn every_lie_is_found() {
    for (n, (lie, complaint)) in LIES.iter().enumerate() {
        let mut op = operation();
        lie(&mut op);
        let problem = op.problem();
        assert!(problem.contains(complaint), "lie {n}: expected `{complaint}`, got `{problem}`");
    }
}

#[test]
fn a_rolled_back_operation_is_evidence_too() {
    let mut op = operation();
    op.steps[0].state = "UNDONE".into();
    op.steps[1].state = "FAILED".into();
    (op.attestation, op.measurement, op.anchor.sla_met) = (None, None, None);
    op.anchor.outcome = "ROLLED_BACK".into();
    op.outcome = OutcomeClaim { state: "ROLLED_BACK".into(), problem: Some("no space".into()) };
    let it = op.verify().unwrap();
    assert_eq!(
        (it.outcome.as_str(), it.problem.as_deref(), it.attested),
        ("ROLLED_BACK", Some("no space"), None)
    );
    assert!(it.checks.iter().any(|c| !c.ok && c.name == "line 4 (step 2, ensure compute vfw)"));
}

#[test]
fn evidence_of_another_operation_does_not_fit_this_receipt() {
    let (one, mut two) = (operation(), operation());
    two.plan.plan = Digest::of("another plan");
    let receipt = |bytes: &[u8]| bytes[..bytes.len() - 1].rsplit(|b| *b == b'\n').next().unwrap().to_vec();
    let mixed = [one.body(), receipt(&two.bundle()), b"\n".to_vec()].concat();
    let error = verify_bundle(&mixed, &one.w.roots).unwrap_err().to_string();
    assert!(error.starts_with("receipt: bundle digest: anchored"), "{error}");
}
