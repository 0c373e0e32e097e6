//! A problem as the search sees it: numbers and bit sets, members bound by affinity merged into blocks.
//!
//! Z is split into what depends on one block ([`Model::unary`]), on a site being opened at all ([`Model::open`]), on
//! two blocks ([`Edge::cost`]), on a whole path ([`Way`]) and on the load of a connection. [`Model::evaluate`] is the
//! one judge of an assignment; the search only ever guesses bounds for it.

use super::{
    answer::Code,
    problem::{DIMENSIONS, Leg, Malformed, Member, Problem},
};

/// A set of sites or of blocks.
pub(super) type Mask = u128;

/// Two sites without a connection.
pub(super) const UNCONNECTED: u64 = u64::MAX;
/// Thousandths of Z per unit.
pub(super) const MILLI: i64 = 1000;
/// Thousandths of Z per µs: 1 per 100 µs.
pub(super) const MILLI_PER_US: i64 = 10;
/// Highest Z that a problem may be able to reach, thousandths: leaves the bounds room for sums of scaled terms in 64
/// bits.
const MAX_Z: u128 = 1 << 44;
/// Largest bandwidth and traffic, kbit/s: a petabit per second.
const MAX_KBPS: u64 = 1_000_000_000_000;

/// Why a member cannot be on a site, whatever the others do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub code: Code,
    pub text: String,
}

/// Why an assignment of blocks that may each be where they are cannot be as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// This site has too little of this.
    Capacity { site: usize, dimension: usize, need: u64 },
    /// Two blocks of this group are on one site.
    Apart { group: usize, other: usize },
    /// The blocks of this edge are on sites that are not connected.
    Unconnected { edge: usize },
    /// This pair of sites has too little bandwidth.
    Bandwidth { a: usize, b: usize, load: u64 },
}

/// Traffic between two blocks.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub a: usize,
    pub b: usize,
    pub traffic: u64,
    /// Links of the problem.
    pub links: Vec<usize>,
    /// Cost by site of `a` and site of `b`, without what whole paths add.
    pub cost: Vec<i64>,
    /// Sites of `b` that are possible by site of `a`, and the other way round.
    pub fits: [Vec<Mask>; 2],
}

/// A path with a penalty over more than one leg.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub bound_us: i64,
    /// Thousandths per µs over the bound.
    pub rate: i64,
    /// Blocks whose access it uses, with how often.
    pub access: Vec<(usize, i64)>,
    /// Edges that it uses, with how often.
    pub hops: Vec<(usize, i64)>,
}

impl Way {
    pub(super) fn penalty(&self, latency_us: i64) -> i64 {
        latency_us.saturating_sub(self.bound_us).max(0).saturating_mul(self.rate)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    /// Members and sites of the problem in the order of their names.
    pub members: Vec<usize>,
    pub sites: Vec<usize>,
    /// Positions in `members`.
    pub blocks: Vec<Vec<usize>>,
    pub block_of: Vec<usize>,
    /// By member and site.
    pub reasons: Vec<Vec<Option<Reason>>>,
    /// Sites that are possible, by block.
    pub domains: Vec<Mask>,
    /// By block and site.
    pub unary: Vec<i64>,
    pub need: Vec<[u64; DIMENSIONS]>,
    pub free: Vec<[u64; DIMENSIONS]>,
    pub open: Vec<i64>,
    /// Latency by two sites, µs, and from the tenant.
    pub latency: Vec<u64>,
    pub access: Vec<i64>,
    /// Free bandwidth by two sites, kbit/s.
    pub bandwidth: Vec<u64>,
    pub edges: Vec<Edge>,
    /// Edges by block.
    pub touching: Vec<Vec<usize>>,
    pub ways: Vec<Way>,
    /// Anti-affinity: groups of blocks.
    pub apart: Vec<Mask>,
    pub shortfall: Option<i64>,
    /// Every Z is a multiple of this.
    pub grid: i64,
}

pub(super) fn bit(i: usize) -> Mask {
    1 << i
}

pub(super) fn each(mut set: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            i
        })
    })
}

