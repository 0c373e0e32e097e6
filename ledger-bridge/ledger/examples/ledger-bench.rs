//! The embedded log's figures: decisions per second, latency at 50 in flight, and a log of a million entries.
//!
//! `cargo run --release -p ledger --example ledger-bench -- [--dir DIR] [--decisions N] [--entries N] [--json]`
//!
//! `DIR` is on the disk to measure. A log of `--entries` is kept there as `long` and only made longer by the next run:
//! one entry in ten is an approved deployment, the others are requests that the contract refuses. It is opened in a
//! process of its own (`--open`), whose memory is what is reported.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

#[path = "../../ledger-contract/tests/common/mod.rs"]
mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::*;
use ledger::{Ledger, embedded::Log};
use ledger_contract::{
    contract::decide,
    policy::Quota,
    records::{AK_PAYLOAD, PACKAGE_PAYLOAD},
};
use serde_json::{Value, json};
use trust::Envelope;

/// Requests in flight, as the promise counts them.
const IN_FLIGHT: u64 = 50;
/// Arrivals per second of the open loops: half the promised rate, and the whole.
const ARRIVALS_PER_S: [u64; 2] = [1000, 2000];
/// Requests in flight while the long log is made.
const FILLING: u64 = 200;
/// Requests of one client, each submitted when the one before is answered.
const ONE_BY_ONE: u64 = 500;
/// Random proofs taken from the long log.
const PROOFS: u64 = 2000;

fn argument(name: &str) -> Option<String> {
    let mut all = std::env::args().skip_while(|a| a != name);
    all.next().and_then(|_| all.next())
}

fn number(name: &str, default: u64) -> u64 {
    argument(name).map_or(default, |n| n.parse().unwrap())
}

fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |p: usize| times[(times.len() - 1) * p / 100].as_secs_f64() * 1e3;
    json!({ "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) })
}

/// A policy under which a tenant may have any number of services.
fn policy_without_quota() -> ledger_contract::records::PolicyBundle {
    let mut data = policy().data().unwrap();
    let most = u32::MAX;
    data.quotas.insert(
        "acme".into(),
        Quota { services: most, instances: most, vcpus: most, memory_mib: most, ..Quota::default() },
    );
    policy().with_data(&data)
}

fn packages(w: &World) -> Vec<Envelope> {
    [vnf(w, "vfw_vnf"), vnf(w, "vlb_vnf"), nsd()]
        .iter()
        .map(|p| sign(PACKAGE_PAYLOAD, p, &w.provider))
        .collect()
}

fn deployment(w: &World, i: u64) -> Envelope {
    signed(w, &deploy_intent(&format!("intent-{i:07}"), &format!("service-{i}")))
}

/// Processor time of this process, and of its deciding thread, µs: what others on the machine take is not in it.
fn cpu_us() -> [f64; 2] {
    let mut all = [0.0, 0.0];
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        // A thread may end meanwhile.
        let Ok(spent) = std::fs::read_to_string(path.join("schedstat")) else { continue };
        let us = spent.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3;
        all[0] += us;
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "ledger-writer") {
            all[1] += us;
        }
    }
    all
}

/// How long this thread was ready to run and had no processor.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').nth(1).unwrap().parse().unwrap())
}

/// The contract alone.
fn deciding(w: &World, times: u64) -> Value {
    let mut chain = Chain::founded(w, policy_without_quota());
    packages(w).into_iter().for_each(|p| drop(chain.approve(p)));
    let mut requests: Vec<_> = (0..times).map(|i| deployment(w, i)).collect();
    let (one, tx) = (requests.pop().unwrap(), chain.tx());
    assert!(decide(&one, &chain.snapshot(&one), &tx).verdict.approved);
    let start = Instant::now();
    for request in &requests {
        assert!(decide(request, &chain.snapshot(request), &tx).verdict.approved);
    }
    json!({ "each_us": start.elapsed().as_secs_f64() * 1e6 / requests.len() as f64 })
}

