//! An operation is the fold of its journal.
//!
//! [`Event`]s are appended before (`Started`) and after (`Done`, `Failed`) every effect. [`Operation::apply`] folds them
//! and refuses what cannot follow; [`Operation::next`] says what to do now. A restart folds the journal and asks
//! `next` again: a step that was started and not finished is simply done again, because every effect is idempotent
//! by key. Unwinding is the same machine backwards and covers Done, Failed *and* Started steps: a call that timed
//! out may have taken effect.
//!
//! States are SOL003's (`LcmOperationStateType`): STARTING until planned, PROCESSING, ROLLING_BACK, then COMPLETED,
//! ROLLED_BACK or FAILED.

use std::{collections::BTreeMap, sync::Arc};

use attestation::{AttestationResult, Evidence};
use dataplane_control::traffic::TrafficReport;
use ledger_contract::{
    evidence::{Objective, ProvenEntry},
    records::Grant,
};
use serde::{Deserialize, Serialize};
use trust::UnixTime;
use vim::{Disposition, Observed};

use crate::plan::{Action, NsRecord, Plan, Step};

/// Bounds of an operation's retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Attempts of a step before it has failed.
    pub attempts: u32,
    /// Attempts of taking a step back, or of a step that cannot be unwound, before it is left and named.
    pub undo_attempts: u32,
    /// Pause before the second attempt, ms; doubles with each, up to [`MAX_PAUSE_MS`].
    pub pause_ms: u64,
    /// Steps at once.
    pub parallel: usize,
}

/// Longest pause between two attempts, ms.
pub const MAX_PAUSE_MS: u64 = 10_000;

impl Default for Retries {
    fn default() -> Self {
        // Undo tries harder: giving up on it leaves something behind.
        Self { attempts: 3, undo_attempts: 8, pause_ms: 200, parallel: 4 }
    }
}

