//! SYN cookies, and what connects who returned one to the server (RFC 4987 §3.6, §3.7).
//!
//! While too many connections are half open, a SYN that the rules allow is not remembered but answered: with a sequence number that
//! only we can make, and a window of nothing. Who acknowledges that number is where it says it is. Its acknowledgement becomes the SYN to the
//! server; the server's answer becomes the window that the client waits for; from then on the numbers of the server's direction differ by a
//! constant, which is added and taken away:
//!
//! ```text
//! client              firewall              server
//!   | SYN  n             |                     |
//!   | <- SYN-ACK c, win 0|    nothing is kept  |
//!   | ACK  n+1, c+1      |                     |
//!   |              a connection                |
//!   |                    | SYN n            -> |
//!   |                    | <-      SYN-ACK s   |     delta = c - s
//!   | <- ACK c+1, window |                     |
//!   | data, ACK c+1      | data, ACK s+1    -> |
//! ```
//!
//! A client that has nothing to say does not answer the window; then the server asks again, which we answer. If the SYN to the
//! server is lost, the client's probe of the closed window makes another one.
//!
//! A cookie is 28 bits of SipHash-2-4 over addresses, ports, the client's number, the time slot and the segment size, 3 bits for one of eight
//! segment sizes, and one that tells this slot from the last. It is good for one to two slots of 65 s. Windows are not scaled, and
//! neither selective acknowledgements nor time stamps offered: who opens a connection under flood does without them.
//!
//! Tests: below (cookies; the reference vectors of SipHash), `tests/guards.rs` (two hosts).

use super::{
    reply::{self, Tcp, Way},
    tcp::Segment,
};
use crate::{
    Frame, checksum,
    hash::halves,
    packet::{ACK, Packet, RST, SYN},
};

/// Segment sizes that a cookie can hold, ascending: what links have, rounded down.
const SIZES: [u16; 8] = [536, 1220, 1300, 1360, 1400, 1440, 1452, 1460];
/// What we tell the client (RFC 9293 §3.7.1: an Ethernet's).
const OUR_SIZE_V4: u16 = 1460;
const OUR_SIZE_V6: u16 = 1440;
/// Milliseconds of a slot, as a shift.
const SLOT: u32 = 16;

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of whole 64-bit words.
fn siphash(key: [u64; 2], words: &[u64]) -> u64 {
    let [k0, k1] = key;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let last = (words.len() as u64 & 0x1f) << 59;
    for word in words.iter().chain(&[last]) {
        v[3] ^= word;
        (0..2).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// Makes and knows cookies.
#[derive(Debug)]
pub(super) struct Cookies {
    /// The secret, and the one before.
    keys: [[u64; 2]; 2],
    /// When the last one was given.
    given_ms: Option<u32>,
}

impl Cookies {
    /// `seed` must not be predictable; every 64 bits of it make other cookies.
    pub(super) fn new(seed: u64) -> Self {
        let key = [siphash([seed, 1], &[1]), siphash([seed, 1], &[2])];
        Self { keys: [key, key], given_ms: None }
    }

    /// From now on cookies are made with another secret; those of the one before are good until the next (RFC 4987 §3.6: a secret
    /// that somebody finds out is worth little).
    pub(super) fn rotate(&mut self, seed: u64) {
        let [current, _] = self.keys;
        self.keys = [Self::new(seed).keys[0], current];
    }

    fn make(key: [u64; 2], packet: &Packet, first: u32, slot: u32, size: usize) -> u32 {
        let ([s1, s0], [d1, d0]) = (halves(packet.source), halves(packet.destination));
        let ends = u64::from(packet.ports) << 32 | u64::from(packet.vlan);
        let rest = u64::from(first) << 32 | u64::from(slot & 0xffff) << 8 | size as u64 & 7;
        let mac = siphash(key, &[s1, s0, d1, d0, ends, rest]) & 0x0fff_ffff;
        let low = (slot & 1) << 3 | u32::try_from(size & 7).unwrap_or(0);
        u32::try_from(mac).unwrap_or(0) << 4 | low
    }

    /// For a SYN.
    fn give(&mut self, now_ms: u32, packet: &Packet, syn: &Segment) -> u32 {
        self.given_ms = Some(now_ms);
        // Without the option 536, and 1220 over IPv6 (RFC 9293 §3.7.1).
        let least = if packet.v6 { SIZES[1] } else { SIZES[0] };
        let told = if syn.mss == 0 { least } else { syn.mss };
        let size = SIZES.iter().rposition(|size| *size <= told).unwrap_or(0);
        Self::make(self.keys[0], packet, syn.sequence, now_ms >> SLOT, size)
    }

    /// What a segment that acknowledges a cookie of ours says.
    pub(super) fn returned(&self, now_ms: u32, packet: &Packet, segment: &Segment) -> Option<Returned> {
        let given = self.given_ms.is_some_and(|at| now_ms.wrapping_sub(at) >> SLOT < 2);
        if !given || segment.flags & (ACK | SYN) != ACK {
            return None;
        }
        let cookie = segment.acknowledged.wrapping_sub(1);
        let first = segment.sequence.wrapping_sub(1);
        let now = now_ms >> SLOT;
        let slot = if (now ^ cookie >> 3) & 1 == 0 { now } else { now.wrapping_sub(1) };
        let size = (cookie & 7) as usize;
        let known = self.keys.iter().any(|key| Self::make(*key, packet, first, slot, size) == cookie);
        known.then_some(Returned { cookie, first, mss: SIZES[size], window: segment.window })
    }
}

/// A client that returned its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Returned {
    cookie: u32,
    /// The client's first number.
    first: u32,
    mss: u16,
    window: u16,
}

/// What a connection that was opened by a cookie remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Proxied {
    /// The cookie; from the server's answer on, that less the server's first number.
    delta: u32,
    first: u32,
    /// The client's.
    window: u16,
    mss: u16,
}

