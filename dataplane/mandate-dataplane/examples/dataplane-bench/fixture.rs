//! What is passed: rules, the frames that open connections, and the frames that are measured, drawn from a seed.
//!
//! Written for whoever decides on them: `CASE.rules` is text, one rule a line in order of precedence
//! (`10.1.2.0/24 192.0.2.0/24 0-65535 443-443 6 allow`: source, destination, their ports, protocol, action; all from
//! outside) below a line of numbers; `CASE.json` the same as our configuration; `CASE.warm` and `CASE.frames` are a count (u32)
//! and frames: length (u16), side (u16, 0: outside), bytes; numbers little-endian. `CASE.other.json` is what ours is measured beside
//! on the same frames, or swapped with.
//!
//! IPv6 is the same with other addresses: the 32 bits of IPv4 follow 2001:db8::/32, and the interface is drawn from them.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use dataplane_control::{
    Configuration, Function as What,
    chain::{Chain, Link},
    config::{
        Backend, Firewall, LoadBalancer, MacAddr, Mode, Port, PortDriver, PortRange, Prefix, Rule,
        RuleAction, Vip,
    },
};

use crate::cases::{Beside, Case, Function, IMIX, LONGEST, Load};

/// Frames of one side in a row.
const RUN: usize = 64;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The simple Internet mix: seven of 60 bytes, four of 590, one of 1,514.
const MIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 60, 590, 60, 60, 590, LONGEST];
/// What opens and ages again does so within this virtual time, and a turn of all frames takes longer, ms.
const IDLE_MS: u64 = 60;
const TURN_NS: u64 = 100_000_000;
/// As many as VPP was measured with.
const BACKENDS: u16 = 100;
/// 198.18.0.0, of the networks for benchmarks (RFC 2544).
const BACKEND_NET: u32 = 0xc612_0000;
/// The ports, and the link of a chain.
const ENDS: [&str; 2] = ["outside", "inside"];
const LINK: &str = "dmz";
/// Where all frames are sent to.
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const SERVICE_PORT: u16 = 443;
/// Frames of a mix.
const MIXED_FRAMES: u32 = 1_000_000;

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

/// A rule that no frame matches.
const NOBODY: Line = Line {
    source: Net { address: 0xcb00_7100, length: 24 },
    destination: Net { address: 0xcb00_7100, length: 24 },
    ports: (1, 1),
    protocol: UDP,
    allow: false,
};

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

/// A prefix of these 32 bits in IPv6.
fn prefix_v6(net: Net) -> (Ipv6Addr, u8) {
    (Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(net.address) << 64), 32 + net.length)
}

/// An address with these 32 bits in IPv6.
fn address_v6(address: u32) -> Ipv6Addr {
    let (network, _) = prefix_v6(Net { address, length: 32 });
    Ipv6Addr::from_bits(network.to_bits() | u128::from(Random(address.into()).next()))
}

/// An IPv4 header without options for so many bytes of payload.
fn header_v4(from: u32, to: u32, protocol: u8, payload: usize) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((payload as u16 + 20).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend(from.to_be_bytes());
    ip.extend(to.to_be_bytes());
    let check = folded(sum(&ip));
    ip[10..12].copy_from_slice(&check);
    ip
}

/// The same of IPv6.
fn header_v6(from: u32, to: u32, protocol: u8, payload: usize) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload as u16).to_be_bytes());
    ip.extend([protocol, 64]);
    ip.extend(address_v6(from).octets());
    ip.extend(address_v6(to).octets());
    ip
}

