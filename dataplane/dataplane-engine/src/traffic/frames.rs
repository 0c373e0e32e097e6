//! The frames that the generator sends, written into the caller's buffer.

use crate::{
    checksum,
    hash::halves,
    neighbour::{ARP_BYTES, ARP_ETHERNET_IPV4, LINK_OPTION_BYTES, ND_BYTES, solicited_node},
    packet::{ARP, ICMPV6, IPV4, IPV4_HEADER, IPV6, IPV6_HEADER, SYN, TCP, TCP_HEADER, UDP, UDP_HEADER},
    probe,
};

/// Bytes of an untagged Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Shortest Ethernet frame without FCS.
pub(super) const MIN_FRAME: usize = 60;
const HOPS: u8 = 64;
const DISCOVERY_HOPS: u8 = 255;
const WINDOW: u16 = 65_535;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Where a frame goes; addresses in [`crate::hash::address_bits`] form, both of one IP version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: u128,
    pub destination: u128,
}

/// A TCP segment's variable fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub ports: u32,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
}

pub(crate) fn is_v4(bits: u128) -> bool {
    bits >> 32 == 0xffff
}

/// Smallest frame that carries a probe payload of this protocol.
pub(super) fn min_probe_frame(v4: bool, protocol: u8) -> usize {
    let ip = if v4 { IPV4_HEADER } else { IPV6_HEADER };
    let transport = if protocol == TCP { TCP_HEADER } else { UDP_HEADER };
    (ETHERNET + ip + transport + probe::BYTES).max(MIN_FRAME)
}

