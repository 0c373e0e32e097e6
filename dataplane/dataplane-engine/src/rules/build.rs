//! How a tree is cut.
//!
//! From the root on, each node takes the cut, of all fields and numbers of bits, that leaves the fewest rules where most rules
//! are, weighed against the memory that it takes. What the tree may repeat is bounded from the start ([`REPETITION`]): each child has its
//! share of what is left, and where no cut fits there is none. The leaf is longer there, down to one leaf for all: memory and time
//! to build are bounded whatever the rules, time to look up is not worse than the list's.
//!
//! Rules that never decide where a node is, since one before holds wherever they do, are left out.

use super::{
    conditions::{Conditions, place},
    leaf::{Block, LANES},
    tree::{Node, Tree},
};

/// A rule is in this many leaves at most, on average.
const REPETITION: usize = 8;
/// Most bits that a node looks at.
const MAX_BITS: u32 = 12;
/// Most nodes one after the other.
const MAX_DEPTH: usize = 16;
/// A cut makes the sum of all lists this many times longer at most.
const MAX_GROWTH: f64 = 6.0;
/// A cut leaves at most this part of a list, on average.
const WORTHWHILE: f64 = 0.9;
/// A node's memory, in places of rules.
const CELL: f64 = 0.25;
/// What a doubling of memory weighs against halving the rules.
const THRIFT: f64 = 0.25;
/// Longest list whose rules are compared with each other.
const COMPARED: usize = 64;

/// A part of the space: an interval in each field.
type Space<const F: usize> = [(u32, u32); F];

/// By the `bits` below the highest in which a space differs in one field.
#[derive(Debug, Clone, Copy)]
struct Cut {
    field: usize,
    /// Where the first child begins.
    low: u32,
    /// Bits from which on the space differs.
    top: u32,
    bits: u32,
}

impl Cut {
    fn cell(&self, at: u32) -> usize {
        (at.saturating_sub(self.low) >> (self.top - self.bits)) as usize
    }

    /// First and last child of a rule that is within `space` as far as counts.
    fn span<const F: usize>(&self, rule: &Conditions<F>, space: &Space<F>) -> (usize, usize) {
        let (low, high) = clipped(rule, space, self.field);
        (self.cell(low), self.cell(high))
    }

    /// The child's interval in the field.
    fn inner(&self, cell: u32, outer: (u32, u32)) -> (u32, u32) {
        let width = self.top - self.bits;
        let low = self.low + (cell << width);
        let high = low + ((1 << width) - 1);
        (low.max(outer.0), high.min(outer.1))
    }
}

/// What a rule has of a space in one field.
fn clipped<const F: usize>(rule: &Conditions<F>, space: &Space<F>, field: usize) -> (u32, u32) {
    (rule.low[field].max(space[field].0), rule.high[field].min(space[field].1))
}

/// The lists of a node's children, one after the other.
struct Lists {
    rules: Vec<u32>,
    /// Where each begins, and the end.
    bounds: Vec<usize>,
}

impl Lists {
    fn of(&self, cell: usize) -> &[u32] {
        let bound = |n: usize| self.bounds.get(n).copied().unwrap_or(0);
        self.rules.get(bound(cell)..bound(cell + 1)).unwrap_or_default()
    }
}

/// Rules by the child that they begin in, and that they end in.
#[derive(Default)]
struct Counts {
    begin: Vec<u32>,
    end: Vec<u32>,
}

impl Counts {
    fn halve(&mut self) {
        for counts in [&mut self.begin, &mut self.end] {
            *counts = counts.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
    }

    /// Rules in all children, and the sum of the squares of each child's.
    fn sums(&self) -> (u64, u64) {
        let (mut inside, mut sum, mut squares) = (0_u64, 0, 0);
        for (begin, end) in self.begin.iter().zip(&self.end) {
            inside += u64::from(*begin);
            sum += inside;
            squares += inside * inside;
            inside = inside.saturating_sub(u64::from(*end));
        }
        (sum, squares)
    }
}

struct Builder<'a, const F: usize, const M: usize> {
    rules: &'a [Conditions<F>],
    tree: Tree<M>,
}

