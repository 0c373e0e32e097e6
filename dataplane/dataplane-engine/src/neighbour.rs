//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861): checking, and answering in place.
//!
//! Tests: golden replies in `tests/golden.rs`; `tests/chain.rs` resolves through the whole chain.

use crate::{
    checksum,
    packet::{ICMPV6, IPV6_HEADER, Message, Packet},
    traffic::frames,
};

/// Bytes of an Ethernet/IPv4 ARP packet.
pub(crate) const ARP_BYTES: usize = 28;
/// Bytes of a solicitation or advertisement without options.
pub(crate) const ND_BYTES: usize = 24;
/// Bytes of a link-layer address option.
pub(crate) const LINK_OPTION_BYTES: usize = 8;
/// The first 16 bytes of an Ethernet/IPv4 ARP packet are fixed but for the operation.
pub(crate) const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const SOLICITED_NODE_PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// A checked ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    pub request: bool,
    pub sender_mac: [u8; 6],
    pub sender: u32,
    pub target: u32,
}

/// Reads the ARP packet at `at`; `None` if it is not a request or reply for IPv4 over Ethernet.
pub(crate) fn arp(frame: &[u8], at: usize) -> Option<Arp> {
    let p: &[u8; ARP_BYTES] = frame.get(at..)?.first_chunk()?;
    let known = p[..6] == ARP_ETHERNET_IPV4 && p[6] == 0 && matches!(p[7], 1 | 2);
    let sender_mac = [p[8], p[9], p[10], p[11], p[12], p[13]];
    let unicast = sender_mac[0] & 1 == 0 && sender_mac != [0; 6];
    (known && unicast).then_some(Arp {
        request: p[7] == 1,
        sender_mac,
        sender: u32::from_be_bytes([p[14], p[15], p[16], p[17]]),
        target: u32::from_be_bytes([p[24], p[25], p[26], p[27]]),
    })
}

/// Turns the request at `at` into the reply "its target is at `mac`"; the frame's new length.
pub(crate) fn answer_arp(frame: &mut [u8], at: usize, mac: [u8; 6]) -> Option<usize> {
    let length = frame.len();
    swap_macs(frame, mac)?;
    let p: &mut [u8; ARP_BYTES] = frame.get_mut(at..)?.first_chunk_mut()?;
    let (mut asker, mut target) = ([0; 10], [0; 4]);
    asker.copy_from_slice(&p[8..18]);
    target.copy_from_slice(&p[24..28]);
    p[7] = 2;
    p[8..14].copy_from_slice(&mac);
    p[14..18].copy_from_slice(&target);
    p[18..28].copy_from_slice(&asker);
    Some(length)
}

/// Addresses the frame back to its sender, from `mac`.
pub(crate) fn swap_macs(frame: &mut [u8], mac: [u8; 6]) -> Option<()> {
    let macs: &mut [u8; 12] = frame.first_chunk_mut()?;
    macs.copy_within(6..12, 0);
    macs[6..].copy_from_slice(&mac);
    Some(())
}

/// A checked solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Discovery {
    pub target: u128,
    /// Source (of a solicitation) or target (of an advertisement) link-layer address.
    pub link: Option<[u8; 6]>,
}

/// The checks of RFC 4861 §7.1.1 and §7.1.2.
pub(crate) fn discovery(frame: &[u8], packet: &Packet) -> Option<Discovery> {
    let solicitation = packet.message == Message::NeighbourSolicitation;
    let hop_limit = *frame.get(packet.l3 + 7)?;
    let body = frame.get(packet.l4..packet.end)?;
    let p: &[u8; ND_BYTES] = body.first_chunk()?;
    let mut target = [0; 16];
    target.copy_from_slice(&p[8..24]);
    let it = Discovery {
        target: u128::from_be_bytes(target),
        link: link_option(body.get(ND_BYTES..)?, if solicitation { 1 } else { 2 })?,
    };
    let solicited_flag_on_multicast = !solicitation && p[4] & 0x40 != 0 && packet.destination >> 120 == 0xff;
    let probe_is_wrong = solicitation
        && packet.source == 0
        && (it.link.is_some() || packet.destination >> 24 != SOLICITED_NODE_PREFIX >> 24);
    let right = hop_limit == 255 && p[1] == 0 && it.target >> 120 != 0xff && it.target != 0;
    (right && !solicited_flag_on_multicast && !probe_is_wrong && packet.transport_checksum_is_right(frame))
        .then_some(it)
}

