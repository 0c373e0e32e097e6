//! One frame, parsed once: Ethernet with up to two VLAN tags, ARP, IPv4, IPv6 and its extension headers, and the first
//! bytes of the transport.
//!
//! What comes out is known to lie within the frame and within the IP packet: `l3 < l4 <= end <= frame.len()`. What
//! must never be taken for granted after it: transport checksums (only end points verify them).
//!
//! A fragment is no packet: a later one has no ports to judge, and a first one whose rest is dropped only helps overlap and
//! tiny-fragment attacks (RFC 1858, RFC 3128). Who tracks datagrams asks [`piece`] instead. An IPv6 atomic fragment
//! (RFC 6946) is a whole packet.
//!
//! Tests: `tests/parser.rs` (random and mutated bytes), `tests/golden.rs`, and the models beside the functions.

mod piece;

pub(crate) use self::piece::{Piece, piece};

use crate::{
    checksum,
    hash::v4_bits,
    key::{Side, V4Key},
    reason::DropReason,
};

/// Bytes before the EtherType: two MAC addresses.
const MACS: usize = 12;
/// Most VLAN tags.
const MAX_TAGS: usize = 2;
/// Most IPv6 extension headers walked.
const MAX_EXTENSIONS: usize = 8;

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;
pub(crate) const ICMP_HEADER: usize = 8;

/// A frame that is worth a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// IPv4 or IPv6.
    Ip(Packet),
    /// ARP, not looked at yet; where its packet begins.
    Arp(usize),
}

/// What an ICMP or ICMPv6 message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// No ICMP at all.
    None,
    EchoRequest,
    EchoReply,
    /// Quotes a packet it is about.
    Error,
    NeighbourSolicitation,
    NeighbourAdvertisement,
    Other,
}

/// An IP packet's decisive fields. Addresses in [`crate::hash::address_bits`] form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub source: u128,
    pub destination: u128,
    /// Source port in the high half, destination port in the low one; the identifier, twice, for ICMP echo.
    pub ports: u32,
    /// Outer and inner VLAN id, 12 bits each.
    pub vlan: u32,
    pub protocol: u8,
    pub v6: bool,
    pub tcp_flags: u8,
    pub message: Message,
    /// ICMP type in the high byte, code in the low one.
    pub icmp: u16,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// Where the IP packet ends (padding follows).
    pub end: usize,
}

impl Packet {
    /// No packet's.
    pub(crate) const NOTHING: Self = Self {
        source: 0,
        destination: 0,
        ports: 0,
        vlan: 0,
        protocol: 0,
        v6: false,
        tcp_flags: 0,
        message: Message::None,
        icmp: 0,
        l3: 0,
        l4: 0,
        end: 0,
    };
}

/// Addresses, protocol and ports of a packet quoted by an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub source: u128,
    pub destination: u128,
    pub ports: u32,
    pub protocol: u8,
    pub message: Message,
    /// Where its transport header begins in the frame.
    pub l4: usize,
}

/// Bytes of `frame` at a constant offset, if there.
#[inline]
fn chunk<const N: usize>(frame: &[u8], at: usize) -> Option<&[u8; N]> {
    frame.get(at..)?.first_chunk()
}

#[inline]
fn be16(a: u8, b: u8) -> u16 {
    u16::from_be_bytes([a, b])
}

/// Of the commonest frames: untagged IPv4 without options or fragments, a UDP datagram or a TCP segment that only acknowledges or only
/// opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Simple {
    /// Source and destination.
    pub addresses: (u32, u32),
    /// As in [`Packet`].
    pub ports: u32,
    /// 0: it is none of those, and nothing else is meant.
    pub protocol: u8,
    /// SYN where it is none of those.
    pub tcp_flags: u8,
    /// Where the IP packet ends.
    pub end: u16,
}

impl Simple {
    /// Of a frame that is none of those.
    pub(crate) const NOTHING: Self =
        Self { addresses: (0, 0), ports: 0, protocol: 0, tcp_flags: SYN, end: 0 };

