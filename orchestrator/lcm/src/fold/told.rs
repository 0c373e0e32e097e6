//! What became of a plan's steps, cut into the lines of a bundle: evidence for itself, the steps between in runs.
//!
//! The one place that decides which line a step is in; the body and the timeline both ask here. Pure. Tests: below, and
//! `tests/upgrade.rs` for the lines of earlier versions.

use ledger_contract::evidence::{AttestationClaim, MAX_STEPS_PER_LINE, MeasurementClaim, StepClaim};
use serde_json::Value;

use crate::{
    operation::{EvidenceForm, Failure, Operation, StepResult, StepState},
    plan::{Action, Plan, Step},
};

/// One line about steps.
pub(super) enum Told {
    Attestation(Box<AttestationClaim>),
    Measurement(Box<MeasurementClaim>),
    /// One, as earlier versions wrote it.
    Step(StepClaim),
    Steps(Vec<StepClaim>),
}

impl Told {
    /// The steps that it is about.
    pub fn steps(&self) -> impl Iterator<Item = u32> {
        let (one, run) = match self {
            Self::Attestation(claim) => (Some(claim.step), &[][..]),
            Self::Measurement(claim) => (Some(claim.step), &[][..]),
            Self::Step(claim) => (Some(claim.step), &[][..]),
            Self::Steps(claims) => (None, claims.as_slice()),
        };
        one.into_iter().chain(run.iter().map(|c| c.step))
    }
}

/// The lines about a plan's steps, in order.
pub(super) fn told(operation: &Operation, plan: &Plan, form: EvidenceForm) -> Vec<Told> {
    let mut lines = Cut { form, lines: Vec::new() };
    for step in plan.steps.iter().chain(&plan.isolation) {
        if let Some(state) = operation.step_state(step.id) {
            lines.step(step, state);
        }
    }
    lines.lines
}

struct Cut {
    form: EvidenceForm,
    lines: Vec<Told>,
}

impl Cut {
    fn step(&mut self, step: &Step, state: &StepState) {
        match state {
            StepState::Done(result) => self.done(step, result),
            StepState::Failed(failure) => self.failed(step, failure),
            StepState::Undone => self.plain(step, "UNDONE", Value::Null),
            StepState::UndoFailed(failure) => self.plain(step, "UNDO_FAILED", reason(failure)),
            // Begun and never heard of again, in an operation that was closed: say so.
            StepState::Started | StepState::Undoing => self.plain(step, "UNKNOWN", Value::Null),
            StepState::Pending => {}
        }
    }

    fn done(&mut self, step: &Step, result: &StepResult) {
        match evidence(step, result) {
            Some(evidence) => self.lines.push(evidence),
            None => self.plain(step, "DONE", observed(result)),
        }
    }

    /// A failed step, and before it the evidence that was refused, if it was that.
    fn failed(&mut self, step: &Step, failure: &Failure) {
        if let Some(refused) = &failure.refused {
            self.done(step, refused);
        }
        self.plain(step, "FAILED", reason(failure));
    }

    fn plain(&mut self, step: &Step, state: &str, observed: Value) {
        let claim = StepClaim {
            step: step.id,
            action: step.action.name(),
            object: step.action.object().to_owned(),
            state: state.into(),
            observed,
        };
        match (self.form, self.lines.last_mut()) {
            (EvidenceForm::Lines, _) => self.lines.push(Told::Step(claim)),
            (EvidenceForm::Runs, Some(Told::Steps(run))) if run.len() < MAX_STEPS_PER_LINE => run.push(claim),
            (EvidenceForm::Runs, _) => self.lines.push(Told::Steps(vec![claim])),
        }
    }
}

/// The line of a result that is evidence in itself.
fn evidence(step: &Step, result: &StepResult) -> Option<Told> {
    match (result, &step.action) {
        (StepResult::Attested { evidence, at, appraisal }, Action::Attest { reference, entropy, nonce }) => {
            Some(Told::Attestation(Box::new(AttestationClaim {
                step: step.id,
                entropy: *entropy,
                nonce: *nonce,
                evidence: (**evidence).clone(),
                reference: (**reference).clone(),
                at: *at,
                result: appraisal.clone(),
            })))
        }
        (StepResult::Measured { report, objectives }, Action::Measure { profile, sla, .. }) => {
            Some(Told::Measurement(Box::new(MeasurementClaim {
                step: step.id,
                sla: sla.clone(),
                profile: (**profile).clone(),
                report: (**report).clone(),
                slo: objectives.clone(),
            })))
        }
        _ => None,
    }
}

/// What was read back.
fn observed(result: &StepResult) -> Value {
    match result {
        StepResult::Observed { observed } => serde_json::to_value(observed).unwrap_or_default(),
        StepResult::Package { package } => serde_json::to_value(package).unwrap_or_default(),
        StepResult::Service { service } => serde_json::to_value(service).unwrap_or_default(),
        StepResult::Captured { capture, size_bytes, frames, dropped } => serde_json::json!({
            "capture": capture, "size_bytes": size_bytes, "frames": frames, "dropped": dropped,
        }),
        _ => Value::Null,
    }
}

fn reason(failure: &Failure) -> Value {
    serde_json::json!({ "code": failure.code, "detail": failure.detail })
}

#[cfg(test)]
mod tests {
    use vim::ObjectKey;

    use super::*;

    fn step(id: u32) -> Step {
        let key = ObjectKey::new(format!("ns-1/vl/{id}")).unwrap();
        Step {
            id,
            what: format!("make {key}"),
            action: Action::Remove { kind: vim::Kind::Network, key },
            undo: None,
            needs: Vec::new(),
            site: String::new(),
        }
    }

    fn cut(form: EvidenceForm, steps: u32) -> Vec<Vec<u32>> {
        let mut cut = Cut { form, lines: Vec::new() };
        (1..=steps).for_each(|id| cut.step(&step(id), &StepState::Undone));
        cut.step(&step(0), &StepState::Pending);
        cut.lines.iter().map(|l| l.steps().collect()).collect()
    }

    #[test]
    fn a_run_is_one_line_up_to_its_bound() {
        let bound = u32::try_from(MAX_STEPS_PER_LINE).unwrap();
        assert_eq!(cut(EvidenceForm::Lines, 3), [vec![1], vec![2], vec![3]]);
        assert_eq!(cut(EvidenceForm::Runs, 3), [vec![1, 2, 3]]);
        assert_eq!(cut(EvidenceForm::Runs, bound).len(), 1);
        let over = cut(EvidenceForm::Runs, bound + 1);
        assert_eq!((over.len(), over[1].clone()), (2, vec![bound + 1]));
    }
}
