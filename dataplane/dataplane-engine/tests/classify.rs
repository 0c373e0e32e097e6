//! The compiled rules against the list: every decision is that of the first rule, in the configuration's own form, all of whose
//! conditions hold.
//!
//! Rule sets of many shapes, IPv4 and IPv6 mixed, and connections at the edges of their rules; sets made to explode; and that a
//! rule changes nothing for what it does not match.
// Helpers outside of #[test] functions; small values.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use dataplane_control::config::{
    Firewall, IcmpMatch, Limit, LimitPer, PortRange, Prefix, Rule, RuleAction, TcpFlags, Zone,
};
use dataplane_engine::{
    Plain, Side,
    rules::{Decision, Flow, NewConnection, Rules},
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const PORTS: [&str; 2] = ["outside", "inside"];
const ZONES: [(&str, &str, &[u16]); 5] = [
    ("red", "outside", &[0, 10]),
    ("green", "outside", &[20, 21, 22]),
    ("rest", "outside", &[]),
    ("blue", "inside", &[10, 20]),
    ("grey", "inside", &[30]),
];

fn zones() -> Vec<Zone> {
    let zone = |(id, port, vlans): (&str, &str, &[u16])| Zone {
        id: id.into(),
        port: port.into(),
        vlans: vlans.to_vec(),
    };
    ZONES.map(zone).into()
}

fn firewall(rules: Vec<Rule>) -> Firewall {
    Firewall {
        outside: "outside".into(),
        inside: "inside".into(),
        zones: zones(),
        rules,
        ..Firewall::default()
    }
}

fn compiled(rules: &[Rule]) -> Rules {
    Rules::compile(&firewall(rules.to_vec())).unwrap()
}

/// What the fields of a set's rules are drawn from.
#[derive(Debug, Clone)]
struct Shape {
    /// Bits in which the addresses of a set differ, from the first.
    address_bits: u32,
    lengths: Vec<u8>,
    any_address: usize,
    v6: usize,
    exact_ports: bool,
    any_port: usize,
    /// How often other conditions are there, one in so many rules.
    extras: usize,
}

fn shape(random: &mut Random) -> Shape {
    let lengths: [&[u8]; 6] = [
        &[0, 8, 16, 24, 32],
        &[32],
        &[16],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 31, 32],
        &[20, 24, 28, 32],
        &[12, 13, 14],
    ];
    Shape {
        address_bits: random.of(&[2, 8, 12, 16, 32]),
        lengths: random.of(&lengths).to_vec(),
        any_address: random.of(&[1, 2, 3, 10]),
        v6: random.of(&[1, 2, 3, 1000]),
        exact_ports: random.one_in(2),
        any_port: random.of(&[1, 2, 4]),
        extras: random.of(&[2, 5, 1000]),
    }
}

/// An address whose bits differ from others' in the shape's highest bits, and at random in the rest.
fn bits(random: &mut Random, shape: &Shape) -> u128 {
    let wide = u128::from(random.next()) << 64 | u128::from(random.next());
    let few = [0, 0xff00_0000_0000_0000_0000_0000_0000_0000, 0x1234 << 64];
    let base = if random.one_in(3) { random.of(&few) } else { wide };
    let keep = u128::MAX << (128 - shape.address_bits);
    (base & keep) | (random.of(&[0, u128::MAX, wide]) & !keep)
}

fn prefix(random: &mut Random, shape: &Shape, v6: bool) -> Option<Prefix> {
    if random.one_in(shape.any_address) {
        return None;
    }
    let (bits, length) = (bits(random, shape), random.of(&shape.lengths));
    let length = if v6 { length * random.of(&[1, 2, 4]) } else { length };
    let network = bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Some(Prefix { address: address(network, v6), length })
}

