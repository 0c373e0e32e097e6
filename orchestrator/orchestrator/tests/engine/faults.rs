//! Every step of a deploy, a scale and a terminate, failing with each disposition: before its effect, in the middle of
//! it, after it; once, and as often as the engine tries before it calls a person. What becomes of the operation is what
//! the disposition says, what is FAILED_TEMP names exactly what is left and ends as a person directs, its evidence
//! verifies, and nothing was done twice.

use std::time::{Duration, Instant};

use lcm::{
    Event,
    operation::Direction::{self, Fail, Rollback},
};
use ledger_contract::{Intent, IntentKind, intent::ScaleDirection};
use orchestrator::{service::Service as _, views::OperationView};
use vim::{
    Disposition::{Compensate, Escalate, Retry, Unknown},
    ObjectKey,
    fake::{Call, Fault},
};

use crate::{
    life::{Life, PERSON},
    world::{TENANTS, World, intent, ns_of, scale, terminate},
};

/// `limits.step_attempts` of a new home.
const ATTEMPTS: usize = 3;
/// Attempts of a removal that cannot be unwound before a person is called (`lcm`'s `undo_attempts`).
const REMOVALS: usize = 8;
/// How an operation stands that a person has to decide about.
const STUCK: &str = "FAILED_TEMP";

/// A step as the VIM sees it: the call, and its key without the NS instance.
type Step = (Call, Option<String>);

/// What happens to a step, and how the operation ends then; on a removal that has no undo it may end otherwise.
struct Case {
    faults: Vec<Fault>,
    ends: &'static str,
    removal_ends: &'static str,
}

fn case(ends: &'static str, removal_ends: &'static str, faults: impl IntoIterator<Item = Fault>) -> Case {
    Case { faults: faults.into_iter().collect(), ends, removal_ends }
}

/// Each disposition for every step; what is late (in the middle of the effect, or after it) takes turns.
fn cases(n: usize) -> Vec<Case> {
    const DONE: &str = "COMPLETED";
    const BACK: &str = "ROLLED_BACK";
    let again = |fault: Fault, n| std::iter::repeat_n(fault, n);
    vec![
        case(DONE, DONE, [Fault::Before(Retry)]),
        case(DONE, DONE, [Fault::Half(Unknown), Fault::After(Unknown)]),
        case(BACK, DONE, again(Fault::Before(Retry), ATTEMPTS)),
        case(BACK, DONE, again(Fault::After(Unknown), ATTEMPTS)),
        // What cannot be unwound is tried again, whatever is said of it.
        case(BACK, DONE, [Fault::Before(Compensate)]),
        case(
            BACK,
            DONE,
            [if n.is_multiple_of(2) { Fault::Half(Compensate) } else { Fault::After(Compensate) }],
        ),
        case(
            STUCK,
            STUCK,
            [if n.is_multiple_of(2) { Fault::Before(Escalate) } else { Fault::After(Escalate) }],
        ),
    ]
}

/// The calls that an operation made, without the look at the sites.
fn steps(world: &World, from: usize) -> Vec<Step> {
    let short = |k: &ObjectKey| k.as_str().split_once('/').unwrap().1.to_owned();
    let calls = world.vim().calls().into_iter().skip(from);
    calls.filter(|(c, _)| *c != Call::Observe).map(|(c, k)| (c, k.as_ref().map(short))).collect()
}

fn script(world: &World, ns: &str, step: &Step, faults: &[Fault]) {
    let key = step.1.as_ref().map(|k| ObjectKey::new(format!("{ns}/{k}")).unwrap());
    world.vim().script(step.0, key.as_ref(), faults.iter().cloned());
}

