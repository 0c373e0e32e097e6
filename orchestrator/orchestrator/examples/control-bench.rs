//! What the engine costs: `cargo run --release -p orchestrator --example control-bench -- deploys 300 [DIR]`, or
//! `burst 10000 [DIR]`. One JSON document on stdout; `cargo testbed bench control` reads it.
//!
//! Everything is real but the VIM: ledger, journal, signatures, evidence. The VIM is the fake of the tests; the CPU
//! time that it takes (attestation and traffic reports included) is measured on its threads and subtracted. The home
//! is made in DIR (a file system on the disk to measure), or in memory; the bundles of `deploys` stay in DIR/evidence.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::panic)]

#[path = "../tests/engine/attester.rs"]
mod attester;
#[path = "../tests/engine/burst.rs"]
mod burst;
#[path = "../tests/engine/life.rs"]
mod life;
#[path = "../tests/engine/world.rs"]
mod world;

use std::{
    collections::VecDeque,
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use attestation::Evidence;
use dataplane_control::{
    protocol::Status,
    traffic::{TrafficProfile, TrafficReport},
};
use ledger_contract::bundle::verify_bundle;
use nix::sys::resource::{UsageWho, getrusage};
use orchestrator::service::Service as _;
use serde_json::{Value, json};
use trust::Digest;
use vim::{
    Capabilities, DriverError, Inventory, Kind, ObjectKey, Observed, Scope, Spec, VimDriver, VnfControl,
    fake::FakeVim,
};

use life::Life;
use world::{Ports, TENANTS, World};

/// Services whose objects the VIM keeps in a burst: more than are worked on at once. What the engine costs is
/// measured, not what a VIM's listing of ten thousand services does.
const KEPT_SERVICES: usize = 64;
/// How long the bundles are verified, at least.
const VERIFYING: Duration = Duration::from_secs(2);

/// User and system time, µs.
fn cpu_us(who: UsageWho) -> u64 {
    let usage = getrusage(who).unwrap();
    let us = |t: nix::sys::time::TimeVal| (t.tv_sec() * 1_000_000 + t.tv_usec()).try_into().unwrap_or(0_u64);
    us(usage.user_time()) + us(usage.system_time())
}

/// The fake, its CPU time counted.
struct Metered {
    inner: Arc<FakeVim>,
    spent_us: Arc<AtomicU64>,
    /// Services in the order in which they came; none are forgotten where this is absent.
    services: Option<Mutex<VecDeque<String>>>,
}

impl Metered {
    /// The fake is never pending: what its future costs is spent in the one poll that ends it.
    async fn count<T>(&self, call: impl Future<Output = T>) -> T {
        let before = cpu_us(UsageWho::RUSAGE_THREAD);
        let result = call.await;
        self.spent_us.fetch_add(cpu_us(UsageWho::RUSAGE_THREAD).saturating_sub(before), Ordering::Relaxed);
        result
    }

    fn forget_old(&self, key: &ObjectKey) {
        let Some(services) = &self.services else { return };
        let mut services = services.lock().unwrap();
        if !services.iter().any(|s| s == key.service()) {
            services.push_back(key.service().to_owned());
        }
        if services.len() > KEPT_SERVICES
            && let Some(old) = services.pop_front()
        {
            self.inner.left().iter().filter(|k| k.service() == old).for_each(|k| self.inner.vanish(k));
        }
    }
}

#[async_trait]
impl VimDriver for Metered {
    async fn capabilities(&self) -> Result<Capabilities, DriverError> {
        self.count(self.inner.capabilities()).await
    }
    async fn ensure(&self, key: &ObjectKey, spec: &Spec) -> Result<Observed, DriverError> {
        self.count(async {
            self.forget_old(key);
            self.inner.ensure(key, spec).await
        })
        .await
    }
    async fn remove(&self, key: &ObjectKey, kind: Kind) -> Result<(), DriverError> {
        self.count(self.inner.remove(key, kind)).await
    }
    async fn observe(&self, scope: &Scope) -> Result<Inventory, DriverError> {
        self.count(self.inner.observe(scope)).await
    }
}

#[async_trait]
impl VnfControl for Metered {
    async fn status(&self, key: &ObjectKey) -> Result<Status, DriverError> {
        self.count(self.inner.status(key)).await
    }
    async fn attest(&self, keys: &[ObjectKey], nonce: &Digest) -> Result<Evidence, DriverError> {
        self.count(self.inner.attest(keys, nonce)).await
    }
    async fn run_traffic(
        &self,
        key: &ObjectKey,
        profile: &TrafficProfile,
    ) -> Result<TrafficReport, DriverError> {
        self.count(self.inner.run_traffic(key, profile)).await
    }
    async fn isolate(&self, key: &ObjectKey, on: bool) -> Result<(), DriverError> {
        self.count(self.inner.isolate(key, on)).await
    }
}

fn metered(spent: &Arc<AtomicU64>, forgets: bool) -> impl Fn(&Arc<FakeVim>) -> Ports {
    let spent = spent.clone();
    move |vim| {
        let services = forgets.then(Mutex::default);
        let it = Arc::new(Metered { inner: vim.clone(), spent_us: spent.clone(), services });
        (it.clone(), it)
    }
}

async fn world(dir: Option<&str>) -> World {
    let mut world = dir.map_or_else(World::new, |d| World::within(d.as_ref()));
    world.make_room().await;
    world.config.limits.tenant_operations_per_minute = 60_000;
    world.config.limits.tenant_burst = 10_000;
    // One look at all sites is measured by itself.
    world.config.drift.interval_s = 3_600;
    world
}

/// Deployments, one burst of them; what each costs. Then their bundles, verified by one thread.
async fn deploys(count: usize, dir: Option<&str>) -> Value {
    let world = world(dir).await;
    let spent = Arc::new(AtomicU64::new(0));
    let log = Arc::new(world.log());
    let life = Life::of(world.parts(log.clone(), metered(&spent, false)));
    // Signed before: that is the tenants' work.
    let envelopes: Vec<_> = (0..count)
        .map(|n| world.signed(&world.deploy_for(TENANTS[n % TENANTS.len()], &format!("svc-{n}"))))
        .collect();
    let base = log.size();
    let (began, cpu) = (Instant::now(), cpu_us(UsageWho::RUSAGE_SELF));
    for envelope in envelopes {
        assert!(life.engine.submit(envelope).await.unwrap().verdict.approved);
    }
    while log.size() < base + 2 * count as u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (took, all) = (began.elapsed(), cpu_us(UsageWho::RUSAGE_SELF) - cpu);
    let vim = spent.load(Ordering::Relaxed);
    let anchors = burst::anchors(&log, base).await;
    assert!(anchors.iter().all(|a| a.outcome == "COMPLETED"));
    let each = |us: u64| us as f64 / 1e3 / count as f64;
    let mut bundles = Vec::new();
    for anchor in &anchors {
        bundles.push(life.engine.bundle(&anchor.operation_id).await.unwrap());
    }
    life.end().await;
    if let Some(dir) = dir {
        kept(dir.as_ref(), &world, &bundles);
    }
    let verified = tokio::task::spawn_blocking(move || verified(&world, &bundles)).await.unwrap();
    json!({ "deploys": count, "took_s": took.as_secs_f64(), "cpu_ms_per_deploy": each(all - vim),
        "vim_cpu_ms_per_deploy": each(vim), "bundles": verified })
}

/// The bundles and who they are verified by, for `cargo run --release -p ledger-contract --example bundles`.
fn kept(dir: &Path, world: &World, bundles: &[Vec<u8>]) {
    let dir = dir.join("evidence");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("trust.json"), serde_json::to_vec(&world.roots()).unwrap()).unwrap();
    for (n, bundle) in bundles.iter().enumerate() {
        fs::write(dir.join(format!("{n}.jsonl")), bundle).unwrap();
    }
}

