//! Generator -> firewall -> balancer -> reflectors and back, over wires in memory with a known delay.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::collections::{BTreeMap, VecDeque};

use crate::common::*;
use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Backend, RuleAction::*},
    traffic::{Expectation, FlowGroup, TrafficProfile, TrafficReport},
};
use dataplane_engine::{PacketFunction, Verdict, build, maglev, traffic::Session};

const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
/// Time of one hop, µs.
const HOP_US: u64 = 7;
/// Generator to reflector and back: three wires each way.
const ROUND_TRIP_US: u64 = 6 * HOP_US;

/// Where a frame arrives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Generator,
    Firewall(u16),
    Balancer(u16),
    Backends,
}

struct Chain {
    firewall: Box<dyn PacketFunction>,
    balancer: Box<dyn PacketFunction>,
    reflectors: Vec<Box<dyn PacketFunction>>,
    wire: VecDeque<(u64, At, Vec<u8>)>,
    /// Every so many frames from the balancer to the backends is lost; 0: none.
    lose_every: u64,
    /// Backends' frames are delivered twice.
    duplicate: bool,
    dispatched: u64,
    now_us: u64,
}

fn rules() -> Vec<dataplane_control::config::Rule> {
    vec![
        rule("no-admin", Deny, Some(6), None, Some("8443")),
        rule("web4", Allow, Some(6), Some("192.0.2.10/32"), Some("443-8443")),
        rule("web6", Allow, Some(6), Some("2001:db8::10/128"), Some("443")),
        rule("dns4", Allow, Some(17), Some("192.0.2.0/24"), Some("53")),
        rule("dns6", Allow, Some(17), Some("2001:db8::/32"), Some("53")),
    ]
}

fn balancer_over(backends: Vec<Backend>) -> Configuration {
    let vips = vec![
        vip("web4", VIP4, 6, 443),
        vip("admin4", VIP4, 6, 8443),
        vip("web6", VIP6, 6, 443),
        vip("dns4", VIP4, 17, 53),
        vip("open4", VIP4, 17, 5353),
        vip("dns6", VIP6, 17, 53),
    ];
    balancer(vips, backends, 4096)
}

impl Chain {
    fn new(backends: Vec<Backend>, reflectors: u16) -> Self {
        Self {
            firewall: build(&firewall(rules(), 4096)).unwrap(),
            balancer: build(&balancer_over(backends)).unwrap(),
            reflectors: (1..=reflectors).map(|n| build(&reflector(n, &[VIP4, VIP6])).unwrap()).collect(),
            wire: VecDeque::new(),
            lose_every: 0,
            duplicate: false,
            dispatched: 0,
            now_us: 1_000_000,
        }
    }

    fn put(&mut self, at: At, frame: &[u8]) {
        self.wire.push_back((self.now_us + HOP_US, at, frame.to_vec()));
    }

    /// One function's turn with a frame.
    fn deliver(&mut self, at: At, mut frame: Vec<u8>, session: &mut Session) {
        let now = self.now_us;
        let (verdict, next): (_, fn(u16) -> At) = match at {
            At::Generator => return session.receive(now, &frame),
            At::Firewall(port) => (self.firewall.process(now, port, &mut frame), |out| {
                if out == 0 { At::Generator } else { At::Balancer(0) }
            }),
            At::Balancer(port) => (self.balancer.process(now, port, &mut frame), |out| {
                if out == 0 { At::Firewall(1) } else { At::Backends }
            }),
            At::Backends => return self.flood_backends(frame),
        };
        if let Verdict::Forward { port } = verdict {
            let lost = next(port) == At::Backends && self.lose_every > 0 && {
                self.dispatched += 1;
                self.dispatched.is_multiple_of(self.lose_every)
            };
            if !lost {
                self.put(next(port), &frame);
            }
        }
    }

    /// A switch that floods: every reflector sees the frame, exactly one may answer.
    fn flood_backends(&mut self, frame: Vec<u8>) {
        let mut answers = vec![];
        for reflector in &mut self.reflectors {
            let mut copy = frame.clone();
            if let Verdict::Forward { .. } = reflector.process(self.now_us, 0, &mut copy) {
                answers.push(copy);
            }
        }
        assert!(answers.len() <= 1, "two backends answered one frame");
        for answer in answers {
            self.put(At::Balancer(1), &answer);
            if self.duplicate {
                self.put(At::Balancer(1), &answer);
            }
        }
    }

