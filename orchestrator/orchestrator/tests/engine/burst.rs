//! Very many approved intents at once: none is lost, tenants take turns, a service's operations keep their order, and
//! what waits takes little memory. `cargo testbed bench control` runs the same with 10,000.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::{Ledger as _, embedded::Log};
use ledger_contract::{
    Intent,
    records::{ANCHOR_PAYLOAD, Anchor, Entry},
};
use tokio::task::JoinSet;
use vim::fake::FakeVim;

use crate::{
    life::Life,
    world::{Ports, TENANTS, World, intent},
};

/// Requests in flight while the intents are submitted.
const IN_FLIGHT: usize = 50;
/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// Entries read at once.
const PAGE: usize = 500;

/// What became of a burst.
pub struct Burst {
    /// From the start of the engine to the last anchor of the first wave.
    pub took: Duration,
    /// Anchors of operations that completed, in the ledger's order.
    pub completed: Vec<Anchor>,
    /// Of operations that did not.
    pub others: Vec<Anchor>,
    /// Resident memory when everything was approved and nothing had begun, and the most until all was over, KiB.
    pub memory_kib: (u64, u64),
    /// Jain's index of what was done for each tenant while all of them had something waiting, from the first completion
    /// of the last one on, per mille; 1000: equal.
    pub fairness: u64,
    /// Services whose evidence is anchored in the order in which their intents were approved.
    pub in_order: usize,
}

/// So many deployments are approved before the engine starts, those of the first tenant first and more than half of
/// all; then a tenth of the services is terminated, all at once too.
pub async fn run(world: &World, deploys: usize, wrap: impl Fn(&Arc<FakeVim>) -> Ports) -> Burst {
    let log = Arc::new(world.log());
    let all: Vec<Intent> =
        (0..deploys).map(|n| lasting(world.deploy_for(tenant(n, deploys), &name(n)))).collect();
    submit(world, &log, &all).await;
    let base = log.size();
    let before = memory_kib();
    let began = Instant::now();
    let life = Life::of(world.parts(log.clone(), wrap));
    let mut most = anchored(&log, base + deploys as u64, before).await;
    let took = began.elapsed();
    let ends: Vec<Intent> = (0..deploys).step_by(10).map(|n| end(tenant(n, deploys), &name(n))).collect();
    submit(world, &log, &ends).await;
    most = anchored(&log, base + (deploys + 2 * ends.len()) as u64, most).await;
    life.end().await;
    let anchors = anchors(&log, base).await;
    let (completed, others): (Vec<_>, Vec<_>) = anchors.into_iter().partition(|a| a.outcome == "COMPLETED");
    let fairness = fairness(&completed, deploys);
    let in_order = in_order(&completed, &ends);
    Burst { took, completed, others, memory_kib: (before, most), fairness, in_order }
}

fn name(n: usize) -> String {
    format!("svc-{n}")
}

/// The first tenant has six tenths of the intents and was there first; the others share the rest.
fn tenant(n: usize, of: usize) -> &'static str {
    match n * 10 < of * 6 {
        true => TENANTS[0],
        false => TENANTS[1 + n % (TENANTS.len() - 1)],
    }
}

/// Good for as long as a burst may take on a slow machine.
fn lasting(mut intent: Intent) -> Intent {
    intent.not_after = intent.not_after.plus(36_000);
    intent
}

fn end(tenant: &str, service: &str) -> Intent {
    lasting(intent(tenant, service, ledger_contract::IntentKind::Terminate {}))
}

async fn submit(world: &World, log: &Arc<Log>, intents: &[Intent]) {
    for chunk in intents.chunks(IN_FLIGHT) {
        let mut flight = JoinSet::new();
        // In the order of the slice: each is with the ledger before the next.
        for envelope in chunk.iter().map(|i| world.signed(i)) {
            let log = log.clone();
            flight.spawn(async move { log.submit(envelope).await });
        }
        while let Some(committed) = flight.join_next().await {
            let verdict = committed.unwrap().unwrap().entry.verdict;
            assert!(verdict.approved, "{verdict:?}");
        }
    }
}