    /// As [`parse`] says it.
    #[inline]
    pub(crate) fn packet(&self) -> Packet {
        Packet {
            source: v4_bits(self.addresses.0),
            destination: v4_bits(self.addresses.1),
            ports: self.ports,
            vlan: 0,
            protocol: self.protocol,
            v6: false,
            tcp_flags: self.tcp_flags,
            message: Message::None,
            icmp: 0,
            l3: 14,
            l4: 34,
            end: usize::from(self.end),
        }
    }
}

/// What of [`Simple`] is not in the key of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    pub end: u16,
    /// SYN: it does not go on with a connection.
    pub tcp_flags: u8,
    /// 0: it is not simple.
    pub protocol: u8,
}

impl Rest {
    pub(crate) const NOTHING: Self = Self::of(&Simple::NOTHING);

    #[inline(always)]
    pub(crate) const fn of(simple: &Simple) -> Self {
        Self { end: simple.end, tcp_flags: simple.tcp_flags, protocol: simple.protocol }
    }

    /// Of a frame with this key that came from `side`.
    #[inline]
    pub(crate) fn simple(self, key: V4Key, side: Side) -> Simple {
        let (addresses, ports) = key.as_sent_from(side);
        let Self { end, tcp_flags, protocol } = self;
        Simple { addresses, ports, protocol, tcp_flags, end }
    }
}

/// A frame's header and the hash of its connection, read once for all functions of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub key: V4Key,
    pub hash: u64,
    pub rest: Rest,
}

impl Header {
    pub(crate) const NOTHING: Self = Self { key: V4Key::NOTHING, hash: 0, rest: Rest::NOTHING };

    /// Of a frame that came from `side`, for tables of this seed.
    #[inline(always)]
    pub(crate) fn read(frame: &[u8], side: Side, seed: u64) -> Self {
        let simple = simple(frame);
        let key = V4Key::of(simple.addresses, simple.ports, simple.protocol, side);
        Self { key, hash: key.hash(seed), rest: Rest::of(&simple) }
    }
}

/// Of protocol 0: [`parse`] says what it is. Otherwise `parse` says the same.
#[inline(always)]
pub(crate) fn simple(frame: &[u8]) -> Simple {
    let Some(h) = frame.first_chunk::<54>() else { return Simple::NOTHING };
    let octets =
        |at: usize| [h[at], h[at + 1], h[at + 2], h[at + 3], h[at + 4], h[at + 5], h[at + 6], h[at + 7]];
    let little = |at: usize| u64::from_le_bytes(octets(at));
    let native = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    // Source address of Ethernet and type; version to fragment; time to live to source address.
    let (ethernet, first, second) = (little(6), little(14), little(22));
    // A sum of ones' complements is right in either order of bytes and of any width; it is never 0, for there is a version in it.
    let (sum, carry) = first.overflowing_add(second);
    let (sum, more) = sum.overflowing_add(u64::from(u32::from_le(native(30))) + u64::from(carry));
    let sum = sum.wrapping_add(u64::from(more));
    let total = u32::from(be16(h[16], h[17]));
    let (protocol, flags) = (h[23], h[47]);
    // Whatever differs is not 0; what is beyond a bound has its highest bit.
    let differs = (ethernet ^ 0x0008 << 48) & (0xffff << 48 | 1)
        | (first ^ 0x45) & (0xff3f << 48 | 0xff)
        | u64::from(UNUSUAL[usize::from(h[26])] & SOURCE | UNUSUAL[usize::from(h[30])] & DESTINATION);
    let beyond = length_of(frame).wrapping_sub(total + 14);
    let (tcp_flags, beyond) = match protocol {
        TCP => {
            let header = u32::from(h[46] >> 4) * 4;
            let other = u32::from(UNUSUAL[usize::from(flags)] & SEGMENT) << 24;
            (flags, beyond | other | header.wrapping_sub(20) | total.wrapping_sub(20).wrapping_sub(header))
        }
        UDP => {
            let length = u32::from(be16(h[38], h[39]));
            (0, beyond | length.wrapping_sub(8) | total.wrapping_sub(20).wrapping_sub(length))
        }
        _ => (0, u32::MAX),
    };
    // Without a header, what is left of it is beyond any bound, too.
    let beyond = beyond | total.wrapping_sub(28);
    let good = (differs | u64::from(beyond >> 31) == 0)
        & sum.is_multiple_of(0xffff)
        & (frame.len() <= usize::from(u16::MAX));
    let addresses = u64::from_be_bytes(octets(26));
    Simple {
        addresses: ((addresses >> 32) as u32, (addresses & 0xffff_ffff) as u32),
        ports: u32::from_be(native(34)),
        protocol: if good { protocol } else { 0 },
        tcp_flags: if good { tcp_flags } else { SYN },
        // The frame is not longer than that.
        end: ((total + 14) & 0xffff) as u16,
    }
}

