//! What to do now: one look at a planned operation.
//!
//! The worst failure decides the course: forward, unwind, isolate, or stop and call a person. Everything here is
//! computed anew from the fold each time, so that a restart decides what the run before it would have.

use std::collections::BTreeSet;

use super::{
    Command, Direction, EvidenceForm, FinalState, MAX_ESCALATED_PAUSE_MS, MAX_PAUSE_MS, Operation, Outcome,
    Phase, Progress, Retries, StepState, Then, describe,
};
use crate::{
    plan::{Action, Plan, Step},
    record::NsRecord,
};

/// One look at a planned operation.
pub(super) struct Decision<'a> {
    pub(super) operation: &'a Operation,
    pub(super) plan: &'a Plan,
    pub(super) retries: &'a Retries,
    pub(super) now_ms: u64,
    pub(super) in_flight: &'a [u32],
}

/// What the failures among the steps, the grant and a person ask for.
enum Course {
    Forward,
    Unwind(String),
    Isolate(String),
    Stop(String),
}

/// What can be done at this moment for a set of steps.
#[derive(Default)]
struct Look {
    commands: Vec<Command>,
    /// When the next of those that are paused may be tried.
    earliest: Option<u64>,
    /// The first that failed as often as it may before a person is called.
    stuck: Option<String>,
    /// Some are not done.
    open: bool,
}

impl Look {
    fn pause(&mut self, until: u64) {
        self.earliest = Some(self.earliest.map_or(until, |e| e.min(until)));
    }
}