/// Waits until the ledger has so many entries; the most memory that was used.
async fn anchored(log: &Log, size: u64, so_far_kib: u64) -> u64 {
    let (mut most, mut last, mut since) = (so_far_kib, 0, Instant::now());
    while log.size() < size {
        tokio::time::sleep(LOOK).await;
        most = most.max(memory_kib());
        if log.size() != last {
            (last, since) = (log.size(), Instant::now());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "nothing happens at entry {last} of {size}");
    }
    most
}

pub async fn anchors(log: &Log, from: u64) -> Vec<Anchor> {
    let (mut anchors, mut at) = (Vec::new(), from);
    loop {
        let page = log.range(at, PAGE).await.unwrap();
        if page.is_empty() {
            return anchors;
        }
        at += page.len() as u64;
        let entries = page.iter().map(|e| serde_json::from_str::<Entry>(e).unwrap());
        let requests =
            entries.filter(|e| e.request.payload_type == ANCHOR_PAYLOAD).map(|e| e.request.payload);
        anchors.extend(requests.map(|p| serde_json::from_slice::<Anchor>(&p).unwrap()));
    }
}

/// Intents are named after tenant, service and action.
fn tenant_of(anchor: &Anchor) -> &str {
    anchor.intent_id.split('-').next().unwrap()
}

fn fairness(completed: &[Anchor], deploys: usize) -> u64 {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    for n in 0..deploys {
        *left.entry(tenant(n, deploys)).or_default() += 1;
    }
    let mut done: BTreeMap<&str, u64> = left.keys().map(|t| (*t, 0)).collect();
    let mut waiting = BTreeSet::new();
    for anchor in completed {
        if left.values().any(|n| *n == 0) {
            break;
        }
        let of = tenant_of(anchor);
        *left.get_mut(of).unwrap() -= 1;
        waiting.insert(of);
        // The approvals come in the ledger's order, the first tenant's first: turns are taken once all have come.
        if waiting.len() == TENANTS.len() {
            *done.get_mut(of).unwrap() += 1;
        }
    }
    let (sum, squares) = (done.values().sum::<u64>(), done.values().map(|n| n * n).sum::<u64>());
    1000 * sum * sum / (done.len() as u64 * squares).max(1)
}

fn in_order(completed: &[Anchor], ends: &[Intent]) -> usize {
    let mut seen = BTreeSet::new();
    let mut right = 0;
    for anchor in completed {
        match anchor.intent_id.strip_suffix("-terminate") {
            Some(of) => right += usize::from(seen.contains(&format!("{of}-deploy"))),
            None => drop(seen.insert(anchor.intent_id.clone())),
        }
    }
    assert!(right <= ends.len());
    right
}

pub fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::plain;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn five_hundred_intents_at_once() {
        const INTENTS: usize = 500;
        let mut world = World::new();
        world.make_room().await;
        world.config.limits.tenant_operations_per_minute = 60_000;
        world.config.limits.tenant_burst = 1_000;
        let burst = run(&world, INTENTS, plain).await;
        let (before, most) = burst.memory_kib;
        // Other tests run in this process: its memory is measured by the benchmark.
        println!("{INTENTS} intents: {:.1?}, {} KiB", burst.took, most - before);
        assert!(burst.others.is_empty(), "{:?}", burst.others.first());
        let different: BTreeSet<&str> = burst.completed.iter().map(|a| a.operation_id.as_str()).collect();
        assert_eq!(
            (different.len(), burst.completed.len()),
            (INTENTS + INTENTS / 10, INTENTS + INTENTS / 10)
        );
        assert!(burst.fairness >= 980, "{} per mille", burst.fairness);
        assert_eq!(burst.in_order, INTENTS / 10);
        world.nothing_twice();
    }
}