/// Of the commonest frames of IPv6, untagged and without extension headers: a UDP datagram or a TCP segment. `None`: [`parse`] says what it
/// is. What is not `None` is what `parse` says it is.
#[inline]
pub(crate) fn simple_v6(frame: &[u8]) -> Option<Packet> {
    let h = frame.first_chunk::<14>()?;
    if be16(h[12], h[13]) != IPV6 || h[6] & 1 != 0 || frame.len() > usize::from(u16::MAX) {
        return None;
    }
    let mut packet = ipv6_header(frame, h.len(), 0).ok()?;
    let payload = frame.get(packet.l4..packet.end)?;
    match packet.protocol {
        TCP => tcp(&mut packet, payload),
        UDP => udp(&mut packet, payload),
        _ => return None,
    }
    .ok()?;
    Some(packet)
}

/// What is not simple of the first octet of a source or destination address, and of the flags of a segment: a bit each, by octet.
static UNUSUAL: [u8; 256] = unusual();
const SOURCE: u8 = 1;
const DESTINATION: u8 = 2;
/// The highest bit.
const SEGMENT: u8 = 0x80;

const fn unusual() -> [u8; 256] {
    let mut all = [0; 256];
    let mut octet = 0_u8;
    loop {
        let loopback = octet == 127;
        let source = if loopback || octet > 223 { SOURCE } else { 0 };
        // Of network 0, only 0.0.0.0 is refused in the end.
        let destination = if loopback || octet == 0 { DESTINATION } else { 0 };
        let usual = octet & (SYN | ACK | RST | FIN) == ACK || octet == SYN;
        all[octet as usize] = source | destination | if usual { 0 } else { SEGMENT };
        if octet == u8::MAX {
            return all;
        }
        octet += 1;
    }
}

/// Bytes of a frame; of one that is longer than any, more than any.
#[inline]
fn length_of(frame: &[u8]) -> u32 {
    u32::try_from(frame.len()).unwrap_or(u32::MAX >> 1)
}

/// Parses a whole frame.
#[inline]
pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let Link { ethertype, at, vlan } = link(frame)?;
    match ethertype {
        IPV4 => ipv4(frame, at, vlan).map(Parsed::Ip),
        IPV6 => ipv6(frame, at, vlan).map(Parsed::Ip),
        _ => Ok(Parsed::Arp(at)),
    }
}

/// What is before the network's header: one of three EtherTypes, where that header begins, and the VLANs.
struct Link {
    ethertype: u16,
    at: usize,
    vlan: u32,
}

