use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const FAST: Rate = Rate { per_minute: 60_000, burst: 1000 };

fn waiting(position: u64, tenant: &str, ns: &str) -> Waiting {
    Waiting {
        id: format!("op-{position}"),
        intent_id: format!("intent-{position}"),
        tenant: tenant.into(),
        ns: ns.into(),
        class: Class::Ordinary,
        position,
        depends_on: Vec::new(),
        overtakes: None,
        gives_way_to: None,
    }
}

fn completed(_: &str) -> Parent {
    Parent::Completed
}

fn begun(schedule: &mut Schedule, now_ms: u64) -> Vec<u64> {
    let mut out = Vec::new();
    while let Next::Begin(w) = schedule.next(now_ms, true, &completed) {
        out.push(w.position);
    }
    out
}

#[test]
fn tenants_take_turns() {
    let mut schedule = Schedule::new(FAST);
    for n in 0..100 {
        schedule.push(waiting(n, "many", &format!("ns-{n}")), 0, &completed);
    }
    schedule.push(waiting(100, "few", "ns-100"), 0, &completed);
    schedule.push(waiting(101, "few", "ns-101"), 0, &completed);
    let order = begun(&mut schedule, 0);
    assert!(order[..4].contains(&100) && order[..4].contains(&101), "{:?}", &order[..6]);
    assert_eq!(order.len(), 102);
}

#[test]
fn one_operation_of_a_service_at_a_time_in_the_ledgers_order() {
    let mut schedule = Schedule::new(FAST);
    for n in [3, 1, 2] {
        schedule.push(waiting(n, "t", "ns"), 0, &completed);
    }
    for n in 1..=3 {
        assert_eq!(begun(&mut schedule, 0), [n]);
        schedule.ended("t", "ns", &format!("intent-{n}"), &completed);
    }
    assert_eq!(schedule.next(0, true, &completed), Next::Idle);
}

#[test]
fn urgent_ones_go_first_and_are_not_rate_limited() {
    let mut schedule = Schedule::new(Rate { per_minute: 60, burst: 1 });
    for n in 0..3 {
        schedule.push(waiting(n, "t", &format!("ns-{n}")), 0, &completed);
    }
    assert_eq!(begun(&mut schedule, 0), [0]);
    schedule.push(Waiting { class: Class::Urgent, ..waiting(9, "t", "ns-9") }, 0, &completed);
    assert_eq!(begun(&mut schedule, 0), [9]);
    assert_eq!(schedule.next(0, true, &completed), Next::Wait(1000));
    assert_eq!(begun(&mut schedule, 999), Vec::<u64>::new());
    assert_eq!(begun(&mut schedule, 1000), [1]);
    assert_eq!(begun(&mut schedule, 2000), [2]);
}

#[test]
fn a_child_begins_in_the_round_after_its_parent_or_is_refused() {
    for outcome in [Parent::Completed, Parent::NotCompleted] {
        let mut schedule = Schedule::new(FAST);
        schedule.push(waiting(1, "t", "parent"), 0, &|_| Parent::Open);
        let child = Waiting { depends_on: vec!["intent-1".into()], ..waiting(2, "t", "child") };
        schedule.push(child.clone(), 0, &|_| Parent::Open);
        assert!(matches!(schedule.next(0, true, &|_| Parent::Open), Next::Begin(w) if w.position == 1));
        assert_eq!(schedule.next(0, true, &|_| Parent::Open), Next::Idle);
        schedule.ended("t", "parent", "intent-1", &|_| outcome);
        let expected = match outcome {
            Parent::Completed => Next::Begin(child),
            _ => Next::Refuse(child, Why::Dependency("intent-1".into())),
        };
        assert_eq!(schedule.next(0, true, &|_| outcome), expected);
        assert_eq!(schedule.len(), 0);
    }
}

/// Whatever it waits for: its turn, its tenant's rate, another operation.
#[test]
fn what_cuts_off_or_ends_waits_for_nothing_that_has_not_begun() {
    let mut schedule = Schedule::new(Rate { per_minute: 1, burst: 1 });
    schedule.push(waiting(0, "t", "ns-0"), 0, &completed);
    assert_eq!(begun(&mut schedule, 0), [0]);
    schedule.push(waiting(1, "t", "over-its-rate"), 0, &completed);
    let waits = Waiting { depends_on: vec!["intent-0".into()], ..waiting(2, "t", "waits") };
    schedule.push(waits, 0, &|_| Parent::Open);
    assert_eq!(schedule.next(0, true, &|_| Parent::Open), Next::Wait(60_000));
    let cut =
        |n, ns: &str| Waiting { class: Class::Urgent, overtakes: Some("isolate"), ..waiting(n, "t", ns) };
    // One that depends on what is before it waits for that.
    let patient = Waiting { depends_on: vec!["intent-1".into()], ..cut(3, "over-its-rate") };
    schedule.push(patient, 0, &|_| Parent::Open);
    assert_eq!(schedule.next(0, true, &|_| Parent::Open), Next::Wait(60_000));
    for (n, ns) in [(4, "over-its-rate"), (5, "waits")] {
        schedule.push(cut(n, ns), 0, &|_| Parent::Open);
        let Next::Refuse(w, why) = schedule.next(0, true, &|_| Parent::Open) else { panic!("{ns}") };
        assert_eq!((w.ns.as_str(), why), (ns, Why::GivesWay(format!("intent-{n}"))));
        schedule.ended("t", ns, &w.intent_id, &|_| Parent::NotCompleted);
    }
    assert!(
        matches!(schedule.next(0, true, &|_| Parent::NotCompleted), Next::Refuse(w, _) if w.position == 3)
    );
    assert!(matches!(schedule.next(0, true, &|_| Parent::NotCompleted), Next::Begin(w) if w.position == 5));
}

