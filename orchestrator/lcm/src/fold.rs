//! The evidence bundle's body: a closed operation, folded into signed statements.
//!
//! In the order decision, plan, steps by id, outcome. Attestation and measurement are lines of their own; the steps
//! between them are one line, signed once: a signature is most of what a line costs who verifies. Only what was done and found goes in, not how often it was tried, so a crash and a restart leave
//! the same bytes. Each line carries the digest of the line before: a bundle cannot be cut or reordered.

mod told;

use std::collections::BTreeMap;

use dataplane_control::{Configuration, Function, MacAddr};
use ledger_contract::evidence::{
    ATTESTATION, DECISION, DecisionClaim, InstanceClaim, InterventionClaim, Link, MEASUREMENT, OUTCOME,
    OutcomeClaim, PLAN, PlanClaim, PlannedStep, STEP, STEPS, ServiceClaim, StepsClaim,
};
use ledger_contract::intent::parameters_digest;
use serde::Serialize;
use trust::{
    Digest, Signer,
    dsse::DsseError,
    statement::{ResourceDescriptor, Statement},
};

use crate::{
    operation::{EvidenceForm, Intervention, Operation, Outcome, StepResult, StepState},
    plan::{Plan, Step},
    record::{NsRecord, Object},
};
use told::{Told, told};
use vim::Spec;

/// Why there is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// It is not over yet.
    #[error("operation {0} is not closed")]
    Open(String),
    /// It was begun under a standing grant, and the ledger has not approved it yet.
    #[error("operation {0} has no approval yet")]
    Unapproved(String),
    /// Signing failed.
    #[error("the statement could not be signed: {0}")]
    Sign(#[from] DsseError),
}

/// The body: JSON Lines, newlines included.
pub fn body(operation: &Operation, signer: &Signer) -> Result<Vec<u8>, FoldError> {
    let Some(outcome) = &operation.outcome else { return Err(FoldError::Open(operation.id.clone())) };
    let mut lines = Lines::new(operation, signer);
    let Some(approval) = operation.approval() else {
        return Err(FoldError::Unapproved(operation.id.clone()));
    };
    lines.push(DECISION, DecisionClaim { approval: approval.clone() })?;
    for plan in operation.plans() {
        lines.push(PLAN, plan_claim(plan))?;
        for told in told(operation, plan, outcome.evidence) {
            lines.tell(told)?;
        }
    }
    lines.push(OUTCOME, outcome_claim(operation, outcome))?;
    Ok(lines.out)
}

fn outcome_claim(operation: &Operation, outcome: &Outcome) -> OutcomeClaim {
    let intervention = |i: &Intervention| InterventionClaim {
        kind: i.kind.to_owned(),
        by: i.by.clone(),
        reason: i.reason.clone(),
    };
    OutcomeClaim {
        state: outcome.state.name().into(),
        problem: outcome.problem.clone(),
        leftovers: outcome.leftovers.clone(),
        interventions: operation.interventions.iter().map(intervention).collect(),
    }
}

fn plan_claim(plan: &Plan) -> PlanClaim {
    PlanClaim {
        plan: plan.digest(),
        site: plan.site.clone(),
        refused: plan.refused.clone(),
        steps: listed(&plan.steps),
        isolation: listed(&plan.isolation),
        before: plan.before.as_ref().map(service_claim),
        after: plan.after.as_ref().map(service_claim),
        unmeasured: plan.unmeasured.clone(),
    }
}

fn service_claim(record: &NsRecord) -> ServiceClaim {
    let instance = |o: &Object| match &o.spec {
        Spec::Compute(c) => Some(InstanceClaim {
            site: o.site.clone(),
            object: o.key.to_string(),
            image: c.image,
            configuration: Digest::of(c.configuration.as_bytes()),
            policy: policy_of(&c.configuration),
            isolated: record.is_isolated(o),
        }),
        _ => None,
    };
    let mut instances: Vec<InstanceClaim> = record.objects.iter().filter_map(instance).collect();
    instances.sort_by(|a, b| (&a.site, &a.object).cmp(&(&b.site, &b.object)));
    ServiceClaim {
        nsd_package: record.deploy.nsd_package,
        parameters: parameters_digest(&record.deploy.vnf_params),
        instances,
    }
}