    /// Runs a profile to its end, 1 µs per step.
    fn run(&mut self, profile: TrafficProfile) -> TrafficReport {
        let mut session = Session::new(profile, CLIENT_MAC, self.now_us).unwrap();
        let mut buffer = [0; 2048];
        while !session.finished(self.now_us) {
            while let Some(length) = session.next_frame(self.now_us, &mut buffer) {
                self.put(At::Firewall(0), &buffer[..length]);
            }
            while self.wire.front().is_some_and(|(due, ..)| *due <= self.now_us) {
                let (_, at, frame) = self.wire.pop_front().unwrap();
                self.deliver(at, frame, &mut session);
            }
            if self.now_us.is_multiple_of(1000) {
                self.firewall.tick(self.now_us);
                self.balancer.tick(self.now_us);
            }
            self.now_us += 1;
        }
        session.report()
    }

    fn counter(&self, function: &dyn PacketFunction, name: &str) -> u64 {
        let mut out = BTreeMap::new();
        function.counters(&mut out);
        out.get(name).copied().unwrap_or(0)
    }
}

fn group(
    id: &str,
    protocol: u8,
    v4: bool,
    port: u16,
    first: u32,
    count: u32,
    expect: Expectation,
) -> FlowGroup {
    let (source, destination) = if v4 { ("198.51.100.1", VIP4) } else { ("2001:db8:1::1", VIP6) };
    FlowGroup {
        id: id.into(),
        protocol,
        source: ip(source),
        destination: ip(destination),
        destination_port: port,
        first,
        count,
        expect,
    }
}

fn balanced(backends: &[Backend]) -> Expectation {
    Expectation::Balanced { backends: backends.to_vec(), table_size: 65_537 }
}

fn profile(groups: Vec<FlowGroup>) -> TrafficProfile {
    TrafficProfile {
        groups,
        frame_bytes: 200,
        rate_pps: 20_000,
        duration_ms: 100,
        drain_ms: 5,
        next_hop: None,
    }
}

/// Flows per backend, by the balancer's hash computed here.
fn shares(g: &FlowGroup, backends: &[Backend]) -> BTreeMap<u16, u32> {
    let table = maglev::Table::new(backends, 65_537);
    let mut out = BTreeMap::new();
    for n in g.first..g.first + g.count {
        let flow = maglev::FiveTuple {
            source: match g.source {
                std::net::IpAddr::V4(a) => std::net::Ipv4Addr::from_bits(a.to_bits() + n / 16384).into(),
                std::net::IpAddr::V6(a) => {
                    std::net::Ipv6Addr::from_bits(a.to_bits() + u128::from(n / 16384)).into()
                }
            },
            destination: g.destination,
            source_port: 49152 + (n % 16384) as u16,
            destination_port: g.destination_port,
            protocol: g.protocol,
        };
        let index = table.lookup(maglev::flow_hash(&flow)).unwrap();
        *out.entry(backends[index].number).or_default() += 1;
    }
    out
}

fn all_groups(backends: &[Backend]) -> Vec<FlowGroup> {
    vec![
        // Crosses from one source address to the next.
        group("web4", 6, true, 443, 16_350, 100, balanced(backends)),
        group("web6", 6, false, 443, 0, 100, balanced(backends)),
        group("dns4", 17, true, 53, 0, 100, balanced(backends)),
        group("dns6", 17, false, 53, 0, 60, balanced(backends)),
        group("denied4", 6, true, 8443, 0, 20, Expectation::Blocked),
        group("unmatched4", 17, true, 5353, 0, 10, Expectation::Blocked),
        group("unmatched6", 17, false, 5353, 0, 10, Expectation::Blocked),
    ]
}

