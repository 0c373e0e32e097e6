//! Random small problems with every kind of constraint.

use lcm::placement::{
    Amounts, Candidate, Connection, Costs, Exclusion, Group, Held, Leg, Link, Member, Path, Problem, Rules,
};
use proptest::{collection::vec, option::weighted, prelude::*, sample::Index};

fn amounts(max: u32) -> impl Strategy<Value = Amounts> {
    let some = move |high: u32| prop_oneof![2 => 0..=high, 1 => Just(high / 2)];
    (some(max), some(max * 512), some(max), some(max / 2), some(max * 1000)).prop_map(
        |(vcpus, memory_mib, instances, vfs, bandwidth_kbps)| Amounts {
            vcpus,
            memory_mib,
            instances,
            vfs,
            bandwidth_kbps,
        },
    )
}

fn plus(a: Amounts, b: Amounts) -> Amounts {
    Amounts {
        vcpus: a.vcpus + b.vcpus,
        memory_mib: a.memory_mib + b.memory_mib,
        instances: a.instances + b.instances,
        vfs: a.vfs + b.vfs,
        bandwidth_kbps: a.bandwidth_kbps + b.bandwidth_kbps,
    }
}

fn jurisdiction() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just("DE"), 1 => Just("FR")].prop_map(str::to_owned)
}

fn site(index: usize) -> impl Strategy<Value = Candidate> {
    let why = |p: f64| weighted(p, Just("because".to_owned()));
    let what = (jurisdiction(), prop_oneof![Just(100u64), 0u64..2000], 0u32..4);
    let room = (prop_oneof![Just(Amounts::default()), amounts(4)], amounts(24));
    let room = (room, weighted(0.2, amounts(24)));
    (what, room, why(0.03), why(0.03), why(0.3), why(0.4)).prop_map(
        move |(
            (jurisdiction, latency_us, cost),
            ((used, free), quota),
            problem,
            drained,
            no_attestation,
            no_tee,
        )| {
            Candidate {
                name: format!("s{index}"),
                jurisdiction,
                latency_us,
                cost,
                total: plus(used, free),
                free,
                quota,
                problem,
                drained,
                no_attestation,
                no_tee,
            }
        },
    )
}

fn rules(sites: usize) -> impl Strategy<Value = Rules> {
    let names = vec((0..sites).prop_map(|i| format!("s{i}")), 1..=3);
    (
        weighted(0.1, names),
        weighted(0.15, vec(jurisdiction(), 1..2)),
        proptest::bool::weighted(0.03),
        weighted(0.15, 50u64..2000),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.05),
    )
        .prop_map(|(sites, jurisdictions, sovereign, max_latency_us, attestation, tee)| Rules {
            sites: sites.unwrap_or_default(),
            jurisdictions: jurisdictions.unwrap_or_default(),
            sovereign,
            max_latency_us,
            attestation,
            tee,
        })
}

fn member(index: usize, sites: usize) -> impl Strategy<Value = Member> {
    let name_of = move |i: Index| format!("s{}", i.index(sites));
    let held = (any::<Index>(), amounts(4)).prop_map(move |(i, amounts)| Held { site: name_of(i), amounts });
    let pinned = any::<Index>().prop_map(name_of);
    (amounts(4), weighted(0.15, held), weighted(0.05, pinned), rules(sites)).prop_map(
        move |(demand, held, pinned, rules)| Member {
            name: format!("m{index}"),
            demand,
            held,
            pinned,
            rules,
        },
    )
}

fn groups(members: usize, most: usize) -> impl Strategy<Value = Vec<Group>> {
    let of = vec(any::<Index>(), 1..=3);
    vec(of, 0..=most).prop_map(move |groups| {
        let names = |g: Vec<Index>| g.into_iter().map(|i| format!("m{}", i.index(members))).collect();
        groups
            .into_iter()
            .enumerate()
            .map(|(i, g)| Group { name: format!("g{i}"), members: names(g) })
            .collect()
    })
}

fn links(members: usize) -> impl Strategy<Value = Vec<Link>> {
    let traffic = prop_oneof![Just(0u64), 1u64..5000];
    vec((any::<Index>(), any::<Index>(), traffic), 0..6).prop_map(move |links| {
        let link = |(i, (a, b, traffic_kbps)): (usize, (Index, Index, u64))| Link {
            name: format!("l{i}"),
            a: format!("m{}", a.index(members)),
            b: format!("m{}", b.index(members)),
            traffic_kbps,
        };
        links.into_iter().enumerate().map(link).collect()
    })
}

