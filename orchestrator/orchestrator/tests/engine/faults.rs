//! Every step of a deploy, a scale and a terminate, failing with each disposition: before its effect, in the middle of
//! it, after it; once, and until the engine calls a person (who ends it). What becomes of the operation is what the
//! disposition says, its evidence verifies, and nothing was done twice.

use std::time::{Duration, Instant};

use ledger_contract::{Intent, IntentKind, intent::ScaleDirection};
use orchestrator::{service::Service as _, views::OperationView};
use vim::{
    Disposition::{Compensate, Escalate, Retry, Unknown},
    ObjectKey,
    fake::{Call, Fault},
};

use crate::{
    life::Life,
    world::{TENANTS, World, intent, ns_of, scale, terminate},
};

/// `limits.step_attempts` of a new home.
const ATTEMPTS: usize = 3;
/// Attempts of a removal that cannot be unwound (`lcm`'s `undo_attempts`).
const REMOVALS: usize = 8;

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
        case("FAILED", "FAILED", [Fault::Before(Escalate)]),
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

/// Carries an operation out under faults and verifies what it leaves as evidence.
async fn under(
    life: &Life,
    world: &World,
    intent: &Intent,
    ns: &str,
    step: &Step,
    case: &Case,
) -> OperationView {
    script(world, ns, step, &case.faults);
    let view = life.carry_out(world, intent).await;
    let ends = if is_removal(step) { case.removal_ends } else { case.ends };
    assert_eq!(view.state, ends, "{step:?} {:?}: {view:?}", case.faults);
    let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
    assert_eq!((bundle.outcome.as_str(), bundle.problem), (ends, view.problem.clone()));
    assert_eq!(view.problem.is_some(), ends != "COMPLETED");
    world.nothing_twice();
    view
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
            let view = under(&life, &world, &deploy, &ns, step, &case).await;
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
                // A person is needed; what is there was left as it is.
                _ => assert_eq!(state, "BROKEN"),
            }
        }
    }
    eprintln!("deploy: {n} cases in {:?}", start.elapsed());
    life.end().await;
}

/// A service that is scaled out under faults; deployed anew after those that a person has to look at.
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
            let view = under(&life, &world, &intent, &it.ns, step, &case).await;
            let told = format!("{step:?} {:?}", case.faults);
            match view.state.as_str() {
                "COMPLETED" => {
                    assert_eq!(world.left_of(&it.ns).len(), it.small.len() + 2, "{told}");
                    it.scale_in(&life, &world).await;
                }
                "ROLLED_BACK" => assert_eq!(world.left_of(&it.ns), it.small, "{told}"),
                _ => {
                    let state = life.engine.ns(&it.ns).await.unwrap().state;
                    assert_eq!(
                        state,
                        if step.0 == Call::Attest && case.ends != case.removal_ends {
                            "ISOLATED"
                        } else {
                            "BROKEN"
                        },
                        "{told}"
                    );
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

/// A scale that ended FAILED leaves objects behind; a terminate removes them too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminate_removes_what_a_failed_scale_left() {
    let world = World::new();
    let life = Life::start(&world);
    for (n, step) in ["vlb/backend/2", "probe/client", "vlb/vlb/0"].into_iter().enumerate() {
        let service = format!("edge-{n}");
        let deploy = world.deploy(&service);
        let ns = ns_of(&deploy);
        life.carry_out(&world, &deploy).await;
        script(&world, &ns, &(Call::Ensure, Some(step.to_owned())), &[Fault::After(Escalate)]);
        assert_eq!(life.carry_out(&world, &scale(&service, ScaleDirection::ScaleOut)).await.state, "FAILED");
        assert!(world.left_of(&ns).len() > 8, "{step}: it left nothing");
        let view = life.carry_out(&world, &terminate(&service)).await;
        assert_eq!(view.state, "COMPLETED", "{step}: {view:?}");
        assert_eq!(world.left_of(&ns), [] as [&str; 0], "{step}");
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
    let give_up = |fault: Fault| case("", "FAILED", std::iter::repeat_n(fault, REMOVALS));
    for (n, step) in steps.iter().enumerate() {
        let mut all = cases(n);
        // All removals are alike: giving up, with its growing pauses, is shown on one of each kind.
        if n.is_multiple_of(3) {
            let late = [Fault::Before(Retry), Fault::Half(Unknown), Fault::Before(Compensate)];
            all.extend(late.map(give_up));
        } else {
            all.retain(|c| c.ends != "ROLLED_BACK");
        }
        for (m, case) in all.into_iter().enumerate() {
            let deploy = world.deploy(&format!("svc-{n}-{m}"));
            let ns = ns_of(&deploy);
            life.carry_out(&world, &deploy).await;
            let mut end = terminate(&deploy.service);
            let view = under(&life, &world, &end, &ns, step, &case).await;
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
