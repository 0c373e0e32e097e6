//! Rates, and what one source may hold.
//!
//! A [`Bucket`] is 8 bytes and constant work. [`Sources`] counts connections and new connections by source, an address
//! or a network, in a table of its own; a connection finds its counter by its key (the initiator's address is in it), so a
//! connection needs no memory for it, and what is released is what was taken. A source with connections is never
//! forgotten; one without is as soon as its bucket is full again, which is what it would begin with.
//!
//! Tests: below (against a model with exact arithmetic), `tests/firewall.rs`.

use dataplane_control::config::{
    Limit,
    tracking::{MAX_BURST, MAX_RATE, PerSource, Rate},
};

use crate::{
    DropReason,
    key::Key,
    table::{Entry, OutOfMemory, Table},
};

/// Thousandths of a token: what a rate of one a second gives in a millisecond.
const TOKEN: u32 = 1000;

/// A [`Rate`] or a rule's [`Limit`], within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Refill {
    per_second: u32,
    /// Thousandths.
    burst: u32,
}

impl Refill {
    pub(crate) fn of(rate: Rate) -> Self {
        Self { per_second: rate.per_second.clamp(1, MAX_RATE), burst: rate.burst.clamp(1, MAX_BURST) * TOKEN }
    }

    pub(crate) fn of_rule(limit: &Limit) -> Self {
        Self::of(Rate { per_second: limit.rate_per_second, burst: limit.burst })
    }
}

/// A token bucket (RFC 2697 with one rate and one colour): full when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bucket {
    /// Thousandths of a token that are missing.
    missing: u32,
    /// When that was so, ms, wrapping.
    at_ms: u32,
}

impl Bucket {
    /// Takes a token if there is one. `limit` may change from call to call.
    #[inline]
    pub(crate) fn take(&mut self, now_ms: u32, limit: Refill) -> bool {
        let missing = self.missing_at(now_ms, limit);
        let there = limit.burst.saturating_sub(missing) >= TOKEN;
        *self = Self { missing: if there { missing + TOKEN } else { missing }, at_ms: now_ms };
        there
    }

    #[inline]
    fn missing_at(&self, now_ms: u32, limit: Refill) -> u32 {
        let back = u64::from(now_ms.wrapping_sub(self.at_ms)) * u64::from(limit.per_second);
        self.missing.min(limit.burst).saturating_sub(u32::try_from(back).unwrap_or(u32::MAX))
    }

    #[inline]
    fn is_full(&self, now_ms: u32, limit: Refill) -> bool {
        self.missing_at(now_ms, limit) == 0
    }
}

/// What a source holds.
#[derive(Debug, Clone, Copy, Default)]
struct Source {
    connections: u32,
    bucket: Bucket,
}

/// A [`PerSource`], compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceLimits {
    connections: u32,
    new: Option<Refill>,
    v4_mask: u128,
    v6_mask: u128,
}

impl SourceLimits {
    pub(crate) fn of(config: &PerSource) -> Self {
        Self {
            connections: config.connections.unwrap_or(u32::MAX),
            new: config.new_connections.map(Refill::of),
            v4_mask: mask(config.ipv4_prefix.min(32) + 96),
            v6_mask: mask(config.ipv6_prefix),
        }
    }

    /// What counts by these counts by those.
    pub(crate) fn same_sources(&self, other: &Self) -> bool {
        (self.v4_mask, self.v6_mask) == (other.v4_mask, other.v6_mask)
    }

    fn key(&self, address: u128) -> Key {
        let mask = if address >> 32 == 0xffff { self.v4_mask } else { self.v6_mask };
        Key::of_source(address & mask, 0)
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
}

/// See the module's head. As many sources as connections: there is a place for each source that has one, unless its two
/// buckets of the index are full of others'.
#[derive(Debug)]
pub(crate) struct Sources {
    table: Table<Source>,
    limits: SourceLimits,
}

impl Sources {
    pub(crate) fn new(limits: SourceLimits, max_connections: u32, seed: u64) -> Result<Self, OutOfMemory> {
        Ok(Self { table: Table::new(max_connections, seed)?, limits })
    }

    /// Counts a new connection of a source, in [`crate::hash::address_bits`] form. What is refused is not counted, but
    /// for the token that it took.
    ///
    /// # Errors
    /// [`DropReason::SourceLimit`]: it holds too many. [`DropReason::SourceRate`]: it opens them too fast.
    /// [`DropReason::TableFull`]: there is no room for another source.
    pub(crate) fn take(&mut self, now_ms: u32, address: u128) -> Result<(), DropReason> {
        let limits = self.limits;
        let key = limits.key(address);
        let slot = match self.table.find(&key) {
            Some(slot) => slot,
            None => self.insert(now_ms, key).ok_or(DropReason::TableFull)?,
        };
        let source = &mut self.table.get(slot).ok_or(DropReason::TableFull)?.value;
        if source.connections >= limits.connections {
            return Err(DropReason::SourceLimit);
        }
        if let Some(limit) = limits.new
            && !source.bucket.take(now_ms, limit)
        {
            return Err(DropReason::SourceRate);
        }
        source.connections += 1;
        Ok(())
    }