fn paths(members: usize, links: usize) -> impl Strategy<Value = Vec<Path>> {
    let leg = (any::<Index>(), any::<bool>()).prop_map(move |(i, access)| match access || links == 0 {
        true => Leg::Access(format!("m{}", i.index(members))),
        false => Leg::Link(format!("l{}", i.index(links))),
    });
    let path = (vec(leg, 0..5), 0u64..3000, 0u32..3, 0u32..3);
    vec(path, 0..4).prop_map(|paths| {
        let of = |(i, (legs, bound_us, penalty_per_us, weight))| Path {
            name: format!("p{i}"),
            legs,
            bound_us,
            penalty_per_us,
            weight,
        };
        paths.into_iter().enumerate().map(of).collect()
    })
}

fn connections(sites: usize) -> impl Strategy<Value = Vec<Connection>> {
    let pairs: Vec<(usize, usize)> = (0..sites).flat_map(|a| (a + 1..sites).map(move |b| (a, b))).collect();
    let one = weighted(0.85, (0u64..1500, weighted(0.5, 0u64..8000)));
    vec(one, pairs.len()).prop_map(move |all| {
        let there = pairs.iter().zip(all).filter_map(|(pair, c)| Some((pair, c?)));
        let of = |((a, b), (latency_us, bandwidth_kbps)): (&(usize, usize), _)| Connection {
            a: format!("s{a}"),
            b: format!("s{b}"),
            latency_us,
            bandwidth_kbps,
        };
        there.map(of).collect()
    })
}

fn costs() -> impl Strategy<Value = Costs> {
    let alpha = prop_oneof![Just(0u32), Just(10), 0u32..300];
    (alpha, weighted(0.4, 0u32..5))
        .prop_map(|(alpha_permille, shortfall_per_mbps)| Costs { alpha_permille, shortfall_per_mbps })
}

fn exclusions(members: usize, sites: usize) -> impl Strategy<Value = Vec<Exclusion>> {
    vec((any::<Index>(), weighted(0.7, any::<Index>())), 0..2).prop_map(move |all| {
        let of = |(s, m): (Index, Option<Index>)| Exclusion {
            site: format!("s{}", s.index(sites)),
            member: m.map(|m| format!("m{}", m.index(members))),
            why: "No valid host was found".into(),
        };
        all.into_iter().map(of).collect()
    })
}

/// Up to so many members and sites.
pub fn problem(members: usize, sites: usize) -> impl Strategy<Value = Problem> {
    (1..=members, 1..=sites).prop_flat_map(|(n, m)| {
        let one = (0..n).map(|i| member(i, m)).collect::<Vec<_>>();
        let places = (0..m).map(site).collect::<Vec<_>>();
        // Like members and like sites, so that symmetries are there to be cut.
        let same = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2));
        (one, places, same, links(n), groups(n, 1), groups(n, 2), connections(m), exclusions(n, m), costs())
            .prop_flat_map(
                move |(members, sites, same, links, affinity, apart, connections, exclusions, costs)| {
                    let base = Problem {
                        members,
                        links,
                        paths: Vec::new(),
                        sites,
                        connections,
                        affinity,
                        anti_affinity: apart,
                        exclusions,
                        costs,
                    };
                    let base = alike(base, same);
                    paths(n, base.links.len()).prop_map(move |paths| Problem { paths, ..base.clone() })
                },
            )
    })
}

fn alike(mut problem: Problem, (members, sites): (bool, bool)) -> Problem {
    if members {
        let first = problem.members[0].clone();
        problem.members.iter_mut().for_each(|m| *m = Member { name: m.name.clone(), ..first.clone() });
    }
    if sites {
        let first = problem.sites[0].clone();
        problem.sites.iter_mut().for_each(|s| *s = Candidate { name: s.name.clone(), ..first.clone() });
        if let Some(c) = problem.connections.first().cloned() {
            let like = |x: &mut Connection| {
                (x.latency_us, x.bandwidth_kbps) = (c.latency_us, c.bandwidth_kbps);
            };
            problem.connections.iter_mut().for_each(like);
        }
    }
    problem
}
