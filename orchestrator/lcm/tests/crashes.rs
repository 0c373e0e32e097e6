//! Every crash point x every failing step x a second crash, for every operation.
//!
//! The executor of `common/world.rs` does what the orchestrator's runner does. Afterwards the service is as recorded,
//! nothing was made twice, nothing is left, and the evidence is byte for byte that of the same run without a crash.
//! First crashes are enumerated; second ones are sampled, the same ones every time. The number of runs is printed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::common::*;
use crate::world::*;
use lcm::{
    Action, Event, NsRecord, Operation, Plan, fold,
    operation::{Direction, FinalState, StepState},
};
use ledger_contract::{
    IntentKind,
    intent::ScaleDirection::{ScaleIn, ScaleOut},
};
use trust::{Signer, UnixTime, issue};
use vim::{Kind, Spec};

#[derive(Clone, Copy)]
struct Shape {
    parallel: usize,
    newest_first: bool,
    lost_effects_happen: bool,
    /// Second crashes per first one.
    seconds: usize,
    /// Every how many-th first crash.
    stride: usize,
}

const ONE: Shape =
    Shape { parallel: 1, newest_first: false, lost_effects_happen: false, seconds: 2, stride: 1 };
const ONE_LOST: Shape = Shape { lost_effects_happen: true, seconds: 1, ..ONE };
const FOUR: Shape = Shape { parallel: 4, seconds: 1, stride: 2, ..ONE_LOST };
const FOUR_NEWEST: Shape = Shape { newest_first: true, lost_effects_happen: false, ..FOUR };

#[derive(Clone)]
struct Case<'a> {
    plan: &'a Arc<Plan>,
    fault: Option<Fault>,
    shape: Shape,
    /// Objects that are gone before it begins, and that do not work.
    missing: BTreeSet<Place>,
    broken: BTreeSet<Place>,
}

impl Case<'_> {
    fn runner(&self) -> Runner {
        let mut runner = Runner::new(self.plan, self.fault, self.shape.parallel);
        runner.newest_first = self.shape.newest_first;
        runner.lost_effects_happen = self.shape.lost_effects_happen;
        runner.world.objects.retain(|k, _| !self.missing.contains(k));
        runner.world.broken = self.broken.clone();
        runner
    }

    fn check(&self, operation: &Operation, world: &World, told: &str) {
        let outcome = operation.outcome.as_ref().unwrap();
        assert!(outcome.leftovers.is_empty(), "{told}: left {:?}", outcome.leftovers);
        let completed = outcome.state == FinalState::Completed;
        // What did not work before is no better when the operation did not complete.
        let known = |p: &&Place| completed || !(self.missing.contains(*p) || self.broken.contains(*p));
        let wanted: BTreeMap<Place, Spec> = operation.record().iter().flat_map(objects_of).collect();
        let names = |o: &BTreeMap<Place, Spec>| o.keys().filter(known).cloned().collect::<Vec<_>>();
        assert_eq!(names(&world.objects), names(&wanted), "{told}: {:?}", outcome.state);
        let same = wanted.iter().filter(|(p, _)| known(p)).all(|(p, s)| world.objects.get(p) == Some(s));
        assert!(same, "{told}: an object is not as recorded");
        let record = operation.record();
        assert_eq!(
            world.service.is_some(),
            record.as_ref().is_some_and(|r| r.mano.is_some()),
            "{told}: the MANO's service"
        );
        assert_eq!(world.packages.is_empty(), world.service.is_none(), "{told}: {:?}", world.packages);
        let cut: BTreeSet<Place> =
            operation.record().iter().flat_map(|r| r.isolated.clone()).map(text).collect();
        assert!(
            cut.is_subset(&world.isolated),
            "{told}: {cut:?} is recorded as cut, {:?} is",
            world.isolated
        );
        match outcome.state {
            FinalState::Completed => {
                assert!(world.broken.is_empty(), "{told}");
                for (i, made) in world.created.iter().enumerate() {
                    assert!(!world.created[..i].contains(made), "{told}: made twice: {:?}", made.0);
                }
            }
            FinalState::RolledBack => {
                assert!(outcome.problem.as_ref().unwrap().contains("INJECTED"), "{told}: {outcome:?}");
                let before: BTreeMap<Place, Spec> = self.plan.before.iter().flat_map(objects_of).collect();
                assert_eq!(names(&world.objects), names(&before), "{told}");
            }
            FinalState::Failed => {
                assert!(outcome.isolated, "{told}: {outcome:?}");
                let computes = world.objects.iter().filter(|(_, s)| s.kind() == Kind::Compute);
                for (place, _) in computes {
                    assert!(world.isolated.contains(place), "{told}: {place:?} still has its traffic");
                }
            }
        }
    }
}

