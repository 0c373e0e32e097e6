//! An operation that was carried out and attested by a software key, ready to be told; tests change what it tells.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use attestation::{
    AkRecord, Claim, Evidence, Measurement, MeasurementKind, ReferenceValues, Workload, ak, appraise, log,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dataplane_control::traffic::{Expectation, FlowGroup, GroupReport, TrafficProfile, TrafficReport};
use ledger_contract::{
    VerifiedBundle,
    bundle::{BundleError, assemble},
    evidence::{
        ATTESTATION, AttestationClaim, DECISION, DecisionClaim, Link, MEASUREMENT, MeasurementClaim, OUTCOME,
        OutcomeClaim, PLAN, PlanClaim, PlannedStep, Receipt, STEP, STEPS, StepClaim, StepsClaim,
        challenge_nonce, objectives,
    },
    intent::{Intent, IntentKind, ScaleDirection, Sensitivity, ns_instance_id},
    records::{AK_PAYLOAD, ANCHOR_PAYLOAD, Anchor},
    verify_bundle,
};
use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use serde::Serialize;
use trust::{
    Digest, Signer,
    statement::{ResourceDescriptor, Statement},
};

use crate::common::*;

pub const BASELINE: Digest = Digest([0; 32]);
const PCR: u8 = 14;

/// What a line after the plan tells.
#[derive(Clone)]
pub enum Told {
    Step(StepClaim),
    /// A line of its own, whatever it holds.
    Run(Vec<StepClaim>),
    Attestation(Box<AttestationClaim>),
    Measurement(Box<MeasurementClaim>),
}

pub struct Operation {
    pub w: World,
    pub chain: Chain,
    pub intent: Digest,
    pub plan: PlanClaim,
    /// Ensure network, ensure compute, attest, measure.
    pub told: Vec<Told>,
    pub outcome: OutcomeClaim,
    pub anchor: Anchor,
    /// Does each step have a line, as earlier versions wrote it?
    pub a_line_each: bool,
    /// Who signs line n, when not the orchestrator.
    pub signer: Option<(usize, Signer)>,
    /// The line that follows another one than it should.
    pub unlinked: Option<usize>,
    /// What becomes of the lines before they are anchored.
    pub edit: fn(&mut Vec<String>),
    /// Positions of the changes of the rules that the receipt brings.
    pub followed: Vec<u64>,
}

fn key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

pub fn software_ak() -> AkRecord {
    let point = key().verifying_key().to_sec1_point(false);
    let public_key = ak::public_key(point.x().unwrap(), point.y().unwrap()).unwrap();
    AkRecord { public_key, pcr: PCR, pcr_baseline: BASELINE, ..ak("edge-1") }
}

/// What an honest machine that runs just the reference would send.
pub fn evidence(reference: &ReferenceValues, nonce: &Digest) -> Evidence {
    let launch = |(seq, (instance, w)): (usize, (&String, &Workload))| {
        let kind = MeasurementKind::Launch {
            instance: instance.clone(),
            image: w.image,
            configuration: w.configuration,
        };
        log::encode(&Measurement { seq: seq as u64, kind })
    };
    let log: Vec<String> = reference.workloads.iter().enumerate().map(launch).collect();
    let claim = |(instance, w): (&String, &Workload)| Claim {
        instance: instance.clone(),
        image: w.image,
        configuration: w.configuration,
        generation: 1,
        isolated: false,
    };
    let claims: Vec<Claim> = reference.workloads.iter().map(claim).collect();
    let claims = serde_json::to_string(&claims).unwrap();
    let value = log::replay(&BASELINE, log.iter().map(String::as_str)).unwrap().value;
    let extra = Evidence::qualifying_data(nonce, &claims);
    let attest = quote(&extra, &log::quoted_digest(&value));
    let signature: Signature = key().sign(&attest);
    let (r, s) = signature.split_bytes();
    Evidence {
        attest: STANDARD.encode(&attest),
        signature: ak::signature_der(&r, &s).unwrap(),
        ak: software_ak().public_key,
        pcr: PCR,
        pcr_baseline: BASELINE,
        log,
        claims,
    }
}

/// `TPMS_ATTEST` of a quote over [`PCR`].
fn quote(extra: &Digest, pcr_digest: &Digest) -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 0, 0, 32],
        &extra.0,
        &[&[0; 16][..], &[1], &[0x20; 8]].concat(),
        &[0, 0, 0, 1, 0, 0x0b, 3, 0, 1 << (PCR - 8), 0, 0, 32],
        &pcr_digest.0,
    ];
    parts.concat()
}

/// Honest evidence of `step`, whatever the reference.
pub fn attestation(step: u32, reference: ReferenceValues) -> AttestationClaim {
    let entropy = Digest::of("fresh");
    let nonce = challenge_nonce(&entropy, "op-1", step, &reference);
    let evidence = evidence(&reference, &nonce);
    let at = NOW.plus(5);
    let result = appraise(&evidence, &reference, &nonce, at);
    assert!(result.affirming, "{result:?}");
    AttestationClaim { step, entropy, nonce, evidence, reference, at, result }
}

