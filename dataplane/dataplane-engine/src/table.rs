//! The connection table: bounded, all of it there from the start, one cache line per connection and a quarter of one in the
//! index.
//!
//! An index of buckets, each a cache line of eight 16-bit tags and slot numbers and at most half full on average, leads to the entries:
//! a packet of a known connection touches two lines, which [`Table::seek`] and [`Table::candidate`] ask for before they are used. A key may be in
//! either of two buckets; the second follows from the first and the tag. A bucket counts what it sent away, so that what is
//! new is looked for in one. A connection is one entry for both directions: its key names the end points by the *side* they are on, so a
//! packet that comes in on the wrong side is not a reply. The hash is seeded; a flood of keys that collide costs a constant and
//! the excess is treated as a full table.
//!
//! Measured against a denser index, entries of 32 bytes and entries in the buckets: docs/dataplane.md.
//!
//! Tests: below (against a `HashMap`).

use dataplane_control::config::MAX_CONNECTIONS;

use crate::{
    ages::{AGE_BYTES, Age, Ages, QUEUES},
    key::{Key, V4Key},
    machine::{self, Machine, Plain},
};

/// Entries in a bucket.
const WAYS: usize = 8;
/// Connections by bucket when the table is full: more, and the second bucket is asked too often.
const LOAD: usize = 4;
/// Bytes of memory per connection: an entry, its part of the index and of the list of free slots.
pub(crate) const CONNECTION_BYTES: usize = 64 + 64 / LOAD + AGE_BYTES;
/// Connections looked at for their age by one `tick`.
pub(crate) const TICK_SLOTS: usize = 4096;
/// Entries of a table that is swept, looked at for an expired one when it is full.
const RECLAIM_SLOTS: usize = 64;
/// Connections that are looked at together.
const LOOKS: usize = 32;

/// A connection that is looked for, and where first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought {
    pub key: V4Key,
    home: u32,
    tag: u16,
}

impl Sought {
    /// Nothing is.
    pub(crate) const NOTHING: Self = Self { key: V4Key::NOTHING, home: u32::MAX, tag: 0 };

    /// A key that is to be sought.
    #[inline]
    pub(crate) fn of(key: V4Key) -> Self {
        Self { key, home: u32::MAX, tag: 0 }
    }
}

/// What the index says of what is sought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The slot that it probably has.
    pub slot: u32,
    /// It is not where it would be looked for first.
    pub missing: bool,
}

/// Of a slot that nobody has.
const VACANT: u32 = 0;
/// Of a connection of IPv4 that a [`V4Key`] is enough for.
const OF_V4: u32 = 1;
/// Of any other.
const OCCUPIED: u32 = 2;

/// A tracked connection.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Entry<V> {
    pub key: Key,
    pub value: V,
    /// Time of the last packet, ms, wrapping.
    pub last_ms: u32,
    state: u32,
}

impl<V> Entry<V> {
    #[inline]
    fn is_of(&self, key: V4Key) -> bool {
        key.differs(&self.key) | u64::from(self.state ^ OF_V4) == 0
    }
}

/// A line of the index; a tag of 0 is a free way.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket {
    tags: [u16; WAYS],
    slots: [u32; WAYS],
    /// Connections that are looked for here first and are in their other bucket.
    away: u32,
}

impl Bucket {
    /// The ways with this tag, a bit each.
    #[inline]
    fn with<M: Machine>(&self, tag: u16) -> u32 {
        M::equal(&self.tags, tag)
    }

    #[inline]
    fn slot(&self, ways: u32) -> u32 {
        self.slots[first(ways)]
    }
}

/// The first of some ways; any of none.
#[inline]
fn first(ways: u32) -> usize {
    ways.trailing_zeros() as usize % WAYS
}

/// Where a key is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    home: u32,
    tag: u16,
}

impl Place {
    /// Nowhere.
    pub(crate) const NOWHERE: Self = Self { home: u32::MAX, tag: 0 };