/// What is appended to an operation's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// An approval was verified and taken; shares a transaction with the ledger checkpoint.
    Accepted {
        /// Operation.
        operation_id: String,
        /// The approval, as verified.
        approval: Box<ProvenEntry>,
        /// What it entitles to.
        grant: Box<Grant>,
        /// Ledger time of the decision.
        decided_at: UnixTime,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The plan is made.
    Planned {
        /// The plan.
        plan: Arc<Plan>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// There is no plan; nothing was done.
    Refused {
        /// Reason code.
        code: String,
        /// Why.
        detail: String,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// A step is about to take effect.
    Started {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It took effect and was read back.
    Done {
        /// Step.
        step: u32,
        /// What was found.
        result: Box<StepResult>,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It failed, or nobody knows.
    Failed {
        /// Step.
        step: u32,
        /// Why, and what to do about it.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// A step is about to be taken back.
    UndoStarted {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It was taken back.
    Undone {
        /// Step.
        step: u32,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// Taking it back failed.
    UndoFailed {
        /// Step.
        step: u32,
        /// Why.
        failure: Failure,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// The orchestrator was restarted and took the operation up again.
    Recovered {
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// It is over; shares a transaction with the outbox.
    Closed {
        /// How.
        outcome: Outcome,
        /// Wall clock, ms.
        at_ms: u64,
    },
    /// Its evidence is on the ledger.
    Anchored {
        /// The anchor's entry and proof.
        receipt: Box<ProvenEntry>,
        /// Wall clock, ms.
        at_ms: u64,
    },
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum StepResult {
    /// An object, read back from the VIM.
    Observed {
        /// As it is.
        observed: Observed,
    },
    /// Gone, or cut: nothing more to say.
    Acknowledged {},
    /// An affirming appraisal.
    Attested {
        /// What the attester sent.
        evidence: Box<Evidence>,
        /// When it was appraised.
        at: UnixTime,
        /// Every check.
        appraisal: AttestationResult,
    },
    /// A measurement.
    Measured {
        /// What happened to the traffic.
        report: Box<TrafficReport>,
        /// Against what was promised.
        objectives: Vec<Objective>,
    },
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Reason code.
    pub code: String,
    /// What, where, why.
    pub detail: String,
    /// What is to be done.
    pub then: Then,
    /// Evidence that was refused, for the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Box<StepResult>>,
}

/// What is to be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Nothing happened: again.
    Retry,
    /// It may have happened: again, it is idempotent.
    Unknown,
    /// Unwind.
    Compensate,
    /// What runs is not what was approved: cut its traffic, keep it for forensics.
    Isolate,
    /// Leave everything as it is and call a person.
    Escalate,
}

impl From<Disposition> for Then {
    fn from(d: Disposition) -> Self {
        match d {
            Disposition::Retry => Self::Retry,
            Disposition::Compensate => Self::Compensate,
            Disposition::Unknown => Self::Unknown,
            Disposition::Escalate => Self::Escalate,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// SOL003: `COMPLETED`, `ROLLED_BACK`, `FAILED`.
    pub state: FinalState,
    /// Why, when it is not `COMPLETED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Was the service isolated?
    #[serde(default)]
    pub isolated: bool,
    /// Objects that could not be taken back.
    #[serde(default)]
    pub leftovers: Vec<String>,
}

/// SOL003's final states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FinalState {
    /// Every step is done.
    Completed,
    /// Everything was taken back.
    RolledBack,
    /// Neither.
    Failed,
}

impl FinalState {
    /// As SOL003 writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::RolledBack => "ROLLED_BACK",
            Self::Failed => "FAILED",
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Observe the sites and plan.
    Plan,
    /// Journal `Started`, take the effect, journal `Done` or `Failed`.
    Run {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
    },
    /// Journal `UndoStarted`, take it back, journal `Undone` or `UndoFailed`.
    Undo {
        /// Step.
        step: u32,
        /// From 1.
        attempt: u32,
    },
    /// Nothing before this moment (wall clock, ms).
    Wait {
        /// When to ask again.
        until_ms: u64,
    },
    /// Journal `Closed` together with the outbox entry.
    Close(Outcome),
    /// Anchor the evidence.
    Anchor,
}

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun; nobody knows whether it took effect.
    Started,
    /// Done.
    Done(Box<StepResult>),
    /// Failed.
    Failed(Failure),
    /// Being taken back.
    Undoing,
    /// Taken back.
    Undone,
    /// Could not be taken back yet.
    UndoFailed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    state: StepState,
    /// Starts, which number the attempts.
    attempts: u32,
    /// Failures: a start that a crash swallowed is not one.
    failures: u32,
    undo_attempts: u32,
    undo_failures: u32,
    /// When the state was entered, ms.
    since_ms: u64,
}

/// What cannot follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("operation {operation}: {event} cannot follow {state}")]
pub struct IllegalTransition {
    /// Operation, or empty.
    pub operation: String,
    /// The event's name.
    pub event: String,
    /// Where the operation is.
    pub state: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Refused,
    Processing,
    RollingBack,
    Isolating,
    Closed,
    Anchored,
}

/// An operation: the fold of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Operation.
    pub id: String,
    /// The approval it runs under.
    pub approval: ProvenEntry,
    /// The grant.
    pub grant: Grant,
    /// Ledger time of the decision.
    pub decided_at: UnixTime,
    /// When it was accepted, ms.
    pub accepted_ms: u64,
    /// The plan, once there is one.
    pub plan: Option<Arc<Plan>>,
    /// How it ended, once it did.
    pub outcome: Option<Outcome>,
    /// When it was closed, ms.
    pub closed_ms: Option<u64>,
    /// The anchor, once there is one.
    pub receipt: Option<ProvenEntry>,
    phase: Phase,
    problem: Option<String>,
    steps: BTreeMap<u32, Progress>,
}

impl Operation {
    /// Folds a journal.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, IllegalTransition> {
        let mut events = events.into_iter();
        let illegal = |event: &str, state: &str| IllegalTransition {
            operation: String::new(),
            event: event.into(),
            state: state.into(),
        };
        let first = events.next().ok_or_else(|| illegal("the end", "nothing"))?;
        let mut it = Self::accept(first).ok_or_else(|| illegal("another event", "nothing"))?;
        for event in events {
            it.apply(event)?;
        }
        Ok(it)
    }

    /// The operation that an `Accepted` event begins.
    #[must_use]
    pub fn accept(event: &Event) -> Option<Self> {
        let Event::Accepted { operation_id, approval, grant, decided_at, at_ms } = event else { return None };
        Some(Self {
            id: operation_id.clone(),
            approval: (**approval).clone(),
            grant: (**grant).clone(),
            decided_at: *decided_at,
            accepted_ms: *at_ms,
            plan: None,
            outcome: None,
            closed_ms: None,
            receipt: None,
            phase: Phase::Starting,
            problem: None,
            steps: BTreeMap::new(),
        })
    }

    /// Folds one more event.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        let legal = match event {
            Event::Accepted { .. } => false,
            Event::Planned { plan, at_ms } => self.planned(plan, *at_ms),
            Event::Refused { code, detail, .. } => self.refused(code, detail),
            Event::Started { step, attempt, at_ms } => self.started(*step, *attempt, *at_ms),
            Event::Done { step, result, at_ms } => self.done(*step, result, *at_ms),
            Event::Failed { step, failure, at_ms } => self.failed(*step, failure, *at_ms),
            Event::UndoStarted { step, attempt, at_ms } => self.undo_started(*step, *attempt, *at_ms),
            Event::Undone { step, at_ms } => self.undone(*step, *at_ms),
            Event::UndoFailed { step, failure, at_ms } => self.undo_failed(*step, failure, *at_ms),
            Event::Recovered { .. } => !matches!(self.phase, Phase::Anchored),
            Event::Closed { outcome, at_ms } => self.closed(outcome, *at_ms),
            Event::Anchored { receipt, .. } => self.anchored(receipt),
        };
        if legal {
            return Ok(());
        }
        let name = format!("{event:?}");
        Err(IllegalTransition {
            operation: self.id.clone(),
            event: name.split([' ', '{']).next().unwrap_or_default().to_owned(),
            state: format!("{:?}", self.phase),
        })
    }

    fn planned(&mut self, plan: &Arc<Plan>, at_ms: u64) -> bool {
        if self.phase != Phase::Starting || plan.operation_id != self.id {
            return false;
        }
        let fresh = Progress {
            state: StepState::Pending,
            attempts: 0,
            failures: 0,
            undo_attempts: 0,
            undo_failures: 0,
            since_ms: at_ms,
        };
        self.steps = plan.steps.iter().chain(&plan.isolation).map(|s| (s.id, fresh.clone())).collect();
        self.plan = Some(plan.clone());
        self.phase = Phase::Processing;
        true
    }

    fn refused(&mut self, code: &str, detail: &str) -> bool {
        if self.phase != Phase::Starting {
            return false;
        }
        self.problem = Some(format!("{code}: {detail}"));
        self.phase = Phase::Refused;
        true
    }

    fn started(&mut self, step: u32, attempt: u32, at_ms: u64) -> bool {
        let running = matches!(self.phase, Phase::Processing | Phase::Isolating);
        let isolates = self.plan.as_ref().is_some_and(|p| p.isolation.iter().any(|s| s.id == step));
        let Some(p) = self.steps.get_mut(&step) else { return false };
        let again = matches!(p.state, StepState::Pending | StepState::Started | StepState::Failed(_));
        if !running || !again || attempt != p.attempts + 1 {
            return false;
        }
        p.state = StepState::Started;
        p.attempts = attempt;
        p.since_ms = at_ms;
        if isolates {
            self.phase = Phase::Isolating;
        }
        true
    }

    fn done(&mut self, step: u32, result: &StepResult, at_ms: u64) -> bool {
        // A step that was in flight when another one failed may still finish while the operation unwinds.
        let Some(p) = self.steps.get_mut(&step) else { return false };
        if p.state != StepState::Started {
            return false;
        }
        p.state = StepState::Done(Box::new(result.clone()));
        p.since_ms = at_ms;
        true
    }

    fn failed(&mut self, step: u32, failure: &Failure, at_ms: u64) -> bool {
        let Some(p) = self.steps.get_mut(&step) else { return false };
        if p.state != StepState::Started {
            return false;
        }
        p.state = StepState::Failed(failure.clone());
        p.failures += 1;
        p.since_ms = at_ms;
        true
    }

    fn undo_started(&mut self, step: u32, attempt: u32, at_ms: u64) -> bool {
        // The failed step may be the next to be taken back: keep what it said.
        let problem = self.problem();
        let Some(p) = self.steps.get_mut(&step) else { return false };
        let undoable = !matches!(p.state, StepState::Pending | StepState::Undone);
        if !undoable
            || attempt != p.undo_attempts + 1
            || matches!(self.phase, Phase::Closed | Phase::Anchored)
        {
            return false;
        }
        p.state = StepState::Undoing;
        p.undo_attempts = attempt;
        p.since_ms = at_ms;
        self.phase = Phase::RollingBack;
        self.problem = problem;
        true
    }

    fn undone(&mut self, step: u32, at_ms: u64) -> bool {
        let Some(p) = self.steps.get_mut(&step) else { return false };
        if p.state != StepState::Undoing {
            return false;
        }
        p.state = StepState::Undone;
        p.since_ms = at_ms;
        true
    }

    fn undo_failed(&mut self, step: u32, failure: &Failure, at_ms: u64) -> bool {
        let Some(p) = self.steps.get_mut(&step) else { return false };
        if p.state != StepState::Undoing {
            return false;
        }
        p.state = StepState::UndoFailed(failure.clone());
        p.undo_failures += 1;
        p.since_ms = at_ms;
        true
    }

    fn closed(&mut self, outcome: &Outcome, at_ms: u64) -> bool {
        if matches!(self.phase, Phase::Starting | Phase::Closed | Phase::Anchored) {
            return false;
        }
        self.outcome = Some(outcome.clone());
        self.closed_ms = Some(at_ms);
        self.phase = Phase::Closed;
        true
    }

    fn anchored(&mut self, receipt: &ProvenEntry) -> bool {
        if self.phase != Phase::Closed {
            return false;
        }
        self.receipt = Some(receipt.clone());
        self.phase = Phase::Anchored;
        true
    }

    /// Where a step is.
    #[must_use]
    pub fn step_state(&self, step: u32) -> Option<&StepState> {
        self.steps.get(&step).map(|p| &p.state)
    }

    /// SOL003 state.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.phase, &self.outcome) {
            (_, Some(outcome)) => outcome.state.name(),
            (Phase::Starting | Phase::Refused, None) => "STARTING",
            (Phase::RollingBack | Phase::Isolating, None) => "ROLLING_BACK",
            _ => "PROCESSING",
        }
    }

    /// Is there nothing more to do?
    #[must_use]
    pub fn is_anchored(&self) -> bool {
        self.phase == Phase::Anchored
    }

    /// Steps done, and steps in all (isolation steps not counted).
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        let Some(plan) = &self.plan else { return (0, 0) };
        let done =
            plan.steps.iter().filter(|s| matches!(self.step_state(s.id), Some(StepState::Done(_)))).count();
        (u32::try_from(done).unwrap_or(u32::MAX), u32::try_from(plan.steps.len()).unwrap_or(u32::MAX))
    }

    /// What went wrong first, if anything did.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(problem) = self.outcome.as_ref().and_then(|o| o.problem.clone()) {
            return Some(problem);
        }
        self.problem.clone().or_else(|| self.root_cause().map(|(s, f)| describe(s, f)))
    }

    fn root_cause(&self) -> Option<(&Step, &Failure)> {
        let plan = self.plan.as_ref()?;
        plan.steps.iter().find_map(|s| match self.step_state(s.id) {
            Some(StepState::Failed(f)) => Some((s, f)),
            _ => None,
        })
    }

    /// The service after this operation: what the next one starts from. `None`: there is no service.
    #[must_use]
    pub fn record(&self) -> Option<NsRecord> {
        let plan = self.plan.as_ref()?;
        match self.outcome.as_ref().map(|o| (o.state, o.isolated)) {
            Some((FinalState::Completed, _)) => plan.after.clone(),
            Some((FinalState::Failed, _)) => self.as_it_stands(plan),
            _ => self.unwound(plan),
        }
    }

    /// The service as a failure left it: what was there, what was made, less what was removed or taken back.
    fn as_it_stands(&self, plan: &Plan) -> Option<NsRecord> {
        let mut record = plan.after.clone().or_else(|| plan.before.clone())?;
        record.objects = plan.before.as_ref().map(|b| b.objects.clone()).unwrap_or_default();
        for step in plan.steps.iter().chain(&plan.isolation) {
            match (&step.action, self.step_state(step.id)) {
                (_, None | Some(StepState::Pending)) => {}
                (Action::Ensure { key, .. }, Some(StepState::Undone)) => match &step.undo {
                    Some(Action::Ensure { spec, .. }) => record.put(key.clone(), (**spec).clone()),
                    _ => record.objects.retain(|(k, _)| k != key),
                },
                (Action::Remove { key, .. }, Some(StepState::Undone)) => {
                    if let Some(Action::Ensure { spec, .. }) = &step.undo {
                        record.put(key.clone(), (**spec).clone());
                    }
                }
                (Action::Ensure { key, spec }, _) => record.put(key.clone(), (**spec).clone()),
                (Action::Remove { key, .. }, Some(StepState::Done(_))) => {
                    record.objects.retain(|(k, _)| k != key);
                }
                _ => {}
            }
        }
        Some(record)
    }

    /// The service before, with the specs that unwinding restored under a newer generation.
    fn unwound(&self, plan: &Plan) -> Option<NsRecord> {
        let mut record = plan.before.clone()?;
        record.flows = plan.after.as_ref().map_or(record.flows, |a| a.flows);
        for step in &plan.steps {
            if let (Some(StepState::Undone), Some(Action::Ensure { key, spec })) =
                (self.step_state(step.id), &step.undo)
            {
                record.put(key.clone(), (**spec).clone());
            }
        }
        Some(record)
    }

    /// What to do now; `in_flight` are the steps whose effect is being taken at this moment.
    #[must_use]
    pub fn next(&self, retries: &Retries, now_ms: u64, in_flight: &[u32]) -> Vec<Command> {
        match self.phase {
            Phase::Starting => vec![Command::Plan],
            Phase::Refused => vec![Command::Close(Outcome {
                state: FinalState::RolledBack,
                problem: self.problem.clone(),
                isolated: false,
                leftovers: Vec::new(),
            })],
            Phase::Closed => vec![Command::Anchor],
            Phase::Anchored => Vec::new(),
            Phase::Processing | Phase::RollingBack | Phase::Isolating => match &self.plan {
                Some(plan) => Decision { operation: self, plan, retries, now_ms, in_flight }.commands(),
                None => vec![Command::Plan],
            },
        }
    }
}

