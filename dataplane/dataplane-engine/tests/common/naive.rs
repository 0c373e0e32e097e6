//! A slow, plain reading of frames for the models: owned vectors, `IpAddr`, no shared code with the engine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;

#[derive(Debug, Clone, PartialEq)]
pub struct Naive {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub vlan: (u16, u16),
    pub flags: u8,
    /// Type, code, identifier.
    pub icmp: Option<(u8, u8, u16)>,
    /// Rest of the packet from the transport header on.
    pub transport: Vec<u8>,
    pub hops: u8,
    /// Of a fragment: which part of which datagram.
    pub piece: Option<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub id: u32,
    /// First byte and the one after the last.
    pub bytes: std::ops::Range<usize>,
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// The parser must refuse it.
    Bad,
    Arp(Vec<u8>),
    Ip(Naive),
}

fn word(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from(*b.get(at)?) << 8 | u16::from(*b.get(at + 1)?))
}

/// Whole packets only.
pub fn read(frame: &[u8]) -> Seen {
    match read_any(frame) {
        Seen::Ip(p) if p.piece.is_some() => Seen::Bad,
        seen => seen,
    }
}

/// Fragments, too.
pub fn read_any(frame: &[u8]) -> Seen {
    read_frame(frame).unwrap_or(Seen::Bad)
}

fn read_frame(frame: &[u8]) -> Option<Seen> {
    let mut tags = vec![];
    let mut rest = frame.get(12..)?;
    if frame[6] & 1 == 1 {
        return None;
    }
    while matches!(word(rest, 0)?, 0x8100 | 0x88a8) {
        tags.push(word(rest, 2)? % 4096);
        rest = &rest[4..];
        if tags.len() > 2 {
            return None;
        }
    }
    let vlan = (tags.first().copied().unwrap_or(0), tags.get(1).copied().unwrap_or(0));
    match word(rest, 0)? {
        0x0806 => Some(Seen::Arp(rest[2..].to_vec())),
        0x0800 => {
            let (mut ip, header) = v4(&rest[2..])?;
            transport(&mut ip)?;
            (checksum(&[&header]) == 0).then_some(())?;
            ip.vlan = vlan;
            Some(Seen::Ip(ip))
        }
        0x86dd => {
            let mut ip = v6(&rest[2..], true)?;
            transport(&mut ip)?;
            ip.vlan = vlan;
            Some(Seen::Ip(ip))
        }
        _ => None,
    }
}

fn empty(source: IpAddr, destination: IpAddr, protocol: u8, hops: u8, transport: &[u8]) -> Naive {
    Naive {
        source,
        destination,
        protocol,
        source_port: 0,
        destination_port: 0,
        vlan: (0, 0),
        flags: 0,
        icmp: None,
        transport: transport.to_vec(),
        hops,
        piece: None,
    }
}

/// The packet and its header's bytes.
fn v4(b: &[u8]) -> Option<(Naive, Vec<u8>)> {
    let header = usize::from(*b.first()? % 16) * 4;
    let total = usize::from(word(b, 2)?);
    if b[0] / 16 != 4 || header < 20 || total < header || total > b.len() {
        return None;
    }
    let mut options = &b[20..header];
    while !options.is_empty() {
        match options[0] {
            0 => break,
            1 => options = &options[1..],
            131 | 137 => return None,
            _ => {
                let length = usize::from(*options.get(1)?);
                if length < 2 || length > options.len() {
                    return None;
                }
                options = &options[length..];
            }
        }
    }
    let source = Ipv4Addr::new(b[12], b[13], b[14], b[15]);
    let destination = Ipv4Addr::new(b[16], b[17], b[18], b[19]);
    let bad_source = source.octets()[0] >= 224 || source.is_loopback();
    if bad_source || destination.is_loopback() || destination.is_unspecified() {
        return None;
    }
    let mut it = empty(source.into(), destination.into(), b[9], b[8], &b[header..total]);
    // An offset, or more fragments.
    let word_6 = word(b, 6)?;
    if word_6 % 0x4000 != 0 {
        let offset = usize::from(word_6 % 0x2000) * 8;
        let more = word_6 & 0x2000 != 0;
        it.piece = Some(Piece { id: u32::from(word(b, 4)?), bytes: offset..offset + total - header, more });
    }
    Some((it, b[..header].to_vec()))
}

