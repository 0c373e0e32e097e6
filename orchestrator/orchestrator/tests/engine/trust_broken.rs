//! What runs is not what was approved, or does not do what it was configured to, or is too slow.

use lcm::operation::Direction;
use ledger_contract::intent::ScaleDirection;
use orchestrator::service::Service as _;
use vim::{
    ComputeState, Disposition, ObjectKey, Observed, Scope, VimDriver as _,
    fake::{Call, Fault},
};

use crate::{
    attester::{Tamper, Traffic},
    life::Life,
    world::{World, ns_of, scale, terminate},
};

/// States of a service's instances.
async fn states(world: &World, ns: &str) -> Vec<(String, ComputeState)> {
    let inventory = world.vim().observe(&Scope::Service(ns.to_owned())).await.unwrap();
    let state = |(k, o): (ObjectKey, Observed)| match o {
        Observed::Compute(c) => Some((k.to_string(), c.state)),
        _ => None,
    };
    inventory.objects.into_iter().filter_map(state).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_attestation_refuses_is_isolated_and_can_only_be_terminated() {
    let world = World::new();
    let life = Life::start(&world);
    let tampers = [
        (Tamper::Nonce, "ATTESTATION_NONCE"),
        (Tamper::Key, "ATTESTATION_AK_REGISTERED"),
        (Tamper::Image, "ATTESTATION_IMAGE:"),
        (Tamper::Configuration, "ATTESTATION_CONFIGURATION:"),
    ];
    for (tamper, code) in tampers {
        world.answers().tampers.lock().unwrap().push_back(Some(tamper));
        let mut deploy = world.deploy("edge");
        deploy.id = format!("{}-{tamper:?}", deploy.id).to_lowercase();
        let ns = ns_of(&deploy);
        let view = life.carry_out(&world, &deploy).await;
        assert_eq!(view.state, "FAILED");
        assert!(view.problem.as_ref().unwrap().contains(code), "{view:?}");
        assert_eq!(life.engine.ns(&ns).await.unwrap().state, "ISOLATED");
        let states = states(&world, &ns).await;
        assert_eq!(states.len(), 4, "kept for forensics, without the probe: {states:?}");
        assert!(states.iter().all(|(_, s)| *s == ComputeState::Isolated), "{states:?}");
        let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
        assert_eq!((bundle.attested, bundle.outcome.as_str()), (Some(false), "FAILED"));

        let id = |what: &str| format!("acme-{what}-{tamper:?}").to_lowercase();
        for (mut intent, code) in [
            (scale("edge", ScaleDirection::ScaleOut), "SERVICE_NOT_ACTIVE"),
            (world.deploy("edge"), "SERVICE_EXISTS"),
        ] {
            intent.id = id(code).replace('_', "-");
            let refused = life.engine.submit(world.signed(&intent)).await.unwrap();
            assert_eq!(refused.verdict.code(), code);
        }
        let mut end = terminate("edge");
        end.id = id("terminate");
        let view = life.carry_out(&world, &end).await;
        assert_eq!(view.state, "COMPLETED", "{view:?}");
        assert_eq!(world.left(), []);
        world.nothing_twice();
    }
    // The name is free again.
    assert_eq!(life.carry_out(&world, &world.deploy("edge")).await.state, "COMPLETED");
    life.end().await;
}

/// At the challenge before a scale, and at the one after it; what a scale in was to remove is isolated too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scaled_service_is_isolated_as_it_stands() {
    let world = World::new();
    let life = Life::start(&world);
    let cases = [
        (ScaleDirection::ScaleOut, 4, vec![Some(Tamper::Image)]),
        (ScaleDirection::ScaleOut, 6, vec![None, Some(Tamper::Image)]),
        (ScaleDirection::ScaleIn, 6, vec![Some(Tamper::Configuration)]),
        (ScaleDirection::ScaleIn, 6, vec![None, Some(Tamper::Configuration)]),
    ];
    for (n, (direction, standing, tampers)) in cases.into_iter().enumerate() {
        let service = format!("edge-{n}");
        let deploy = world.deploy(&service);
        let ns = ns_of(&deploy);
        life.carry_out(&world, &deploy).await;
        if direction == ScaleDirection::ScaleIn {
            let mut grow = scale(&service, ScaleDirection::ScaleOut);
            grow.id.push_str("-out");
            assert_eq!(life.carry_out(&world, &grow).await.state, "COMPLETED");
        }
        world.answers().tampers.lock().unwrap().extend(tampers);
        let view = life.carry_out(&world, &scale(&service, direction)).await;
        assert_eq!(view.state, "FAILED", "{n}: {view:?}");
        let states = states(&world, &ns).await;
        assert!(states.iter().all(|(_, s)| *s == ComputeState::Isolated), "{n}: {states:?}");
        assert_eq!(states.len(), standing, "{n}: {states:?}");
        assert_eq!(life.engine.ns(&ns).await.unwrap().state, "ISOLATED");
        let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
        assert_eq!(bundle.attested, Some(false));
        let view = life.carry_out(&world, &terminate(&service)).await;
        assert_eq!(view.state, "COMPLETED", "{n}: {view:?}");
        assert_eq!(world.left(), []);
    }
    world.nothing_twice();
    life.end().await;
}