#[test]
fn every_allowed_flow_comes_back_from_its_backend_and_no_other_frame_does() {
    let backends = vec![backend(1, 1), backend(2, 2), backend(3, 1)];
    let mut chain = Chain::new(backends.clone(), 3);
    let groups = all_groups(&backends);
    let report = chain.run(profile(groups.clone()));

    // 2000 frames over 400 flows: 5 each.
    assert_eq!((report.tx_frames, report.rx_frames, report.loss_ppm), (1800, 1800, 0));
    assert_eq!(report.shortfall_frames, 0);
    for g in &groups {
        let got = &report.groups[&g.id];
        let blocked = g.expect == Expectation::Blocked;
        assert_eq!((got.flows, got.tx_frames), (g.count, u64::from(g.count) * 5), "{}", g.id);
        assert_eq!(got.arrived, if blocked { 0 } else { g.count }, "{}", g.id);
        assert_eq!(got.rx_frames, if blocked { 0 } else { got.tx_frames }, "{}", g.id);
        assert_eq!(got.backends, if blocked { BTreeMap::new() } else { shares(g, &backends) }, "{}", g.id);
        assert_eq!(got.misrouted, 0, "{}", g.id);
    }
    let rtts = (report.latency_p50_us, report.latency_p95_us, report.latency_p99_us, report.jitter_us);
    assert_eq!(rtts, (ROUND_TRIP_US, ROUND_TRIP_US, ROUND_TRIP_US, 0));
    assert_eq!(report.elapsed_us, 99_950);
    // 1800 frames of 204 bytes with FCS in 100 ms.
    assert_eq!(report.throughput_kbps, 1800 * 204 * 8 / 100);
    assert_eq!(report.neighbours, BTreeMap::from([(ip(VIP4), LB_CLIENT_MAC), (ip(VIP6), LB_CLIENT_MAC)]));

    let fw = &*chain.firewall;
    assert_eq!(chain.counter(fw, "rule.no-admin"), 100);
    assert_eq!(chain.counter(fw, "drop.denied"), 100);
    assert_eq!(chain.counter(fw, "drop.no_rule"), 100);
    // Per flow: SYN, SYN-ACK, ACK, 5 probes and their echoes.
    assert_eq!(chain.counter(fw, "rule.web4"), 100 * 13);
    assert_eq!(fw.connections(), 360);
    assert_eq!(chain.balancer.connections(), 360);
    let per_backend: u64 =
        (1..=3).map(|n| chain.counter(&*chain.balancer, &format!("backend_connections.backend-{n}"))).sum();
    assert_eq!(per_backend, 360);
}

#[test]
fn scaling_out_keeps_old_flows_on_their_backend_and_gives_new_ones_to_all() {
    let two = vec![backend(1, 1), backend(2, 1)];
    let four = vec![backend(1, 1), backend(2, 1), backend(3, 1), backend(4, 1)];
    let mut chain = Chain::new(two.clone(), 4);
    let old = vec![
        group("tcp", 6, true, 443, 0, 200, balanced(&two)),
        group("udp", 17, false, 53, 0, 200, balanced(&two)),
    ];
    assert_eq!(chain.run(profile(old.clone())).loss_ppm, 0);

    chain.balancer.reconfigure(&balancer_over(four.clone())).unwrap();
    let new = vec![
        group("new-tcp", 6, true, 443, 200, 200, balanced(&four)),
        group("new-udp", 17, false, 53, 200, 200, balanced(&four)),
    ];
    let report = chain.run(profile([old.clone(), new.clone()].concat()));
    assert_eq!((report.loss_ppm, report.rx_frames), (0, 2000));
    for g in &old {
        assert_eq!(report.groups[&g.id].misrouted, 0, "{}", g.id);
        assert_eq!(report.groups[&g.id].backends, shares(g, &two));
    }
    for g in &new {
        assert_eq!(report.groups[&g.id].misrouted, 0, "{}", g.id);
        assert_eq!(report.groups[&g.id].backends, shares(g, &four));
        assert_eq!(report.groups[&g.id].backends.len(), 4);
    }

    // The check can fail: expecting the new spread of old flows finds those that stayed.
    let wrong = group("tcp", 6, true, 443, 0, 200, balanced(&four));
    let report = chain.run(profile(vec![wrong]));
    assert!((60..140).contains(&report.groups["tcp"].misrouted), "{report:?}");

    // A backend that leaves loses its flows to others, and only it.
    chain.balancer.reconfigure(&balancer_over(four[1..].to_vec())).unwrap();
    let report = chain.run(profile(old.clone()));
    assert_eq!(report.loss_ppm, 0);
    for g in &old {
        let before = shares(g, &two);
        let after = &report.groups[&g.id];
        assert_eq!(after.misrouted, before[&1], "{}", g.id);
        assert!(after.backends[&2] >= before[&2] && !after.backends.contains_key(&1));
    }
}