/// Carries an operation out under faults and verifies what it leaves as evidence. One that is FAILED_TEMP names what is
/// left, exactly, waits, and ends as it is then directed.
async fn under(
    life: &Life,
    world: &World,
    (intent, ns): (&Intent, &str),
    (step, case): (&Step, &Case),
    direction: Direction,
) -> OperationView {
    script(world, ns, step, &case.faults);
    let from = world.vim().calls().len();
    let mut view = life.attempt(world, intent).await;
    let told = format!("{step:?} {:?} {direction:?}", case.faults);
    let mut ends = if is_removal(step) { case.removal_ends } else { case.ends };
    assert_eq!(view.state, ends, "{told}: {view:?}");
    if ends == STUCK {
        assert_eq!(view.leftovers, leftovers(world, ns, step, from), "{told}: {view:?}");
        let left = view.leftovers.clone();
        (view, ends) = directed(life, &view, direction).await;
        assert_eq!(view.leftovers, if ends == "FAILED" { left } else { vec![] }, "{told}");
    }
    assert_eq!(view.state, ends, "{told}: {view:?}");
    let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
    assert_eq!((bundle.outcome.as_str(), bundle.problem), (ends, view.problem.clone()));
    assert_eq!(view.problem.is_some(), ends != "COMPLETED", "{told}: {view:?}");
    world.nothing_twice();
    view
}

/// A person decides; what cannot be taken back any more is tried again. The end, and what it should be.
async fn directed(life: &Life, stuck: &OperationView, direction: Direction) -> (OperationView, &'static str) {
    let (direction, ends) = match direction {
        Fail => (Fail, "FAILED"),
        Rollback if stuck.action != "terminate" => (Rollback, "ROLLED_BACK"),
        _ => (Direction::Retry, "COMPLETED"),
    };
    if stuck.action == "terminate" {
        let refused = life.engine.direct(&stuck.id, PERSON, Rollback, "").unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (409, "FORWARD_ONLY"));
    }
    let view = life.decide(stuck, direction).await;
    let timeline = life.engine.timeline(&stuck.ns_instance_id).await.unwrap();
    let mut of = timeline.iter().filter(|l| l.operation_id == stuck.id);
    let escalation = of.find(|l| l.kind == "escalation").unwrap();
    assert!(stuck.leftovers.iter().all(|o| escalation.what.contains(o)), "{escalation:?}");
    let decided = of.find(|l| l.kind == "direction").unwrap();
    assert_eq!(decided.what, format!("{} directed by {PERSON}: looked at", direction.name()));
    (view, ends)
}

/// What a stuck operation should name, from what the VIM was asked for and what is there: what a terminate has not
/// removed; the removal itself that failed; or what the operation has made or changed, and the object of the failed step,
/// of which nobody knows.
fn leftovers(world: &World, ns: &str, failed: &Step, from: usize) -> Vec<String> {
    let key = |s: &Step| s.1.as_ref().map(|k| format!("{ns}/{k}"));
    let calls = steps(world, from);
    let there = world.left_of(ns);
    let mut left: Vec<String> = match is_removal(failed) {
        true if !calls.iter().any(|s| s.0 == Call::Ensure) => there,
        true => Vec::new(),
        false => {
            let made = calls.iter().filter(|s| s.0 == Call::Ensure).filter_map(key);
            made.filter(|k| there.contains(k)).collect()
        }
    };
    left.extend(key(failed));
    left.sort();
    left.dedup();
    left
}

