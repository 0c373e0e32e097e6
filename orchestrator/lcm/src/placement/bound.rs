//! Lower bounds: relaxations of the problem whose least cost is found block by block.
//!
//! A [`Relaxation`] is the problem with its coupling constraints priced instead of enforced (Lagrange): room of a site
//! (each kind of resource, and one place per anti-affinity group) has a price per share of it that is paid for what is
//! used and paid back for what there is; each µs of a path over its bound has a price between nothing and its penalty.
//! What opening a site costs is spread over the blocks that could be there, in proportion to the room that they take,
//! and what an edge costs at least is moved to its two ends. Whatever the prices, the sum over the blocks of their
//! cheapest sites is at most Z of any assignment that keeps the constraints: good prices only make it tighter. They
//! are found once, by subgradient steps; the search keeps the sums up to date as it assigns blocks.
//!
//! `a_small_budget_gives_a_bound` in `tests/placement` checks the claim against brute force, cut off after 0 to 5 nodes.

use super::{
    model::{Model, each, signed},
    problem::DIMENSIONS,
};

/// Relaxations count in this part of a thousandth, so that prices need not be whole thousandths.
pub(super) const SCALE: i64 = 64;
/// Room of a site, as the relaxations count it.
const ROOM: i64 = 4096;
/// Steps of the search for prices: more gains little (the bound moves by less than its rounding).
const STEPS: u32 = 80;
/// Steps without progress after which they become smaller.
const PATIENCE: u32 = 6;
/// Sum of all prices that may be reached, scaled: keeps every sum in 64 bits.
const MAX_PRICES: i64 = 1 << 54;

/// Prices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prices {
    /// Of the room of a site, by site and kind.
    room: Vec<[i64; DIMENSIONS]>,
    /// Of the place of a group, by group and site.
    place: Vec<Vec<i64>>,
    /// Of a µs over the bound, by way.
    over: Vec<i64>,
}

/// A relaxed problem.
#[derive(Debug, Clone)]
pub(super) struct Relaxation {
    prices: Prices,
    /// What is paid back.
    pub constant: i64,
    /// By block and site.
    pub unary: Vec<i64>,
    /// By edge, site of its `a` and site of its `b`: what is left of its cost; empty when nothing is.
    pub edges: Vec<Vec<i64>>,
    /// Ways whose penalty is not priced: the search adds what they cost at least.
    pub unpriced: Vec<bool>,
}

/// What does not depend on the prices.
pub(super) struct Fixed {
    /// Share of the site's room, by block and site, in parts of [`ROOM`].
    shares: Vec<[i64; DIMENSIONS]>,
    /// Share of the cost of opening the site, by block and site, scaled.
    pub opening: Vec<i64>,
}

impl Fixed {
    pub(super) fn of(model: &Model) -> Self {
        let (n, m) = (model.blocks.len(), model.width());
        let mut it = Self { shares: Vec::with_capacity(n * m), opening: vec![0; n * m] };
        for block in 0..n {
            for site in 0..m {
                let (need, free) = (&model.need[model.at(block, site)], &model.free[site]);
                it.shares.push(std::array::from_fn(|d| portion(ROOM, need[d], free[d])));
            }
        }
        for site in 0..m {
            it.open(model, site);
        }
        it
    }

    /// No assignment can put blocks on the site whose portions add up to more than the whole: their needs add up to at
    /// most what is free, and to at most what all need.
    fn open(&mut self, model: &Model, site: usize) {
        let here = |b: &usize| model.domains[*b] & super::model::bit(site) != 0;
        let blocks: Vec<usize> = (0..model.blocks.len()).filter(here).collect();
        let all = |d: usize| blocks.iter().map(|b| model.need[model.at(*b, site)][d]).sum::<u64>();
        let tight = |d: &usize| u128::from(all(*d)) * 1_000_000 / u128::from(model.free[site][*d].max(1));
        let Some(d) = (0..DIMENSIONS).max_by_key(tight) else { return };
        let whole = all(d).min(model.free[site][d]);
        for b in blocks {
            let at = model.at(b, site);
            self.opening[at] = portion(model.open[site] * SCALE, model.need[at][d], whole);
        }
    }
}