#[test]
fn a_burst_of_ten_thousand_is_fair_and_complete() {
    let mut schedule = Schedule::new(FAST);
    for n in 0..10_000_u64 {
        let tenant = if n % 10 == 0 { format!("small-{}", n % 100 / 10) } else { "big".to_owned() };
        schedule.push(waiting(n, &tenant, &format!("{tenant}-{}", n % 1000)), 0, &completed);
    }
    let (mut running, mut seen) = (VecDeque::new(), BTreeMap::<String, u64>::new());
    let mut finished_small = 0;
    for round in 0..10_000_u64 {
        while running.len() < 8
            && let Next::Begin(w) = schedule.next(round * 10, true, &completed)
        {
            let last = seen.insert(w.ns.clone(), w.position);
            assert!(last.is_none_or(|l| l < w.position), "{} out of order", w.ns);
            running.push_back(w);
        }
        let w = running.pop_front().unwrap();
        finished_small += u64::from(w.tenant != "big");
        if finished_small == 1000 {
            // Ten small tenants and one big one: by the time the small ones are through, the big one had its turns.
            assert!(round < 1400, "round {round}");
            finished_small = u64::MAX / 2;
        }
        schedule.ended(&w.tenant, &w.ns, &w.intent_id, &completed);
    }
    assert_eq!((schedule.len(), running.len()), (0, 0));
}

proptest! {
    /// Whatever comes in whatever order: each begins exactly once, alone on its service, in order, parents first.
    #[test]
    fn nothing_is_lost_doubled_or_reordered(
        ops in prop::collection::vec((0..4_u8, 0..3_u8, 0..4_u8, prop::option::of(0..40_usize)), 1..40),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 80),
        fail in 0..5_usize,
    ) {
        let mut schedule = Schedule::new(Rate { per_minute: 6000, burst: 3 });
        let mut over = BTreeMap::<String, bool>::new();
        let all: Vec<Waiting> = ops.iter().enumerate().map(|(n, (tenant, ns, class, parent))| {
            let overtakes = (*class == 3).then_some("isolate");
            let class = [Class::Urgent, Class::Repair, Class::Ordinary, Class::Urgent][usize::from(*class)];
            let depends_on = parent.filter(|p| *p < n).map(|p| format!("intent-{p}")).into_iter().collect();
            Waiting { class, depends_on, overtakes, ..waiting(n as u64, &format!("t{tenant}"), &format!("t{tenant}/{ns}")) }
        }).collect();
        let status = |over: &BTreeMap<String, bool>, i: &str| match over.get(i) {
            None => Parent::Open, Some(true) => Parent::Completed, Some(false) => Parent::NotCompleted,
        };
        for w in &all {
            schedule.push(w.clone(), 0, &|i| status(&over, i));
        }
        let (mut running, mut begun, mut busy) = (Vec::<Waiting>::new(), Vec::new(), BTreeSet::new());
        let mut now = 0;
        for end in ends.iter().cycle().take(400) {
            loop {
                match schedule.next(now, true, &|i| status(&over, i)) {
                    Next::Begin(w) => {
                        prop_assert!(w.depends_on.iter().all(|d| over.get(d) == Some(&true)));
                        prop_assert!(busy.insert(w.ns.clone()), "two at once on {}", w.ns);
                        running.push(w);
                    }
                    Next::Refuse(w, Why::Dependency(parent)) => {
                        prop_assert_eq!(over.get(&parent), Some(&false));
                        prop_assert!(busy.insert(w.ns.clone()));
                        running.push(w);
                    }
                    Next::Refuse(w, Why::GivesWay(to)) => {
                        let to = all.iter().find(|o| o.intent_id == to).unwrap();
                        prop_assert!(to.ns == w.ns && to.position > w.position && to.goes_before(&w.intent_id));
                        prop_assert!(w.overtakes.is_none());
                        prop_assert!(busy.insert(w.ns.clone()));
                        running.push(w);
                    }
                    Next::Wait(until) => { prop_assert!(until > now); now = until; }
                    Next::Idle => break,
                }
            }
            if running.is_empty() { break; }
            let w = running.remove(end.index(running.len()));
            begun.push((w.ns.clone(), w.position));
            busy.remove(&w.ns);
            over.insert(w.intent_id.clone(), begun.len() % 5 != fail);
            schedule.ended(&w.tenant, &w.ns, &w.intent_id, &|i| status(&over, i));
        }
        prop_assert_eq!(schedule.len(), 0);
        let ids: BTreeSet<u64> = begun.iter().map(|b| b.1).collect();
        prop_assert_eq!((begun.len(), ids.len()), (all.len(), all.len()));
        let mut last = BTreeMap::new();
        for (ns, position) in begun {
            prop_assert!(last.insert(ns, position).is_none_or(|l| l < position));
        }
    }
}
