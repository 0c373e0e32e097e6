//! A home that version 0.1 left behind in the middle of its work: today's orchestrator opens it, sees its services and
//! finishes what was in flight. How the fixture was made: `fixtures/home-0.1/README.md`.

use std::{collections::BTreeSet, path::Path};

use lcm::{Action, Event, Operation, Plan};
use orchestrator::{journal::Journal, service::Service as _};
use vim::VimDriver as _;

use crate::{
    life::Life,
    world::{World, terminate},
};

/// The home, with VIMs that hold what its journal says was done.
async fn left_behind() -> World {
    let world = World::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/home-0.1"));
    // Opening it upgrades it; opening it again finds nothing to do.
    drop(world.journal());
    let journal = world.journal();
    for id in journal.newest_operations(false, None, 100).unwrap().into_iter().rev() {
        replay(&world, &journal, &id).await;
    }
    world
}

/// Takes the effects that an operation has taken.
async fn replay(world: &World, journal: &Journal, id: &str) {
    let mut plan: Option<std::sync::Arc<Plan>> = None;
    for event in journal.events(id).unwrap() {
        let done = match (&event, &plan) {
            (Event::Planned { plan: made, .. }, _) => {
                plan = Some(made.clone());
                None
            }
            (Event::Done { step, .. }, Some(p)) => p.step(*step).map(|s| (s, Some(&s.action))),
            (Event::Undone { step, .. }, Some(p)) => p.step(*step).map(|s| (s, s.undo.as_ref())),
            _ => None,
        };
        let (Some((step, Some(action))), Some(plan)) = (done, &plan) else { continue };
        let vim = &world.vims[plan.site_of(step)];
        match action {
            Action::Ensure { key, spec } => drop(vim.ensure(key, spec).await.unwrap()),
            Action::Remove { key, kind } => vim.remove(key, *kind).await.unwrap(),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_of_the_first_version_opens_and_its_operations_finish() {
    let world = left_behind().await;
    let journal = world.journal();
    let open = journal.open_operations().unwrap();
    let folded = |id: &String| Operation::fold(&journal.events(id).unwrap()).unwrap();
    let states: BTreeSet<_> = open.iter().map(folded).map(|o| (o.grant.action.clone(), o.state())).collect();
    let expected = [("deploy".to_owned(), "PROCESSING"), ("scale".to_owned(), "ROLLING_BACK")];
    assert_eq!(states, expected.into(), "the fixture is what it claims to be");
    let before: Vec<String> = journal.newest_operations(false, None, 100).unwrap();
    assert_eq!((before.len(), open.len()), (4, 2));
    drop(journal);

    let life = Life::start(&world);
    let mut services = life.engine.services(&orchestrator::journal::Listing::of(true)).await.unwrap();
    services.sort_by(|a, b| a.service.cmp(&b.service));
    let names: Vec<_> = services.iter().map(|s| (s.service.as_str(), s.state.as_str())).collect();
    assert_eq!(names[0], ("finished", "INSTANTIATED"));
    assert_eq!(names[1], ("grown", "INSTANTIATED"));
    assert_eq!((names.len(), names[2].0), (3, "half"));
    assert_eq!(services[0].instances.len(), 4, "{:?}", services[0]);
    assert_eq!(services[0].sla_met, Some(true));

    for (intent, end) in [("acme-half-deploy", "COMPLETED"), ("acme-grown-scale", "ROLLED_BACK")] {
        let view = life.anchored(intent).await;
        assert_eq!(view.state, end, "{view:?}");
        let bundle = world.verified(&life.engine.bundle(&view.id).await.unwrap());
        assert_eq!((bundle.outcome.as_str(), bundle.intent.id.as_str()), (end, intent));
        let timeline = life.engine.timeline(&view.ns_instance_id).await.unwrap();
        let taken_up =
            |l: &&orchestrator::views::TimelineLine| l.operation_id == view.id && l.kind == "recovery";
        assert!(timeline.iter().any(|l| taken_up(&l)), "{timeline:?}");
    }
    // What the first version anchored is evidence still.
    for id in before.iter().filter(|id| !open.contains(id)) {
        assert_eq!(world.verified(&life.engine.bundle(id).await.unwrap()).outcome, "COMPLETED");
    }
    for name in ["finished", "grown", "half"] {
        let service = life.engine.ns(&format!("acme/{name}")).await.unwrap();
        assert_eq!((service.state.as_str(), service.instances.len()), ("INSTANTIATED", 4), "{name}");
        assert_eq!(world.left_of(&service.id).len(), 8, "{name}");
    }
    // And it goes on: all of them are ended by today's orchestrator.
    for name in ["finished", "grown", "half"] {
        let view = life.carry_out(&world, &terminate(name)).await;
        assert_eq!(view.state, "COMPLETED", "{view:?}");
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
    }
    assert_eq!(world.left(), []);
    world.nothing_twice();
    life.end().await;
}
