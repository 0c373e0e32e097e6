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
    Configuration, Function as What,
    config::{
        Backend, Firewall, LoadBalancer, MacAddr, Port, PortDriver, PortRange, Prefix, Rule, RuleAction, Vip,
    },
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
    /// One frame in ten opens a UDP connection, the others are of established TCP connections.
    Mixed,
    /// Each frame is a SYN that nobody answers.
    Flood,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Firewall,
    /// At layer 2, between clients and backends.
    Balancer,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub function: Function,
    pub load: Load,
    pub flows: u32,
    pub rules: u32,
    pub length: usize,
    /// Something is promised of it.
    pub bar: bool,
}

/// The shortest Ethernet frame without FCS, and the longest.
const SHORTEST: usize = 60;
const LONGEST: usize = 1514;
/// The simple Internet mix: seven of 60 bytes, four of 590, one of 1,514.
const IMIX: usize = 0;
const MIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 60, 590, 60, 60, 590, LONGEST];
/// What opens and ages again does so within this virtual time, and a turn of all frames takes longer, ms.
const IDLE_MS: u64 = 60;
const TURN_NS: u64 = 100_000_000;
/// As many as VPP was measured with.
const BACKENDS: u16 = 100;
const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const SERVICE_PORT: u16 = 443;
/// Frames of a mix.
const MIXED_FRAMES: u32 = 1_000_000;

const fn bar(name: &'static str, load: Load, flows: u32, rules: u32) -> Case {
    Case { name, function: Function::Firewall, load, flows, rules, length: SHORTEST, bar: true }
}

const fn balanced(name: &'static str, load: Load, flows: u32, bar: bool) -> Case {
    Case { name, function: Function::Balancer, load, flows, rules: 0, length: SHORTEST, bar }
}

const fn case(name: &'static str, load: Load, flows: u32, rules: u32, length: usize) -> Case {
    Case { name, function: Function::Firewall, load, flows, rules, length, bar: false }
}

/// Those that have bars, and others.
pub const CASES: &[Case] = &[
    bar("firewall-established-1k", Load::Established, 1_000, 1_000),
    bar("firewall-established-100k", Load::Established, 100_000, 1_000),
    bar("firewall-established-1m", Load::Established, 1_000_000, 1_000),
    bar("firewall-new", Load::New, 1_000_000, 1_000),
    balanced("balancer-established-1k", Load::Established, 1_000, true),
    balanced("balancer-established-100k", Load::Established, 100_000, true),
    balanced("balancer-established-1m", Load::Established, 1_000_000, true),
    balanced("balancer-new", Load::New, 1_000_000, false),
    case("firewall-established-1", Load::Established, 1, 1_000, SHORTEST),
    case("firewall-established-100k-10-rules", Load::Established, 100_000, 10, SHORTEST),
    case("firewall-established-100k-10k-rules", Load::Established, 100_000, 10_000, SHORTEST),
    case("firewall-established-1k-100k-rules", Load::Established, 1_000, 100_000, SHORTEST),
    case("firewall-established-100k-imix", Load::Established, 100_000, 1_000, IMIX),
    case("firewall-established-100k-1518", Load::Established, 100_000, 1_000, LONGEST),
    case("firewall-new-10-rules", Load::New, 1_000_000, 10, SHORTEST),
    case("firewall-new-10k-rules", Load::New, 100_000, 10_000, SHORTEST),
    case("firewall-new-100k-rules", Load::New, 20_000, 100_000, SHORTEST),
    case("firewall-mixed-100k", Load::Mixed, 100_000, 1_000, SHORTEST),
    case("firewall-mixed-1m", Load::Mixed, 1_000_000, 1_000, SHORTEST),
    case("firewall-flood", Load::Flood, 1_000_000, 1_000, SHORTEST),
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

/// Of clients of the one service.
fn clients(random: &mut Random, protocol: u8, count: u32) -> Vec<Flow> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    while out.len() < count as usize {
        let flow = Flow {
            source: 10 << 24 | random.next() as u32 & 0x00ff_ffff,
            destination: SERVICE.to_bits(),
            source_port: 1024 + random.below(60_000) as u16,
            destination_port: SERVICE_PORT,
            protocol,
        };
        if seen.insert(flow) {
            out.push(flow);
        }
    }
    out
}

