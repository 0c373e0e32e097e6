//! The connection table: bounded, preallocated, one 64-byte entry per connection.
//!
//! An open-addressing index (linear probing, backward-shift deletion, at most half full) of 32-bit hashes and slot
//! numbers leads to the entries, so a lookup touches two cache lines. A connection is one entry for both directions:
//! its key names the end points by the *side* they are on, so a packet that comes in on the wrong side is not a
//! reply. The hash is seeded; probing is bounded, so a flood of colliding keys costs a constant and the excess is
//! treated as a full table.
//!
//! Tests: below (against a `HashMap`).

use crate::{
    hash::{fold, halves},
    packet::{ICMP, ICMPV6, Message, Packet, Quoted},
};

/// Most connections that can be configured (1 GiB of entries).
pub(crate) const MAX_CONNECTIONS: u32 = 1 << 24;
/// Longest probe sequence; at half load the longest expected run at 2^24 entries is about 90.
const MAX_PROBES: usize = 256;
/// Entries looked at by one `tick`.
pub(crate) const TICK_SLOTS: usize = 4096;
/// Entries looked at for an expired one when a connection finds the table full.
const RECLAIM_SLOTS: usize = 64;

/// The side of a two-port function where a frame came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u64; 5]);

impl Key {
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

    #[inline]
    fn new((source, destination): (u128, u128), ports: u32, vlan: u32, protocol: u8, side: Side) -> Self {
        let (near, far, ports) = match side {
            Side::Near => (source, destination, ports),
            Side::Far => (destination, source, if is_icmp(protocol) { ports } else { ports.rotate_left(16) }),
        };
        let ([n1, n0], [f1, f0]) = (halves(near), halves(far));
        Self([n1, n0, f1, f0, u64::from(ports) << 32 | u64::from(vlan) << 8 | u64::from(protocol)])
    }

    /// (source, destination) addresses and ports as the initiator on `side` sends them. ICMP has no ports.
    pub(crate) fn as_sent_from(&self, side: Side) -> (u128, u128, u32) {
        let [n1, n0, f1, f0, rest] = self.0;
        let join = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let ports = if is_icmp(self.protocol()) { 0 } else { (rest >> 32) as u32 };
        match side {
            Side::Near => (join(n1, n0), join(f1, f0), ports),
            Side::Far => (join(f1, f0), join(n1, n0), ports.rotate_left(16)),
        }
    }

    pub(crate) fn protocol(&self) -> u8 {
        (self.0[4] & 0xff) as u8
    }

    #[inline]
    fn hash(&self, seed: u64) -> u32 {
        let [a, b, c, d, e] = self.0;
        // A factor of zero swallows the other: no factor may be one that a sender can choose without the seed.
        let x = fold(a ^ seed, b ^ seed.rotate_left(16) ^ 0x9e37_79b9_7f4a_7c15);
        let y = fold(c ^ seed.rotate_left(32), d ^ seed.rotate_left(48) ^ 0xbf58_476d_1ce4_e5b9);
        let h = fold(x ^ e ^ seed, y ^ seed.rotate_left(24) ^ 0x94d0_49bb_1331_11eb);
        ((h >> 32) as u32) | OCCUPIED
    }
}

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMPV6)
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

/// Every stored hash has it, so an entry without it is free.
const OCCUPIED: u32 = 1 << 31;

/// A tracked connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<V> {
    pub key: Key,
    pub value: V,
    hash: u32,
    /// Time of the last packet, ms, wrapping.
    pub last_ms: u32,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Table<V> {
    /// Hash in the high half, slot + 1 in the low one; 0 is empty.
    index: Vec<u64>,
    mask: usize,
    /// Never grows beyond what was reserved.
    entries: Vec<Entry<V>>,
    free: Vec<u32>,
    limit: usize,
    seed: u64,
    cursor: usize,
}

/// The machine has not enough memory for a table.
#[derive(Debug)]
pub(crate) struct OutOfMemory;

