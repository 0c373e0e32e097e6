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
mod decision;
mod event;

use std::{collections::BTreeMap, sync::Arc};

use ledger_contract::{evidence::ProvenEntry, records::Grant};
use trust::UnixTime;

pub use event::{Command, Event, Failure, FinalState, Outcome, StepResult, Then};

use crate::plan::{Action, NsRecord, Plan, Step};
use decision::Decision;

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