/// `whole * part / of`, rounded down.
fn portion(whole: i64, part: u64, of: u64) -> i64 {
    let product = i128::from(whole) * i128::from(part.min(of)) / i128::from(of.max(1));
    i64::try_from(product).unwrap_or(0)
}

impl Relaxation {
    /// Nothing priced.
    pub(super) fn plain(model: &Model, fixed: &Fixed) -> Self {
        let prices = Prices {
            room: vec![[0; DIMENSIONS]; model.width()],
            place: vec![vec![0; model.width()]; model.apart.len()],
            over: vec![0; model.ways.len()],
        };
        Self::new(model, fixed, prices)
    }

    /// The best prices that a bounded number of steps finds; `target` is the Z of a known assignment.
    pub(super) fn priced(model: &Model, fixed: &Fixed, target: Option<i64>) -> Self {
        let plain = Self::plain(model, fixed);
        let mut starts = vec![plain.clone()];
        if !model.ways.is_empty() {
            let over = model.ways.iter().map(|w| w.rate * SCALE).collect();
            starts.push(Self::new(model, fixed, Prices { over, ..plain.prices.clone() }));
        }
        let climbed = starts.into_iter().map(|s| s.climb(model, fixed, target));
        climbed.fold(plain, |best, r| if r.least(model) > best.least(model) { r } else { best })
    }

    fn climb(self, model: &Model, fixed: &Fixed, target: Option<i64>) -> Self {
        let (mut best, mut least) = (self.clone(), self.least(model));
        let mut at = self;
        let (mut size, mut stuck) = (64i128, 0);
        for _ in 0..STEPS {
            let now = at.least(model);
            if now > least {
                (best, least, stuck) = (at.clone(), now, 0);
            } else {
                stuck += 1;
            }
            if stuck >= PATIENCE {
                (size, stuck) = (size / 2, 0);
                at = best.clone();
            }
            let aim = target.map_or(now + now.abs() / 4 + SCALE * 1000, |z| z * SCALE);
            match at.step(model, fixed, aim - now, size) {
                Some(prices) if size > 0 && aim > least => at = Self::new(model, fixed, prices),
                _ => break,
            }
        }
        best
    }

    /// One step along the subgradient, by `size` / 64 of what would close the gap if the bound were linear.
    fn step(&self, model: &Model, fixed: &Fixed, gap: i64, size: i128) -> Option<Prices> {
        let chosen = self.cheapest(model)?;
        let mut room = vec![[-ROOM; DIMENSIONS]; model.width()];
        for (block, site) in chosen.iter().enumerate() {
            let share = &fixed.shares[model.at(block, *site)];
            room[*site].iter_mut().zip(share).for_each(|(sum, s)| *sum += s);
        }
        let place: Vec<Vec<i64>> = model
            .apart
            .iter()
            .map(|g| {
                let mut used = vec![-ROOM; model.width()];
                each(*g).for_each(|b| used[chosen[b]] += ROOM);
                used
            })
            .collect();
        let excess = |w: &super::model::Way| model.way_latency(w, &chosen) - w.bound_us;
        let over: Vec<i64> = model.ways.iter().map(excess).collect();
        let mut next = self.prices.clone();
        // A price that is nothing and would fall does not count.
        let prices = || self.prices.room.iter().flatten().chain(self.prices.place.iter().flatten());
        let slopes = || room.iter().flatten().chain(place.iter().flatten());
        let norm: i128 = prices().zip(slopes()).map(|(p, g)| square(*p, *g)).sum();
        let norm_over: i128 = self.prices.over.iter().zip(&over).map(|(p, g)| square(*p, *g)).sum();
        let by = |g: i64, norm: i128| {
            let step = i128::from(gap) * i128::from(g) * size / 64 / norm.max(1);
            i64::try_from(step).unwrap_or(0)
        };
        let moved = next.room.iter_mut().flatten().chain(next.place.iter_mut().flatten());
        for (price, g) in moved.zip(slopes()) {
            *price = price.saturating_add(by(*g, norm)).max(0);
        }
        for ((price, g), way) in next.over.iter_mut().zip(&over).zip(&model.ways) {
            *price = price.saturating_add(by(*g, norm_over)).clamp(0, way.rate * SCALE);
        }
        let all = next.room.iter().flatten().chain(next.place.iter().flatten());
        let sum = all.fold(0i64, |sum, p| sum.saturating_add(p.saturating_mul(ROOM)));
        (next != self.prices && sum < MAX_PRICES).then_some(next)
    }