pub fn reference(w: &World) -> ReferenceValues {
    let workload = Workload { image: image(w).digest, configuration: Digest::of("rules") };
    ReferenceValues {
        ak: software_ak(),
        workloads: BTreeMap::from([("vfw".to_owned(), workload)]),
        tee: false,
    }
}

pub fn step(step: u32, action: &str, object: &str) -> StepClaim {
    let observed = match action {
        "ensure compute" => serde_json::json!({"kind": "compute", "image": Digest::of("the data plane")}),
        "ensure image" => serde_json::json!({"kind": "image", "digest": Digest::of("the data plane")}),
        _ => serde_json::json!({"id": "x", "ports": ["a", "b"]}),
    };
    StepClaim { step, action: action.into(), object: object.into(), state: "DONE".into(), observed }
}

pub fn failed(step: u32, action: &str, object: &str) -> Told {
    let observed = serde_json::json!({"code": "WHY", "detail": "because"});
    Told::Step(StepClaim {
        step,
        action: action.into(),
        object: object.into(),
        state: "FAILED".into(),
        observed,
    })
}

pub fn planned(step: u32, action: &str, object: &str) -> PlannedStep {
    PlannedStep {
        step,
        what: format!("step {step}"),
        action: action.into(),
        object: object.into(),
        site: String::new(),
    }
}

pub fn measurement(step: u32) -> MeasurementClaim {
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
        next_hop: None,
    };
    let sent = GroupReport { flows: 4, tx_frames: 500, ..GroupReport::default() };
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
        groups: BTreeMap::from([
            ("in".to_owned(), GroupReport { arrived: 4, ..sent.clone() }),
            ("out".to_owned(), sent),
        ]),
        neighbours: BTreeMap::new(),
    };
    let slo = objectives(&sla, &profile, &report);
    MeasurementClaim { step, sla, profile, report, slo }
}

/// A deployment of a balanced service that must be attested.
pub fn intent() -> Intent {
    let mut it = deploy_intent("intent-0001", "edge");
    if let IntentKind::Deploy(d) = &mut it.action {
        d.sensitivity = Sensitivity::Confidential;
        d.placement.sites = vec!["edge-1".into(), "edge-2".into()];
        let params = serde_json::json!({
            "vfw": {"rules": [{"id": "web", "from": "outside", "action": "allow", "protocol": 17, "destination_ports": "53"}]},
            "vlb": {"vips": [{"id": "web", "address": "203.0.113.10", "protocol": 17, "port": 53}]},
        });
        d.vnf_params = serde_json::from_value(params).unwrap();
    }
    it
}

pub fn operation() -> Operation {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(sign(AK_PAYLOAD, &software_ak(), &w.operator));
    of(w, chain, &intent())
}

/// Scaling out a service that is there.
pub fn scaling() -> Operation {
    let w = world();
    let mut chain = Chain::ready(&w);
    chain.approve(sign(AK_PAYLOAD, &software_ak(), &w.operator));
    chain.approve(signed(&w, &intent()));
    let ns = ns_instance_id("acme", "edge", "intent-0001");
    chain.approve(sign(ANCHOR_PAYLOAD, &anchor("op-0", "intent-0001", &ns, "COMPLETED"), &w.orchestrator));
    of(w, chain, &scale_intent("intent-0005", "edge", ScaleDirection::ScaleOut, 1))
}

/// An operation of acme's, the last thing that the chain has approved.
pub fn of(w: World, mut chain: Chain, it: &Intent) -> Operation {
    let request = signed(&w, it);
    let digest = Digest::of(&request.payload);
    chain.approve(request);
    let steps = vec![
        planned(1, "ensure network", "left"),
        planned(2, "ensure compute", "vfw"),
        planned(3, "attest", ""),
        planned(4, "measure", "probe"),
    ];
    let told = vec![
        Told::Step(step(1, "ensure network", "left")),
        Told::Step(step(2, "ensure compute", "vfw")),
        Told::Attestation(Box::new(attestation(3, reference(&w)))),
        Told::Measurement(Box::new(measurement(4))),
    ];
    Operation {
        intent: digest,
        plan: PlanClaim {
            plan: Digest::of("plan"),
            site: "edge-1".into(),
            refused: vec![("edge-2".into(), "too far".into())],
            steps,
            isolation: vec![planned(5, "isolate", "vfw")],
            before: None,
            after: None,
            unmeasured: None,
        },
        told,
        outcome: OutcomeClaim {
            state: "COMPLETED".into(),
            problem: None,
            leftovers: vec![],
            interventions: vec![],
        },
        anchor: Anchor {
            sla_met: Some(true),
            ..anchor("op-1", &it.id, &ns_instance_id("acme", "edge", "intent-0001"), "COMPLETED")
        },
        a_line_each: false,
        signer: None,
        unlinked: None,
        edit: |_| (),
        followed: vec![],
        w,
        chain,
    }
}

