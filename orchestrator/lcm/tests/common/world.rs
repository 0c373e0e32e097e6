//! A world of objects at sites, and a runner that does what the orchestrator's does: journal, effect, journal. A crash
//! strikes between any two of those; what was in flight then may or may not have taken effect.

#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use lcm::{
    Action, Command, Event, NsRecord, Operation, Plan,
    operation::{Authority, Direction, Failure, Retries, StepResult, Then},
};
use ledger_contract::{
    IntentKind,
    evidence::{InclusionProof, ProvenEntry},
    intent::ScaleDirection::ScaleOut,
    records::Grant,
};
use trust::{Digest, UnixTime};
use vim::Spec;

use crate::common::{deploy, grant, heal, intent, isolate, migrate, observed, rollback, scale, update};

/// What goes wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Fails once before the effect, then works.
    Transient,
    /// Takes effect once, and the reply is lost.
    LostReply,
    /// Never works.
    Persistent,
    /// Takes effect and says it did not, always.
    PersistentAfterEffect,
    /// Attestation refused (only on attest steps).
    Contraindicated,
    /// Never works, and taking anything back fails twice before it works.
    PersistentHardUndo,
    /// Fails for longer than anybody waits, then works: a person is called meanwhile (only on steps that cannot be taken
    /// back).
    Long,
    /// Never works, and the first step taken back fails for longer than anybody waits.
    PersistentLongUndo,
    /// Never works, and the first step to be taken back never is.
    PersistentNoUndo,
    /// Asks for a person, once.
    AsksForAPerson,
    /// No room here, ever.
    NoRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub step: u32,
    pub how: How,
}

pub type Place = (String, String);

/// What stands where.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub objects: BTreeMap<Place, Spec>,
    /// Of those, what does not work: it has to go before it can be made.
    pub broken: BTreeSet<Place>,
    pub isolated: BTreeSet<Place>,
    pub created: Vec<(Place, Spec)>,
    pub removed: Vec<Place>,
    pub captures: u32,
    /// What a MANO was told and has: instances of a service, and packages.
    pub service: Option<BTreeSet<String>>,
    pub packages: BTreeSet<String>,
    /// Cut off by an operation before this one.
    cut_before: BTreeSet<Place>,
    hits: u32,
    undo_hits: u32,
    stuck: Option<u32>,
}

/// More often than any retry policy has attempts.
const LONG: u32 = 12;

impl World {
    pub fn of(record: Option<&NsRecord>) -> Self {
        let objects = record.iter().flat_map(|r| objects_of(r)).collect();
        let isolated = record.iter().flat_map(|r| &r.isolated).map(|(s, k)| (s.clone(), k.to_string()));
        let managed = record.filter(|r| r.mano.is_some());
        let service = managed.map(|r| r.computes().map(|o| o.key.to_string()).collect());
        let packages = managed.iter().flat_map(|r| r.packages.keys().chain([&r.nsd])).cloned().collect();
        Self { service, packages, objects, isolated: isolated.collect(), ..Self::default() }
    }

    /// What stands, for the next operation.
    pub fn later(&self) -> Self {
        let (objects, isolated) = (self.objects.clone(), self.isolated.clone());
        Self { objects, cut_before: isolated.clone(), isolated, ..Self::default() }
    }

