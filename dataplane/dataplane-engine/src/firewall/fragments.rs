//! Datagrams in pieces: the first fragment is decided as a packet, the others share its fate.
//!
//! Nothing is held back or put together. What passed of a datagram is remembered, at most [`PIECES`] loose parts, in a table of a fixed number of
//! datagrams, four to a set, the oldest of a set giving way. From that follow the rules:
//!
//! - a fragment that comes before its datagram's first has no fate to share and is dropped ([`DropReason::FragmentEarly`]):
//!   who sends the last fragment first, as some hosts once did, does not get through;
//! - one that lies within what passed is dropped: a repetition, or an attempt at another content; the datagram goes on;
//! - one that overlaps what passed in part ends the datagram (RFC 5722 §4): nothing more of it passes;
//! - so does one that contradicts the datagram's end, or is one loose part too many ([`DropReason::FragmentSize`]);
//! - TCP at offset 8 (RFC 3128), an empty one, or one that is not the last and no multiple of 8 bytes, is dropped
//!   ([`DropReason::FragmentTiny`]);
//! - a datagram is forgotten when it is whole, [`LIFETIME_MS`] after its first fragment, and when the configuration
//!   changes, for what allowed it may be gone.
//!
//! TCP in pieces does not pass where TCP is strict: how much of the sequence a first fragment is cannot be known.
//!
//! Tests: below, against a reassembler with a flag for each byte; the firewall's model in `tests/firewall.rs`.

use crate::{
    DropReason,
    hash::{fold, halves},
    key::Side,
    packet::{Packet, Piece, TCP},
    table::OutOfMemory,
};

/// How long a datagram is remembered, ms: as hosts do (RFC 8200 §4.5 has 60 s, Linux 30 s).
pub(crate) const LIFETIME_MS: u32 = 30_000;
/// Datagrams in a set.
const WAYS: usize = 4;
/// Loose parts of a datagram: what passed, with gaps between.
pub(crate) const PIECES: usize = 8;
/// Largest fragmentable part, bytes (RFC 791 §3.1: a total of 65,535 with a header of 20; of IPv6 it may be as much).
const MOST_BYTES: u32 = 65_515;

/// Which datagram. RFC 791: addresses, protocol and identification; RFC 8200: addresses and identification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Name {
    source: u128,
    destination: u128,
    id: u32,
    /// VLANs, protocol (IPv4), side.
    rest: u64,
}

impl Name {
    fn of(side: Side, packet: &Packet, piece: &Piece) -> Self {
        let protocol = if packet.v6 { 0 } else { packet.protocol };
        let rest = u64::from(packet.vlan) << 9 | u64::from(protocol) << 1 | side as u64;
        Self { source: packet.source, destination: packet.destination, id: piece.id, rest }
    }

    fn hash(&self, seed: u64) -> u64 {
        let ([a, b], [c, d]) = (halves(self.source), halves(self.destination));
        let x = fold(a ^ seed, b ^ seed.rotate_left(16) ^ 0x9e37_79b9_7f4a_7c15);
        let y = fold(c ^ seed.rotate_left(32), d ^ seed.rotate_left(48) ^ 0xbf58_476d_1ce4_e5b9);
        let rest = fold(u64::from(self.id) ^ seed, self.rest ^ 0x94d0_49bb_1331_11eb);
        fold(x ^ rest ^ seed, y ^ seed.rotate_left(24) ^ 0x2545_f491_4f6c_dd1d)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    Vacant,
    Passes,
    /// Nothing of it passes any more.
    Ended,
}

/// Bytes from, up to.
type Part = (u32, u32);

#[derive(Debug, Clone, Copy, Default)]
struct Datagram {
    name: Name,
    since_ms: u32,
    /// Of the configuration that allowed it.
    generation: u32,
    fate: Fate,
    /// Where it ends; 0: not known.
    end: u32,
    /// What passed, in any order; an empty one is none.
    parts: [Part; PIECES],
}

/// What a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// To be decided as a packet; if it passes, [`Fragments::passed`].
    First,
    /// Shares the fate of a first one that passed.
    Later,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Fragments {
    sets: Vec<[Datagram; WAYS]>,
    seed: u64,
}

impl Fragments {
    /// For so many datagrams; a power of two, from 8.
    pub(crate) fn new(datagrams: usize, seed: u64) -> Result<Self, OutOfMemory> {
        let count = (datagrams / WAYS).max(1).next_power_of_two();
        let mut sets = Vec::new();
        sets.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        sets.resize(count, [Datagram::default(); WAYS]);
        Ok(Self { sets, seed })
    }