/// `IN_FLIGHT` clients, each of which submits its next request when the last is answered.
async fn closed_loop(log: &Arc<Log>, requests: &[Envelope]) -> Value {
    let (start, before) = (Instant::now(), cpu_us());
    let clients: Vec<_> = requests
        .chunks(requests.len().div_ceil(IN_FLIGHT as usize))
        .map(|chunk| {
            let (log, chunk) = (Arc::clone(log), chunk.to_vec());
            tokio::spawn(async move {
                let mut times = Vec::new();
                for r in chunk {
                    let start = Instant::now();
                    assert!(log.submit(r).await.unwrap().entry.verdict.approved);
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for c in clients {
        times.extend(c.await.unwrap());
    }
    let rate = requests.len() as f64 / start.elapsed().as_secs_f64();
    let after = cpu_us();
    let each = |i: usize| (after[i] - before[i]) / requests.len() as f64;
    json!({ "in_flight": IN_FLIGHT, "decisions_per_s": rate, "latency": percentiles(times),
        "cpu_us": each(0), "in_turn_cpu_us": each(1) })
}

/// Requests arrive evenly, whatever the log does; at most `IN_FLIGHT` are submitted, the others wait, and their time
/// counts from when they were due.
async fn open_loop(log: &Arc<Log>, requests: &[Envelope], per_s: u64) -> Value {
    let start = Instant::now();
    let mut waiting = Vec::new();
    let places = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT as usize));
    for (i, r) in requests.iter().enumerate() {
        let due = start + Duration::from_secs_f64(i as f64 / per_s as f64);
        tokio::time::sleep_until(due.into()).await;
        let (log, r, places) = (Arc::clone(log), r.clone(), Arc::clone(&places));
        waiting.push(tokio::spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            assert!(log.submit(r).await.unwrap().entry.verdict.approved);
            due.elapsed()
        }));
    }
    let mut times = Vec::new();
    for w in waiting {
        times.push(w.await.unwrap());
    }
    let rate = requests.len() as f64 / start.elapsed().as_secs_f64();
    json!({ "arrivals_per_s": per_s, "at_most_in_flight": IN_FLIGHT, "decisions_per_s": rate,
        "latency": percentiles(times) })
}

async fn decisions(w: &World, dir: &Path, count: u64) -> Value {
    let dir = tempfile::TempDir::new_in(dir).unwrap();
    let path = dir.path().join("ledger");
    Log::init(&path, &w.log, genesis(w, policy_without_quota()), NOW).unwrap();
    let log = Arc::new(Log::open(&path, || NOW).unwrap());
    for p in packages(w) {
        log.submit(p).await.unwrap();
    }
    let requests: Vec<_> = (0..3 * count + ONE_BY_ONE).map(|i| deployment(w, i)).collect();
    let mut parts = requests.chunks(count as usize);
    let mut part = || parts.next().unwrap();
    let closed = closed_loop(&log, part()).await;
    let half = open_loop(&log, part(), ARRIVALS_PER_S[0]).await;
    let whole = open_loop(&log, part(), ARRIVALS_PER_S[1]).await;
    let mut times = Vec::new();
    for r in &requests[3 * count as usize..] {
        let start = Instant::now();
        log.submit(r.clone()).await.unwrap();
        times.push(start.elapsed());
    }
    json!({ "closed_loop": closed, "open_loop_half": half, "open_loop": whole, "one_client": percentiles(times) })
}

/// Makes the log as long as it is to be.
async fn fill(w: &Arc<World>, path: &Path, entries: u64) {
    if !path.exists() {
        Log::init(path, &w.log, genesis(w, policy_without_quota()), NOW).unwrap();
    }
    let log = Arc::new(Log::open(path, || NOW).unwrap());
    for p in packages(w) {
        log.submit(p).await.unwrap();
    }
    let (next, start) = (Arc::new(AtomicU64::new(log.size())), Instant::now());
    let clients: Vec<_> = (0..FILLING)
        .map(|_| {
            let (log, w, next) = (Arc::clone(&log), Arc::clone(w), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= entries {
                        return;
                    }
                    let request = match i % 10 {
                        0 => deployment(&w, i),
                        _ => sign(AK_PAYLOAD, &ak(&format!("site-{i}")), &w.acme),
                    };
                    log.submit(request).await.unwrap();
                    if i.is_multiple_of(50_000) {
                        eprintln!("{i} entries after {:.0?}", start.elapsed());
                    }
                }
            })
        })
        .collect();
    for c in clients {
        c.await.unwrap();
    }
}

/// In a process of its own: opens a long log and takes proofs.
async fn open(path: &Path) -> Value {
    let start = Instant::now();
    let log = Log::open(path, || NOW).unwrap();
    let start_ms = start.elapsed().as_secs_f64() * 1e3;
    let size = log.size();
    let (mut inclusion, mut own, mut consistency) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 1_u64;
    for _ in 0..PROOFS {
        // Any full-period step: positions that no cache knows.
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let position = (at >> 20) % size;
        let (start, others) = (Instant::now(), waited());
        log.entry(position).await.unwrap().unwrap();
        let took = start.elapsed();
        inclusion.push(took);
        // Without what it waited for a processor that others had; the disk's time is in it.
        own.push(took.saturating_sub(waited() - others));
        let start = Instant::now();
        log.consistency(position + 1).await.unwrap();
        consistency.push(start.elapsed());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let memory_kib: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    json!({ "entries": size, "start_ms": start_ms, "memory_mib": memory_kib / 1024,
        "entry_with_proof": percentiles(inclusion), "entry_with_proof_own": percentiles(own),
        "consistency_proof": percentiles(consistency) })
}

#[tokio::main]
async fn main() {
    if let Some(path) = argument("--open") {
        return println!("{}", open(&PathBuf::from(path)).await);
    }
    let w = Arc::new(world());
    let dir = argument("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let count = number("--decisions", 3000);
    let mut report = json!({});
    if count > 0 {
        report["contract"] = deciding(&w, count.min(1000));
        report["decisions"] = decisions(&w, &dir, count).await;
    }
    let entries = number("--entries", 0);
    if entries > 0 {
        let path = dir.join("long");
        fill(&w, &path, entries).await;
        let me = std::env::current_exe().unwrap();
        let out = Command::new(me).arg("--open").arg(&path).output().unwrap();
        report["long"] = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    match std::env::args().any(|a| a == "--json") {
        true => println!("{report}"),
        false => println!("{report:#}"),
    }
}
