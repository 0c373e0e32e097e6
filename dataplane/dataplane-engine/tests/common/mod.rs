//! Configurations and naive packet builders for the tests: written from the standards, not with the engine's code.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // test code outside of #[test] functions

pub mod carry;
pub mod naive;
pub mod random;
pub mod traffic;

use std::net::IpAddr;

use dataplane_control::{
    Configuration, Function, MacAddr,
    config::{Backend, Firewall, LoadBalancer, Port, PortDriver, Reflector, Rule, RuleAction, Vip},
};

pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const OUTSIDE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
pub const INSIDE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const LB_CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 0]);
pub const LB_BACKEND_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);

pub fn backend_mac(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([2, 0, 0, 3, high, low])
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, mac: MacAddr) -> Port {
    Port { name: name.into(), driver: PortDriver::AfPacket { interface: name.into() }, mac }
}

fn configuration(ports: Vec<Port>, function: Function) -> Configuration {
    let it = Configuration { instance: "test".into(), generation: 1, ports, function };
    it.check().unwrap();
    it
}

pub fn firewall(rules: Vec<Rule>, max_connections: u32) -> Configuration {
    configuration(
        vec![port("outside", OUTSIDE_MAC), port("inside", INSIDE_MAC)],
        Function::Firewall(Firewall {
            outside: "outside".into(),
            inside: "inside".into(),
            rules,
            max_connections,
            ..Firewall::default()
        }),
    )
}

pub fn rule(
    id: &str,
    action: RuleAction,
    protocol: Option<u8>,
    destination: Option<&str>,
    ports: Option<&str>,
) -> Rule {
    Rule {
        id: id.into(),
        from: "outside".into(),
        action,
        protocol,
        destination: destination.map(|d| d.parse().unwrap()),
        destination_ports: ports.map(|p| p.parse().unwrap()),
        ..Rule::default()
    }
}

pub fn vip(id: &str, address: &str, protocol: u8, port: u16) -> Vip {
    Vip::new(id, ip(address), protocol, port)
}

pub fn backend(number: u16, weight: u32) -> Backend {
    Backend::new(&format!("backend-{number}"), number, backend_mac(number), weight)
}

pub fn balancer(vips: Vec<Vip>, backends: Vec<Backend>, max_connections: u32) -> Configuration {
    configuration(
        vec![port("client", LB_CLIENT_MAC), port("backend", LB_BACKEND_MAC)],
        Function::LoadBalancer(LoadBalancer {
            max_connections,
            ..LoadBalancer::new("client", "backend", vips, backends)
        }),
    )
}

pub fn reflector(number: u16, addresses: &[&str]) -> Configuration {
    configuration(
        vec![port("service", backend_mac(number))],
        Function::Reflector(Reflector {
            port: "service".into(),
            number,
            addresses: addresses.iter().map(|a| ip(a)).collect(),
        }),
    )
}

/// RFC 1071, word by word.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// What a test frame is made of.
#[derive(Debug, Clone)]
pub struct Build {
    pub to: MacAddr,
    pub from: MacAddr,
    pub tags: Vec<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hops: u8,
    pub protocol: u8,
    /// With a zero checksum where `checksum_at` is.
    pub transport: Vec<u8>,
    pub checksum_at: Option<usize>,
    /// IPv4 options, or IPv6 extension headers (`first next header` first).
    pub options: Vec<u8>,
    pub first_extension: Option<u8>,
    pub fragment: u16,
    pub padding: usize,
}

impl Build {
    pub fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: Vec<u8>,
        checksum_at: Option<usize>,
    ) -> Self {
        Self {
            to: LB_CLIENT_MAC,
            from: CLIENT_MAC,
            tags: vec![],
            source,
            destination,
            hops: 64,
            protocol,
            transport,
            checksum_at,
            options: vec![],
            first_extension: None,
            fragment: 0,
            padding: 0,
        }
    }

    pub fn tcp(s: (IpAddr, u16), d: (IpAddr, u16), flags: u8, payload: &[u8]) -> Self {
        let mut t =
            [&s.1.to_be_bytes()[..], &d.1.to_be_bytes(), &1000u32.to_be_bytes(), &2000u32.to_be_bytes()]
                .concat();
        t.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        t.extend(payload);
        Self::new(s.0, d.0, 6, t, Some(16))
    }

    pub fn udp(s: (IpAddr, u16), d: (IpAddr, u16), payload: &[u8]) -> Self {
        let length = (8 + payload.len()) as u16;
        let mut t = [s.1.to_be_bytes(), d.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        t.extend(payload);
        Self::new(s.0, d.0, 17, t, Some(6))
    }

    /// ICMP or ICMPv6, by the addresses' version; `rest` is the message from its fifth byte on.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let t = [&[kind, code, 0, 0][..], rest].concat();
        Self::new(source, destination, if source.is_ipv4() { 1 } else { 58 }, t, Some(2))
    }

    pub fn macs(mut self, to: MacAddr, from: MacAddr) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let (s, d) = (octets(self.source), octets(self.destination));
        let mut transport = self.transport.clone();
        if let Some(at) = self.checksum_at {
            let length = (transport.len() as u32).to_be_bytes();
            let pseudo = [&s[..], &d, &length, &[0, 0, 0, self.protocol]].concat();
            let pseudo = if self.protocol == 1 { vec![] } else { pseudo };
            let sum = match checksum(&[&pseudo, &transport]) {
                0 if self.protocol == 17 => 0xffff,
                sum => sum,
            };
            transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if self.source.is_ipv4() {
            let header = 20 + self.options.len();
            let total = ((header + transport.len()) as u16).to_be_bytes();
            let [f1, f0] = self.fragment.to_be_bytes();
            let mut h = vec![
                0x40 | (header / 4) as u8,
                0,
                total[0],
                total[1],
                0x12,
                0x34,
                f1,
                f0,
                self.hops,
                self.protocol,
                0,
                0,
            ];
            h.extend(s.iter().chain(&d).chain(&self.options));
            let sum = checksum(&[&h]);
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            [h, transport].concat()
        } else {
            let length = ((self.options.len() + transport.len()) as u16).to_be_bytes();
            let next = self.first_extension.unwrap_or(self.protocol);
            let mut h = vec![0x60, 0, 0, 0, length[0], length[1], next, self.hops];
            h.extend(s.iter().chain(&d).chain(&self.options).chain(&transport));
            h
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [self.to.0, self.from.0].concat();
        for (i, tag) in self.tags.iter().enumerate() {
            let tpid: u16 = if i + 1 < self.tags.len() { 0x88a8 } else { 0x8100 };
            frame.extend([tpid.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.packet());
        frame.extend(vec![0; self.padding]);
        frame
    }
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}
