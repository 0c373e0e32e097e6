//! What a frame says of itself, for those who watch: addresses, protocol and ports as far as they can be read.
//!
//! Unlike the parser of the packet functions it refuses nothing: a frame that is dropped for a malformed header is the one that
//! somebody wants to see. It must never panic or read beyond the frame. Tests: below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most VLAN tags walked.
const MAX_TAGS: usize = 2;
/// Most IPv6 extension headers walked.
const MAX_EXTENSIONS: usize = 8;

/// As far as it could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    /// EtherType behind the VLAN tags.
    pub ether_type: u16,
    /// Identifier of the outermost VLAN.
    pub vlan: Option<u16>,
    /// Source and destination.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// IP protocol, behind IPv6's extension headers.
    pub protocol: Option<u8>,
    /// Source and destination port of TCP, UDP and SCTP; a later fragment has none.
    pub ports: Option<(u16, u16)>,
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

impl Headers {
    /// Reads a frame from its Ethernet header on.
    #[must_use]
    pub fn read(frame: &[u8]) -> Self {
        let mut it = Self::default();
        let mut at = 12;
        for _ in 0..=MAX_TAGS {
            let Some(kind) = word(frame, at) else { return it };
            at += 2;
            if !matches!(kind, 0x8100 | 0x88a8) {
                it.ether_type = kind;
                break;
            }
            it.vlan = it.vlan.or_else(|| word(frame, at).map(|tag| tag & 0xfff));
            at += 2;
        }
        // Incomplete: what was read so far is in `it`.
        let _ = match it.ether_type {
            0x0800 => it.ipv4(frame.get(at..).unwrap_or_default()),
            0x86dd => it.ipv6(frame.get(at..).unwrap_or_default()),
            _ => None,
        };
        it
    }

    fn ipv4(&mut self, packet: &[u8]) -> Option<()> {
        let h: &[u8; 20] = packet.first_chunk()?;
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]));
        self.addresses = Some((address(12), address(16)));
        self.protocol = Some(h[9]);
        let first = word(h, 6)? & 0x1fff == 0;
        self.transport(packet.get(usize::from(h[0] & 0xf) * 4..).filter(|_| first)?)
    }

    fn ipv6(&mut self, packet: &[u8]) -> Option<()> {
        let h: &[u8; 40] = packet.first_chunk()?;
        let address = |at: usize| {
            let bytes: &[u8; 16] = h.get(at..)?.first_chunk()?;
            Some(IpAddr::V6(Ipv6Addr::from(*bytes)))
        };
        self.addresses = Some((address(8)?, address(24)?));
        let (mut next, mut rest) = (h[6], packet.get(40..)?);
        for _ in 0..MAX_EXTENSIONS {
            self.protocol = Some(next);
            let x: &[u8; 4] = match next {
                0 | 43 | 44 | 51 | 60 => rest.first_chunk()?,
                _ => break,
            };
            let length = match next {
                44 => 8,
                51 => (usize::from(x[1]) + 2) * 4,
                _ => (usize::from(x[1]) + 1) * 8,
            };
            if next == 44 && word(x, 2)? & 0xfff8 != 0 {
                self.protocol = Some(x[0]);
                return None;
            }
            (next, rest) = (x[0], rest.get(length..)?);
        }
        self.protocol = Some(next);
        self.transport(rest)
    }

    fn transport(&mut self, payload: &[u8]) -> Option<()> {
        if matches!(self.protocol, Some(6 | 17 | 132)) {
            self.ports = Some((word(payload, 0)?, word(payload, 2)?));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::*;

    fn frame(ether_type: &[u8], packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], ether_type, packet].concat()
    }

    /// UDP 1000 -> 53 from 192.0.2.1 to 192.0.2.2, with so much of a fragment offset.
    fn v4(offset: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, offset, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([3, 232, 0, 53, 0, 8, 0, 0]);
        packet
    }

    fn v6(next: u8, extensions: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend([0x20; 16]);
        packet.extend([0x21; 16]);
        packet.extend(extensions);
        packet.extend([3, 232, 0, 53, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn what_can_be_read_is_read() {
        let plain = Headers::read(&frame(&[8, 0], &v4(0)));
        assert_eq!(
            plain,
            Headers {
                ether_type: 0x800,
                vlan: None,
                addresses: Some(("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())),
                protocol: Some(17),
                ports: Some((1000, 53)),
            }
        );
        let tagged = Headers::read(&frame(&[0x88, 0xa8, 0x10, 7, 0x81, 0, 0, 9, 8, 0], &v4(0)));
        assert_eq!(tagged, Headers { vlan: Some(7), ..plain });
        assert_eq!(Headers::read(&frame(&[8, 0], &v4(1))), Headers { ports: None, ..plain });
        for (next, extensions, protocol, ports) in [
            (17, &[][..], 17, Some((1000, 53))),
            (0, &[60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0], 17, Some((1000, 53))),
            (44, &[17, 0, 0, 0, 0, 0, 0, 1], 17, Some((1000, 53))),
            (44, &[17, 0, 0, 8, 0, 0, 0, 1], 17, None),
            (58, &[], 58, None),
        ] {
            let it = Headers::read(&frame(&[0x86, 0xdd], &v6(next, extensions)));
            assert_eq!((it.protocol, it.ports), (Some(protocol), ports), "{next} {extensions:?}");
        }
    }

    #[test]
    fn a_cut_frame_says_less_and_nothing_wrong() {
        let many = [0_u8; 9].map(|_| [0, 0, 0, 0, 0, 0, 0, 0]).concat();
        for whole in [
            frame(&[8, 0], &v4(0)),
            frame(&[0x86, 0xdd], &v6(51, &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            frame(&[0x86, 0xdd], &v6(0, &many)),
            frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1], &[]),
        ] {
            let full = Headers::read(&whole);
            for length in 0..whole.len() {
                let less = Headers::read(&whole[..length]);
                assert!(less.addresses.is_none() || less.addresses == full.addresses);
                assert!(less.ports.is_none() || less.ports == full.ports);
            }
        }
    }
}
