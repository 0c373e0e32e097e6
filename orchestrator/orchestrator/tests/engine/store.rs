//! The package store: unplugged, what was verified once is planned from by its digest, and from nothing else; full,
//! it takes nothing more, and gives back the room of what nobody needs.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use ledger_contract::records::{Change, PACKAGE_PAYLOAD, Revocable};
use nix::sys::resource::{UsageWho, getrusage};
use orchestrator::{engine::Engine, service::Service as _};
use trust::Digest;

use crate::{
    life::Life,
    world::{TENANT, TENANTS, World, plain, sign, terminate},
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

fn files(world: &World) -> Vec<String> {
    let all = fs::read_dir(world.home.artifacts()).unwrap();
    let mut names: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The world's own packages were stored by an orchestrator of before: they count too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_has_so_many_packages_and_room_comes_back() {
    let mut world = World::new();
    world.config.limits.provider_packages = 4;
    let ledger = Arc::new(world.log());
    let engine = Engine::new(world.parts(ledger.clone(), plain)).unwrap();
    let before = files(&world);

    let fourth = world.packed_with("vfw_vnf", b"a fourth image");
    let taken = engine.put_package(fourth.clone()).await.unwrap();
    assert_eq!(files(&world).len(), before.len() + 2);
    let fifth = world.packed_with("vfw_vnf", b"a fifth image");
    let full = files(&world);
    let refused = engine.put_package(fifth.clone()).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (507, "PROVIDER_STORE_FULL"));
    assert!(refused.detail.contains("`provider` has 4 packages here, and its bound is 4"), "{refused}");
    assert!(refused.hint.as_ref().unwrap().contains("provider_packages"), "{refused}");
    assert_eq!(files(&world), full, "nothing was written");
    engine.put_package(fourth).await.unwrap();

    // Registered, then taken back, and named by no service: its room comes back, and its image goes with it.
    let signed = sign(PACKAGE_PAYLOAD, &taken.record, &world.signer("provider", "provider"));
    assert!(engine.submit(signed).await.unwrap().verdict.approved);
    assert_eq!(engine.put_package(fifth.clone()).await.unwrap_err().code, "PROVIDER_STORE_FULL");
    let what = Revocable::Package { digest: taken.digest };
    world.govern(&*ledger, "take-it-back", Change::Revoke { what }).await;
    engine.put_package(fifth).await.unwrap();
    let now = files(&world);
    assert!(!now.contains(&taken.digest.hex()) && !now.contains(&Digest::of(b"a fourth image").hex()));
    assert!(before.iter().all(|f| now.contains(f)), "what is registered stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_bounded_for_a_provider_and_in_all() {
    let mut world = World::new();
    world.config.limits.provider_store_mib = 1;
    // Nothing that packs well: what unpacks to a thousand times its size is refused for that.
    let big: Vec<u8> = (0_u32..100_000).flat_map(|n| Digest::of(n.to_be_bytes()).0).collect();
    let package = world.packed_with("vfw_vnf", &big);
    let before = files(&world);
    let refusal = async |world: &World| {
        let engine = Engine::new(world.parts(Arc::new(world.log()), plain)).unwrap();
        engine.put_package(package.clone()).await.unwrap_err()
    };
    let refused = refusal(&world).await;
    assert_eq!((refused.status, refused.code.as_str()), (507, "PROVIDER_STORE_FULL"));
    assert!(refused.detail.contains("its bound is 1 MiB"), "{refused}");
    world.config.limits.provider_store_mib = 4096;
    world.config.limits.store_mib = 2;
    let refused = refusal(&world).await;
    assert_eq!((refused.status, refused.code.as_str()), (507, "STORE_FULL"));
    assert!(refused.hint.as_ref().unwrap().contains("`store_mib` under [limits]"), "{refused}");
    assert_eq!(files(&world), before, "nothing was written");
}

/// What runs keeps its packages, though they were taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_needs_stays() {
    let mut world = World::new();
    world.config.limits.provider_packages = 3;
    let ledger = Arc::new(world.log());
    let life = Life::of(world.parts(ledger.clone(), plain));
    assert_eq!(life.carry_out(&world, &world.deploy("edge")).await.state, "COMPLETED");
    let before = files(&world);
    let what = Revocable::Package { digest: world.nsd };
    world.govern(&*ledger, "take-it-back", Change::Revoke { what }).await;
    let another = world.packed_with("vfw_vnf", b"another image");
    let refused = life.engine.put_package(another.clone()).await.unwrap_err();
    assert_eq!(refused.code, "PROVIDER_STORE_FULL");
    assert_eq!(files(&world), before);
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    life.engine.put_package(another).await.unwrap();
    assert!(!files(&world).contains(&world.nsd.hex()));
    life.end().await;
}