/// The first bits of 128; never an IPv4-mapped IPv6 address, which the parser refuses.
fn address(bits: u128, v6: bool) -> IpAddr {
    match (v6, bits >> 32) {
        (false, _) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        (true, 0xffff) => Ipv6Addr::from_bits(bits | 1 << 127).into(),
        (true, _) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn range(random: &mut Random, shape: &Shape) -> Option<PortRange> {
    if random.one_in(shape.any_port) {
        return None;
    }
    let a = random.of(&[0, 1, 53, 80, 443, 1023, 1024, 8080, 65_534, 65_535, random.0 as u16]);
    let b = if shape.exact_ports { a } else { random.of(&[a, a.saturating_add(1), 65_535, 2000, 5]) };
    Some(PortRange { first: a.min(b), last: a.max(b) })
}

fn any_rule(random: &mut Random, shape: &Shape) -> Rule {
    let v6 = random.one_in(shape.v6);
    let protocol =
        random.of(&[None, Some(6), Some(6), Some(17), Some(if v6 { 58 } else { 1 }), Some(132), Some(47)]);
    let ported = matches!(protocol, Some(6 | 17 | 132));
    let far = random.one_in(4);
    let place = |random: &mut Random, port: &str, n: usize| {
        let named: Vec<&str> = ZONES.iter().filter(|z| z.1 == port).map(|z| z.0).collect();
        if random.one_in(n) { random.of(&named).to_owned() } else { port.to_owned() }
    };
    let (near, other) = if far { (PORTS[1], PORTS[0]) } else { (PORTS[0], PORTS[1]) };
    let extra = |random: &mut Random| random.one_in(shape.extras);
    let action = random.of(&[RuleAction::Allow, RuleAction::Deny, RuleAction::Reject]);
    Rule {
        id: String::new(),
        from: place(random, near, shape.extras),
        to: extra(random).then(|| place(random, other, 2)),
        action,
        protocol,
        source: prefix(random, shape, v6),
        destination: prefix(random, shape, v6),
        source_ports: range(random, shape).filter(|_| ported),
        destination_ports: range(random, shape).filter(|_| ported),
        icmp: (extra(random) && matches!(protocol, Some(1 | 58))).then(|| IcmpMatch {
            kind: random.of(&[0, 8, 13, 128, 255]),
            code: random.of(&[None, Some(0), Some(1), Some(255)]),
        }),
        tcp_flags: (extra(random) && protocol == Some(6)).then(|| {
            let mask = random.of(&[0, 2, 0x12, 0xff, 0xc2]);
            TcpFlags { value: random.of(&[2, 0x12, 0xc2, 0]) & mask, mask }
        }),
        log: extra(random),
        limit: (extra(random) && action != RuleAction::Deny).then_some(Limit {
            rate_per_second: 10,
            burst: 1,
            per: LimitPer::Source,
        }),
    }
}

fn rule_set(random: &mut Random, shape: &Shape, count: usize) -> Vec<Rule> {
    let mut rules: Vec<Rule> = (0..count).map(|_| any_rule(random, shape)).collect();
    // A wide one in front would leave little to decide.
    rules.sort_by_key(|r| r.source.is_none() && r.destination.is_none());
    if random.one_in(3) {
        rules.reverse();
    }
    (0..).zip(&mut rules).for_each(|(n, rule): (u32, &mut Rule)| rule.id = format!("r{n}"));
    rules
}

/// At an edge of a rule, inside, or right outside of it, field by field.
fn any_flow(random: &mut Random, rules: &[Rule], shape: &Shape) -> (Flow, Side) {
    let rule = &rules[random.below(rules.len())];
    let other = &rules[random.below(rules.len())];
    let v6 = [rule.source, rule.destination]
        .into_iter()
        .flatten()
        .next()
        .map_or(random.one_in(2), |p| p.address.is_ipv6());
    let port = |random: &mut Random, range: Option<PortRange>| match range {
        Some(r) => random.of(&[
            r.first,
            r.last,
            r.first.wrapping_sub(1),
            r.last.wrapping_add(1),
            r.first / 2 + r.last / 2,
        ]),
        None => random.next() as u16,
    };
    let end = |random: &mut Random, a: Option<Prefix>, b: Option<Prefix>| {
        let prefix = if random.one_in(5) { b.or(a) } else { a };
        let network = prefix.filter(|p| p.address.is_ipv6() == v6).map(|p| (first_bits(p.address), p.length));
        let Some((network, length)) = network else { return address(bits(random, shape), v6) };
        let hosts = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        let wide = u128::from(random.next()) << 64 | u128::from(random.next());
        let inside = network | random.of(&[0, u128::MAX, wide]) & hosts;
        // Now and then right outside.
        let flip = (1_u128 << 127).checked_shr(u32::from(length).wrapping_sub(1)).unwrap_or(0);
        address(if random.one_in(6) { inside ^ flip } else { inside }, v6)
    };
    let (source, destination) =
        (end(random, rule.source, other.source), end(random, rule.destination, other.destination));
    let protocol = match rule.protocol {
        Some(p) if !random.one_in(8) => p,
        _ => random.of(&[6, 17, if v6 { 58 } else { 1 }, 132, 50]),
    };
    let icmp = rule.icmp.map_or((8, 0), |i| (i.kind, i.code.unwrap_or(7)));
    let flags = rule.tcp_flags.map_or(2, |f| f.value | random.next() as u8 & !f.mask);
    let flow = Flow {
        source: (source, port(random, rule.source_ports)),
        destination: (destination, port(random, rule.destination_ports)),
        protocol,
        vlans: (random.of(&[0, 0, 10, 20, 21, 30, 4094]), random.of(&[0, 10])),
        icmp: random.of(&[icmp, (icmp.0, icmp.1 ^ 1), (8, 0)]),
        tcp_flags: random.of(&[flags, flags, 2, 0x12]),
    };
    let far = rule.from == "inside" || ZONES.iter().any(|z| z.0 == rule.from && z.1 == "inside");
    (flow, if far ^ random.one_in(10) { Side::Far } else { Side::Near })
}

/// All 128 bits, an IPv4 address in the first.
fn first_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Whether a port's zone, or the port, has a frame with this outer VLAN.
fn is_at(name: &str, port: &str, vlan: u16) -> bool {
    let of = |z: &&(&str, &str, &[u16])| z.1 == port && z.2.contains(&vlan);
    let rest = |z: &&(&str, &str, &[u16])| z.1 == port && z.2.is_empty();
    let zone = ZONES.iter().find(of).or(ZONES.iter().find(rest)).map(|z| z.0);
    name == port || zone == Some(name)
}

fn has(prefix: Option<Prefix>, address: IpAddr) -> bool {
    prefix.is_none_or(|p| {
        p.address.is_ipv4() == address.is_ipv4()
            && (p.length == 0 || (first_bits(p.address) ^ first_bits(address)) >> (128 - p.length) == 0)
    })
}

/// A rule's conditions, one by one as the documentation has them.
fn matches(rule: &Rule, flow: &Flow, side: Side) -> bool {
    let (here, there) = if side == Side::Near { (PORTS[0], PORTS[1]) } else { (PORTS[1], PORTS[0]) };
    let ports =
        |range: Option<PortRange>, port: u16| range.is_none_or(|r| (r.first..=r.last).contains(&port));
    is_at(&rule.from, here, flow.vlans.0)
        && rule.to.as_ref().is_none_or(|to| is_at(to, there, flow.vlans.0))
        && rule.protocol.is_none_or(|p| p == flow.protocol)
        && has(rule.source, flow.source.0)
        && has(rule.destination, flow.destination.0)
        && ports(rule.source_ports, flow.source.1)
        && ports(rule.destination_ports, flow.destination.1)
        && rule.icmp.is_none_or(|i| i.kind == flow.icmp.0 && i.code.is_none_or(|c| c == flow.icmp.1))
        && rule.tcp_flags.is_none_or(|f| flow.tcp_flags & f.mask == f.value)
}

/// Index, action, log, limited.
type Expected = (Option<u32>, RuleAction, bool, bool);

fn expected(rules: &[Rule], flow: &Flow, side: Side) -> Expected {
    let found = (0..).zip(rules).find(|(_, rule)| matches(rule, flow, side));
    found.map_or((None, RuleAction::Deny, false, false), |(n, r)| {
        (Some(n), r.action, r.log, r.limit.is_some())
    })
}

fn got(decision: Decision) -> Expected {
    (decision.rule(), decision.action(), decision.log(), decision.limited())
}

/// Compares, one by one and as a burst; how many connections a rule was found for.
fn compare(rules: &[Rule], compiled: &Rules, flows: &[(Flow, Side)]) -> usize {
    let mut found = 0;
    for side in [Side::Near, Side::Far] {
        let mine: Vec<&Flow> = flows.iter().filter(|f| f.1 == side).map(|f| &f.0).collect();
        let new: Vec<NewConnection> = mine.iter().map(|f| NewConnection::from_flow(f, side)).collect();
        let mut all = vec![Decision::DEFAULT; new.len()];
        compiled.decide_all::<Plain>(side, &new, &mut all);
        for ((flow, new), in_burst) in mine.iter().zip(&new).zip(all) {
            let expected = expected(rules, flow, side);
            assert_eq!(got(compiled.decide(new, side)), expected, "{flow:?} {side:?}");
            assert_eq!(got(in_burst), expected, "{flow:?} {side:?}, in a burst");
            found += usize::from(expected.0.is_some());
        }
    }
    found
}

/// Rule sets and connections of a seed, until so many pairs of rule and connection were compared.
fn compare_seed(seed: u64, pairs: usize) {
    let mut random = Random(seed);
    let (mut done, mut connections, mut found) = (0, 0, 0);
    while done < pairs {
        let shape = shape(&mut random);
        let count = random.of(&[1, 2, 5, 20, 100, 400]);
        let rules = rule_set(&mut random, &shape, count);
        let flows: Vec<_> = (0..300).map(|_| any_flow(&mut random, &rules, &shape)).collect();
        found += compare(&rules, &compiled(&rules), &flows);
        connections += flows.len();
        done += rules.len() * flows.len();
    }
    // The generator must not miss all rules, nor always hit.
    assert!(found * 10 > connections && found * 100 < connections * 99, "{found} of {connections}");
}

#[test]
fn decides_as_the_list() {
    for seed in 0..4 {
        compare_seed(seed, 1_000_000);
    }
}

#[test]
fn decides_as_a_long_list() {
    let mut random = Random(7);
    for count in [3_000, 10_000] {
        let shape = Shape { address_bits: 32, any_address: 4, ..shape(&mut random) };
        let rules = rule_set(&mut random, &shape, count);
        let flows: Vec<_> = (0..1000).map(|_| any_flow(&mut random, &rules, &shape)).collect();
        compare(&rules, &compiled(&rules), &flows);
    }
}

#[test]
fn a_rule_changes_nothing_for_what_it_does_not_match() {
    let mut random = Random(11);
    for _ in 0..60 {
        let shape = shape(&mut random);
        let mut rules = rule_set(&mut random, &shape, 40);
        let flows: Vec<_> = (0..60).map(|_| any_flow(&mut random, &rules, &shape)).collect();
        let new = |(flow, side): &(Flow, Side)| NewConnection::from_flow(flow, *side);
        let ids = |rules: &[Rule], compiled: &Rules| -> Vec<Option<String>> {
            let id =
                |f: &(Flow, Side)| compiled.decide(&new(f), f.1).rule().map(|n| rules[n as usize].id.clone());
            flows.iter().map(id).collect()
        };
        let before = ids(&rules, &compiled(&rules));
        let at = random.below(rules.len() + 1);
        rules.insert(at, Rule { id: "added".into(), ..any_rule(&mut random, &shape) });
        let after = ids(&rules, &compiled(&rules));
        for (((flow, side), before), after) in flows.iter().zip(before).zip(after) {
            if !matches(&rules[at], flow, *side) {
                assert_eq!(after, before, "{flow:?}");
            } else if after != before {
                assert_eq!(after.as_deref(), Some("added"), "{flow:?}");
            }
        }
    }
}

fn wide(n: usize) -> Rule {
    Rule { id: format!("r{n}"), from: "outside".into(), action: RuleAction::Allow, ..Rule::default() }
}

fn ports(first: usize, last: usize) -> Option<PortRange> {
    Some(PortRange { first: first.min(65_535) as u16, last: last.min(65_535) as u16 })
}

/// Sets whose rules overlap as much as they can: what a set of cuts repeats most.
fn hostile(kind: usize, count: usize) -> Vec<Rule> {
    let mut random = Random(kind as u64);
    let rule = |n: usize| {
        let (a, b) = (random.below(65_536), random.below(65_536));
        let net = |bits: u32, length: u8| {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Some(Prefix { address: Ipv4Addr::from_bits(bits & mask).into(), length })
        };
        let udp = Rule { protocol: Some(17), ..wide(n) };
        match kind {
            // One prefix, other ports.
            0 => Rule { destination: net(0xc000_0200, 24), destination_ports: ports(a, a), ..udp },
            // Ranges of both ports that all overlap; addresses are any.
            1 => Rule {
                source_ports: ports(a / 2, 32_768 + a / 2),
                destination_ports: ports(b / 2, 32_768 + b / 2),
                ..udp
            },
            // Nested ranges, the widest last.
            2 => Rule { destination_ports: ports(32_768 - n.min(32_768), 32_768 + n), ..udp },
            // A cross of each source with each destination.
            3 if n.is_multiple_of(2) => Rule { source: net(a as u32 * 65_537, 32), ..wide(n) },
            3 => Rule { destination: net(b as u32 * 65_537, 32), ..wide(n) },
            // All the same.
            4 => udp,
            // In every field, by turns: prefixes of every length.
            5 => Rule {
                source: net(random.next() as u32, (n % 33) as u8),
                destination: net(random.next() as u32, (n / 33 % 33) as u8),
                ..wide(n)
            },
            // Flags, which no cut looks at.
            6 => {
                let mask = (n % 255) as u8;
                let flags = TcpFlags { value: random.next() as u8 & mask, mask };
                Rule { protocol: Some(6), tcp_flags: Some(flags), source_ports: ports(a, 65_535), ..wide(n) }
            }
            // IPv6 hosts that differ in their last bits only, wide on the other end.
            _ => Rule {
                source: Some(Prefix {
                    address: Ipv6Addr::from_bits(0x2001 << 112 | n as u128).into(),
                    length: 128,
                }),
                source_ports: ports(a, 65_535),
                destination_ports: ports(0, b),
                ..udp
            },
        }
    };
    (0..count).map(rule).collect()
}

#[test]
fn no_set_of_rules_explodes() {
    for kind in 0..8 {
        let rules = hostile(kind, 5_000);
        let start = Instant::now();
        let compiled = compiled(&rules);
        let took = start.elapsed();
        assert!(compiled.bytes() <= 4096 * rules.len(), "{kind}: {} bytes", compiled.bytes());
        assert!(took < Duration::from_secs(20), "{kind}: {took:?}");
        let mut random = Random(kind as u64);
        let shape = shape(&mut random);
        let flows: Vec<_> = (0..200).map(|_| any_flow(&mut random, &rules, &shape)).collect();
        compare(&rules, &compiled, &flows);
    }
}

#[test]
fn limits_are_found_by_rule() {
    let limit = Limit { rate_per_second: 5, burst: 2, per: LimitPer::Rule };
    let rules = [wide(0), Rule { limit: Some(limit), ..wide(1) }, Rule { limit: Some(limit), ..wide(2) }];
    assert_eq!(compiled(&rules).limits(), [(1, limit), (2, limit)]);
}