#[test]
fn loss_and_duplicates_are_counted_exactly() {
    let backends = vec![backend(1, 1), backend(2, 1)];
    let mut chain = Chain::new(backends.clone(), 2);
    chain.lose_every = 10;
    chain.duplicate = true;
    let report = chain.run(profile(vec![group("udp", 17, true, 53, 0, 100, balanced(&backends))]));
    assert_eq!((report.tx_frames, report.rx_frames, report.loss_ppm), (2000, 1800, 100_000));
    // The first lost frame of the 10th, 20th, … flow: all flows still arrive later or not at all.
    assert_eq!(report.groups["udp"].arrived, 90);
}

#[test]
fn a_tcp_flow_that_loses_its_syn_tries_again() {
    let backends = vec![backend(1, 1)];
    let mut chain = Chain::new(backends.clone(), 1);
    chain.lose_every = 7;
    let report = chain.run(profile(vec![group("tcp", 6, false, 443, 0, 100, balanced(&backends))]));
    assert_eq!(report.groups["tcp"].arrived, 100);
    assert!((130_000..160_000).contains(&report.loss_ppm), "{}", report.loss_ppm);
}

#[test]
fn no_backend_and_no_answer_are_no_success() {
    let backends = vec![backend(1, 1)];
    let mut chain = Chain::new(backends.clone(), 0);
    let groups = vec![
        group("tcp", 6, true, 443, 0, 10, balanced(&backends)),
        group("udp", 17, true, 53, 0, 10, balanced(&backends)),
    ];
    let report = chain.run(profile(groups));
    assert_eq!((report.tx_frames, report.rx_frames, report.loss_ppm), (2000, 0, 1_000_000));

    // Nobody answers for the address: nothing is sent, and that is no success either.
    let lonely =
        FlowGroup { destination: ip("192.0.2.77"), ..group("udp", 17, true, 53, 0, 10, balanced(&backends)) };
    let report = chain.run(profile(vec![lonely]));
    assert_eq!((report.tx_frames, report.loss_ppm, report.shortfall_frames), (0, 1_000_000, 2000));
}

#[test]
fn a_hole_in_the_firewall_is_seen() {
    let backends = vec![backend(1, 1), backend(2, 1)];
    let mut chain = Chain::new(backends.clone(), 2);
    let mut holes = rules();
    holes.remove(0);
    holes.push(rule("hole", Allow, Some(17), None, Some("5353")));
    chain.firewall.reconfigure(&firewall(holes, 4096)).unwrap();
    let report = chain.run(profile(all_groups(&backends)));
    assert_eq!((report.groups["denied4"].arrived, report.groups["denied4"].rx_frames), (20, 100));
    assert_eq!(report.groups["unmatched4"].arrived, 10);
    // Not a service of the balancer: it stops there.
    assert_eq!(report.groups["unmatched6"].arrived, 0);
    assert_eq!(report.tx_frames, 1800);
}

#[test]
fn a_chain_without_a_balancer_resolves_at_the_reflector() {
    let mut fw = build(&firewall(rules(), 64)).unwrap();
    let mut end = build(&reflector(9, &[VIP4, VIP6])).unwrap();
    let only = vec![backend(9, 1)];
    let groups = vec![
        group("t", 6, false, 443, 0, 5, balanced(&only)),
        group("u", 17, true, 53, 0, 5, balanced(&only)),
    ];
    let mut session = Session::new(profile(groups), CLIENT_MAC, 0).unwrap();
    let mut buffer = [0; 2048];
    let mut now = 0;
    while !session.finished(now) {
        while let Some(length) = session.next_frame(now, &mut buffer) {
            let frame = &mut buffer[..length].to_vec();
            let Verdict::Forward { port: 1, .. } = fw.process(now, 0, frame) else {
                panic!("dropped on the way")
            };
            if let Verdict::Forward { .. } = end.process(now, 0, frame) {
                let Verdict::Forward { port: 0, .. } = fw.process(now, 1, frame) else {
                    panic!("dropped on the way back")
                };
                session.receive(now, frame);
            }
        }
        now += 50;
    }
    let report = session.report();
    assert_eq!((report.rx_frames, report.loss_ppm), (2000, 0));
    assert_eq!(report.neighbours[&ip(VIP6)], backend_mac(9));
    assert!(matches!(reflector(9, &[VIP4]).function, Function::Reflector(_)));
    assert_eq!(MacAddr([2, 0, 0, 3, 0, 9]), backend_mac(9));
}