    /// Looks at a fragment, and counts a later one as passed.
    ///
    /// # Errors
    /// Why it does not pass.
    pub(crate) fn see(
        &mut self,
        now_ms: u32,
        generation: u32,
        side: Side,
        packet: &Packet,
        piece: &Piece,
    ) -> Result<Seen, DropReason> {
        let end = piece.offset.saturating_add(piece.length);
        let tcp = !packet.v6 && packet.protocol == TCP && piece.offset == 8;
        if piece.length == 0 || tcp || piece.more && !piece.length.is_multiple_of(8) {
            return Err(DropReason::FragmentTiny);
        }
        if end > MOST_BYTES {
            return Err(DropReason::FragmentSize);
        }
        let name = Name::of(side, packet, piece);
        let known = self.set(&name).iter_mut().find(|d| d.lives(now_ms, generation) && d.name == name);
        let Some(datagram) = known else {
            return if piece.offset == 0 { Ok(Seen::First) } else { Err(DropReason::FragmentEarly) };
        };
        datagram.take(piece.offset, end, piece.more)?;
        if datagram.is_whole() {
            datagram.fate = Fate::Vacant;
        }
        Ok(Seen::Later)
    }

    /// A first fragment passed: what follows it may. The oldest datagram of its set gives way.
    pub(crate) fn passed(
        &mut self,
        now_ms: u32,
        generation: u32,
        side: Side,
        packet: &Packet,
        piece: &Piece,
    ) {
        let name = Name::of(side, packet, piece);
        let mut parts = [(0, 0); PIECES];
        parts[0] = (0, piece.length);
        let new = Datagram { name, since_ms: now_ms, generation, fate: Fate::Passes, end: 0, parts };
        let age = |d: &Datagram| match d.lives(now_ms, generation) {
            true => u64::from(now_ms.wrapping_sub(d.since_ms)),
            false => u64::MAX,
        };
        if let Some(oldest) = self.set(&name).iter_mut().max_by_key(|d| age(d)) {
            *oldest = new;
        }
    }

    fn set(&mut self, name: &Name) -> &mut [Datagram] {
        // A power of two.
        let mask = self.sets.len() as u64 - 1;
        let set = name.hash(self.seed) & mask;
        self.sets.get_mut(usize::try_from(set).unwrap_or(0)).map_or(&mut [], |set| set)
    }
}

impl Datagram {
    fn lives(&self, now_ms: u32, generation: u32) -> bool {
        self.fate != Fate::Vacant
            && self.generation == generation
            && now_ms.wrapping_sub(self.since_ms) <= LIFETIME_MS
    }

    fn take(&mut self, from: u32, to: u32, more: bool) -> Result<(), DropReason> {
        if self.fate == Fate::Ended {
            return Err(DropReason::FragmentOverlap);
        }
        if self.parts.iter().any(|p| p.0 <= from && to <= p.1) {
            return Err(DropReason::FragmentOverlap);
        }
        if self.parts.iter().any(|p| from < p.1 && p.0 < to) {
            return self.over(DropReason::FragmentOverlap);
        }
        let beyond = |end: u32| end != 0 && (to > end || !more && to != end);
        if beyond(self.end) || !more && self.parts.iter().any(|p| p.1 > to) {
            return self.over(DropReason::FragmentSize);
        }
        let mut part = (from, to);
        for other in &mut self.parts {
            if is_part(*other) && (other.1 == part.0 || part.1 == other.0) {
                part = (part.0.min(other.0), part.1.max(other.1));
                *other = (0, 0);
            }
        }
        let Some(free) = self.parts.iter_mut().find(|p| !is_part(**p)) else {
            return self.over(DropReason::FragmentSize);
        };
        *free = part;
        if !more {
            self.end = to;
        }
        Ok(())
    }