/// A UDP probe of `length` bytes.
pub(super) fn udp(
    buffer: &mut [u8],
    route: &Route,
    ports: u32,
    payload: &[u8; probe::BYTES],
    length: usize,
) -> Option<usize> {
    let frame = buffer.get_mut(..length)?;
    let l4 = ip_header(frame, route, UDP, HOPS, length)?;
    let datagram = frame.get_mut(l4..)?;
    datagram[..4].copy_from_slice(&ports.to_be_bytes());
    let bytes = u16::try_from(datagram.len()).ok()?;
    datagram[4..6].copy_from_slice(&bytes.to_be_bytes());
    datagram[6..8].fill(0);
    datagram[8..8 + probe::BYTES].copy_from_slice(payload);
    datagram[8 + probe::BYTES..].fill(0);
    let sum = match transport_checksum(datagram, route, UDP) {
        0 => u16::MAX,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(length)
}

/// A TCP segment: with a probe payload in a frame of `length` bytes, or without.
pub(super) fn tcp(
    buffer: &mut [u8],
    route: &Route,
    segment: &Segment,
    payload: Option<(&[u8; probe::BYTES], usize)>,
) -> Option<usize> {
    let ip = if is_v4(route.source) { IPV4_HEADER } else { IPV6_HEADER };
    let end = payload.map_or(ETHERNET + ip + TCP_HEADER, |(_, length)| length);
    let frame = buffer.get_mut(..end.max(MIN_FRAME))?;
    let l4 = ip_header(frame, route, TCP, HOPS, end)?;
    frame.get_mut(end..)?.fill(0);
    let bytes = frame.get_mut(l4..end)?;
    bytes[..4].copy_from_slice(&segment.ports.to_be_bytes());
    bytes[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&segment.acknowledged.to_be_bytes());
    bytes[12] = 5 << 4;
    bytes[13] = segment.flags;
    bytes[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    bytes[16..].fill(0);
    if let Some((payload, _)) = payload {
        bytes.get_mut(TCP_HEADER..TCP_HEADER + probe::BYTES)?.copy_from_slice(payload);
    }
    let sum = transport_checksum(bytes, route, TCP);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(end.max(MIN_FRAME))
}

/// A segment that opens a connection.
pub(super) fn syn(ports: u32, sequence: u32) -> Segment {
    Segment { ports, sequence, acknowledged: 0, flags: SYN }
}

/// "Who has `target`?", by ARP or neighbour solicitation, according to its version.
pub(crate) fn resolve(buffer: &mut [u8], mac: [u8; 6], source: u128, target: u128) -> Option<usize> {
    if is_v4(target) {
        arp_request(buffer, mac, source, target)
    } else {
        solicitation(buffer, mac, source, target)
    }
}

fn arp_request(buffer: &mut [u8], mac: [u8; 6], source: u128, target: u128) -> Option<usize> {
    let frame = buffer.get_mut(..MIN_FRAME)?;
    frame.fill(0);
    ethernet(frame, BROADCAST, mac, ARP)?;
    let p = frame.get_mut(ETHERNET..ETHERNET + ARP_BYTES)?;
    p[..6].copy_from_slice(&ARP_ETHERNET_IPV4);
    p[7] = 1;
    p[8..14].copy_from_slice(&mac);
    p[14..18].copy_from_slice(&v4_bytes(source));
    p[24..28].copy_from_slice(&v4_bytes(target));
    Some(MIN_FRAME)
}

fn solicitation(buffer: &mut [u8], mac: [u8; 6], source: u128, target: u128) -> Option<usize> {
    const LENGTH: usize = ETHERNET + IPV6_HEADER + ND_BYTES + LINK_OPTION_BYTES;
    let destination = solicited_node(target);
    let [_, _, _, _, _, _, _, _, _, _, _, _, m2, m3, m4, m5] = destination.to_be_bytes();
    let route = Route { source_mac: mac, destination_mac: [0x33, 0x33, m2, m3, m4, m5], source, destination };
    let frame = buffer.get_mut(..LENGTH)?;
    let l4 = ip_header(frame, &route, ICMPV6, DISCOVERY_HOPS, LENGTH)?;
    let body = frame.get_mut(l4..)?;
    body.fill(0);
    body[0] = 135;
    body[8..24].copy_from_slice(&target.to_be_bytes());
    body[24..26].copy_from_slice(&[1, 1]);
    body[26..32].copy_from_slice(&mac);
    let sum = transport_checksum(body, &route, ICMPV6);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(LENGTH)
}

/// "`address` is at `mac`", to all nodes, unasked.
pub(crate) fn advertisement(buffer: &mut [u8], mac: [u8; 6], address: u128) -> Option<usize> {
    const LENGTH: usize = ETHERNET + IPV6_HEADER + ND_BYTES + LINK_OPTION_BYTES;
    const ALL_NODES: u128 = 0xff02_0000_0000_0000_0000_0000_0000_0001;
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    /// Target link-layer address, one unit of 8 bytes.
    const OPTION: [u8; 2] = [2, 1];
    let destination_mac = [0x33, 0x33, 0, 0, 0, 1];
    let route = Route { source_mac: mac, destination_mac, source: address, destination: ALL_NODES };
    let frame = buffer.get_mut(..LENGTH)?;
    let l4 = ip_header(frame, &route, ICMPV6, DISCOVERY_HOPS, LENGTH)?;
    let body = frame.get_mut(l4..)?;
    body.fill(0);
    (body[0], body[4]) = (ADVERTISEMENT, OVERRIDE);
    body[8..24].copy_from_slice(&address.to_be_bytes());
    body[24..26].copy_from_slice(&OPTION);
    body[26..32].copy_from_slice(&mac);
    let sum = transport_checksum(body, &route, ICMPV6);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(LENGTH)
}

fn ethernet(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Option<()> {
    let h: &mut [u8; ETHERNET] = frame.first_chunk_mut()?;
    h[..6].copy_from_slice(&destination);
    h[6..12].copy_from_slice(&source);
    h[12..].copy_from_slice(&ethertype.to_be_bytes());
    Some(())
}

/// Writes Ethernet and IP headers for a packet that ends at `end`; where the transport begins.
fn ip_header(frame: &mut [u8], route: &Route, protocol: u8, hops: u8, end: usize) -> Option<usize> {
    if is_v4(route.source) {
        ethernet(frame, route.destination_mac, route.source_mac, IPV4)?;
        let h: &mut [u8; IPV4_HEADER] = frame.get_mut(ETHERNET..)?.first_chunk_mut()?;
        *h = [0x45, 0, 0, 0, 0, 0, 0x40, 0, hops, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        h[2..4].copy_from_slice(&u16::try_from(end - ETHERNET).ok()?.to_be_bytes());
        h[12..16].copy_from_slice(&v4_bytes(route.source));
        h[16..].copy_from_slice(&v4_bytes(route.destination));
        let sum = checksum::finish(checksum::sum(h));
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(ETHERNET + IPV4_HEADER)
    } else {
        ethernet(frame, route.destination_mac, route.source_mac, IPV6)?;
        let h: &mut [u8; IPV6_HEADER] = frame.get_mut(ETHERNET..)?.first_chunk_mut()?;
        h[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        h[4..6].copy_from_slice(&u16::try_from(end - ETHERNET - IPV6_HEADER).ok()?.to_be_bytes());
        h[6..8].copy_from_slice(&[protocol, hops]);
        h[8..24].copy_from_slice(&route.source.to_be_bytes());
        h[24..].copy_from_slice(&route.destination.to_be_bytes());
        Some(ETHERNET + IPV6_HEADER)
    }
}

fn v4_bytes(bits: u128) -> [u8; 4] {
    let [_, low] = halves(bits);
    ((low & 0xffff_ffff) as u32).to_be_bytes()
}

/// The checksum of a transport whose own checksum field is zero.
fn transport_checksum(transport: &[u8], route: &Route, protocol: u8) -> u16 {
    let pseudo = if is_v4(route.source) {
        let (source, destination) = (v4_bytes(route.source), v4_bytes(route.destination));
        checksum::pseudo_header(&source, &destination, protocol, transport.len())
    } else {
        let (source, destination) = (route.source.to_be_bytes(), route.destination.to_be_bytes());
        checksum::pseudo_header(&source, &destination, protocol, transport.len())
    };
    checksum::finish(pseudo + checksum::sum(transport))
}