fn v6(b: &[u8], whole: bool) -> Option<Naive> {
    let length = usize::from(word(b, 4)?);
    if b.len() < 40 || b[0] / 16 != 6 || whole && length > b.len() - 40 {
        return None;
    }
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&b[at..at + 16]).unwrap());
    let (source, destination) = (address(8), address(24));
    let never = |a: Ipv6Addr| a.is_loopback() || a.to_ipv4_mapped().is_some();
    if source.is_multicast() || never(source) || never(destination) || destination.is_unspecified() {
        return None;
    }
    let mut rest = if whole { &b[40..40 + length] } else { &b[40..] };
    let mut next = b[6];
    let mut walked = 0;
    let mut piece = None;
    while [0, 43, 44, 51, 60].contains(&next) {
        if walked == 8 || rest.len() < 8 || next == 0 && walked > 0 {
            return None;
        }
        let size = match next {
            44 => 8,
            51 => (usize::from(rest[1]) + 2) * 4,
            _ => (usize::from(rest[1]) + 1) * 8,
        };
        if next == 43 && rest[3] != 0 {
            return None;
        }
        // Fragment offset or the "more" flag; two reserved bits lie between.
        let fragment = next == 44 && word(rest, 2)? & 0xfff9 != 0;
        if next == 44 && piece.is_some() {
            return None;
        }
        if fragment {
            let offset = usize::from(word(rest, 2)? & 0xfff8);
            let id = u32::from(word(rest, 4)?) << 16 | u32::from(word(rest, 6)?);
            let more = rest[3] & 1 != 0;
            piece = Some(Piece { id, bytes: offset..offset + rest.len() - 8, more });
        }
        next = rest[0];
        rest = rest.get(size..)?;
        walked += 1;
        if piece.as_ref().is_some_and(|p| p.bytes.start > 0) {
            break;
        }
    }
    Some(Naive { piece, ..empty(source.into(), destination.into(), next, b[7], rest) })
}

fn transport(ip: &mut Naive) -> Option<()> {
    let t = &ip.transport;
    match &ip.piece {
        Some(piece) if piece.bytes.start > 0 => return Some(()),
        Some(_) if t.len() < 8 => return None,
        _ => {}
    }
    match ip.protocol {
        6 => {
            let header = usize::from(*t.get(12)? / 16) * 4;
            if t.len() < 20 || header < 20 || header > t.len() {
                return None;
            }
            let (fin, syn, rst, ack) = (t[13] & 1 != 0, t[13] & 2 != 0, t[13] & 4 != 0, t[13] & 16 != 0);
            if !(syn || rst || ack) || syn && fin || syn && rst || rst && fin {
                return None;
            }
            ip.flags = t[13];
            (ip.source_port, ip.destination_port) = (word(t, 0)?, word(t, 2)?);
        }
        17 => {
            let length = usize::from(word(t, 4)?);
            if t.len() < 8 || length < 8 || ip.piece.is_none() && length > t.len() {
                return None;
            }
            (ip.source_port, ip.destination_port) = (word(t, 0)?, word(t, 2)?);
        }
        132 => {
            if t.len() < 12 {
                return None;
            }
            (ip.source_port, ip.destination_port) = (word(t, 0)?, word(t, 2)?);
        }
        1 | 58 => {
            if t.len() < 8 || ip.source.is_ipv6() != (ip.protocol == 58) {
                return None;
            }
            ip.icmp = Some((t[0], t[1], word(t, 4)?));
            // Of ICMP only echo comes in pieces.
            (ip.piece.is_none() || ip.is_request() || ip.is_reply()).then_some(())?;
        }
        _ => {}
    }
    Some(())
}

