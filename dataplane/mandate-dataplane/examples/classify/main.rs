//! What a decision on a new connection costs by rules: nanoseconds of the thread's time, building, memory.
//!
//! `cargo run --release -p mandate-dataplane --example classify` prints a table. With a directory it also writes there what it decided on, for
//! `testbed/dataplane/classify.c`, which asks librte_acl the same: the sums of both are equal if their decisions are. A
//! burst's decisions are compared with those one by one, and some with the list of rules.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod mixes;

use std::{env, fs, io::Write as _, net::IpAddr, path::Path};

use dataplane_control::config::{Firewall, Rule, RuleAction};
use dataplane_engine::{
    Side,
    rules::{BURST, Decision, Flow, NewConnection, Rules},
};
use dpdk::Processor;
use nix::time::{ClockId, clock_gettime};

const FLOWS: usize = 1 << 16;
/// Connections of a round: short, so that many rounds are not interrupted.
const ROUND: usize = 64 * BURST;
const ROUNDS: usize = 15;
/// Pairs of connection and rule that are compared with the list.
const PAIRS: usize = 10_000_000;

struct Measured {
    build_ms: f64,
    bytes: usize,
    burst_ns: f64,
    single_ns: f64,
    /// Of all rules' indices, in order.
    sum: u64,
}

/// Nanoseconds of this thread.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// Of each round the least of some, for others share the core; of all rounds the average: ns a connection.
fn least(
    new: &[NewConnection],
    out: &mut [Decision],
    mut round: impl FnMut(&[NewConnection], &mut [Decision]),
) -> f64 {
    let mut sum = 0.0;
    for (new, out) in new.chunks(ROUND).zip(out.chunks_mut(ROUND)) {
        let one = |_| {
            let start = cpu_ns();
            round(new, out);
            cpu_ns() - start
        };
        sum += (0..ROUNDS).map(one).fold(f64::MAX, f64::min);
    }
    sum / new.len() as f64
}

fn measure(rules: &[Rule], flows: &[Flow]) -> Measured {
    let firewall = Firewall {
        outside: "outside".into(),
        inside: "inside".into(),
        rules: rules.to_vec(),
        ..Firewall::default()
    };
    let start = cpu_ns();
    let compiled = Rules::compile(&firewall).unwrap();
    let build_ms = (cpu_ns() - start) / 1e6;
    let new: Vec<NewConnection> = flows.iter().map(|f| NewConnection::from_flow(f, Side::Near)).collect();
    let mut burst = vec![Decision::DEFAULT; new.len()];
    let burst_ns = least(&new, &mut burst, |new, out| compiled.decide_all::<Processor>(Side::Near, new, out));
    let mut single = burst.clone();
    let single_ns = least(&new, &mut single, |new, out| {
        new.iter().zip(out).for_each(|(new, out)| *out = compiled.decide(new, Side::Near));
    });
    assert_eq!(burst, single, "a burst decides as its connections in turn");
    for (flow, decision) in flows.iter().zip(&burst).take(PAIRS / rules.len()) {
        assert_eq!(mixes::first(rules, flow), decision.rule(), "{flow:?}");
    }
    let index = |d: &Decision| u64::from(d.rule().unwrap_or(u32::MAX));
    let sum = burst.iter().fold(0_u64, |sum, d| sum.wrapping_mul(31).wrapping_add(index(d)));
    Measured { build_ms, bytes: compiled.bytes(), burst_ns, single_ns, sum }
}

/// As testbed/dataplane/classify.c reads them: rules as text, connections as words.
fn write(directory: &Path, name: &str, rules: &[Rule], flows: &[Flow]) {
    let mut text = String::new();
    for rule in rules {
        let net = |p: Option<_>| {
            p.map_or_else(|| "0.0.0.0/0".to_owned(), |p: dataplane_control::config::Prefix| p.to_string())
        };
        let ports =
            |r: Option<dataplane_control::config::PortRange>| r.map_or((0, 65_535), |r| (r.first, r.last));
        let (s, d) = (ports(rule.source_ports), ports(rule.destination_ports));
        let action = if rule.action == RuleAction::Allow { "allow" } else { "deny" };
        let protocol = rule.protocol.unwrap_or(0);
        let (source, destination) = (net(rule.source), net(rule.destination));
        text += &format!("{source} {destination} {}-{} {}-{} {protocol} {action}\n", s.0, s.1, d.0, d.1);
    }
    fs::write(directory.join(format!("{name}.rules")), text).unwrap();
    let mut out = fs::File::create(directory.join(format!("{name}.flows"))).unwrap();
    let word = |a: IpAddr| if let IpAddr::V4(a) = a { a.to_bits() } else { 0 };
    let words = flows.iter().flat_map(|f| {
        let ports = u32::from(f.source.1) << 16 | u32::from(f.destination.1);
        [word(f.source.0), word(f.destination.0), u32::from(f.protocol), ports]
    });
    out.write_all(&words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
}

fn main() {
    let directory = env::args().nth(1);
    println!(
        "{:<16} {:>7} {:>9} {:>9} {:>8} {:>8} {:>17}",
        "mix", "rules", "build ms", "KiB", "burst ns", "one ns", "sum"
    );
    for mix in mixes::ALL {
        for count in [10, 1_000, 10_000, 100_000] {
            let rules = (mix.rules)(count);
            let flows = mixes::flows(&rules, FLOWS);
            let it = measure(&rules, &flows);
            println!(
                "{:<16} {count:>7} {:>9.1} {:>9} {:>8.1} {:>8.1} {:>17x}",
                mix.name,
                it.build_ms,
                it.bytes / 1024,
                it.burst_ns,
                it.single_ns,
                it.sum
            );
            if let Some(directory) = directory.as_deref().filter(|_| !mix.v6) {
                write(Path::new(directory), &format!("{}-{count}", mix.name), &rules, &flows);
            }
        }
    }
}