/// On one thread, by its CPU time.
fn verified(world: &World, bundles: &[Vec<u8>]) -> Value {
    let roots = world.roots();
    let lines = bundles[0].iter().filter(|b| **b == b'\n').count();
    let (began, cpu, mut count) = (Instant::now(), cpu_us(UsageWho::RUSAGE_THREAD), 0_u64);
    while began.elapsed() < VERIFYING {
        for bundle in bundles {
            verify_bundle(bundle, &roots).unwrap();
            count += 1;
        }
    }
    let spent = cpu_us(UsageWho::RUSAGE_THREAD) - cpu;
    json!({ "verified": count, "lines": lines, "bytes": bundles[0].len(), "per_core_s": count as f64 * 1e6 / spent as f64 })
}

async fn burst_of(count: usize, dir: Option<&str>) -> Value {
    let world = world(dir).await;
    let spent = Arc::new(AtomicU64::new(0));
    let burst = burst::run(&world, count, metered(&spent, true)).await;
    let (before, most) = burst.memory_kib;
    json!({ "intents": count, "took_s": burst.took.as_secs_f64(), "completed": burst.completed.len(),
        "expected": count + count.div_ceil(10), "others": burst.others.len(),
        "memory_before_mib": before / 1024, "memory_most_mib": most / 1024,
        "memory_kib_per_intent": (most - before) as f64 / count as f64,
        "fairness_permille": burst.fairness, "in_order": burst.in_order, "ordered": count.div_ceil(10) })
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = arguments.get(1).and_then(|n| n.parse().ok());
    let dir = arguments.get(2).map(String::as_str);
    let report = match (arguments.first().map(String::as_str), count) {
        (Some("deploys"), Some(count)) => deploys(count, dir).await,
        (Some("burst"), Some(count)) => burst_of(count, dir).await,
        _ => return eprintln!("usage: control-bench deploys|burst COUNT [DIR]"),
    };
    println!("{report}");
}