/// A frame of a flow as its initiator (`side` 0) or the other end sends it.
fn frame(flow: &Flow, side: u16, flags: u8, length: usize, v6: bool) -> Vec<u8> {
    let (a, b) = ((flow.source, flow.source_port), (flow.destination, flow.destination_port));
    let (from, to) = if side == 0 { (a, b) } else { (b, a) };
    let payload = length - if v6 { 54 } else { 34 };
    let header = if v6 { header_v6 } else { header_v4 };
    let ip = header(from.0, to.0, flow.protocol, payload);
    let addresses = &ip[if v6 { 8 } else { 12 }..];
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    match flow.protocol {
        TCP => {
            l4.extend([0, 0, 0x10, 0, 0, 0, 0x20, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        }
        _ => {
            l4.extend((payload as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
    }
    l4.resize(payload, 0x5a);
    let pseudo = sum(addresses) + u32::from(flow.protocol) + l4.len() as u32;
    let at = if flow.protocol == TCP { 16 } else { 6 };
    let check = folded(pseudo + sum(&l4));
    l4[at..at + 2].copy_from_slice(&check);
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    out.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
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
            // So that counters are left as often, frames for frames, as by a packet thread with 20 million a second.
            Load::Established if self.beside == Beside::Silence => 50,
            Load::Established => 20,
            // A million flows: 10 million a second.
            Load::New | Load::Flood => TURN_NS / u64::from(self.flows),
            Load::Mixed => TURN_NS / u64::from(MIXED_FRAMES),
        }
    }

    /// Room for all, and some.
    pub fn connections(&self) -> u32 {
        let all = if self.load == Load::Mixed { self.flows + MIXED_FRAMES / 10 } else { self.flows };
        (all + all / 8).next_multiple_of(1024)
    }

    /// Length of the `n`-th frame.
    fn length(&self, n: usize) -> usize {
        if self.length == IMIX { MIX[n % MIX.len()] } else { self.length }
    }

    /// A run of frames of one side, which follows `before` others.
    fn run(&self, flows: &[Flow], side: u16, flags: u8, before: usize) -> Vec<(u16, Vec<u8>)> {
        let one = |(n, flow)| (side, frame(flow, side, flags, self.length(before + n), self.v6));
        flows.iter().enumerate().map(one).collect()
    }

    /// Writes all files.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let mut random = Random(0x6d61_6e64 + u64::from(self.rules));
        let mut lines = lines(&mut random, self.rules);
        if self.function == Function::Chain {
            // The service's clients pass by the last rule.
            let service = Net { address: SERVICE.to_bits(), length: 32 };
            let ports = (SERVICE_PORT, SERVICE_PORT);
            let any = Net { address: 0, length: 0 };
            lines.pop();
            lines.push(Line { source: any, destination: service, ports, protocol: TCP, allow: true });
        }
        let protocol = if self.load == Load::New { UDP } else { TCP };
        let mut flows = match self.function {
            Function::Firewall => flows(&mut random, &lines, protocol, self.flows),
            Function::Balancer(_) | Function::Chain => clients(&mut random, protocol, self.flows),
        };
        let mut warm = Vec::new();
        let mut frames = Vec::new();
        if matches!(self.load, Load::Established | Load::Mixed) {
            for run in flows.chunks(RUN) {
                for (side, flags) in [(0, SYN), (1, SYN | ACK), (0, ACK)] {
                    // Only who saw the translated request can answer it.
                    if side == 0 || !self.is_answered_by_worker() {
                        warm.extend(self.run(run, side, flags, 0));
                    }
                }
            }
            random.shuffle(&mut flows);
        }
        match self.load {
            Load::Established => {
                for (n, run) in flows.chunks(RUN).enumerate() {
                    // Replies of backends cost less: clients' frames only, as others measure balancers.
                    let side = if self.function == Function::Firewall { (n % 2) as u16 } else { 0 };
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
        if self.has_reference() {
            fs::write(file("rules"), self.text(&lines))?;
        }
        match self.beside {
            Beside::Alone => fs::write(file("other.json"), self.firewall(&lines, ENDS).to_bytes())?,
            Beside::Swaps => {
                // As many rules of which as many match, each in another place.
                lines.pop();
                lines.insert(0, NOBODY);
                fs::write(file("other.json"), self.configuration(&lines).to_bytes())?;
                lines.rotate_left(1);
            }
            _ => {}
        }
        fs::write(file("json"), self.configuration(&lines).to_bytes())?;
        match self.beside {
            Beside::Case(name) => Self::named(name).map_or(Ok(()), |other| other.write(directory)),
            _ => Ok(()),
        }
    }

    /// Whether replies of the frames that open connections depend on what was made of these.
    pub fn is_answered_by_worker(&self) -> bool {
        self.function == Function::Balancer(Mode::Nat)
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
            frames.push((side, frame(flow, side, flags, self.length(frames.len()), self.v6)));
        }
    }

    fn text(&self, lines: &[Line]) -> String {
        let mut out = format!(
            "connections {} tcp_ms {} other_ms {} frame_ns {}\n",
            self.connections(),
            // A balancer has one idle time for all.
            if self.is_balancer() && self.load == Load::New { IDLE_MS } else { self.tcp_ms() },
            self.other_ms(),
            self.frame_ns()
        );
        if self.is_balancer() {
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

    fn is_balancer(&self) -> bool {
        matches!(self.function, Function::Balancer(_))
    }

    fn configuration(&self, lines: &[Line]) -> Configuration {
        match self.function {
            Function::Firewall => self.firewall(lines, ENDS),
            Function::Balancer(mode) => self.balancer(mode, ENDS),
            Function::Chain => {
                let link = Link { name: LINK.into(), mac: OWN };
                let [first, second] =
                    [self.firewall(lines, [ENDS[0], LINK]), self.balancer(Mode::L2, [LINK, ENDS[1]])];
                let functions = vec![first.function, second.function];
                between(ENDS, What::Chain(Chain { links: vec![link], functions }))
            }
        }
    }

    fn prefix(&self, net: Net) -> Option<Prefix> {
        let (address, length) = match self.v6 {
            true => {
                let (address, length) = prefix_v6(net);
                (IpAddr::V6(address), length)
            }
            false => (IpAddr::V4(Ipv4Addr::from(net.address)), net.length),
        };
        (net.length > 0).then_some(Prefix { address, length })
    }

    fn firewall(&self, lines: &[Line], [outside, inside]: [&str; 2]) -> Configuration {
        let rule = |(n, l): (usize, &Line)| Rule {
            id: format!("r{n}"),
            from: outside.into(),
            action: if l.allow { RuleAction::Allow } else { RuleAction::Deny },
            protocol: Some(l.protocol),
            source: self.prefix(l.source),
            destination: self.prefix(l.destination),
            destination_ports: Some(PortRange { first: l.ports.0, last: l.ports.1 }),
            ..Rule::default()
        };
        let function = What::Firewall(Firewall {
            outside: outside.into(),
            inside: inside.into(),
            rules: lines.iter().enumerate().map(rule).collect(),
            max_connections: self.connections(),
            tcp_idle_ms: self.tcp_ms(),
            other_idle_ms: self.other_ms(),
            ..Firewall::default()
        });
        between([outside, inside], function)
    }

    fn balancer(&self, mode: Mode, [client, backend]: [&str; 2]) -> Configuration {
        let address = |number: u16| IpAddr::V4(Ipv4Addr::from_bits(BACKEND_NET | u32::from(number)));
        let vip = |(id, protocol)| Vip { mode, ..Vip::new(id, IpAddr::V4(SERVICE), protocol, SERVICE_PORT) };
        let one = |number| Backend {
            id: format!("b{number}"),
            number,
            mac: backend_mac(number),
            weight: 1,
            addresses: if mode == Mode::L2 { Vec::new() } else { vec![address(number)] },
            draining: false,
        };
        let vips = [("tcp", TCP), ("udp", UDP)].map(vip).into();
        let backends = (1..=BACKENDS).map(one).collect();
        let idle_ms = if self.load == Load::New { self.other_ms() } else { self.tcp_ms() };
        let function = What::LoadBalancer(LoadBalancer {
            max_connections: self.connections(),
            idle_ms,
            addresses: if mode.is_tunnel() { vec![address(BACKENDS + 1)] } else { Vec::new() },
            ..LoadBalancer::new(client, backend, vips, backends)
        });
        between([client, backend], function)
    }
}

fn between(ports: [&str; 2], function: What) -> Configuration {
    let port = |name: &str| Port {
        name: name.into(),
        driver: PortDriver::AfPacket { interface: name.into() },
        mac: OWN,
    };
    Configuration { instance: "bench".into(), generation: 1, ports: ports.map(port).into(), function }
}
