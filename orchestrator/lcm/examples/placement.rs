//! Measures placement: `cargo run --release -p lcm --example placement -- [FAMILY] [SEEDS]`.
//!
//! Families are made to be hard: equal costs, tight capacity, anti-affinity, SLAs that cannot all be kept. For each the
//! worst and the median of the time, the nodes and the gap are printed; with a seed's number in place of SEEDS written
//! as `=N` only that one is solved (for `perf stat`).

use std::time::Instant;

use lcm::placement::{
    Amounts, Budget, Candidate, Connection, Costs, Group, Leg, Link, Member, Path, PlacementError, Problem,
    solve,
};

/// SplitMix64: the same problems everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.next() % u64::from(n.max(1))).unwrap_or(0)
    }

    fn from(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }
}

/// What makes a family hard.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    members: u32,
    sites: u32,
    /// vCPUs of a member, from and to.
    vcpus: (u32, u32),
    /// Free vCPUs of a site.
    room: (u32, u32),
    cost: (u32, u32),
    access_us: (u32, u32),
    hop_us: (u32, u32),
    /// Links beyond the chain.
    extra_links: u32,
    /// End-to-end bounds: µs and penalty.
    bound_us: u32,
    penalty: u32,
    /// Members in each anti-affinity group, and how many groups.
    apart: (u32, u32),
    alpha_permille: u32,
    /// Free bandwidth of connections, Mbit/s; 0: as much as one likes.
    mbps: u32,
    shortfall: Option<u32>,
}

const BASE: Family = Family {
    name: "",
    members: 8,
    sites: 8,
    vcpus: (2, 8),
    room: (8, 16),
    cost: (1, 9),
    access_us: (100, 2000),
    hop_us: (50, 3000),
    extra_links: 3,
    bound_us: 3000,
    penalty: 1,
    apart: (0, 0),
    alpha_permille: 100,
    mbps: 0,
    shortfall: None,
};

fn families() -> Vec<Family> {
    vec![
        Family { name: "mixed", ..BASE },
        Family { name: "equal costs", cost: (5, 5), access_us: (500, 500), hop_us: (400, 400), ..BASE },
        Family { name: "equal, tight", cost: (5, 5), vcpus: (4, 7), room: (7, 10), ..BASE },
        Family { name: "tight", vcpus: (3, 8), room: (6, 9), ..BASE },
        Family { name: "packing", vcpus: (3, 6), room: (5, 6), extra_links: 0, penalty: 0, ..BASE },
        Family { name: "apart, all", apart: (8, 1), ..BASE },
        Family { name: "apart, all, equal", apart: (8, 1), cost: (5, 5), access_us: (500, 500), ..BASE },
        Family {
            name: "apart, dense, equal",
            apart: (8, 1),
            cost: (5, 5),
            access_us: (500, 500),
            extra_links: 20,
            penalty: 0,
            ..BASE
        },
        Family { name: "apart, pairs", apart: (2, 6), ..BASE },
        Family { name: "apart, threes, dense", apart: (3, 4), extra_links: 12, ..BASE },
        Family { name: "dense links", extra_links: 20, bound_us: 1000, ..BASE },
        Family { name: "dense, tight", extra_links: 20, room: (7, 10), bound_us: 1000, penalty: 3, ..BASE },
        Family { name: "SLA, steep", penalty: 50, bound_us: 1500, hop_us: (500, 700), room: (7, 12), ..BASE },
        Family { name: "SLA, near", penalty: 2, bound_us: 4000, hop_us: (300, 900), room: (7, 12), ..BASE },
        Family {
            name: "unused only",
            cost: (0, 0),
            alpha_permille: 1000,
            penalty: 0,
            extra_links: 0,
            ..BASE
        },
        Family {
            name: "unused, tight",
            cost: (0, 0),
            alpha_permille: 1000,
            room: (7, 12),
            penalty: 0,
            extra_links: 0,
            ..BASE
        },
        Family { name: "bandwidth", mbps: 30, room: (7, 12), extra_links: 8, ..BASE },
        Family {
            name: "bandwidth, soft",
            mbps: 20,
            shortfall: Some(7),
            room: (7, 12),
            extra_links: 8,
            ..BASE
        },
        Family { name: "too small", vcpus: (5, 8), room: (5, 8), ..BASE },
    ]
}

fn sized(n: u32) -> Vec<Family> {
    let pick = [
        "mixed",
        "equal, tight",
        "apart, pairs",
        "dense links",
        "SLA, near",
        "unused, tight",
        "bandwidth, soft",
    ];
    let all = families().into_iter().filter(|f| pick.contains(&f.name));
    all.map(|f| Family { members: n, sites: n, extra_links: f.extra_links * n / 8, ..f }).collect()
}

