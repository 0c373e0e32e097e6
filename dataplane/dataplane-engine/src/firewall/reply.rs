//! Answers, written into the frame that is answered: it goes back where it came from.
//!
//! The firewall is a bridge and has no address: an answer comes from the address, MAC and IP, that the frame was for (as nftables' `reject`
//! on a bridge does; RFC 1812 §4.3.2.4 speaks of routers, which have one). VLAN tags stay. What may not be answered
//! never is (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 e): an ICMP message that is no echo request, what is for a group,
//! what comes from no single host, a reset; later fragments do not come here. Who calls limits the rate (RFC 1812
//! §4.3.2.8, RFC 4443 §2.4 f).
//!
//! Tests: below; golden frames in `tests/guards.rs`, whose checksums and fields tshark confirmed.

use super::tcp::Segment;
use crate::{
    Frame, checksum,
    packet::{
        ACK, ICMP, ICMP_HEADER, ICMPV6, IPV4_HEADER, IPV6_HEADER, Message, Packet, RST, TCP, TCP_HEADER,
    },
};

/// Shortest frame without FCS, bytes (IEEE 802.3 §3.2.7).
const LEAST_FRAME: usize = 60;
/// Largest ICMP error over IPv4, bytes of its IP packet (RFC 1812 §4.3.2.3).
const ICMP_BYTES: usize = 576;
/// Largest ICMPv6 error, bytes of its IP packet: the least MTU (RFC 4443 §2.4 c).
const ICMPV6_BYTES: usize = 1280;
/// What we send may go as far as from a host.
const HOPS: u8 = 64;
/// Internetwork control (RFC 1812 §4.3.2.5), of ICMP errors over IPv4.
const CONTROL: u8 = 0xc0;

/// Between whom a packet of ours is, addresses in [`crate::hash::address_bits`] form.
#[derive(Debug, Clone, Copy)]
struct Ends {
    v6: bool,
    source: u128,
    destination: u128,
}

/// A TCP segment of ours, without payload.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tcp {
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// Maximum segment size option; 0: none.
    pub mss: u16,
}

/// Which way a packet of ours goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To whom the frame was for.
    On,
    /// To whom it came from.
    Back,
}

/// Writes the answer to a packet that a rule rejects: RST to TCP (RFC 9293 §3.10.7.1), otherwise an ICMP error,
/// administratively prohibited. False, and nothing was changed that matters: it may not be answered, or there is no room.
pub(super) fn reject<F: Frame>(frame: &mut F, packet: &Packet) -> bool {
    if !may_be_answered(frame.bytes(), packet) {
        return false;
    }
    match packet.protocol {
        TCP => reset(frame, packet),
        _ => prohibited(frame, packet),
    }
}

pub(super) fn may_be_answered(frame: &[u8], packet: &Packet) -> bool {
    let to_group = if packet.v6 {
        packet.destination >> 120 == 0xff
    } else {
        packet.destination & 0xffff_ffff >= 0xe000_0000
    };
    let unspecified = if packet.v6 { packet.source == 0 } else { packet.source & 0xffff_ffff == 0 };
    let message = matches!(packet.message, Message::None | Message::EchoRequest);
    let reset = packet.protocol == TCP && packet.tcp_flags & RST != 0;
    let to_many = frame.first().is_none_or(|b| b & 1 != 0);
    message && !to_group && !unspecified && !reset && !to_many
}

fn reset<F: Frame>(frame: &mut F, packet: &Packet) -> bool {
    let Some(segment) = Segment::read(frame.bytes(), packet) else { return false };
    let tcp = if segment.flags & ACK != 0 {
        Tcp { sequence: segment.acknowledged, flags: RST, ..Tcp::default() }
    } else {
        Tcp { acknowledged: segment.end(), flags: RST | ACK, ..Tcp::default() }
    };
    write_segment(frame, packet, Way::Back, &tcp)
}

/// In place of a TCP segment, one of ours between the same ends. False: there is no room.
pub(super) fn write_segment<F: Frame>(frame: &mut F, packet: &Packet, way: Way, tcp: &Tcp) -> bool {
    let options = if tcp.mss == 0 { 0 } else { 4 };
    let header = if packet.v6 { IPV6_HEADER } else { IPV4_HEADER };
    let end = packet.l3 + header + TCP_HEADER + options;
    if frame.bytes().len() < end && !frame.resize(end) {
        return false;
    }
    let written = segment_in(frame.bytes_mut(), packet, way, tcp);
    written.is_some() && pad(frame, end)
}

