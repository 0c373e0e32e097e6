//! The evidence bundle's body: a closed operation, folded into signed statements.
//!
//! One line per claim, in the order decision, plan, steps by id, outcome; attestation and measurement are the claims
//! of their steps. Only what was done and found goes in, not how often it was tried, so a crash and a restart leave
//! the same bytes. Each line carries the digest of the line before: a bundle cannot be cut or reordered.

use dataplane_control::{Configuration, Function, MacAddr};
use ledger_contract::evidence::{
    ATTESTATION, AttestationClaim, DECISION, DecisionClaim, InstanceClaim, InterventionClaim, Link,
    MEASUREMENT, MeasurementClaim, OUTCOME, OutcomeClaim, PLAN, PlanClaim, PlannedStep, STEP, ServiceClaim,
    StepClaim,
};
use ledger_contract::intent::parameters_digest;
use serde::Serialize;
use trust::{
    Digest, Signer,
    dsse::DsseError,
    statement::{ResourceDescriptor, Statement},
};

use crate::{
    operation::{Failure, Intervention, Operation, Outcome, StepResult, StepState},
    plan::{Action, Plan, Step},
    record::{NsRecord, Object},
};
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
        for step in plan.steps.iter().chain(&plan.isolation) {
            lines.step(step)?;
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

    fn step(&mut self, step: &Step) -> Result<(), FoldError> {
        match self.operation.step_state(step.id) {
            Some(StepState::Done(result)) => self.done(step, result),
            Some(StepState::Failed(failure)) => self.failed(step, failure),
            Some(StepState::Undone) => self.plain(step, "UNDONE", serde_json::Value::Null),
            Some(StepState::UndoFailed(f)) => self.plain(step, "UNDO_FAILED", reason(f)),
            // Begun and never heard of again, in an operation that was closed: say so.
            Some(StepState::Started | StepState::Undoing) => {
                self.plain(step, "UNKNOWN", serde_json::Value::Null)
            }
            Some(StepState::Pending) | None => Ok(()),
        }
    }

    fn done(&mut self, step: &Step, result: &StepResult) -> Result<(), FoldError> {
        match (result, &step.action) {
            (
                StepResult::Attested { evidence, at, appraisal },
                Action::Attest { reference, entropy, nonce },
            ) => {
                let claim = AttestationClaim {
                    step: step.id,
                    entropy: *entropy,
                    nonce: *nonce,
                    evidence: (**evidence).clone(),
                    reference: (**reference).clone(),
                    at: *at,
                    result: appraisal.clone(),
                };
                self.push(ATTESTATION, claim)
            }
            (StepResult::Measured { report, objectives }, Action::Measure { profile, sla, .. }) => {
                let claim = MeasurementClaim {
                    step: step.id,
                    sla: sla.clone(),
                    profile: (**profile).clone(),
                    report: (**report).clone(),
                    slo: objectives.clone(),
                };
                self.push(MEASUREMENT, claim)
            }
            (StepResult::Observed { observed }, _) => {
                let value = serde_json::to_value(observed).unwrap_or_default();
                self.plain(step, "DONE", value)
            }
            (StepResult::Captured { capture, size_bytes, frames, dropped }, _) => {
                let value = serde_json::json!({
                    "capture": capture, "size_bytes": size_bytes, "frames": frames, "dropped": dropped,
                });
                self.plain(step, "DONE", value)
            }
            _ => self.plain(step, "DONE", serde_json::Value::Null),
        }
    }

    /// A failed step, and before it the evidence that was refused, if it was that.
    fn failed(&mut self, step: &Step, failure: &Failure) -> Result<(), FoldError> {
        if let Some(refused) = &failure.refused {
            self.done(step, refused)?;
        }
        self.plain(step, "FAILED", reason(failure))
    }

    fn plain(&mut self, step: &Step, state: &str, observed: serde_json::Value) -> Result<(), FoldError> {
        let claim = StepClaim {
            step: step.id,
            action: step.action.name(),
            object: step.action.object().to_owned(),
            state: state.into(),
            observed,
        };
        self.push(STEP, claim)
    }
}

fn reason(failure: &Failure) -> serde_json::Value {
    serde_json::json!({ "code": failure.code, "detail": failure.detail })
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
