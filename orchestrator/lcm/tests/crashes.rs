//! Every crash point x every failing step x a second crash, for deploy, scale and terminate.
//!
//! The world is a map of objects with a counter of creations. The executor here does what the orchestrator's runner
//! does: journal, effect, journal. A crash strikes between any two of those; what was in flight then may or may not
//! have taken effect. Afterwards the service is complete or empty, nothing was made twice, nothing is left, and the
//! evidence is byte for byte that of the same run without a crash.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{deploy, grant, intent, plan, scale};
use lcm::{
    Action, Command, Event, NsRecord, Operation, Plan, fold,
    operation::{Authority, Failure, FinalState, Retries, StepResult, Then},
};
use ledger_contract::{
    IntentKind,
    evidence::{InclusionProof, ProvenEntry},
    intent::ScaleDirection::{ScaleIn, ScaleOut},
};
use trust::{Signer, UnixTime, issue};
use vim::{ComputeState, Observed, ObservedCompute, Spec};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    step: u32,
    how: How,
}

#[derive(Clone, Default)]
struct World {
    objects: BTreeMap<String, Spec>,
    created: Vec<(String, Spec)>,
    isolated: u32,
    hits: u32,
    undo_hits: u32,
}

impl World {
    fn effect(&mut self, action: &Action) {
        match action {
            Action::Ensure { key, spec } => {
                if self.objects.get(key.as_str()) != Some(&**spec) {
                    self.created.push((key.to_string(), (**spec).clone()));
                    self.objects.insert(key.to_string(), (**spec).clone());
                }
            }
            Action::Remove { key, .. } => {
                self.objects.remove(key.as_str());
            }
            Action::Isolate { .. } => self.isolated += 1,
            Action::Attest { .. } | Action::Measure { .. } | Action::Capture { .. } => {}
        }
    }

    fn attempt(&mut self, step: u32, action: &Action, fault: Option<Fault>) -> Result<StepResult, Failure> {
        let failure =
            |then| Failure { code: "INJECTED".into(), detail: "by the test".into(), then, refused: None };
        if let Some(f) = fault.filter(|f| f.step == step) {
            match f.how {
                How::Transient if self.hits == 0 => {
                    self.hits += 1;
                    return Err(failure(Then::Retry));
                }
                How::LostReply if self.hits == 0 => {
                    self.hits += 1;
                    self.effect(action);
                    return Err(failure(Then::Unknown));
                }
                How::Persistent | How::PersistentHardUndo => return Err(failure(Then::Compensate)),
                How::PersistentAfterEffect => {
                    self.effect(action);
                    return Err(failure(Then::Unknown));
                }
                How::Contraindicated => return Err(failure(Then::Isolate)),
                How::Transient | How::LostReply => {}
            }
        }
        self.effect(action);
        Ok(result_of(action))
    }

    fn undo(&mut self, action: &Action, fault: Option<Fault>) -> Result<(), Failure> {
        if fault.is_some_and(|f| f.how == How::PersistentHardUndo) && self.undo_hits < 2 {
            self.undo_hits += 1;
            let detail = "by the test".to_owned();
            return Err(Failure { code: "INJECTED".into(), detail, then: Then::Retry, refused: None });
        }
        self.effect(action);
        Ok(())
    }
}

fn result_of(action: &Action) -> StepResult {
    let Action::Ensure { spec, .. } = action else { return StepResult::Acknowledged {} };
    let observed = match &**spec {
        Spec::Image(i) => Observed::Image { digest: i.digest },
        Spec::Network(n) => Observed::Network { up: true, mtu: n.mtu, interconnect: n.interconnect.clone() },
        Spec::Compute(c) => Observed::Compute(ObservedCompute {
            state: ComputeState::Active,
            process: vim::ProcessState::Answers,
            image: c.image,
            configuration: Some(trust::Digest::of(c.configuration.as_bytes())),
            generation: None,
            ports: BTreeMap::new(),
            links: BTreeMap::new(),
        }),
    };
    StepResult::Observed { observed }
}

struct Crash;

/// The runner, with a budget of primitive actions before it dies.
struct Runner<'a> {
    plan: &'a Arc<Plan>,
    journal: Vec<Event>,
    world: World,
    fault: Option<Fault>,
    budget: usize,
    used: usize,
    retries: Retries,
    newest_first: bool,
    /// Effects in flight at a crash take place.
    lost_effects_happen: bool,
    clock: u64,
}

