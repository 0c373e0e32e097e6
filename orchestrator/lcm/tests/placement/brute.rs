//! Every assignment, one after the other.
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;

use lcm::placement::{Leg, Member, Problem};

type Assignment = BTreeMap<String, String>;

fn five(a: lcm::placement::Amounts) -> [i128; 5] {
    [a.vcpus, a.memory_mib, a.instances, a.vfs, a.bandwidth_kbps].map(i128::from)
}

/// What affinity keeps together with this member, itself included.
pub fn bound_to(problem: &Problem, member: &str) -> Vec<String> {
    let mut all = vec![member.to_owned()];
    loop {
        let before = all.len();
        for group in &problem.affinity {
            if group.members.iter().any(|m| all.contains(m)) {
                let new: Vec<_> = group.members.iter().filter(|m| !all.contains(m)).cloned().collect();
                all.extend(new);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

/// The problem of some members.
pub fn only(problem: &Problem, names: &[String]) -> Problem {
    let mut it = problem.clone();
    it.members.retain(|m| names.contains(&m.name));
    it.links.retain(|l| names.contains(&l.a) && names.contains(&l.b));
    it.paths.clear();
    for group in it.affinity.iter_mut().chain(&mut it.anti_affinity) {
        group.members.retain(|m| names.contains(m));
    }
    it.exclusions.retain(|x| x.member.as_ref().is_none_or(|m| names.contains(m)));
    it
}

/// The least Z of all assignments.
pub fn least(problem: &Problem) -> Option<i128> {
    let sites = problem.sites.len();
    let count = problem.members.iter().fold(1, |count: usize, _| count * sites);
    let nth = |mut n: usize| -> Assignment {
        let mut next = |m: &Member| {
            let site = problem.sites[n % sites].name.clone();
            n /= sites;
            (m.name.clone(), site)
        };
        problem.members.iter().map(&mut next).collect()
    };
    (0..count).filter_map(|n| z(problem, &nth(n))).min()
}

/// Z of an assignment, or that it breaks a rule.
pub fn z(problem: &Problem, at: &Assignment) -> Option<i128> {
    let allowed = problem.members.iter().all(|m| member_allowed(problem, m, &at[&m.name]));
    (allowed && groups_hold(problem, at)).then_some(())?;
    Some(
        members_cost(problem, at)
            + paths_cost(problem, at)?
            + traffic_cost(problem, at)?
            + unused_cost(problem, at)?,
    )
}

fn site<'a>(problem: &'a Problem, name: &str) -> &'a lcm::placement::Candidate {
    problem.sites.iter().find(|s| s.name == name).expect("a site of the problem")
}

fn member_allowed(problem: &Problem, m: &Member, name: &str) -> bool {
    if let Some(pinned) = &m.pinned {
        return pinned == name;
    }
    let (s, r) = (site(problem, name), &m.rules);
    let excluded =
        problem.exclusions.iter().any(|x| x.site == name && x.member.as_ref().is_none_or(|x| *x == m.name));
    s.problem.is_none()
        && s.drained.is_none()
        && !excluded
        && (r.sites.is_empty() || r.sites.iter().any(|x| x == name))
        && (r.jurisdictions.is_empty() || r.jurisdictions.contains(&s.jurisdiction))
        && !(r.sovereign && r.jurisdictions.is_empty())
        && r.max_latency_us.is_none_or(|max| s.latency_us <= max)
        && !(r.attestation && s.no_attestation.is_some())
        && !(r.tee && s.no_tee.is_some())
}

fn groups_hold(problem: &Problem, at: &Assignment) -> bool {
    let sites = |members: &[String]| {
        let mut names: Vec<String> = members.to_vec();
        names.sort();
        names.dedup();
        let sites: std::collections::BTreeSet<&String> = names.iter().map(|m| &at[m]).collect();
        (sites.len(), names.len())
    };
    problem.affinity.iter().all(|g| sites(&g.members).0 <= 1)
        && problem.anti_affinity.iter().all(|g| {
            let (sites, names) = sites(&g.members);
            sites == names
        })
}

fn members_cost(problem: &Problem, at: &Assignment) -> i128 {
    let cost = |m: &Member| i128::from(m.demand.vcpus) * i128::from(site(problem, &at[&m.name]).cost);
    problem.members.iter().map(cost).sum::<i128>() * 1000
}

fn hop(problem: &Problem, a: &str, b: &str) -> Option<(i128, Option<u64>)> {
    if a == b {
        return Some((0, None));
    }
    let c = problem.connections.iter().find(|c| (c.a == a && c.b == b) || (c.a == b && c.b == a))?;
    Some((c.latency_us.into(), c.bandwidth_kbps))
}

fn paths_cost(problem: &Problem, at: &Assignment) -> Option<i128> {
    for l in &problem.links {
        hop(problem, &at[&l.a], &at[&l.b])?;
    }
    let mut sum = 0;
    for path in &problem.paths {
        let mut us = 0;
        for leg in &path.legs {
            us += match leg {
                Leg::Access(m) => i128::from(site(problem, &at[m]).latency_us),
                Leg::Link(name) => {
                    let l = problem.links.iter().find(|l| l.name == *name)?;
                    hop(problem, &at[&l.a], &at[&l.b])?.0
                }
            };
        }
        let over = (us - i128::from(path.bound_us)).max(0);
        sum += us * 10 + over * i128::from(path.penalty_per_us) * i128::from(path.weight) * 1000;
    }
    Some(sum)
}

fn traffic_cost(problem: &Problem, at: &Assignment) -> Option<i128> {
    let mut sum = 0;
    for c in &problem.connections {
        let crosses = |l: &&lcm::placement::Link| {
            let (a, b) = (&at[&l.a], &at[&l.b]);
            (*a == c.a && *b == c.b) || (*a == c.b && *b == c.a)
        };
        let load: u64 = problem.links.iter().filter(crosses).map(|l| l.traffic_kbps).sum();
        let over = load.saturating_sub(c.bandwidth_kbps.unwrap_or(u64::MAX));
        if over > 0 {
            sum += i128::from(over.div_ceil(1000)) * i128::from(problem.costs.shortfall_per_mbps?) * 1000;
        }
    }
    Some(sum)
}

/// Also whether everything fits.
fn unused_cost(problem: &Problem, at: &Assignment) -> Option<i128> {
    let asked: Vec<usize> =
        (0..5).filter(|d| problem.members.iter().any(|m| five(m.demand)[*d] > 0)).collect();
    let alpha = i128::from(problem.costs.alpha_permille);
    let mut sum = 0;
    for s in &problem.sites {
        let (total, free) = (five(s.total), five(s.free));
        let mean = |amounts: [i128; 5]| {
            let share = |d: &usize| match total[*d].max(free[*d]) {
                0 => 0,
                all => amounts[*d] * 1_000_000 / all,
            };
            asked.iter().map(share).sum::<i128>() / (asked.len() as i128).max(1) * alpha / 1000
        };
        let here: Vec<&Member> = problem.members.iter().filter(|m| at[&m.name] == s.name).collect();
        if here.is_empty() {
            continue;
        }
        let mut left = free;
        let mut allowed = s.quota.map_or([i128::MAX; 5], five);
        sum += mean(free);
        for m in here {
            let held = m.held.iter().find(|h| h.site == s.name).map_or([0; 5], |h| five(h.amounts));
            let need: [i128; 5] = std::array::from_fn(|d| (five(m.demand)[d] - held[d]).max(0));
            sum -= mean(need);
            (0..5).for_each(|d| left[d] -= need[d]);
            (0..5).for_each(|d| allowed[d] = allowed[d].saturating_sub(need[d]));
        }
        if left.iter().chain(&allowed).any(|l| *l < 0) {
            return None;
        }
    }
    Some(sum)
}