    fn insert(&mut self, now_ms: u32, key: Key) -> Option<u32> {
        let source = Source { connections: 0, bucket: Bucket { missing: 0, at_ms: now_ms } };
        let limits = self.limits;
        self.table.insert_or_reclaim(key, source, now_ms, |e| idle(e, now_ms, limits)).0
    }

    /// A connection of a source is over: the same address as it was taken with.
    pub(crate) fn release(&mut self, address: u128) {
        let slot = self.table.find(&self.limits.key(address));
        let Some(entry) = slot.and_then(|slot| self.table.get(slot)) else { return };
        entry.value.connections = entry.value.connections.saturating_sub(1);
        if let (0, None, Some(slot)) = (entry.value.connections, self.limits.new, slot) {
            self.table.remove(slot);
        }
    }

    /// Forgets idle sources among the next `budget`.
    pub(crate) fn sweep(&mut self, now_ms: u32, budget: usize) {
        let limits = self.limits;
        self.table.sweep(budget, |e| idle(e, now_ms, limits));
    }

    /// Sources that are known.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.len()
    }

    /// Room for more connections, and other limits of the same sources.
    pub(crate) fn change(&mut self, limits: SourceLimits, max_connections: u32, room: &mut Option<Self>) {
        self.limits = limits;
        let mut table = room.take().map(|room| room.table);
        self.table.set_limit(max_connections, &mut table);
        *room = table.map(|table| Self { table, limits });
    }

    pub(crate) fn limits(&self) -> SourceLimits {
        self.limits
    }
}

/// Sources of a rule's limit whose buckets are remembered at once; beyond, new ones are refused until others are full again.
const RULE_SOURCES: u32 = 65_536;

/// Buckets by rule and source: an IPv4 address or an IPv6 /64.
#[derive(Debug)]
pub(crate) struct RuleSources(Table<(Refill, Bucket)>);

impl RuleSources {
    pub(crate) fn new(seed: u64) -> Result<Self, OutOfMemory> {
        Ok(Self(Table::new(RULE_SOURCES, seed)?))
    }

    /// A token of a source's bucket for a rule; false, too, if there is no room for another.
    pub(crate) fn take(&mut self, now_ms: u32, rule: u32, address: u128, refill: Refill) -> bool {
        let address = if address >> 32 == 0xffff { address } else { address & mask(64) };
        let key = Key::of_source(address, rule);
        let full = |e: &Entry<(Refill, Bucket)>| e.value.1.is_full(now_ms, e.value.0);
        let slot = self.0.find(&key).or_else(|| {
            let new = (refill, Bucket { missing: 0, at_ms: now_ms });
            self.0.insert_or_reclaim(key, new, now_ms, full).0
        });
        let Some(entry) = slot.and_then(|slot| self.0.get(slot)) else { return false };
        entry.value.0 = refill;
        entry.value.1.take(now_ms, refill)
    }

    /// Forgets who may do all again, among the next `budget`.
    pub(crate) fn sweep(&mut self, now_ms: u32, budget: usize) {
        self.0.sweep(budget, |e| e.value.1.is_full(now_ms, e.value.0));
    }
}

