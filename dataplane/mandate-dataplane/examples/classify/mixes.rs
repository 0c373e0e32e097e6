//! Rule sets as ClassBench's seeds have them (Taylor, Turner: ClassBench, 2007), and connections that they are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_control::config::{PortRange, Prefix, Rule, RuleAction};
use dataplane_engine::rules::Flow;

/// A kind of rule set.
pub struct Mix {
    pub name: &'static str,
    pub v6: bool,
    pub rules: fn(usize) -> Vec<Rule>,
}

pub const ALL: &[Mix] = &[
    // As the fixture of dataplane-bench: destinations of all sizes at random, half of the sources any.
    Mix { name: "services", v6: false, rules: services },
    // As an access list: both addresses from trees of networks within networks.
    Mix { name: "nested", v6: false, rules: |count| nested(count, false) },
    Mix { name: "nested-v6", v6: true, rules: |count| nested(count, true) },
    // As a firewall's: few networks, many that are any, ranges of both ports.
    Mix { name: "wild", v6: false, rules: wild },
];

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

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// So many times of a hundred.
    fn percent(&mut self, of_100: usize) -> bool {
        self.below(100) < of_100
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

const SERVICES: [u16; 12] = [22, 25, 53, 80, 110, 123, 143, 443, 993, 1521, 3306, 8080];

fn prefix(bits: u128, length: u8, v6: bool) -> Prefix {
    let network = bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Prefix { address: address(network, v6), length }
}

/// The first bits of 128.
fn address(bits: u128, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits((bits >> 96) as u32).into() }
}

fn first_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn range(first: usize, width: usize) -> Option<PortRange> {
    let port = |n: usize| n.min(65_535) as u16;
    Some(PortRange { first: port(first), last: port(first + width) })
}

fn numbered(count: usize, mut one: impl FnMut(usize) -> Rule) -> Vec<Rule> {
    let rule = |n| Rule { id: format!("r{n}"), from: "outside".into(), ..one(n) };
    (0..count).map(rule).collect()
}

fn services(count: usize) -> Vec<Rule> {
    let mut random = Random(count as u64);
    numbered(count, |n| {
        let first = random.of(&[22, 53, 80, 123, 443, 1024, 5060, 8080, 8443]);
        let width = if random.below(3) == 0 { random.below(2000) } else { 0 };
        let net = |random: &mut Random, first_octet: u128, lengths: &[u8]| {
            prefix(first_octet << 120 | random.wide() >> 8, random.of(lengths), false)
        };
        Rule {
            source: random.percent(50).then(|| net(&mut random, 10, &[8, 12, 16])),
            destination: Some(net(&mut random, 172, &[16, 20, 22, 24, 24, 24, 28, 32])),
            destination_ports: range(first, width),
            protocol: Some(if n.is_multiple_of(2) { 6 } else { 17 }),
            action: if random.percent(90) { RuleAction::Allow } else { RuleAction::Deny },
            ..Rule::default()
        }
    })
}

/// Networks, most of them in one before.
fn tree(random: &mut Random, count: usize, v6: bool) -> Vec<Prefix> {
    let mut all: Vec<Prefix> = Vec::new();
    let scale = if v6 { 2 } else { 1 };
    for _ in 0..count {
        let within = if all.is_empty() || random.percent(40) { None } else { Some(random.of(&all)) };
        let (bits, length) = match within {
            Some(p) => {
                let hosts = u128::MAX.checked_shr(u32::from(p.length)).unwrap_or(0);
                (first_bits(p.address) | random.wide() & hosts, p.length + scale * random.of(&[1, 2, 4, 8]))
            }
            None if v6 => (0x2001 << 112 | random.wide() >> 16, random.of(&[32, 40, 48, 48, 56, 64])),
            None => (random.wide() >> 1, random.of(&[12, 16, 16, 20, 24])),
        };
        all.push(prefix(bits, length.min(if v6 { 128 } else { 32 }), v6));
    }
    all
}