    fn over(&mut self, reason: DropReason) -> Result<(), DropReason> {
        self.fate = Fate::Ended;
        Err(reason)
    }

    fn is_whole(&self) -> bool {
        self.end != 0 && self.parts.contains(&(0, self.end))
    }
}

fn is_part(part: Part) -> bool {
    part.0 < part.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Message;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn packet(host: u8, v6: bool, protocol: u8) -> Packet {
        let base = if v6 { 0x2001_0db8 << 96 } else { 0xffff_0a00_0000 };
        Packet {
            source: base | u128::from(host),
            destination: base | 0xff,
            ports: 0,
            vlan: 0,
            protocol,
            v6,
            tcp_flags: 0,
            message: Message::None,
            icmp: 0,
            l3: 14,
            l4: 34,
            end: 34,
        }
    }

    /// A reassembler that knows of every byte whether it passed.
    #[derive(Default)]
    struct Naive {
        bytes: Vec<bool>,
        end: Option<usize>,
        ended: bool,
        since_ms: u32,
    }

    impl Naive {
        fn loose(&self) -> usize {
            let mut before = false;
            self.bytes.iter().filter(|b| **b != std::mem::replace(&mut before, **b) && **b).count()
        }

        /// Whether it passes.
        fn take(&mut self, from: usize, to: usize, more: bool) -> bool {
            if self.ended {
                return false;
            }
            self.bytes.resize(self.bytes.len().max(to), false);
            let taken = self.bytes[from..to].iter().filter(|b| **b).count();
            let last = self.bytes.iter().rposition(|b| *b).map_or(0, |l| l + 1);
            if taken == to - from {
                return false;
            }
            let before = self.bytes.clone();
            self.bytes[from..to].fill(true);
            let contradicts =
                self.end.is_some_and(|end| to > end || !more && to != end) || !more && last > to;
            if taken > 0 || contradicts || self.loose() > PIECES {
                self.bytes = before;
                self.ended = true;
                return false;
            }
            if !more {
                self.end = Some(to);
            }
            true
        }

        fn whole(&self) -> bool {
            self.end.is_some_and(|end| self.bytes[..end].iter().all(|b| *b))
        }
    }

    fn fragment() -> impl Strategy<Value = (u8, u32, u32, bool)> {
        (
            0..3u8,
            prop_oneof![3 => 0u32..6, 2 => 0u32..40],
            prop_oneof![6 => Just(16u32), 2 => 1u32..7],
            any::<bool>(),
        )
            .prop_map(|(host, at, length, more)| {
                let length = if length == 16 {
                    16
                } else if more {
                    length * 8
                } else {
                    length * 3
                };
                (host, at * 16, length, more)
            })
    }

    proptest! {
        #[test]
        fn passes_what_a_reassembler_takes(
            v6: bool, start: u32, seed: u64,
            steps in proptest::collection::vec((fragment(), prop_oneof![9 => Just(0u32), 1 => 1u32..20_000]), 1..120),
        ) {
            let mut tracker = Fragments::new(64, seed).unwrap();
            let mut naive: HashMap<u8, Naive> = HashMap::new();
            let mut now = start;
            for ((host, offset, length, more), wait) in steps {
                now = now.wrapping_add(wait);
                let (packet, piece) = (packet(host, v6, 17), Piece { id: 7, offset, length, more });
                naive.retain(|_, d| now.wrapping_sub(d.since_ms) <= LIFETIME_MS);
                let (from, to) = (offset as usize, (offset + length) as usize);
                let got = tracker.see(now, 0, Side::Near, &packet, &piece);
                let expected = match naive.get_mut(&host) {
                    Some(datagram) => datagram.take(from, to, more),
                    None if offset > 0 => false,
                    None => {
                        prop_assert_eq!(got, Ok(Seen::First));
                        // A first that is the last is a whole packet, which does not come here.
                        if more {
                            tracker.passed(now, 0, Side::Near, &packet, &piece);
                            let mut datagram = Naive { since_ms: now, ..Naive::default() };
                            datagram.take(0, to, true);
                            naive.insert(host, datagram);
                        }
                        continue;
                    }
                };
                naive.retain(|_, d| !d.whole());
                prop_assert_eq!(got == Ok(Seen::Later), expected, "{:?}", got);
            }
        }
    }

    fn see(
        tracker: &mut Fragments,
        now: u32,
        packet: &Packet,
        (offset, length, more): (u32, u32, bool),
    ) -> Result<Seen, DropReason> {
        let piece = Piece { id: 1, offset, length, more };
        let seen = tracker.see(now, 0, Side::Near, packet, &piece);
        if seen == Ok(Seen::First) {
            tracker.passed(now, 0, Side::Near, packet, &piece);
        }
        seen
    }

    #[test]
    fn what_is_tiny_or_too_large_does_not_pass() {
        let mut tracker = Fragments::new(8, 1).unwrap();
        let tcp = packet(1, false, TCP);
        assert_eq!(see(&mut tracker, 0, &tcp, (0, 24, true)), Ok(Seen::First));
        for (piece, reason) in [
            ((8, 16, true), DropReason::FragmentTiny),
            ((24, 0, true), DropReason::FragmentTiny),
            ((24, 12, true), DropReason::FragmentTiny),
            ((65_512, 8, false), DropReason::FragmentSize),
            ((16, 16, true), DropReason::FragmentOverlap),
            // The datagram is over.
            ((24, 16, true), DropReason::FragmentOverlap),
        ] {
            assert_eq!(see(&mut tracker, 0, &tcp, piece), Err(reason), "{piece:?}");
        }
    }

    #[test]
    fn a_datagram_is_of_one_side_one_vlan_and_one_configuration() {
        let mut tracker = Fragments::new(8, 1).unwrap();
        let udp = packet(1, false, 17);
        assert_eq!(see(&mut tracker, 0, &udp, (0, 16, true)), Ok(Seen::First));
        let later = Piece { id: 1, offset: 16, length: 8, more: true };
        for (generation, side, packet) in [
            (1, Side::Near, udp),
            (0, Side::Far, udp),
            (0, Side::Near, Packet { vlan: 5, ..udp }),
            (0, Side::Near, Packet { protocol: 6, ..udp }),
        ] {
            let got = tracker.see(0, generation, side, &packet, &later);
            assert_eq!(got, Err(DropReason::FragmentEarly));
        }
        assert_eq!(tracker.see(0, 0, Side::Near, &udp, &later), Ok(Seen::Later));
    }

    #[test]
    fn a_flood_takes_the_place_of_the_oldest_only() {
        let mut tracker = Fragments::new(4, 1).unwrap();
        for host in 0..5 {
            let first = see(&mut tracker, u32::from(host), &packet(host, true, 17), (0, 8, true));
            assert_eq!(first, Ok(Seen::First));
        }
        let later = |tracker: &mut Fragments, host| see(tracker, 9, &packet(host, true, 17), (8, 8, false));
        assert_eq!(later(&mut tracker, 0), Err(DropReason::FragmentEarly));
        assert!((1..5).all(|host| later(&mut tracker, host) == Ok(Seen::Later)));
        // They were whole: nobody is known.
        assert!((1..5).all(|host| later(&mut tracker, host) == Err(DropReason::FragmentEarly)));
    }
}
