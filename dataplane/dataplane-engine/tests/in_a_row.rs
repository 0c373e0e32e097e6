//! A chain decides as its functions do when they are joined by hand, frame by frame and in bursts; and is configured as a whole.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use dataplane_control::Configuration;
use dataplane_engine::{PacketFunction, Verdict, build};
use serde_json::json;

const VIP: [u8; 4] = [192, 0, 2, 10];
const LINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const BACKEND_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];

fn configuration(ports: &[(&str, u8)], function: serde_json::Value) -> Configuration {
    let port = |(name, last): &(&str, u8)| json!({ "name": name, "driver": { "null": {} }, "mac": format!("02:00:00:00:00:{last:02x}") });
    let ports: Vec<_> = ports.iter().map(port).collect();
    let document = json!({ "instance": "i", "generation": 1, "ports": ports, "function": function });
    Configuration::parse(&serde_json::to_vec(&document).unwrap()).unwrap()
}

/// Room for all: in a full table it shows which frames of a burst are decided on first.
fn firewall(allowed: &str) -> serde_json::Value {
    json!({ "firewall": { "outside": "wan", "inside": "dmz", "other_idle_ms": 50, "max_connections": 512, "rules": [
        { "id": "dns", "from": "wan", "action": "allow", "protocol": 17, "destination_ports": allowed },
    ] } })
}

fn balancer() -> serde_json::Value {
    json!({ "load_balancer": { "client": "dmz", "backend": "lan", "table_size": 13, "max_connections": 512, "idle_ms": 70,
        "vips": [{ "id": "dns", "address": "192.0.2.10", "protocol": 17, "port": 53 }],
        "backends": [{ "id": "a", "number": 1, "mac": "02:00:00:00:01:01", "weight": 1 },
                     { "id": "b", "number": 2, "mac": "02:00:00:00:01:02", "weight": 2 }] } })
}

fn chain(allowed: &str) -> Configuration {
    let links = json!([{ "name": "dmz", "mac": "02:00:00:00:00:03" }]);
    let function = json!({ "chain": { "links": links, "functions": [firewall(allowed), balancer()] } });
    // Not in the order of the row.
    configuration(&[("lan", 4), ("wan", 1)], function)
}
const LAN: u16 = 0;
const WAN: u16 = 1;

/// The same functions, joined by hand.
struct Pair {
    firewall: Box<dyn PacketFunction>,
    balancer: Box<dyn PacketFunction>,
}

impl Pair {
    fn new() -> Self {
        let firewall = build(&configuration(&[("wan", 1), ("dmz", 3)], firewall("50-60"))).unwrap();
        let balancer = build(&configuration(&[("dmz", 3), ("lan", 4)], balancer())).unwrap();
        Self { firewall, balancer }
    }

    fn process(&mut self, now_us: u64, ingress: u16, frame: &mut Vec<u8>) -> Verdict {
        let (mut at_firewall, mut port) = if ingress == WAN { (true, 0) } else { (false, 1) };
        loop {
            let function = if at_firewall { &mut self.firewall } else { &mut self.balancer };
            let Verdict::Forward { port: out } = function.process(now_us, port, frame) else {
                return Verdict::Drop(dataplane_engine::DropReason::Untracked);
            };
            match (at_firewall, out) {
                (true, 0) => return Verdict::Forward { port: WAN },
                (false, 1) => return Verdict::Forward { port: LAN },
                (true, _) => (at_firewall, port) = (false, 0),
                (false, _) => (at_firewall, port) = (true, 1),
            }
        }
    }
}

fn udp(macs: ([u8; 6], [u8; 6]), source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&46_u16.to_be_bytes());
    ip.extend(source.iter().chain(&destination));
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&macs.0[..], &macs.1, &[8, 0], &ip].concat();
    for word in [ports.0, ports.1, 26, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.resize(60, 7);
    frame
}

fn who_has(address: [u8; 4]) -> Vec<u8> {
    let client = [2, 0, 0, 0, 9, 9];
    let mut frame =
        [&[0xff; 6][..], &client, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &client, &[198, 51, 100, 7]].concat();
    frame.extend([0; 6].iter().chain(&address));
    frame.resize(60, 0);
    frame
}

