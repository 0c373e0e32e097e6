//! Branch and bound over the blocks of a model.
//!
//! A node assigns some blocks; every other has the sites left that the assigned ones allow. Its bound is the best of
//! the relaxations'; a site whose bound alone reaches the best known Z is taken from its block. The block with the
//! fewest sites left is next, along the paths when their sums are penalised (what is behind is then known exactly), its
//! cheapest sites first.
//!
//! Two symmetries are cut. Sites that are alike and not in use yet stand for each other: only the first is tried.
//! Blocks that are alike stand for each other: once a site was tried for one of them, it is not tried for the others
//! beside it. Both only leave out assignments whose mirror image is in the same node, or was in one that is done.
//!
//! The budget is a number of nodes, and of costs looked at in them, so that the same problem ends the same way on every machine. When it runs out, the
//! least bound of everything that was left aside is the bound of the whole.

use super::{
    bound::{Fixed, Relaxation, SCALE},
    model::{Mask, Model, bit, each, signed},
    problem::DIMENSIONS,
    solver::Budget,
};

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The best assignment and its Z.
    pub best: Option<(i64, Vec<usize>)>,
    /// Nothing is below this, unless nothing is at all.
    pub least: i64,
    /// Was everything looked at?
    pub complete: bool,
    pub nodes: u64,
}

/// What a search needs to know of a model, beyond it.
pub(super) struct Tables {
    fixed: Fixed,
    relaxations: Vec<Relaxation>,
    /// The first of the sites that are alike, by site.
    alike: Vec<Mask>,
    /// Blocks that are alike, by block.
    twins: Vec<Mask>,
}

impl Tables {
    pub(super) fn new(model: &Model) -> Self {
        let fixed = Fixed::of(model);
        let plain = Relaxation::plain(model, &fixed);
        let target = super::heuristic::first(model, &plain).map(|(z, _)| z);
        let priced = Relaxation::priced(model, &fixed, target);
        let alike = sites_alike(model);
        let twins = blocks_alike(model);
        Self { fixed, relaxations: vec![plain, priced], alike, twins }
    }

    /// Only what a search for any assignment needs.
    pub(super) fn plain(model: &Model) -> Self {
        let fixed = Fixed::of(model);
        let relaxations = vec![Relaxation::plain(model, &fixed)];
        Self { fixed, relaxations, alike: sites_alike(model), twins: blocks_alike(model) }
    }

    /// After sites were taken away. The relaxations stay: with fewer sites their least is no lower.
    pub(super) fn refit(&mut self, model: &Model) {
        self.alike = sites_alike(model);
        self.twins = blocks_alike(model);
    }

    /// For first assignments.
    pub(super) fn guides(&self) -> &[Relaxation] {
        &self.relaxations
    }
}

/// Sites that can be exchanged in every assignment without changing anything.
fn sites_alike(model: &Model) -> Vec<Mask> {
    let m = model.width();
    let same = |s: usize, t: usize| {
        let blocks = (0..model.blocks.len()).all(|b| {
            let (x, y) = (model.at(b, s), model.at(b, t));
            let dom = model.domains[b];
            (dom & bit(s) != 0) == (dom & bit(t) != 0)
                && model.unary[x] == model.unary[y]
                && model.need[x] == model.need[y]
        });
        let others = (0..m).filter(|u| *u != s && *u != t).all(|u| {
            model.latency_us(s, u) == model.latency_us(t, u)
                && model.bandwidth_kbps(s, u) == model.bandwidth_kbps(t, u)
        });
        blocks
            && others
            && model.free[s] == model.free[t]
            && model.open[s] == model.open[t]
            && model.access[s] == model.access[t]
    };
    (0..m).map(|s| (0..m).filter(|t| *t == s || same(s, *t)).map(bit).sum()).collect()
}

/// Blocks that can be exchanged: only such that talk to nobody and that no priced way runs over.
fn blocks_alike(model: &Model) -> Vec<Mask> {
    let n = model.blocks.len();
    let alone = |b: usize| {
        model.touching[b].is_empty() && !model.ways.iter().any(|w| w.access.iter().any(|(x, _)| *x == b))
    };
    let same = |a: usize, b: usize| {
        let sites = (0..model.width()).all(|s| {
            let (x, y) = (model.at(a, s), model.at(b, s));
            model.unary[x] == model.unary[y] && model.need[x] == model.need[y]
        });
        let groups = model.apart.iter().all(|g| (g & bit(a) != 0) == (g & bit(b) != 0));
        sites && groups && model.domains[a] == model.domains[b]
    };
    let twin = |a: usize, b: usize| b == a || (alone(a) && alone(b) && same(a, b));
    (0..n).map(|a| (0..n).filter(|b| twin(a, *b)).map(bit).sum()).collect()
}

