//! Millions of frames in seconds: conversations that go on, valid frames of a small universe, and mutations whose
//! checksums are made right again, so that what is wrong with them is looked at. The same for the same seed.

use std::net::IpAddr;

use dataplane_control::MacAddr;

use super::{
    Build, CLIENT_MAC, LB_BACKEND_MAC, LB_CLIENT_MAC, checksum, ip,
    traffic::{FAR4, FAR6, NEAR4, NEAR6, Sent},
};

/// How many frames are compared with a model, and from which seed: in CI as it says here.
pub fn frames_and_seed() -> (u64, u64) {
    let number = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    (number("MANDATE_RANDOM_FRAMES", 1_000_000), number("MANDATE_RANDOM_SEED", 1))
}

/// `SplitMix64`.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

/// TCP segments of a session in order: who sends (the one who opened it: true), flags.
const SCRIPTS: &[&[(bool, u8)]] = &[
    &[(true, 2), (false, 0x12), (true, 0x10), (true, 0x18), (false, 0x10), (false, 0x18), (true, 0x10)],
    &[(true, 2), (false, 0x12), (true, 0x10), (true, 0x11), (false, 0x10), (false, 0x11), (true, 0x10)],
    &[(true, 2), (false, 0x12), (true, 0x10), (false, 0x11), (true, 0x11), (false, 0x10)],
    &[(true, 2), (true, 2), (false, 0x12), (false, 0x12), (true, 0x18), (false, 4)],
    &[(true, 2), (false, 0x14)],
    &[(true, 2), (false, 0x10), (true, 4)],
];

#[derive(Clone)]
struct Talk {
    far: bool,
    near: (IpAddr, u16),
    other: (IpAddr, u16),
    script: usize,
    step: usize,
}

/// An endless stream of frames.
pub struct Stream {
    random: Random,
    hosts: [[IpAddr; 2]; 4],
    talks: Vec<Talk>,
    last: Vec<Sent>,
}

impl Stream {
    pub fn new(seed: u64) -> Self {
        let hosts = [NEAR4, FAR4, NEAR6, FAR6].map(|pair| pair.map(ip));
        Self { random: Random::new(seed), hosts, talks: vec![], last: vec![] }
    }

    pub fn next(&mut self) -> Sent {
        let sent = match self.random.below(20) {
            0..8 => self.goes_on(),
            8..16 => self.valid(),
            16 | 17 => self.mutated(),
            18 if !self.last.is_empty() => {
                let at = self.random.below(self.last.len());
                self.last[at].clone()
            }
            _ => self.noise(),
        };
        let at = self.random.below(64);
        match self.last.get_mut(at) {
            Some(place) => place.clone_from(&sent),
            None => self.last.push(sent.clone()),
        }
        sent
    }

    fn talk(&mut self) -> Talk {
        let r = &mut self.random;
        let version = 2 * r.below(2);
        let near = (r.pick(&self.hosts[version]), r.pick(&[49152, 49153, 49154, 80]));
        let other = (r.pick(&self.hosts[version + 1]), r.pick(&[443, 443, 53, 49154]));
        Talk { far: r.one_in(3), near, other, script: r.below(SCRIPTS.len()), step: 0 }
    }

    /// The next segment of one of some sessions.
    fn goes_on(&mut self) -> Sent {
        if self.talks.len() < 24 || self.random.one_in(40) {
            let new = self.talk();
            let at = self.random.below(24);
            match self.talks.get_mut(at) {
                Some(place) => *place = new,
                None => self.talks.push(new),
            }
        }
        let at = self.random.below(self.talks.len());
        let talk = &mut self.talks[at];
        let script = SCRIPTS[talk.script];
        let (initiator, flags) = script[talk.step % script.len()];
        talk.step += 1;
        if talk.step.is_multiple_of(script.len()) && !self.random.one_in(3) {
            talk.script = self.random.below(SCRIPTS.len());
        }
        let far = talk.far == initiator;
        let (near, other) = (talk.near, talk.other);
        let (s, d) = if far { (other, near) } else { (near, other) };
        let payload = self.random.bytes(8);
        addressed(far, Build::tcp(s, d, flags, &payload))
    }

