//! Placement: equal to brute force, monotone, and named cases with every number worked out by hand.
//!
//! The brute force in `brute.rs` shares no code with the product: it tries every assignment and adds Z up from the
//! problem as its documentation says.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod brute;
mod cases;
mod generate;
mod monotone;

use lcm::placement::{Budget, Cause, PlacementError, Problem, solve};
use proptest::prelude::*;

/// The search must be as good as trying everything, say so, and add up.
fn agrees(problem: &Problem) -> Result<bool, TestCaseError> {
    let least = brute::least(problem);
    match (solve(problem, Budget::default()), least) {
        (Ok(answer), Some(z)) => {
            prop_assert_eq!(i128::from(answer.z.0), z, "{:?}", answer.assignment);
            prop_assert_eq!(answer.parts.total(), answer.z);
            prop_assert_eq!(brute::z(problem, &answer.assignment), Some(z));
            prop_assert!(answer.optimal && answer.lower_bound == answer.z && answer.gap_permille == 0);
            let elsewhere = problem.members.len() * (problem.sites.len().max(1) - 1);
            prop_assert_eq!(answer.against.len(), elsewhere);
            for a in &answer.against {
                let mut moved = answer.assignment.clone();
                for together in brute::bound_to(problem, &a.member) {
                    moved.insert(together, a.site.clone());
                }
                let there = brute::z(problem, &moved);
                prop_assert_eq!(a.worse_by.map(|w| i128::from(w.0) + z), there, "{:?}", a);
            }
            Ok(true)
        }
        (Err(PlacementError::Unplaceable(why)), None) => {
            if let Cause::Joint { members, .. } = &why.cause {
                prop_assert!(brute::least(&brute::only(problem, members)).is_none());
                for left_out in members {
                    let rest: Vec<_> = members.iter().filter(|m| *m != left_out).cloned().collect();
                    prop_assert!(brute::least(&brute::only(problem, &rest)).is_some(), "{:?}", members);
                }
            }
            Ok(false)
        }
        (got, least) => Err(TestCaseError::fail(format!("{got:?}, brute force {least:?}"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn equal_to_brute_force(problem in generate::problem(5, 4)) {
        agrees(&problem)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A budget that is too small: the answer is possible, and the bound is one.
    #[test]
    fn a_small_budget_gives_a_bound(problem in generate::problem(5, 4), nodes in 0u64..6) {
        match (solve(&problem, Budget::nodes(nodes)), brute::least(&problem)) {
            (Ok(answer), Some(z)) => {
                let (found, bound) = (i128::from(answer.z.0), i128::from(answer.lower_bound.0));
                prop_assert_eq!(brute::z(&problem, &answer.assignment), Some(found));
                prop_assert!(bound <= z && z <= found, "{bound} {z} {found}");
                prop_assert!(!answer.optimal || z == found);
                prop_assert!(answer.nodes <= nodes);
                prop_assert!(i128::from(answer.gap_permille) * found >= (found - bound) * 1000);
            }
            (Err(_), None) => {}
            (Err(PlacementError::Undecided { .. }), Some(_)) => {}
            (got, least) => prop_assert!(false, "{got:?}, brute force {least:?}"),
        }
    }
}

/// The generator reaches what it is for: both outcomes, and every kind of reason.
#[test]
fn the_generator_reaches_every_reason() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut placed, mut refused) = (0, 0);
    let mut codes = std::collections::BTreeSet::new();
    for _ in 0..3000 {
        let problem = generate::problem(5, 4).new_tree(&mut runner).unwrap().current();
        match solve(&problem, Budget::default()) {
            Ok(answer) => {
                placed += 1;
                codes.extend(answer.against.iter().map(|a| a.code));
            }
            Err(PlacementError::Unplaceable(why)) => {
                refused += 1;
                codes.extend(why.against.iter().map(|a| a.code));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(placed > 1000 && refused > 300, "{placed} placed, {refused} refused");
    assert_eq!(codes.len(), 22, "{codes:?}");
}