fn problem(f: &Family, seed: u64) -> Problem {
    let mut r = Random(seed.wrapping_mul(0x0123_4567_89ab_cdef) ^ u64::from(f.members));
    let member = |i: u32| format!("m{i:02}");
    let site = |i: u32| format!("s{i:02}");
    let mut it = Problem {
        costs: Costs { alpha_permille: f.alpha_permille, shortfall_per_mbps: f.shortfall },
        ..Problem::default()
    };
    for i in 0..f.members {
        let vcpus = r.from(f.vcpus.0, f.vcpus.1);
        let demand =
            Amounts { vcpus, memory_mib: vcpus * r.from(512, 1536), instances: 1, ..Amounts::default() };
        it.members.push(Member { name: member(i), demand, ..Member::default() });
    }
    for i in 0..f.sites {
        let vcpus = r.from(f.room.0, f.room.1);
        let free = Amounts { vcpus, memory_mib: vcpus * 1200, instances: 8, ..Amounts::default() };
        let total = Amounts { vcpus: 16, memory_mib: 16 * 1200, instances: 16, ..free };
        let (cost, latency_us) = (r.from(f.cost.0, f.cost.1), r.from(f.access_us.0, f.access_us.1).into());
        it.sites.push(Candidate { name: site(i), cost, latency_us, total, free, ..Candidate::default() });
    }
    for a in 0..f.sites {
        for b in a + 1..f.sites {
            let bandwidth_kbps = (f.mbps > 0).then(|| u64::from(r.from(f.mbps / 2, f.mbps * 2)) * 1000);
            let latency_us = r.from(f.hop_us.0, f.hop_us.1).into();
            it.connections.push(Connection { a: site(a), b: site(b), latency_us, bandwidth_kbps });
        }
    }
    let chain = (1..f.members).map(|i| (i - 1, i)).collect::<Vec<_>>();
    let extra: Vec<_> = (0..f.extra_links).map(|_| (r.below(f.members), r.below(f.members))).collect();
    for (i, (a, b)) in chain.into_iter().chain(extra).enumerate() {
        let traffic_kbps = u64::from(r.from(5, 20)) * 1000;
        it.links.push(Link { name: format!("l{i:03}"), a: member(a), b: member(b), traffic_kbps });
    }
    paths(f, &mut it);
    for g in 0..f.apart.1 {
        let members = match f.apart.0 == f.members {
            true => (0..f.members).map(member).collect(),
            false => (0..f.apart.0).map(|_| member(r.below(f.members))).collect(),
        };
        it.anti_affinity.push(Group { name: format!("g{g}"), members });
    }
    it
}

/// The chain there and back, in pieces of eight, and each other link by itself.
fn paths(f: &Family, it: &mut Problem) {
    let name = |l: &Link| Leg::Link(l.name.clone());
    let chain = usize::try_from(f.members - 1).unwrap_or(0);
    for (i, piece) in it.links[..chain].chunks(8).enumerate() {
        let mut legs = vec![Leg::Access(piece[0].a.clone())];
        legs.extend(piece.iter().map(name));
        let bound_us = f.bound_us.into();
        it.paths.push(Path {
            name: format!("chain{i}"),
            legs,
            bound_us,
            penalty_per_us: f.penalty,
            weight: 2,
        });
    }
    for l in &it.links[chain..] {
        let bound_us = u64::from(f.bound_us) / 4;
        let legs = vec![name(l)];
        it.paths.push(Path { name: l.name.clone(), legs, bound_us, penalty_per_us: f.penalty, weight: 1 });
    }
}

struct Measured {
    us: u128,
    nodes: u64,
    gap: u32,
    seed: u64,
}

fn measure(f: &Family, seeds: impl Iterator<Item = u64>) {
    let (mut all, mut refused, mut open, mut refused_us) = (Vec::new(), 0, 0, 0);
    for seed in seeds {
        let problem = problem(f, seed);
        let start = Instant::now();
        let answer = solve(&problem, Budget::default());
        let us = start.elapsed().as_micros();
        match answer {
            Ok(a) => all.push(Measured { us, nodes: a.nodes, gap: a.gap_permille, seed }),
            Err(PlacementError::Unplaceable(_)) => {
                refused += 1;
                refused_us = refused_us.max(us);
            }
            Err(_) => open += 1,
        }
    }
    all.sort_by_key(|m| m.us);
    let Some(worst) = all.last() else {
        println!("{:24} none placed, {refused} refused in at most {refused_us} us, {open} undecided", f.name);
        return;
    };
    let most = all.iter().map(|m| m.nodes).max().unwrap_or(0);
    let gaps = all.iter().filter(|m| m.gap > 0).count();
    let widest = all.iter().map(|m| m.gap).max().unwrap_or(0);
    println!(
        "{:24} worst {:>9} us (seed {:>3}), median {:>8} us; most nodes {:>7}; {:>3} not optimal, gap <= {:>4} per mille; \
         {:>3} refused (<= {} us), {} undecided",
        f.name,
        worst.us,
        worst.seed,
        all[all.len() / 2].us,
        most,
        gaps,
        widest,
        refused,
        refused_us,
        open
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_else(|| "8".into());
    let seeds = arguments.next().unwrap_or_else(|| "200".into());
    let families = match which.parse() {
        Ok(8) => families(),
        Ok(n) => sized(n),
        Err(_) => families().into_iter().filter(|f| f.name == which).collect(),
    };
    for family in families {
        match seeds.strip_prefix('=') {
            Some(one) => measure(&family, one.parse().into_iter()),
            None => measure(&family, 0..seeds.parse().unwrap_or(200)),
        }
    }
}
