//! What goes well: the whole life of a service, many services at once, a home that only one can have open.

use std::{collections::BTreeSet, sync::Arc};

use ledger_contract::{IntentKind, intent::ScaleDirection};
use orchestrator::{engine::Engine, service::Service as _, wiring};

use crate::{
    life::Life,
    world::{SITES, TENANTS, World, intent, ns_of, plain, scale, terminate},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploy_scale_and_terminate_complete_with_evidence() {
    let world = World::new();
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    let ns = ns_of(&deploy);
    let computes = |n: usize| n + 2; // the firewall and the balancer

    let done = life.carry_out(&world, &deploy).await;
    assert_eq!((done.state.as_str(), done.site.as_deref()), ("COMPLETED", Some(SITES[0])), "{done:?}");
    let bundle = world.verified(&life.engine.bundle(&done.id).await.unwrap());
    assert_eq!((bundle.operation_id.as_str(), bundle.outcome.as_str()), (done.id.as_str(), "COMPLETED"));
    assert_eq!(bundle.attested, Some(true));
    assert!(!bundle.slo.is_empty() && bundle.slo.iter().all(|o| o.kept), "{:?}", bundle.slo);
    let view = life.engine.ns("acme/edge").await.unwrap();
    assert_eq!(
        (view.id.as_str(), view.state.as_str(), view.sla_met),
        (ns.as_str(), "INSTANTIATED", Some(true))
    );
    assert_eq!(view.instances.len(), computes(2));
    assert!(!world.left().iter().any(|k| k.as_str().contains("/probe/")), "the probe is gone");

    for (direction, backends) in [(ScaleDirection::ScaleOut, 4), (ScaleDirection::ScaleIn, 2)] {
        let mut intent = scale("edge", direction);
        intent.id = format!("{}-{backends}", intent.id);
        let done = life.carry_out(&world, &intent).await;
        assert_eq!(done.state, "COMPLETED", "{done:?}");
        let bundle = world.verified(&life.engine.bundle(&done.id).await.unwrap());
        assert_eq!((bundle.attested, bundle.intent.id), (Some(true), intent.id));
        assert_eq!(life.engine.ns(&ns).await.unwrap().instances.len(), computes(backends));
        assert_eq!(world.left_of(&ns).iter().filter(|k| k.contains("/vlb/backend/")).count(), backends);
    }

    let done = life.carry_out(&world, &terminate("edge")).await;
    assert_eq!(done.state, "COMPLETED", "{done:?}");
    world.verified(&life.engine.bundle(&done.id).await.unwrap());
    assert_eq!(world.left(), []);
    world.nothing_twice();
    assert_eq!(life.engine.ns(&ns).await.unwrap().state, "NOT_INSTANTIATED");
    assert!(life.engine.services(&orchestrator::journal::Listing::of(false)).await.unwrap().is_empty());
    let before = life.engine.timeline(&ns).await.unwrap();
    let kinds: BTreeSet<&str> = before.iter().map(|l| l.kind.as_str()).collect();
    for kind in ["decision", "plan", "step", "attestation", "measurement", "outcome", "anchor"] {
        assert!(kinds.contains(kind), "{kind} is not on the timeline");
    }
    life.end().await;

    // All of it is remembered, and the name can be used again.
    let life = Life::start(&world);
    assert_eq!(life.engine.timeline(&ns).await.unwrap(), before);
    world.verified(&life.engine.bundle(&done.id).await.unwrap());
    let mut again = world.deploy("edge");
    again.id = "acme-edge-once-more".into();
    let done = life.carry_out(&world, &again).await;
    assert_eq!(done.state, "COMPLETED");
    assert_ne!(done.ns_instance_id, ns);
    let named = life.engine.ns("acme/edge").await.unwrap();
    assert_eq!(named.id, done.ns_instance_id, "the newest of that name");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_without_a_plan_leaves_the_service_as_it_was() {
    let world = World::new();
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    let ns = ns_of(&deploy);
    life.carry_out(&world, &deploy).await;
    let standing = life.engine.ns(&ns).await.unwrap();

    let mut beyond = scale("edge", ScaleDirection::ScaleOut);
    if let IntentKind::Scale(s) = &mut beyond.action {
        s.steps = 20;
    }
    let refused = life.carry_out(&world, &beyond).await;
    assert_eq!(refused.state, "ROLLED_BACK");
    assert!(refused.problem.as_ref().unwrap().starts_with("SCALE_LIMIT"), "{refused:?}");
    let after = life.engine.ns(&ns).await.unwrap();
    assert_eq!((after.state.as_str(), &after.instances), ("INSTANTIATED", &standing.instances));
    life.end().await;

    let life = Life::start(&world);
    let done = life.carry_out(&world, &terminate("edge")).await;
    assert_eq!(done.state, "COMPLETED", "{done:?}");
    assert_eq!(world.left(), []);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_services_at_once() {
    let world = World::new();
    let life = Life::start(&world);
    let intents: Vec<_> = TENANTS
        .iter()
        .flat_map(|t| (0..4).map(|n| world.deploy_for(t, &format!("svc-{n}"))).collect::<Vec<_>>())
        .collect();
    let submitted = intents.iter().map(|i| life.submit(&world, i));
    futures::future::join_all(submitted).await;
    for intent in &intents {
        let done = life.anchored(&intent.id).await;
        assert_eq!(done.state, "COMPLETED", "{done:?}");
        let bundle = world.verified(&life.engine.bundle(&done.id).await.unwrap());
        assert_eq!(bundle.intent, *intent);
        assert_eq!(world.left_of(&ns_of(intent)).len(), 8, "an image, three links, four instances");
    }
    assert_eq!(life.engine.services(&orchestrator::journal::Listing::of(false)).await.unwrap().len(), 20);
    let ends =
        intents.iter().map(|i| intent(&i.tenant, &i.service, ledger_contract::IntentKind::Terminate {}));
    for end in ends {
        life.submit(&world, &end).await;
        assert_eq!(life.anchored(&end.id).await.state, "COMPLETED");
    }
    assert_eq!(world.left(), []);
    world.nothing_twice();
    life.end().await;
}

#[tokio::test]
async fn a_home_is_open_once() {
    let world = World::new();
    let life = Life::start(&world);
    let refused = |e: anyhow::Error| format!("{e:#}");
    let at = std::time::Instant::now();
    let journal = wiring::build(&world.home, world.config.clone(), Default::default(), &Default::default())
        .err()
        .map(refused)
        .unwrap();
    assert!(journal.contains("journal.db") && journal.contains("another"), "{journal}");
    assert!(at.elapsed().as_secs() < 2, "refused at once, not after {:?}", at.elapsed());
    let ledger =
        ledger::embedded::Log::open(&world.home.ledger(), crate::world::now).unwrap_err().to_string();
    assert!(ledger.contains("in use by another process"), "{ledger}");
    // The first one is none the worse for it.
    assert_eq!(life.carry_out(&world, &world.deploy("edge")).await.state, "COMPLETED");
    life.end().await;
    drop(Engine::new(world.parts(Arc::new(world.log()), plain)).unwrap());
}