/// A node.
#[derive(Debug, Clone)]
struct Node {
    domains: Vec<Mask>,
    room: Vec<[u64; DIMENSIONS]>,
    /// By relaxation, block and site.
    unary: Vec<Vec<i64>>,
    /// By relaxation: what is certain.
    certain: Vec<i64>,
    /// Traffic by two sites, the lower first.
    loads: Vec<u64>,
    congestion: i64,
    opened: Mask,
    unassigned: Mask,
    sites: Vec<usize>,
}

impl Node {
    fn root(model: &Model, tables: &Tables) -> Self {
        let m = model.width();
        Self {
            domains: model.domains.clone(),
            room: model.free.clone(),
            unary: tables.relaxations.iter().map(|r| r.unary.clone()).collect(),
            certain: tables.relaxations.iter().map(|r| r.constant).collect(),
            loads: vec![0; m * m],
            congestion: 0,
            opened: 0,
            unassigned: (0..model.blocks.len()).map(bit).sum(),
            sites: vec![usize::MAX; model.blocks.len()],
        }
    }

    /// `clone_from` without new memory.
    fn copy(&mut self, from: &Self) {
        self.domains.copy_from_slice(&from.domains);
        self.room.copy_from_slice(&from.room);
        for (to, from) in self.unary.iter_mut().zip(&from.unary) {
            to.copy_from_slice(from);
        }
        self.certain.copy_from_slice(&from.certain);
        self.loads.copy_from_slice(&from.loads);
        self.sites.copy_from_slice(&from.sites);
        (self.congestion, self.opened, self.unassigned) = (from.congestion, from.opened, from.unassigned);
    }
}

pub(super) struct Search<'a> {
    model: &'a Model,
    tables: &'a Tables,
    budget: Budget,
    /// The first assignment is enough.
    any: bool,
    found: Found,
    done: bool,
    spare: Vec<Node>,
}

impl<'a> Search<'a> {
    pub(super) fn new(model: &'a Model, tables: &'a Tables, budget: Budget) -> Self {
        let found = Found { best: None, least: i64::MAX, complete: true, nodes: 0 };
        Self { model, tables, budget, any: false, found, done: false, spare: Vec::new() }
    }

    /// Looks only whether there is an assignment at all.
    pub(super) fn any(mut self) -> Self {
        self.any = true;
        self
    }

    /// Searches; what is at least as dear as `best` is not looked at.
    pub(super) fn run(mut self, best: Option<(i64, Vec<usize>)>) -> Found {
        self.found.best = best;
        self.node(&mut Node::root(self.model, self.tables), i64::MIN);
        if let Some((z, _)) = &self.found.best {
            self.found.least = self.found.least.min(*z);
        }
        self.found
    }

    fn limit(&self) -> i64 {
        self.found.best.as_ref().map_or(i64::MAX, |(z, _)| *z)
    }

    fn node(&mut self, node: &mut Node, known: i64) {
        if self.found.nodes >= self.budget.nodes || self.work() >= self.budget.work {
            self.give_up(known.max(self.bounds(node).map_or(i64::MAX, |b| b.0)));
            return;
        }
        self.found.nodes += 1;
        if node.unassigned == 0 {
            return self.leaf(node);
        }
        let Some((_, guide)) = self.prune(node) else { return };
        let Some(block) = self.next(node, guide) else { return };
        for (bound, site) in self.children(node, block, guide) {
            let bound = bound.max(known);
            if bound >= self.limit() {
                continue;
            }
            if self.done {
                self.give_up(bound);
                continue;
            }
            let mut child = self.spare.pop().unwrap_or_else(|| node.clone());
            child.copy(node);
            if self.assign(&mut child, block, site) {
                self.node(&mut child, bound);
            }
            self.spare.push(child);
            self.tried(node, block, site);
        }
    }

    fn work(&self) -> u64 {
        let costs = u64::try_from(self.model.unary.len()).unwrap_or(u64::MAX);
        self.found.nodes.saturating_mul(costs)
    }

    /// The budget is used up; what is in here was not looked at.
    fn give_up(&mut self, bound: i64) {
        if bound < self.limit() {
            self.done = true;
            self.found.complete = false;
            self.found.least = self.found.least.min(bound);
        }
    }

    fn leaf(&mut self, node: &Node) {
        if let Ok(z) = self.model.evaluate(&node.sites)
            && z < self.limit()
        {
            self.found.best = Some((z, node.sites.clone()));
            // Nothing is left aside: whoever asks for any assignment has one.
            self.done |= self.any;
        }
    }