    fn effect(&mut self, site: &str, action: &Action) {
        let at = |key: &vim::ObjectKey| (site.to_owned(), key.to_string());
        match action {
            Action::Ensure { key, spec } => {
                let made = self.service.as_ref().is_none_or(|s| s.contains(key.as_str()));
                assert!(made || spec.kind() != vim::Kind::Compute, "{key} is not made by the MANO");
                assert!(!self.broken.contains(&at(key)), "{key} is broken and was not removed");
                let new_instance = match (self.objects.get(&at(key)), &**spec) {
                    (Some(Spec::Compute(o)), Spec::Compute(n)) => o.image != n.image || o.ports != n.ports,
                    (Some(_), _) => false,
                    (None, _) => true,
                };
                if new_instance {
                    self.isolated.remove(&at(key));
                }
                if self.objects.get(&at(key)) != Some(&**spec) {
                    self.created.push((at(key), (**spec).clone()));
                    self.objects.insert(at(key), (**spec).clone());
                }
            }
            Action::Remove { key, .. } => {
                for set in [&mut self.broken, &mut self.isolated] {
                    set.remove(&at(key));
                }
                if self.objects.remove(&at(key)).is_some() {
                    self.removed.push(at(key));
                }
            }
            Action::Isolate { key } => {
                self.isolated.insert(at(key));
            }
            Action::Capture { key, .. } => {
                let cut_now = self.isolated.contains(&at(key)) && !self.cut_before.contains(&at(key));
                assert!(!cut_now, "captured after it was cut");
                self.captures += 1;
            }
            Action::Onboard { package } => drop(self.packages.insert(package.id.clone())),
            Action::Offboard { id, .. } => drop(self.packages.remove(id)),
            Action::Realize { spec, .. } => {
                let used = spec.members.values().map(|m| &m.vnfd.id).chain([&spec.nsd.id]);
                assert!(used.into_iter().all(|id| self.packages.contains(id)), "packages come first");
                let vdus = spec.members.values().flat_map(|m| m.vdus.values());
                let some = vdus.flat_map(|v| v.instances.iter().take(v.count as usize));
                self.service = Some(some.map(|i| i.key.to_string()).collect());
            }
            Action::Rebuild { instances, .. } => {
                let made = self.service.as_ref().expect("a service");
                assert!(instances.iter().all(|i| made.contains(i.as_str())));
                self.broken.retain(|(_, key)| !made.contains(key));
            }
            Action::Dissolve { .. } => {
                let gone = self.service.take().unwrap_or_default();
                self.objects.retain(|(_, key), _| !gone.contains(key));
                self.broken.retain(|(_, key)| !gone.contains(key));
                self.isolated.retain(|(_, key)| !gone.contains(key));
            }
            Action::Attest { .. } | Action::Measure { .. } | Action::Announce { .. } => {}
        }
    }

    fn attempt(
        &mut self,
        (step, site): (u32, &str),
        action: &Action,
        fault: Option<Fault>,
    ) -> Result<StepResult, Failure> {
        // What does not stand cannot prove what it runs.
        if let Action::Attest { reference, .. } = action
            && !reference.workloads.keys().all(|k| self.objects.contains_key(&(site.to_owned(), k.clone())))
        {
            return Err(failure(Then::Isolate));
        }
        if let Some(f) = fault.filter(|f| f.step == step) {
            match f.how {
                How::Transient if self.hits == 0 => {
                    self.hits += 1;
                    return Err(failure(Then::Retry));
                }
                How::LostReply if self.hits == 0 => {
                    self.hits += 1;
                    self.effect(site, action);
                    return Err(failure(Then::Unknown));
                }
                How::Long if self.hits < LONG => {
                    self.hits += 1;
                    return Err(failure(Then::Compensate));
                }
                How::AsksForAPerson if self.hits == 0 => {
                    self.hits += 1;
                    return Err(failure(Then::Escalate));
                }
                How::Persistent
                | How::PersistentHardUndo
                | How::PersistentLongUndo
                | How::PersistentNoUndo => return Err(failure(Then::Compensate)),
                How::PersistentAfterEffect => {
                    self.effect(site, action);
                    return Err(failure(Then::Unknown));
                }
                How::Contraindicated => return Err(failure(Then::Isolate)),
                How::NoRoom => return Err(failure(Then::Replan)),
                How::Transient | How::LostReply | How::Long | How::AsksForAPerson => {}
            }
        }
        self.effect(site, action);
        Ok(result_of(action))
    }

    fn undo(
        &mut self,
        (step, site): (u32, &str),
        action: &Action,
        fault: Option<Fault>,
    ) -> Result<(), Failure> {
        let bad = match fault.map(|f| f.how) {
            Some(How::PersistentHardUndo) => self.undo_hits < 2,
            Some(How::PersistentLongUndo) => *self.stuck.get_or_insert(step) == step && self.undo_hits < LONG,
            Some(How::PersistentNoUndo) => *self.stuck.get_or_insert(step) == step,
            _ => false,
        };
        if bad {
            self.undo_hits += 1;
            return Err(failure(Then::Retry));
        }
        self.effect(site, action);
        Ok(())
    }
}

fn failure(then: Then) -> Failure {
    Failure { code: "INJECTED".into(), detail: "by the test".into(), then, refused: None }
}

