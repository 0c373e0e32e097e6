//! What NAT, tunnels and ICMP errors make of a frame, written from the RFCs byte by byte: for the balancer's model.

use std::net::IpAddr;

use super::{checksum, naive::Naive, octets};

/// Where the IP header begins.
pub fn l3(frame: &[u8]) -> usize {
    let mut at = 14;
    while [[0x81, 0], [0x88, 0xa8]].contains(&[frame[at - 2], frame[at - 1]]) {
        at += 4;
    }
    at
}

/// The IP packet without what pads it.
pub fn packet(frame: &[u8]) -> &[u8] {
    let ip = &frame[l3(frame)..];
    let word = |at: usize| usize::from(ip[at]) << 8 | usize::from(ip[at + 1]);
    &ip[..if ip[0] >> 4 == 4 { word(2) } else { 40 + word(4) }]
}

fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    (sum & 0xffff) as u16 + (sum >> 16) as u16
}

/// RFC 1624 eqn. 3, word by word.
fn patched(sum: u16, old: &[u8], new: &[u8]) -> u16 {
    let words = |b: &[u8]| {
        b.chunks(2).map(|w| u16::from(w[0]) << 8 | u16::from(*w.get(1).unwrap_or(&0))).collect::<Vec<_>>()
    };
    !words(old).iter().zip(words(new)).fold(!sum, |sum, (old, new)| add(add(sum, !old), new))
}

fn patch(bytes: &mut [u8], at: usize, udp: bool, old: &[u8], new: &[u8]) {
    let Some(place) = bytes.get_mut(at..at + 2) else { return };
    let before = u16::from_be_bytes([place[0], place[1]]);
    let after = match (udp, before, patched(before, old, new)) {
        (true, 0, _) => 0,
        (true, _, 0) => 0xffff,
        (.., after) => after,
    };
    place.copy_from_slice(&after.to_be_bytes());
}

/// One end of a packet with this transport; `ip` may end early.
fn end(ip: &mut [u8], protocol: u8, l4: usize, source: bool, to: (IpAddr, u16)) {
    let v4 = to.0.is_ipv4();
    let at = match (v4, source) {
        (true, true) => 12,
        (true, false) => 16,
        (false, true) => 8,
        (false, false) => 24,
    };
    let new = octets(to.0);
    let old = ip[at..at + new.len()].to_vec();
    ip[at..at + new.len()].copy_from_slice(&new);
    if v4 {
        patch(ip, 10, false, &old, &new);
    }
    let port = l4 + if source { 0 } else { 2 };
    let (old, new) = ([&old[..], &ip[port..port + 2]].concat(), [&new[..], &to.1.to_be_bytes()].concat());
    ip[port..port + 2].copy_from_slice(&to.1.to_be_bytes());
    match protocol {
        6 => patch(ip, l4 + 16, false, &old, &new),
        17 => patch(ip, l4 + 6, true, &old, &new),
        _ => {}
    }
}

/// A frame with one end replaced; of an ICMP error, the other end of what it quotes, too.
pub fn translated(
    frame: &[u8],
    p: &Naive,
    quoted: Option<&Naive>,
    source: bool,
    to: (IpAddr, u16),
) -> Vec<u8> {
    let mut out = frame.to_vec();
    let (from, length) = (l3(frame), packet(frame).len());
    let ip = &mut out[from..from + length];
    let l4 = length - p.transport.len();
    let Some(q) = quoted else {
        end(ip, p.protocol, l4, source, to);
        return out;
    };
    let width = octets(to.0).len();
    let before = ip.to_vec();
    // The outer address alone: 0 is no protocol with a checksum, and the port is put back.
    end(ip, 0, l4, source, to);
    ip[l4..l4 + 4].copy_from_slice(&before[l4..l4 + 4]);
    let inner = l4 + 8;
    let inner_l4 = length - inner - q.transport.len();
    end(&mut ip[inner..], q.protocol, inner_l4, !source, to);
    let pseudo = if width == 16 { 8..40 } else { 0..0 };
    let both = |ip: &[u8]| [&ip[pseudo.clone()], &ip[l4..l4 + 2], &ip[l4 + 4..]].concat();
    let (old, new) = (both(&before), both(ip));
    patch(ip, l4 + 2, false, &old, &new);
    out
}

/// One hop less.
pub fn hopped(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    let ip = &mut out[l3(frame)..];
    if ip[0] >> 4 == 6 {
        ip[7] -= 1;
        return out;
    }
    let old = [ip[8], ip[9]];
    ip[8] -= 1;
    let new = [ip[8], ip[9]];
    patch(ip, 10, false, &old, &new);
    out
}