fn segment_in(frame: &mut [u8], packet: &Packet, way: Way, tcp: &Tcp) -> Option<()> {
    let ports = frame.get(packet.l4..)?.first_chunk::<4>().copied()?;
    let [a, b, c, d] = ports;
    let ports = if way == Way::Back { [c, d, a, b] } else { ports };
    let options = if tcp.mss == 0 { 0 } else { 4 };
    let ends = turn(frame, packet, way)?;
    let l4 = ip_header(frame, packet.l3, ends, TCP, TCP_HEADER + options, 0)?;
    let h: &mut [u8] = frame.get_mut(l4..l4 + TCP_HEADER + options)?;
    let (fixed, option) = h.split_first_chunk_mut::<TCP_HEADER>()?;
    *fixed = [0; TCP_HEADER];
    fixed[..4].copy_from_slice(&ports);
    fixed[4..8].copy_from_slice(&tcp.sequence.to_be_bytes());
    fixed[8..12].copy_from_slice(&tcp.acknowledged.to_be_bytes());
    fixed[12] = if options == 0 { 0x50 } else { 0x60 };
    fixed[13] = tcp.flags;
    fixed[14..16].copy_from_slice(&tcp.window.to_be_bytes());
    if let Some(option) = option.first_chunk_mut::<4>() {
        let [high, low] = tcp.mss.to_be_bytes();
        *option = [2, 4, high, low];
    }
    let sum = checksum::finish(ends.pseudo_header(TCP, h.len()) + checksum::sum(h));
    h.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// ICMP destination unreachable with code 13, or ICMPv6 with code 1, which quotes as much as it may.
fn prohibited<F: Frame>(frame: &mut F, packet: &Packet) -> bool {
    let (header, most) = if packet.v6 { (IPV6_HEADER, ICMPV6_BYTES) } else { (IPV4_HEADER, ICMP_BYTES) };
    let before = header + ICMP_HEADER;
    let quoted = packet.end.saturating_sub(packet.l3).min(most - before);
    let end = packet.l3 + before + quoted;
    if frame.bytes().len() < end && !frame.resize(end) {
        return false;
    }
    let written = prohibited_in(frame.bytes_mut(), packet, before, quoted);
    written.is_some() && pad(frame, end)
}

fn prohibited_in(frame: &mut [u8], packet: &Packet, before: usize, quoted: usize) -> Option<()> {
    let whole = frame.get_mut(packet.l3..packet.l3 + before + quoted)?;
    whole.copy_within(..quoted, before);
    let ends = turn(frame, packet, Way::Back)?;
    let (protocol, kind, code, class) = if packet.v6 { (ICMPV6, 1, 1, 0) } else { (ICMP, 3, 13, CONTROL) };
    let l4 = ip_header(frame, packet.l3, ends, protocol, ICMP_HEADER + quoted, class)?;
    let message = frame.get_mut(l4..l4 + ICMP_HEADER + quoted)?;
    *message.first_chunk_mut()? = [kind, code, 0, 0, 0, 0, 0, 0];
    let pseudo = if packet.v6 { ends.pseudo_header(protocol, message.len()) } else { 0 };
    let sum = checksum::finish(pseudo + checksum::sum(message));
    message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The ends of a packet of ours; MAC addresses are exchanged if it goes back.
fn turn(frame: &mut [u8], packet: &Packet, way: Way) -> Option<Ends> {
    let Packet { v6, source, destination, .. } = *packet;
    if way == Way::On {
        return Some(Ends { v6, source, destination });
    }
    let (to, from) = frame.get_mut(..12)?.split_at_mut_checked(6)?;
    to.swap_with_slice(from);
    Some(Ends { v6, source: destination, destination: source })
}

/// Writes an IP header without options before a payload of `length` bytes; where that begins. An IPv4 packet of ours is never
/// fragmented and needs no identification (RFC 6864 §4.1).
fn ip_header(
    frame: &mut [u8],
    l3: usize,
    ends: Ends,
    protocol: u8,
    length: usize,
    class: u8,
) -> Option<usize> {
    let rest = frame.get_mut(l3..)?;
    if ends.v6 {
        let h: &mut [u8; IPV6_HEADER] = rest.first_chunk_mut()?;
        *h = [0; IPV6_HEADER];
        h[0] = 0x60;
        h[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        h[6..8].copy_from_slice(&[protocol, HOPS]);
        h[8..24].copy_from_slice(&ends.source.to_be_bytes());
        h[24..].copy_from_slice(&ends.destination.to_be_bytes());
        return Some(l3 + IPV6_HEADER);
    }
    let h: &mut [u8; IPV4_HEADER] = rest.first_chunk_mut()?;
    *h = [0; IPV4_HEADER];
    h[..2].copy_from_slice(&[0x45, class]);
    h[2..4].copy_from_slice(&u16::try_from(IPV4_HEADER + length).ok()?.to_be_bytes());
    // Do not fragment.
    h[6] = 0x40;
    h[8..10].copy_from_slice(&[HOPS, protocol]);
    h[12..16].copy_from_slice(&ends.source.to_be_bytes()[12..]);
    h[16..].copy_from_slice(&ends.destination.to_be_bytes()[12..]);
    let sum = checksum::finish(checksum::sum(h));
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(l3 + IPV4_HEADER)
}

impl Ends {
    fn pseudo_header(self, protocol: u8, length: usize) -> u64 {
        let (source, destination) = (self.source.to_be_bytes(), self.destination.to_be_bytes());
        let from = if self.v6 { 0 } else { 12 };
        checksum::pseudo_header(&source[from..], &destination[from..], protocol, length)
    }
}

/// The frame ends here, but for what the shortest frame needs.
fn pad<F: Frame>(frame: &mut F, end: usize) -> bool {
    if !frame.resize(end.max(LEAST_FRAME)) {
        return frame.resize(end);
    }
    if let Some(padding) = frame.bytes_mut().get_mut(end..) {
        padding.fill(0);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{self, Parsed};

    fn parsed(frame: &[u8]) -> Packet {
        match packet::parse(frame).unwrap() {
            Parsed::Ip(packet) => packet,
            Parsed::Arp(_) => panic!("ARP"),
        }
    }

    fn syn(v6: bool) -> Vec<u8> {
        let ends = if v6 {
            Ends { v6, source: 0x2001_0db8 << 96 | 1, destination: 0x2001_0db8 << 96 | 2 }
        } else {
            Ends { v6, source: 0xffff_c633_6401, destination: 0xffff_c000_020a }
        };
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.resize(14 + if v6 { 60 } else { 40 }, 0);
        let l4 = ip_header(&mut frame, 14, ends, TCP, 20, 0).unwrap();
        frame[l4..l4 + 14].copy_from_slice(&[0x10, 0, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2]);
        frame
    }

    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

    #[test]
    fn what_may_not_be_answered_is_not() {
        for v6 in [false, true] {
            let good = syn(v6);
            assert!(reject(&mut good.clone(), &parsed(&good)));
            let destination = if v6 { 14 + 24 } else { 14 + 16 };
            let source = if v6 { 14 + 8..14 + 24 } else { 14 + 12..14 + 16 };
            let flags = good.len() - 7;
            let cases: [Change<'_>; 4] = [
                &|f| f[0] |= 1,
                &|f| f[destination] = if v6 { 0xff } else { 239 },
                &|f| f[source.clone()].fill(0),
                &|f| f[flags] = RST,
            ];
            for case in cases {
                let mut frame = good.clone();
                case(&mut frame);
                if !v6 {
                    frame[24..26].fill(0);
                    let sum = checksum::finish(checksum::sum(&frame[14..34])).to_be_bytes();
                    frame[24..26].copy_from_slice(&sum);
                }
                let packet = parsed(&frame);
                let before = frame.clone();
                assert!(!reject(&mut frame, &packet), "{before:02x?}");
                assert_eq!(frame, before);
            }
        }
    }

    #[test]
    fn what_has_no_room_is_not_answered() {
        /// A buffer without any room.
        struct Tight(Vec<u8>);
        impl Frame for Tight {
            fn bytes(&self) -> &[u8] {
                &self.0
            }
            fn bytes_mut(&mut self) -> &mut [u8] {
                &mut self.0
            }
            fn prepend(&mut self, _: usize) -> bool {
                false
            }
            fn trim_front(&mut self, _: usize) -> bool {
                false
            }
            fn resize(&mut self, length: usize) -> bool {
                let fits = length <= self.0.len();
                self.0.truncate(length);
                fits
            }
        }
        let good = syn(false);
        let packet = parsed(&good);
        let mut tight = Tight(good);
        assert!(!prohibited(&mut tight, &packet));
        assert!(reject(&mut tight, &packet), "a reset needs no more than a segment has");
        assert_eq!(tight.0.len(), 54);
    }
}