#[inline]
fn link(frame: &[u8]) -> Result<Link, DropReason> {
    if frame.len() > usize::from(u16::MAX) {
        return Err(DropReason::Truncated);
    }
    // A group address as the sender's (IEEE 802.3 §3.2.3).
    if frame.get(6).is_some_and(|b| b & 1 != 0) {
        return Err(DropReason::Address);
    }
    let mut at = MACS;
    let mut vlan = 0;
    let mut tags = 0;
    loop {
        let [a, b] = *chunk(frame, at).ok_or(DropReason::Truncated)?;
        match be16(a, b) {
            ethertype @ (IPV4 | IPV6 | ARP) => return Ok(Link { ethertype, at: at + 2, vlan }),
            VLAN | SERVICE_VLAN if tags < MAX_TAGS => {
                let [a, b] = *chunk(frame, at + 2).ok_or(DropReason::Truncated)?;
                vlan |= u32::from(be16(a, b) & 0xfff) << (12 * (1 - tags));
                tags += 1;
                at += 4;
            }
            _ => return Err(DropReason::EtherType),
        }
    }
}

fn ipv4(frame: &[u8], l3: usize, vlan: u32) -> Result<Packet, DropReason> {
    let (mut packet, fragment) = ipv4_header(frame, l3, vlan)?;
    if fragment & 0x1fff != 0 {
        return Err(DropReason::Fragment);
    }
    if fragment & 0x2000 != 0 {
        return Err(DropReason::FirstFragment);
    }
    let payload = frame.get(packet.l4..packet.end).unwrap_or_default();
    transport(&mut packet, payload)?;
    Ok(packet)
}

/// A packet without its transport, and the word of flags and fragment offset.
#[inline]
fn ipv4_header(frame: &[u8], l3: usize, vlan: u32) -> Result<(Packet, u16), DropReason> {
    let h: &[u8; IPV4_HEADER] = chunk(frame, l3).ok_or(DropReason::Truncated)?;
    let header = usize::from(h[0] & 0xf) * 4;
    let total = usize::from(be16(h[2], h[3]));
    if h[0] >> 4 != 4 || header < IPV4_HEADER || total < header {
        return Err(DropReason::Ipv4Header);
    }
    let (l4, end) = (l3 + header, l3 + total);
    if end > frame.len() {
        return Err(DropReason::Truncated);
    }
    let options = &frame[l3 + IPV4_HEADER..l4];
    if checksum::fold(checksum::sum(h) + checksum::sum(options)) != 0xffff {
        return Err(DropReason::Ipv4Checksum);
    }
    if !options.is_empty() {
        ipv4_options(options)?;
    }
    let source = u32::from_be_bytes([h[12], h[13], h[14], h[15]]);
    let destination = u32::from_be_bytes([h[16], h[17], h[18], h[19]]);
    if h[12] >= 224 || h[12] == 127 || h[16] == 127 || destination == 0 {
        return Err(DropReason::Address);
    }
    let packet = Packet {
        source: v4_bits(source),
        destination: v4_bits(destination),
        ports: 0,
        vlan,
        protocol: h[9],
        v6: false,
        tcp_flags: 0,
        message: Message::None,
        icmp: 0,
        l3,
        l4,
        end,
    };
    Ok((packet, be16(h[6], h[7])))
}

/// Walks the options (at most 40 bytes): malformed ones and source routes do not pass.
#[cold]
fn ipv4_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => return Ok(()),
            (1, _) => options = rest,
            (131 | 137, _) => return Err(DropReason::SourceRoute),
            (_, [length, ..]) if *length >= 2 && usize::from(*length) <= options.len() => {
                options = &options[usize::from(*length)..];
            }
            _ => return Err(DropReason::Ipv4Header),
        }
    }
    Ok(())
}

fn ipv6(frame: &[u8], l3: usize, vlan: u32) -> Result<Packet, DropReason> {
    let mut packet = ipv6_header(frame, l3, vlan)?;
    if !matches!(packet.protocol, TCP | UDP | ICMPV6) {
        (packet.protocol, packet.l4) = ipv6_extensions(&frame[..packet.end], packet.protocol, packet.l4)?;
    }
    let payload = frame.get(packet.l4..packet.end).unwrap_or_default();
    transport(&mut packet, payload)?;
    Ok(packet)
}