struct Teller<'a> {
    op: &'a Operation,
    lines: Vec<String>,
}

impl Teller<'_> {
    /// The steps since the last line, if there are any.
    fn run(&mut self, steps: &mut Vec<StepClaim>) {
        if !steps.is_empty() {
            self.tell(STEPS, StepsClaim { steps: std::mem::take(steps) });
        }
    }

    fn tell<P: Serialize>(&mut self, kind: &str, claim: P) {
        let index = self.lines.len();
        let mut previous = self.lines.last().map(Digest::of);
        if self.op.unlinked == Some(index) {
            previous = Some(Digest::of("another line"));
        }
        let link =
            Link { operation_id: "op-1".into(), index: u32::try_from(index).unwrap(), previous, claim };
        let subject = vec![ResourceDescriptor::new("intent", self.op.intent)];
        let signer = match &self.op.signer {
            Some((n, signer)) if *n == index => signer,
            _ => &self.op.w.orchestrator,
        };
        let line = Statement::new(subject, kind, link).sign(signer).unwrap().to_json();
        self.lines.push(String::from_utf8(line).unwrap());
    }
}

impl Operation {
    pub fn body(&self) -> Vec<u8> {
        let mut t = Teller { op: self, lines: vec![] };
        t.tell(DECISION, DecisionClaim { approval: self.chain.last() });
        t.tell(PLAN, &self.plan);
        let mut run = Vec::new();
        for told in &self.told {
            match told {
                Told::Step(s) if !self.a_line_each => {
                    run.push(s.clone());
                    continue;
                }
                _ => t.run(&mut run),
            }
            match told {
                Told::Step(s) => t.tell(STEP, s),
                Told::Run(steps) => t.tell(STEPS, StepsClaim { steps: steps.clone() }),
                Told::Attestation(a) => t.tell(ATTESTATION, a),
                Told::Measurement(m) => t.tell(MEASUREMENT, m),
            }
        }
        t.run(&mut run);
        t.tell(OUTCOME, &self.outcome);
        (self.edit)(&mut t.lines);
        t.lines.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect()
    }

    pub fn bundle(&self) -> Vec<u8> {
        let body = self.body();
        let mut chain = self.chain.clone();
        chain.time = NOW.plus(60);
        let anchor = Anchor { bundle: Digest::of(&body), ..self.anchor.clone() };
        chain.submit(sign(ANCHOR_PAYLOAD, &anchor, &self.w.orchestrator));
        chain.submit(signed(&self.w, &deploy_intent("intent-0002", "later")));
        let constitution = self.followed.iter().map(|at| chain.proven(*at)).collect();
        assemble(&body, &Receipt { anchor: chain.proven(chain.entries.len() as u64 - 2), constitution })
    }

    pub fn verify(&self) -> Result<VerifiedBundle, BundleError> {
        verify_bundle(&self.bundle(), &self.w.roots)
    }

    pub fn problem(&self) -> String {
        match self.verify() {
            Ok(_) => "nothing".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    pub fn step(&mut self, index: usize) -> &mut StepClaim {
        match &mut self.told[index] {
            Told::Step(s) => s,
            _ => panic!("line {index} is no step"),
        }
    }

    /// The last attestation.
    pub fn attestation(&mut self) -> &mut AttestationClaim {
        let found = self.told.iter_mut().rev().find_map(|t| match t {
            Told::Attestation(a) => Some(&mut **a),
            _ => None,
        });
        found.unwrap()
    }

    /// The last measurement.
    pub fn measurement(&mut self) -> &mut MeasurementClaim {
        let found = self.told.iter_mut().rev().find_map(|t| match t {
            Told::Measurement(m) => Some(&mut **m),
            _ => None,
        });
        found.unwrap()
    }

    /// The same lie told by everybody: honest evidence for another reference.
    pub fn refer(&mut self, change: impl FnOnce(&mut ReferenceValues)) {
        let claim = self.attestation();
        let mut reference = claim.reference.clone();
        change(&mut reference);
        *claim = attestation(claim.step, reference);
    }

    /// An attestation that fails, honestly told.
    pub fn refuse_attestation(&mut self) {
        let claim = self.attestation();
        claim.evidence.claims = "[]".into();
        claim.result = appraise(&claim.evidence, &claim.reference, &claim.nonce, claim.at);
        assert!(!claim.result.affirming);
    }

    /// A change to the measurement, honestly computed.
    pub fn measure(&mut self, change: impl FnOnce(&mut MeasurementClaim)) {
        let m = self.measurement();
        change(m);
        m.slo = objectives(&m.sla, &m.profile, &m.report);
    }

    /// Ends otherwise.
    pub fn end(&mut self, outcome: &str) {
        self.anchor.outcome = outcome.into();
        self.outcome = OutcomeClaim {
            state: outcome.into(),
            problem: Some("no space".into()),
            leftovers: vec![],
            interventions: vec![],
        };
    }
}
