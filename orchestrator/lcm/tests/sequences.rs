//! Random sequences of operations with random faults: nothing that stands is ever forgotten.
//!
//! After every operation each object that stands is in the service's record or is named as left; a completed one leaves
//! exactly what is recorded; and in the end, a termination leaves nothing at all.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, sync::Arc};

use crate::common::*;
use crate::world::*;
use lcm::{
    NsRecord, Plan,
    operation::{Direction, FinalState, Outcome},
};
use ledger_contract::{
    IntentKind,
    intent::ScaleDirection::{ScaleIn, ScaleOut},
};
use proptest::prelude::*;
use vim::{ComputeState, ObjectKey, Observed, Spec};

#[derive(Debug, Clone, Copy)]
struct Move {
    action: u8,
    detail: u8,
    fault: Option<(u8, u8)>,
    parallel: bool,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = (0..9_u8, any::<u8>(), prop::option::weighted(0.6, (0..9_u8, any::<u8>())), any::<bool>());
    let of = |(action, detail, fault, parallel)| Move { action, detail, fault, parallel };
    prop::collection::vec(one.prop_map(of), 1..7)
}

fn action_of(m: Move, world: &mut World) -> IntentKind {
    let one = |n: u8| target("vlb", "backend", u32::from(n % 2));
    match m.action {
        0 => scale(1 + u32::from(m.detail % 2), ScaleOut),
        1 => scale(1, ScaleIn),
        2 => update("ns", other_params()),
        3 => update("ns2", deploy().vnf_params),
        4 => rollback(),
        5 => {
            // Something is killed first.
            let serves =
                |(p, s): &(&Place, &Spec)| matches!(s, Spec::Compute(_)) && !world.isolated.contains(*p);
            let computes = world.objects.iter().filter(serves);
            let all: Vec<Place> = computes.map(|(p, _)| p.clone()).collect();
            if let Some(place) = all.get(usize::from(m.detail) % all.len().max(1)) {
                world.objects.remove(place);
            }
            heal(vec![])
        }
        6 => heal(vec![one(m.detail)]),
        7 => match m.detail % 3 {
            0 => migrate(&[], &[]),
            1 => migrate(&["vlb"], &[]),
            _ => migrate(&["vfw"], &[]),
        },
        _ => isolate(
            if m.detail.is_multiple_of(2) { vec![] } else { vec![one(m.detail)] },
            u32::from(m.detail),
        ),
    }
}

fn fault_of(m: Move, plan: &Plan) -> Option<Fault> {
    let (how, step) = m.fault?;
    let step = &plan.steps[usize::from(step) % plan.steps.len()];
    let how = match how {
        0 => How::Transient,
        1 => How::LostReply,
        2 if step.action.name() == "attest" => How::Contraindicated,
        2 | 3 => How::AsksForAPerson,
        _ if step.forward_only() => How::Long,
        4 => How::PersistentHardUndo,
        5 => How::PersistentAfterEffect,
        6 => How::PersistentLongUndo,
        7 => How::PersistentNoUndo,
        _ => How::Persistent,
    };
    Some(Fault { step: step.id, how })
}

/// The sites as they are, not as they are recorded.
fn looking_at(world: &World, catalogue: lcm::planner::Catalogue) -> Setup {
    let mut setup = Setup { catalogue, ..Setup::joined() };
    for site in &mut setup.sites {
        let here = world.objects.iter().filter(|((s, _), _)| *s == site.name);
        let found = here.map(|((s, k), spec)| {
            let mut o = observed(spec);
            if let Observed::Compute(c) = &mut o
                && world.isolated.contains(&(s.clone(), k.clone()))
            {
                c.state = ComputeState::Isolated;
            }
            (ObjectKey::new(k.clone()).unwrap(), o)
        });
        site.inventory.objects = found.collect();
    }
    setup
}

struct Told {
    outcome: Outcome,
    isolates: bool,
    record: Option<NsRecord>,
    world: World,
}

fn carry_out(plan: Plan, world: &World, m: Option<Move>) -> Told {
    let plan = Arc::new(plan);
    let fault = m.and_then(|m| fault_of(m, &plan));
    let mut runner = Runner::new(&plan, fault, if m.is_some_and(|m| m.parallel) { 4 } else { 1 });
    runner.world = world.later();
    runner.directions.push_back(Direction::Fail);
    let operation = runner.run(&m.map(|m| usize::from(m.detail) % 40).into_iter().collect::<Vec<_>>());
    let outcome = operation.outcome.clone().unwrap();
    let record = operation.record();
    let wanted: BTreeMap<Place, Spec> = record.iter().flat_map(objects_of).collect();
    let standing: BTreeMap<Place, Spec> = record.iter().flat_map(standing_of).collect();
    for place in runner.world.objects.keys() {
        let (site, key) = place;
        let named = outcome.leftovers.iter().any(|l| l == key || *l == format!("{key}@{site}"));
        assert!(
            standing.contains_key(place) || named,
            "{} {fault:?} {outcome:?}: {place:?} stands, is not recorded and is not named",
            plan.action
        );
    }
    if outcome.state == FinalState::Completed && plan.action != "isolate" {
        assert!(
            standing == wanted && runner.world.objects == wanted,
            "{} {fault:?}: not as recorded",
            plan.action
        );
    }
    Told { isolates: plan.action == "isolate", outcome, record, world: runner.world }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_stands_is_ever_forgotten(moves in moves()) {
        let first = Setup::joined().plan(IntentKind::Deploy(Box::new(deploy())), None).unwrap();
        let mut now = carry_out(first, &World::default(), None);
        let mut limited = false;
        for m in moves {
            let Some(record) = now.record.clone() else { break };
            let mut world = now.world.later();
            let action = action_of(m, &mut world);
            // As the ledger has it: what failed or is isolated can be healed, isolated and terminated.
            limited = match now.outcome.state {
                FinalState::Completed => now.isolates,
                FinalState::Failed => true,
                FinalState::RolledBack => limited || now.outcome.isolated,
            };
            if limited && !matches!(action, IntentKind::Heal(_) | IntentKind::Isolate(_)) {
                continue;
            }
            let newer = match &action {
                IntentKind::Update(u) => u.nsd_package == trust::Digest::of("ns2"),
                IntentKind::Rollback(_) => false,
                _ => record.deploy.nsd_package == trust::Digest::of("ns2"),
            };
            let setup = looking_at(&world, if newer { next_version() } else { catalogue() });
            match setup.plan(action, Some(&record)) {
                Ok(plan) if !plan.steps.is_empty() => now = carry_out(plan, &world, Some(m)),
                _ => now.world = world,
            }
        }
        if let Some(record) = &now.record {
            let end = looking_at(&now.world, catalogue()).plan(IntentKind::Terminate {}, Some(record)).unwrap();
            if !end.steps.is_empty() {
                let last = carry_out(end, &now.world, None);
                prop_assert_eq!(last.outcome.state, FinalState::Completed);
                prop_assert!(last.world.objects.is_empty(), "{:?}", last.world.objects.keys());
            }
        }
    }
}