/// The tree of those of the rules whose places are in `part`, in order.
pub(super) fn tree<const F: usize, const M: usize>(rules: &[Conditions<F>], part: &[u32]) -> Tree<M> {
    let mut it = Builder { rules, tree: Tree::default() };
    let budget = part.len().saturating_mul(REPETITION) + 64;
    it.tree.root = it.node(part.to_vec(), [(0, u32::MAX); F], budget, 0);
    it.tree.nodes.shrink_to_fit();
    it.tree.blocks.shrink_to_fit();
    it.tree.answers.shrink_to_fit();
    it.tree
}

impl<'a, const F: usize, const M: usize> Builder<'a, F, M> {
    fn rule(&self, at: u32) -> Option<&'a Conditions<F>> {
        self.rules.get(at as usize)
    }

    fn all(&self, list: &[u32]) -> impl Iterator<Item = &'a Conditions<F>> {
        list.iter().filter_map(|at| self.rules.get(*at as usize))
    }

    fn node(&mut self, mut list: Vec<u32>, space: Space<F>, budget: usize, depth: usize) -> Node {
        let hull = self.hull(&list, &space);
        self.prune(&mut list, &hull);
        if list.len() <= LANES || depth >= MAX_DEPTH {
            return self.leaf(&list);
        }
        let Some(cut) = self.best(&list, &hull, budget) else { return self.leaf(&list) };
        let lists = self.lists(&list, &hull, &cut);
        drop(list);
        let base = self.tree.nodes.len();
        let cells = 1 << cut.bits;
        self.tree.nodes.resize(base + cells, Node::default());
        let spare = budget.saturating_sub(lists.rules.len() + cells / 4);
        let mut before: Option<(&[u32], Node)> = None;
        for (cell, n) in (0..cells).zip(0..) {
            let mine = lists.of(cell);
            if mine.is_empty() {
                continue;
            }
            let mut inner = hull;
            inner[cut.field] = cut.inner(n, hull[cut.field]);
            // All of them hold all over this child's interval, as they did in the one before: the same node.
            let through = self.all(mine).all(|r| clipped(r, &inner, cut.field) == inner[cut.field]);
            let node = match before {
                Some((list, node)) if through && list == mine => node,
                _ => {
                    let share = mine.len() + spare * mine.len() / lists.rules.len().max(1);
                    self.node(mine.to_vec(), inner, share, depth + 1)
                }
            };
            before = through.then_some((mine, node));
            if let Some(slot) = self.tree.nodes.get_mut(base + cell) {
                *slot = node;
            }
        }
        let (word, shift) = place::<F>(cut.field);
        let small = |n: u32| u8::try_from(n).unwrap_or(0);
        let base = u32::try_from(base).unwrap_or(u32::MAX);
        Node::cut(base, cut.bits, u8::try_from(word).unwrap_or(0), small(shift + cut.top - cut.bits))
    }

    /// The smallest space that holds what the rules have of a space.
    fn hull(&self, list: &[u32], space: &Space<F>) -> Space<F> {
        let mut hull = [(u32::MAX, 0); F];
        for rule in self.all(list) {
            for (hull, (low, high)) in hull.iter_mut().zip(rule.low.iter().zip(&rule.high)) {
                *hull = (hull.0.min(*low), hull.1.max(*high));
            }
        }
        for (hull, space) in hull.iter_mut().zip(space) {
            *hull = (hull.0.max(space.0), hull.1.min(space.1));
        }
        hull
    }

    /// Leaves out the rules that never decide in a space.
    fn prune(&self, list: &mut Vec<u32>, space: &Space<F>) {
        let holds = |outer: &Conditions<F>, within: &dyn Fn(usize) -> (u32, u32)| {
            outer.flags_mask == 0
                && (0..F).all(|f| outer.low[f] <= within(f).0 && within(f).1 <= outer.high[f])
        };
        let last = self.all(list).position(|r| holds(r, &|f| space[f]));
        list.truncate(last.map_or(list.len(), |n| n + 1));
        if list.len() > COMPARED {
            return;
        }
        let mut kept: Vec<u32> = Vec::with_capacity(list.len());
        for at in list.iter() {
            let Some(inner) = self.rule(*at) else { continue };
            if !self.all(&kept).any(|outer| holds(outer, &|f| clipped(inner, space, f))) {
                kept.push(*at);
            }
        }
        *list = kept;
    }

    fn leaf(&mut self, list: &[u32]) -> Node {
        if list.is_empty() {
            return Node::default();
        }
        let base = self.tree.blocks.len();
        for rules in list.chunks(LANES) {
            let answers = self.all(rules).map(|r| r.answer).chain(std::iter::repeat(u32::MAX));
            let mut of = [u32::MAX; LANES];
            of.iter_mut().zip(answers).for_each(|(slot, answer)| *slot = answer);
            self.tree.blocks.push(Block::of(self.all(rules)));
            self.tree.answers.push(of);
        }
        let blocks = u16::try_from(self.tree.blocks.len() - base).unwrap_or(u16::MAX);
        Node::leaf(u32::try_from(base).unwrap_or(0), blocks)
    }

    /// The cut with the lowest price; `None`: none is worth its memory, or has it.
    fn best(&self, list: &[u32], space: &Space<F>, budget: usize) -> Option<Cut> {
        let length = list.len() as f64;
        let mut best: Option<(f64, Cut)> = None;
        for (field, (low, high)) in space.iter().enumerate() {
            let top = 32 - (low ^ high).leading_zeros();
            let most = MAX_BITS.min(top).min(list.len().ilog2() + 2);
            let low = u32::MAX.checked_shl(top).unwrap_or(0) & low;
            let mut cut = Cut { field, low, top, bits: most };
            let mut counts = if most > 0 { self.count(list, space, &cut) } else { Counts::default() };
            while cut.bits > 0 {
                let (sum, squares) = counts.sums();
                let left = squares as f64 / sum.max(1) as f64;
                let memory = sum as f64 + f64::from(1 << cut.bits) * CELL;
                let fits = memory <= budget as f64 && memory <= MAX_GROWTH * length;
                let price = left.max(LANES as f64).log2() + THRIFT * (memory / length).log2();
                if fits && left <= WORTHWHILE * length && best.is_none_or(|(least, _)| price < least) {
                    best = Some((price, cut));
                }
                counts.halve();
                cut.bits -= 1;
            }
        }
        best.map(|(_, cut)| cut)
    }

    fn count(&self, list: &[u32], space: &Space<F>, cut: &Cut) -> Counts {
        let none = vec![0; 1 << cut.bits];
        let mut counts = Counts { begin: none.clone(), end: none };
        for rule in self.all(list) {
            let (first, last) = cut.span(rule, space);
            counts.begin.get_mut(first).into_iter().for_each(|n| *n += 1);
            counts.end.get_mut(last).into_iter().for_each(|n| *n += 1);
        }
        counts
    }

    fn lists(&self, list: &[u32], space: &Space<F>, cut: &Cut) -> Lists {
        let mut bounds = vec![0; (1 << cut.bits) + 2];
        for rule in self.all(list) {
            let (first, last) = cut.span(rule, space);
            bounds.iter_mut().skip(first + 2).take(last - first + 1).for_each(|n| *n += 1);
        }
        let mut total = 0;
        for n in &mut bounds {
            total += *n;
            *n = total;
        }
        // Now `bounds[n + 1]` is where list n begins, and moves to where it ends.
        let mut rules = vec![0; total];
        for (at, rule) in list.iter().zip(self.all(list)) {
            let (first, last) = cut.span(rule, space);
            for next in bounds.iter_mut().skip(first + 1).take(last - first + 1) {
                rules.get_mut(*next).into_iter().for_each(|slot| *slot = *at);
                *next += 1;
            }
        }
        Lists { rules, bounds }
    }
}