    /// Anything that an end point or a router sends, and how it may be dressed.
    fn valid(&mut self) -> Sent {
        if self.random.one_in(24) {
            return self.neighbour();
        }
        let Talk { far, near, other, .. } = self.talk();
        let (s, d) = if far { (other, near) } else { (near, other) };
        let mut build = match self.random.one_in(5) {
            true => self.error(s, d),
            false => self.plain(s, d),
        };
        self.dress(&mut build);
        let mut sent = addressed(far, build);
        match self.random.below(24) {
            0 => sent.frame[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]),
            1 => sent.frame[..6].fill(0xff),
            2 => sent.frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]),
            _ => {}
        }
        sent
    }

    fn plain(&mut self, s: (IpAddr, u16), d: (IpAddr, u16)) -> Build {
        let r = &mut self.random;
        let payload = r.bytes(32);
        match r.below(10) {
            0..4 => {
                let any = r.next() as u8;
                let flags = r.pick(&[2, 2, 2, 0x12, 0x12, 0x10, 0x10, 0x18, 0x11, 4, 0x14, any]);
                Build::tcp(s, d, flags, &payload)
            }
            4..7 => Build::udp(s, d, &payload),
            7 | 8 => {
                let v4 = s.0.is_ipv4();
                let any = r.next() as u8;
                let kind = r.pick(if v4 { &[8, 8, 0, 0, 13] } else { &[128, 128, 129, 129, 131] });
                let kind = if r.one_in(16) { any } else { kind };
                let id = 1 + r.below(2) as u16;
                Build::icmp(s.0, d.0, kind, 0, &[&id.to_be_bytes()[..], &[0, 1], &payload].concat())
            }
            _ => {
                let protocol = r.pick(&[47, 132, 132, 50, 6, 17, 1, 58]);
                let ports = [s.1.to_be_bytes(), d.1.to_be_bytes()].concat();
                Build::new(s.0, d.0, protocol, [&ports[..], &[0; 8], &payload].concat(), None)
            }
        }
    }

    /// An ICMP error about a packet that went the other way, or not.
    fn error(&mut self, s: (IpAddr, u16), d: (IpAddr, u16)) -> Build {
        let mut about = self.plain(d, s);
        if self.random.one_in(6) {
            self.dress(&mut about);
        }
        let r = &mut self.random;
        let mut packet = about.packet();
        packet.truncate(28 + r.below(100));
        let from = if r.one_in(3) { d.0 } else { s.0 };
        let to = if r.one_in(8) { s.0 } else { d.0 };
        let kind = r.pick(if s.0.is_ipv4() { &[3, 11, 12, 5] } else { &[1, 2, 3, 137] });
        Build::icmp(from, to, kind, r.below(16) as u8, &[&[0; 4][..], &packet].concat())
    }

    fn dress(&mut self, b: &mut Build) {
        let r = &mut self.random;
        match r.below(12) {
            0 => b.tags = vec![10],
            1 => b.tags = vec![10, 20],
            2 if r.one_in(3) => b.tags = vec![1, 2, 3],
            _ => {}
        }
        b.padding = if r.one_in(3) { r.below(20) } else { 0 };
        let protocol = b.protocol;
        if b.source.is_ipv4() {
            b.fragment = r.pick(&[0, 0, 0, 0, 0, 0, 0x4000, 0x4000, 0x4000, 0x2000, 7, 0x2007]);
            b.options = match r.below(24) {
                0 => vec![1, 1, 1, 0],
                1 => vec![131, 4, 4, 0],
                2 => vec![7, 60, 0, 0],
                3 => vec![148, 4, 0, 0, 7, 4, 4, 0],
                4 => (0..4 * r.below(11)).map(|_| r.next() as u8).collect(),
                _ => vec![],
            };
            return;
        }
        let [high, low] = r.pick(&[0_u16, 0, 0, 0, 1, 8, 9, 0xfff8]).to_be_bytes();
        let left = r.pick(&[0, 0, 0, 1]);
        let (options, first) = match r.below(24) {
            0 => (vec![60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0], 0),
            1 => (vec![protocol, 0, 0, left, 0, 0, 0, 0], 43),
            2 => (vec![0, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0], 60),
            3 | 4 => (vec![protocol, 0, high, low, 0, 0, 0, 9], 44),
            5 => (vec![protocol, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 51),
            6 => {
                let mut all = [60, 0, 1, 4, 0, 0, 0, 0].repeat(7 + r.below(3));
                let last = all.len() - 8;
                all[last] = protocol;
                (all, 60)
            }
            7 => ((0..8 * r.below(4)).map(|_| r.next() as u8).collect(), r.pick(&[0, 43, 44, 51, 60])),
            _ => return,
        };
        (b.options, b.first_extension) = (options, Some(first));
    }

    /// Solicitations and advertisements, most of them valid; ARP.
    fn neighbour(&mut self) -> Sent {
        let r = &mut self.random;
        let far = r.one_in(2);
        let IpAddr::V6(target) = r.pick(&self.hosts[3]) else { unreachable!() };
        let near = r.pick(&self.hosts[2]);
        let to = if r.one_in(2) { MacAddr([0x33, 0x33, 0xff, 0, 0, 0x10]) } else { own(far) };
        if r.one_in(3) {
            let last = 10 + r.below(3) as u8;
            let mut f = [&to.0[..], &CLIENT_MAC.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat();
            f.push(r.pick(&[1, 1, 2, 3]));
            f.extend([&CLIENT_MAC.0[..], &[198, 51, 100, 1], &[0; 6], &[192, 0, 2, last]].concat());
            f.extend([0; 18]);
            return Sent { far, frame: f };
        }
        let (kind, option) = r.pick(&[(135, 1), (135, 1), (136, 2)]);
        let low = target.octets();
        let solicited = format!("ff02::1:ff{:02x}:{:02x}{:02x}", low[13], low[14], low[15]);
        let from = if r.one_in(4) { ip("::") } else { near };
        let mut rest = [&[r.pick(&[0, 0x20, 0x60]), 0, 0, 0][..], &low].concat();
        if !r.one_in(4) {
            rest.extend([&[option, r.pick(&[1, 1, 1, 0, 2])], &CLIENT_MAC.0[..]].concat());
        }
        let destination = if r.one_in(2) { ip(&solicited) } else { IpAddr::V6(target) };
        let hops = r.pick(&[255, 255, 255, 64]);
        Sent {
            far,
            frame: Build { hops, ..Build::icmp(from, destination, kind, 0, &rest) }
                .macs(to, CLIENT_MAC)
                .frame(),
        }
    }

    /// Bytes changed in any header, most often with the header's checksum made right again; cut, or longer.
    fn mutated(&mut self) -> Sent {
        let mut sent = if self.random.one_in(2) { self.valid() } else { self.goes_on() };
        let r = &mut self.random;
        for _ in 0..1 + r.below(3) {
            let at = r.below(sent.frame.len());
            sent.frame[at] = match r.below(4) {
                0 => sent.frame[at] ^ 1 << r.below(8),
                1 => r.pick(&[0, 1, 4, 5, 6, 17, 58, 0x7f, 0x80, 0xff]),
                2 => sent.frame[at].wrapping_add(r.pick(&[1, 0xff])),
                _ => r.next() as u8,
            };
        }
        match r.below(6) {
            0 => sent.frame.truncate(r.below(sent.frame.len() + 1)),
            1 => sent.frame.extend(r.bytes(30)),
            _ => {}
        }
        if !r.one_in(4) {
            right_again(&mut sent.frame);
        }
        sent
    }

    fn noise(&mut self) -> Sent {
        let r = &mut self.random;
        let mut frame = r.bytes(120);
        let head: &[u8] = r.pick(&[&[8, 0, 0x45][..], &[0x86, 0xdd, 0x60], &[0x81, 0], &[8, 6], &[]]);
        if let Some(place) = frame.get_mut(12..12 + head.len()) {
            place.copy_from_slice(head);
        }
        if let Some(b) = frame.get_mut(6) {
            *b &= 0xfe;
        }
        right_again(&mut frame);
        Sent { far: r.one_in(2), frame }
    }
}

fn own(far: bool) -> MacAddr {
    if far { LB_BACKEND_MAC } else { LB_CLIENT_MAC }
}

fn addressed(far: bool, build: Build) -> Sent {
    Sent { far, frame: build.macs(own(far), CLIENT_MAC).frame() }
}

/// The IPv4 header's checksum, below up to two tags.
fn right_again(frame: &mut [u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) && at < 20 {
        at += 4;
    }
    let Some([8, 0, first, ..]) = frame.get(at..) else { return };
    let header = usize::from(first % 16) * 4;
    let Some(header) = frame.get_mut(at + 2..at + 2 + header).filter(|h| h.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = checksum(&[header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}