impl Model {
    pub(super) fn new(problem: &Problem) -> Result<Self, Malformed> {
        problem.check()?;
        check_countable(problem)?;
        let members = order(problem.members.iter().map(|m| m.name.as_str()));
        let sites = order(problem.sites.iter().map(|s| s.name.as_str()));
        let (blocks, block_of) = merge(problem, &members);
        let mut it = Self {
            blocks,
            block_of,
            reasons: Vec::new(),
            domains: Vec::new(),
            unary: Vec::new(),
            need: Vec::new(),
            free: sites.iter().map(|s| problem.sites[*s].room()).collect(),
            open: Vec::new(),
            latency: Vec::new(),
            access: sites.iter().map(|s| signed(problem.sites[*s].latency_us)).collect(),
            bandwidth: Vec::new(),
            edges: Vec::new(),
            touching: Vec::new(),
            ways: Vec::new(),
            apart: Vec::new(),
            shortfall: problem.costs.shortfall_per_mbps.map(|p| i64::from(p) * MILLI),
            grid: 1,
            members,
            sites,
        };
        it.connect(problem);
        it.judge(problem);
        it.price(problem);
        it.link(problem);
        it.consistent();
        it.grid = it.common_divisor();
        Ok(it)
    }

    pub(super) fn width(&self) -> usize {
        self.sites.len()
    }

    pub(super) fn at(&self, block: usize, site: usize) -> usize {
        block * self.sites.len() + site
    }

    fn pair(&self, a: usize, b: usize) -> usize {
        a * self.sites.len() + b
    }

    fn connect(&mut self, problem: &Problem) {
        let m = self.width();
        self.latency = vec![UNCONNECTED; m * m];
        self.bandwidth = vec![u64::MAX; m * m];
        let position = |name: &str| self.sites.iter().position(|s| problem.sites[*s].name == name);
        for c in &problem.connections {
            let (Some(a), Some(b)) = (position(&c.a), position(&c.b)) else { continue };
            for at in [a * m + b, b * m + a] {
                self.latency[at] = c.latency_us;
                self.bandwidth[at] = c.bandwidth_kbps.unwrap_or(u64::MAX);
            }
        }
        for s in 0..m {
            self.latency[s * m + s] = 0;
        }
    }

    /// Reasons by member and site; from them the domains of the blocks.
    fn judge(&mut self, problem: &Problem) {
        let member = |p: &usize| &problem.members[*p];
        self.reasons = self
            .members
            .iter()
            .map(|p| self.sites.iter().map(|s| refusal(problem, member(p), *s)).collect())
            .collect();
        for block in 0..self.blocks.len() {
            let positions = self.blocks[block].clone();
            for site in 0..self.width() {
                let need = positions.iter().fold([0; DIMENSIONS], |sum: [u64; DIMENSIONS], p| {
                    let n = needed(member(&self.members[*p]), &problem.sites[self.sites[site]].name);
                    std::array::from_fn(|d| sum[d] + n[d])
                });
                self.need.push(need);
            }
            self.bind(problem, &positions, block);
            let possible = |s: &usize| positions.iter().all(|p| self.reasons[*p][*s].is_none());
            self.domains.push((0..self.width()).filter(possible).map(bit).sum());
        }
    }

    /// What is bound by affinity shares the reasons against a site.
    fn bind(&mut self, problem: &Problem, positions: &[usize], block: usize) {
        let name = |p: usize| &problem.members[self.members[p]].name;
        for site in 0..self.width() {
            let first = positions.iter().find_map(|p| Some((*p, self.reasons[*p][site].clone()?)));
            let together = (positions.len() > 1).then(|| {
                let need = self.need[self.at(block, site)];
                let lacking = (0..DIMENSIONS).find(|d| need[*d] > self.free[site][*d])?;
                let all: Vec<_> = positions.iter().map(|p| format!("`{}`", name(*p))).collect();
                let (_, short) = lack(&problem.sites[self.sites[site]], lacking, need[lacking]);
                Some(format!("{} stay together, and all of them: {short}", all.join(", ")))
            });
            let shared = match (first, together.flatten()) {
                (Some((p, reason)), _) => {
                    format!("`{}` must be on the same site: {}", name(p), reason.text)
                }
                (None, Some(text)) => text,
                (None, None) => continue,
            };
            for p in positions {
                self.reasons[*p][site]
                    .get_or_insert_with(|| Reason { code: Code::Affinity, text: shared.clone() });
            }
        }
        if let Some(text) = self.clash(problem, positions) {
            for (p, site) in positions.iter().flat_map(|p| (0..self.sites.len()).map(move |s| (*p, s))) {
                self.reasons[p][site]
                    .get_or_insert_with(|| Reason { code: Code::AntiAffinity, text: text.clone() });
            }
        }
    }