/// The link-layer address option of this kind, if any; `None` if an option is malformed.
fn link_option(mut options: &[u8], wanted: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while let [kind, units, ..] = options {
        let length = usize::from(*units) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        if let ([_, _, mac @ ..], true) = (&options[..LINK_OPTION_BYTES], *kind == wanted) {
            found = mac.first_chunk().copied();
        }
        options = &options[length..];
    }
    options.is_empty().then_some(found)
}

/// Writes "this address is at `mac`", told unasked: an ARP announcement (RFC 5227 §3) or an unsolicited neighbour
/// advertisement that overrides (RFC 4861 §7.2.6), by the address's version; its length. `None`: it does not fit.
pub(crate) fn announcement(buffer: &mut [u8], mac: [u8; 6], address: u128) -> Option<usize> {
    if frames::is_v4(address) {
        return frames::resolve(buffer, mac, address, address);
    }
    frames::advertisement(buffer, mac, address)
}

/// The solicited-node multicast address of a target (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(target: u128) -> u128 {
    SOLICITED_NODE_PREFIX | target & 0xff_ffff
}

/// Turns a checked solicitation into the advertisement "its target is at `mac`" (RFC 4861 §7.2.4); the new length.
///
/// A solicitation from the unspecified address (duplicate address detection) is answered to all nodes. The option with
/// our address is left out where the frame has no room for it, which only such solicitations and unicast
/// reachability probes lack.
pub(crate) fn answer_solicitation(frame: &mut [u8], packet: &Packet, mac: [u8; 6]) -> Option<usize> {
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const OVERRIDE: u8 = 0x20;
    const SOLICITED: u8 = 0x40;
    let l4 = packet.l3 + IPV6_HEADER;
    let with_option = l4 + ND_BYTES + LINK_OPTION_BYTES <= frame.len();
    let end = l4 + ND_BYTES + if with_option { LINK_OPTION_BYTES } else { 0 };
    let to_all = packet.source == 0;
    let mut target = [0; 16];
    target.copy_from_slice(frame.get(packet.l4 + 8..packet.l4 + ND_BYTES)?);

    swap_macs(frame, mac)?;
    if to_all {
        frame.first_chunk_mut::<6>()?.copy_from_slice(&ALL_NODES_MAC);
    }
    let h: &mut [u8; IPV6_HEADER] = frame.get_mut(packet.l3..)?.first_chunk_mut()?;
    h[4..6].copy_from_slice(&u16::try_from(end - l4).ok()?.to_be_bytes());
    h[6] = ICMPV6;
    h.copy_within(8..24, 24);
    if to_all {
        h[24..40].copy_from_slice(&ALL_NODES);
    }
    h[8..24].copy_from_slice(&target);

    let body = frame.get_mut(l4..end)?;
    body.fill(0);
    body[0] = 136;
    body[4] = OVERRIDE | if to_all { 0 } else { SOLICITED };
    body[8..24].copy_from_slice(&target);
    if let Some(option) = body.get_mut(ND_BYTES..).filter(|o| !o.is_empty()) {
        option[..2].copy_from_slice(&[2, 1]);
        option[2..].copy_from_slice(&mac);
    }
    let reply = Packet { l4, end, ..*packet };
    let sum = reply.pseudo_header(frame, end - l4) + checksum::sum(frame.get(l4..end)?);
    frame.get_mut(l4 + 2..l4 + 4)?.copy_from_slice(&checksum::finish(sum).to_be_bytes());
    Some(end)
}