/// Where a backend's frames go.
fn backend_mac(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([2, 0, 0, 3, high, low])
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
            Load::Established | Load::Flood => 60_000,
            Load::New | Load::Mixed => IDLE_MS,
        }
    }

    /// Idle time of TCP, ms; none is longer, whatever its state.
    fn tcp_ms(&self) -> u64 {
        if self.load == Load::Flood { IDLE_MS } else { 300_000 }
    }

    /// Virtual time between two frames, ns.
    pub fn frame_ns(&self) -> u64 {
        match self.load {
            Load::Established => 20,
            // A million flows: 10 million a second.
            Load::New | Load::Flood => TURN_NS / u64::from(self.flows),
            Load::Mixed => TURN_NS / u64::from(MIXED_FRAMES),
        }
    }

    /// Room for all, and some.
    fn connections(&self) -> u32 {
        let all = if self.load == Load::Mixed { self.flows + MIXED_FRAMES / 10 } else { self.flows };
        (all + all / 8).next_multiple_of(1024)
    }

    /// Length of the `n`-th frame.
    fn length(&self, n: usize) -> usize {
        if self.length == IMIX { MIX[n % MIX.len()] } else { self.length }
    }

    /// A run of frames of one side, which follows `before` others.
    fn run(&self, flows: &[Flow], side: u16, flags: u8, before: usize) -> Vec<(u16, Vec<u8>)> {
        let one = |(n, flow)| (side, frame(flow, side, flags, self.length(before + n)));
        flows.iter().enumerate().map(one).collect()
    }

    /// Writes all files.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let mut random = Random(0x6d61_6e64 + u64::from(self.rules));
        let lines = lines(&mut random, self.rules);
        let protocol = if self.load == Load::New { UDP } else { TCP };
        let mut flows = match self.function {
            Function::Firewall => flows(&mut random, &lines, protocol, self.flows),
            Function::Balancer => clients(&mut random, protocol, self.flows),
        };
        let mut warm = Vec::new();
        let mut frames = Vec::new();
        if matches!(self.load, Load::Established | Load::Mixed) {
            for run in flows.chunks(RUN) {
                for (side, flags) in [(0, SYN), (1, SYN | ACK), (0, ACK)] {
                    warm.extend(self.run(run, side, flags, 0));
                }
            }
            random.shuffle(&mut flows);
        }
        match self.load {
            Load::Established => {
                for (n, run) in flows.chunks(RUN).enumerate() {
                    // Replies of backends cost less: clients' frames only, as others measure balancers.
                    let side = if self.function == Function::Balancer { 0 } else { (n % 2) as u16 };
                    frames.extend(self.run(run, side, ACK, frames.len()));
                }
            }
            Load::New => frames.extend(self.run(&flows, 0, 0, 0)),
            Load::Flood => frames.extend(self.run(&flows, 0, SYN, 0)),
            Load::Mixed => self.mix(&mut random, &lines, &flows, &mut frames),
        }
        let file = |end: &str| directory.join(format!("{}.{end}", self.name));
        write_frames(&file("warm"), &warm)?;
        write_frames(&file("frames"), &frames)?;
        fs::write(file("rules"), self.text(&lines))?;
        fs::write(file("json"), self.configuration(&lines).to_bytes())
    }

    /// Connections open from outside only, where one frame in five does.
    fn mix(&self, random: &mut Random, lines: &[Line], known: &[Flow], frames: &mut Vec<(u16, Vec<u8>)>) {
        let fresh = flows(random, lines, UDP, MIXED_FRAMES / 10);
        let (mut fresh, mut known) = (fresh.iter(), known.iter().cycle());
        for n in 0..MIXED_FRAMES {
            let side = (n as usize / RUN % 2) as u16;
            let new = if side == 0 && n % 5 == 0 { fresh.next() } else { None };
            let (flow, flags) = match (new, known.next()) {
                (Some(flow), _) => (flow, 0),
                (None, Some(flow)) => (flow, ACK),
                (None, None) => return,
            };
            frames.push((side, frame(flow, side, flags, self.length(frames.len()))));
        }
    }

    fn text(&self, lines: &[Line]) -> String {
        let mut out = format!(
            "connections {} tcp_ms {} other_ms {} frame_ns {}\n",
            self.connections(),
            // A balancer has one idle time for all.
            if self.function == Function::Balancer && self.load == Load::New {
                IDLE_MS
            } else {
                self.tcp_ms()
            },
            self.other_ms(),
            self.frame_ns()
        );
        if self.function == Function::Balancer {
            for protocol in [TCP, UDP] {
                out += &format!("vip {SERVICE} {SERVICE_PORT} {protocol}\n");
            }
            for number in 1..=BACKENDS {
                out += &format!("backend {}\n", backend_mac(number));
            }
        }
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
        if self.function == Function::Balancer {
            return self.balancer();
        }
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
            function: What::Firewall(Firewall {
                outside: "outside".into(),
                inside: "inside".into(),
                rules: lines.iter().enumerate().map(rule).collect(),
                max_connections: self.connections(),
                tcp_idle_ms: self.tcp_ms(),
                other_idle_ms: self.other_ms(),
                ..Firewall::default()
            }),
        }
    }

    fn balancer(&self) -> Configuration {
        let port = |name: &str| Port {
            name: name.into(),
            driver: PortDriver::AfPacket { interface: name.into() },
            mac: MacAddr([2, 0, 0, 0, 0, 2]),
        };
        let vip = |(id, protocol)| Vip::new(id, IpAddr::V4(SERVICE), protocol, SERVICE_PORT);
        let backend = |number| Backend {
            id: format!("b{number}"),
            number,
            mac: backend_mac(number),
            weight: 1,
            addresses: Vec::new(),
            draining: false,
        };
        let vips = [("tcp", TCP), ("udp", UDP)].map(vip).into();
        let backends = (1..=BACKENDS).map(backend).collect();
        let idle_ms = if self.load == Load::New { self.other_ms() } else { self.tcp_ms() };
        Configuration {
            instance: "bench".into(),
            generation: 1,
            ports: vec![port("clients"), port("backends")],
            function: What::LoadBalancer(LoadBalancer {
                max_connections: self.connections(),
                idle_ms,
                ..LoadBalancer::new("clients", "backends", vips, backends)
            }),
        }
    }
}