    /// Two members of a block that must be apart.
    fn clash(&self, problem: &Problem, positions: &[usize]) -> Option<String> {
        let names = positions.iter().map(|p| &problem.members[self.members[*p]].name);
        problem.anti_affinity.iter().find_map(|g| {
            let both: Vec<_> = names.clone().filter(|n| g.members.contains(n)).collect();
            (both.len() > 1).then(|| {
                format!(
                    "`{}` and `{}` must be together and, by anti-affinity `{}`, apart",
                    both[0], both[1], g.name
                )
            })
        })
    }

    fn price(&mut self, problem: &Problem) {
        let shares = Shares::of(problem);
        self.open = self.sites.iter().map(|s| shares.room(*s)).collect();
        for block in &self.blocks {
            for site in &self.sites {
                let cost = |p: &usize| {
                    let member = &problem.members[self.members[*p]];
                    member_cost(problem, member, *site) - shares.share(member, *site)
                };
                self.unary.push(block.iter().map(cost).sum());
            }
        }
    }

    /// Links become edges, paths become costs of blocks and edges, or ways.
    fn link(&mut self, problem: &Problem) {
        let n = self.blocks.len();
        let position = |name: &str| self.members.iter().position(|p| problem.members[*p].name == name);
        let block = |name: &str| position(name).map_or(0, |p| self.block_of[p]);
        let ends: Vec<(usize, usize)> = problem
            .links
            .iter()
            .map(|l| (block(&l.a), block(&l.b)))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        self.apart = problem
            .anti_affinity
            .iter()
            .map(|g| g.members.iter().fold(0, |set, name| set | bit(block(name))))
            .collect();
        let access_of = |leg: &Leg| match leg {
            Leg::Access(name) => Some(block(name)),
            Leg::Link(_) => None,
        };
        let legs: Vec<Vec<Result<usize, usize>>> = problem
            .paths
            .iter()
            .map(|p| {
                p.legs
                    .iter()
                    .filter_map(|leg| match (access_of(leg), leg) {
                        (Some(b), _) => Some(Ok(b)),
                        (None, Leg::Link(name)) => {
                            problem.links.iter().position(|l| l.name == *name).map(Err)
                        }
                        (None, Leg::Access(_)) => None,
                    })
                    .collect()
            })
            .collect();
        let edge_of: Vec<Option<usize>> = ends.iter().map(|e| self.edge(*e)).collect();
        for (index, (link, edge)) in problem.links.iter().zip(&edge_of).enumerate() {
            if let Some(e) = edge {
                self.edges[*e].traffic += link.traffic_kbps;
                self.edges[*e].links.push(index);
            }
        }
        self.touching = vec![Vec::new(); n];
        for (i, e) in self.edges.iter().enumerate() {
            self.touching[e.a].push(i);
            self.touching[e.b].push(i);
        }
        for (path, legs) in problem.paths.iter().zip(legs) {
            let mut way = Way {
                bound_us: i64::try_from(path.bound_us).unwrap_or(i64::MAX),
                rate: i64::from(path.penalty_per_us).saturating_mul(path.weight.into()).saturating_mul(MILLI),
                access: Vec::new(),
                hops: Vec::new(),
            };
            for leg in legs {
                match leg {
                    Ok(block) => count(&mut way.access, block),
                    Err(link) => {
                        if let Some(e) = edge_of[link] {
                            count(&mut way.hops, e);
                        }
                    }
                }
            }
            self.run(way);
        }
        for e in 0..self.edges.len() {
            self.fit(e);
        }
    }

    fn edge(&mut self, (a, b): (usize, usize)) -> Option<usize> {
        if a == b {
            return None;
        }
        let known = self.edges.iter().position(|e| (e.a, e.b) == (a, b));
        Some(known.unwrap_or_else(|| {
            let m = self.width();
            let fits = [vec![0; m], vec![0; m]];
            self.edges.push(Edge { a, b, traffic: 0, links: Vec::new(), cost: vec![0; m * m], fits });
            self.edges.len() - 1
        }))
    }