    fn new(model: &Model, fixed: &Fixed, prices: Prices) -> Self {
        let back = prices.room.iter().flatten().chain(prices.place.iter().flatten());
        let bounds: i64 = prices.over.iter().zip(&model.ways).map(|(p, w)| p * w.bound_us).sum();
        let mut it = Self {
            constant: -back.map(|p| p * ROOM).sum::<i64>() - bounds,
            unary: vec![0; model.unary.len()],
            edges: model.edges.iter().map(|e| e.cost.iter().map(|c| c * SCALE).collect()).collect(),
            unpriced: prices.over.iter().map(|p| *p == 0).collect(),
            prices,
        };
        it.price(model, fixed);
        it.price_ways(model);
        for edge in 0..model.edges.len() {
            it.project(model, edge);
        }
        it
    }

    fn price(&mut self, model: &Model, fixed: &Fixed) {
        for block in 0..model.blocks.len() {
            for site in each(model.domains[block]) {
                let at = model.at(block, site);
                let room = self.prices.room[site].iter().zip(&fixed.shares[at]).map(|(p, s)| p * s);
                self.unary[at] = model.unary[at] * SCALE + fixed.opening[at] + room.sum::<i64>();
            }
        }
        for (group, prices) in model.apart.iter().zip(&self.prices.place) {
            for block in each(*group) {
                for (site, price) in prices.iter().enumerate() {
                    self.unary[model.at(block, site)] += price * ROOM;
                }
            }
        }
    }

    fn price_ways(&mut self, model: &Model) {
        for (way, price) in model.ways.iter().zip(&self.prices.over).filter(|(_, p)| **p > 0) {
            for (block, times) in &way.access {
                for site in 0..model.width() {
                    self.unary[model.at(*block, site)] += price * times * model.access[site];
                }
            }
            for (edge, times) in &way.hops {
                for (cost, us) in self.edges[*edge].iter_mut().zip(&model.latency) {
                    if *us != super::model::UNCONNECTED {
                        *cost += price * times * signed(*us);
                    }
                }
            }
        }
    }

    /// Moves what the edge costs at least, by site, to its ends: half to one, then what is left to the other and back.
    fn project(&mut self, model: &Model, index: usize) {
        let edge = &model.edges[index];
        let m = model.width();
        let mut costs = std::mem::take(&mut self.edges[index]);
        for (end, part) in [(0, 2), (1, 1), (0, 1)] {
            let (this, other) = if end == 0 { (edge.a, edge.b) } else { (edge.b, edge.a) };
            let at = |s: usize, t: usize| if end == 0 { s * m + t } else { t * m + s };
            for s in each(model.domains[this]) {
                let there = edge.fits[end][s] & model.domains[other];
                let least = each(there).map(|t| costs[at(s, t)]).min().unwrap_or(0) / part;
                if least != 0 {
                    each(there).for_each(|t| costs[at(s, t)] -= least);
                    self.unary[model.at(this, s)] += least;
                }
            }
        }
        let left = each(model.domains[edge.a])
            .any(|s| each(edge.fits[0][s] & model.domains[edge.b]).any(|t| costs[s * m + t] != 0));
        if left {
            self.edges[index] = costs;
        }
    }

    /// The cheapest site of each block.
    fn cheapest(&self, model: &Model) -> Option<Vec<usize>> {
        let of = |(b, dom): (usize, &u128)| each(*dom).min_by_key(|s| self.unary[model.at(b, *s)]);
        model.domains.iter().enumerate().map(of).collect()
    }

    /// The bound at the root, scaled, without the penalties of unpriced ways.
    fn least(&self, model: &Model) -> i64 {
        let of = |(b, dom): (usize, &u128)| each(*dom).map(|s| self.unary[model.at(b, s)]).min();
        self.constant + model.domains.iter().enumerate().filter_map(of).sum::<i64>()
    }
}

fn square(price: i64, slope: i64) -> i128 {
    if price == 0 && slope < 0 { 0 } else { i128::from(slope) * i128::from(slope) }
}