fn nested(count: usize, v6: bool) -> Vec<Rule> {
    let mut random = Random(count as u64);
    let sources = tree(&mut random, count / 4 + 4, v6);
    let destinations = tree(&mut random, count / 3 + 4, v6);
    numbered(count, |_| {
        let protocol = random.of(&[Some(6), Some(6), Some(6), Some(17), Some(17), Some(1), None]);
        let ported = matches!(protocol, Some(6 | 17));
        let destination_ports = match random.below(20) {
            _ if !ported => None,
            0..=5 => None,
            6..=13 => range(usize::from(random.of(&SERVICES)), 0),
            14..=16 => range(1024, 65_535),
            _ => range(random.below(65_000), random.below(500)),
        };
        let narrow = destination_ports.is_some();
        Rule {
            source: random.percent(if narrow { 70 } else { 100 }).then(|| random.of(&sources)),
            destination: random.percent(97).then(|| random.of(&destinations)),
            source_ports: range(1024, 65_535).filter(|_| ported && random.percent(5)),
            destination_ports,
            protocol,
            action: RuleAction::Allow,
            ..Rule::default()
        }
    })
}

fn wild(count: usize) -> Vec<Rule> {
    let mut random = Random(count as u64);
    let networks: Vec<Prefix> = (0..count / 10 + 4)
        .map(|_| prefix(random.wide() >> 1, random.of(&[8, 16, 24, 28, 32, 32]), false))
        .collect();
    numbered(count, |_| {
        let protocol = random.of(&[Some(6), Some(6), Some(17), None]);
        let ports = |random: &mut Random| match random.below(5) {
            _ if protocol.is_none() => None,
            0 | 1 => None,
            2 | 3 => range(1 + random.below(9999), 0),
            _ => range(random.below(60_000), random.below(5000)),
        };
        let source = random.percent(55).then(|| random.of(&networks));
        let destination = random.percent(65).then(|| random.of(&networks));
        let mut rule = Rule {
            source,
            destination,
            source_ports: ports(&mut random).filter(|_| random.percent(30)),
            destination_ports: ports(&mut random),
            protocol,
            action: RuleAction::Allow,
            ..Rule::default()
        };
        if source.is_none() && destination.is_none() && rule.destination_ports.is_none() {
            // One that holds for all ends the list.
            (rule.protocol, rule.destination_ports) = (Some(6), range(1 + random.below(65_535), 0));
        }
        rule
    })
}

/// Connections, each anywhere within a rule.
pub fn flows(rules: &[Rule], count: usize) -> Vec<Flow> {
    let mut random = Random(7);
    let one = |_| {
        let rule = &rules[random.below(rules.len())];
        let v6 = [rule.source, rule.destination].into_iter().flatten().any(|p| p.address.is_ipv6());
        let mut end = |prefix: Option<Prefix>, ports: Option<PortRange>| {
            let (network, length) = prefix.map_or((0, 0), |p| (first_bits(p.address), p.length));
            let hosts = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let (first, last) = ports.map_or((0, 65_535), |r| (r.first, r.last));
            let port = first + random.below(usize::from(last - first) + 1) as u16;
            (address(network | random.wide() & hosts, v6), port)
        };
        let source = end(rule.source, rule.source_ports);
        let destination = end(rule.destination, rule.destination_ports);
        let protocol = rule.protocol.unwrap_or_else(|| random.of(&[6, 17, 47]));
        Flow { source, destination, protocol, vlans: (0, 0), icmp: (8, 0), tcp_flags: 2 }
    };
    (0..count).map(one).collect()
}

fn has(prefix: Option<Prefix>, address: IpAddr) -> bool {
    prefix.is_none_or(|p| {
        let differ = first_bits(p.address) ^ first_bits(address);
        p.address.is_ipv4() == address.is_ipv4()
            && differ.checked_shr(128 - u32::from(p.length)).unwrap_or(0) == 0
    })
}

/// The first rule that matches.
pub fn first(rules: &[Rule], flow: &Flow) -> Option<u32> {
    let ports = |range: Option<PortRange>, port| range.is_none_or(|r| (r.first..=r.last).contains(&port));
    let matches = |r: &Rule| {
        r.protocol.is_none_or(|p| p == flow.protocol)
            && has(r.source, flow.source.0)
            && has(r.destination, flow.destination.0)
            && ports(r.source_ports, flow.source.1)
            && ports(r.destination_ports, flow.destination.1)
    };
    (0..).zip(rules).find(|(_, r)| matches(r)).map(|(n, _)| n)
}
