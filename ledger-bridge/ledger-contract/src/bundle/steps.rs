//! What became of the planned steps: whatever is told of a step, held against the plan that came before it.
//!
//! What is told is of a planned step, of its action and its object. It stands in the order of the plan, once for each step,
//! but for a step whose evidence was refused: its attestation or measurement, and then the failure. So nothing can be
//! told twice, left out of an operation that calls itself complete, or put last to be taken for the result.
//!
//! Pure. Tests: the lies in `tests/bundle.rs`.

use std::collections::BTreeSet;

use crate::{
    anchoring::{COMPLETED, ROLLED_BACK},
    evidence::{PlanClaim, PlannedStep, StepClaim},
};

use super::plans::CAPTURE;

/// Action of a step that challenges and appraises.
pub(super) const ATTEST: &str = "attest";
/// Action of a step that sends known traffic.
pub(super) const MEASURE: &str = "measure";
/// Action of a step that starts or reconfigures an instance.
pub(super) const ENSURE_COMPUTE: &str = "ensure compute";
/// Action of a step that stores an image.
pub(super) const ENSURE_IMAGE: &str = "ensure image";
/// State of a step that did what it should.
pub(super) const DONE: &str = "DONE";
/// State of a step that was taken back.
pub(super) const UNDONE: &str = "UNDONE";
/// State of a step, and of an operation, that did not do what it should.
pub(super) const FAILED: &str = "FAILED";
/// What can have become of a step.
const STATES: [&str; 5] = [DONE, FAILED, UNDONE, "UNDO_FAILED", "UNKNOWN"];

/// The planned steps, and what the lines so far have told of them.
pub(super) struct Steps {
    /// Where a step is that names no site.
    site: String,
    /// In order, isolation last.
    planned: Vec<PlannedStep>,
    /// How many of them are no isolation.
    forward: usize,
    /// Of each of them: its state, once it is told.
    states: Vec<Option<String>>,
    /// Which step the last line was about.
    last: Option<usize>,
    /// The last line was evidence that was refused: the failure follows.
    refused: bool,
    /// Lines about steps that are no evidence.
    pub plain: usize,
}

impl Steps {
    /// Of a plan in which every step has an id of its own.
    pub fn of(plan: &PlanClaim) -> Result<Self, String> {
        let planned: Vec<PlannedStep> = plan.steps.iter().chain(&plan.isolation).cloned().collect();
        let ids: BTreeSet<u32> = planned.iter().map(|s| s.step).collect();
        if ids.len() != planned.len() {
            return Err("two of its steps have the same id".to_owned());
        }
        let states = vec![None; planned.len()];
        let site = plan.site.clone();
        Ok(Self { site, planned, forward: plan.steps.len(), states, last: None, refused: false, plain: 0 })
    }

    /// Objects of the instances that are started or reconfigured at a site before a step.
    pub fn computes_before(&self, step: u32, site: &str) -> impl Iterator<Item = &str> {
        let before = self.planned.iter().take_while(move |s| s.step != step);
        let here = move |s: &&PlannedStep| if s.site.is_empty() { self.site == site } else { s.site == site };
        before.filter(|s| s.action == ENSURE_COMPUTE).filter(here).map(|s| s.object.as_str())
    }

    /// The lines that a plan before this one had.
    pub fn after(mut self, plain: usize) -> Self {
        self.plain = plain;
        self
    }

    /// Whatever was made, or may have been, was taken back.
    pub fn taken_back(&self) -> Result<(), String> {
        self.bear_out(ROLLED_BACK, false)
    }

    /// Objects of the steps whose undo failed.
    pub fn not_taken_back(&self) -> impl Iterator<Item = &str> {
        let told = self.planned.iter().zip(&self.states);
        told.filter(|(_, s)| s.as_deref() == Some("UNDO_FAILED")).map(|(p, _)| p.object.as_str())
    }

    /// An attestation or a measurement; `good` when the step is done with it.
    pub fn evidence(&mut self, step: u32, action: &str, good: bool) -> Result<(), String> {
        let index = self.next(step)?;
        if self.planned[index].action != action {
            return Err(format!("step {step} is to {}, not to {action}", words(&self.planned[index])));
        }
        self.states[index] = Some(if good { DONE } else { FAILED }.to_owned());
        (self.last, self.refused) = (Some(index), !good);
        Ok(())
    }

