//! Rules packed side by side, compared all at once with the vector instructions that every x86-64 has: the compiler finds them.

use super::conditions::Conditions;

/// Rules compared at once. Eight were slower: most leaves have fewer, and their lines are read for nothing.
pub(super) const LANES: usize = 4;

/// A connection's words: addresses; then protocol, zones and TCP flags; then ports; what is left is 0.
pub(super) type Words<const W: usize> = [u32; W];

/// Rules by field: `M` masked words each, and two ranges of ports. Of IPv4, two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block<const M: usize> {
    value: [[u32; LANES]; M],
    pub(super) mask: [[u32; LANES]; M],
    low: [[u16; LANES]; 2],
    high: [[u16; LANES]; 2],
}

impl<const M: usize> Block<M> {
    /// What no connection matches.
    pub(super) const NOTHING: Self = Self {
        value: [[0; LANES]; M],
        mask: [[0; LANES]; M],
        low: [[u16::MAX; LANES]; 2],
        high: [[0; LANES]; 2],
    };

    /// At most [`LANES`] rules.
    pub(super) fn of<'a, const F: usize>(rules: impl Iterator<Item = &'a Conditions<F>>) -> Self {
        let mut it = Self::NOTHING;
        for (lane, rule) in (0..LANES).zip(rules) {
            for (word, (value, mask)) in it.value.iter_mut().zip(&mut it.mask).enumerate() {
                (value[lane], mask[lane]) = rule.masked(word);
            }
            for (n, (low, high)) in it.low.iter_mut().zip(&mut it.high).enumerate() {
                (low[lane], high[lane]) = rule.ports(n);
            }
        }
        it
    }

    /// A bit for each rule that holds.
    #[inline(always)]
    pub(super) fn hits<const W: usize>(&self, words: &Words<W>) -> u32 {
        let mut differs = [0; LANES];
        for ((value, mask), word) in self.value.iter().zip(&self.mask).zip(words) {
            for lane in 0..LANES {
                differs[lane] |= (value[lane] ^ word) & mask[lane];
            }
        }
        let ports = [(words[M] >> 16) as u16, (words[M] & 0xffff) as u16];
        let mut beyond = [0_u16; LANES];
        for ((low, high), port) in self.low.iter().zip(&self.high).zip(ports) {
            for lane in 0..LANES {
                beyond[lane] |= low[lane].saturating_sub(port) | port.saturating_sub(high[lane]);
            }
        }
        let mut hits = 0;
        for lane in 0..LANES {
            hits |= u32::from((differs[lane] | u32::from(beyond[lane])) == 0) << lane;
        }
        hits
    }
}