impl<V: Copy> Table<V> {
    /// Room for `limit` connections, at most [`MAX_CONNECTIONS`].
    pub(crate) fn new(limit: u32, seed: u64) -> Result<Self, OutOfMemory> {
        let limit = limit.min(MAX_CONNECTIONS) as usize;
        let buckets = (2 * limit).next_power_of_two().max(16);
        let mut it = Self {
            index: Vec::new(),
            mask: buckets - 1,
            entries: Vec::new(),
            free: Vec::new(),
            limit,
            seed,
            cursor: 0,
        };
        it.index.try_reserve_exact(buckets).map_err(|_| OutOfMemory)?;
        it.entries.try_reserve_exact(limit).map_err(|_| OutOfMemory)?;
        it.free.try_reserve_exact(limit).map_err(|_| OutOfMemory)?;
        it.index.resize(buckets, 0);
        Ok(it)
    }

    /// Changes the bound and keeps every connection, also those beyond a lower bound (they age out). A bound above
    /// [`Table::capacity`] needs `room`, an empty table of that bound; the smaller table is left there.
    pub(crate) fn set_limit(&mut self, limit: u32, room: &mut Option<Self>) {
        if let Some(larger) = room.as_mut().filter(|r| r.capacity() > self.capacity()) {
            for entry in self.entries.iter().filter(|e| e.hash != 0) {
                larger.insert(entry.key, entry.value, entry.last_ms);
            }
            std::mem::swap(self, larger);
        }
        self.limit = (limit as usize).min(self.capacity());
    }

    /// The highest bound without more room.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Of the hash: a larger table must have the same.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Connections now.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The slot of a key.
    #[inline]
    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        let hash = key.hash(self.seed);
        let mut bucket = hash as usize & self.mask;
        for _ in 0..MAX_PROBES {
            let word = *self.index.get(bucket)?;
            if word == 0 {
                return None;
            }
            if (word >> 32) as u32 == hash {
                let slot = slot_of(word);
                if self.entries.get(slot as usize).is_some_and(|e| e.key == *key) {
                    return Some(slot);
                }
            }
            bucket = (bucket + 1) & self.mask;
        }
        None
    }

    /// An occupied slot's entry.
    #[inline]
    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Entry<V>> {
        self.entries.get_mut(slot as usize)
    }

    /// Adds a key that is not there; `None` when full.
    pub(crate) fn insert(&mut self, key: Key, value: V, now_ms: u32) -> Option<u32> {
        if self.len() >= self.limit {
            return None;
        }
        let hash = key.hash(self.seed);
        let bucket = (0..MAX_PROBES)
            .map(|i| (hash as usize + i) & self.mask)
            .find(|b| self.index.get(*b).is_some_and(|w| *w == 0))?;
        let entry = Entry { key, value, hash, last_ms: now_ms };
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.entries.get_mut(slot as usize)? = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).ok()?
            }
        };
        *self.index.get_mut(bucket)? = u64::from(hash) << 32 | u64::from(slot + 1);
        Some(slot)
    }

    /// [`Table::insert`], after looking for expired entries if the table is full.
    pub(crate) fn insert_or_reclaim(
        &mut self,
        key: Key,
        value: V,
        now_ms: u32,
        expired: impl FnMut(&Entry<V>) -> bool,
    ) -> (Option<u32>, usize) {
        if let Some(slot) = self.insert(key, value, now_ms) {
            return (Some(slot), 0);
        }
        let reclaimed = self.sweep(RECLAIM_SLOTS, expired);
        let slot = if reclaimed > 0 { self.insert(key, value, now_ms) } else { None };
        (slot, reclaimed)
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(entry) = self.entries.get_mut(slot as usize).filter(|e| e.hash != 0) else { return };
        let hash = std::mem::take(&mut entry.hash);
        self.free.push(slot);
        let wanted = u64::from(hash) << 32 | u64::from(slot + 1);
        let bucket =
            (0..MAX_PROBES).map(|i| (hash as usize + i) & self.mask).find(|b| self.index[*b] == wanted);
        if let Some(bucket) = bucket {
            self.close_gap(bucket);
        }
    }

    /// Backward-shift deletion: moves later members of the run into the gap unless they are before their home then.
    fn close_gap(&mut self, mut gap: usize) {
        let mut here = gap;
        for _ in 0..self.index.len() {
            here = (here + 1) & self.mask;
            let word = self.index[here];
            if word == 0 {
                break;
            }
            let home = (word >> 32) as usize & self.mask;
            let distance = here.wrapping_sub(home) & self.mask;
            if distance >= here.wrapping_sub(gap) & self.mask {
                self.index[gap] = word;
                gap = here;
            }
        }
        self.index[gap] = 0;
    }

    /// Looks at the next `budget` entries and forgets the expired ones; how many.
    pub(crate) fn sweep(&mut self, budget: usize, mut expired: impl FnMut(&Entry<V>) -> bool) -> usize {
        let mut removed = 0;
        for _ in 0..budget.min(self.entries.len()) {
            self.cursor = if self.cursor + 1 >= self.entries.len() { 0 } else { self.cursor + 1 };
            let entry = &self.entries[self.cursor];
            if entry.hash != 0 && expired(entry) {
                self.remove(u32::try_from(self.cursor).unwrap_or(u32::MAX));
                removed += 1;
            }
        }
        removed
    }
}