/// A tunnel's ends, and whether it is GUE.
pub struct Tunnel {
    pub ours: IpAddr,
    pub theirs: IpAddr,
    pub gue: bool,
    pub hash: u64,
}

fn ipv4(class: u8, df: bool, protocol: u8, s: IpAddr, d: IpAddr, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut h = vec![0x45, class];
    h.extend(total.to_be_bytes());
    h.extend([0, 0, if df { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
    h.extend([octets(s), octets(d)].concat());
    let sum = checksum(&[&h]);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    [&h[..], payload].concat()
}

fn ipv6(class: u8, label: u32, protocol: u8, s: IpAddr, d: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut h = (6 << 28 | u32::from(class) << 20 | label).to_be_bytes().to_vec();
    h.extend((payload.len() as u16).to_be_bytes());
    h.extend([protocol, 64]);
    [h, octets(s), octets(d), payload.to_vec()].concat()
}

fn pseudo(s: IpAddr, d: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    [octets(s), octets(d), (length as u32).to_be_bytes().to_vec(), vec![0, 0, 0, protocol]].concat()
}

impl Tunnel {
    /// A frame's packet in another, and nothing behind it.
    pub fn wrapped(&self, frame: &[u8]) -> Vec<u8> {
        let inner = packet(frame);
        let v6 = inner[0] >> 4 == 6;
        let class = if v6 { inner[0] << 4 | inner[1] >> 4 } else { inner[1] };
        let number = if v6 { 41 } else { 4 };
        let label = (self.hash >> 44) as u32;
        let (protocol, payload) = match self.gue {
            true => (17, self.gue(number, inner)),
            false => (number, inner.to_vec()),
        };
        let (ether_type, outer) = match self.ours {
            IpAddr::V4(_) => ([8, 0], ipv4(class, true, protocol, self.ours, self.theirs, &payload)),
            IpAddr::V6(_) => ([0x86, 0xdd], ipv6(class, label, protocol, self.ours, self.theirs, &payload)),
        };
        [&frame[..l3(frame) - 2], &ether_type, &outer].concat()
    }

    fn gue(&self, number: u8, inner: &[u8]) -> Vec<u8> {
        let port = 49_152 + (self.hash >> 24) as u16 % 16_384;
        let length = 12 + inner.len();
        let mut udp = [port.to_be_bytes(), 6080u16.to_be_bytes(), (length as u16).to_be_bytes()].concat();
        udp.extend([0, 0, 0, number, 0, 0]);
        udp.extend(inner);
        if self.ours.is_ipv6() {
            let sum = match checksum(&[&pseudo(self.ours, self.theirs, 17, length), &udp]) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        udp
    }
}

/// The ICMP error about a frame, from where it went to: "too big" with an MTU, or time exceeded.
pub fn error_about(frame: &[u8], p: &Naive, mtu: Option<u16>, mac: [u8; 6]) -> Vec<u8> {
    let v4 = p.source.is_ipv4();
    let ip = packet(frame);
    let quote = &ip[..ip.len().min(if v4 { 576 - 28 } else { 1280 - 48 })];
    let [high, low] = mtu.unwrap_or(0).to_be_bytes();
    let (kind, code) = match (mtu, v4) {
        (Some(_), true) => (3, 4),
        (Some(_), false) => (2, 0),
        (None, true) => (11, 0),
        (None, false) => (3, 0),
    };
    let mut message = [&[kind, code, 0, 0, 0, 0, high, low], quote].concat();
    let before = if v4 { vec![] } else { pseudo(p.destination, p.source, 58, message.len()) };
    let sum = checksum(&[&before, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let answer = match v4 {
        true => ipv4(0xc0, false, 1, p.destination, p.source, &message),
        false => ipv6(0xc0, 0, 58, p.destination, p.source, &message),
    };
    [&frame[6..12], &mac, &frame[12..l3(frame)], &answer].concat()
}

/// Whether the transport checksum is right (or "none").
pub fn transport_is_right(p: &Naive) -> bool {
    let t = &p.transport;
    let length = match p.protocol {
        17 if t[6..8] == [0, 0] => return true,
        17 => usize::from(t[4]) << 8 | usize::from(t[5]),
        _ => t.len(),
    };
    let before = if p.protocol == 1 { vec![] } else { pseudo(p.source, p.destination, p.protocol, length) };
    checksum(&[&before, &t[..length]]) == 0
}
