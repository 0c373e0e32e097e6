//! Translation of addresses and ports (RFC 3022), and of ICMP errors about translated packets (RFC 5508 §4.2), with every checksum
//! changed by what changed (RFC 1624): one that was wrong stays wrong.
//!
//! Tests: below, and `tests/balancer_modes.rs`.

use crate::{
    checksum,
    hash::v4_bits,
    packet::{ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, Packet, TCP, UDP},
};

/// The end of a packet that is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What an end becomes: an address of the packet's version, in [`crate::hash::address_bits`] form, and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Becomes {
    pub address: u128,
    pub port: u16,
}

/// Translates an end of a TCP or UDP packet. `None`: it is not within the frame, which the parser rules out.
#[inline]
pub(super) fn packet(frame: &mut [u8], of: &Packet, end: End, to: Becomes) -> Option<()> {
    let delta = address(frame.get_mut(of.l3..)?, of.v6, end, to.address)?;
    transport(frame.get_mut(of.l4..of.end)?, of.protocol, end, to.port, delta)
}

/// Translates an ICMP error: `end` of itself, and the other end of the packet that it quotes, whose transport begins at `quoted`.
pub(super) fn error(frame: &mut [u8], of: &Packet, quoted: usize, end: End, to: Becomes) -> Option<()> {
    let delta = address(frame.get_mut(of.l3..)?, of.v6, end, to.address)?;
    let message = frame.get_mut(of.l4..of.end)?;
    let before = checksum::sum(message);
    let (header, inner) = message.split_first_chunk_mut::<ICMP_HEADER>()?;
    let inner_delta = address(inner, of.v6, end.other(), to.address)?;
    let protocol = *inner.get(if of.v6 { 6 } else { 9 })?;
    let at = quoted.checked_sub(of.l4 + ICMP_HEADER)?;
    // Behind extension headers the protocol is not the fixed header's.
    let protocol = if of.v6 && at > IPV6_HEADER { last_header(inner, at)? } else { protocol };
    transport(inner.get_mut(at..)?, protocol, end.other(), to.port, inner_delta)?;
    let checksum_was = u16::from_be_bytes([header[2], header[3]]);
    let change = u64::from(!checksum::fold(before)) + u64::from(checksum::fold(checksum::sum(message)));
    // ICMPv6 sums the addresses, too (RFC 4443 §2.3).
    let change = change + if of.v6 { delta } else { 0 };
    let now = checksum::finish(u64::from(!checksum_was) + change);
    message.get_mut(2..4)?.copy_from_slice(&now.to_be_bytes());
    Some(())
}

/// The number in the extension header that leads to what begins at `at`.
fn last_header(ip: &[u8], at: usize) -> Option<u8> {
    let (mut next, mut here) = (*ip.get(6)?, IPV6_HEADER);
    while here < at {
        let h: &[u8; 2] = ip.get(here..)?.first_chunk()?;
        let bytes = match next {
            44 => 8,
            51 => (usize::from(h[1]) + 2) * 4,
            _ => (usize::from(h[1]) + 1) * 8,
        };
        (next, here) = (h[0], here + bytes);
    }
    Some(next)
}

/// Writes an address into an IP header; what that adds to the sum of a pseudo header.
#[inline]
fn address(ip: &mut [u8], v6: bool, end: End, to: u128) -> Option<u64> {
    if v6 {
        let h: &mut [u8; IPV6_HEADER] = ip.first_chunk_mut()?;
        let place = if end == End::Source { &mut h[8..24] } else { &mut h[24..40] };
        let now = to.to_be_bytes();
        let delta = checksum::difference(place, &now);
        place.copy_from_slice(&now);
        return Some(delta);
    }
    let h: &mut [u8; IPV4_HEADER] = ip.first_chunk_mut()?;
    debug_assert_eq!(to >> 32, v4_bits(0) >> 32, "of the packet's version");
    let now = ((to & 0xffff_ffff) as u32).to_be_bytes();
    let place = if end == End::Source { &mut h[12..16] } else { &mut h[16..20] };
    let delta = checksum::difference(place, &now);
    place.copy_from_slice(&now);
    let sum = checksum::adjusted(u16::from_be_bytes([h[10], h[11]]), delta);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(delta)
}

/// Writes a port, and the transport's checksum if it is there (a quoted packet may end before).
#[inline]
fn transport(l4: &mut [u8], protocol: u8, end: End, port: u16, delta: u64) -> Option<()> {
    let at = if end == End::Source { 0 } else { 2 };
    let place: &mut [u8; 2] = l4.get_mut(at..)?.first_chunk_mut()?;
    let delta = delta + checksum::difference(place, &port.to_be_bytes());
    *place = port.to_be_bytes();
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return Some(()),
    };
    let Some(place) = l4.get_mut(at..).and_then(|t| t.first_chunk_mut::<2>()) else { return Some(()) };
    let sum = match (protocol, u16::from_be_bytes(*place)) {
        // "None" stays none, and no sum is written so (RFC 768).
        (UDP, 0) => 0,
        (UDP, sum) => match checksum::adjusted(sum, delta) {
            0 => u16::MAX,
            sum => sum,
        },
        (_, sum) => checksum::adjusted(sum, delta),
    };
    *place = sum.to_be_bytes();
    Some(())
}

/// Takes one from the time to live or hop limit; false: that was its last, and nothing changed.
#[inline]
pub(super) fn hop(frame: &mut [u8], of: &Packet) -> Option<bool> {
    let ip = frame.get_mut(of.l3..)?;
    if of.v6 {
        let limit = ip.get_mut(7)?;
        let goes_on = *limit > 1;
        *limit -= u8::from(goes_on);
        return Some(goes_on);
    }
    let h: &mut [u8; IPV4_HEADER] = ip.first_chunk_mut()?;
    if h[8] <= 1 {
        return Some(false);
    }
    let was = [h[8], h[9]];
    h[8] -= 1;
    let delta = checksum::difference(&was, &[h[8], h[9]]);
    let sum = checksum::adjusted(u16::from_be_bytes([h[10], h[11]]), delta);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(true)
}
