//! A ledger that went back, or has another past, is noticed by the journal: nothing is carried out on it.

use std::{fs, path::Path, sync::Arc};

use ledger::{
    Ledger,
    backup::{backup, restore},
};
use orchestrator::engine::{Engine, EngineError};
use tokio::sync::watch;
use trust::continuity::Discontinuity;

use crate::{
    life::Life,
    world::{World, ns_of, plain},
};

/// Starts an engine on the ledger as it is now; why it stopped.
async fn stopped(world: &World) -> EngineError {
    let ledger: Arc<dyn Ledger> = Arc::new(world.log());
    let engine = Engine::new(world.parts(ledger, plain)).unwrap();
    let (_stop, stop) = watch::channel(false);
    engine.run(stop).await.unwrap_err()
}

fn replace(world: &World, copy: &Path) {
    fs::remove_dir_all(world.home.ledger()).unwrap();
    restore(copy, &world.home.ledger(), |_, _| {}).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_and_one_that_went_another_way_are_refused() {
    let world = World::new();
    let life = Life::start(&world);
    life.carry_out(&world, &world.deploy("first")).await;
    life.end().await;
    let copies = tempfile::tempdir().unwrap();
    let (old, newest) = (copies.path().join("old"), copies.path().join("newest"));
    backup(&world.home.ledger(), &old, |_, _| {}).unwrap();
    let life = Life::start(&world);
    life.carry_out(&world, &world.deploy("second")).await;
    life.end().await;
    // Looked at again, the anchor's entry included.
    Life::start(&world).end().await;
    backup(&world.home.ledger(), &newest, |_, _| {}).unwrap();

    replace(&world, &old);
    let error = stopped(&world).await;
    let EngineError::Discontinuity { source: Discontinuity::Older { known, found } } = &error else {
        panic!("{error}")
    };
    let said = error.to_string();
    assert!(known.size > found.size && said.contains("LEDGER_ROLLED_BACK"), "{said}");
    assert!(
        said.contains(&known.to_string()) && said.contains(&found.to_string()),
        "names both heads: {said}"
    );
    assert!(world.left_of(&ns_of(&world.deploy("second"))).len() > 1, "nothing was done");

    // As long again, but with other entries.
    let log = world.log();
    for n in 0..40 {
        log.submit(world.signed(&world.deploy(&format!("other-{n}")))).await.unwrap();
    }
    drop(log);
    let error = stopped(&world).await;
    let forked = matches!(error, EngineError::Discontinuity { source: Discontinuity::Inconsistent { .. } });
    assert!(forked && error.to_string().contains("LEDGER_FORKED"), "{error}");

    // The newest copy is the ledger, and it goes on.
    replace(&world, &newest);
    let life = Life::start(&world);
    assert_eq!(life.carry_out(&world, &world.deploy("third")).await.state, "COMPLETED");
    life.end().await;
}
