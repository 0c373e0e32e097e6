//! An operation is the fold of its journal.
//!
//! [`Event`]s are appended before (`Started`) and after (`Done`, `Failed`) every effect. [`Operation::apply`] folds them
//! and refuses what cannot follow; [`Operation::next`] says what to do now. A restart folds the journal and asks
//! `next` again: a step that was started and not finished is simply done again, because every effect is idempotent
//! by key. Unwinding is the same machine backwards and covers Done, Failed *and* Started steps: a call that timed
//! out may have taken effect.
//!
//! States are SOL003's (`LcmOperationStateType`): STARTING until planned, PROCESSING, ROLLING_BACK, FAILED_TEMP, then
//! COMPLETED, ROLLED_BACK or FAILED. The machine unwinds by itself. It is FAILED_TEMP when that does not work: an undo,
//! a removal or a cut that keeps failing is escalated with the exact objects that are left, tried again at growing
//! distances for as long as it takes, and given up by nobody but a person ([`Event::Directed`]). Expiry and revocation
//! of what it runs under are inputs like any other: no new step forward, and then back; an operation that only goes
//! forward (terminate, isolate, the removals that end a migration) is finished.
//!
//! An isolation or a termination does not wait for it ([`Event::Preempted`]): no further step, and it ends as FAILED with
//! what stands on record, from which the other one goes on; what had changed nothing is ROLLED_BACK. What cuts or removes
//! itself gives way only once it is FAILED_TEMP.
mod decision;
mod event;

mod summary;

use std::{collections::BTreeMap, sync::Arc};

use ledger_contract::{evidence::ProvenEntry, records::Grant};
use trust::UnixTime;

pub use event::{
    Authority, Command, Direction, Event, EvidenceForm, Failure, FinalState, Outcome, Standing, StepResult,
    Then,
};
pub use summary::ClosedOperation;

use crate::{
    plan::{Action, Plan, Step},
    record::NsRecord,
};
use decision::Decision;

/// Bounds of an operation's retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Attempts of a step before it has failed.
    pub attempts: u32,
    /// Attempts of taking a step back, or of a step that cannot be unwound, before a person is called.
    pub undo_attempts: u32,
    /// Pause before the second attempt, ms; doubles with each, up to [`MAX_PAUSE_MS`].
    pub pause_ms: u64,
    /// Steps at once.
    pub parallel: usize,
}

/// Longest pause between two attempts, ms.
pub const MAX_PAUSE_MS: u64 = 10_000;
/// Longest pause once a person was called, ms: what is left is tried again for as long as it takes, without a load.
pub const MAX_ESCALATED_PAUSE_MS: u64 = 300_000;
/// Most plans that one operation may supersede: it tries that many sites, each once.
pub const MAX_REPLANS: usize = 16;

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

