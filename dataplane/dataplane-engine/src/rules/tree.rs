//! One tree of cuts, and the way through it.
//!
//! A node looks at some bits of one word and leads to a child for each of their values; a rule is in every child that it may
//! match in. A leaf is a list of rules in order of precedence, in blocks that are compared whole: the way to it must not lead past
//! a rule, and what it did not look at does no harm.

use super::{
    BURST,
    conditions::NONE,
    leaf::{Block, LANES, Words},
};
use crate::machine::Machine;

/// Leads on to a base plus some bits of a word; without a mask for them, it is a leaf. From the low end: the base (32 bits), the mask
/// (16), the word and the shift (8 each), of a leaf in their place how many blocks. One word, so that it is read and written as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Node(u64);

impl Node {
    /// `bits` of a word from `shift` on, at most 16.
    pub(super) fn cut(base: u32, bits: u32, word: u8, shift: u8) -> Self {
        let mask = u64::from(u16::MAX) >> (16 - bits.min(16));
        Self(u64::from(base) | mask << 32 | u64::from(word) << 48 | u64::from(shift) << 56)
    }

    pub(super) fn leaf(base: u32, blocks: u16) -> Self {
        Self(u64::from(base) | u64::from(blocks) << 48)
    }

    #[inline(always)]
    fn is_leaf(self) -> bool {
        self.0 >> 32 & 0xffff == 0
    }

    #[inline(always)]
    fn base(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    #[inline(always)]
    fn next<const W: usize>(self, words: &Words<W>) -> u32 {
        let word = words[(self.0 >> 48) as usize & (W - 1)];
        let mask = (self.0 >> 32 & 0xffff) as u32;
        self.base().wrapping_add(word >> (self.0 >> 56 & 31) & mask)
    }

    #[inline(always)]
    fn blocks(self) -> usize {
        (self.0 >> 48) as usize
    }
}

/// Of `M` masked words, see [`Block`].
#[derive(Debug)]
pub(super) struct Tree<const M: usize> {
    pub root: Node,
    pub nodes: Vec<Node>,
    /// The first one holds for nothing: empty leaves lead there.
    pub blocks: Vec<Block<M>>,
    /// What the rules of a block answer.
    pub answers: Vec<[u32; LANES]>,
}

impl<const M: usize> Default for Tree<M> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            nodes: Vec::new(),
            blocks: vec![Block::NOTHING],
            answers: vec![[NONE; LANES]],
        }
    }
}

/// What a look-up went through.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Steps {
    pub nodes: u32,
    /// Blocks without a match.
    pub misses: u32,
}

impl<const M: usize> Tree<M> {
    pub(super) fn first<const W: usize>(&self, words: &Words<W>) -> u32 {
        self.first_of(self.leaf(words, |_| ()), words)
    }

    fn leaf<const W: usize>(&self, words: &Words<W>, mut each: impl FnMut(Node)) -> Node {
        let mut node = self.root;
        while !node.is_leaf() {
            each(node);
            node = self.nodes.get(node.next(words) as usize).copied().unwrap_or_default();
        }
        node
    }

    pub(super) fn steps<const W: usize>(&self, words: &Words<W>) -> Steps {
        let mut steps = Steps::default();
        let leaf = self.leaf(words, |_| steps.nodes += 1);
        let blocks = self.blocks.iter().skip(leaf.base() as usize).take(leaf.blocks());
        steps.misses = blocks.take_while(|block| block.hits(words) == 0).fold(0, |n, _| n + 1);
        steps
    }

    /// The first of a leaf's rules that holds. Most leaves are one block.
    #[inline(always)]
    fn first_of<const W: usize>(&self, leaf: Node, words: &Words<W>) -> u32 {
        let base = leaf.base() as usize;
        let (mut hits, mut answers) = self.block(base, words);
        if (hits == 0) & (leaf.blocks() > 1) {
            for at in base + 1..base + leaf.blocks() {
                (hits, answers) = self.block(at, words);
                if hits != 0 {
                    break;
                }
            }
        }
        let answer = answers[hits.trailing_zeros() as usize & (LANES - 1)];
        if hits == 0 { NONE } else { answer }
    }

    #[inline(always)]
    fn block<const W: usize>(&self, at: usize, words: &Words<W>) -> (u32, &[u32; LANES]) {
        match (self.blocks.get(at), self.answers.get(at)) {
            (Some(block), Some(answers)) => (block.hits(words), answers),
            _ => (0, &[NONE; LANES]),
        }
    }

    /// Lowers `best` of each connection to its first match here, if that is lower.
    #[inline(always)]
    pub(super) fn first_of_all<P: Machine, const W: usize>(
        &self,
        words: &[Words<W>],
        best: &mut [u32; BURST],
    ) {
        let mut at = [self.root; BURST];
        if !self.root.is_leaf() {
            self.walk::<P, W>(words, &mut at);
        }
        for (leaf, _) in at.iter().zip(words) {
            if let Some(block) = self.blocks.get(leaf.base() as usize) {
                block.prefetch::<P>();
            }
            self.answers.get(leaf.base() as usize).map(P::prefetch);
        }
        for ((leaf, words), best) in at.iter().zip(words).zip(best) {
            *best = (*best).min(self.first_of(*leaf, words));
        }
    }

    /// To the leaves, level by level: those that are not there yet keep their places in `going`, without a branch.
    #[inline(always)]
    fn walk<P: Machine, const W: usize>(&self, words: &[Words<W>], at: &mut [Node; BURST]) {
        let mut next = [0_u32; BURST];
        let mut going = [0_u8; BURST];
        let mut many = words.len().min(BURST);
        for ((words, i), (next, going)) in words.iter().zip(0_u8..).zip(next.iter_mut().zip(&mut going)) {
            (*next, *going) = (self.root.next(words), i);
            self.nodes.get(*next as usize).map(P::prefetch);
        }
        while many > 0 {
            let mut left = 0;
            for n in 0..many {
                let which = going[n % BURST];
                let i = usize::from(which) % BURST;
                let Some(words) = words.get(i) else { continue };
                let node = self.nodes.get(next[i] as usize).copied().unwrap_or_default();
                at[i] = node;
                let goes = u32::from(!node.is_leaf());
                // Node 0 if it is there, so that whether to ask for a line is no branch.
                next[i] = node.next(words) & goes.wrapping_neg();
                self.nodes.get(next[i] as usize).map(P::prefetch);
                going[left % BURST] = which;
                left += goes as usize;
            }
            many = left;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.len() * size_of::<Node>() + self.blocks.len() * (size_of::<Block<M>>() + 4 * LANES)
    }
}