impl Decision<'_> {
    pub(super) fn commands(&self) -> Vec<Command> {
        let course = self.course();
        if self.operation.directed == Some(Direction::Fail) {
            let by = self.operation.interventions.iter().rfind(|i| i.kind == Direction::Fail.name());
            let why = by.map(|i| format!("failed by {}: {}", i.by, i.reason));
            return self.unless_in_flight(|| self.give_up(why, &course));
        }
        if self.gives_way(&course) {
            return self.unless_in_flight(|| self.give_way(&course));
        }
        match course {
            Course::Forward if self.has_expired() => vec![Command::Expire],
            Course::Forward => self.forward(),
            // Effects in flight are awaited first: what they did must be known before it is taken back.
            Course::Unwind(problem) => self.unless_in_flight(|| self.unwind(&problem)),
            Course::Isolate(problem) => self.isolate(&problem),
            Course::Stop(problem) => self.unless_in_flight(|| self.call_a_person(problem.clone(), None)),
        }
    }

    fn unless_in_flight(&self, f: impl FnOnce() -> Vec<Command>) -> Vec<Command> {
        if self.in_flight.is_empty() { f() } else { Vec::new() }
    }

    fn progress(&self, step: u32) -> Option<&Progress> {
        self.operation.steps.get(&step)
    }

    fn state(&self, step: u32) -> &StepState {
        self.operation.step_state(step).unwrap_or(&StepState::Pending)
    }

    fn escalated(&self) -> bool {
        self.operation.escalated.is_some()
    }

    /// Nothing more is to be done about this step on the way forward.
    fn settled(&self, step: &Step) -> bool {
        match self.state(step.id) {
            StepState::Done(_) => true,
            StepState::Failed(f) if step.dispensable() => {
                !matches!(f.then, Then::Retry | Then::Unknown) || self.exhausted(step)
            }
            _ => false,
        }
    }

    fn complete(&self) -> bool {
        self.plan.steps.iter().all(|s| self.settled(s))
    }

    /// The grant is looked at until nothing is left to do under it.
    fn has_expired(&self) -> bool {
        let over = self.now_ms / 1000 > self.operation.grant.not_after.0;
        over && self.operation.halted.is_none() && !self.complete()
    }

    /// The worst failure decides; once something was taken back, there is no way forward.
    fn course(&self) -> Course {
        let problem = || self.operation.problem().unwrap_or_else(|| "unwinding".into());
        match self.operation.phase {
            Phase::Isolating => return Course::Isolate(problem()),
            // The failed step itself is being taken back: its failure is no longer its state.
            Phase::RollingBack => return Course::Unwind(problem()),
            _ => {}
        }
        let course = self.course_of_failures();
        let halted =
            self.operation.halted.clone().filter(|_| !self.operation.committed() && !self.complete());
        match (course, halted) {
            (Course::Forward | Course::Stop(_), Some(why)) => Course::Unwind(why),
            (course, _) => course,
        }
    }

    fn course_of_failures(&self) -> Course {
        let mut course = Course::Forward;
        for step in self.plan.steps.iter().filter(|s| !s.dispensable()) {
            let StepState::Failed(failure) = self.state(step.id) else { continue };
            let problem = describe(step, failure);
            match failure.then {
                Then::Isolate => return Course::Isolate(problem),
                Then::Escalate if self.exhausted(step) => return Course::Stop(problem),
                Then::Escalate => {}
                // A removal or a cut is tried until a person says otherwise.
                _ if step.forward_only() => {}
                Then::Retry | Then::Unknown if !self.exhausted(step) => {}
                // Who cannot prove what it runs is treated like who runs something else; only a service that is
                // being made can simply be taken back.
                _ if matches!(step.action, Action::Attest { .. }) && self.plan.before.is_some() => {
                    return Course::Isolate(problem);
                }
                _ if matches!(course, Course::Forward) => course = Course::Unwind(problem),
                _ => {}
            }
        }
        course
    }

    fn exhausted(&self, step: &Step) -> bool {
        let asked = matches!(self.state(step.id), StepState::Failed(f) if f.then == Then::Escalate);
        let limit = if asked { 1 } else { self.retries.attempts };
        self.progress(step.id).is_none_or(|p| p.failures >= limit)
    }

    fn pause_over(&self, p: &Progress, failures: u32) -> Result<(), u64> {
        let most = if self.escalated() { MAX_ESCALATED_PAUSE_MS } else { MAX_PAUSE_MS };
        let pause = self.retries.pause_ms.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
        // A person who says "retry" means now.
        let pause = if failures == 0 { 0 } else { pause };
        let until = p.since_ms.saturating_add(pause);
        if self.now_ms >= until { Ok(()) } else { Err(until) }
    }

    /// Whatever can run of the plan, at most `parallel` at once; over when all is done.
    fn forward(&self) -> Vec<Command> {
        let look = self.look(self.plan.steps.iter());
        if look.open {
            return self.unless_stuck(look);
        }
        let isolated = self.plan.action == "isolate" && self.all_cut();
        vec![Command::Close(self.outcome(FinalState::Completed, None, isolated))]
    }

    fn look<'s>(&self, steps: impl Iterator<Item = &'s Step>) -> Look {
        let mut look = Look::default();
        let mut room = self.retries.parallel.saturating_sub(self.in_flight.len());
        for step in steps.filter(|s| !self.settled(s)) {
            look.open = true;
            let settled = |id: &u32| self.plan.step(*id).is_some_and(|s| self.settled(s));
            if room == 0 || self.in_flight.contains(&step.id) || !step.needs.iter().all(settled) {
                continue;
            }
            let Some(p) = self.progress(step.id) else { continue };
            if let StepState::Failed(failure) = &p.state {
                if step.forward_only() && p.failures >= self.retries.undo_attempts {
                    look.stuck.get_or_insert_with(|| describe(step, failure));
                    if !self.escalated() {
                        continue;
                    }
                }
                if let Err(until) = self.pause_over(p, p.failures) {
                    look.pause(until);
                    if self.escalated() || step.forward_only() {
                        continue;
                    }
                    // Nothing is built on a step in trouble; and what had begun when it fails does not depend on timing.
                    break;
                }
            }
            look.commands.push(Command::Run { step: step.id, attempt: p.attempts + 1 });
            room -= 1;
        }
        look
    }

    /// The commands; when there are none, and nothing is under way, a pause or a person.
    fn unless_stuck(&self, look: Look) -> Vec<Command> {
        match (look.earliest, look.stuck) {
            _ if !look.commands.is_empty() || !self.in_flight.is_empty() => look.commands,
            (_, Some(problem)) if !self.escalated() && look.earliest.is_none() => {
                self.call_a_person(problem, None)
            }
            (Some(until_ms), _) => vec![Command::Wait { until_ms }],
            (None, _) => look.commands,
        }
    }

    /// Names what is left, once; and then waits, for a moment or for somebody.
    fn call_a_person(&self, problem: String, until: Option<u64>) -> Vec<Command> {
        match (self.escalated(), until) {
            (false, _) => vec![Command::Escalate { problem, leftovers: self.leftovers() }],
            (true, Some(until_ms)) => vec![Command::Wait { until_ms }],
            (true, None) => vec![Command::Await],
        }
    }

    /// One step at a time, in reverse order. What cannot be taken back is passed over, with what was done to the same
    /// object before it; then it is named, then tried again.
    fn unwind(&self, problem: &str) -> Vec<Command> {
        let mut look = Look::default();
        let mut passed: BTreeSet<(&str, &str)> = BTreeSet::new();
        for step in self.plan.steps.iter().rev() {
            let Some(p) = self.progress(step.id) else { continue };
            if step.undo.is_none() || matches!(p.state, StepState::Pending | StepState::Undone) {
                continue;
            }
            let place = (self.plan.site_of(step), step.action.object());
            if passed.contains(&place) {
                continue;
            }
            if let StepState::UndoFailed(failure) = &p.state {
                if p.undo_failures >= self.retries.undo_attempts {
                    look.stuck.get_or_insert_with(|| describe(step, failure));
                    if !self.escalated() {
                        passed.insert(place);
                        continue;
                    }
                }
                if let Err(until) = self.pause_over(p, p.undo_failures) {
                    look.pause(until);
                    if self.escalated() {
                        passed.insert(place);
                        continue;
                    }
                    return vec![Command::Wait { until_ms: until }];
                }
            }
            return vec![Command::Undo { step: step.id, attempt: p.undo_attempts + 1 }];
        }
        if let Some(stuck) = look.stuck {
            return self.call_a_person(format!("{problem}; taking back: {stuck}"), look.earliest);
        }
        if let Some(until_ms) = look.earliest {
            return vec![Command::Wait { until_ms }];
        }
        if self.operation.may_replan() {
            let without = self.operation.no_room.clone();
            return vec![Command::Replan { without, last_id: self.plan.last_id() }];
        }
        vec![Command::Close(self.outcome(FinalState::RolledBack, Some(problem.to_owned()), false))]
    }

    /// Cuts the traffic of every instance; one that cannot be reached is tried for as long as it takes.
    fn isolate(&self, problem: &str) -> Vec<Command> {
        // What is being made must be known before it is cut.
        let forward = |id: &u32| self.plan.steps.iter().any(|s| s.id == *id);
        if self.in_flight.iter().any(forward) {
            return Vec::new();
        }
        let look = self.look(self.plan.isolation.iter().filter(|s| self.stands(s)));
        if look.open {
            return self.unless_stuck(look);
        }
        vec![Command::Close(self.outcome(FinalState::Failed, Some(problem.to_owned()), self.all_cut()))]
    }

    /// Does it give way now to what must not wait? What cuts or removes goes on as long as it can by itself.
    fn gives_way(&self, course: &Course) -> bool {
        let cuts = self.plan.forward_only() || matches!(course, Course::Isolate(_));
        self.operation.is_preempted() && (self.escalated() || !cuts) && !self.complete()
    }

    /// What stands is on record, and the next operation is planned from that.
    fn give_way(&self, course: &Course) -> Vec<Command> {
        let why = self.operation.preempted.clone();
        if self.untouched() {
            let problem = match (self.operation.problem(), why) {
                (Some(problem), Some(why)) => Some(format!("{problem}; {why}")),
                (problem, why) => problem.or(why),
            };
            return vec![Command::Close(self.outcome(FinalState::RolledBack, problem, false))];
        }
        self.give_up(why, course)
    }

    /// Is everything as it was before: nothing made, changed, removed or cut that was not taken back?
    fn untouched(&self) -> bool {
        let looks = |s: &Step| {
            matches!(s.action, Action::Attest { .. } | Action::Measure { .. } | Action::Capture { .. })
        };
        let back = |s: &Step| matches!(self.state(s.id), StepState::Pending | StepState::Undone);
        self.plan.steps.iter().chain(&self.plan.isolation).all(|s| looks(s) || back(s))
    }

    /// Somebody said that it is over.
    fn give_up(&self, why: Option<String>, course: &Course) -> Vec<Command> {
        let problem = match (self.operation.problem(), why) {
            (Some(problem), Some(why)) => format!("{problem}; {why}"),
            (problem, why) => problem.or(why).unwrap_or_default(),
        };
        let isolating = matches!(course, Course::Isolate(_)) || self.plan.action == "isolate";
        vec![Command::Close(self.outcome(FinalState::Failed, Some(problem), isolating && self.all_cut()))]
    }

    /// Is the object there, as far as this operation knows: from before, or because its step has begun?
    fn stands(&self, cut: &Step) -> bool {
        let (site, object) = (self.plan.site_of(cut), cut.action.object());
        let mut before = self.plan.before.iter().flat_map(NsRecord::standing);
        let here = |s: &&Step| self.plan.site_of(s) == site && s.action.object() == object;
        let made = |s: &&Step| {
            here(s) && matches!(s.action, Action::Ensure { .. }) && *self.state(s.id) != StepState::Pending
        };
        let gone = |s: &&Step| {
            here(s)
                && matches!(s.action, Action::Remove { .. })
                && matches!(self.state(s.id), StepState::Done(_))
        };
        let steps = || self.plan.steps.iter();
        let was = before.any(|o| o.site == site && o.key.as_str() == object);
        steps().any(|s| made(&s)) || was && !steps().any(|s| gone(&s))
    }

    /// Is the traffic of everything that stands cut?
    fn all_cut(&self) -> bool {
        if self.plan.action == "isolate" {
            let Some(after) = &self.plan.after else { return false };
            let cuts = self.plan.steps.iter().filter(|s| matches!(s.action, Action::Isolate { .. }));
            return cuts.clone().all(|s| self.settled(s)) && after.computes().all(|o| after.is_isolated(o));
        }
        let mut standing = self.plan.isolation.iter().filter(|s| self.stands(s)).peekable();
        standing.peek().is_some() && standing.all(|s| self.settled(s))
    }

    /// The objects that the operation did not deal with as it should, exactly.
    fn leftovers(&self) -> Vec<String> {
        let phase = self.operation.phase;
        let tried = |s: &&Step| s.forward_only() && matches!(self.state(s.id), StepState::Failed(_));
        let ahead = self.operation.committed() || self.plan.steps.iter().any(|s| tried(&s));
        let left = |s: &&Step| match (phase, self.state(s.id)) {
            (Phase::Isolating, _) => false,
            // On the way back: what cannot be taken back.
            (Phase::RollingBack, state) => {
                s.undo.is_some() && !matches!(state, StepState::Pending | StepState::Undone)
            }
            // On a way that only leads forward: what is still there, or not cut.
            (_, state) if ahead => s.forward_only() && !matches!(state, StepState::Done(_)),
            // All that was begun may stand.
            (_, StepState::Pending | StepState::Undone) => false,
            (_, state) => !matches!((&s.action, state), (Action::Remove { .. }, StepState::Done(_))),
        };
        let mut names: Vec<String> = self.plan.steps.iter().filter(left).map(|s| self.name(s)).collect();
        if phase == Phase::Isolating {
            let uncut = |s: &&Step| self.stands(s) && !self.settled(s);
            names.extend(self.plan.isolation.iter().filter(uncut).map(|s| self.name(s)));
        }
        names.retain(|l| !l.is_empty());
        names.sort();
        names.dedup();
        names
    }

    /// Its key; with its site, where that is not the plan's.
    fn name(&self, step: &Step) -> String {
        let object = step.action.object();
        match self.plan.site_of(step) {
            site if site != self.plan.site && !object.is_empty() => format!("{object}@{site}"),
            _ => object.to_owned(),
        }
    }

    fn outcome(&self, state: FinalState, problem: Option<String>, isolated: bool) -> Outcome {
        let leftovers = if state == FinalState::Failed { self.leftovers() } else { Vec::new() };
        Outcome { state, problem, isolated, leftovers, evidence: EvidenceForm::Runs }
    }
}