/// An instance whose traffic cannot be cut does not keep the others' from being cut; a person is called and told which,
/// and it is tried again: until it is cut, or until the person says that it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_under_faults() {
    let mut world = World::new();
    // A person is faster than the next attempt.
    world.config.limits.retry_ms = 8;
    let life = Life::start(&world);
    for direction in [None, Some(Direction::Retry), Some(Direction::Fail)] {
        let mut deploy = world.deploy("edge");
        deploy.id = format!("{}-{direction:?}", deploy.id).replace(['(', ')'], "-").to_lowercase();
        let ns = ns_of(&deploy);
        let key = |k: &str| ObjectKey::new(format!("{ns}/{k}")).unwrap();
        let stubborn = key("vlb/vlb/0");
        world.answers().tampers.lock().unwrap().push_back(Some(Tamper::Configuration));
        let vim = world.vim();
        vim.script(Call::Isolate, Some(&key("vfw/vfw/0")), [Fault::After(Disposition::Unknown)]);
        let often = if direction.is_none() { 10 } else { 10_000 };
        vim.script(Call::Isolate, Some(&stubborn), vec![Fault::Before(Disposition::Retry); often]);
        vim.script(Call::Remove, Some(&key("probe/client")), [Fault::Before(Disposition::Unknown)]);
        let mut view = life.attempt(&world, &deploy).await;
        if let Some(direction) = direction {
            assert_eq!(view.state, "FAILED_TEMP", "{view:?}");
            assert_eq!(view.leftovers, [stubborn.to_string()]);
            let open: Vec<_> = states(&world, &ns).await;
            let open: Vec<_> = open.into_iter().filter(|(_, s)| *s == ComputeState::Active).collect();
            assert_eq!(open, [(stubborn.to_string(), ComputeState::Active)]);
            if direction == Direction::Retry {
                vim.unscript(Call::Isolate, Some(&stubborn));
            }
            view = life.decide(&view, direction).await;
        } else if view.state == "FAILED_TEMP" {
            view = life.anchored(&deploy.id).await;
        }
        assert_eq!(view.state, "FAILED");
        let timeline = life.engine.timeline(&ns).await.unwrap();
        let outcome = timeline.iter().find(|l| l.kind == "outcome").unwrap();
        let state = life.engine.ns(&ns).await.unwrap().state;
        if direction == Some(Direction::Fail) {
            assert_eq!(view.leftovers, [stubborn.to_string()]);
            assert!(outcome.what.ends_with(&format!("left behind: {stubborn}")), "{outcome:?}");
            assert_eq!(state, "BROKEN", "not isolated: one instance still runs");
        } else {
            assert_eq!((view.leftovers.len(), state.as_str()), (0, "ISOLATED"), "{view:?}");
        }
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
        vim.unscript(Call::Isolate, Some(&stubborn));
        let mut end = terminate("edge");
        end.id = format!("{}-end", deploy.id);
        assert_eq!(life.carry_out(&world, &end).await.state, "COMPLETED");
        assert_eq!(world.left(), []);
    }
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_that_does_not_follow_the_rules_is_rolled_back() {
    let world = World::new();
    let life = Life::start(&world);
    let traffic = |all: &[Traffic]| world.answers().traffic.lock().unwrap().extend(all);
    for (n, wrong) in [Traffic::Leak, Traffic::Misrouted].into_iter().enumerate() {
        let deploy = world.deploy(&format!("wrong-{n}"));
        traffic(&[wrong; 3]);
        let view = life.carry_out(&world, &deploy).await;
        assert_eq!(view.state, "ROLLED_BACK", "{view:?}");
        let code = if wrong == Traffic::Leak { "BLOCKED_FLOWS_ARRIVED" } else { "MISROUTED_FLOWS" };
        assert!(view.problem.as_ref().unwrap().contains(code), "{view:?}");
        let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
        assert!(bundle.slo.iter().any(|o| o.functional() && !o.kept), "what was measured is in evidence");
        assert_eq!(world.left(), []);
    }
    // Once is a disturbance; the measurement is made again.
    traffic(&[Traffic::Leak]);
    let deploy = world.deploy("edge");
    assert_eq!(life.carry_out(&world, &deploy).await.state, "COMPLETED");

    // A scale: the measurement before it, and the one after it.
    let before = world.left();
    for (n, script) in
        [&[Traffic::Leak; 3][..], &[Traffic::Good, Traffic::Leak, Traffic::Leak, Traffic::Leak]]
            .into_iter()
            .enumerate()
    {
        traffic(script);
        let mut intent = scale("edge", ScaleDirection::ScaleOut);
        intent.id.push_str(&format!("-{n}"));
        let view = life.carry_out(&world, &intent).await;
        assert_eq!(view.state, "ROLLED_BACK", "{view:?}");
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
        assert_eq!(world.left(), before);
        assert_eq!(life.engine.ns("acme/edge").await.unwrap().state, "INSTANTIATED");
    }
    assert_eq!(life.carry_out(&world, &scale("edge", ScaleDirection::ScaleOut)).await.state, "COMPLETED");
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    assert_eq!(world.left(), []);
    world.nothing_twice();
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_promise_is_recorded() {
    let world = World::new();
    let life = Life::start(&world);
    world.answers().traffic.lock().unwrap().push_back(Traffic::Slow);
    let view = life.carry_out(&world, &world.deploy("edge")).await;
    assert_eq!((view.state.as_str(), view.problem), ("COMPLETED", None));
    let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
    let broken: Vec<_> = bundle.slo.iter().filter(|o| !o.kept).map(|o| o.name.as_str()).collect();
    assert_eq!(broken, ["latency_p95_us"]);
    let ns = life.engine.ns("acme/edge").await.unwrap();
    assert_eq!((ns.state.as_str(), ns.sla_met), ("INSTANTIATED", Some(false)));
    life.carry_out(&world, &scale("edge", ScaleDirection::ScaleOut)).await;
    assert_eq!(life.engine.ns("acme/edge").await.unwrap().sla_met, Some(true), "measured again");
    life.end().await;
}

/// An instance dies between two operations: the next one finds that it cannot prove itself, and builds nothing on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_died() {
    let world = World::new();
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    let ns = ns_of(&deploy);
    life.carry_out(&world, &deploy).await;
    world.vim().crash(&ObjectKey::new(format!("{ns}/vfw/vfw/0")).unwrap());
    let view = life.carry_out(&world, &scale("edge", ScaleDirection::ScaleOut)).await;
    assert_eq!(view.state, "FAILED", "{view:?}");
    assert!(view.problem.as_ref().unwrap().contains("INSTANCE_DOWN"), "{view:?}");
    assert_eq!(world.left_of(&ns).len(), 8, "nothing new");
    world.verified(&life.engine.bundle(&view.id).await.unwrap());
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    assert_eq!(world.left(), []);
    life.end().await;
}