/// Where a frame that was rewritten goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    On,
    Back,
    /// There is nothing to send, or no room to write it.
    Nothing,
}

impl Sent {
    pub(super) fn way(self) -> Option<Way> {
        match self {
            Self::On => Some(Way::On),
            Self::Back => Some(Way::Back),
            Self::Nothing => None,
        }
    }

    fn of(written: bool, way: Way) -> Self {
        match (written, way) {
            (false, _) => Self::Nothing,
            (true, Way::On) => Self::On,
            (true, Way::Back) => Self::Back,
        }
    }
}

/// Answers a SYN with a cookie.
pub(super) fn challenge<F: Frame>(
    cookies: &mut Cookies,
    now_ms: u32,
    frame: &mut F,
    packet: &Packet,
) -> Sent {
    let Some(syn) = Segment::read(frame.bytes(), packet) else { return Sent::Nothing };
    if !reply::may_be_answered(frame.bytes(), packet) {
        return Sent::Nothing;
    }
    let tcp = Tcp {
        sequence: cookies.give(now_ms, packet, &syn),
        // Data with a SYN comes again.
        acknowledged: syn.sequence.wrapping_add(1),
        flags: SYN | ACK,
        window: 0,
        mss: if packet.v6 { OUR_SIZE_V6 } else { OUR_SIZE_V4 },
    };
    Sent::of(reply::write_segment(frame, packet, Way::Back, &tcp), Way::Back)
}

impl Proxied {
    pub(super) fn of(returned: &Returned) -> Self {
        let Returned { cookie, first, mss, window } = *returned;
        Self { delta: cookie, first, window, mss }
    }

    /// In place of a segment of the client: the SYN to the server.
    pub(super) fn call<F: Frame>(&self, frame: &mut F, packet: &Packet) -> Sent {
        let tcp =
            Tcp { sequence: self.first, acknowledged: 0, flags: SYN, window: self.window, mss: self.mss };
        Sent::of(reply::write_segment(frame, packet, Way::On, &tcp), Way::On)
    }

    /// The server's answer, for the first time: whether it acknowledges our SYN; it becomes the client's window.
    pub(super) fn answered<F: Frame>(&mut self, frame: &mut F, packet: &Packet, segment: &Segment) -> Sent {
        if segment.acknowledged != self.first.wrapping_add(1) {
            return Sent::Nothing;
        }
        let cookie = self.delta;
        let tcp = Tcp {
            sequence: cookie.wrapping_add(1),
            acknowledged: segment.acknowledged,
            flags: ACK,
            window: segment.window,
            mss: 0,
        };
        self.delta = cookie.wrapping_sub(segment.sequence);
        Sent::of(reply::write_segment(frame, packet, Way::On, &tcp), Way::On)
    }

    /// The server's answer once more, for the client said nothing to it: it is acknowledged.
    pub(super) fn answered_again<F: Frame>(&self, frame: &mut F, packet: &Packet, segment: &Segment) -> Sent {
        let tcp = Tcp {
            sequence: self.first.wrapping_add(1),
            acknowledged: segment.sequence.wrapping_add(1),
            flags: ACK,
            window: self.window,
            mss: 0,
        };
        Sent::of(reply::write_segment(frame, packet, Way::Back, &tcp), Way::Back)
    }

    /// The server refuses: to the client, a reset of what it takes for a connection.
    pub(super) fn refused<F: Frame>(&self, frame: &mut F, packet: &Packet, segment: &Segment) -> Sent {
        if segment.acknowledged != self.first.wrapping_add(1) {
            return Sent::Nothing;
        }
        let tcp = Tcp { sequence: self.delta.wrapping_add(1), flags: RST, ..Tcp::default() };
        Sent::of(reply::write_segment(frame, packet, Way::On, &tcp), Way::On)
    }

