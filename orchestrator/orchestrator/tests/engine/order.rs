//! In which order operations begin: after those they depend on, or not at all.

use ledger_contract::{Intent, intent::Emergency};
use orchestrator::service::Service as _;
use vim::fake::{Call, Fault};

use crate::{
    life::Life,
    outage::Line,
    world::{World, plain, terminate},
};

fn after(mut intent: Intent, parents: &[&Intent]) -> Intent {
    intent.depends_on = parents.iter().map(|p| p.id.clone()).collect();
    intent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_begins_when_its_parents_are_complete() {
    let world = World::new();
    let (line, first) = (Line::to(&world), world.deploy("first"));
    let second = after(world.deploy("second"), &[&first]);
    let third = after(world.deploy("third"), &[&first, &second]);
    line.held.send_replace(true);
    let life = Life::of(world.parts(line.clone(), plain));
    for intent in [&first, &second, &third] {
        life.submit(&world, intent).await;
    }
    line.held.send_replace(false);
    let mut began = Vec::new();
    for intent in [&first, &second, &third] {
        let view = life.anchored(&intent.id).await;
        assert_eq!(view.state, "COMPLETED");
        let lines = life.engine.timeline(&view.ns_instance_id).await.unwrap();
        let at = |kind: &str| lines.iter().find(|l| l.kind == kind).unwrap().at_ms;
        began.push((at("plan"), at("outcome")));
    }
    assert!(began.windows(2).all(|w| w[0].1 <= w[1].0), "{began:?}");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_of_what_failed_is_refused_and_a_restart_knows_it_too() {
    let world = World::new();
    let (line, first) = (Line::to(&world), world.deploy("first"));
    let child = after(world.deploy("second"), &[&first]);
    world.vim().script(Call::Ensure, None, [Fault::Before(vim::Disposition::Compensate)]);
    line.held.send_replace(true);
    let life = Life::of(world.parts(line.clone(), plain));
    // Both are approved before either begins: later the ledger would refuse the child itself.
    life.submit(&world, &first).await;
    life.submit(&world, &child).await;
    life.end().await;
    line.held.send_replace(false);
    let life = Life::of(world.parts(line, plain));
    assert_eq!(life.anchored(&first.id).await.state, "ROLLED_BACK");
    let view = life.anchored(&child.id).await;
    assert_eq!(view.state, "ROLLED_BACK");
    assert!(view.problem.unwrap().contains("DEPENDENCY_NOT_COMPLETED: intent `acme-first-deploy`"));
    assert_eq!(world.left(), []);
    // Nothing is reserved for it any more, and the name is free.
    let bundle = life.engine.bundle(&view.id).await.unwrap();
    assert_eq!(world.verified(&bundle).outcome, "ROLLED_BACK");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_has_room_for_so_many_operations_at_once() {
    let mut world = World::new();
    world.config.sites.iter_mut().for_each(|s| s.concurrent_operations = 1);
    let life = Life::start(&world);
    let deploys = ["one", "two", "three", "four"].map(|s| world.deploy(s));
    for deploy in &deploys {
        life.submit(&world, deploy).await;
    }
    let mut spans = Vec::new();
    for deploy in &deploys {
        let view = life.anchored(&deploy.id).await;
        let lines = life.engine.timeline(&view.ns_instance_id).await.unwrap();
        let first = lines.iter().find(|l| l.kind == "step").unwrap().at_ms;
        spans.push((first, lines.iter().find(|l| l.kind == "outcome").unwrap().at_ms));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "{spans:?}");
    assert_eq!(life.carry_out(&world, &terminate("one")).await.state, "COMPLETED");
    life.end().await;
}

/// What broken glass waives is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waived_dependency_holds_nothing_up() {
    let world = World::new();
    world
        .change_policy(|data| {
            let rule = data.emergency.as_mut().unwrap();
            rule.actions.insert("deploy".into());
            rule.waives.insert("compliance/dependencies".into());
        })
        .await;
    let life = Life::start(&world);
    let mut intent = world.deploy("edge");
    intent.depends_on = vec!["nobody-has-ever-seen-it".into()];
    intent.emergency = Some(Emergency { reason: "flash crowd, ticket 7".into() });
    assert_eq!(life.carry_out(&world, &intent).await.state, "COMPLETED");
    life.end().await;
}
