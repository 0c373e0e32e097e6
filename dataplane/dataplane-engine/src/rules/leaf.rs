//! Rules packed side by side, compared all at once with the vector instructions that every x86-64 has: the compiler finds them.

use super::conditions::Conditions;
use crate::machine::Machine;

/// Rules compared at once. Eight were slower: most leaves have fewer, and their lines are read for nothing.
pub(super) const LANES: usize = 4;

/// A connection's words: addresses; then protocol, zones and TCP flags; then ports; what is left is 0.
pub(super) type Words<const W: usize> = [u32; W];

/// Rules by field: `M` masked words each, and two ranges of ports. Of IPv4, two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block<const M: usize> {
    value: [[u32; LANES]; M],
    mask: [[u32; LANES]; M],
    /// Of source ports, and of destination ports.
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
            for end in 0..2 {
                (it.low[end][lane], it.high[end][lane]) = rule.ports(end);
            }
        }
        it
    }

    /// All lines of it.
    #[inline(always)]
    pub(super) fn prefetch<P: Machine>(&self) {
        P::prefetch(self);
        P::prefetch(&self.mask[M - 1]);
        // Four masked words are a line.
        for word in (4..M).step_by(4) {
            P::prefetch(&self.value[word]);
            P::prefetch(&self.mask[word]);
        }
    }

    /// A bit for each rule that holds. A function of its own, in this form: 33 instructions for IPv4. Inlined, the compiler finds
    /// no vectors in it, and takes three times as many.
    #[inline(never)]
    pub(super) fn hits<const W: usize>(&self, words: &Words<W>) -> u32 {
        let mut differs = [0; LANES];
        for ((value, mask), word) in self.value.iter().zip(&self.mask).zip(words) {
            for lane in 0..LANES {
                differs[lane] |= (value[lane] ^ word) & mask[lane];
            }
        }
        let (source, destination) = ((words[M] >> 16) as u16, (words[M] & 0xffff) as u16);
        for (lane, differs) in differs.iter_mut().enumerate() {
            let beyond = self.low[0][lane].saturating_sub(source)
                | source.saturating_sub(self.high[0][lane])
                | self.low[1][lane].saturating_sub(destination)
                | destination.saturating_sub(self.high[1][lane]);
            *differs |= u32::from(beyond);
        }
        let hits: [u32; LANES] = std::array::from_fn(|lane| u32::from(differs[lane] == 0) << lane);
        hits[0] | hits[1] | hits[2] | hits[3]
    }
}