/// What a configuration makes an instance do, wherever it runs.
fn policy_of(document: &str) -> Digest {
    let Ok(mut configuration) = Configuration::parse(document.as_bytes()) else {
        return Digest::of(document.as_bytes());
    };
    configuration.generation = 0;
    let nowhere = MacAddr([0; 6]);
    configuration.ports.iter_mut().for_each(|p| p.mac = nowhere);
    if let Function::LoadBalancer(balancer) = &mut configuration.function {
        balancer.backends.iter_mut().for_each(|b| b.mac = nowhere);
    }
    Digest::of(configuration.to_bytes())
}

fn listed(steps: &[Step]) -> Vec<PlannedStep> {
    let planned = |s: &Step| PlannedStep {
        step: s.id,
        what: s.what.clone(),
        action: s.action.name(),
        object: s.action.object().to_owned(),
        site: s.site.clone(),
    };
    steps.iter().map(planned).collect()
}

struct Lines<'a> {
    operation: &'a Operation,
    signer: &'a Signer,
    out: Vec<u8>,
    previous: Option<Digest>,
    index: u32,
}

impl<'a> Lines<'a> {
    fn new(operation: &'a Operation, signer: &'a Signer) -> Self {
        Self { operation, signer, out: Vec::new(), previous: None, index: 0 }
    }

    fn push<P: Serialize>(&mut self, predicate_type: &str, claim: P) -> Result<(), FoldError> {
        let subject = ResourceDescriptor::new(
            format!("intent/{}", self.operation.grant.intent_id),
            self.operation.grant.intent,
        );
        let link = Link {
            operation_id: self.operation.id.clone(),
            index: self.index,
            previous: self.previous,
            claim,
        };
        let line = Statement::new(vec![subject], predicate_type, link).sign(self.signer)?.to_json();
        self.previous = Some(Digest::of(&line));
        self.index += 1;
        self.out.extend_from_slice(&line);
        self.out.push(b'\n');
        Ok(())
    }

    fn tell(&mut self, told: Told) -> Result<(), FoldError> {
        match told {
            Told::Attestation(claim) => self.push(ATTESTATION, claim),
            Told::Measurement(claim) => self.push(MEASUREMENT, claim),
            Told::Step(claim) => self.push(STEP, claim),
            Told::Steps(steps) => self.push(STEPS, StepsClaim { steps }),
        }
    }
}

/// In which line of the bundle a step is told first, from 1, by step; without those that did not begin. Of an operation
/// that is not over: as far as it is told, as if it ended now.
#[must_use]
pub fn step_lines(operation: &Operation) -> BTreeMap<u32, usize> {
    let form = operation.outcome.as_ref().map_or(EvidenceForm::Runs, |o| o.evidence);
    let mut out = BTreeMap::new();
    // The decision.
    let mut line = 1;
    for plan in operation.plans() {
        line += 1;
        for told in told(operation, plan, form) {
            line += 1;
            told.steps().for_each(|step| {
                out.entry(step).or_insert(line);
            });
        }
    }
    out
}

/// Were all objectives of the last measurement in the bundle kept? `None`: nothing was measured.
#[must_use]
pub fn sla_met(operation: &Operation) -> Option<bool> {
    let plan = operation.plan.as_ref()?;
    plan.steps.iter().rev().find_map(|s| {
        let result = match operation.step_state(s.id)? {
            StepState::Done(result) => result,
            StepState::Failed(failure) => failure.refused.as_ref()?,
            _ => return None,
        };
        match &**result {
            StepResult::Measured { objectives, .. } => Some(objectives.iter().all(|o| o.kept)),
            _ => None,
        }
    })
}
