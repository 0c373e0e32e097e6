//! How many evidence bundles a core verifies: `cargo run --release -p ledger-contract --example bundles -- TRUST FILE…`.
//!
//! TRUST is a `trust.json`, each FILE a bundle as `mandate evidence export` writes it; `cargo testbed demo` leaves both in
//! `.testbed/evidence/`. Processor time of one thread, in three ways: as a stranger sees a first bundle (a thread that
//! remembers no certificate), one after the other on one thread, and beside that the bare signatures of a bundle, so that
//! what is ours and what is arithmetic can be told apart on a machine with other load.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement ends where it fails"
)]

use std::{collections::BTreeSet, thread};

use ledger_contract::{VerifiedBundle, verify_bundle};
use nix::time::{ClockId, clock_gettime};
use trust::{Envelope, TrustRoots, dsse, identity};

/// How long each way is measured, at least, ns.
const MEASURED_NS: u64 = 2_000_000_000;
/// Ways are taken in turns, so that a change of load meets all of them.
const TURNS: u64 = 4;

/// Processor time of this thread, ns: not what others on the machine take.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    u64::try_from(now.tv_sec() * 1_000_000_000 + now.tv_nsec()).unwrap()
}

/// Processor time of each bundle, ns, over all of them again and again.
fn each(bundles: &[Vec<u8>], mut verify: impl FnMut(&[u8])) -> u64 {
    let (start, mut count) = (cpu_ns(), 0);
    while cpu_ns() - start < MEASURED_NS / TURNS {
        bundles.iter().for_each(|b| verify(b));
        count += bundles.len() as u64;
    }
    (cpu_ns() - start) / count
}

/// On a thread of its own for each bundle: nothing is remembered.
fn strangers(bundles: &[Vec<u8>], roots: &TrustRoots) -> u64 {
    let (mut spent, mut count) = (0, 0);
    while spent < MEASURED_NS / TURNS {
        for bundle in bundles {
            let first = || {
                let start = cpu_ns();
                verify_bundle(bundle, roots).unwrap();
                cpu_ns() - start
            };
            spent += thread::scope(|s| s.spawn(first).join().unwrap());
            count += 1;
        }
    }
    spent / count
}

/// The envelopes of a bundle's lines; their signatures are most of a bundle's.
fn envelopes(bundle: &[u8]) -> Vec<Envelope> {
    bundle.split(|b| *b == b'\n').filter_map(|line| Envelope::from_json(line).ok()).collect()
}

/// The signatures of the lines, without certificates.
fn arithmetic(bundle: &[Envelope]) {
    for s in bundle.iter().flat_map(|e| e.signatures.iter().map(move |s| (e, s))) {
        let key = identity::public_key(&s.1.certificate).unwrap();
        // Not over what was signed: that does not verify, and costs the same.
        assert!(dsse::verify_bytes(&key, &s.0.payload, &s.1.sig).is_err());
    }
}

/// Bundles, lines, bytes, operations and identities that are not the same.
fn describe(bundles: &[Vec<u8>], verified: &[VerifiedBundle]) {
    let distinct =
        |of: &dyn Fn(&VerifiedBundle) -> String| verified.iter().map(of).collect::<BTreeSet<_>>().len();
    let lines = |b: &Vec<u8>| b.iter().filter(|b| **b == b'\n').count();
    let mean = |of: &dyn Fn(&Vec<u8>) -> usize| bundles.iter().map(of).sum::<usize>() / bundles.len();
    println!(
        "{} bundles of {} operations, {} lines and {} bytes each; {} tenants' and {} orchestrators' certificates",
        bundles.len(),
        distinct(&|v| v.operation_id.clone()),
        mean(&lines),
        mean(&|b| b.len()),
        distinct(&|v| v.tenant_identity.certificate.to_string()),
        distinct(&|v| v.orchestrator_identity.certificate.to_string()),
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let trust = arguments.next().expect("usage: bundles TRUST FILE…");
    let roots: TrustRoots = serde_json::from_slice(&std::fs::read(trust).unwrap()).unwrap();
    let bundles: Vec<Vec<u8>> = arguments.map(|file| std::fs::read(file).unwrap()).collect();
    let verified: Vec<_> = bundles.iter().map(|b| verify_bundle(b, &roots).unwrap()).collect();
    describe(&bundles, &verified);
    let lines: Vec<_> = bundles.iter().map(|b| envelopes(b)).collect();
    let signatures = lines.iter().flatten().map(|e| e.signatures.len()).sum::<usize>() / bundles.len();
    for _ in 0..TURNS {
        let (first, known) =
            (strangers(&bundles, &roots), each(&bundles, |b| drop(verify_bundle(b, &roots).unwrap())));
        let mut next = lines.iter().cycle();
        let bare = each(&bundles, |_| arithmetic(next.next().unwrap()));
        println!(
            "first: {} us ({} per second and core); known certificates: {} us ({}); {signatures} bare signatures: {} us",
            first / 1000,
            1_000_000_000 / first,
            known / 1000,
            1_000_000_000 / known,
            bare / 1000,
        );
    }
}
