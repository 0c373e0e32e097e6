//! How much processor time a decision takes: `cargo run --release -p ledger-contract --example decisions [N]`.
//!
//! Every request is another one, so that its signature is checked each time; certificates, packages and policy are the
//! same, as on a ledger. Tests of what is decided: `tests/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement ends where it fails"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Chain, NOW, World, deploy_intent, intent, signed, world};
use ledger_contract::{
    contract::decide,
    intent::{Heal, IntentKind},
};
use nix::time::{ClockId, clock_gettime};
use trust::Envelope;

/// Processor time of this thread, ns: not what others on the machine take.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap()
}

fn requests(w: &World, n: usize, make: fn(&str) -> ledger_contract::intent::Intent) -> Vec<Envelope> {
    (0..n).map(|i| signed(w, &make(&format!("intent-m{i:05}")))).collect()
}

fn heal(id: &str) -> ledger_contract::intent::Intent {
    let it = Heal { targets: vec![], cause: "an instance is gone".into() };
    intent(id, "edge", IntentKind::Heal(it))
}

/// One line: what, and the time of each in µs.
fn measure(what: &str, chain: &Chain, requests: &[Envelope]) {
    let n = requests.len() as u64;
    let us = |ns: u64| ns / n / 1000;
    let mut snapshots = Vec::with_capacity(requests.len());
    let start = cpu_ns();
    snapshots.extend(requests.iter().map(|r| chain.snapshot(r)));
    let read = cpu_ns() - start;
    let mut tx = chain.tx();
    let mut approved = 0;
    let start = cpu_ns();
    for (i, (request, state)) in (0..).zip(requests.iter().zip(&snapshots)) {
        // Ledger time goes on: what is remembered must not hang on it.
        tx.time = NOW.plus(i / 100);
        approved += u64::from(decide(request, state, &tx).verdict.approved);
    }
    let decided = cpu_ns() - start;
    assert_eq!(approved, n, "{what}: this would measure refusals");
    println!(
        "{what}: {} us to decide ({} per second and core), {} us to name its reads",
        us(decided),
        1_000_000_000 * n / decided,
        us(read)
    );
}

fn main() {
    let n = std::env::args().nth(1).map_or(2000, |n| n.parse().unwrap());
    let w = world();
    let start = cpu_ns();
    let signatures = requests(&w, n, heal);
    println!("signing: {} us", (cpu_ns() - start) / n as u64 / 1000);
    let start = cpu_ns();
    for request in &signatures {
        request.verify(&w.roots, NOW).unwrap();
    }
    println!("verifying signature and chain alone: {} us", (cpu_ns() - start) / n as u64 / 1000);
    let mut chain = Chain::ready(&w);
    chain.active(&w, "intent-0001", "edge");
    measure("heal", &chain, &signatures);
    measure("deploy", &chain, &requests(&w, n, |id| deploy_intent(id, "other")));
}