fn result_of(action: &Action) -> StepResult {
    match action {
        Action::Ensure { spec, .. } => StepResult::Observed { observed: observed(spec) },
        Action::Capture { key, .. } => {
            let capture = Digest::of(key.as_str());
            StepResult::Captured { capture, size_bytes: 24, frames: 1, dropped: 0 }
        }
        _ => StepResult::Acknowledged {},
    }
}

pub struct Crash;

/// The runner, with a budget of primitive actions before it dies.
pub struct Runner {
    pub plans: VecDeque<Arc<Plan>>,
    pub journal: Vec<Event>,
    pub world: World,
    pub fault: Option<Fault>,
    pub budget: usize,
    pub used: usize,
    pub retries: Retries,
    pub newest_first: bool,
    /// Effects in flight at a crash take place.
    pub lost_effects_happen: bool,
    pub clock: u64,
    /// Comes from outside after so many actions; again after a crash, when it was lost with it.
    pub intervention: Option<(usize, Event)>,
    /// What people say, in order, when they are asked.
    pub directions: VecDeque<Direction>,
}

impl Runner {
    pub fn new(plan: &Arc<Plan>, fault: Option<Fault>, parallel: usize) -> Self {
        Self {
            plans: VecDeque::from([plan.clone()]),
            journal: vec![accepted(plan)],
            world: World::of(plan.before.as_ref()),
            fault,
            budget: usize::MAX,
            used: 0,
            retries: Retries { parallel, ..Retries::default() },
            newest_first: false,
            lost_effects_happen: false,
            clock: 1,
            intervention: None,
            directions: VecDeque::new(),
        }
    }

    fn tick(&mut self) -> Result<(), Crash> {
        if self.used >= self.budget {
            return Err(Crash);
        }
        self.used += 1;
        self.clock += 1;
        Ok(())
    }

    fn append(&mut self, operation: &mut Operation, event: Event) -> Result<(), Crash> {
        self.tick()?;
        operation.apply(&event).unwrap();
        self.journal.push(event);
        Ok(())
    }

    /// Runs until it is closed; after each crash once more.
    pub fn run(&mut self, crashes: &[usize]) -> Operation {
        let mut crashes = crashes.iter();
        loop {
            self.used = 0;
            self.budget = crashes.next().copied().unwrap_or(usize::MAX);
            let mut operation = Operation::fold(&self.journal).unwrap();
            let mut in_flight: Vec<(u32, bool)> = Vec::new();
            if self.drive(&mut operation, &mut in_flight).is_ok() {
                return operation;
            }
            let operation = Operation::fold(&self.journal).unwrap();
            if self.lost_effects_happen {
                for (step, undo) in in_flight {
                    let (site, it) = placed(&operation, step);
                    let action = if undo { it.undo.as_ref().unwrap() } else { &it.action };
                    self.world.effect(&site, action);
                }
            }
            if operation.outcome.is_none() {
                self.journal.push(Event::Recovered { at_ms: self.clock });
            }
        }
    }

    fn intervene(&mut self, operation: &mut Operation) -> Result<(), Crash> {
        if let Some((after, event)) = self.intervention.clone()
            && self.used >= after
        {
            if operation.clone().apply(&event).is_ok() {
                self.append(operation, event)?;
            }
            self.intervention = None;
        }
        Ok(())
    }