/// A packet whose protocol is the first header's after the fixed one.
#[inline]
fn ipv6_header(frame: &[u8], l3: usize, vlan: u32) -> Result<Packet, DropReason> {
    let h: &[u8; IPV6_HEADER] = chunk(frame, l3).ok_or(DropReason::Truncated)?;
    if h[0] >> 4 != 6 {
        return Err(DropReason::Ipv6Header);
    }
    let end = l3 + IPV6_HEADER + usize::from(be16(h[4], h[5]));
    if end > frame.len() {
        return Err(DropReason::Truncated);
    }
    let (source, destination) = ipv6_addresses(h);
    if !ipv6_addresses_may_pass(source, destination) {
        return Err(DropReason::Address);
    }
    Ok(Packet {
        source,
        destination,
        ports: 0,
        vlan,
        protocol: h[6],
        v6: true,
        tcp_flags: 0,
        message: Message::None,
        icmp: 0,
        l3,
        l4: l3 + IPV6_HEADER,
        end,
    })
}

#[inline]
fn ipv6_addresses(h: &[u8; IPV6_HEADER]) -> (u128, u128) {
    let mut pair = [[0; 16]; 2];
    pair[0].copy_from_slice(&h[8..24]);
    pair[1].copy_from_slice(&h[24..40]);
    (u128::from_be_bytes(pair[0]), u128::from_be_bytes(pair[1]))
}

/// Multicast sources, loopback, an unspecified destination and IPv4-mapped addresses never cross a wire.
#[inline]
fn ipv6_addresses_may_pass(source: u128, destination: u128) -> bool {
    let mapped_or_loopback = |a: u128| a >> 32 == 0xffff || a == 1;
    source >> 120 != 0xff
        && !mapped_or_loopback(source)
        && !mapped_or_loopback(destination)
        && destination != 0
}

/// Walks to the transport: its protocol and where it begins. `packet` ends where the IP packet does.
fn ipv6_extensions(packet: &[u8], next: u8, at: usize) -> Result<(u8, usize), DropReason> {
    match ipv6_chain(packet, next, at)? {
        (_, _, Some(fragment)) if fragment.offset > 0 => Err(DropReason::Fragment),
        (_, _, Some(_)) => Err(DropReason::FirstFragment),
        (protocol, at, None) => Ok((protocol, at)),
    }
}

/// An IPv6 fragment header that makes its packet a fragment (RFC 8200 §4.5).
#[derive(Debug, Clone, Copy)]
struct FragmentHeader {
    id: u32,
    /// Bytes.
    offset: u32,
    more: bool,
    /// Where the fragment begins.
    at: usize,
}

/// [`ipv6_extensions`] of a fragment, too: of one that is not the first, up to its fragment header.
fn ipv6_chain(
    packet: &[u8],
    mut next: u8,
    mut at: usize,
) -> Result<(u8, usize, Option<FragmentHeader>), DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut fragment = None;
    for position in 0..=MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok((next, at, fragment));
        }
        let h: &[u8; 8] = chunk(packet, at).ok_or(DropReason::Ipv6Extension)?;
        let length = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(h[1]) + 2) * 4,
            _ => (usize::from(h[1]) + 1) * 8,
        };
        match next {
            HOP_BY_HOP if position > 0 => return Err(DropReason::Ipv6Extension),
            ROUTING if h[3] != 0 => return Err(DropReason::Ipv6Extension),
            // A fragment of a fragment is no packet that a host sends.
            FRAGMENT if fragment.is_some() => return Err(DropReason::Ipv6Extension),
            FRAGMENT if be16(h[2], h[3]) & 0xfff9 != 0 => {
                let id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                let offset = u32::from(be16(h[2], h[3]) & 0xfff8);
                fragment = Some(FragmentHeader { id, offset, more: h[3] & 1 != 0, at: at + 8 });
            }
            _ => {}
        }
        next = h[0];
        at += length;
        if fragment.is_some_and(|f| f.offset > 0) {
            return Ok((next, at, fragment));
        }
        if at > packet.len() {
            return Err(DropReason::Ipv6Extension);
        }
    }
    Err(DropReason::Ipv6Extension)
}