/// Something that may pass, be answered or be dropped, from either side.
fn frame(random: &mut impl FnMut(u32) -> u32) -> (u16, Vec<u8>) {
    let client = [198, 51, 100, random(6) as u8];
    let port = 1000 + random(6) as u16;
    let service = [53, 53, 53, 55, 80][random(5) as usize];
    match random(10) {
        0 => (WAN, who_has(VIP)),
        1 => (LAN, who_has([198, 51, 100, 1])),
        2..=6 => (WAN, udp((LINK_MAC, [2, 0, 0, 0, 9, 9]), client, VIP, (port, service))),
        _ => {
            let from = BACKEND_MACS[random(2) as usize];
            (LAN, udp(([2, 0, 0, 0, 0, 4], from), VIP, client, (service, port)))
        }
    }
}

fn random(seed: u64) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as u32) % below
    }
}

fn port_of(verdict: Verdict) -> Option<u16> {
    match verdict {
        Verdict::Forward { port } => Some(port),
        Verdict::Drop(_) => None,
    }
}

#[test]
fn a_chain_is_its_functions_joined_by_hand() {
    for bursts in [false, true] {
        let (mut row, mut pair) = (build(&chain("50-60")).unwrap(), Pair::new());
        let mut random = random(7);
        let (mut now_us, mut outcomes) = (0, BTreeMap::new());
        for _ in 0..3_000 {
            now_us += u64::from(random(4_000));
            // One side's frames, as they come to a port together; more than go through at once.
            let ingress = [LAN, WAN][random(2) as usize];
            let count = if bursts { 1 + random(100) as usize } else { 1 };
            let mut frames: Vec<Vec<u8>> = std::iter::repeat_with(|| frame(&mut random))
                .filter(|(from, _)| *from == ingress)
                .map(|(_, frame)| frame)
                .take(count)
                .collect();
            let mut expected = frames.clone();
            let wanted: Vec<Option<u16>> =
                expected.iter_mut().map(|f| port_of(pair.process(now_us, ingress, f))).collect();
            let mut verdicts = vec![Verdict::Forward { port: 99 }; frames.len()];
            match bursts {
                true => row.burst(now_us, ingress, &mut frames, &mut verdicts),
                false => verdicts[0] = row.process(now_us, ingress, &mut frames[0]),
            }
            let got: Vec<Option<u16>> = verdicts.into_iter().map(port_of).collect();
            assert_eq!(got, wanted, "{bursts} at {now_us} µs from {ingress}");
            for ((frame, same), to) in frames.iter().zip(&expected).zip(&got) {
                assert!(to.is_none() || frame == same);
                *outcomes.entry((ingress, *to)).or_insert(0) += 1;
            }
            row.tick(now_us);
            pair.firewall.tick(now_us);
            pair.balancer.tick(now_us);
            assert_eq!(row.connections(), pair.firewall.connections() + pair.balancer.connections());
        }
        // Passed, answered and dropped, from both sides.
        for case in [(WAN, Some(LAN)), (WAN, Some(WAN)), (WAN, None), (LAN, Some(WAN)), (LAN, None)] {
            assert!(outcomes.get(&case).is_some_and(|n| *n > 20), "{case:?} in {outcomes:?}");
        }
        let (mut counters, mut sums) = (BTreeMap::new(), BTreeMap::new());
        row.counters(&mut counters);
        for part in [&pair.firewall, &pair.balancer] {
            let mut own = BTreeMap::new();
            part.counters(&mut own);
            own.into_iter().for_each(|(name, n)| *sums.entry(name).or_insert(0) += n);
        }
        assert_eq!(counters, sums);
    }
}

#[test]
fn a_chain_is_configured_as_a_whole() {
    let mut row = build(&chain("53")).unwrap();
    let ask = |row: &mut Box<dyn PacketFunction>, at| {
        let mut frame = udp((LINK_MAC, [2, 0, 0, 0, 9, 9]), [198, 51, 100, 1], VIP, (1, 53));
        port_of(row.process(at, WAN, &mut frame))
    };
    assert_eq!(ask(&mut row, 1), Some(LAN));
    let early = row.basis().prepare(&chain("53")).unwrap();
    row.reconfigure(&chain("80")).unwrap();
    assert_eq!(ask(&mut row, 2), None, "revoked");
    assert!(row.swap(early).is_err(), "prepared before");
    row.reconfigure(&chain("53")).unwrap();
    assert_eq!(ask(&mut row, 3), Some(LAN));
    let alone = configuration(&[("wan", 1), ("dmz", 3)], firewall("53"));
    assert!(row.reconfigure(&alone).is_err(), "another function");
    let alone = build(&alone).unwrap();
    assert!(
        row.swap(alone.basis().prepare(&configuration(&[("wan", 1), ("dmz", 3)], firewall("53"))).unwrap())
            .is_err()
    );
    assert_eq!(ask(&mut row, 4), Some(LAN));
}