    fn home(self) -> usize {
        self.home as usize
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Table<V> {
    index: Vec<Bucket>,
    entries: Vec<Entry<V>>,
    ages: Ages,
    limit: usize,
    seed: u64,
    /// Of a table that is swept.
    cursor: usize,
}

/// What becomes of a connection that is looked at for its age.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Judged {
    /// It is over.
    Over,
    /// It is looked at again after this time, ms.
    Waits(Age, u32),
}

/// The machine has not enough memory for a table.
#[derive(Debug)]
pub(crate) struct OutOfMemory;

impl<V: Copy + Default> Table<V> {
    /// Room for `limit` connections, at most [`MAX_CONNECTIONS`]; the kernel is told of its memory before it is used.
    pub(crate) fn new(limit: u32, seed: u64) -> Result<Self, OutOfMemory> {
        let limit = limit.min(MAX_CONNECTIONS);
        let capacity = limit as usize;
        let buckets = (capacity / LOAD).max(4);
        let vacant = Entry { key: Key::VACANT, value: V::default(), last_ms: 0, state: VACANT };
        Ok(Self {
            index: filled(buckets, Bucket::default())?,
            entries: filled(capacity, vacant)?,
            ages: Ages::new(limit)?,
            limit: capacity,
            seed,
            cursor: 0,
        })
    }

    /// Changes the bound and keeps every connection, also those beyond a lower bound (they age out). A bound above
    /// [`Table::capacity`] needs `room`, an empty table of that bound; the smaller table is left there.
    pub(crate) fn set_limit(&mut self, limit: u32, room: &mut Option<Self>) {
        self.set_limit_and_tell(limit, room, |_, _, _| {});
    }

    /// [`Table::set_limit`], which tells of each entry that moves its slot before and after; `None`: two buckets of the
    /// larger table's index were full, and the entry is lost.
    pub(crate) fn set_limit_and_tell(
        &mut self,
        limit: u32,
        room: &mut Option<Self>,
        mut moved: impl FnMut(&Entry<V>, usize, Option<u32>),
    ) {
        if let Some(larger) = room.as_mut().filter(|r| r.capacity() > self.capacity()) {
            for (slot, age, due_ms) in self.ages.all() {
                if let Some(entry) = self.entries.get(slot as usize) {
                    let after = larger.insert(entry.key, entry.value, entry.last_ms, (age, due_ms));
                    moved(entry, slot as usize, after);
                }
            }
            std::mem::swap(self, larger);
        }
        self.limit = (limit as usize).min(self.capacity());
    }

    /// The highest bound without more room.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Of the hash: a larger table must have the same.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Connections now.
    pub(crate) fn len(&self) -> usize {
        self.ages.taken()
    }

    #[inline]
    fn place(&self, hash: u64) -> Place {
        // Spread over all buckets by the high half; the tag is of the low half.
        let home = (((u128::from(hash) * self.index.len() as u128) >> 64) & 0xffff_ffff) as u32;
        Place { home, tag: (hash & 0xffff) as u16 | 1 }
    }

    /// The other bucket of a key that is in `bucket`: the other's other is this.
    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        let count = self.index.len();
        let sum = ((u64::from(tag).wrapping_mul(0x9e37_79b9) & 0xffff_ffff) * count as u64) >> 32;
        let sum = sum as usize;
        if sum >= bucket { sum - bucket } else { sum + count - bucket }
    }

    /// Asks for the line of the index that leads to a connection.
    #[inline]
    pub(crate) fn seek<M: Machine>(&self, sought: &mut Sought) {
        self.seek_hashed::<M>(sought, sought.key.hash(self.seed));
    }

    /// [`Table::seek`] of a key with this hash.
    #[inline]
    pub(crate) fn seek_hashed<M: Machine>(&self, sought: &mut Sought, hash: u64) {
        let Place { home, tag } = self.place(hash);
        if let Some(bucket) = self.index.get(home as usize) {
            M::prefetch(bucket);
        }
        (sought.home, sought.tag) = (home, tag);
    }