/// Nothing would be different if this source was not known.
fn idle(entry: &Entry<Source>, now_ms: u32, limits: SourceLimits) -> bool {
    entry.value.connections == 0 && limits.new.is_none_or(|limit| entry.value.bucket.is_full(now_ms, limit))
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small test values
mod tests {
    use super::*;
    use crate::hash::address_bits;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn limits(connections: Option<u32>, new_connections: Option<Rate>) -> SourceLimits {
        SourceLimits::of(&PerSource { connections, new_connections, ipv4_prefix: 24, ipv6_prefix: 64 })
    }

    fn bits(text: &str) -> u128 {
        address_bits(text.parse().unwrap())
    }

    proptest! {
        /// A bucket never gives more than its burst and what came back, and never refuses while there is a token.
        #[test]
        fn a_bucket_is_exact(
            start: u32,
            per_second in 1u32..5000, burst in 1u32..20,
            waits in proptest::collection::vec(prop_oneof![4 => 0u32..3, 1 => 0u32..3000], 1..300),
        ) {
            let limit = Refill::of(Rate { per_second, burst });
            let mut bucket = Bucket { missing: 0, at_ms: start };
            let mut now = start;
            let mut level = u64::from(burst) * 1000;
            for wait in waits {
                now = now.wrapping_add(wait);
                level = (level + u64::from(wait) * u64::from(per_second)).min(u64::from(burst) * 1000);
                let expected = level >= 1000;
                if expected { level -= 1000; }
                prop_assert_eq!(bucket.take(now, limit), expected);
            }
        }

        #[test]
        fn sources_are_counted_exactly(
            ops in proptest::collection::vec((0u32..6, any::<bool>(), 0u32..400), 0..400),
            most in 1u32..6, rate in prop::option::of((1u32..20, 1u32..5)), seed: u64,
        ) {
            let rate = rate.map(|(per_second, burst)| Rate { per_second, burst });
            let mut sources = Sources::new(limits(Some(most), rate), 64, seed).unwrap();
            let mut held: HashMap<u32, u32> = HashMap::new();
            let mut levels: HashMap<u32, (u64, u32)> = HashMap::new();
            let mut now = 0u32;
            for (n, take, wait) in ops {
                now += wait;
                // Two hosts of each network.
                let address = bits(&format!("10.0.{}.{}", n / 2, n));
                let count = held.entry(n / 2).or_default();
                if !take {
                    if *count > 0 {
                        *count -= 1;
                        sources.release(address);
                    }
                    continue;
                }
                let full = rate.map_or(0, |r| u64::from(r.burst) * 1000);
                let level = levels.entry(n / 2).or_insert((full, now));
                let back = rate.map_or(0, |r| u64::from(now - level.1) * u64::from(r.per_second));
                *level = ((level.0 + back).min(full), now);
                let expected = if *count >= most {
                    Err(DropReason::SourceLimit)
                } else if rate.is_some() && level.0 < 1000 {
                    Err(DropReason::SourceRate)
                } else {
                    level.0 = level.0.saturating_sub(1000);
                    *count += 1;
                    Ok(())
                };
                prop_assert_eq!(sources.take(now, address), expected);
                sources.sweep(now, 8);
            }
            // Nothing is left of those that hold nothing.
            for (n, count) in held {
                for _ in 0..count { sources.release(bits(&format!("10.0.{n}.1"))); }
            }
            sources.sweep(now + 1_000_000, 1000);
            prop_assert_eq!(sources.len(), 0);
        }
    }

    #[test]
    fn a_rule_has_a_bucket_by_source() {
        let mut buckets = RuleSources::new(1).unwrap();
        let refill = Refill::of(Rate { per_second: 1, burst: 2 });
        let mut take = |rule, address| buckets.take(0, rule, bits(address), refill);
        assert!(take(1, "192.0.2.1") && take(1, "192.0.2.1") && !take(1, "192.0.2.1"));
        assert!(take(2, "192.0.2.1") && take(1, "192.0.2.2"));
        assert!(take(1, "2001:db8::1") && take(1, "2001:db8::2") && !take(1, "2001:db8::3"));
        buckets.sweep(2000, usize::MAX);
        assert_eq!(buckets.0.len(), 0);
    }

    #[test]
    fn a_source_is_a_network_and_versions_differ() {
        let mut sources = Sources::new(limits(Some(1), None), 10, 1).unwrap();
        for (address, expected) in [
            ("192.0.2.1", Ok(())),
            ("192.0.2.200", Err(DropReason::SourceLimit)),
            ("192.0.3.1", Ok(())),
            ("2001:db8::1", Ok(())),
            ("2001:db8::ffff:0:0:1", Err(DropReason::SourceLimit)),
            ("2001:db8:0:1::1", Ok(())),
        ] {
            assert_eq!(sources.take(0, bits(address)), expected, "{address}");
        }
        sources.release(bits("192.0.2.77"));
        assert_eq!(sources.take(0, bits("192.0.2.200")), Ok(()));
    }

    #[test]
    fn a_flood_of_sources_finds_room_as_soon_as_others_hold_nothing() {
        let rate = Rate { per_second: 10, burst: 1 };
        let mut sources = Sources::new(limits(None, Some(rate)), 100, 3).unwrap();
        let address = |n: u32| bits(&format!("10.{}.{}.1", n / 256, n % 256));
        for n in 0..100 {
            assert_eq!(sources.take(0, address(n)), Ok(()));
            sources.release(address(n));
        }
        // Their tokens are missing: they are remembered.
        assert_eq!(sources.take(0, address(100)), Err(DropReason::TableFull));
        assert_eq!(sources.take(100, address(100)), Ok(()));
    }
}