/// Fills in what the transport header says; `payload` is the rest of the IP packet.
#[inline]
fn transport(packet: &mut Packet, payload: &[u8]) -> Result<(), DropReason> {
    match packet.protocol {
        TCP => tcp(packet, payload),
        UDP => udp(packet, payload),
        ICMP | ICMPV6 => icmp(packet, payload),
        SCTP => {
            let h: &[u8; 12] = chunk(payload, 0).ok_or(DropReason::TransportHeader)?;
            packet.ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
            Ok(())
        }
        _ => Ok(()),
    }
}

#[inline]
fn tcp(packet: &mut Packet, payload: &[u8]) -> Result<(), DropReason> {
    let h: &[u8; TCP_HEADER] = chunk(payload, 0).ok_or(DropReason::TcpHeader)?;
    let header = usize::from(h[12] >> 4) * 4;
    if header < TCP_HEADER || header > payload.len() {
        return Err(DropReason::TcpHeader);
    }
    let flags = h[13];
    let impossible = |both: u8| flags & both == both;
    if flags & (SYN | ACK | RST) == 0
        || impossible(SYN | FIN)
        || impossible(SYN | RST)
        || impossible(FIN | RST)
    {
        return Err(DropReason::TcpFlags);
    }
    packet.tcp_flags = flags;
    packet.ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
    Ok(())
}

#[inline]
fn udp(packet: &mut Packet, payload: &[u8]) -> Result<(), DropReason> {
    let h: &[u8; UDP_HEADER] = chunk(payload, 0).ok_or(DropReason::UdpHeader)?;
    let length = usize::from(be16(h[4], h[5]));
    if length < UDP_HEADER || length > payload.len() {
        return Err(DropReason::UdpHeader);
    }
    packet.ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
    Ok(())
}

fn icmp(packet: &mut Packet, payload: &[u8]) -> Result<(), DropReason> {
    let h: &[u8; ICMP_HEADER] = chunk(payload, 0).ok_or(DropReason::TransportHeader)?;
    if packet.v6 != (packet.protocol == ICMPV6) {
        return Err(DropReason::IcmpType);
    }
    packet.message = message(packet.v6, h[0]);
    packet.icmp = be16(h[0], h[1]);
    if matches!(packet.message, Message::EchoRequest | Message::EchoReply) {
        packet.ports = u32::from_be_bytes([h[4], h[5], h[4], h[5]]);
    }
    Ok(())
}

fn message(v6: bool, kind: u8) -> Message {
    match (v6, kind) {
        (false, 8) | (true, 128) => Message::EchoRequest,
        (false, 0) | (true, 129) => Message::EchoReply,
        (false, 3 | 11 | 12) | (true, 1..=4) => Message::Error,
        (true, 135) => Message::NeighbourSolicitation,
        (true, 136) => Message::NeighbourAdvertisement,
        _ => Message::Other,
    }
}

/// The packet that an ICMP error quotes (RFC 792, RFC 4443 §2.4): its header and at least 8 bytes of transport.
pub(crate) fn quoted(frame: &[u8], error: &Packet) -> Option<Quoted> {
    let inner = frame.get(error.l4 + ICMP_HEADER..error.end)?;
    let (source, destination, protocol, at) = if error.v6 {
        let h: &[u8; IPV6_HEADER] = chunk(inner, 0)?;
        let (source, destination) = ipv6_addresses(h);
        let (protocol, at) = ipv6_extensions(inner, h[6], IPV6_HEADER).ok()?;
        (h[0] >> 4 == 6 && ipv6_addresses_may_pass(source, destination)).then_some((
            source,
            destination,
            protocol,
            at,
        ))?
    } else {
        let h: &[u8; IPV4_HEADER] = chunk(inner, 0)?;
        let header = usize::from(h[0] & 0xf) * 4;
        let whole = h[0] >> 4 == 4 && header >= IPV4_HEADER && be16(h[6], h[7]) & 0x1fff == 0;
        let address = |at: usize| v4_bits(u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
        whole.then_some((address(12), address(16), h[9], header))?
    };
    let h: &[u8; 8] = chunk(inner, at)?;
    let l4 = error.l4 + ICMP_HEADER + at;
    let mut it = Quoted { source, destination, ports: 0, protocol, message: Message::None, l4 };
    match protocol {
        TCP | UDP | SCTP => it.ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]),
        ICMP | ICMPV6 if error.v6 == (protocol == ICMPV6) => {
            it.message = message(error.v6, h[0]);
            matches!(it.message, Message::EchoRequest | Message::EchoReply).then_some(())?;
            it.ports = u32::from_be_bytes([h[4], h[5], h[4], h[5]]);
        }
        ICMP | ICMPV6 => return None,
        _ => {}
    }
    Some(it)
}