    /// Adds to the server's numbers, takes away from the client's acknowledgements; the checksum follows (RFC 1624).
    pub(super) fn translate(&self, frame: &mut [u8], packet: &Packet, from_server: bool) -> Option<()> {
        let h: &mut [u8; 20] = frame.get_mut(packet.l4..)?.first_chunk_mut()?;
        let (at, add) = match from_server {
            true => (4, self.delta),
            false if packet.tcp_flags & ACK == 0 => return Some(()),
            false => (8, self.delta.wrapping_neg()),
        };
        let before = u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let after = before.wrapping_add(add);
        h[at..at + 4].copy_from_slice(&after.to_be_bytes());
        let mut sum = u16::from_be_bytes([h[16], h[17]]);
        for shift in [16, 0] {
            let half = |word: u32| u16::try_from(word >> shift & 0xffff).unwrap_or(0);
            sum = checksum::updated(sum, half(before), half(after));
        }
        h[16..18].copy_from_slice(&sum.to_be_bytes());
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use crate::packet::{Message, TCP};
    use proptest::prelude::*;

    /// The first words of the authors' test vectors: key 00 01 … 0f, messages 00 01 … of 0, 8, 16 and 24 bytes.
    #[test]
    fn siphash_is_siphash() {
        let word = |from: u8| u64::from_le_bytes(std::array::from_fn(|i| from + i as u8));
        let key = [word(0), word(8)];
        for (words, expected) in [
            (&[][..], 0x726f_db47_dd0e_0e31),
            (&[word(0)], 0x93f5_f579_9a93_2462),
            (&[word(0), word(8)], 0x3f2a_cc7f_57c2_9bdb),
        ] {
            assert_eq!(siphash(key, words), expected, "{words:x?}");
        }
    }

    fn packet(source: u128, ports: u32, vlan: u32) -> Packet {
        Packet {
            source,
            destination: 0xffff_c000_020a,
            ports,
            vlan,
            protocol: TCP,
            v6: false,
            tcp_flags: SYN,
            message: Message::None,
            icmp: 0,
            l3: 14,
            l4: 34,
            end: 54,
        }
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_sender_and_its_time(
            seed: u64, now: u32, source: u32, ports: u32, first: u32, mss: u16, later in 0u32..200_000, flip in 0..32u32,
        ) {
            let client = packet(0xffff_0000_0000 | u128::from(source), ports, 0);
            let mut cookies = Cookies::new(seed);
            let syn = Segment { sequence: first, flags: SYN, mss, length: 1, ..Segment::default() };
            let cookie = cookies.give(now, &client, &syn);
            let ack = Segment {
                sequence: first.wrapping_add(1), acknowledged: cookie.wrapping_add(1), flags: ACK, window: 99, ..Segment::default()
            };
            let got = cookies.returned(now, &client, &ack).unwrap();
            let told = if mss == 0 { 536 } else { mss.max(536) };
            prop_assert!(got.mss <= told && (got.first, got.window, got.cookie) == (first, 99, cookie));
            prop_assert!(SIZES.iter().all(|s| *s <= got.mss || *s > told));
            // Of this slot and the next, until two slots after it.
            let good = (now.wrapping_add(later) >> SLOT).wrapping_sub(now >> SLOT) & 0xffff < 2;
            prop_assert_eq!(cookies.returned(now.wrapping_add(later), &client, &ack).is_some(), good);
            cookies.rotate(seed ^ 1);
            prop_assert_eq!(cookies.returned(now, &client, &ack), Some(got));
            // One bit of anything else, and it is not his.
            let bit = 1 << flip;
            for (other, ack) in [
                (packet(client.source ^ u128::from(bit), ports, 0), ack),
                (packet(client.source, ports ^ bit, 0), ack),
                (packet(client.source, ports, bit & 0xfff | 1), ack),
                (client, Segment { sequence: ack.sequence ^ bit, ..ack }),
                (client, Segment { acknowledged: ack.acknowledged ^ bit, ..ack }),
                (client, Segment { flags: SYN | ACK, ..ack }),
            ] {
                prop_assert_eq!(cookies.returned(now, &other, &ack), None);
            }
            cookies.rotate(seed ^ 2);
            prop_assert_eq!(cookies.returned(now, &client, &ack), None);
        }
    }

    #[test]
    fn nobody_returns_what_was_never_given() {
        let cookies = Cookies::new(1);
        let client = packet(0xffff_0000_0001, 1, 0);
        let good = Cookies::make(cookies.keys[0], &client, 6, 0, 0);
        let ack =
            Segment { sequence: 7, acknowledged: good.wrapping_add(1), flags: ACK, ..Segment::default() };
        assert_eq!(cookies.returned(0, &client, &ack), None);
    }
}