#[test]
fn a_backend_is_left_out_within_the_row() {
    let mut row = build(&chain("53")).unwrap();
    let mut port = 1000;
    // How many of 64 new connections each backend gets.
    let mut given = |row: &mut Box<dyn PacketFunction>| {
        BACKEND_MACS.map(|mac| {
            let to_it = (0..64).filter(|_| {
                port += 1;
                let macs = (LINK_MAC, [2, 0, 0, 0, 9, 9]);
                let mut frame = udp(macs, [198, 51, 100, 1], VIP, (port, 53));
                row.process(0, WAN, &mut frame) == Verdict::Forward { port: LAN } && frame[..6] == mac
            });
            to_it.count()
        })
    };
    let [a, b] = given(&mut row);
    assert!(a > 5 && b > 5, "{a} {b}");
    let down = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let before = row.basis().prepare(&chain("80")).unwrap();
    let without_a = row.basis().prepare_health(1, &down(&["a"])).unwrap();
    let _ = row.swap(without_a).unwrap();
    assert_eq!(given(&mut row), [0, 64]);
    // What was prepared before that changes nothing, of the firewall neither; what comes after it keeps to it.
    assert!(row.swap(before).is_err());
    assert_eq!(given(&mut row), [0, 64]);
    row.reconfigure(&chain("80")).unwrap();
    assert_eq!(given(&mut row), [0, 0]);
    row.reconfigure(&chain("50-60")).unwrap();
    assert_eq!(given(&mut row), [0, 64]);
    let all_up = row.basis().prepare_health(1, &down(&[])).unwrap();
    let _ = row.swap(all_up).unwrap();
    let [a, b] = given(&mut row);
    assert!(a > 5 && b > 5, "{a} {b}");
    for index in [0, 2] {
        assert!(row.basis().prepare_health(index, &down(&["a"])).is_err(), "{index} is no balancer");
    }
}

/// Of two balancers both are told when one has a backend down: what was prepared before that is refused before anything of it runs.
#[test]
fn what_was_prepared_before_a_backend_went_is_refused_by_both_balancers() {
    // The backends of the first are the second, by its address on the link.
    let two = |number: u8| {
        let mut first = balancer();
        first["load_balancer"]["backend"] = json!("mid");
        first["load_balancer"]["backends"] = json!([{ "id": format!("n{number}"), "number": number, "mac": format!("02:00:00:00:00:{:02x}", 4 + number), "weight": 1 }]);
        let mut second = balancer();
        second["load_balancer"]["client"] = json!("mid");
        let links = json!([{ "name": "dmz", "mac": "02:00:00:00:00:03" }, { "name": "mid", "mac": "02:00:00:00:00:05" }]);
        let functions = json!([firewall("53"), first, second]);
        configuration(
            &[("lan", 4), ("wan", 1)],
            json!({ "chain": { "links": links, "functions": functions } }),
        )
    };
    let mut row = build(&two(1)).unwrap();
    let first_counts = |row: &dyn PacketFunction, id: &str| {
        let mut counters = BTreeMap::new();
        row.snapshot().counters(&mut counters);
        counters.contains_key(&format!("backend.{id}"))
    };
    assert!(first_counts(&*row, "n1") && !first_counts(&*row, "n2"));
    let before = row.basis().prepare(&two(2)).unwrap();
    let without_a = row.basis().prepare_health(2, &["a".to_owned()].into()).unwrap();
    let _ = row.swap(without_a).unwrap();
    assert!(row.swap(before).is_err());
    assert!(first_counts(&*row, "n1") && !first_counts(&*row, "n2"), "half of it runs");
}