impl Packet {
    /// Bytes of the two IP addresses, for a pseudo header.
    pub(crate) fn addresses<'f>(&self, frame: &'f [u8]) -> Option<(&'f [u8], &'f [u8])> {
        let (first, width) = if self.v6 { (self.l3 + 8, 16) } else { (self.l3 + 12, 4) };
        frame.get(first..first + 2 * width)?.split_at_checked(width)
    }

    /// Whether the transport checksum is right (UDP over IPv4 may have none).
    pub(crate) fn transport_checksum_is_right(&self, frame: &[u8]) -> bool {
        let Some(payload) = frame.get(self.l4..self.end) else { return false };
        let payload = match (self.protocol, chunk::<8>(payload, 0)) {
            (UDP, Some([.., 0, 0])) => return !self.v6,
            (UDP, Some(&[_, _, _, _, a, b, _, _])) => {
                payload.get(..usize::from(be16(a, b))).unwrap_or(payload)
            }
            _ => payload,
        };
        checksum::fold(self.pseudo_header(frame, payload.len()) + checksum::sum(payload)) == 0xffff
    }

    /// Sum of the pseudo header for a transport of `length` bytes; nothing for ICMP over IPv4, which has none.
    pub(crate) fn pseudo_header(&self, frame: &[u8], length: usize) -> u64 {
        match self.addresses(frame) {
            Some((source, destination)) if self.protocol != ICMP => {
                checksum::pseudo_header(source, destination, self.protocol, length)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of `length` bytes whose IPv4 header is right, then some bytes are changed and, if wished, its sum is right again.
    fn frame(protocol: u8, flags: u8, length: usize, changes: &[(usize, u8)], mended: bool) -> Vec<u8> {
        let mut f = vec![0; length.max(54)];
        f[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        f[14] = 0x45;
        let total = (f.len() - 14) as u16;
        f[16..18].copy_from_slice(&total.to_be_bytes());
        f[22..24].copy_from_slice(&[64, protocol]);
        f[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
        f[34..38].copy_from_slice(&[4, 1, 1, 187]);
        f[38..40].copy_from_slice(&total.wrapping_sub(20).to_be_bytes());
        if protocol == TCP {
            (f[46], f[47]) = (5 << 4, flags);
        }
        changes.iter().for_each(|(at, to)| {
            if let Some(byte) = f.get_mut(*at) {
                *byte = *to
            }
        });
        if mended {
            f[24..26].fill(0);
            let sum = checksum::finish(checksum::sum(&f[14..34]));
            f[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        f.truncate(length);
        f
    }

    #[test]
    fn the_commonest_frames_are_simple() {
        for (protocol, flags) in [(UDP, 0), (TCP, ACK), (TCP, ACK | PSH), (TCP, SYN)] {
            for length in [60, 64, 1514] {
                assert!(
                    simple(&frame(protocol, flags, length, &[], true)).protocol != 0,
                    "{protocol} {flags} {length}"
                );
            }
        }
        for flags in [SYN | ACK, FIN | ACK, RST, SYN | PSH, 0] {
            assert_eq!(simple(&frame(TCP, flags, 60, &[], true)).protocol, 0, "{flags}");
        }
    }

    /// Of addresses, the property below changes an octet or two.
    #[test]
    fn addresses_that_no_host_has_are_not_simple() {
        let octets = [[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]];
        for (at, address) in [26, 30].into_iter().flat_map(|at| octets.map(|address| (at, address))) {
            let changes: Vec<_> = (at..).zip(address).collect();
            let frame = frame(UDP, 0, 60, &changes, true);
            let simple = simple(&frame);
            if simple.protocol != 0 {
                assert_eq!(parse(&frame), Ok(Parsed::Ip(simple.packet())), "{at} {address:?}");
            }
        }
    }

    /// As [`frame`], of IPv6.
    fn frame_v6(protocol: u8, flags: u8, length: usize, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut f = vec![0; length.max(74)];
        f[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        let payload = (f.len() - 54) as u16;
        f[14] = 0x60;
        f[18..20].copy_from_slice(&payload.to_be_bytes());
        f[20..22].copy_from_slice(&[protocol, 64]);
        f[22..26].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        f[38..42].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        f[54..58].copy_from_slice(&[4, 1, 1, 187]);
        f[58..60].copy_from_slice(&payload.to_be_bytes());
        if protocol == TCP {
            (f[66], f[67]) = (5 << 4, flags);
        }
        for (at, to) in changes {
            f[*at] = *to;
        }
        f.truncate(length);
        f
    }

    /// Of a header's bytes, to what is at a bound.
    fn change() -> impl Strategy<Value = (usize, u8)> {
        let at =
            prop::sample::select(vec![6, 12, 13, 14, 15, 16, 17, 20, 21, 23, 26, 30, 31, 38, 39, 46, 47]);
        let bounds = [
            0, 1, 2, 7, 8, 9, 0x10, 0x1f, 0x20, 28, 40, 0x40, 0x45, 0x46, 0x50, 0x60, 0x70, 126, 127, 128,
            223, 224, 255,
        ];
        (at, prop_oneof![3 => prop::sample::select(bounds.to_vec()), 1 => any::<u8>()])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_is_simple_is_what_the_parser_says(
            protocol in prop::sample::select(vec![TCP, UDP, ICMP, SCTP, 0]),
            flags in prop::sample::select(vec![ACK, SYN, ACK | PSH, SYN | ACK, FIN | ACK, SYN | 0xc0]),
            length in prop::sample::select(vec![0, 14, 34, 41, 42, 53, 54, 60, 74, 1514, 65_535, 65_550]),
            changes in prop::collection::vec(change(), 0..3),
            mended in prop::bool::weighted(0.9),
        ) {
            let frame = frame(protocol, flags, length, &changes, mended);
            let simple = simple(&frame);
            if simple.protocol != 0 {
                prop_assert_eq!(parse(&frame), Ok(Parsed::Ip(simple.packet())));
                prop_assert!(matches!(simple.protocol, TCP | UDP));
            }
        }

        #[test]
        fn what_is_simple_of_ipv6_is_what_the_parser_says(
            protocol in prop::sample::select(vec![TCP, UDP, ICMPV6, SCTP, 0, 44]),
            flags in prop::sample::select(vec![ACK, SYN, SYN | ACK, FIN | ACK, SYN | FIN, 0]),
            length in prop::sample::select(vec![0, 14, 53, 54, 61, 62, 73, 74, 80, 1514, 65_535, 65_550]),
            at in prop::sample::select(vec![6, 12, 13, 14, 18, 19, 20, 22, 38, 58, 59, 66, 67]),
            to: u8,
            changed: bool,
        ) {
            let frame = frame_v6(protocol, flags, length, &[(at, to)][..usize::from(changed)]);
            let parsed = parse(&frame);
            match simple_v6(&frame) {
                Some(packet) => prop_assert_eq!(parsed, Ok(Parsed::Ip(packet))),
                None if changed => {}
                None => {
                    let passes = matches!(parsed, Ok(Parsed::Ip(Packet { protocol: TCP | UDP, .. })));
                    prop_assert!(!passes);
                }
            }
        }
    }
}
