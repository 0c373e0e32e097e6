//! What is passed: rules, the frames that open connections, and the frames that are measured, drawn from a seed.
//!
//! Written for whoever decides on them: `CASE.rules` is text, one rule a line in order of precedence
//! (`10.1.2.0/24 192.0.2.0/24 0-65535 443-443 6 allow`: source, destination, their ports, protocol, action; all from
//! outside) below a line of numbers; `CASE.json` the same as our configuration; `CASE.warm` and `CASE.frames` are a count (u32)
//! and frames: length (u16), side (u16, 0: outside), bytes; numbers little-endian.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use dataplane_control::{
    Configuration, Function,
    config::{Firewall, MacAddr, Port, PortDriver, PortRange, Prefix, Rule, RuleAction},
};

/// Frames of one side in a row.
const RUN: usize = 64;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Segments of established TCP connections, both ways in turn.
    Established,
    /// Each frame opens a UDP connection; those before age.
    New,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub load: Load,
    pub flows: u32,
    pub rules: u32,
    pub length: usize,
}

const fn case(name: &'static str, load: Load, flows: u32, rules: u32) -> Case {
    Case { name, load, flows, rules, length: 60 }
}

/// Those that have bars.
pub const CASES: &[Case] = &[
    case("firewall-established-1k", Load::Established, 1_000, 1_000),
    case("firewall-established-100k", Load::Established, 100_000, 1_000),
    case("firewall-established-1m", Load::Established, 1_000_000, 1_000),
    case("firewall-new", Load::New, 1_000_000, 1_000),
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

    fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

#[derive(Debug, Clone, Copy)]
struct Net {
    address: u32,
    length: u8,
}

impl Net {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }

    fn has(self, address: u32) -> bool {
        address & self.mask() == self.address
    }

    fn draw(self, random: &mut Random) -> u32 {
        self.address | (random.next() as u32 & !self.mask())
    }
}

#[derive(Debug, Clone, Copy)]
struct Line {
    source: Net,
    destination: Net,
    ports: (u16, u16),
    protocol: u8,
    allow: bool,
}

impl Line {
    fn matches(&self, flow: &Flow) -> bool {
        self.source.has(flow.source)
            && self.destination.has(flow.destination)
            && (self.ports.0..=self.ports.1).contains(&flow.destination_port)
            && self.protocol == flow.protocol
    }
}

/// Like an access list of many services: prefixes of all lengths, single ports and ranges, one in ten denies.
fn lines(random: &mut Random, count: u32) -> Vec<Line> {
    let net = |random: &mut Random, base: u32, lengths: &[u8]| {
        let length = lengths[random.below(lengths.len() as u32) as usize];
        let net = Net { address: base | (random.next() as u32 & 0x00ff_ffff), length };
        Net { address: net.address & net.mask(), length }
    };
    let line = |random: &mut Random, n: u32| {
        let first = [22, 53, 80, 123, 443, 1024, 5060, 8080, 8443][random.below(9) as usize];
        let last = if random.below(3) == 0 { first + random.below(2000) as u16 } else { first };
        Line {
            source: match random.below(2) {
                0 => Net { address: 0, length: 0 },
                _ => net(random, 10 << 24, &[8, 12, 16]),
            },
            destination: net(random, 172 << 24, &[16, 20, 22, 24, 24, 24, 28, 32]),
            ports: (first, last),
            protocol: if n.is_multiple_of(2) { TCP } else { UDP },
            allow: random.below(10) != 0,
        }
    };
    (0..count).map(|n| line(random, n)).collect()
}

/// Flows that the first rule that matches allows.
fn flows(random: &mut Random, lines: &[Line], protocol: u8, count: u32) -> Vec<Flow> {
    let allowing: Vec<&Line> = lines.iter().filter(|l| l.allow && l.protocol == protocol).collect();
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    while out.len() < count as usize {
        let line = allowing[random.below(allowing.len() as u32) as usize];
        let mut source = line.source.draw(random);
        if line.source.length == 0 {
            source = 10 << 24 | source & 0x00ff_ffff;
        }
        let flow = Flow {
            source,
            destination: line.destination.draw(random),
            source_port: 1024 + random.below(60_000) as u16,
            destination_port: line.ports.0 + random.below(u32::from(line.ports.1 - line.ports.0) + 1) as u16,
            protocol,
        };
        let unicast = |a: u32| a & 0xff != 0 && a & 0xff != 0xff;
        let allowed = lines.iter().find(|l| l.matches(&flow)).is_some_and(|l| l.allow);
        if allowed && unicast(flow.source) && unicast(flow.destination) && seen.insert(flow) {
            out.push(flow);
        }
    }
    out
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)));
    words.sum()
}

fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A frame of a flow as its initiator (`side` 0) or the other end sends it.
fn frame(flow: &Flow, side: u16, flags: u8, length: usize) -> Vec<u8> {
    let (a, b) = ((flow.source, flow.source_port), (flow.destination, flow.destination_port));
    let (from, to) = if side == 0 { (a, b) } else { (b, a) };
    let total = length - 14;
    let mut ip = vec![0x45, 0];
    ip.extend((total as u16).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, flow.protocol, 0, 0]);
    ip.extend(from.0.to_be_bytes());
    ip.extend(to.0.to_be_bytes());
    let check = folded(sum(&ip));
    ip[10..12].copy_from_slice(&check);
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    match flow.protocol {
        TCP => {
            l4.extend([0, 0, 0x10, 0, 0, 0, 0x20, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        }
        _ => {
            l4.extend((total as u16 - 20).to_be_bytes());
            l4.extend([0, 0]);
        }
    }
    l4.resize(total - 20, 0x5a);
    let pseudo = sum(&ip[12..20]) + u32::from(flow.protocol) + l4.len() as u32;
    let at = if flow.protocol == TCP { 16 } else { 6 };
    let check = folded(pseudo + sum(&l4));
    l4[at..at + 2].copy_from_slice(&check);
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    out.extend(ip);
    out.extend(l4);
    out
}

fn write_frames(path: &Path, frames: &[(u16, Vec<u8>)]) -> io::Result<()> {
    let mut out = io::BufWriter::new(fs::File::create(path)?);
    out.write_all(&(frames.len() as u32).to_le_bytes())?;
    for (side, bytes) in frames {
        out.write_all(&(bytes.len() as u16).to_le_bytes())?;
        out.write_all(&side.to_le_bytes())?;
        out.write_all(bytes)?;
    }
    out.flush()
}

impl Case {
    /// Idle time of what is not TCP, ms: with [`Case::frame_ns`] it says how many connections live at once.
    fn other_ms(&self) -> u64 {
        match self.load {
            Load::Established => 60_000,
            Load::New => 60,
        }
    }

    /// Virtual time between two frames, ns.
    pub fn frame_ns(&self) -> u64 {
        match self.load {
            Load::Established => 20,
            // 10 million a second.
            Load::New => 100,
        }
    }

    /// Room for all, and some.
    fn connections(&self) -> u32 {
        (self.flows + self.flows / 8).next_multiple_of(1024)
    }

    /// Writes all files.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let mut random = Random(0x6d61_6e64 + u64::from(self.rules));
        let lines = lines(&mut random, self.rules);
        let protocol = if self.load == Load::New { UDP } else { TCP };
        let mut flows = flows(&mut random, &lines, protocol, self.flows);
        let mut warm = Vec::new();
        let mut frames = Vec::new();
        match self.load {
            Load::Established => {
                for run in flows.chunks(RUN) {
                    for (side, flags) in [(0, SYN), (1, SYN | ACK), (0, ACK)] {
                        warm.extend(run.iter().map(|f| (side, frame(f, side, flags, self.length))));
                    }
                }
                random.shuffle(&mut flows);
                for (n, run) in flows.chunks(RUN).enumerate() {
                    let side = (n % 2) as u16;
                    frames.extend(run.iter().map(|f| (side, frame(f, side, ACK, self.length))));
                }
            }
            Load::New => frames.extend(flows.iter().map(|f| (0, frame(f, 0, 0, self.length)))),
        }
        let file = |end: &str| directory.join(format!("{}.{end}", self.name));
        write_frames(&file("warm"), &warm)?;
        write_frames(&file("frames"), &frames)?;
        fs::write(file("rules"), self.text(&lines))?;
        fs::write(file("json"), self.configuration(&lines).to_bytes())
    }

    fn text(&self, lines: &[Line]) -> String {
        let mut out = format!(
            "connections {} tcp_ms {} other_ms {} frame_ns {}\n",
            self.connections(),
            300_000,
            self.other_ms(),
            self.frame_ns()
        );
        for l in lines {
            let net = |n: Net| format!("{}/{}", Ipv4Addr::from(n.address), n.length);
            let action = if l.allow { "allow" } else { "deny" };
            let (first, last) = l.ports;
            out += &format!(
                "{} {} 0-65535 {first}-{last} {} {action}\n",
                net(l.source),
                net(l.destination),
                l.protocol
            );
        }
        out
    }

    fn configuration(&self, lines: &[Line]) -> Configuration {
        let port = |name: &str, last| Port {
            name: name.into(),
            driver: PortDriver::AfPacket { interface: name.into() },
            mac: MacAddr([2, 0, 0, 0, 0, last]),
        };
        let prefix = |n: Net| {
            (n.length > 0)
                .then(|| Prefix { address: IpAddr::V4(Ipv4Addr::from(n.address)), length: n.length })
        };
        let rule = |(n, l): (usize, &Line)| Rule {
            id: format!("r{n}"),
            from: "outside".into(),
            action: if l.allow { RuleAction::Allow } else { RuleAction::Deny },
            protocol: Some(l.protocol),
            source: prefix(l.source),
            destination: prefix(l.destination),
            destination_ports: Some(PortRange { first: l.ports.0, last: l.ports.1 }),
            ..Rule::default()
        };
        Configuration {
            instance: "bench".into(),
            generation: 1,
            ports: vec![port("outside", 1), port("inside", 2)],
            function: Function::Firewall(Firewall {
                outside: "outside".into(),
                inside: "inside".into(),
                rules: lines.iter().enumerate().map(rule).collect(),
                max_connections: self.connections(),
                other_idle_ms: self.other_ms(),
                ..Firewall::default()
            }),
        }
    }
}