    /// Twins of the block need not try this site, or one that is like it, beside it.
    fn tried(&self, node: &mut Node, block: usize, site: usize) {
        let fresh = self.tables.alike[site] & !node.opened;
        let gone = if node.opened & bit(site) == 0 { fresh } else { bit(site) };
        for twin in each(self.tables.twins[block] & node.unassigned & !bit(block)) {
            node.domains[twin] &= !gone;
        }
    }

    /// The bound of each relaxation, as Z; the best of them and its index. `None`: a block has no site left.
    fn bounds(&self, node: &Node) -> Option<(i64, usize)> {
        let mut best: Option<(i64, usize)> = None;
        for k in 0..self.tables.relaxations.len() {
            let z = self.bound(node, k)?;
            if best.is_none_or(|(b, _)| z > b) {
                best = Some((z, k));
            }
        }
        best
    }

    fn bound(&self, node: &Node, k: usize) -> Option<i64> {
        let mut sum = node.certain[k];
        for block in each(node.unassigned) {
            sum += self.least(node, k, block)?;
        }
        Some(self.round(sum, node, k))
    }

    fn least(&self, node: &Node, k: usize, block: usize) -> Option<i64> {
        let row = &node.unary[k][block * self.model.width()..];
        each(node.domains[block]).map(|s| row[s]).min()
    }

    /// A scaled sum as Z: rounded up to the next that can be.
    fn round(&self, sum: i64, node: &Node, k: usize) -> i64 {
        let unpriced = &self.tables.relaxations[k].unpriced;
        let ways = self.model.ways.iter().zip(unpriced).filter(|(_, u)| **u);
        let ways: i64 = ways.map(|(w, _)| w.penalty(self.shortest(node, w))).sum();
        let grid = self.model.grid;
        let z = sum.div_euclid(SCALE) + i64::from(sum.rem_euclid(SCALE) != 0) + ways + node.congestion;
        (z + grid - 1).div_euclid(grid) * grid
    }

    /// The least latency that a way can still have.
    fn shortest(&self, node: &Node, way: &super::model::Way) -> i64 {
        let m = self.model;
        let access = |b: usize| match node.sites[b] {
            usize::MAX => each(node.domains[b]).map(|s| m.access[s]).min().unwrap_or(0),
            site => m.access[site],
        };
        let hop = |e: usize| {
            let edge = &m.edges[e];
            let us = match (node.sites[edge.a], node.sites[edge.b]) {
                (usize::MAX, usize::MAX) => 0,
                (s, usize::MAX) => each(node.domains[edge.b]).map(|t| m.latency_us(s, t)).min().unwrap_or(0),
                (usize::MAX, t) => each(node.domains[edge.a]).map(|s| m.latency_us(s, t)).min().unwrap_or(0),
                (s, t) => m.latency_us(s, t),
            };
            signed(us)
        };
        let accesses: i64 = way.access.iter().map(|(b, n)| access(*b) * n).sum();
        accesses + way.hops.iter().map(|(e, n)| hop(*e) * n).sum::<i64>()
    }

    /// Bounds the node and takes away the sites that are too dear; `None`: nothing better is in it.
    fn prune(&self, node: &mut Node) -> Option<(i64, usize)> {
        let limit = self.limit();
        let best = self.bounds(node)?;
        if best.0 >= limit {
            return None;
        }
        if limit < i64::MAX {
            for k in 0..self.tables.relaxations.len() {
                let slack = (limit - self.bound(node, k)?) * SCALE;
                for block in each(node.unassigned) {
                    let most = self.least(node, k, block)?.saturating_add(slack);
                    let row = &node.unary[k][block * self.model.width()..];
                    let dear: Mask = each(node.domains[block]).filter(|s| row[*s] > most).map(bit).sum();
                    node.domains[block] &= !dear;
                }
            }
        }
        self.room_enough(node).then_some(best)
    }

    /// What is left to place must fit into what is left, kind by kind.
    fn room_enough(&self, node: &Node) -> bool {
        let m = self.model;
        let reach = each(node.unassigned).fold(0, |set, b| set | node.domains[b]);
        (0..DIMENSIONS).all(|d| {
            let need = |b: usize| each(node.domains[b]).map(|s| m.need[m.at(b, s)][d]).min().unwrap_or(0);
            let needed: u64 = each(node.unassigned).map(need).sum();
            let room = each(reach).fold(0u64, |sum, s| sum.saturating_add(node.room[s][d]));
            needed <= room
        })
    }

