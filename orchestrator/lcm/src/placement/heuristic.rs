//! First assignments: greedy, then moves and swaps as long as they help.
//!
//! What is found here is where the search starts from: it is a bound from above, and often the optimum.

use super::{
    bound::Relaxation,
    model::{Model, bit, each},
    problem::DIMENSIONS,
};

/// Rounds of local search: each must lower Z, so this only bounds the time on the largest problems.
const ROUNDS: usize = 64;
/// Blocks up to which all swaps are tried in a round, not only moves.
const SWAPS: usize = 32;

/// The best assignment that the orders of the blocks below find.
pub(super) fn first(model: &Model, relaxation: &Relaxation) -> Option<(i64, Vec<usize>)> {
    let orders = [by_size(model), by_regret(model, relaxation)];
    let built = orders.iter().filter_map(|order| greedy(model, relaxation, order));
    let improved = built.filter_map(|sites| improve(model, sites));
    improved.min()
}

/// Largest share of any site's room first.
fn by_size(model: &Model) -> Vec<usize> {
    let share = |b: usize| {
        let of = |s: usize| {
            let (need, free) = (&model.need[model.at(b, s)], &model.free[s]);
            (0..DIMENSIONS).map(|d| need[d] * 1000 / free[d].max(1)).max().unwrap_or(0)
        };
        each(model.domains[b]).map(of).min().unwrap_or(0)
    };
    let mut order: Vec<usize> = (0..model.blocks.len()).collect();
    order.sort_by_key(|b| (model.domains[*b].count_ones() > 1, std::cmp::Reverse(share(*b)), *b));
    order
}

/// Those that lose most by their second choice first.
fn by_regret(model: &Model, relaxation: &Relaxation) -> Vec<usize> {
    let regret = |b: usize| {
        let mut costs: Vec<i64> = each(model.domains[b]).map(|s| relaxation.unary[model.at(b, s)]).collect();
        costs.sort_unstable();
        costs.get(1).map_or(i64::MAX, |second| second - costs[0])
    };
    let mut order: Vec<usize> = (0..model.blocks.len()).collect();
    order.sort_by_key(|b| (std::cmp::Reverse(regret(*b)), *b));
    order
}

/// Each block in turn on its cheapest site that still fits, given those before it.
fn greedy(model: &Model, relaxation: &Relaxation, order: &[usize]) -> Option<Vec<usize>> {
    let mut sites = vec![usize::MAX; model.blocks.len()];
    let mut room = model.free.clone();
    let mut domains = model.domains.clone();
    for block in order {
        let cost = |s: &usize| {
            let near: i64 = model.touching[*block].iter().map(|e| near(model, *e, *block, *s, &sites)).sum();
            relaxation.unary[model.at(*block, *s)] + near
        };
        let fits = |s: &usize| {
            let need = &model.need[model.at(*block, *s)];
            (0..DIMENSIONS).all(|d| need[d] <= room[*s][d])
        };
        let site = each(domains[*block]).filter(fits).min_by_key(cost)?;
        sites[*block] = site;
        let need = model.need[model.at(*block, site)];
        room[site].iter_mut().zip(need).for_each(|(r, n)| *r -= n);
        for e in &model.touching[*block] {
            let edge = &model.edges[*e];
            let (end, other) = if edge.a == *block { (0, edge.b) } else { (1, edge.a) };
            domains[other] &= edge.fits[end][site];
        }
        for group in model.apart.iter().filter(|g| **g & bit(*block) != 0) {
            each(group & !bit(*block)).for_each(|b| domains[b] &= !bit(site));
        }
    }
    Some(sites)
}

fn near(model: &Model, edge: usize, block: usize, site: usize, sites: &[usize]) -> i64 {
    let e = &model.edges[edge];
    let at = if e.a == block {
        (sites[e.b] != usize::MAX).then(|| site * model.width() + sites[e.b])
    } else {
        (sites[e.a] != usize::MAX).then(|| sites[e.a] * model.width() + site)
    };
    at.map_or(0, |at| e.cost[at] * super::bound::SCALE)
}

/// Moves one block, or swaps two, as long as Z falls.
pub(super) fn improve(model: &Model, mut sites: Vec<usize>) -> Option<(i64, Vec<usize>)> {
    let mut z = model.evaluate(&sites).ok()?;
    for _ in 0..ROUNDS {
        let before = z;
        for block in 0..sites.len() {
            for site in each(model.domains[block]) {
                let was = std::mem::replace(&mut sites[block], site);
                match model.evaluate(&sites) {
                    Ok(lower) if lower < z => z = lower,
                    _ => sites[block] = was,
                }
            }
        }
        if sites.len() <= SWAPS {
            z = swaps(model, &mut sites, z);
        }
        if z == before {
            break;
        }
    }
    Some((z, sites))
}

fn swaps(model: &Model, sites: &mut [usize], mut z: i64) -> i64 {
    for a in 0..sites.len() {
        for b in a + 1..sites.len() {
            let (to_a, to_b) = (sites[b], sites[a]);
            if model.domains[a] & bit(to_a) == 0 || model.domains[b] & bit(to_b) == 0 {
                continue;
            }
            sites.swap(a, b);
            match model.evaluate(sites) {
                Ok(lower) if lower < z => z = lower,
                _ => sites.swap(a, b),
            }
        }
    }
    z
}