    /// Where this probably is; the line of its entry is asked for.
    #[inline]
    pub(crate) fn candidate<M: Machine>(&self, sought: &Sought) -> Candidate {
        let Some(bucket) = self.index.get(sought.home as usize) else {
            return Candidate { slot: u32::MAX, missing: true };
        };
        let ways = bucket.with::<M>(sought.tag);
        let slot = bucket.slot(ways);
        if let Some(entry) = self.entries.get(slot as usize) {
            M::prefetch(entry);
        }
        Candidate { slot, missing: ways == 0 }
    }

    /// [`Table::seek`] of any key.
    #[inline]
    pub(crate) fn seek_key<M: Machine>(&self, key: &Key) -> Place {
        let place = self.place(key.hash(self.seed));
        if let Some(bucket) = self.index.get(place.home()) {
            M::prefetch(bucket);
        }
        place
    }

    /// The slot that what is sought there probably has; the line of its entry is asked for.
    #[inline]
    pub(crate) fn candidate_at<M: Machine>(&self, place: Place) -> u32 {
        let Place { home, tag } = place;
        self.candidate::<M>(&Sought { key: Sought::NOTHING.key, home, tag }).slot
    }

    /// [`Table::found`] of any key.
    #[inline]
    pub(crate) fn found_key(&mut self, slot: u32, key: &Key) -> Option<&mut Entry<V>> {
        self.entries.get_mut(slot as usize).filter(|e| e.key == *key)
    }

    /// Asks for the line where it is looked for next.
    #[inline]
    pub(crate) fn seek_elsewhere<M: Machine>(&self, sought: &Sought) {
        if self.may_be_away(sought.home as usize)
            && let Some(bucket) = self.index.get(self.other(sought.home as usize, sought.tag))
        {
            M::prefetch(bucket);
        }
    }

    /// Whether what is not in a bucket that it would be looked for in first may be in its other one.
    #[inline]
    fn may_be_away(&self, home: usize) -> bool {
        self.index.get(home).is_some_and(|bucket| bucket.away != 0)
    }

    /// The entry of a slot if it is what is sought; a slot that nobody has has no packet's key.
    #[inline]
    pub(crate) fn found(&mut self, slot: u32, sought: &Sought) -> Option<&mut Entry<V>> {
        self.entries.get_mut(slot as usize).filter(|e| e.is_of(sought.key))
    }