fn describe(step: &Step, failure: &Failure) -> String {
    format!("step {} ({}): {}: {}", step.id, step.what, failure.code, failure.detail)
}

/// One look at a planned operation.
struct Decision<'a> {
    operation: &'a Operation,
    plan: &'a Plan,
    retries: &'a Retries,
    now_ms: u64,
    in_flight: &'a [u32],
}

/// What the failures among the steps ask for.
enum Course {
    Forward,
    Unwind(String),
    Isolate(String),
    Stop(String),
}

impl Decision<'_> {
    fn commands(&self) -> Vec<Command> {
        match self.course() {
            Course::Forward => self
                .forward(&self.plan.steps, |d| Command::Close(d.outcome(FinalState::Completed, None, false))),
            // Effects in flight are awaited first: what they did must be known before it is taken back.
            _ if !self.in_flight.is_empty() => Vec::new(),
            Course::Unwind(problem) => self.unwind(&problem),
            Course::Isolate(problem) => self.isolate(&problem),
            Course::Stop(problem) => {
                vec![Command::Close(self.outcome(FinalState::Failed, Some(problem), false))]
            }
        }
    }

    fn progress(&self, step: u32) -> Option<&Progress> {
        self.operation.steps.get(&step)
    }

    fn state(&self, step: u32) -> &StepState {
        self.operation.step_state(step).unwrap_or(&StepState::Pending)
    }

    /// The worst failure decides; once something was taken back, there is no way forward.
    fn course(&self) -> Course {
        let mut course = Course::Forward;
        for step in &self.plan.steps {
            let StepState::Failed(failure) = self.state(step.id) else { continue };
            let problem = describe(step, failure);
            match failure.then {
                Then::Isolate => return Course::Isolate(problem),
                Then::Escalate => return Course::Stop(problem),
                Then::Compensate if step.forward_only() && !self.exhausted(step) => {}
                Then::Retry | Then::Unknown if !self.exhausted(step) => {}
                // Who cannot prove what it runs is treated like who runs something else; only a service that is
                // being made can simply be taken back.
                _ if matches!(step.action, Action::Attest { .. }) && self.plan.before.is_some() => {
                    return Course::Isolate(problem);
                }
                _ if step.forward_only() => return Course::Stop(problem),
                _ => course = first(course, problem),
            }
        }
        if self.operation.phase == Phase::RollingBack && matches!(course, Course::Forward) {
            // The failed step itself is being taken back: its failure is no longer its state.
            course = Course::Unwind(self.operation.problem().unwrap_or_else(|| "unwinding".into()));
        }
        course
    }

    fn exhausted(&self, step: &Step) -> bool {
        let limit = if step.forward_only() { self.retries.undo_attempts } else { self.retries.attempts };
        self.progress(step.id).is_none_or(|p| p.failures >= limit)
    }

    fn pause_over(&self, p: &Progress, failures: u32) -> Result<(), u64> {
        let pause =
            self.retries.pause_ms.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_PAUSE_MS);
        let until = p.since_ms.saturating_add(pause);
        if self.now_ms >= until { Ok(()) } else { Err(until) }
    }

    /// Runs whatever can run of `steps`, at most `parallel` at once; `finished` when all are done.
    fn forward(&self, steps: &[Step], finished: impl Fn(&Self) -> Command) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut earliest: Option<u64> = None;
        let mut open = false;
        let mut room = self.retries.parallel.saturating_sub(self.in_flight.len());
        for step in steps {
            if matches!(self.state(step.id), StepState::Done(_)) {
                continue;
            }
            open = true;
            let needs_done = step.needs.iter().all(|n| matches!(self.state(*n), StepState::Done(_)));
            if room == 0 || !needs_done || self.in_flight.contains(&step.id) {
                continue;
            }
            let Some(p) = self.progress(step.id) else { continue };
            if matches!(p.state, StepState::Failed(_))
                && let Err(until) = self.pause_over(p, p.failures)
            {
                // Nothing is built on a step in trouble; and what had begun when it fails does not depend on timing.
                earliest = Some(until);
                break;
            }
            commands.push(Command::Run { step: step.id, attempt: p.attempts + 1 });
            room -= 1;
        }
        if !open {
            return vec![finished(self)];
        }
        self.or_wait(commands, earliest)
    }

    fn or_wait(&self, mut commands: Vec<Command>, earliest: Option<u64>) -> Vec<Command> {
        if commands.is_empty()
            && self.in_flight.is_empty()
            && let Some(until_ms) = earliest
        {
            commands.push(Command::Wait { until_ms });
        }
        commands
    }

    /// One step at a time, in reverse order.
    fn unwind(&self, problem: &str) -> Vec<Command> {
        for step in self.plan.steps.iter().rev() {
            let Some(p) = self.progress(step.id) else { continue };
            if step.undo.is_none() || matches!(p.state, StepState::Pending | StepState::Undone) {
                continue;
            }
            if let StepState::UndoFailed(_) = p.state {
                if p.undo_failures >= self.retries.undo_attempts {
                    continue;
                }
                if let Err(until_ms) = self.pause_over(p, p.undo_failures) {
                    return vec![Command::Wait { until_ms }];
                }
            }
            return vec![Command::Undo { step: step.id, attempt: p.undo_attempts + 1 }];
        }
        let left = self.leftovers();
        let state = if left.is_empty() { FinalState::RolledBack } else { FinalState::Failed };
        vec![Command::Close(self.outcome(state, Some(problem.to_owned()), false))]
    }

    /// Cuts the traffic of every instance; one that cannot be reached any more is named as a leftover.
    fn isolate(&self, problem: &str) -> Vec<Command> {
        let mut earliest: Option<u64> = None;
        for step in self.plan.isolation.iter().filter(|s| self.stands(&s.action)) {
            let Some(p) = self.progress(step.id) else { continue };
            match &p.state {
                StepState::Done(_) => {}
                StepState::Failed(_) if p.failures >= self.retries.undo_attempts => {}
                StepState::Failed(_) => match self.pause_over(p, p.failures) {
                    Ok(()) => return vec![Command::Run { step: step.id, attempt: p.attempts + 1 }],
                    Err(until) => earliest = Some(earliest.map_or(until, |e| e.min(until))),
                },
                _ => return vec![Command::Run { step: step.id, attempt: p.attempts + 1 }],
            }
        }
        match earliest {
            Some(until_ms) => vec![Command::Wait { until_ms }],
            None => {
                let cut = |s: &Step| matches!(self.state(s.id), StepState::Done(_));
                let isolated = self.plan.isolation.iter().filter(|s| self.stands(&s.action)).all(cut);
                vec![Command::Close(self.outcome(FinalState::Failed, Some(problem.to_owned()), isolated))]
            }
        }
    }

    /// Is the object there, as far as this operation knows: from before, or because its step has begun?
    fn stands(&self, action: &Action) -> bool {
        let object = action.object();
        let before = self.plan.before.iter().flat_map(|b| &b.objects).any(|(k, _)| k.as_str() == object);
        let begun = |s: &&Step| {
            matches!(s.action, Action::Ensure { .. })
                && s.action.object() == object
                && *self.state(s.id) != StepState::Pending
        };
        before || self.plan.steps.iter().any(|s| begun(&s))
    }

    fn leftovers(&self) -> Vec<String> {
        let stuck = |s: &&Step| matches!(self.state(s.id), StepState::UndoFailed(_) | StepState::Undoing);
        self.plan.steps.iter().filter(stuck).map(|s| s.action.object().to_owned()).collect()
    }

    fn outcome(&self, state: FinalState, problem: Option<String>, isolated: bool) -> Outcome {
        let mut leftovers = self.leftovers();
        let unreached = |s: &&Step| matches!(self.state(s.id), StepState::Failed(_) | StepState::Started);
        leftovers.extend(self.plan.isolation.iter().filter(unreached).map(|s| s.action.object().to_owned()));
        if state == FinalState::Failed && !isolated {
            // Nobody took anything back: all that was begun may stand.
            let begun = |s: &&Step| !matches!(self.state(s.id), StepState::Pending | StepState::Undone);
            let made = self.plan.steps.iter().filter(begun).filter(|s| !s.removed(self.operation));
            leftovers.extend(made.map(|s| s.action.object().to_owned()));
        }
        leftovers.retain(|l| !l.is_empty());
        leftovers.sort();
        leftovers.dedup();
        Outcome { state, problem, isolated, leftovers }
    }
}

fn first(course: Course, problem: String) -> Course {
    match course {
        Course::Forward => Course::Unwind(problem),
        decided => decided,
    }
}

impl Step {
    /// A removal without an undo: it can only be tried again.
    fn forward_only(&self) -> bool {
        self.undo.is_none() && matches!(self.action, Action::Remove { .. } | Action::Isolate { .. })
    }

    /// A removal that was done: its object is no leftover.
    fn removed(&self, operation: &Operation) -> bool {
        matches!(self.action, Action::Remove { .. })
            && matches!(operation.step_state(self.id), Some(StepState::Done(_)))
    }
}
