//! The package store is unplugged: what was verified once is planned from by its digest, and from nothing else.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use orchestrator::service::Service as _;

use crate::{
    life::Life,
    world::{TENANT, TENANTS, World, terminate},
};

/// Processor time from an intent to its plan, without the packages.
const PROMISED: Duration = Duration::from_millis(50);
/// The kernel counts processor time in steps of some milliseconds: so many plans are counted together.
const PLANS: usize = 100;
/// From the approval to the plan by the clock: others use this machine too.
const HUNG: Duration = Duration::from_secs(20);

/// User and system time of this thread.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let us = |t: nix::sys::time::TimeVal| u64::try_from(t.tv_sec() * 1_000_000 + t.tv_usec()).unwrap();
    Duration::from_micros(us(usage.user_time()) + us(usage.system_time()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_needs_no_package_store() {
    let world = World::new();
    let life = Life::start(&world);
    assert_eq!(life.carry_out(&world, &world.deploy("first")).await.state, "COMPLETED");
    let unplugged = world.home.path().join("unplugged");
    fs::rename(world.home.artifacts(), &unplugged).unwrap();
    let mut planned = Vec::new();
    for tenant in TENANTS.iter().filter(|t| **t != TENANT) {
        let began = Instant::now();
        let done = life.carry_out(&world, &world.deploy_for(tenant, "second")).await;
        assert_eq!(done.state, "COMPLETED", "{done:?}");
        let lines = life.engine.timeline(&done.ns_instance_id).await.unwrap();
        let at = |kind: &str| lines.iter().find(|l| l.kind == kind).unwrap().at_ms;
        planned.push(Duration::from_millis(at("plan") - at("decision")));
        assert!(began.elapsed() >= planned[planned.len() - 1]);
    }
    assert!(planned.iter().all(|p| *p < HUNG), "{planned:?}");
    // Planning awaits nothing on another thread: the processor time of this one is what it costs.
    let before = cpu();
    for n in 0..PLANS {
        let plan = life.engine.plan(world.deploy_for(TENANTS[n % TENANTS.len()], "third")).await.unwrap();
        assert!(plan.feasible, "{plan:?}");
    }
    let each = (cpu() - before) / u32::try_from(PLANS).unwrap();
    eprintln!("planned without the package store: {each:?} of CPU each");
    assert!(each > Duration::ZERO && each < PROMISED, "{each:?}");
    assert_eq!(life.carry_out(&world, &terminate("first")).await.state, "COMPLETED");
    life.end().await;

    // Who starts without having seen them has nothing to believe.
    let life = Life::start(&world);
    let refused = life.carry_out(&world, &world.deploy("third")).await;
    assert_eq!(refused.state, "ROLLED_BACK", "{refused:?}");
    assert!(refused.problem.unwrap().contains("PACKAGES"));
    // A name is not enough either: another package's bytes under the right name are found out.
    fs::rename(&unplugged, world.home.artifacts()).unwrap();
    let nsd = world.home.artifacts().join(world.nsd.hex());
    let other = fs::read_dir(world.home.artifacts()).unwrap().map(|e| e.unwrap().path()).find(|p| *p != nsd);
    let right = fs::read(&nsd).unwrap();
    fs::write(&nsd, fs::read(other.unwrap()).unwrap()).unwrap();
    let refused = life.carry_out(&world, &world.deploy("fourth")).await;
    assert_eq!(refused.state, "ROLLED_BACK", "{refused:?}");
    assert!(refused.problem.unwrap().contains("the file was changed"));
    fs::write(&nsd, right).unwrap();
    assert_eq!(life.carry_out(&world, &world.deploy("fifth")).await.state, "COMPLETED");
    life.end().await;
}
