//! Outer headers: IPv4 or IPv6 around either (RFC 2003, RFC 2473, RFC 4213), and Generic UDP Encapsulation
//! (draft-ietf-intarea-gue §3, variant 0), which gives routers a source port to spread flows by.
//!
//! GUE and not Geneve (RFC 8926): both are UDP, but GUE's header is four bytes in place of eight and carries IP itself, where Geneve has an
//! Ethernet header inside by convention; Linux takes it apart without a device per balancer (`ip fou add port 6080 gue`).
//!
//! The traffic class is copied whole, so ECN is in the normal mode of RFC 6040 §4.1. The outer packet is never fragmented: DF is
//! always set (RFC 2003 §3.1), its identification is 0 (RFC 6864 §4.1), and who sends what does not fit is told so (`icmp.rs`).
//! Flow label (RFC 6438) and UDP source port come from the flow's hash. UDP over IPv4 has no checksum (RFC 768); over IPv6 it
//! has one, made of the inner packet's own without reading its payload: what is summed by a right checksum sums to nothing.
//!
//! Tests: below, `tests/balancer_modes.rs`, golden packets among them.

use dataplane_control::config::Mode;

use crate::{
    checksum,
    packet::{IPV4_HEADER, IPV6_HEADER, Packet, TCP, UDP, UDP_HEADER},
};

/// Bytes of a GUE header without extensions.
const GUE_HEADER: usize = 4;
/// Port that GUE is sent to (IANA).
const GUE_PORT: u16 = 6080;
const HOPS: u8 = 64;
/// Numbers of IPv4 and IPv6 as protocols.
pub(super) const IPV4_IN_IP: u8 = 4;
pub(super) const IPV6_IN_IP: u8 = 41;

/// The two ends of a tunnel, of one IP version, in [`crate::hash::address_bits`] form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ends {
    pub ours: u128,
    pub theirs: u128,
}

impl Ends {
    #[inline]
    fn v4(&self) -> bool {
        self.ours >> 32 == 0xffff
    }

    /// The outer packet's version.
    pub fn v6(&self) -> bool {
        !self.v4()
    }

    /// Bytes that are put before a packet.
    #[inline]
    pub fn overhead(&self, mode: Mode) -> usize {
        let ip = if self.v4() { IPV4_HEADER } else { IPV6_HEADER };
        ip + if mode == Mode::Gue { UDP_HEADER + GUE_HEADER } else { 0 }
    }

    /// Writes the outer headers in front of the packet in `frame`, which [`Ends::overhead`] bytes were prepended to: what was before
    /// the IP header moves to the front. `of` is as parsed before that. `None`: it does not fit.
    pub fn wrap(&self, frame: &mut [u8], of: &Packet, mode: Mode, hash: u64) -> Option<()> {
        let overhead = self.overhead(mode);
        frame.copy_within(overhead..overhead + of.l3, 0);
        let (outer, inner) = frame.get_mut(of.l3..)?.split_at_mut_checked(overhead)?;
        let inner = inner.get(..of.end - of.l3)?;
        let class = traffic_class(inner, of.v6)?;
        let inner_protocol = if of.v6 { IPV6_IN_IP } else { IPV4_IN_IP };
        let protocol = if mode == Mode::Gue { UDP } else { inner_protocol };
        let ip = self.ip(outer, inner.len(), class, protocol, hash)?;
        if mode == Mode::Gue {
            self.gue(outer.get_mut(ip..)?, inner, of, inner_protocol, hash)?;
        }
        Some(())
    }

    /// The outer IP header; its length.
    fn ip(&self, outer: &mut [u8], inner: usize, class: u8, protocol: u8, hash: u64) -> Option<usize> {
        if self.v4() {
            let total = u16::try_from(outer.len() + inner).ok()?.to_be_bytes();
            let h: &mut [u8; IPV4_HEADER] = outer.first_chunk_mut()?;
            *h = [0; IPV4_HEADER];
            (h[0], h[1]) = (0x45, class);
            h[2..4].copy_from_slice(&total);
            (h[6], h[8], h[9]) = (0x40, HOPS, protocol);
            h[12..16].copy_from_slice(&self.ours.to_be_bytes()[12..]);
            h[16..20].copy_from_slice(&self.theirs.to_be_bytes()[12..]);
            let sum = checksum::finish(checksum::sum(h));
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            return Some(IPV4_HEADER);
        }
        let payload = u16::try_from(outer.len() - IPV6_HEADER + inner).ok()?.to_be_bytes();
        let h: &mut [u8; IPV6_HEADER] = outer.first_chunk_mut()?;
        let label = (hash >> 44) as u32;
        h[..4].copy_from_slice(&(6 << 28 | u32::from(class) << 20 | label & 0xf_ffff).to_be_bytes());
        h[4..6].copy_from_slice(&payload);
        (h[6], h[7]) = (protocol, HOPS);
        h[8..24].copy_from_slice(&self.ours.to_be_bytes());
        h[24..40].copy_from_slice(&self.theirs.to_be_bytes());
        Some(IPV6_HEADER)
    }

    /// UDP and GUE headers.
    fn gue(&self, outer: &mut [u8], inner: &[u8], of: &Packet, protocol: u8, hash: u64) -> Option<()> {
        let h: &mut [u8; UDP_HEADER + GUE_HEADER] = outer.first_chunk_mut()?;
        // One of the dynamic ports (RFC 6335 §6).
        let source = 0xc000 | (hash >> 24 & 0x3fff) as u16;
        let length = h.len() + inner.len();
        h[..2].copy_from_slice(&source.to_be_bytes());
        h[2..4].copy_from_slice(&GUE_PORT.to_be_bytes());
        h[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        h[6..].copy_from_slice(&[0, 0, 0, protocol, 0, 0]);
        if self.v6() {
            let (ours, theirs) = (self.ours.to_be_bytes(), self.theirs.to_be_bytes());
            let pseudo = checksum::pseudo_header(&ours, &theirs, UDP, length);
            let sum = match checksum::finish(pseudo + checksum::sum(h) + inner_sum(inner, of)?) {
                0 => u16::MAX,
                sum => sum,
            };
            h[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        Some(())
    }
}

#[inline]
fn traffic_class(ip: &[u8], v6: bool) -> Option<u8> {
    let [first, second] = *ip.first_chunk()?;
    Some(if v6 { first << 4 | second >> 4 } else { second })
}

/// Sum of a whole IP packet: where its transport has a checksum over all that follows the header, header and checksum say it.
fn inner_sum(inner: &[u8], of: &Packet) -> Option<u64> {
    let (header, transport) = inner.split_at_checked(of.l4 - of.l3)?;
    let summed = match of.protocol {
        TCP => true,
        UDP => {
            let h: &[u8; UDP_HEADER] = transport.first_chunk()?;
            h[6..8] != [0, 0] && usize::from(u16::from_be_bytes([h[4], h[5]])) == transport.len()
        }
        _ => false,
    };
    if !summed {
        return Some(checksum::sum(inner));
    }
    let width = if of.v6 { 32 } else { 8 };
    let addresses = header.get(if of.v6 { 8 } else { 12 }..)?.get(..width)?;
    let pseudo = checksum::sum(addresses) + u64::from(of.protocol) + transport.len() as u64;
    Some(checksum::sum(header) + u64::from(!checksum::fold(pseudo)))
}