    /// The distance of a path goes to its legs; its penalty too when it has one leg only.
    fn run(&mut self, way: Way) {
        let alone = way.access.len() + way.hops.len() == 1;
        let penalty = |us: i64| if alone { way.penalty(us) } else { 0 };
        for (block, times) in &way.access {
            for site in 0..self.width() {
                let us = self.access[site] * times;
                let at = self.at(*block, site);
                self.unary[at] += us * MILLI_PER_US + penalty(us);
            }
        }
        for (edge, times) in &way.hops {
            for (cost, us) in self.edges[*edge].cost.iter_mut().zip(&self.latency) {
                if *us != UNCONNECTED {
                    let us = signed(*us) * times;
                    *cost += us * MILLI_PER_US + penalty(us);
                }
            }
        }
        if !alone && way.rate > 0 && self.longest(&way) > way.bound_us {
            self.ways.push(way);
        }
    }

    fn longest(&self, way: &Way) -> i64 {
        let access = self.access.iter().max().copied().unwrap_or(0);
        let connected = self.latency.iter().filter(|us| **us != UNCONNECTED);
        let hop = signed(connected.max().copied().unwrap_or(0));
        let times = |legs: &[(usize, i64)]| legs.iter().map(|l| l.1).sum::<i64>();
        times(&way.access) * access + times(&way.hops) * hop
    }

    fn fit(&mut self, index: usize) {
        let (a, b, traffic) = (self.edges[index].a, self.edges[index].b, self.edges[index].traffic);
        for s in each(self.domains[a]) {
            for t in each(self.domains[b]) {
                if self.compatible((a, s), (b, t), traffic) {
                    self.edges[index].fits[0][s] |= bit(t);
                    self.edges[index].fits[1][t] |= bit(s);
                }
            }
        }
    }

    fn compatible(&self, (a, s): (usize, usize), (b, t): (usize, usize), traffic: u64) -> bool {
        if s == t {
            let (x, y) = (self.need[self.at(a, s)], self.need[self.at(b, s)]);
            let room = (0..DIMENSIONS).all(|d| x[d] + y[d] <= self.free[s][d]);
            return room && !self.apart.iter().any(|g| g & bit(a) != 0 && g & bit(b) != 0);
        }
        let at = self.pair(s, t);
        self.latency[at] != UNCONNECTED && (self.shortfall.is_some() || traffic <= self.bandwidth[at])
    }

    /// Arc consistency: a site that leaves a neighbour none is none.
    fn consistent(&mut self) {
        loop {
            let before = self.domains.clone();
            for e in &self.edges {
                for (this, other, fits) in [(e.a, e.b, &e.fits[0]), (e.b, e.a, &e.fits[1])] {
                    let there = self.domains[other];
                    let lost: Mask =
                        each(self.domains[this]).filter(|s| fits[*s] & there == 0).map(bit).sum();
                    self.domains[this] &= !lost;
                }
            }
            // Domains only shrink, at most as often as they have sites.
            if before == self.domains {
                return;
            }
        }
    }

    fn common_divisor(&self) -> i64 {
        let edges = self.edges.iter().flat_map(|e| e.cost.iter());
        let ways = self.ways.iter().map(|w| &w.rate);
        let all = self.unary.iter().chain(&self.open).chain(edges).chain(ways).chain(&self.shortfall);
        all.fold(0, |g, x| divisor(g, *x)).max(1)
    }

    pub(super) fn latency_us(&self, a: usize, b: usize) -> u64 {
        self.latency[self.pair(a, b)]
    }

    pub(super) fn bandwidth_kbps(&self, a: usize, b: usize) -> u64 {
        self.bandwidth[self.pair(a, b)]
    }

    /// Penalty of a connection for this load; `None`: it must fit and does not.
    pub(super) fn congestion(&self, a: usize, b: usize, load: u64) -> Option<i64> {
        let over = load.saturating_sub(self.bandwidth_kbps(a, b));
        match (over, self.shortfall) {
            (0, _) => Some(0),
            (_, None) => None,
            (_, Some(rate)) => Some(signed(over.div_ceil(1000)).saturating_mul(rate)),
        }
    }

    pub(super) fn way_latency(&self, way: &Way, sites: &[usize]) -> i64 {
        let access: i64 = way.access.iter().map(|(b, n)| self.access[sites[*b]] * n).sum();
        // Guesses of the bounds may be unconnected; assignments are not.
        let hop = |e: usize| match self.latency_us(sites[self.edges[e].a], sites[self.edges[e].b]) {
            UNCONNECTED => 0,
            us => us,
        };
        access + way.hops.iter().map(|(e, n)| signed(hop(*e)) * n).sum::<i64>()
    }