    /// The block with the fewest sites left; among those the one that loses most by its second choice.
    fn next(&self, node: &Node, guide: usize) -> Option<usize> {
        let key = |b: &usize| {
            let row = &node.unary[guide][*b * self.model.width()..];
            let (mut first, mut second) = (i64::MAX, i64::MAX);
            for s in each(node.domains[*b]) {
                let c = row[s];
                if c < first {
                    (first, second) = (c, first);
                } else if c < second {
                    second = c;
                }
            }
            let few = node.domains[*b].count_ones();
            let along = self.model.touching[*b].iter().any(|e| {
                let edge = &self.model.edges[*e];
                node.unassigned & bit(edge.a) == 0 || node.unassigned & bit(edge.b) == 0
            });
            let apart = few > 1 && !self.model.ways.is_empty() && !along;
            (apart, few, std::cmp::Reverse(second.saturating_sub(first)), *b)
        };
        each(node.unassigned).min_by_key(key)
    }

    /// Sites of the block by their bound; of those alike and not in use, one.
    fn children(&self, node: &Node, block: usize, guide: usize) -> Vec<(i64, usize)> {
        let row = &node.unary[guide][block * self.model.width()..];
        let mut sum = node.certain[guide];
        for other in each(node.unassigned & !bit(block)) {
            match self.least(node, guide, other) {
                Some(least) => sum += least,
                None => return Vec::new(),
            }
        }
        let mut seen: Mask = 0;
        let mut children = Vec::new();
        for site in each(node.domains[block]) {
            if seen & bit(site) != 0 {
                continue;
            }
            if node.opened & bit(site) == 0 {
                seen |= self.tables.alike[site] & !node.opened;
            }
            children.push((self.round(sum + row[site], node, guide), site));
        }
        children.sort_unstable();
        children
    }

    /// Assigns a block and draws the consequences; false: a contradiction.
    fn assign(&self, node: &mut Node, block: usize, site: usize) -> bool {
        node.unassigned &= !bit(block);
        node.sites[block] = site;
        self.open(node, site, block);
        self.take_room(node, block, site);
        for group in self.model.apart.iter().filter(|g| **g & bit(block) != 0) {
            for other in each(group & node.unassigned) {
                node.domains[other] &= !bit(site);
            }
        }
        self.model.touching[block].iter().all(|e| self.follow(node, *e, block, site))
            && each(node.unassigned).all(|b| node.domains[b] != 0)
    }

    /// A site that was not in use: its opening is certain now, and no longer spread.
    fn open(&self, node: &mut Node, site: usize, block: usize) {
        let m = self.model;
        if node.opened & bit(site) == 0 {
            node.opened |= bit(site);
            for k in 0..node.certain.len() {
                node.certain[k] += m.open[site] * SCALE;
                for b in each(node.unassigned | bit(block)) {
                    node.unary[k][m.at(b, site)] -= self.tables.fixed.opening[m.at(b, site)];
                }
            }
        }
        for k in 0..node.certain.len() {
            node.certain[k] += node.unary[k][m.at(block, site)];
        }
    }

    fn take_room(&self, node: &mut Node, block: usize, site: usize) {
        let m = self.model;
        let need = m.need[m.at(block, site)];
        node.room[site].iter_mut().zip(need).for_each(|(room, n)| *room = room.saturating_sub(n));
        for other in each(node.unassigned) {
            let need = &m.need[m.at(other, site)];
            if (0..DIMENSIONS).any(|d| need[d] > node.room[site][d]) {
                node.domains[other] &= !bit(site);
            }
        }
    }

    /// The other end of an edge: which sites it still has, and what they cost now.
    fn follow(&self, node: &mut Node, index: usize, block: usize, site: usize) -> bool {
        let m = self.model;
        let edge = &m.edges[index];
        let (end, other) = if edge.a == block { (0, edge.b) } else { (1, edge.a) };
        if node.unassigned & bit(other) == 0 {
            return self.carry(node, edge.traffic, site, node.sites[other]);
        }
        node.domains[other] &= edge.fits[end][site];
        for (k, relaxation) in self.tables.relaxations.iter().enumerate() {
            let costs = &relaxation.edges[index];
            if costs.is_empty() {
                continue;
            }
            for t in each(node.domains[other]) {
                let at = if end == 0 { site * m.width() + t } else { t * m.width() + site };
                node.unary[k][m.at(other, t)] += costs[at];
            }
        }
        true
    }

    fn carry(&self, node: &mut Node, traffic: u64, a: usize, b: usize) -> bool {
        if a == b {
            return true;
        }
        let load = &mut node.loads[a.min(b) * self.model.width() + a.max(b)];
        let (before, after) = (*load, *load + traffic);
        *load = after;
        match (self.model.congestion(a, b, before), self.model.congestion(a, b, after)) {
            (Some(x), Some(y)) => {
                node.congestion += y - x;
                true
            }
            _ => false,
        }
    }
}
