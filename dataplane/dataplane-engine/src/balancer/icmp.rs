//! ICMP errors that we send: packet too big (RFC 1191 §4, RFC 4443 §3.2) and time exceeded (RFC 792, RFC 4443 §3.3).
//!
//! Tests: `tests/balancer_modes.rs`.

use crate::{
    checksum, neighbour,
    packet::{ICMP, ICMP_HEADER, ICMPV6, IPV4_HEADER, IPV6_HEADER, Packet},
};

/// Longest error, bytes (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
const HOPS: u8 = 64;
/// Internetwork control (RFC 1812 §4.3.2.5).
const CLASS: u8 = 0xc0;
/// Errors a second, and at once after a pause (RFC 4443 §2.4 (f) asks for a bound).
const A_SECOND: u32 = 1000;
const AT_ONCE: u32 = 50;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    /// Longer than this many bytes.
    TooBig(u16),
    TimeExceeded,
}

impl Error {
    /// Type, code, and the header's second half.
    fn header(self, v6: bool) -> [u8; ICMP_HEADER] {
        let (kind, code, mtu) = match (self, v6) {
            (Self::TooBig(mtu), false) => (3, 4, mtu),
            (Self::TooBig(mtu), true) => (2, 0, mtu),
            (Self::TimeExceeded, false) => (11, 0, 0),
            (Self::TimeExceeded, true) => (3, 0, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        [kind, code, 0, 0, 0, 0, high, low]
    }
}

/// Bytes that an error puts before what it quotes.
pub(super) fn overhead(of: &Packet) -> usize {
    ICMP_HEADER + if of.v6 { IPV6_HEADER } else { IPV4_HEADER }
}

/// How long the frame of a packet is to be before [`overhead`] bytes are prepended: as much as is quoted.
pub(super) fn quoted(of: &Packet) -> usize {
    let most = if of.v6 { MAX_V6 } else { MAX_V4 } - overhead(of);
    of.l3 + most.min(of.end - of.l3)
}

/// Turns the packet in `frame`, cut to [`quoted`] bytes and with [`overhead`] prepended, into an error to its sender, from its
/// destination. `None`: it does not fit.
pub(super) fn answer(frame: &mut [u8], of: &Packet, error: Error, mac: [u8; 6]) -> Option<()> {
    let overhead = overhead(of);
    frame.copy_within(overhead..overhead + of.l3, 0);
    neighbour::swap_macs(frame, mac)?;
    let (outer, inner) = frame.get_mut(of.l3..)?.split_at_mut_checked(overhead)?;
    let ip = if of.v6 { IPV6_HEADER } else { IPV4_HEADER };
    let (header, message) = outer.split_at_mut_checked(ip)?;
    message.copy_from_slice(&error.header(of.v6));
    let length = message.len() + inner.len();
    let mut sum = checksum::sum(message) + checksum::sum(inner);
    if of.v6 {
        let h: &mut [u8; IPV6_HEADER] = header.first_chunk_mut()?;
        h[..4].copy_from_slice(&[0x60 | CLASS >> 4, CLASS << 4, 0, 0]);
        h[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        (h[6], h[7]) = (ICMPV6, HOPS);
        h[8..24].copy_from_slice(&of.destination.to_be_bytes());
        h[24..40].copy_from_slice(&of.source.to_be_bytes());
        sum += checksum::pseudo_header(&h[8..24], &h[24..40], ICMPV6, length);
    } else {
        let h: &mut [u8; IPV4_HEADER] = header.first_chunk_mut()?;
        *h = [0; IPV4_HEADER];
        (h[0], h[1]) = (0x45, CLASS);
        h[2..4].copy_from_slice(&u16::try_from(ip + length).ok()?.to_be_bytes());
        (h[8], h[9]) = (HOPS, ICMP);
        h[12..16].copy_from_slice(&of.destination.to_be_bytes()[12..]);
        h[16..20].copy_from_slice(&of.source.to_be_bytes()[12..]);
        let header_sum = checksum::finish(checksum::sum(h));
        h[10..12].copy_from_slice(&header_sum.to_be_bytes());
    }
    message.get_mut(2..4)?.copy_from_slice(&checksum::finish(sum).to_be_bytes());
    Some(())
}

/// Whether one more error may be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Of a second, in thousandths of an error.
    tokens: u32,
    last_ms: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self { tokens: AT_ONCE * 1000, last_ms: 0 }
    }
}

impl Limit {
    pub fn take(&mut self, now_ms: u32) -> bool {
        let passed_ms = now_ms.wrapping_sub(self.last_ms);
        self.last_ms = now_ms;
        self.tokens = self.tokens.saturating_add(passed_ms.saturating_mul(A_SECOND)).min(AT_ONCE * 1000);
        let may = self.tokens >= 1000;
        if may {
            self.tokens -= 1000;
        }
        may
    }
}

/// What is known of the path to a backend (RFC 1191 §6.3, RFC 8201 §4).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PathMtu {
    /// 0: nothing.
    bytes: u16,
    learnt_ms: u32,
}

/// How long it is believed, ms.
const PATH_MTU_MS: u32 = 600_000;

impl PathMtu {
    pub fn learn(&mut self, bytes: u16, now_ms: u32) {
        *self = Self { bytes: bytes.max(LEAST_MTU), learnt_ms: now_ms };
    }

    /// The longest packet that gets there, of one that the link takes.
    #[inline]
    pub fn of(self, link: u16, now_ms: u32) -> u16 {
        let known = self.bytes != 0 && now_ms.wrapping_sub(self.learnt_ms) < PATH_MTU_MS;
        if known { link.min(self.bytes) } else { link }
    }
}

/// What everybody can take in (RFC 791): whoever says less says nothing (RFC 1191 §7.2 warns of it).
const LEAST_MTU: u16 = 576;

/// The MTU in a "too big" message that came in; `None`: it is another message, or from a router that does not say.
pub(super) fn told_mtu(frame: &[u8], of: &Packet) -> Option<u16> {
    let h: &[u8; ICMP_HEADER] = frame.get(of.l4..of.end)?.first_chunk()?;
    let mtu = match (of.v6, h[0], h[1]) {
        (false, 3, 4) => u32::from(u16::from_be_bytes([h[6], h[7]])),
        (true, 2, _) => u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        _ => 0,
    };
    u16::try_from(mtu).ok().filter(|mtu| *mtu > 0)
}