    fn drive(&mut self, operation: &mut Operation, in_flight: &mut Vec<(u32, bool)>) -> Result<(), Crash> {
        for _ in 0..10_000 {
            self.intervene(operation)?;
            let steps: Vec<u32> = in_flight.iter().map(|(s, _)| *s).collect();
            for command in operation.next(&self.retries, self.clock, &steps) {
                let at_ms = self.clock;
                match command {
                    Command::Plan => {
                        let plan = self.plans[0].clone();
                        self.append(operation, Event::Planned { plan, at_ms })?;
                    }
                    Command::Replan { last_id, .. } => {
                        // The plan for a second time is computed for the case: the next one whose steps go on counting.
                        let next = self.plans.iter().find(|p| p.steps[0].id == last_id + 1).cloned();
                        let event = match next {
                            Some(plan) => Event::Planned { plan, at_ms },
                            None => {
                                let detail = "no site is left".to_owned();
                                Event::Refused { code: "NO_SITE".into(), detail, at_ms }
                            }
                        };
                        self.append(operation, event)?;
                    }
                    Command::Run { step, attempt } => {
                        self.append(operation, Event::Started { step, attempt, at_ms })?;
                        in_flight.push((step, false));
                    }
                    Command::Undo { step, attempt } => {
                        self.append(operation, Event::UndoStarted { step, attempt, at_ms })?;
                        in_flight.push((step, true));
                    }
                    Command::Wait { until_ms } => self.clock = until_ms,
                    Command::Expire => self.append(operation, Event::Expired { at_ms })?,
                    Command::Escalate { problem, leftovers } => {
                        self.append(operation, Event::Escalated { problem, leftovers, at_ms })?;
                    }
                    // Nobody decides before what is to come from outside has come.
                    Command::Await if self.intervention.is_some() => {}
                    Command::Await => {
                        let what =
                            *self.directions.front().expect("a person is asked, and nobody says anything");
                        let (by, reason) = ("olga@op".to_owned(), "looked at it".to_owned());
                        self.append(operation, Event::Directed { by, what, reason, at_ms })?;
                        self.directions.pop_front();
                    }
                    Command::Close(outcome) => self.append(operation, Event::Closed { outcome, at_ms })?,
                    Command::Anchor => return Ok(()),
                }
            }
            if let Some((after, _)) = &mut self.intervention
                && operation.leftovers().is_some()
            {
                *after = 0;
            }
            if let Some(what) = self.directions.front().copied()
                && operation.leftovers().is_some()
                && operation.may(what)
                && in_flight.is_empty()
            {
                let (by, reason) = ("olga@op".to_owned(), "looked at it".to_owned());
                let event = Event::Directed { by, what, reason, at_ms: self.clock };
                self.append(operation, event)?;
                self.directions.pop_front();
            }
            if in_flight.is_empty() {
                continue;
            }
            self.tick()?;
            let (step, undo) = if self.newest_first { in_flight.pop().unwrap() } else { in_flight.remove(0) };
            let at_ms = self.clock;
            let (site, it) = placed(operation, step);
            let event = if undo {
                match self.world.undo((step, &site), it.undo.as_ref().unwrap(), self.fault) {
                    Ok(()) => Event::Undone { step, at_ms, calls: 1 },
                    Err(failure) => Event::UndoFailed { step, failure, at_ms, calls: 1 },
                }
            } else {
                match self.world.attempt((step, &site), &it.action, self.fault) {
                    Ok(result) => Event::Done { step, result: Box::new(result), at_ms, calls: 1 },
                    Err(failure) => Event::Failed { step, failure, at_ms, calls: 1 },
                }
            };
            self.append(operation, event)?;
        }
        panic!("the operation does not end: {:?}", operation.next(&self.retries, self.clock, &[]));
    }
}

fn placed(operation: &Operation, step: u32) -> (String, lcm::Step) {
    let plan = operation.plans().find(|p| p.step(step).is_some()).unwrap();
    let it = plan.step(step).unwrap();
    (plan.site_of(it).to_owned(), it.clone())
}

pub fn objects_of(record: &NsRecord) -> Vec<(Place, Spec)> {
    record.objects.iter().map(|o| ((o.site.clone(), o.key.to_string()), o.spec.clone())).collect()
}

/// What may stand: what must, and what was left.
pub fn standing_of(record: &NsRecord) -> Vec<(Place, Spec)> {
    record.standing().map(|o| ((o.site.clone(), o.key.to_string()), o.spec.clone())).collect()
}

pub fn accepted_under(plan: &Plan, grant: Grant) -> Event {
    let proof = InclusionProof { index: 3, path: vec![], checkpoint: "log\n1\n\n".into() };
    Event::Accepted {
        operation_id: plan.operation_id.clone(),
        authority: Authority::Approval(Box::new(ProvenEntry { entry: "{}".into(), proof, channel: None })),
        grant: Box::new(grant),
        decided_at: UnixTime(1_000),
        at_ms: 1,
    }
}

pub fn accepted(plan: &Plan) -> Event {
    let action = match plan.action.as_str() {
        "deploy" => IntentKind::Deploy(Box::new(deploy())),
        "scale" => scale(2, ScaleOut),
        "update" => update("ns", deploy().vnf_params),
        "rollback" => rollback(),
        "heal" => heal(vec![]),
        "migrate" => migrate(&[], &[]),
        "isolate" => isolate(vec![], 0),
        _ => IntentKind::Terminate {},
    };
    accepted_under(plan, grant(&intent(action)))
}