fn text((site, key): (String, vim::ObjectKey)) -> Place {
    (site, key.to_string())
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
        let mut hows = vec![How::Transient, How::LostReply];
        if step.forward_only() {
            hows.push(How::Long);
        } else if step.dispensable() {
            hows.push(How::Persistent);
        } else {
            hows.extend([
                How::Persistent,
                How::PersistentAfterEffect,
                How::PersistentHardUndo,
                How::PersistentLongUndo,
            ]);
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
fn enumerate(case: &Case<'_>) -> usize {
    let signer = signer();
    let mut runs = 0;
    for (n, fault) in faults(case.plan).into_iter().enumerate() {
        let case = Case { fault, ..case.clone() };
        let mut runner = case.runner();
        let reference = runner.run(&[]);
        let actions = runner.used;
        case.check(&reference, &runner.world, &format!("{} {fault:?}, no crash", case.plan.action));
        let completed = reference.outcome.as_ref().unwrap().state == FinalState::Completed;
        let compared = case.shape.parallel == 1 || completed;
        let evidence = fold::body(&reference, &signer).unwrap();
        for first in (n % case.shape.stride..actions).step_by(case.shape.stride) {
            let spread = |i: usize| {
                (first * 7 + n * 3 + i * (actions / case.shape.seconds.max(1) + 1)) % (actions + 2)
            };
            let seconds: BTreeSet<Option<usize>> =
                (0..case.shape.seconds).map(|i| Some(spread(i))).chain([None]).collect();
            for again in seconds {
                let crashes: Vec<usize> = std::iter::once(first).chain(again).collect();
                let mut runner = case.runner();
                let operation = runner.run(&crashes);
                let told = format!("{} {fault:?}, crashes {crashes:?}", case.plan.action);
                case.check(&operation, &runner.world, &told);
                let same = operation.outcome == reference.outcome;
                assert!(same, "{told}: {:?} and not {:?}", operation.outcome, reference.outcome);
                runs += 1;
                // Signing is most of the cost.
                if compared && first % 5 == n % 5 && again.is_none() {
                    assert!(fold::body(&operation, &signer).unwrap() == evidence, "{told}: other evidence");
                }
            }
        }
    }
    let (action, at_once) = (&case.plan.action, case.shape.parallel);
    eprintln!("{action}: {} steps, {runs} runs, {at_once} at once", case.plan.steps.len());
    assert!(runs > 50);
    runs
}

fn all_shapes(plan: Plan, missing: &[Place], broken: &[Place]) {
    let plan = Arc::new(plan);
    for shape in [ONE, ONE_LOST, FOUR, FOUR_NEWEST] {
        let (missing, broken) = (missing.iter().cloned().collect(), broken.iter().cloned().collect());
        enumerate(&Case { plan: &plan, fault: None, shape, missing, broken });
    }
}

fn deployed() -> NsRecord {
    plan(IntentKind::Deploy(Box::new(deploy())), None).after.unwrap()
}

fn place(record: &NsRecord, path: &str) -> Place {
    let found = record.objects.iter().find(|o| o.key.as_str().ends_with(path)).unwrap();
    (found.site.clone(), found.key.to_string())
}

fn broken_at(record: &NsRecord, setup: &Setup, missing: &[Place], broken: &[Place]) -> Setup {
    setup.observing(record, |site, inventory| {
        inventory.objects.retain(|k, _| !missing.contains(&(site.to_owned(), k.to_string())));
        for (key, observed) in &mut inventory.objects {
            if let vim::Observed::Compute(c) = observed
                && broken.contains(&(site.to_owned(), key.to_string()))
            {
                c.state = vim::ComputeState::Down;
            }
        }
    })
}

/// Every operation's plan, with what is missing and what is broken before it.
fn every_plan() -> Vec<(Plan, Vec<Place>, Vec<Place>)> {
    let before = deployed();
    let grown = plan(scale(2, ScaleOut), Some(&before)).after.unwrap();
    let joined = Setup::joined();
    let two = Setup { catalogue: next_version(), ..Setup::default() };
    let updated = two.plan(update("ns2", other_params()), Some(&before)).unwrap();
    let newer = updated.after.clone().unwrap();
    let missing = vec![place(&before, "vlb/backend/1"), place(&before, "vl/client_side")];
    let broken = vec![place(&before, "vlb/vlb/0")];
    // The firewall hung on the link that is gone.
    let unplugged = [broken.clone(), vec![place(&before, "vfw/vfw/0")]].concat();
    let found = broken_at(&before, &Setup::default(), &missing, &broken);
    let osm = managed(&["edge-a", "edge-b"]);
    let by_osm = osm.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap().after.unwrap();
    let osm_missing = vec![place(&by_osm, "vlb/backend/1")];
    let osm_broken = vec![place(&by_osm, "vlb/vlb/0")];
    let osm_found = broken_at(&by_osm, &osm, &osm_missing, &osm_broken);
    let none = Vec::new;
    vec![
        (plan(IntentKind::Deploy(Box::new(deploy())), None), none(), none()),
        (plan(scale(2, ScaleOut), Some(&before)), none(), none()),
        (plan(scale(1, ScaleIn), Some(&grown)), none(), none()),
        (plan(update("ns", other_params()), Some(&before)), none(), none()),
        (updated, none(), none()),
        (
            Setup::default().observing(&newer, |_, _| ()).plan(rollback(), Some(&newer)).unwrap(),
            none(),
            none(),
        ),
        (found.plan(heal(vec![]), Some(&before)).unwrap(), missing, unplugged),
        (
            Setup::default()
                .observing(&before, |_, _| ())
                .plan(heal(vec![target("vlb", "backend", 0), target("vlb", "backend", 1)]), Some(&before))
                .unwrap(),
            none(),
            none(),
        ),
        (joined.plan(migrate(&[], &["edge-b"]), Some(&before)).unwrap(), none(), none()),
        (joined.plan(migrate(&["vlb"], &[]), Some(&before)).unwrap(), none(), none()),
        (plan(isolate(vec![], 100), Some(&before)), none(), none()),
        (plan(IntentKind::Terminate {}, Some(&before)), none(), none()),
        (osm.plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap(), none(), none()),
        (osm_found.plan(heal(vec![]), Some(&by_osm)).unwrap(), osm_missing, osm_broken),
        (osm.plan(IntentKind::Terminate {}, Some(&by_osm)).unwrap(), none(), none()),
    ]
}

macro_rules! enumerations {
    ($($name:ident: $index:expr, $action:expr;)*) => {$(
        #[test]
        fn $name() {
            let (plan, missing, broken) = every_plan().remove($index);
            assert_eq!(plan.action, $action);
            all_shapes(plan, &missing, &broken);
        }
    )*};
}

enumerations! {
    every_crash_of_deploy: 0, "deploy";
    every_crash_of_scale_out: 1, "scale";
    every_crash_of_scale_in: 2, "scale";
    every_crash_of_an_update_of_rules: 3, "update";
    every_crash_of_an_update_of_packages: 4, "update";
    every_crash_of_rollback: 5, "rollback";
    every_crash_of_heal: 6, "heal";
    every_crash_of_heal_of_named_instances: 7, "heal";
    every_crash_of_migrate: 8, "migrate";
    every_crash_of_migrate_of_one_member: 9, "migrate";
    every_crash_of_isolate: 10, "isolate";
    every_crash_of_terminate: 11, "terminate";
    every_crash_of_deploy_by_a_mano: 12, "deploy";
    every_crash_of_heal_by_a_mano: 13, "heal";
    every_crash_of_terminate_by_a_mano: 14, "terminate";
}

/// The names of everything in the world that is not as it was before.
fn changed(plan: &Plan, world: &World) -> Vec<String> {
    let before = World::of(plan.before.as_ref()).objects;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for place in world.objects.keys().chain(before.keys()) {
        if world.objects.get(place) != before.get(place) {
            let (site, key) = place;
            names.insert(if *site == plan.site { key.clone() } else { format!("{key}@{site}") });
        }
    }
    names.into_iter().collect()
}

#[test]
fn what_cannot_be_taken_back_is_escalated_with_its_exact_name_and_kept_trying_until_a_person_ends_it() {
    for (plan, missing, broken) in every_plan() {
        let plan = Arc::new(plan);
        if plan.forward_only() || !missing.is_empty() || !broken.is_empty() {
            continue;
        }
        let undoable = |s: &&lcm::Step| s.undo.is_some() || matches!(s.action, Action::Measure { .. });
        for step in plan.steps.iter().filter(undoable) {
            let fault = Some(Fault { step: step.id, how: How::PersistentNoUndo });
            let mut runner = Runner::new(&plan, fault, 1);
            runner.directions.push_back(Direction::Fail);
            let operation = runner.run(&[]);
            let outcome = operation.outcome.clone().unwrap();
            let told = format!("{} {fault:?}: {outcome:?}", plan.action);
            let escalated = runner.journal.iter().find_map(|e| match e {
                Event::Escalated { leftovers, .. } => Some(leftovers.clone()),
                _ => None,
            });
            // A step that failed before it took effect, and whose undo fails, is named: nobody knows.
            let stuck = plan
                .steps
                .iter()
                .find(|s| matches!(operation.step_state(s.id), Some(StepState::UndoFailed(_))));
            let Some(stuck) = stuck else {
                assert_eq!(outcome.state, FinalState::RolledBack, "{told}");
                continue;
            };
            assert_eq!(outcome.state, FinalState::Failed, "{told}");
            assert_eq!(escalated.as_ref(), Some(&outcome.leftovers), "{told}");
            assert_eq!(outcome.leftovers.len(), 1, "{told}");
            assert!(outcome.leftovers[0].starts_with(stuck.action.object()), "{told}");
            for name in changed(&plan, &runner.world) {
                let restored = plan
                    .before
                    .as_ref()
                    .is_some_and(|b| b.objects.iter().any(|o| name.starts_with(o.key.as_str())));
                assert!(outcome.leftovers.contains(&name) || restored, "{told}: {name}");
            }
            let waited = runner.clock;
            assert!(waited > 20_000, "{told}: retried with back-off for {waited} ms");
            let wanted: BTreeMap<Place, Spec> = operation.record().iter().flat_map(standing_of).collect();
            for place in runner.world.objects.keys() {
                assert!(wanted.contains_key(place), "{told}: {place:?} stands and is not in the record");
            }
        }
    }
}

#[test]
fn every_step_can_ask_for_a_person_who_retries_rolls_back_or_fails() {
    for (plan, missing, broken) in every_plan() {
        let plan = Arc::new(plan);
        for step in plan.steps.iter().filter(|s| !s.dispensable() && !s.forward_only()) {
            for what in [Direction::Retry, Direction::Rollback, Direction::Fail] {
                let fault = Some(Fault { step: step.id, how: How::AsksForAPerson });
                let case = Case {
                    plan: &plan,
                    fault,
                    shape: ONE,
                    missing: missing.iter().cloned().collect(),
                    broken: broken.iter().cloned().collect(),
                };
                let mut runner = case.runner();
                runner.directions.push_back(what);
                let operation = runner.run(&[]);
                let outcome = operation.outcome.clone().unwrap();
                let told = format!("{} {fault:?} {what:?}: {outcome:?}", plan.action);
                let kinds: Vec<_> = operation.interventions.iter().map(|i| i.kind).collect();
                assert_eq!(kinds, ["escalated", what.name()], "{told}");
                match what {
                    Direction::Retry => {
                        assert_eq!(outcome.state, FinalState::Completed, "{told}");
                        case.check(&operation, &runner.world, &told);
                    }
                    Direction::Rollback => assert_eq!(outcome.state, FinalState::RolledBack, "{told}"),
                    Direction::Fail => {
                        assert_eq!(outcome.state, FinalState::Failed, "{told}");
                        let wanted: BTreeMap<Place, Spec> =
                            operation.record().iter().flat_map(standing_of).collect();
                        // Nobody knows whether the step itself took effect.
                        let asked = step.action.object();
                        for (place, spec) in runner.world.objects.iter().filter(|(p, _)| p.1 != asked) {
                            assert!(wanted.get(place) == Some(spec), "{told}: {place:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn expiry_and_revocation_at_every_moment_mean_no_new_step_and_then_back_or_through() {
    let mut runs = 0;
    for (plan, missing, broken) in every_plan() {
        let plan = Arc::new(plan);
        for (shape, revoked) in [(ONE, true), (ONE, false), (FOUR, true)] {
            let case = Case {
                plan: &plan,
                fault: None,
                shape,
                missing: missing.iter().cloned().collect(),
                broken: broken.iter().cloned().collect(),
            };
            let mut whole = case.runner();
            let _ = whole.run(&[]);
            for after in 0..whole.used {
                let event = match revoked {
                    true => Event::Revoked { position: 9, reason: "a mistake".into(), at_ms: 1 },
                    false => Event::Expired { at_ms: 1 },
                };
                let mut runner = case.runner();
                runner.intervention = Some((after, event.clone()));
                let crash = (after % 3 == 0).then_some(after / 2 + 1);
                let operation = runner.run(crash.as_slice());
                runs += 1;
                let outcome = operation.outcome.clone().unwrap();
                let told = format!("{} {event:?} after {after}: {outcome:?}", plan.action);
                assert!(outcome.leftovers.is_empty(), "{told}");
                let Some(at) = runner.journal.iter().position(|e| *e == event) else { continue };
                assert_eq!(operation.interventions.len(), 1, "{told}");
                let committed = plan.forward_only()
                    || runner.journal[..at].iter().any(|e| match e {
                        Event::Started { step, .. } => plan.commits(plan.step(*step).unwrap()),
                        _ => false,
                    });
                let begun_after = runner.journal[at..].iter().any(|e| matches!(e, Event::Started { .. }));
                let planned = runner.journal[..at].iter().any(|e| matches!(e, Event::Planned { .. }));
                if planned && committed {
                    assert_eq!(outcome.state, FinalState::Completed, "{told}");
                } else {
                    assert!(!begun_after, "{told}: a step began after it");
                    let complete = plan
                        .steps
                        .iter()
                        .all(|s| matches!(operation.step_state(s.id), Some(StepState::Done(_))));
                    let expected = if complete { FinalState::Completed } else { FinalState::RolledBack };
                    assert_eq!(outcome.state, expected, "{told}");
                    if !complete {
                        let word = if revoked { "REVOKED" } else { "EXPIRED" };
                        assert!(outcome.problem.as_ref().unwrap().contains(word), "{told}");
                    }
                }
                if operation.plan.is_none() {
                    // Nothing was done, and it knows nothing of the service.
                    assert!(runner.world.created.is_empty() && runner.world.removed.is_empty(), "{told}");
                    continue;
                }
                let wanted: BTreeMap<Place, Spec> = operation.record().iter().flat_map(objects_of).collect();
                let known = |p: &&Place| !case.missing.contains(*p) && !case.broken.contains(*p);
                let names = |o: &BTreeMap<Place, Spec>| o.keys().filter(known).cloned().collect::<Vec<_>>();
                assert_eq!(names(&runner.world.objects), names(&wanted), "{told}");
            }
        }
    }
    eprintln!("expiry and revocation: {runs} runs");
}

#[test]
fn the_clock_ends_a_grant_by_itself() {
    let plan = Arc::new(plan(IntentKind::Deploy(Box::new(deploy())), None));
    let mut runner = Runner::new(&plan, None, 1);
    let mut grant = common::grant(&intent(IntentKind::Deploy(Box::new(deploy()))));
    grant.not_after = UnixTime(0);
    runner.journal = vec![accepted_under(&plan, grant)];
    runner.clock = 995;
    let operation = runner.run(&[]);
    let outcome = operation.outcome.unwrap();
    assert_eq!(outcome.state, FinalState::RolledBack);
    assert!(outcome.problem.unwrap().contains("EXPIRED"), "the clock passed 1 s");
    assert!(runner.world.objects.is_empty() && !runner.world.removed.is_empty());
}

#[test]
fn a_site_without_room_is_left_for_the_next_until_there_is_none() {
    let setup = Setup::joined();
    let action = || IntentKind::Deploy(Box::new(deploy()));
    let first = setup.plan(action(), None).unwrap();
    let without = |sites: &[&str]| sites.iter().map(|s| ((*s).to_owned(), "full".to_owned())).collect();
    let again = |last_id, sites: &[&str]| Setup { without: without(sites), last_id, ..setup.clone() };
    let second = again(first.last_id(), &["edge-a"]).plan(action(), None).unwrap();
    let third = again(second.last_id(), &["edge-a", "edge-b"]).plan(action(), None).unwrap();
    assert_eq!([&first.site, &second.site, &third.site], ["edge-a", "edge-b", "edge-c"]);
    let refusal = again(third.last_id(), &["edge-a", "edge-b", "edge-c"]).plan(action(), None).unwrap_err();
    assert_eq!(refusal.code, "NO_SITE");
    assert!(refusal.detail.contains("no room"), "{refusal}");
    let starts: Vec<u32> = first.steps.iter().filter(|s| s.what.starts_with("start")).map(|s| s.id).collect();
    let (first, second) = (Arc::new(first), Arc::new(second));
    for step in starts {
        let run = |crashes: &[usize]| {
            let mut runner = Runner::new(&first, Some(Fault { step, how: How::NoRoom }), 1);
            runner.plans.push_back(second.clone());
            let operation = runner.run(crashes);
            (operation, runner)
        };
        let (reference, runner) = run(&[]);
        assert_eq!(reference.outcome.as_ref().unwrap().state, FinalState::Completed);
        assert_eq!(reference.superseded.len(), 1);
        let record = reference.record().unwrap();
        assert_eq!(record.site, "edge-b");
        assert_eq!(runner.world.objects, objects_of(&record).into_iter().collect());
        let evidence = fold::body(&reference, &signer()).unwrap();
        for crash in (0..runner.used).step_by(3) {
            let (operation, runner) = run(&[crash]);
            assert_eq!(runner.world.objects, objects_of(&record).into_iter().collect(), "crash {crash}");
            assert!(fold::body(&operation, &signer()).unwrap() == evidence, "crash {crash}: other evidence");
        }
        // Nowhere else: rolled back, and it says so.
        let mut runner = Runner::new(&first, Some(Fault { step, how: How::NoRoom }), 4);
        let outcome = runner.run(&[]).outcome.unwrap();
        assert_eq!(outcome.state, FinalState::RolledBack);
        assert!(outcome.problem.unwrap().contains("nowhere else: NO_SITE"), "told");
        assert!(runner.world.objects.is_empty());
    }
}

fn preempted(action: &str) -> Event {
    Event::Preempted { intent_id: "intent-x".into(), action: action.into(), position: 9, at_ms: 1 }
}

/// The sites as they are, not as they are recorded.
fn looking_at(world: &World) -> Setup {
    let mut setup = Setup::joined();
    for site in &mut setup.sites {
        let here = world.objects.iter().filter(|((s, _), _)| *s == site.name);
        site.inventory.objects =
            here.map(|((_, k), spec)| (vim::ObjectKey::new(k.clone()).unwrap(), observed(spec))).collect();
    }
    setup
}

/// Runs an operation until it gives way, and checks that nothing is forgotten; the service and the world as it leaves
/// them.
fn given_way(
    case: &Case<'_>,
    (after, crash): (usize, Option<usize>),
) -> (Option<NsRecord>, World, FinalState) {
    let mut runner = case.runner();
    runner.intervention = Some((after, preempted("isolate")));
    let operation = runner.run(crash.as_slice());
    let outcome = operation.outcome.clone().unwrap();
    let told = format!("{} {:?}, after {after}, crash {crash:?}: {outcome:?}", case.plan.action, case.fault);
    let folded = Operation::fold(&runner.journal).unwrap();
    assert!(folded == operation, "{told}: a restart tells something else");
    let record = operation.record();
    let standing: BTreeMap<Place, Spec> = record.iter().flat_map(standing_of).collect();
    let strange =
        runner.world.objects.keys().find(|p| operation.plan.is_some() && !standing.contains_key(*p));
    assert!(strange.is_none(), "{told}: {strange:?} stands and is not in the record");
    let said = outcome.problem.as_deref().unwrap_or_default().contains("PREEMPTED");
    match outcome.state {
        FinalState::Failed => assert!(said || outcome.isolated, "{told}"),
        FinalState::RolledBack if operation.plan.is_some() => {
            let before: BTreeMap<Place, Spec> = case.plan.before.iter().flat_map(objects_of).collect();
            let known = |p: &&Place| !case.missing.contains(*p) && !case.broken.contains(*p);
            let names = |o: &BTreeMap<Place, Spec>| o.keys().filter(known).cloned().collect::<Vec<_>>();
            assert_eq!(names(&runner.world.objects), names(&before), "{told}");
        }
        _ => {}
    }
    let _ = fold::body(&operation, &signer()).unwrap();
    let record = record.or_else(|| case.plan.before.clone().filter(|_| operation.plan.is_none()));
    (record, runner.world, outcome.state)
}

/// The isolation and the termination that took over, each with a crash.
fn ended_after(record: Option<NsRecord>, world: &World, crash: usize) {
    let (mut record, mut world) = (record, world.later());
    if let Some(r) = &record
        && r.computes().next().is_some()
    {
        let cut = Arc::new(looking_at(&world).plan(isolate(vec![], 0), Some(r)).unwrap());
        let mut runner = Runner::new(&cut, None, 4);
        runner.world = world;
        let operation = runner.run(&[crash]);
        assert_eq!(operation.outcome.as_ref().unwrap().state, FinalState::Completed);
        record = operation.record();
        let serves = |(p, s): &(&Place, &Spec)| {
            s.kind() == Kind::Compute && !p.1.contains("/probe/") && !runner.world.isolated.contains(*p)
        };
        assert_eq!(runner.world.objects.iter().find(serves), None, "it still has its traffic");
        world = runner.world.later();
    }
    let end = Arc::new(looking_at(&world).plan(IntentKind::Terminate {}, record.as_ref()).unwrap());
    let mut runner = Runner::new(&end, None, 4);
    runner.world = world;
    let operation = runner.run(&[crash + 2]);
    assert_eq!(operation.outcome.as_ref().unwrap().state, FinalState::Completed);
    assert!(runner.world.objects.is_empty(), "left: {:?}", runner.world.objects.keys());
    assert_eq!(operation.record(), None);
}

#[test]
fn isolation_and_termination_take_over_at_every_moment() {
    let (mut runs, mut failed) = (0, 0);
    for (plan, missing, broken) in every_plan() {
        let plan = Arc::new(plan);
        let stuck = |s: &&lcm::Step| s.undo.is_some() && !plan.forward_only();
        let no_undo = plan.steps.iter().filter(stuck).step_by(2).map(|s| (s.id, How::PersistentNoUndo));
        let long = plan.steps.iter().filter(|s| s.forward_only()).step_by(2).map(|s| (s.id, How::Long));
        let faults = no_undo.chain(long).map(|(step, how)| Some(Fault { step, how }));
        for fault in std::iter::once(None).chain(faults) {
            for shape in [ONE, FOUR] {
                let missing = missing.iter().cloned().collect();
                let broken = broken.iter().cloned().collect();
                let case = Case { plan: &plan, fault, shape, missing, broken };
                let mut whole = case.runner();
                // Never in time: it gives way when it would wait for a person.
                whole.intervention = Some((usize::MAX, preempted("terminate")));
                let _ = whole.run(&[]);
                let stride = if fault.is_none() { 1 } else { 7 };
                for after in (0..=whole.used).step_by(stride) {
                    let crash = (after % 3 == 0).then_some(after + 1);
                    let (record, world, state) = given_way(&case, (after, crash));
                    failed += usize::from(state == FinalState::Failed);
                    ended_after(record, &world, after % 5);
                    runs += 1;
                }
            }
        }
    }
    eprintln!("taken over: {runs} runs, {failed} of them FAILED");
    assert!(failed > 500, "{failed} of {runs}");
}

/// What cuts or removes is not interrupted by the next one that does, unless it cannot end by itself.
#[test]
fn what_cuts_or_removes_gives_way_only_once_it_is_stuck() {
    let before = deployed();
    for action in [IntentKind::Terminate {}, isolate(vec![], 100)] {
        let plan = Arc::new(plan(action, Some(&before)));
        let mut runner = Runner::new(&plan, None, 1);
        runner.intervention = Some((3, preempted("terminate")));
        let operation = runner.run(&[]);
        assert_eq!(operation.outcome.as_ref().unwrap().state, FinalState::Completed, "{}", plan.action);
        assert_eq!(operation.interventions[0].kind, "preempted");
        let step = plan.steps.iter().find(|s| s.forward_only()).unwrap().id;
        let mut runner = Runner::new(&plan, Some(Fault { step, how: How::Persistent }), 1);
        runner.intervention = Some((3, preempted("terminate")));
        let operation = runner.run(&[]);
        let outcome = operation.outcome.as_ref().unwrap();
        assert_eq!(outcome.state, FinalState::Failed, "{}", plan.action);
        assert!(!outcome.leftovers.is_empty());
        let kinds: Vec<_> = operation.interventions.iter().map(|i| i.kind).collect();
        assert_eq!(kinds, ["preempted", "escalated"], "it was reported first");
    }
}
