//! A fragment, parsed: which datagram it is of, which part, and, of the first, the packet that it begins.
//!
//! Of a first fragment the whole transport header must be there (RFC 1858 §3.1, RFC 7112 §5), TCP's with its options; of
//! ICMP only echo is taken: errors and neighbour discovery are never in pieces (RFC 6980 §5).
//!
//! Tests: `tests/firewall.rs` (model), `tests/parser.rs`.

use super::{
    IPV4, IPV6, Link, Message, Packet, TCP, UDP, UDP_HEADER, be16, chunk, ipv4_header, ipv6_chain,
    ipv6_header, link, transport,
};
use crate::DropReason;

/// Which part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub id: u32,
    /// Of the datagram's fragmentable part, bytes.
    pub offset: u32,
    pub length: u32,
    /// It is not the last.
    pub more: bool,
}

/// Parses a frame for which [`super::parse`] said [`DropReason::Fragment`] or [`DropReason::FirstFragment`]. The packet of a
/// later fragment has no ports, and IPv6's no protocol that means anything.
#[cold]
pub(crate) fn piece(frame: &[u8]) -> Result<(Packet, Piece), DropReason> {
    let Link { ethertype, at, vlan } = link(frame)?;
    let (mut packet, piece) = match ethertype {
        IPV4 => of_v4(frame, at, vlan)?,
        IPV6 => of_v6(frame, at, vlan)?,
        _ => return Err(DropReason::Fragment),
    };
    if piece.offset == 0 {
        let payload = frame.get(packet.l4..packet.end).unwrap_or_default();
        first(&mut packet, payload)?;
    }
    Ok((packet, piece))
}

fn of_v4(frame: &[u8], l3: usize, vlan: u32) -> Result<(Packet, Piece), DropReason> {
    let (packet, word) = ipv4_header(frame, l3, vlan)?;
    let id: &[u8; 2] = chunk(frame, l3 + 4).ok_or(DropReason::Truncated)?;
    Ok((
        packet,
        Piece {
            id: u32::from(be16(id[0], id[1])),
            offset: u32::from(word & 0x1fff) * 8,
            length: bytes(packet.l4, packet.end),
            more: word & 0x2000 != 0,
        },
    ))
}

fn of_v6(frame: &[u8], l3: usize, vlan: u32) -> Result<(Packet, Piece), DropReason> {
    let mut packet = ipv6_header(frame, l3, vlan)?;
    let whole = frame.get(..packet.end).ok_or(DropReason::Truncated)?;
    let (protocol, l4, fragment) = ipv6_chain(whole, packet.protocol, packet.l4)?;
    let fragment = fragment.ok_or(DropReason::Fragment)?;
    (packet.protocol, packet.l4) = (protocol, l4);
    let length = bytes(fragment.at, packet.end);
    Ok((packet, Piece { id: fragment.id, offset: fragment.offset, length, more: fragment.more }))
}

fn bytes(from: usize, to: usize) -> u32 {
    u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX)
}

fn first(packet: &mut Packet, payload: &[u8]) -> Result<(), DropReason> {
    if packet.protocol == UDP {
        // The datagram's length is more than what is here.
        let h: &[u8; UDP_HEADER] = chunk(payload, 0).ok_or(DropReason::FragmentTiny)?;
        packet.ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
        return if usize::from(be16(h[4], h[5])) < UDP_HEADER { Err(DropReason::UdpHeader) } else { Ok(()) };
    }
    transport(packet, payload).map_err(|reason| match reason {
        DropReason::TcpHeader | DropReason::TransportHeader => DropReason::FragmentTiny,
        other => other,
    })?;
    match packet.message {
        Message::None if packet.protocol == TCP || payload.len() >= 8 => Ok(()),
        Message::None => Err(DropReason::FragmentTiny),
        Message::EchoRequest | Message::EchoReply => Ok(()),
        _ => Err(DropReason::Fragment),
    }
}
