//! Decisions per second, submit latency and opening time of the embedded log:
//! `cargo run --release -p ledger --example measure [directory on the disk to measure]`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use ledger::{Ledger, embedded::Log};
use ledger_contract::{contract::decide, policy::Quota, records::PACKAGE_PAYLOAD};

const INTENTS: usize = 500;
const CLIENTS: usize = 32;

fn percentile(sorted: &[Duration], p: usize) -> Duration {
    sorted[(sorted.len() - 1) * p / 100]
}

#[tokio::main]
async fn main() {
    let w = world();
    let dir = match std::env::args().nth(1) {
        Some(d) => tempfile::TempDir::new_in(d).unwrap(),
        None => tempfile::TempDir::new().unwrap(),
    };
    let path = dir.path().join("ledger");
    let mut data = policy().data().unwrap();
    let most = u32::MAX;
    data.quotas.insert(
        "acme".into(),
        Quota { services: most, instances: most, vcpus: most, memory_mib: most, ..Quota::default() },
    );
    let policy = policy().with_data(&data);
    Log::init(&path, &w.log, genesis(&w, policy.clone()), NOW).unwrap();
    let log = Arc::new(Log::open(&path, || NOW).unwrap());
    let mut chain = Chain::founded(&w, policy);
    for p in [vnf(&w, "vfw_vnf"), vnf(&w, "vlb_vnf"), nsd()] {
        let request = sign(PACKAGE_PAYLOAD, &p, &w.provider);
        chain.approve(request.clone());
        log.submit(request).await.unwrap();
    }
    let request = |i: usize| signed(&w, &deploy_intent(&format!("intent-{i:06}"), &format!("service-{i}")));

    let (one, state, tx) = (request(0), chain.snapshot(&request(0)), chain.tx());
    let start = Instant::now();
    for _ in 0..INTENTS {
        assert!(decide(&one, &state, &tx).verdict.approved);
    }
    let each = start.elapsed() / INTENTS as u32;
    println!(
        "decide (deploy, 3 packages, Rego): {each:?} each, {:.0}/s on one core",
        1.0 / each.as_secs_f64()
    );

    let mut times = Vec::new();
    for i in 0..INTENTS {
        let start = Instant::now();
        assert!(log.submit(request(i)).await.unwrap().entry.verdict.approved);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    println!("submit with fsync, one client: p50 {p50:?}, p99 {p99:?}");

    let requests: Vec<_> = (INTENTS..2 * INTENTS).map(request).collect();
    let start = Instant::now();
    let clients: Vec<_> = requests
        .chunks(INTENTS.div_ceil(CLIENTS))
        .map(|chunk| {
            let (log, chunk) = (Arc::clone(&log), chunk.to_vec());
            tokio::spawn(async move {
                for r in chunk {
                    assert!(log.submit(r).await.unwrap().entry.verdict.approved);
                }
            })
        })
        .collect();
    for c in clients {
        c.await.unwrap();
    }
    let rate = INTENTS as f64 / start.elapsed().as_secs_f64();
    println!("submit with fsync, {CLIENTS} clients: {rate:.0}/s");
    let size = log.size();
    drop(log);
    let start = Instant::now();
    assert_eq!(Log::open(&path, || NOW).unwrap().size(), size);
    println!("open, {size} entries decided again: {:?}", start.elapsed());
}