    /// Z of an assignment of every block, thousandths.
    pub(super) fn evaluate(&self, sites: &[usize]) -> Result<i64, Violation> {
        let mut opened: Mask = 0;
        let mut used = vec![[0u64; DIMENSIONS]; self.width()];
        let mut z = 0;
        for (block, site) in sites.iter().enumerate() {
            if opened & bit(*site) == 0 {
                opened |= bit(*site);
                z += self.open[*site];
            }
            z += self.unary[self.at(block, *site)];
            let need = &self.need[self.at(block, *site)];
            for (dimension, n) in need.iter().enumerate() {
                used[*site][dimension] += n;
                let need = used[*site][dimension];
                if need > self.free[*site][dimension] {
                    return Err(Violation::Capacity { site: *site, dimension, need });
                }
            }
        }
        self.apart_enough(sites)?;
        let edges = self.edges_cost(sites)?;
        let ways: i64 = self.ways.iter().map(|w| w.penalty(self.way_latency(w, sites))).sum();
        Ok(z + edges + ways)
    }

    fn apart_enough(&self, sites: &[usize]) -> Result<(), Violation> {
        for (group, blocks) in self.apart.iter().enumerate() {
            let mut taken: Mask = 0;
            for block in each(*blocks) {
                if taken & bit(sites[block]) != 0 {
                    return Err(Violation::Apart { group, other: block });
                }
                taken |= bit(sites[block]);
            }
        }
        Ok(())
    }

    fn edges_cost(&self, sites: &[usize]) -> Result<i64, Violation> {
        let mut z = 0;
        let mut loads: Vec<((usize, usize), u64)> = Vec::new();
        for (edge, e) in self.edges.iter().enumerate() {
            let (s, t) = (sites[e.a], sites[e.b]);
            if s == t {
                continue;
            }
            if self.latency_us(s, t) == UNCONNECTED {
                return Err(Violation::Unconnected { edge });
            }
            z += e.cost[self.pair(s, t)];
            let key = (s.min(t), s.max(t));
            if e.traffic == 0 || self.bandwidth_kbps(s, t) == u64::MAX {
                continue;
            }
            match loads.iter_mut().find(|(k, _)| *k == key) {
                Some((_, load)) => *load += e.traffic,
                None => loads.push((key, e.traffic)),
            }
        }
        for ((a, b), load) in loads {
            z += self.congestion(a, b, load).ok_or(Violation::Bandwidth { a, b, load })?;
        }
        Ok(z)
    }

    /// After constraints changed: possible sites from the reasons, and the edges anew.
    pub(super) fn refit(&mut self) {
        for (block, positions) in self.blocks.iter().enumerate() {
            let possible = |s: &usize| positions.iter().all(|p| self.reasons[*p][*s].is_none());
            self.domains[block] = (0..self.sites.len()).filter(possible).map(bit).sum();
        }
        for e in 0..self.edges.len() {
            self.edges[e].fits.iter_mut().for_each(|f| f.fill(0));
            self.fit(e);
        }
        self.consistent();
    }
}

/// Alpha x shares of unused capacity, thousandths of Z.
pub(super) struct Shares<'a> {
    problem: &'a Problem,
    /// Kinds of resource that the service asks for.
    asked: Vec<usize>,
}

impl<'a> Shares<'a> {
    pub(super) fn of(problem: &'a Problem) -> Self {
        let asks = |d: &usize| problem.members.iter().any(|m| m.demand.array()[*d] > 0);
        Self { problem, asked: (0..DIMENSIONS).filter(asks).collect() }
    }

    /// Mean share of these amounts of the site's total, millionths.
    fn mean_ppm(&self, amounts: [u64; DIMENSIONS], site: usize) -> u64 {
        let site = &self.problem.sites[site];
        let (total, free) = (site.total.array(), site.free.array());
        let share = |d: &usize| {
            let all = u64::from(total[*d].max(free[*d]));
            (amounts[*d] * 1_000_000).checked_div(all).unwrap_or(0)
        };
        self.asked.iter().map(share).sum::<u64>() / (self.asked.len() as u64).max(1)
    }

    fn priced(&self, ppm: u64) -> i64 {
        signed(u64::from(self.problem.costs.alpha_permille) * ppm / 1000)
    }

