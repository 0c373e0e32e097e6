//! What a connection is known by: its addresses, ports, protocol and VLANs, by the side that each end point is on.
//!
//! Tests: below, and the parser's and the table's.

use dataplane_control::sync::Told;

use crate::{
    hash::{address_bits, fold, halves},
    packet::{ICMP, ICMPV6, Message, Packet, Quoted},
};

/// The side of a two-port function where a frame came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Outside, or towards the clients.
    Near,
    /// Inside, or towards the backends.
    Far,
}

impl Side {
    #[inline]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// A connection's addresses, ports, protocol and VLANs: near end point first.
///
/// IPv6: near (high half), the rest, far (low half), far (high half), near (low half). IPv4: both addresses, the rest, and what no
/// IPv6 packet has, the far end point `::ffff:0.0.0.0`.
#[derive(Debug, Clone, Copy, Eq)]
pub(crate) struct Key(pub(super) [u64; 5]);

impl PartialEq for Key {
    /// Without the call and the branches that a comparison of arrays is.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let [a, b, c, d, e] = self.0;
        let [v, w, x, y, z] = other.0;
        (a ^ v) | (b ^ w) | (c ^ x) | (d ^ y) | (e ^ z) == 0
    }
}

impl Key {
    /// Of a slot that nobody has: no packet's, for who sends has no group address.
    pub(crate) const VACANT: Self = Self([u64::MAX; 5]);

    /// Of a packet that came in on `side`.
    #[inline]
    pub(crate) fn of(packet: &Packet, side: Side) -> Self {
        let ports = echo_ports(packet.message, packet.ports, side);
        Self::new((packet.source, packet.destination), ports, packet.vlan, packet.protocol, side)
    }

    /// Of a packet that an ICMP error from `side` quotes: it had come in on the other side.
    pub(crate) fn of_quoted(quoted: &Quoted, vlan: u32, side: Side) -> Self {
        let side = side.other();
        let ports = echo_ports(quoted.message, quoted.ports, side);
        Self::new((quoted.source, quoted.destination), ports, vlan, quoted.protocol, side)
    }

    /// Of a connection that another balancer told, opened by its client.
    pub(crate) fn of_told(told: &Told) -> Self {
        let ports = u32::from(told.client_port) << 16 | u32::from(told.service_port);
        let ends = (address_bits(told.client), address_bits(told.service));
        Self::new(ends, ports, told.vlans, told.protocol, Side::Near)
    }

    /// Of all that a source, an address or a network, has of something: no packet's.
    pub(crate) fn of_source(source: u128, of: u32) -> Self {
        let [high, low] = halves(source);
        Self([high, u64::from(of), 0, 0, low])
    }

    #[inline]
    fn new((source, destination): (u128, u128), ports: u32, vlan: u32, protocol: u8, side: Side) -> Self {
        let (near, far, ports) = match side {
            Side::Near => (source, destination, ports),
            Side::Far => (destination, source, if is_icmp(protocol) { ports } else { ports.rotate_left(16) }),
        };
        let ([n1, n0], [f1, f0]) = (halves(near), halves(far));
        let rest = u64::from(ports) << 32 | u64::from(vlan) << 8 | u64::from(protocol);
        match n1 == 0 && n0 >> 32 == 0xffff {
            true => Self([n0 << 32 | f0 & 0xffff_ffff, rest, MAPPED, 0, 0]),
            false => Self([n1, rest, f0, f1, n0]),
        }
    }

    /// (source, destination) addresses and ports as the initiator on `side` sends them. ICMP has no ports.
    pub(crate) fn as_sent_from(&self, side: Side) -> (u128, u128, u32) {
        let [n1, rest, f0, f1, n0] = self.0;
        let join = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let (near, far) = match self.is_v4() {
            true => (join(0, MAPPED | n1 >> 32), join(0, MAPPED | n1 & 0xffff_ffff)),
            false => (join(n1, n0), join(f1, f0)),
        };
        let ports = if is_icmp(self.protocol()) { 0 } else { (rest >> 32) as u32 };
        match side {
            Side::Near => (near, far, ports),
            Side::Far => (far, near, ports.rotate_left(16)),
        }
    }

    /// [`Key::as_sent_from`] of an IPv4 connection, but that the ports of ICMP mean nothing; `None`: it is one of IPv6.
    #[inline]
    pub(crate) fn v4_as_sent_from(&self, side: Side) -> Option<(u32, u32, u32)> {
        if !self.is_v4() {
            return None;
        }
        let [both, rest, ..] = self.0;
        let (near, far) = ((both >> 32) as u32, (both & 0xffff_ffff) as u32);
        let ports = (rest >> 32) as u32;
        Some(match side {
            Side::Near => (near, far, ports),
            Side::Far => (far, near, ports.rotate_left(16)),
        })
    }