    /// A line without evidence of its own.
    pub fn plain(&mut self, claim: &StepClaim) -> Result<(), String> {
        if !STATES.contains(&claim.state.as_str()) {
            return Err(format!("state `{}` is none of {}", claim.state, STATES.join(", ")));
        }
        let index = match self.last {
            // What was refused has failed: this says why.
            Some(last) if self.refused && self.planned[last].step == claim.step && claim.state == FAILED => {
                last
            }
            _ => self.next(claim.step)?,
        };
        let planned = &self.planned[index];
        if (&planned.action, &planned.object) != (&claim.action, &claim.object) {
            let it = format!("{} {}", claim.action, claim.object);
            return Err(format!(
                "it is about `{}`, step {} is to {}",
                it.trim_end(),
                claim.step,
                words(planned)
            ));
        }
        if claim.state == DONE && [ATTEST, MEASURE].contains(&planned.action.as_str()) {
            return Err(format!("step {} is {DONE} without its evidence", claim.step));
        }
        self.states[index] = Some(claim.state.clone());
        (self.last, self.refused) = (Some(index), false);
        self.plain += 1;
        Ok(())
    }

    /// Where a step that has no line yet is in the plan.
    fn next(&self, step: u32) -> Result<usize, String> {
        self.no_open_refusal()?;
        let Some(index) = self.planned.iter().position(|s| s.step == step) else {
            return Err(format!("step {step} is not in the plan"));
        };
        if self.states[index].is_some() {
            return Err(format!("step {step} is there twice"));
        }
        match self.last {
            Some(last) if index < last => Err(format!(
                "step {step} comes after step {}: the plan has another order",
                self.planned[last].step
            )),
            _ => Ok(index),
        }
    }

    fn no_open_refusal(&self) -> Result<(), String> {
        match self.last.filter(|_| self.refused) {
            None => Ok(()),
            Some(last) => Err(format!(
                "the evidence of step {} was refused, and nothing says that the step failed",
                self.planned[last].step
            )),
        }
    }

    /// Does what became of the steps bear the outcome out?
    pub fn bear_out(&self, outcome: &str, isolated: bool) -> Result<(), String> {
        self.no_open_refusal()?;
        let told = self.planned.iter().zip(&self.states).enumerate();
        for (index, (planned, state)) in told {
            let forward = index < self.forward;
            let state = state.as_deref();
            let bad = match outcome {
                // An isolation goes on without a capture that could not be had, and says so.
                COMPLETED if forward && planned.action == CAPTURE => {
                    state != Some(DONE) && state != Some(FAILED)
                }
                COMPLETED if forward => state != Some(DONE),
                COMPLETED => state.is_some(),
                // Whatever was made, or may have been, was taken back.
                ROLLED_BACK if forward && planned.action.starts_with("ensure ") => {
                    state.is_some_and(|s| s != UNDONE)
                }
                // What the service leaves behind goes when everything else is done: a migration, a termination.
                _ if forward && self.before_its_time(index) => true,
                _ if isolated && !forward => match state {
                    None => !self.never_begun(&planned.object),
                    Some(state) => state != DONE,
                },
                _ => false,
            };
            if bad {
                let what = if isolated { "ended with the service isolated" } else { outcome };
                let state = state.map_or("is not told".to_owned(), |s| format!("is {s}"));
                return Err(format!("it is {what}, but step {} ({}) {state}", planned.step, words(planned)));
            }
        }
        Ok(())
    }
}

impl Steps {
    /// Was an instance removed that the plan removes after an attestation which did not pass?
    fn before_its_time(&self, index: usize) -> bool {
        let planned = &self.planned[index];
        let gone = planned.action == "remove compute" && self.states[index].as_deref() == Some(DONE);
        let proven =
            |at: &usize| self.planned[*at].action != ATTEST || self.states[*at].as_deref() == Some(DONE);
        gone && !(0..index).all(|at| proven(&at))
    }

    /// Was the object to be made, and did not come to it? Then there is nothing of it to be isolated.
    fn never_begun(&self, object: &str) -> bool {
        let told = self.planned.iter().zip(&self.states);
        let mut made = told.filter(|(p, _)| p.object == object && p.action.starts_with("ensure ")).peekable();
        made.peek().is_some() && made.all(|(_, state)| state.is_none())
    }
}

fn words(planned: &PlannedStep) -> String {
    format!("{} {}", planned.action, planned.object).trim_end().to_owned()
}
