//! More room for choice never costs more.

use lcm::placement::{Budget, Problem, solve};
use proptest::prelude::*;

use super::generate;

fn z(problem: &Problem) -> Option<i64> {
    solve(problem, Budget::default()).ok().map(|a| a.z.0)
}

fn no_dearer(problem: &Problem, freer: &Problem, what: &str) -> Result<(), TestCaseError> {
    if let Some(before) = z(problem) {
        let after = z(freer);
        prop_assert!(after.is_some_and(|a| a <= before), "{}: {:?} against {}", what, after, before);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Taking a site away is adding it, read backwards.
    #[test]
    fn adding_a_site_never_raises_z(problem in generate::problem(5, 4)) {
        for i in 0..problem.sites.len() {
            let mut fewer = problem.clone();
            let gone = fewer.sites.remove(i).name;
            fewer.connections.retain(|c| c.a != gone && c.b != gone);
            // Whoever stays there is not part of the question.
            if fewer.members.iter().all(|m| m.pinned.as_ref() != Some(&gone)) {
                no_dearer(&fewer, &problem, &format!("site {gone}"))?;
            }
        }
    }

    #[test]
    fn removing_a_constraint_never_raises_z(problem in generate::problem(4, 4)) {
        type Change = fn(&mut Problem);
        let changes: [(&str, Change); 16] = [
            ("affinity", |p| p.affinity.clear()),
            ("anti-affinity", |p| p.anti_affinity.clear()),
            ("exclusions", |p| p.exclusions.clear()),
            ("sites", |p| p.members.iter_mut().for_each(|m| m.rules.sites.clear())),
            ("jurisdictions", |p| p.members.iter_mut().for_each(|m| {
                m.rules.jurisdictions.clear();
                m.rules.sovereign = false;
            })),
            ("latency", |p| p.members.iter_mut().for_each(|m| m.rules.max_latency_us = None)),
            ("attestation", |p| p.members.iter_mut().for_each(|m| m.rules.attestation = false)),
            ("tee", |p| p.members.iter_mut().for_each(|m| m.rules.tee = false)),
            ("problems", |p| p.sites.iter_mut().for_each(|s| s.problem = None)),
            ("drained", |p| p.sites.iter_mut().for_each(|s| s.drained = None)),
            ("bandwidth", |p| p.connections.iter_mut().for_each(|c| c.bandwidth_kbps = None)),
            ("links", |p| {
                p.paths.clear();
                p.links.clear();
            }),
            ("SLA", |p| p.paths.iter_mut().for_each(|x| x.penalty_per_us = 0)),
            ("bound", |p| p.paths.iter_mut().for_each(|x| x.bound_us += 500)),
            ("shortfall", |p| p.costs.shortfall_per_mbps = Some(0)),
            ("alpha", |p| p.costs.alpha_permille = 0),
        ];
        for (what, change) in changes {
            let mut freer = problem.clone();
            change(&mut freer);
            no_dearer(&problem, &freer, what)?;
        }
    }

    #[test]
    fn the_order_of_the_lists_does_not_matter(problem in generate::problem(5, 4)) {
        let mut turned = problem.clone();
        turned.members.reverse();
        turned.sites.reverse();
        turned.connections.reverse();
        let (a, b) = (solve(&problem, Budget::default()), solve(&turned, Budget::default()));
        prop_assert_eq!(a.as_ref().map(|a| &a.z).ok(), b.as_ref().map(|b| &b.z).ok());
        prop_assert_eq!(a.map(|a| a.assignment).ok(), b.map(|b| b.assignment).ok());
    }
}