    #[inline]
    pub(crate) fn is_v4(&self) -> bool {
        let [_, _, f0, f1, n0] = self.0;
        (f0 ^ MAPPED) | f1 | n0 == 0
    }

    /// The outer VLAN id; 0: no tag.
    #[inline]
    pub(crate) fn outer_vlan(&self) -> u32 {
        (self.0[1] >> 20 & 0xfff) as u32
    }

    /// The ids of both tags, as a packet has them.
    pub(crate) fn vlans(&self) -> u32 {
        (self.0[1] >> 8 & 0xff_ffff) as u32
    }

    pub(crate) fn protocol(&self) -> u8 {
        (self.0[1] & 0xff) as u8
    }

    #[inline]
    pub(crate) fn hash(&self, seed: u64) -> u64 {
        let [a, e, d, c, b] = self.0;
        if self.is_v4() {
            return V4Key { addresses: a, rest: e }.hash(seed);
        }
        // A factor of zero swallows the other: no factor may be one that a sender can choose without the seed.
        let x = fold(a ^ seed, b ^ seed.rotate_left(16) ^ 0x9e37_79b9_7f4a_7c15);
        let y = fold(c ^ seed.rotate_left(32), d ^ seed.rotate_left(48) ^ 0xbf58_476d_1ce4_e5b9);
        fold(x ^ e ^ seed, y ^ seed.rotate_left(24) ^ 0x94d0_49bb_1331_11eb)
    }
}

/// Before an IPv4 address: the low half of what the parser refuses on the wire.
pub(crate) const MAPPED: u64 = 0xffff << 32;

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMPV6)
}

/// A [`Key`] of an IPv4 connection without VLANs, in two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct V4Key {
    /// Near and far.
    addresses: u64,
    /// As a key's last word.
    rest: u64,
}

impl V4Key {
    /// No packet's.
    pub(crate) const NOTHING: Self = Self { addresses: u64::MAX, rest: u64::MAX };

    /// Of a packet that came in on `side`: addresses and ports as on the wire, read as numbers.
    #[inline]
    pub(crate) fn of((source, destination): (u32, u32), ports: u32, protocol: u8, side: Side) -> Self {
        let (near, far, ports) = match side {
            Side::Near => (source, destination, ports),
            Side::Far => (destination, source, ports.rotate_left(16)),
        };
        let both = |high: u32, low: u64| u64::from(high) << 32 | low;
        Self { addresses: both(near, u64::from(far)), rest: both(ports, u64::from(protocol)) }
    }

    /// Addresses and ports as the end point on `side` sends them.
    #[inline]
    pub(crate) fn as_sent_from(self, side: Side) -> ((u32, u32), u32) {
        let (near, far) = ((self.addresses >> 32) as u32, (self.addresses & 0xffff_ffff) as u32);
        let ports = (self.rest >> 32) as u32;
        match side {
            Side::Near => ((near, far), ports),
            Side::Far => ((far, near), ports.rotate_left(16)),
        }
    }

    #[inline]
    pub(crate) fn protocol(self) -> u8 {
        (self.rest & 0xff) as u8
    }

    #[inline]
    pub(crate) fn hash(self, seed: u64) -> u64 {
        fold(self.addresses ^ seed, self.rest ^ seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// 0: a key of IPv4 without VLANs is this.
    #[inline]
    pub(crate) fn differs(self, key: &Key) -> u64 {
        let [addresses, rest, ..] = key.0;
        (addresses ^ self.addresses) | (rest ^ self.rest)
    }

    /// The same for whoever takes any.
    #[inline]
    pub(crate) fn key(self) -> Key {
        Key([self.addresses, self.rest, MAPPED, 0, 0])
    }
}

/// An echo's identifier, and which side asks: so that a request never passes as the reply to another.
#[inline]
fn echo_ports(message: Message, ports: u32, side: Side) -> u32 {
    let requester = match message {
        Message::EchoRequest => side,
        Message::EchoReply => side.other(),
        _ => return ports,
    };
    ports & 0xffff_0000 | u32::from(requester == Side::Far)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which half of an address may be spoofed to swallow the other: none, under any seed.
    #[test]
    fn no_choice_of_one_word_makes_the_others_irrelevant() {
        let constants = [0, 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
        for seed in [1, 0x0123_4567_89ab_cdef, 0xdd04_833f_dc98_b8cb] {
            for (chosen, word) in (0..5).flat_map(|i| constants.map(|c| (i, c))) {
                for varied in (0..5).filter(|v| *v != chosen) {
                    let hashes: std::collections::HashSet<u64> = (0..1000u64)
                        .map(|n| {
                            let mut words = [7; 5];
                            words[varied] = n << 16;
                            words[chosen] = word;
                            Key(words).hash(seed)
                        })
                        .collect();
                    assert!(
                        hashes.len() > 990,
                        "word {chosen} = {word:x} swallows {varied}: {}",
                        hashes.len()
                    );
                }
            }
        }
    }
}