impl Naive {
    fn is_type(&self, v4: &[u8], v6: &[u8]) -> bool {
        let wanted = if self.source.is_ipv4() { v4 } else { v6 };
        self.icmp.is_some_and(|(kind, ..)| wanted.contains(&kind))
    }
    pub fn is_request(&self) -> bool {
        self.is_type(&[8], &[128])
    }
    pub fn is_reply(&self) -> bool {
        self.is_type(&[0], &[129])
    }
    pub fn is_error(&self) -> bool {
        self.is_type(&[3, 11, 12], &[1, 2, 3, 4])
    }
    pub fn is_solicitation(&self) -> bool {
        self.is_type(&[], &[135])
    }
    pub fn is_advertisement(&self) -> bool {
        self.is_type(&[], &[136])
    }

    /// The packet an error is about.
    pub fn quoted(&self) -> Option<Self> {
        let b = self.transport.get(8..)?;
        let mut q = if self.source.is_ipv6() {
            v6(b, false).filter(|p| p.piece.is_none())?
        } else {
            let header = usize::from(*b.first()? % 16) * 4;
            if b.len() < 20 || b[0] / 16 != 4 || header < 20 || word(b, 6)? % 0x2000 != 0 {
                return None;
            }
            let address = |at: usize| IpAddr::from([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            empty(address(12), address(16), b[9], b[8], b.get(header..)?)
        };
        if q.transport.len() < 8 {
            return None;
        }
        match q.protocol {
            6 | 17 | 132 => {
                (q.source_port, q.destination_port) = (word(&q.transport, 0)?, word(&q.transport, 2)?);
            }
            1 | 58 => {
                if q.source.is_ipv6() != (q.protocol == 58) {
                    return None;
                }
                q.icmp = Some((q.transport[0], q.transport[1], word(&q.transport, 4)?));
                (q.is_request() || q.is_reply()).then_some(())?;
            }
            _ => {}
        }
        q.vlan = self.vlan;
        Some(q)
    }

    /// RFC 4861 §7.1: the target, if valid.
    pub fn discovery(&self) -> Option<Ipv6Addr> {
        let (IpAddr::V6(s), IpAddr::V6(d)) = (self.source, self.destination) else { return None };
        let t = &self.transport;
        if t.len() < 24 || self.hops != 255 || t[1] != 0 {
            return None;
        }
        let length = (t.len() as u32).to_be_bytes();
        if checksum(&[&s.octets(), &d.octets(), &length, &[0, 0, 0, 58], t]) != 0 {
            return None;
        }
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&t[8..24]).unwrap());
        if target.is_multicast() || target.is_unspecified() {
            return None;
        }
        let mut options = &t[24..];
        let mut source_option = false;
        while !options.is_empty() {
            let size = usize::from(*options.get(1)?) * 8;
            if size == 0 || size > options.len() {
                return None;
            }
            source_option |= options[0] == 1;
            options = &options[size..];
        }
        let to_solicited_node = d.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
        if self.is_solicitation() && s.is_unspecified() && (source_option || !to_solicited_node) {
            return None;
        }
        if self.is_advertisement() && d.is_multicast() && t[4] & 0x40 != 0 {
            return None;
        }
        Some(target)
    }
}

/// Operation, sender MAC, sender and target of a valid ARP packet.
pub fn arp(p: &[u8]) -> Option<(u8, [u8; 6], Ipv4Addr, Ipv4Addr)> {
    let mac: [u8; 6] = p.get(8..14)?.try_into().ok()?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(p.get(at..at + 4)?).ok()?));
    let (sender, target) = (address(14)?, address(24)?);
    let right = p[..7] == [0, 1, 8, 0, 6, 4, 0] && [1, 2].contains(&p[7]) && mac[0] & 1 == 0 && mac != [0; 6];
    right.then_some((p[7], mac, sender, target))
}