    /// What is free on the site.
    pub(super) fn room_ppm(&self, site: usize) -> u64 {
        self.mean_ppm(self.problem.sites[site].free.array().map(u64::from), site)
    }

    /// What the member takes of it.
    pub(super) fn member_ppm(&self, member: &Member, site: usize) -> u64 {
        self.mean_ppm(needed(member, &self.problem.sites[site].name), site)
    }

    pub(super) fn room(&self, site: usize) -> i64 {
        self.priced(self.room_ppm(site))
    }

    pub(super) fn share(&self, member: &Member, site: usize) -> i64 {
        self.priced(self.member_ppm(member, site))
    }
}

pub(super) fn member_cost(problem: &Problem, member: &Member, site: usize) -> i64 {
    i64::from(member.demand.vcpus) * i64::from(problem.sites[site].cost) * MILLI
}

/// What a member needs of a site beyond what it holds there.
pub(super) fn needed(member: &Member, site: &str) -> [u64; DIMENSIONS] {
    let demand = member.demand.array();
    let held = member.held.iter().find(|h| h.site == site).map(|h| h.amounts.array()).unwrap_or_default();
    std::array::from_fn(|d| u64::from(demand[d].saturating_sub(held[d])))
}

/// The first rule that keeps a member from a site, whatever the others do.
fn refusal(problem: &Problem, member: &Member, site: usize) -> Option<Reason> {
    let at = &problem.sites[site];
    let short = || {
        let need = needed(member, &at.name);
        let room = at.room();
        let d = (0..DIMENSIONS).find(|d| need[*d] > room[*d])?;
        let (code, text) = lack(at, d, need[d]);
        Some(Reason { code, text })
    };
    match &member.pinned {
        Some(pinned) if *pinned == at.name => return short(),
        Some(pinned) => {
            return Some(Reason { code: Code::Pinned, text: format!("`{}` stays on {pinned}", member.name) });
        }
        None => {}
    }
    let unusable = [(Code::SiteProblem, &at.problem), (Code::SiteDrained, &at.drained)];
    if let Some((code, Some(why))) = unusable.into_iter().find(|(_, why)| why.is_some()) {
        return Some(Reason { code, text: why.clone() });
    }
    let excluded = problem
        .exclusions
        .iter()
        .find(|x| x.site == at.name && x.member.as_ref().is_none_or(|m| *m == member.name));
    if let Some(x) = excluded {
        return Some(Reason { code: Code::SiteExcluded, text: x.why.clone() });
    }
    ruled_out(member, at).or_else(short).or_else(|| {
        let lacks = |needed: bool, code, why: &Option<String>| {
            why.as_ref().filter(|_| needed).map(|why| Reason { code, text: why.clone() })
        };
        let rules = &member.rules;
        lacks(rules.attestation, Code::Attestation, &at.no_attestation)
            .or_else(|| lacks(rules.tee, Code::Tee, &at.no_tee))
    })
}

fn ruled_out(member: &Member, site: &super::Candidate) -> Option<Reason> {
    let rules = &member.rules;
    if !rules.sites.is_empty() && !rules.sites.contains(&site.name) {
        let text = format!("the intent allows only {}", rules.sites.join(", "));
        return Some(Reason { code: Code::SiteNotAllowed, text });
    }
    if !rules.jurisdictions.is_empty() && !rules.jurisdictions.contains(&site.jurisdiction) {
        let allowed = rules.jurisdictions.join(", ");
        let text = format!("jurisdiction {}; the intent allows {allowed}", site.jurisdiction);
        return Some(Reason { code: Code::Jurisdiction, text });
    }
    if rules.sovereign && rules.jurisdictions.is_empty() {
        let text = "restricted traffic needs its jurisdictions named".into();
        return Some(Reason { code: Code::JurisdictionUnnamed, text });
    }
    let max = rules.max_latency_us.filter(|max| site.latency_us > *max)?;
    let text = format!("latency {} µs; the intent allows {max} µs", site.latency_us);
    Some(Reason { code: Code::SiteLatency, text })
}