    /// The slot of a key.
    #[inline]
    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        let place = self.place(key.hash(self.seed));
        let (home, tag) = (place.home(), place.tag);
        let here = self.find_in(home, tag, key);
        if here.is_some() || !self.may_be_away(home) {
            return here;
        }
        self.find_in(self.other(home, tag), tag, key)
    }

    #[inline]
    fn find_in(&self, bucket: usize, tag: u16, key: &Key) -> Option<u32> {
        let bucket = self.index.get(bucket)?;
        let mut ways = bucket.with::<Plain>(tag);
        while ways != 0 {
            let slot = bucket.slot(ways);
            if self.entries.get(slot as usize).is_some_and(|e| e.key == *key) {
                return Some(slot);
            }
            ways &= ways - 1;
        }
        None
    }

    /// An occupied slot's entry.
    #[inline]
    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Entry<V>> {
        self.entries.get_mut(slot as usize)
    }

    /// Adds a key that is not there, to be looked at as `age` says; `None` when full.
    #[inline]
    pub(crate) fn insert(&mut self, key: Key, value: V, now_ms: u32, age: (Age, u32)) -> Option<u32> {
        if self.len() >= self.limit {
            return None;
        }
        let place = self.place(key.hash(self.seed));
        let (bucket, way) = self.room(place)?;
        let slot = self.ages.take(age.0, age.1, now_ms)?;
        let state = if key.is_v4() { OF_V4 } else { OCCUPIED };
        *self.entries.get_mut(slot as usize)? = Entry { key, value, last_ms: now_ms, state };
        self.put(bucket, way, place.tag, slot);
        if bucket != place.home() {
            self.went_away(place.home());
        }
        Some(slot)
    }

    /// [`Table::insert`] of what was sought and is surely not there; false: it may be, or it has no place where it would be looked for
    /// first, and nothing was done.
    #[inline]
    pub(crate) fn insert_new<M: Machine>(
        &mut self,
        sought: &Sought,
        value: V,
        now_ms: u32,
        age: (Age, u32),
    ) -> bool {
        if self.is_full() {
            return false;
        }
        let Some(bucket) = self.index.get_mut(sought.home as usize) else { return false };
        let free = bucket.with::<M>(0);
        if (bucket.with::<M>(sought.tag) != 0) | (bucket.away != 0) | (free == 0) {
            return false;
        }
        let Some(slot) = self.ages.take(age.0, age.1, now_ms) else { return false };
        let Some(entry) = self.entries.get_mut(slot as usize) else { return false };
        *entry = Entry { key: sought.key.key(), value, last_ms: now_ms, state: OF_V4 };
        bucket.tags[first(free)] = sought.tag;
        bucket.slots[first(free)] = slot;
        true
    }

    /// From now on the connection is looked at as `age` says.
    #[inline]
    pub(crate) fn wait(&mut self, slot: u32, age: (Age, u32), now_ms: u32) {
        if self.entries.get(slot as usize).is_some_and(|e| e.state != VACANT) {
            self.ages.wait(slot, age.0, age.1, now_ms);
        }
    }

    /// Whether there is no room for another connection.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// The connection that began first of those that may be given up, of the first queue that has one.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (0..QUEUES).find_map(|queue| self.ages.oldest(queue))
    }

    #[inline]
    fn put(&mut self, bucket: usize, way: usize, tag: u16, slot: u32) {
        if let Some(bucket) = self.index.get_mut(bucket) {
            bucket.tags[way % WAYS] = tag;
            bucket.slots[way % WAYS] = slot;
        }
    }

    fn went_away(&mut self, home: usize) {
        if let Some(bucket) = self.index.get_mut(home) {
            bucket.away += 1;
        }
    }

    fn came_back(&mut self, home: usize) {
        if let Some(bucket) = self.index.get_mut(home) {
            bucket.away = bucket.away.saturating_sub(1);
        }
    }

    /// A free way of a bucket.
    #[inline]
    fn vacant(&self, bucket: usize) -> Option<usize> {
        let free = self.index.get(bucket)?.with::<Plain>(0);
        (free != 0).then(|| first(free))
    }

    /// A free way in either bucket, if need be after one that is there went to its other bucket.
    #[inline]
    fn room(&mut self, place: Place) -> Option<(usize, usize)> {
        if let Some(way) = self.vacant(place.home()) {
            return Some((place.home(), way));
        }
        self.room_elsewhere(place)
    }

    #[cold]
    fn room_elsewhere(&mut self, place: Place) -> Option<(usize, usize)> {
        let other = self.other(place.home(), place.tag);
        if let Some(way) = self.vacant(other) {
            return Some((other, way));
        }
        for from in [place.home(), other] {
            let full = *self.index.get(from)?;
            for (way, (tag, slot)) in full.tags.into_iter().zip(full.slots).enumerate() {
                let to = self.other(from, tag);
                if let Some(free) = self.vacant(to).filter(|_| to != from) {
                    let key = self.entries.get(slot as usize)?.key;
                    self.put(to, free, tag, slot);
                    self.put(from, way, 0, 0);
                    match self.place(key.hash(self.seed)).home() == from {
                        true => self.went_away(from),
                        false => self.came_back(to),
                    }
                    return Some((from, way));
                }
            }
        }
        None
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(entry) = self.entries.get(slot as usize).filter(|e| e.state != VACANT) else { return };
        let place = self.place(entry.key.hash(self.seed));
        self.remove_from(slot, place);
    }

    #[inline]
    fn remove_from(&mut self, slot: u32, place: Place) {
        let (home, tag) = (place.home(), place.tag);
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        entry.state = VACANT;
        entry.key = Key::VACANT;
        self.ages.give_back(slot);
        for bucket in [home, self.other(home, tag)] {
            let Some(index) = self.index.get_mut(bucket) else { return };
            let mut ways = index.with::<Plain>(tag);
            while ways != 0 {
                let way = first(ways);
                if index.slots[way] == slot {
                    index.tags[way] = 0;
                    if bucket != home {
                        self.came_back(home);
                    }
                    return;
                }
                ways &= ways - 1;
            }
        }
    }

    /// Looks at connections whose time has come, at no more than `budget` and a few, and forgets those that are over; how many.
    /// What one waits for from memory the others wait for, too.
    pub(crate) fn look<M: Machine>(
        &mut self,
        now_ms: u32,
        budget: usize,
        mut judge: impl FnMut(&Entry<V>) -> Judged,
    ) -> usize {
        let (mut removed, mut looks) = (0, 0);
        while looks < budget {
            let mut slots = [0; LOOKS];
            let count = self.ages.due(now_ms, &mut slots);
            if count == 0 {
                break;
            }
            looks += count;
            for slot in slots.iter().take(count) {
                if let Some(entry) = self.entries.get(*slot as usize) {
                    M::prefetch(entry);
                }
            }
            let mut places = [Place { home: 0, tag: 0 }; LOOKS];
            for (slot, place) in slots.iter().take(count).zip(&mut places) {
                if let Some(entry) = self.entries.get(*slot as usize) {
                    *place = self.place(entry.key.hash(self.seed));
                }
                if let Some(bucket) = self.index.get(place.home()) {
                    M::prefetch(bucket);
                }
            }
            for (slot, place) in slots.into_iter().take(count).zip(places) {
                let Some(entry) = self.entries.get(slot as usize) else { continue };
                match judge(entry) {
                    Judged::Over => {
                        self.remove_from(slot, place);
                        removed += 1;
                    }
                    Judged::Waits(age, due_ms) => self.ages.wait(slot, age, due_ms, now_ms),
                }
            }
        }
        removed
    }

    /// [`Table::insert`] into a table that is swept, after looking for expired entries if it is full.
    pub(crate) fn insert_or_reclaim(
        &mut self,
        key: Key,
        value: V,
        now_ms: u32,
        expired: impl FnMut(&Entry<V>) -> bool,
    ) -> (Option<u32>, usize) {
        let age = (Age::Wheel, now_ms);
        if let Some(slot) = self.insert(key, value, now_ms, age) {
            return (Some(slot), 0);
        }
        let reclaimed = self.sweep(RECLAIM_SLOTS, expired);
        let slot = if reclaimed > 0 { self.insert(key, value, now_ms, age) } else { None };
        (slot, reclaimed)
    }

    /// Looks at the next `budget` entries, whatever their age, and forgets the expired ones; how many.
    pub(crate) fn sweep(&mut self, budget: usize, mut expired: impl FnMut(&Entry<V>) -> bool) -> usize {
        let mut removed = 0;
        for _ in 0..budget.min(self.entries.len()) {
            self.cursor = if self.cursor + 1 >= self.entries.len() { 0 } else { self.cursor + 1 };
            let entry = &self.entries[self.cursor];
            if entry.state != VACANT && expired(entry) {
                self.remove(u32::try_from(self.cursor).unwrap_or(u32::MAX));
                removed += 1;
            }
        }
        removed
    }

    /// Shows the entries of the next `budget` slots, around and around from `cursor` on, until `visit` says that it is enough.
    pub(crate) fn walk(&self, cursor: &mut usize, budget: usize, mut visit: impl FnMut(&Entry<V>) -> bool) {
        for _ in 0..budget.min(self.entries.len()) {
            let entry = self.entries.get(*cursor).or_else(|| self.entries.first());
            *cursor = if *cursor + 1 >= self.entries.len() { 0 } else { *cursor + 1 };
            if entry.is_some_and(|entry| entry.state != VACANT && !visit(entry)) {
                return;
            }
        }
    }

    /// Asks for the lines where the entries of the next connections will be.
    #[inline]
    pub(crate) fn prefetch_free<M: Machine>(&self, count: usize) {
        for slot in self.ages.free().take(count) {
            if let Some(entry) = self.entries.get(slot as usize) {
                M::prefetch(entry);
            }
        }
    }
}