#[inline]
fn slot_of(word: u64) -> u32 {
    ((word & 0xffff_ffff) as u32).wrapping_sub(1)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(n: u64) -> Key {
        Key([0, 0xffff_0000_0000 | n, 0, n.wrapping_mul(77), n])
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(std::mem::size_of::<Entry<[u32; 4]>>(), 64);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((0u64..60, 0u8..4), 0..600), seed: u64) {
            let mut table = Table::new(40, seed).unwrap();
            let mut model: HashMap<u64, u32> = HashMap::new();
            for (at, (n, op)) in ops.into_iter().enumerate() {
                let at = at as u32;
                match op {
                    0 | 1 => {
                        let found = table.find(&key(n));
                        prop_assert_eq!(found.is_some(), model.contains_key(&n));
                        if found.is_none() {
                            let room = model.len() < 40;
                            prop_assert_eq!(table.insert(key(n), at, at).is_some(), room);
                            if room { model.insert(n, at); }
                        }
                    }
                    2 => {
                        if let Some(slot) = table.find(&key(n)) { table.remove(slot); }
                        model.remove(&n);
                    }
                    _ => {
                        // A sweep over everything removes exactly what is expired.
                        table.sweep(usize::MAX, |e| e.value % 3 == 0);
                        model.retain(|_, v| *v % 3 != 0);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (n, v) in &model {
                let slot = table.find(&key(*n)).unwrap();
                prop_assert_eq!(table.get(slot).unwrap().value, *v);
            }
        }
    }

    #[test]
    fn a_higher_bound_keeps_everything_and_a_lower_one_only_refuses() {
        let mut table = Table::new(100, 7).unwrap();
        for n in 0..100 {
            table.insert(key(n), n, 0).unwrap();
        }
        assert!(table.insert(key(100), 100, 0).is_none());
        table.set_limit(5000, &mut None);
        assert!(table.insert(key(100), 100, 0).is_none(), "no room was given");
        let mut room = Some(Table::new(5000, 7).unwrap());
        table.set_limit(5000, &mut room);
        assert_eq!(room.map(|smaller| smaller.capacity()), Some(100));
        table.insert(key(100), 100, 0).unwrap();
        table.set_limit(50, &mut None);
        assert!(table.insert(key(101), 101, 0).is_none());
        assert!((0..=100).all(|n| table.find(&key(n)).is_some()));
    }
    /// Which half of an address may be spoofed to swallow the other: none, under any seed.
    #[test]
    fn no_choice_of_one_word_makes_the_others_irrelevant() {
        let constants = [0, 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
        for seed in [1, 0x0123_4567_89ab_cdef, 0xdd04_833f_dc98_b8cb] {
            for (chosen, word) in (0..5).flat_map(|i| constants.map(|c| (i, c))) {
                for varied in (0..5).filter(|v| *v != chosen) {
                    let hashes: std::collections::HashSet<u32> = (0..1000u64)
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
