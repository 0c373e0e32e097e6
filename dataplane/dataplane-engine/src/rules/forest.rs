//! The trees of a rule set: which rules go together.
//!
//! A rule that is wide where others are narrow would be in most children of their cuts, and has a tree with its like. Which tree
//! costs what depends on the rules, so that some ways to part them are built, and looked up in connections that the rules
//! are about: the cheapest is kept. Of large sets the ways are compared on a part of the rules.

use super::{
    BURST, build,
    conditions::{Conditions, NONE, place},
    leaf::Words,
    tree::Tree,
};
use crate::machine::Machine;

/// Prefixes from which on an address is narrow, bits.
const NARROW: [u32; 3] = [1, 12, 17];
/// The tree of each kind of rule: narrow in neither address, in the source, in the destination, in both.
const WAYS: [[usize; 4]; 5] = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 1], [0, 1, 2, 3]];
/// Connections that costs are taken of.
const SAMPLES: usize = 512;
/// Rules of a large set that the ways are compared on.
const COMPARED: usize = 4096;
/// Ways of a large set that are built with all rules.
const FINALISTS: usize = 2;

/// What a look-up in a tree costs, what each node adds, and each block without a match.
const TREE_COST: u64 = 10;
const NODE_COST: u64 = 3;
const BLOCK_COST: u64 = 6;

/// Rules that are looked up by `M` masked words and ports.
#[derive(Debug, Default)]
pub(super) struct Forest<const M: usize> {
    trees: Vec<Tree<M>>,
}

type Parts = Vec<Vec<u32>>;

impl<const M: usize> Forest<M> {
    /// Of rules in order of precedence.
    pub(super) fn new<const F: usize, const W: usize>(rules: &[Conditions<F>]) -> Self {
        let mut ways = ways(rules);
        if rules.len() > COMPARED {
            let few: Vec<Conditions<F>> =
                rules.iter().step_by(rules.len().div_ceil(COMPARED)).copied().collect();
            let samples = samples::<F, W>(&few);
            ways.sort_by_cached_key(|way| Self::of(&few, &way.parts(&few)).cost(&samples));
            ways.truncate(FINALISTS);
        }
        let samples = samples::<F, W>(rules);
        let built = ways.iter().map(|way| Self::of(rules, &way.parts(rules)));
        built.min_by_key(|forest| forest.cost(&samples)).unwrap_or_default()
    }

    fn of<const F: usize>(rules: &[Conditions<F>], parts: &Parts) -> Self {
        Self { trees: parts.iter().map(|part| build::tree(rules, part)).collect() }
    }

    pub(super) fn first<const W: usize>(&self, words: &Words<W>) -> u32 {
        self.trees.iter().fold(NONE, |best, tree| best.min(tree.first(words)))
    }

    /// [`Forest::first`] of each of at most [`BURST`].
    #[inline(always)]
    pub(super) fn first_of_all<P: Machine, const W: usize>(&self, words: &[Words<W>]) -> [u32; BURST] {
        let mut best = [NONE; BURST];
        for tree in &self.trees {
            tree.first_of_all::<P, W>(words, &mut best);
        }
        best
    }

    pub(super) fn bytes(&self) -> usize {
        self.trees.iter().map(Tree::bytes).sum()
    }

    /// Of all these look-ups.
    fn cost<const W: usize>(&self, samples: &[Words<W>]) -> u64 {
        let all = samples.iter().flat_map(|words| self.trees.iter().map(|tree| tree.steps(words)));
        all.map(|s| TREE_COST + NODE_COST * u64::from(s.nodes) + BLOCK_COST * u64::from(s.misses)).sum()
    }
}

/// A way to part rules.
#[derive(Debug, Clone, Copy)]
struct Way {
    narrow: u32,
    trees: [usize; 4],
}

impl Way {
    fn parts<const F: usize>(&self, rules: &[Conditions<F>]) -> Parts {
        let mut parts = vec![Vec::new(); self.trees.len()];
        for (rule, at) in rules.iter().zip(0..) {
            let [source, destination] = [0, 1].map(|end| usize::from(rule.prefix(end) >= self.narrow));
            let tree = self.trees.get(source + 2 * destination).copied().unwrap_or(0);
            parts.get_mut(tree).into_iter().for_each(|part| part.push(at));
        }
        parts.retain(|part| !part.is_empty());
        parts
    }
}

/// Those that differ.
fn ways<const F: usize>(rules: &[Conditions<F>]) -> Vec<Way> {
    let mut seen: Vec<Parts> = Vec::new();
    let all = NARROW.into_iter().flat_map(|narrow| WAYS.into_iter().map(move |trees| Way { narrow, trees }));
    all.filter(|way| {
        let parts = way.parts(rules);
        let new = !seen.contains(&parts);
        seen.push(parts);
        new
    })
    .collect()
}

/// Connections that the rules are about, anywhere in each.
fn samples<const F: usize, const W: usize>(rules: &[Conditions<F>]) -> Vec<Words<W>> {
    let mut state = 0x6d61_6e64_u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::hash::fold(state, 0xbf58_476d_1ce4_e5b9)
    };
    let mut below = |n: u64| random() % n.max(1);
    let mut one = || {
        let mut words = [0; W];
        let rule = rules.get(usize::try_from(below(rules.len() as u64)).unwrap_or(0))?;
        for (field, (low, high)) in rule.low.iter().zip(&rule.high).enumerate() {
            let (word, shift) = place::<F>(field);
            let at = u64::from(*low) + below(u64::from(high - low) + 1);
            words[word] |= u32::try_from(at).unwrap_or(*high) << shift;
        }
        words[place::<F>(F - 1).0] |= u32::from(rule.flags) << 24;
        Some(words)
    };
    (0..SAMPLES).map_while(|_| one()).collect()
}
