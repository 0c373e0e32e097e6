//! What to do now: one look at a planned operation.
//!
//! The worst failure decides the course: forward, unwind, isolate, or stop and call a person. Everything here is
//! computed anew from the fold each time, so that a restart decides what the run before it would have.

use super::{
    Command, FinalState, MAX_PAUSE_MS, Operation, Outcome, Phase, Progress, Retries, StepState, Then,
    describe,
};
use crate::plan::{Action, Plan, Step};

/// One look at a planned operation.
pub(super) struct Decision<'a> {
    pub(super) operation: &'a Operation,
    pub(super) plan: &'a Plan,
    pub(super) retries: &'a Retries,
    pub(super) now_ms: u64,
    pub(super) in_flight: &'a [u32],
}

/// What the failures among the steps ask for.
enum Course {
    Forward,
    Unwind(String),
    Isolate(String),
    Stop(String),
}

impl Decision<'_> {
    pub(super) fn commands(&self) -> Vec<Command> {
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