/// Memory in use from now on, so that no packet waits for the kernel to find it.
pub(crate) fn filled<T: Copy>(count: usize, with: T) -> Result<Vec<T>, OutOfMemory> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
    machine::announce(memory.spare_capacity_mut());
    memory.resize(count, with);
    Ok(memory)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use crate::key::MAPPED;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(n: u64) -> Key {
        Key([n << 32, n, MAPPED, 0, n.wrapping_mul(77)])
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(std::mem::size_of::<Entry<[u32; 4]>>(), 64);
        assert_eq!(std::mem::size_of::<Bucket>(), 64);
    }

    /// Looked at from now on.
    const NOW: (Age, u32) = (Age::Queue(0), 0);

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
                            prop_assert_eq!(table.insert(key(n), at, at, NOW).is_some(), room);
                            if room { model.insert(n, at); }
                        }
                    }
                    2 => {
                        if let Some(slot) = table.find(&key(n)) { table.remove(slot); }
                        model.remove(&n);
                    }
                    _ => {
                        // Everything is looked at, and exactly what is over is removed.
                        table.look::<Plain>(at + 1, usize::MAX, |e| match e.value % 3 {
                            0 => Judged::Over,
                            _ => Judged::Waits(Age::Queue(0), at + 1),
                        });
                        model.retain(|_, v| *v % 3 != 0);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (n, v) in &model {
                let slot = table.find(&key(*n)).unwrap();
                prop_assert_eq!(table.get(slot).unwrap().value, *v);
            }
            every_bucket_counts_what_it_sent_away(&table);
        }
    }

    fn every_bucket_counts_what_it_sent_away(table: &Table<u32>) -> u32 {
        let mut away = vec![0; table.index.len()];
        for (at, bucket) in table.index.iter().enumerate() {
            for (_, slot) in bucket.tags.iter().zip(bucket.slots).filter(|(tag, _)| **tag != 0) {
                let home = table.place(table.entries[slot as usize].key.hash(table.seed)).home();
                away[home] += u32::from(home != at);
            }
        }
        assert!(table.index.iter().map(|bucket| bucket.away).eq(away.iter().copied()), "{away:?}");
        away.iter().sum()
    }

    #[test]
    fn what_went_away_is_found_moved_again_and_forgotten() {
        // That what is away is moved back is rare.
        (0..40).for_each(come_and_go);
    }

    fn come_and_go(seed: u64) {
        let mut table = Table::new(4000, seed).unwrap();
        let mut most = 0;
        for round in 0..30 {
            for n in 0..4000_u32 {
                let key = key(u64::from(n) + 1000 * round);
                match table.find(&key) {
                    Some(slot) if n % 3 == 0 => table.remove(slot),
                    Some(_) => {}
                    None if table.is_full() => {
                        let oldest = table.oldest().unwrap();
                        table.remove(oldest);
                    }
                    None => assert!(table.insert(key, n, 0, NOW).is_some()),
                }
            }
            most = most.max(every_bucket_counts_what_it_sent_away(&table));
        }
        assert!(most > 20, "{most} at once");
        while let Some(oldest) = table.oldest() {
            table.remove(oldest);
        }
        assert_eq!(every_bucket_counts_what_it_sent_away(&table), 0);
    }

    #[test]
    fn a_higher_bound_keeps_everything_and_a_lower_one_only_refuses() {
        let mut table = Table::new(100, 7).unwrap();
        for n in 0..100 {
            table.insert(key(n), n, 0, NOW).unwrap();
        }
        assert!(table.insert(key(100), 100, 0, NOW).is_none());
        table.set_limit(5000, &mut None);
        assert!(table.insert(key(100), 100, 0, NOW).is_none(), "no room was given");
        let mut room = Some(Table::new(5000, 7).unwrap());
        table.set_limit(5000, &mut room);
        assert_eq!(room.map(|smaller| smaller.capacity()), Some(100));
        table.insert(key(100), 100, 0, NOW).unwrap();
        table.set_limit(50, &mut None);
        assert!(table.insert(key(101), 101, 0, NOW).is_none());
        assert!((0..=100).all(|n| table.find(&key(n)).is_some()));
    }
}