fn is_removal(step: &Step) -> bool {
    step.0 == Call::Remove
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_deploy() {
    let world = World::new();
    let life = Life::start(&world);
    life.carry_out(&world, &world.deploy("reference")).await;
    let steps = steps(&world, 0);
    assert_eq!(steps.len(), 12, "{steps:?}");
    let (start, mut n) = (Instant::now(), 0);
    for (i, step) in steps.iter().enumerate() {
        for case in cases(i) {
            n += 1;
            // Another tenant each time: the quota is four services.
            let deploy = world.deploy_for(TENANTS[1 + n % 4], &format!("svc-{n}"));
            let ns = ns_of(&deploy);
            let direction = [Direction::Retry, Rollback, Fail][i % 3];
            let view = under(&life, &world, (&deploy, &ns), (step, &case), direction).await;
            let left = world.left_of(&ns);
            let state = life.engine.ns(&ns).await.unwrap().state;
            match view.state.as_str() {
                "COMPLETED" => {
                    assert_eq!((left.len(), state.as_str()), (8, "INSTANTIATED"));
                    let end = intent(&deploy.tenant, &deploy.service, IntentKind::Terminate {});
                    assert_eq!(life.carry_out(&world, &end).await.state, "COMPLETED");
                    assert_eq!(world.left_of(&ns), [] as [&str; 0]);
                }
                "ROLLED_BACK" => {
                    assert_eq!(
                        (left, state.as_str()),
                        (vec![], "NOT_INSTANTIATED"),
                        "{step:?} {:?}",
                        case.faults
                    );
                }
                // What is there was left as it is.
                _ => assert_eq!(state, "BROKEN"),
            }
        }
    }
    eprintln!("deploy: {n} cases in {:?}", start.elapsed());
    life.end().await;
}

/// A service that is scaled out under faults; deployed anew after those that failed.
struct Scaled {
    deploy: Intent,
    ns: String,
    small: Vec<String>,
    n: usize,
}

impl Scaled {
    async fn deployed(life: &Life, world: &World, n: usize) -> Self {
        let deploy = world.deploy(&format!("edge-{n}"));
        life.carry_out(world, &deploy).await;
        let ns = ns_of(&deploy);
        Self { small: world.left_of(&ns), ns, deploy, n }
    }

    fn next(&mut self, direction: ScaleDirection) -> Intent {
        self.n += 1;
        let service = &self.deploy.service;
        Intent { id: format!("acme-{service}-{}", self.n), ..scale(service, direction) }
    }

    async fn scale_in(&mut self, life: &Life, world: &World) {
        let view = life.carry_out(world, &self.next(ScaleDirection::ScaleIn)).await;
        assert_eq!(view.state, "COMPLETED", "{view:?}");
        assert_eq!(world.left_of(&self.ns), self.small);
    }
}

/// Like [`cases`], for the n-th call of this kind in an operation.
fn nth(step: &Step, before: &[Step]) -> Vec<Case> {
    let earlier = before.iter().filter(|s| *s == step).count();
    let mut all = cases(before.len());
    for case in &mut all {
        let faults = std::mem::take(&mut case.faults);
        case.faults = std::iter::repeat_n(Fault::Pass, earlier).chain(faults).collect();
        // A service that exists and cannot prove what it runs is isolated.
        if step.0 == Call::Attest && case.ends == "ROLLED_BACK" {
            case.ends = "FAILED";
        }
    }
    // A process that dies while it is reconfigured is started anew: rightly a second time.
    let killed =
        |c: &Case| c.faults.contains(&Fault::Half(Compensate)) || c.faults.contains(&Fault::Half(Unknown));
    all.retain(|c| step.1.as_deref() != Some("vlb/vlb/0") || !killed(c));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_scale() {
    let world = World::new();
    let life = Life::start(&world);
    let mut it = Scaled::deployed(&life, &world, 0).await;
    let from = world.vim().calls().len();
    assert_eq!(life.carry_out(&world, &it.next(ScaleDirection::ScaleOut)).await.state, "COMPLETED");
    let steps = steps(&world, from);
    for call in [Call::Ensure, Call::Attest, Call::RunTraffic, Call::Remove] {
        assert!(steps.iter().any(|s| s.0 == call), "{steps:?}");
    }
    it.scale_in(&life, &world).await;
    let (start, mut n) = (Instant::now(), 0);
    for (i, step) in steps.iter().enumerate() {
        for case in nth(step, &steps[..i]) {
            n += 1;
            let intent = it.next(ScaleDirection::ScaleOut);
            let direction = [Direction::Retry, Rollback, Fail][i % 3];
            let view = under(&life, &world, (&intent, &it.ns), (step, &case), direction).await;
            let told = format!("{step:?} {:?}", case.faults);
            match view.state.as_str() {
                "COMPLETED" => {
                    assert_eq!(world.left_of(&it.ns).len(), it.small.len() + 2, "{told}");
                    it.scale_in(&life, &world).await;
                }
                "ROLLED_BACK" => assert_eq!(world.left_of(&it.ns), it.small, "{told}"),
                _ => {
                    let state = life.engine.ns(&it.ns).await.unwrap().state;
                    assert_eq!(state, if case.ends == STUCK { "BROKEN" } else { "ISOLATED" }, "{told}");
                    let view = life.carry_out(&world, &terminate(&it.deploy.service)).await;
                    assert_eq!(view.state, "COMPLETED", "{told}: {view:?}");
                    assert_eq!(world.left(), [], "{told}");
                    it = Scaled::deployed(&life, &world, n).await;
                }
            }
        }
    }
    eprintln!("scale: {n} cases in {:?}", start.elapsed());
    life.end().await;
}

/// A scale that a person gave up leaves objects behind; a terminate removes them too. Before that decision the ledger
/// takes no other scale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminate_removes_what_a_failed_scale_left() {
    let world = World::new();
    let life = Life::start(&world);
    for (n, step) in ["vlb/backend/2", "probe/client", "vlb/vlb/0"].into_iter().enumerate() {
        let service = format!("edge-{n}");
        let deploy = world.deploy(&service);
        let ns = ns_of(&deploy);
        life.carry_out(&world, &deploy).await;
        let step = (Call::Ensure, Some(step.to_owned()));
        script(&world, &ns, &step, &[Fault::After(Escalate)]);
        let from = world.vim().calls().len();
        let stuck = life.attempt(&world, &scale(&service, ScaleDirection::ScaleOut)).await;
        assert_eq!(stuck.state, STUCK, "{stuck:?}");
        assert_eq!(stuck.leftovers, leftovers(&world, &ns, &step, from));
        assert!(world.left_of(&ns).len() > 8, "{step:?}: it left nothing");
        let mut again = scale(&service, ScaleDirection::ScaleOut);
        again.id.push_str("-again");
        let refused = life.engine.submit(world.signed(&again)).await.unwrap();
        assert_eq!(refused.verdict.code(), "OPERATION_IN_FLIGHT");
        let failed = life.decide(&stuck, Fail).await;
        assert_eq!((failed.state.as_str(), &failed.leftovers), ("FAILED", &stuck.leftovers));
        assert!(failed.problem.unwrap().ends_with(&format!("failed by {PERSON}: looked at")));
        let mut end = terminate(&service);
        end.id.push_str("-again");
        let view = life.carry_out(&world, &end).await;
        assert_eq!(view.state, "COMPLETED", "{step:?}: {view:?}");
        assert_eq!(world.left_of(&ns), [] as [&str; 0], "{step:?}");
    }
    world.nothing_twice();
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_terminate() {
    let world = World::new();
    let life = Life::start(&world);
    let reference = world.deploy("reference");
    life.carry_out(&world, &reference).await;
    let from = world.vim().calls().len();
    life.carry_out(&world, &terminate("reference")).await;
    let steps = steps(&world, from);
    assert_eq!(steps.len(), 8, "{steps:?}");
    for (n, step) in steps.iter().enumerate() {
        for (m, case) in cases(n).into_iter().filter(|c| c.ends != "ROLLED_BACK").enumerate() {
            let deploy = world.deploy(&format!("svc-{n}-{m}"));
            let ns = ns_of(&deploy);
            life.carry_out(&world, &deploy).await;
            let mut end = terminate(&deploy.service);
            let direction = [Direction::Retry, Fail][n % 2];
            let view = under(&life, &world, (&end, &ns), (step, &case), direction).await;
            if view.state == "FAILED" {
                assert_eq!(life.engine.ns(&ns).await.unwrap().state, "BROKEN");
                end.id.push_str("-again");
                assert_eq!(life.carry_out(&world, &end).await.state, "COMPLETED");
            }
            assert_eq!(world.left_of(&ns), [] as [&str; 0], "{step:?} {:?}", case.faults);
        }
    }
    assert_eq!(world.left(), []);
    life.end().await;
}

/// What was journaled of an operation when a person was called, and how often it was tried before.
fn called(life: &Life, id: &str) -> (Vec<String>, usize) {
    let events = life.engine.journal().events(id).unwrap();
    let escalations = events.iter().enumerate().filter_map(|(n, e)| match e {
        Event::Escalated { leftovers, .. } => Some((leftovers.clone(), n)),
        _ => None,
    });
    let [(leftovers, n)] = <[_; 1]>::try_from(escalations.collect::<Vec<_>>()).unwrap();
    let failed = |e: &&Event| matches!(e, Event::Failed { .. } | Event::UndoFailed { .. });
    (leftovers, events[..n].iter().filter(failed).count())
}

/// A removal that keeps failing: a person is called after so many attempts, who is told what is still there, and it is
/// tried again all the same; when the site has recovered, nobody has to do anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_keeps_failing() {
    let world = World::new();
    let life = Life::start(&world);
    let late = [Fault::Before(Retry), Fault::Half(Unknown), Fault::Before(Compensate)];
    for (n, fault) in late.into_iter().enumerate() {
        let deploy = world.deploy(&format!("svc-{n}"));
        let ns = ns_of(&deploy);
        life.carry_out(&world, &deploy).await;
        let step = (Call::Remove, Some("vlb/backend/0".to_owned()));
        script(&world, &ns, &step, &vec![fault.clone(); REMOVALS + 1]);
        let end = terminate(&deploy.service);
        life.submit(&world, &end).await;
        let view = life.anchored(&end.id).await;
        assert_eq!((view.state.as_str(), view.problem), ("COMPLETED", None), "{fault:?}");
        assert_eq!(world.left_of(&ns), [] as [&str; 0], "{fault:?}");
        let (leftovers, attempts) = called(&life, &view.id);
        assert_eq!(attempts, REMOVALS, "{fault:?}");
        // The network it is on cannot go before it.
        assert!(leftovers.contains(&format!("{ns}/vlb/backend/0")), "{leftovers:?}");
        assert!(leftovers.len() < 8, "what could go has gone: {leftovers:?}");
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
    }
    assert_eq!(world.left(), []);
    life.end().await;
}

/// An undo that keeps failing: the others are taken back, a person is told exactly what is left, and what is left is
/// tried again: until it works, or until the person says that it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_keeps_failing() {
    let mut world = World::new();
    // A person is faster than the next attempt.
    world.config.limits.retry_ms = 8;
    let life = Life::start(&world);
    let name = "vlb/backend/0";
    for (n, direction) in [None, Some(Direction::Retry), Some(Fail)].into_iter().enumerate() {
        let deploy = world.deploy(&format!("svc-{n}"));
        let ns = ns_of(&deploy);
        script(&world, &ns, &(Call::RunTraffic, Some("probe/client".into())), &[Fault::Before(Compensate)]);
        let often = if direction.is_none() { REMOVALS + 1 } else { 10_000 };
        script(&world, &ns, &(Call::Remove, Some(name.into())), &vec![Fault::Before(Retry); often]);
        let mut view = life.attempt(&world, &deploy).await;
        if let Some(direction) = direction {
            assert_eq!(view.state, STUCK, "{view:?}");
            assert_eq!(view.leftovers, called(&life, &view.id).0);
            assert!(view.problem.as_ref().unwrap().contains("step "), "{view:?}");
            if direction == Direction::Retry {
                world.vim().unscript(Call::Remove, Some(&ObjectKey::new(format!("{ns}/{name}")).unwrap()));
            }
            view = life.decide(&view, direction).await;
        } else if view.state == STUCK {
            view = life.anchored(&deploy.id).await;
        }
        let (leftovers, attempts) = called(&life, &view.id);
        assert_eq!(attempts, REMOVALS + 1, "with the failure that it unwinds for");
        assert!(leftovers.contains(&format!("{ns}/{name}")), "{leftovers:?}");
        if direction == Some(Fail) {
            assert_eq!((view.state.as_str(), &view.leftovers), ("FAILED", &leftovers));
            assert_eq!(world.left_of(&ns), leftovers);
        } else {
            assert_eq!((view.state.as_str(), view.leftovers.len()), ("ROLLED_BACK", 0), "{view:?}");
            assert_eq!(world.left_of(&ns), [] as [&str; 0]);
        }
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
    }
    life.end().await;
}

/// A step that hangs is not waited for; it may have taken effect, so it is done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_hangs() {
    let mut world = World::new();
    world.config.limits.step_timeout_s = 1;
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    let step = (Call::Ensure, Some("vlb/vlb/0".to_owned()));
    script(&world, &ns_of(&deploy), &step, &[Fault::Delay(Duration::from_millis(1_500))]);
    assert_eq!(life.carry_out(&world, &deploy).await.state, "COMPLETED");
    let timeline = life.engine.timeline("acme/edge").await.unwrap();
    assert!(timeline.iter().any(|l| l.state == "failed" && l.what.contains("TIMEOUT")), "{timeline:?}");
    world.nothing_twice();
    life.end().await;
}