/// Why so much of this kind cannot be placed there: there is too little, or the tenant may use no more.
pub(super) fn lack(at: &super::Candidate, dimension: usize, need: u64) -> (Code, String) {
    let (free, total) = (u64::from(at.free.array()[dimension]), at.total.array()[dimension]);
    let what = kind(dimension);
    match at.quota.map(|q| u64::from(q.array()[dimension])) {
        Some(left) if need <= free => {
            (Code::SiteQuota, format!("needs {need} {what}, the tenant's quota there leaves {left}"))
        }
        _ => (capacity_code(dimension), format!("needs {need} {what}, {free} of {total} are free")),
    }
}

fn capacity_code(dimension: usize) -> Code {
    match dimension {
        0 => Code::CapacityVcpus,
        1 => Code::CapacityMemory,
        2 => Code::CapacityInstances,
        3 => Code::CapacityVfs,
        _ => Code::CapacityBandwidth,
    }
}

fn kind(dimension: usize) -> &'static str {
    match dimension {
        0 => "vCPUs",
        1 => "MiB of memory",
        2 => "instances",
        3 => "virtual functions",
        _ => "kbit/s of uplink",
    }
}

/// Indices in the order of the names.
fn order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let names: Vec<&str> = names.collect();
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|i| names[*i]);
    order
}

/// Members bound by affinity, in the order of the first name of each block.
fn merge(problem: &Problem, members: &[usize]) -> (Vec<Vec<usize>>, Vec<usize>) {
    let mut label: Vec<usize> = (0..members.len()).collect();
    for group in &problem.affinity {
        let bound = |p: &usize| group.members.contains(&problem.members[members[*p]].name);
        let labels: Vec<usize> = (0..members.len()).filter(bound).map(|p| label[p]).collect();
        if let Some(least) = labels.iter().min() {
            label.iter_mut().filter(|l| labels.contains(l)).for_each(|l| *l = *least);
        }
    }
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    let mut block_of = vec![0; members.len()];
    for p in 0..members.len() {
        let known = blocks.iter().position(|b| b.first().is_some_and(|f| label[*f] == label[p]));
        let block = known.unwrap_or_else(|| {
            blocks.push(Vec::new());
            blocks.len() - 1
        });
        blocks[block].push(p);
        block_of[p] = block;
    }
    (blocks, block_of)
}

fn count(legs: &mut Vec<(usize, i64)>, of: usize) {
    match legs.iter_mut().find(|(x, _)| *x == of) {
        Some((_, n)) => *n += 1,
        None => legs.push((of, 1)),
    }
}

fn divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Z, however bad, must be countable: then no sum of the search can overflow.
fn check_countable(problem: &Problem) -> Result<(), Malformed> {
    let wide = <u128 as From<u64>>::from;
    let highest_cost = problem.sites.iter().map(|s| s.cost).max().unwrap_or(0);
    let vcpus: u128 = problem.members.iter().map(|m| u128::from(m.demand.vcpus)).sum();
    let access = problem.sites.iter().map(|s| s.latency_us).max().unwrap_or(0);
    let hop = problem.connections.iter().map(|c| c.latency_us).max().unwrap_or(0);
    let path = |p: &super::Path| {
        let us: u128 = wide(access.max(hop)).saturating_mul(p.legs.len() as u128);
        // The whole way, not only what is over: that is what the bounds price.
        let over = if us > wide(p.bound_us) { us } else { 0 };
        let rate = u128::from(p.penalty_per_us) * u128::from(p.weight) * 1000;
        us.saturating_mul(10).saturating_add(over.saturating_mul(rate))
    };
    let paths = problem.paths.iter().map(path).fold(0, u128::saturating_add);
    let traffic: u128 = problem.links.iter().map(|l| wide(l.traffic_kbps)).sum();
    let unused = problem.sites.len() as u128 * u128::from(problem.costs.alpha_permille) * 1000;
    let penalty = u128::from(problem.costs.shortfall_per_mbps.unwrap_or(0)) * 1000;
    let most = (vcpus * u128::from(highest_cost) * 1000)
        .saturating_add(paths)
        .saturating_add(unused)
        .saturating_add((traffic / 1000 + problem.links.len() as u128).saturating_mul(penalty));
    let countable = most <= MAX_Z && wide(access.max(hop)) <= MAX_Z && traffic <= wide(MAX_KBPS);
    countable.then_some(()).ok_or_else(|| Malformed {
        what: "problem",
        name: "costs".into(),
        problem: format!(
            "costs, latencies or traffic are too large to count: Z could be {most} thousandths, at most {MAX_Z}; \
             scale the costs and penalties down"
        ),
    })
}