/// Something from outside that changed an operation's course, as evidence names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervention {
    /// `expired`, `revoked`, `preempted`, `escalated`, or a [`Direction::name`].
    pub kind: &'static str,
    /// Who: the ledger's entry, or a person; empty: the machine itself.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// An operation: the fold of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Operation.
    pub id: String,
    /// What it runs under.
    pub authority: Authority,
    /// The grant.
    pub grant: Grant,
    /// Ledger time of the decision; under a standing grant, when the cause was seen.
    pub decided_at: UnixTime,
    /// When it was accepted, ms.
    pub accepted_ms: u64,
    /// The plan, once there is one.
    pub plan: Option<Arc<Plan>>,
    /// Plans before it, which were taken back because a site had no room after all.
    pub superseded: Vec<Arc<Plan>>,
    /// What changed its course from outside, in order.
    pub interventions: Vec<Intervention>,
    /// How it ended, once it did.
    pub outcome: Option<Outcome>,
    /// When it was closed, ms.
    pub closed_ms: Option<u64>,
    /// The anchor, once there is one.
    pub receipt: Option<Box<ProvenEntry>>,
    /// The approval that came after it began.
    approved: Option<Box<ProvenEntry>>,
    phase: Phase,
    problem: Option<String>,
    /// Why there may be no new step forward.
    halted: Option<String>,
    /// What it gives way to.
    preempted: Option<String>,
    /// A person was called: what is left.
    escalated: Option<Vec<String>>,
    /// What a person decided, as long as it holds.
    directed: Option<Direction>,
    /// Sites that had no room after all, and why.
    no_room: BTreeMap<String, String>,
    /// It is being taken back because of that alone.
    replan: bool,
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
        let Event::Accepted { operation_id, authority, grant, decided_at, at_ms } = event else {
            return None;
        };
        Some(Self {
            id: operation_id.clone(),
            authority: authority.clone(),
            grant: (**grant).clone(),
            decided_at: *decided_at,
            accepted_ms: *at_ms,
            plan: None,
            superseded: Vec::new(),
            interventions: Vec::new(),
            outcome: None,
            closed_ms: None,
            receipt: None,
            approved: None,
            phase: Phase::Starting,
            problem: None,
            halted: None,
            preempted: None,
            escalated: None,
            directed: None,
            no_room: BTreeMap::new(),
            replan: false,
            steps: BTreeMap::new(),
        })
    }

    /// The approval it runs under; `None` while it runs under a standing grant alone.
    #[must_use]
    pub fn approval(&self) -> Option<&ProvenEntry> {
        match &self.authority {
            Authority::Approval(approval) => Some(approval),
            Authority::Standing(_) => self.approved.as_deref(),
        }
    }

    /// Where it stands among the operations of a service: the ledger's order, which no clock can change; what the ledger
    /// does not know yet comes after what it knows.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.approval().map_or(u64::MAX, |a| a.proof.index), self.accepted_ms)
    }

    /// Folds one more event.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        let legal = match event {
            Event::Accepted { .. } => false,
            Event::Approved { approval, .. } => self.late_approval(approval),
            Event::Planned { plan, at_ms } => self.planned(plan, *at_ms),
            Event::Refused { code, detail, .. } => self.refused(code, detail),
            Event::Started { step, attempt, at_ms } => self.started(*step, *attempt, *at_ms),
            Event::Done { step, result, at_ms, .. } => self.done(*step, result, *at_ms),
            Event::Failed { step, failure, at_ms, .. } => self.failed(*step, failure, *at_ms),
            Event::UndoStarted { step, attempt, at_ms } => self.undo_started(*step, *attempt, *at_ms),
            Event::Undone { step, at_ms, .. } => self.undone(*step, *at_ms),
            Event::UndoFailed { step, failure, at_ms, .. } => self.undo_failed(*step, failure, *at_ms),
            Event::Expired { .. } => self.expired(),
            Event::Revoked { position, reason, .. } => self.revoked(*position, reason),
            Event::Preempted { intent_id, action, position, .. } => {
                self.give_way(intent_id, action, *position)
            }
            Event::Escalated { problem, leftovers, .. } => self.escalate(problem, leftovers),
            Event::Directed { by, what, reason, .. } => self.direct(by, *what, reason),
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

    fn late_approval(&mut self, approval: &ProvenEntry) -> bool {
        if self.approval().is_some() || self.phase == Phase::Anchored {
            return false;
        }
        self.approved = Some(Box::new(approval.clone()));
        true
    }

    fn planned(&mut self, plan: &Arc<Plan>, at_ms: u64) -> bool {
        if plan.operation_id != self.id {
            return false;
        }
        let first = self.phase == Phase::Starting;
        if !first && (!self.may_replan() || plan.steps.iter().any(|s| self.steps.contains_key(&s.id))) {
            return false;
        }
        if let Some(before) = self.plan.take() {
            self.superseded.push(before);
            (self.problem, self.replan) = (None, false);
        }
        let fresh = Progress {
            state: StepState::Pending,
            attempts: 0,
            failures: 0,
            undo_attempts: 0,
            undo_failures: 0,
            since_ms: at_ms,
        };
        self.steps.extend(plan.steps.iter().chain(&plan.isolation).map(|s| (s.id, fresh.clone())));
        self.plan = Some(plan.clone());
        self.phase = Phase::Processing;
        true
    }

    fn refused(&mut self, code: &str, detail: &str) -> bool {
        if self.phase == Phase::Starting {
            self.problem = Some(format!("{code}: {detail}"));
            self.phase = Phase::Refused;
            return true;
        }
        let again = self.may_replan();
        if again {
            let first = self.problem.take().unwrap_or_default();
            self.problem = Some(format!("{first}; and nowhere else: {code}: {detail}"));
            self.replan = false;
        }
        again
    }

    /// Was it taken back, whole, because a site had no room?
    fn may_replan(&self) -> bool {
        self.replan
            && self.phase == Phase::RollingBack
            && self.halted.is_none()
            && self.superseded.len() < MAX_REPLANS
            && self.plan.as_ref().is_some_and(|p| matches!(p.action.as_str(), "deploy" | "migrate"))
            && self.steps.values().all(|p| {
                !matches!(p.state, StepState::Started | StepState::Undoing | StepState::UndoFailed(_))
            })
    }

    fn open(&self) -> bool {
        !matches!(self.phase, Phase::Refused | Phase::Closed | Phase::Anchored)
    }

    fn intervene(&mut self, kind: &'static str, by: &str, reason: &str) {
        let (by, reason) = (by.to_owned(), reason.to_owned());
        self.interventions.push(Intervention { kind, by, reason });
    }

    fn expired(&mut self) -> bool {
        if !self.open() || self.halted.is_some() {
            return false;
        }
        let reason = format!("EXPIRED: the grant was good to {}", self.grant.not_after);
        self.intervene("expired", "", &reason);
        self.halted = Some(reason);
        true
    }

    fn revoked(&mut self, position: u64, reason: &str) -> bool {
        if !self.open() {
            return false;
        }
        self.intervene("revoked", &format!("ledger entry {position}"), reason);
        self.halted.get_or_insert_with(|| format!("REVOKED: ledger entry {position}: {reason}"));
        true
    }

    fn give_way(&mut self, intent: &str, action: &str, position: u64) -> bool {
        if !self.open() || self.preempted.is_some() {
            return false;
        }
        let reason = format!("intent `{intent}` is to {action} the service");
        let by = format!("ledger entry {position}");
        self.intervene("preempted", &by, &reason);
        self.preempted = Some(format!("PREEMPTED: {by}: {reason}"));
        true
    }

    /// Has it been told to give way to another operation?
    #[must_use]
    pub fn is_preempted(&self) -> bool {
        self.preempted.is_some()
    }

    /// Why it does not go on, so that nobody need wait for what it is at: it has expired, was revoked, gives way, or a person has it
    /// taken back or ended. What only leads forward goes on.
    #[must_use]
    pub fn is_to_end(&self) -> Option<&str> {
        let directed = (self.directed == Some(Direction::Fail)).then_some("failed by a person");
        let halted = self.halted.as_deref().filter(|_| !self.committed());
        halted.or(self.preempted.as_deref()).or(directed)
    }

    fn escalate(&mut self, problem: &str, leftovers: &[String]) -> bool {
        if !self.open() || self.phase == Phase::Starting || self.escalated.is_some() {
            return false;
        }
        self.intervene("escalated", "", problem);
        self.escalated = Some(leftovers.to_vec());
        true
    }

    fn direct(&mut self, by: &str, what: Direction, reason: &str) -> bool {
        if !self.may(what) {
            return false;
        }
        self.intervene(what.name(), by, reason);
        self.directed = Some(what);
        match what {
            // What is left is left.
            Direction::Fail => return true,
            Direction::Retry => {}
            Direction::Rollback => {
                self.halted.get_or_insert_with(|| format!("ROLLBACK: {by}: {reason}"));
            }
        }
        self.escalated = None;
        for p in self.steps.values_mut() {
            (p.failures, p.undo_failures) = (0, 0);
        }
        true
    }

    /// May a person direct this now?
    #[must_use]
    pub fn may(&self, what: Direction) -> bool {
        let failed_temp = self.escalated.is_some() && self.open();
        match what {
            Direction::Retry | Direction::Fail => failed_temp,
            Direction::Rollback => {
                let planned = matches!(self.phase, Phase::Processing | Phase::RollingBack);
                planned && !self.committed()
            }
        }
    }

    /// Is there only the way forward? Some of the service before is gone for good.
    fn committed(&self) -> bool {
        let Some(plan) = &self.plan else { return false };
        let begun = |s: &Step| !matches!(self.step_state(s.id), None | Some(StepState::Pending));
        plan.forward_only() || plan.steps.iter().any(|s| plan.commits(s) && begun(s))
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
        if failure.then == Then::Replan
            && let Some(plan) = &self.plan
            && let Some(at) = plan.step(step)
        {
            self.no_room.insert(plan.site_of(at).to_owned(), failure.detail.clone());
        }
        true
    }

    fn undo_started(&mut self, step: u32, attempt: u32, at_ms: u64) -> bool {
        // The failed step may be the next to be taken back: keep what it said.
        let problem = self.problem();
        let replan = self.root_cause().is_some_and(|(_, f)| f.then == Then::Replan);
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
        if self.phase != Phase::RollingBack {
            self.replan = replan && self.halted.is_none();
        }
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
        let unplanned = self.phase == Phase::Starting && self.halted.is_none() && self.preempted.is_none();
        if unplanned || matches!(self.phase, Phase::Closed | Phase::Anchored) {
            return false;
        }
        self.outcome = Some(outcome.clone());
        self.closed_ms = Some(at_ms);
        self.phase = Phase::Closed;
        true
    }

    fn anchored(&mut self, receipt: &ProvenEntry) -> bool {
        if self.phase != Phase::Closed || self.approval().is_none() {
            return false;
        }
        self.receipt = Some(Box::new(receipt.clone()));
        self.phase = Phase::Anchored;
        true
    }

    /// All its plans, in order; the last is the one it follows.
    pub fn plans(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.superseded.iter().chain(&self.plan)
    }

    /// The step of this id, of whichever plan.
    #[must_use]
    pub fn step(&self, id: u32) -> Option<&Step> {
        self.plans().find_map(|p| p.step(id))
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
            (_, None) if self.escalated.is_some() => "FAILED_TEMP",
            (Phase::Starting | Phase::Refused, None) => "STARTING",
            (Phase::RollingBack | Phase::Isolating, None) => "ROLLING_BACK",
            _ => "PROCESSING",
        }
    }

    /// What is left, when a person was called; `None`: nobody was.
    #[must_use]
    pub fn leftovers(&self) -> Option<&[String]> {
        self.escalated.as_deref()
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
        let failed = || self.root_cause().map(|(s, f)| describe(s, f));
        self.problem.clone().or_else(failed).or_else(|| self.halted.clone())
    }

    fn root_cause(&self) -> Option<(&Step, &Failure)> {
        let plan = self.plan.as_ref()?;
        plan.steps.iter().filter(|s| !s.dispensable()).find_map(|s| match self.step_state(s.id) {
            Some(StepState::Failed(f)) => Some((s, f)),
            _ => None,
        })
    }

    /// The service after this operation: what the next one starts from. `None`: there is no service.
    #[must_use]
    pub fn record(&self) -> Option<NsRecord> {
        let plan = self.plan.as_ref()?;
        let state = self.outcome.as_ref().map(|o| o.state);
        if state == Some(FinalState::Completed) {
            return plan.after.clone();
        }
        let mut record = match state {
            Some(FinalState::Failed) => as_wanted(plan)?,
            _ => plan.before.clone()?,
        };
        record.flows = plan.after.as_ref().map_or(record.flows, |a| a.flows);
        self.done_to(plan, &mut record);
        self.taken_back_from(plan, &mut record);
        Some(record)
    }

    /// What the steps that were not taken back did: what they made stands, wanted or not; what they removed does not,
    /// and stays wanted if it was to come back.
    fn done_to(&self, plan: &Plan, record: &mut NsRecord) {
        for step in plan.steps.iter().chain(&plan.isolation) {
            let site = plan.site_of(step);
            let wanted = |key| plan.after.as_ref().is_some_and(|a| a.spec(site, key).is_some());
            match (&step.action, self.step_state(step.id)) {
                (_, None | Some(StepState::Pending | StepState::Undone)) => {}
                (Action::Ensure { key, spec }, _) if wanted(key) || plan.had(site, key) => {
                    record.put(site, key.clone(), (**spec).clone());
                }
                (Action::Ensure { key, spec }, _) => record.leave(site, key.clone(), (**spec).clone()),
                (Action::Remove { key, .. }, Some(StepState::Done(_))) if wanted(key) => {
                    record.uncut(site, key);
                }
                (Action::Remove { key, .. }, Some(StepState::Done(_))) => record.take(site, key),
                (Action::Isolate { key }, Some(StepState::Done(_))) => {
                    record.isolated.insert((site.to_owned(), key.clone()));
                }
                _ => {}
            }
        }
    }

    /// What taking back did, in the order in which it was done: specs return under a newer generation; what was removed
    /// stays wanted if it was before.
    fn taken_back_from(&self, plan: &Plan, record: &mut NsRecord) {
        for step in plan.steps.iter().rev() {
            if self.step_state(step.id) != Some(&StepState::Undone) {
                continue;
            }
            let site = plan.site_of(step);
            match &step.undo {
                Some(Action::Ensure { key, spec }) => record.put(site, key.clone(), (**spec).clone()),
                Some(Action::Remove { key, .. }) if plan.had(site, key) => record.uncut(site, key),
                Some(Action::Remove { key, .. }) => record.take(site, key),
                _ => {}
            }
        }
    }

    /// What to do now; `in_flight` are the steps whose effect is being taken at this moment.
    #[must_use]
    pub fn next(&self, retries: &Retries, now_ms: u64, in_flight: &[u32]) -> Vec<Command> {
        let over = |problem: &Option<String>| {
            vec![Command::Close(Outcome {
                state: FinalState::RolledBack,
                problem: problem.clone(),
                isolated: false,
                leftovers: Vec::new(),
                evidence: EvidenceForm::Runs,
            })]
        };
        match self.phase {
            Phase::Starting if self.preempted.is_some() => over(&self.preempted),
            Phase::Starting if self.halted.is_some() => over(&self.halted),
            Phase::Starting => vec![Command::Plan],
            Phase::Refused => over(&self.problem),
            Phase::Closed if self.approval().is_none() => vec![Command::Await],
            Phase::Closed => vec![Command::Anchor],
            Phase::Anchored => Vec::new(),
            Phase::Processing | Phase::RollingBack | Phase::Isolating => match &self.plan {
                Some(plan) => Decision { operation: self, plan, retries, now_ms, in_flight }.commands(),
                None => vec![Command::Plan],
            },
        }
    }
}

/// What the service is to be after a failure, before what was done is looked at: the former objects under the new
/// description, because the next operation is planned from that.
fn as_wanted(plan: &Plan) -> Option<NsRecord> {
    let mut record = plan.after.clone().or_else(|| plan.before.clone())?;
    let before = plan.before.as_ref();
    record.objects = before.map(|b| b.objects.clone()).unwrap_or_default();
    record.leftovers = before.map(|b| b.leftovers.clone()).unwrap_or_default();
    record.isolated = before.map(|b| b.isolated.clone()).unwrap_or_default();
    Some(record)
}

fn describe(step: &Step, failure: &Failure) -> String {
    format!("step {} ({}): {}: {}", step.id, step.what, failure.code, failure.detail)
}