impl Runner<'_> {
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

    fn run(&mut self) -> Result<Operation, Crash> {
        let mut operation = Operation::fold(&self.journal).unwrap();
        let mut in_flight: Vec<(u32, bool)> = Vec::new();
        let outcome = self.drive(&mut operation, &mut in_flight);
        if outcome.is_err() && self.lost_effects_happen {
            for (step, undo) in in_flight {
                let step = self.plan.step(step).unwrap();
                let action = if undo { step.undo.as_ref().unwrap() } else { &step.action };
                self.world.effect(action);
            }
        }
        outcome.map(|()| operation)
    }

    fn drive(&mut self, operation: &mut Operation, in_flight: &mut Vec<(u32, bool)>) -> Result<(), Crash> {
        for _ in 0..10_000 {
            let steps: Vec<u32> = in_flight.iter().map(|(s, _)| *s).collect();
            for command in operation.next(&self.retries, self.clock, &steps) {
                let at_ms = self.clock;
                match command {
                    Command::Plan => {
                        self.append(operation, Event::Planned { plan: self.plan.clone(), at_ms })?;
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
                    Command::Close(outcome) => self.append(operation, Event::Closed { outcome, at_ms })?,
                    Command::Anchor => return Ok(()),
                    other => panic!("{other:?}"),
                }
            }
            if in_flight.is_empty() {
                continue;
            }
            self.tick()?;
            let (step, undo) = if self.newest_first { in_flight.pop().unwrap() } else { in_flight.remove(0) };
            let at_ms = self.clock;
            let it = self.plan.step(step).unwrap();
            let event = if undo {
                match self.world.undo(it.undo.as_ref().unwrap(), self.fault) {
                    Ok(()) => Event::Undone { step, at_ms },
                    Err(failure) => Event::UndoFailed { step, failure, at_ms },
                }
            } else {
                match self.world.attempt(step, &it.action, self.fault) {
                    Ok(result) => Event::Done { step, result: Box::new(result), at_ms },
                    Err(failure) => Event::Failed { step, failure, at_ms },
                }
            };
            self.append(operation, event)?;
        }
        panic!("the operation does not end: {:?}", operation.next(&self.retries, self.clock, &[]));
    }
}

#[derive(Clone, Copy)]
struct Shape {
    parallel: usize,
    newest_first: bool,
    lost_effects_happen: bool,
}

struct Case<'a> {
    plan: &'a Arc<Plan>,
    fault: Option<Fault>,
    shape: Shape,
}

impl Case<'_> {
    /// Runs with crashes after these numbers of primitive actions (counted from each start).
    fn run(&self, crashes: &[usize]) -> (Operation, World, usize) {
        let world =
            World { objects: self.plan.before.iter().flat_map(objects_of).collect(), ..World::default() };
        let mut runner = Runner {
            plan: self.plan,
            journal: vec![accepted(self.plan)],
            world,
            fault: self.fault,
            budget: crashes.first().copied().unwrap_or(usize::MAX),
            used: 0,
            retries: Retries { parallel: self.shape.parallel, ..Retries::default() },
            newest_first: self.shape.newest_first,
            lost_effects_happen: self.shape.lost_effects_happen,
            clock: 1,
        };
        let mut next = 1;
        loop {
            if let Ok(operation) = runner.run() {
                return (operation, runner.world, runner.used);
            }
            runner.used = 0;
            runner.budget = crashes.get(next).copied().unwrap_or(usize::MAX);
            next += 1;
            let closed = Operation::fold(&runner.journal).unwrap().outcome.is_some();
            if !closed {
                runner.journal.push(Event::Recovered { at_ms: runner.clock });
            }
        }
    }

    fn check(&self, operation: &Operation, world: &World, told: &str) {
        let outcome = operation.outcome.as_ref().unwrap();
        assert!(outcome.leftovers.is_empty(), "{told}: left {:?}", outcome.leftovers);
        let wanted: BTreeMap<_, _> = operation.record().iter().flat_map(objects_of).collect();
        let names = |o: &BTreeMap<String, Spec>| o.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&world.objects), names(&wanted), "{told}: {:?}", outcome.state);
        assert!(world.objects == wanted, "{told}: an object is not as recorded");
        match outcome.state {
            FinalState::Completed => {
                for (i, made) in world.created.iter().enumerate() {
                    assert!(!world.created[..i].contains(made), "{told}: made twice: {}", made.0);
                }
            }
            FinalState::RolledBack => {
                assert!(outcome.problem.as_ref().unwrap().contains("INJECTED"), "{told}: {outcome:?}");
                let before: Vec<_> = self.plan.before.iter().flat_map(objects_of).map(|(k, _)| k).collect();
                assert_eq!(world.objects.keys().cloned().collect::<Vec<_>>(), sorted(before), "{told}");
            }
            FinalState::Failed => assert!(outcome.isolated && world.isolated > 0, "{told}: {outcome:?}"),
        }
    }
}

fn sorted(mut v: Vec<String>) -> Vec<String> {
    v.sort();
    v
}

fn objects_of(record: &NsRecord) -> Vec<(String, Spec)> {
    record.objects.iter().map(|o| (o.key.to_string(), o.spec.clone())).collect()
}

fn accepted(plan: &Plan) -> Event {
    let action = match plan.action.as_str() {
        "deploy" => IntentKind::Deploy(Box::new(deploy())),
        "scale" => scale(2, ScaleOut),
        _ => IntentKind::Terminate {},
    };
    let proof = InclusionProof { index: 3, path: vec![], checkpoint: "log\n1\n\n".into() };
    Event::Accepted {
        operation_id: plan.operation_id.clone(),
        authority: Authority::Approval(Box::new(ProvenEntry { entry: "{}".into(), proof })),
        grant: Box::new(grant(&intent(action))),
        decided_at: UnixTime(1_000),
        at_ms: 1,
    }
}

fn signer() -> Signer {
    let (from, to) = (UnixTime(0), UnixTime(2_000_000_000));
    let ca = issue::ca("op", &[1; 32], from, to).unwrap();
    let it = issue::member(&ca, "orchestrator", BTreeMap::new(), &[2; 32], &[2], (from, to)).unwrap();
    Signer::from_pem(&it.key_pem, &it.certificate_pem).unwrap()
}

fn faults(plan: &Plan) -> Vec<Option<Fault>> {
    let mut out = vec![None];
    for step in &plan.steps {
        let forward_only = step.undo.is_none() && matches!(step.action, Action::Remove { .. });
        let mut hows = vec![How::Transient, How::LostReply];
        if !forward_only {
            hows.extend([How::Persistent, How::PersistentAfterEffect, How::PersistentHardUndo]);
        }
        if matches!(step.action, Action::Attest { .. }) {
            hows.push(How::Contraindicated);
        }
        out.extend(hows.into_iter().map(|how| Some(Fault { step: step.id, how })));
    }
    out
}

/// Compares evidence where it is the same by promise: always when one step runs at a time; with several at once the
/// set of steps that had begun when one failed depends on timing, so there only completed operations are compared.
fn enumerate(plan: Plan, shape: Shape, second: bool) {
    let plan = Arc::new(plan);
    let signer = signer();
    let mut runs = 0;
    for fault in faults(&plan) {
        let case = Case { plan: &plan, fault, shape };
        let (reference, world, actions) = case.run(&[]);
        case.check(&reference, &world, &format!("{} {fault:?}, no crash", plan.action));
        let evidence = fold::body(&reference, &signer).unwrap();
        let compared =
            shape.parallel == 1 || reference.outcome.as_ref().unwrap().state == FinalState::Completed;
        for first in 0..actions {
            let last = if second { actions + 2 } else { 0 };
            let seconds = (0..last).map(Some).chain([None]);
            for again in seconds {
                let crashes: Vec<usize> =
                    [Some(first), again.filter(|_| second)].into_iter().flatten().collect();
                let (operation, world, _) = case.run(&crashes);
                let told = format!("{} {fault:?}, crashes {crashes:?}", plan.action);
                case.check(&operation, &world, &told);
                let same = operation.outcome == reference.outcome;
                assert!(same, "{told}: {:?} and not {:?}", operation.outcome, reference.outcome);
                runs += 1;
                // Signing is most of the cost: once per first crash, and for every single crash.
                if compared && (again.is_none() || first % 5 == 0 && again == Some(first % 7)) {
                    assert!(fold::body(&operation, &signer).unwrap() == evidence, "{told}: other evidence");
                }
            }
        }
    }
    eprintln!("{}: {runs} runs, {} at once", plan.action, shape.parallel);
    assert!(runs > 100);
}

const ONE: Shape = Shape { parallel: 1, newest_first: false, lost_effects_happen: false };

fn deployed() -> NsRecord {
    plan(IntentKind::Deploy(Box::new(deploy())), None).after.unwrap()
}

#[test]
fn deploy_one_at_a_time() {
    enumerate(plan(IntentKind::Deploy(Box::new(deploy())), None), ONE, true);
}

#[test]
fn deploy_one_at_a_time_effects_survive_the_crash() {
    let shape = Shape { lost_effects_happen: true, ..ONE };
    enumerate(plan(IntentKind::Deploy(Box::new(deploy())), None), shape, true);
}

#[test]
fn deploy_four_at_once() {
    for newest_first in [false, true] {
        for lost_effects_happen in [false, true] {
            let shape = Shape { parallel: 4, newest_first, lost_effects_happen };
            enumerate(plan(IntentKind::Deploy(Box::new(deploy())), None), shape, false);
        }
    }
}

#[test]
fn scale_out_and_in() {
    let before = deployed();
    let grown = plan(scale(2, ScaleOut), Some(&before)).after.unwrap();
    for lost_effects_happen in [false, true] {
        let shape = Shape { lost_effects_happen, ..ONE };
        enumerate(plan(scale(2, ScaleOut), Some(&before)), shape, true);
        enumerate(plan(scale(1, ScaleIn), Some(&grown)), shape, false);
        enumerate(
            plan(scale(2, ScaleOut), Some(&before)),
            Shape { parallel: 4, newest_first: true, ..shape },
            false,
        );
    }
}

#[test]
fn terminate() {
    let before = deployed();
    for (parallel, lost_effects_happen) in [(1, false), (1, true), (4, true)] {
        let shape = Shape { parallel, newest_first: parallel > 1, lost_effects_happen };
        enumerate(plan(IntentKind::Terminate {}, Some(&before)), shape, parallel == 1);
    }
}
