//! An isolation or a termination does not wait for an operation of the same service that is under way, waits for its
//! turn or for a person: that one ends first, as it stands, and what it left is cut off and removed. Evidence comes in
//! the order of the approvals, and nothing stays reserved. The same with the orchestrator dying at every moment.

use std::{sync::Arc, time::Duration};

use ledger::Ledger;
use ledger_contract::{
    Intent, IntentKind,
    intent::{Isolate, ScaleDirection},
    records::{ANCHOR_PAYLOAD, Anchor, Entry},
    state::{Usage, usage_key},
};
use orchestrator::service::Service as _;
use vim::{
    Disposition::Escalate,
    ObjectKey,
    fake::{Call, Fault},
};

use crate::{
    life::{Death, End, Life, live, live_until},
    world::{TENANT, World, intent, ns_of, plain, scale, terminate},
};

fn isolate(service: &str) -> Intent {
    let it = Isolate { targets: vec![], capture_ms: 0, reason: "an alarm".into() };
    intent(TENANT, service, IntentKind::Isolate(it))
}

/// The third backend cannot be made, whoever tries; it may be there all the same, or not.
fn stuck(world: &World, ns: &str, fault: &Fault) {
    let key = ObjectKey::new(format!("{ns}/vlb/backend/2")).unwrap();
    world.vim().script(Call::Ensure, Some(&key), vec![fault.clone(); 1_000]);
}

/// The intents whose evidence is on the ledger, in order, with their outcomes.
async fn anchors(ledger: &dyn Ledger) -> Vec<(String, String)> {
    let entries = ledger.range(0, 1_000).await.unwrap();
    let entries = entries.iter().map(|e| serde_json::from_str::<Entry>(e).unwrap());
    let anchors = entries.filter(|e| e.request.payload_type == ANCHOR_PAYLOAD);
    anchors
        .map(|e| {
            assert!(e.verdict.approved, "{:?}", e.verdict);
            let anchor: Anchor = serde_json::from_slice(&e.request.payload).unwrap();
            (anchor.intent_id, anchor.outcome)
        })
        .collect()
}

async fn used(ledger: &dyn Ledger) -> Usage {
    let value = ledger.state(&usage_key(TENANT)).await.unwrap();
    value.map(|v| serde_json::from_slice(&v).unwrap()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_person_is_cut_off_at_once_and_then_removed() {
    for (fault, there) in [(Fault::Before(Escalate), false), (Fault::After(Escalate), true)] {
        let world = World::new();
        let ledger: Arc<dyn Ledger> = Arc::new(world.log());
        let life = Life::of(world.parts(ledger.clone(), plain));
        let deploy = world.deploy("edge");
        let ns = ns_of(&deploy);
        life.carry_out(&world, &deploy).await;
        stuck(&world, &ns, &fault);
        let grow = scale("edge", ScaleDirection::ScaleOut);
        assert_eq!(life.attempt(&world, &grow).await.state, "FAILED_TEMP");
        let left = world.left_of(&ns);
        assert_eq!(left.contains(&format!("{ns}/vlb/backend/2")), there, "{left:?}");
        life.submit(&world, &isolate("edge")).await;
        let cut = life.anchored(&isolate("edge").id).await;
        assert_eq!((cut.state.as_str(), cut.problem), ("COMPLETED", None));
        assert_eq!(world.left_of(&ns), left, "cut off, and kept");
        let gave_way = life.anchored(&grow.id).await;
        assert_eq!(gave_way.state, "FAILED");
        assert!(gave_way.leftovers.contains(&format!("{ns}/vlb/backend/2")), "{gave_way:?}");
        let problem = gave_way.problem.unwrap();
        assert!(problem.contains("PREEMPTED") && problem.contains(&isolate("edge").id), "{problem}");
        assert_eq!(life.engine.ns(&ns).await.unwrap().state, "ISOLATED");
        let view = life.carry_out(&world, &terminate("edge")).await;
        assert_eq!(view.state, "COMPLETED", "{view:?}");
        assert_eq!(world.left(), []);
        let order = anchors(&*ledger).await;
        let ended: Vec<&str> = order.iter().map(|(_, outcome)| outcome.as_str()).collect();
        assert_eq!(ended, ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"], "{order:?}");
        assert_eq!(used(&*ledger).await, Usage::default());
        for (intent, outcome) in order {
            let id = life.anchored(&intent).await.id;
            assert_eq!(world.verified(&life.engine.bundle(&id).await.unwrap()).outcome, outcome);
        }
        let timeline = life.engine.timeline(&ns).await.unwrap();
        assert!(timeline.iter().any(|l| l.state == "preempted" && l.what.contains("isolate")));
        life.end().await;
    }
}

/// Not only what is in trouble: who says that it is to end does not wait for it to be made first, unless asked to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_ends_unless_it_is_to_be_waited_for() {
    let world = World::new();
    let ledger: Arc<dyn Ledger> = Arc::new(world.log());
    let life = Life::of(world.parts(ledger.clone(), plain));
    for (n, waits) in [false, true].into_iter().enumerate() {
        let service = format!("edge-{n}");
        let deploy = world.deploy(&service);
        let ns = ns_of(&deploy);
        let slow = ObjectKey::new(format!("{ns}/vlb/vlb/0")).unwrap();
        world.vim().script(Call::Ensure, Some(&slow), [Fault::Delay(Duration::from_millis(300))]);
        life.submit(&world, &deploy).await;
        life.until(&deploy.id, |o| o.progress.0 > 2).await;
        let mut end = terminate(&service);
        end.depends_on = if waits { vec![deploy.id.clone()] } else { vec![] };
        life.submit(&world, &end).await;
        let view = life.anchored(&end.id).await;
        assert_eq!(view.state, "COMPLETED", "{view:?}");
        let made = life.anchored(&deploy.id).await;
        assert_eq!(made.state, if waits { "COMPLETED" } else { "FAILED" }, "{made:?}");
        assert_eq!(world.left_of(&ns), [] as [&str; 0]);
        world.verified(&life.engine.bundle(&made.id).await.unwrap());
        world.verified(&life.engine.bundle(&view.id).await.unwrap());
    }
    assert_eq!(used(&*ledger).await, Usage::default());
    life.end().await;
}

/// Dies at the given moments of the lives in which all of it ends; how many deaths there were.
fn run(deaths: [Death; 2], at_once: bool, fault: &Fault) -> u32 {
    let world = World::new();
    let ledger: Arc<dyn Ledger> = Arc::new(world.log());
    let submitter = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let submit = |intent: &Intent| {
        let committed = submitter.block_on(ledger.submit(world.signed(intent))).unwrap();
        assert!(committed.entry.verdict.approved, "{deaths:?}: {:?}", committed.entry.verdict);
    };
    let deploy = world.deploy("edge");
    let ns = ns_of(&deploy);
    submit(&deploy);
    assert!(matches!(live(&world, &ledger, &deploy.id, Death::Never), End::Anchored(_)));
    stuck(&world, &ns, fault);
    let grow = scale("edge", ScaleDirection::ScaleOut);
    submit(&grow);
    if !at_once {
        let stands = |o: &orchestrator::views::OperationView| o.state == "FAILED_TEMP";
        assert!(matches!(live_until(&world, &ledger, (&grow.id, stands), Death::Never), End::Anchored(_)));
    }
    let end = terminate("edge");
    submit(&isolate("edge"));
    submit(&end);
    let (mut died, mut lives) = (0, 0);
    let view = loop {
        assert!(lives < 4, "{deaths:?}: it never ends");
        match live(&world, &ledger, &end.id, deaths.get(lives).copied().unwrap_or(Death::Never)) {
            End::Died => died += 1,
            End::Anchored(view) => break view,
        }
        lives += 1;
    };
    assert_eq!(view.state, "COMPLETED", "{deaths:?}: {view:?}");
    assert_eq!(world.left(), [], "{deaths:?}");
    let order = submitter.block_on(anchors(&*ledger));
    let intents: Vec<&str> = order.iter().map(|(intent, _)| intent.as_str()).collect();
    assert_eq!(intents, [&deploy.id, &grow.id, &isolate("edge").id, &end.id], "{deaths:?}");
    assert_eq!(order[2].1, "COMPLETED", "{deaths:?}");
    assert!(at_once || order[1].1 == "FAILED", "{deaths:?}: {order:?}");
    assert_eq!(submitter.block_on(used(&*ledger)), Usage::default(), "{deaths:?}");
    died
}

fn enumerate(first: fn(u32) -> Death, second: fn(u32) -> Death, at_once: bool, fault: &Fault) -> u32 {
    let mut all = 0;
    for n in 1..200 {
        match run([first(n), second(n)], at_once, fault) {
            0 => return all,
            died => all += died,
        }
    }
    panic!("more moments than there can be");
}

fn append(n: u32) -> Death {
    Death::AfterAppend(n.into())
}

#[test]
fn dying_after_every_append() {
    for (at_once, fault) in [(false, Fault::After(Escalate)), (true, Fault::Before(Escalate))] {
        let all = enumerate(append, |n| append(n * 7 % 11 + 1), at_once, &fault);
        eprintln!("overtaken, all at once {at_once}: {all} deaths");
        assert!(all > 40, "{all}");
    }
}

#[test]
fn dying_around_every_effect_and_anchor() {
    let fault = Fault::After(Escalate);
    assert!(enumerate(Death::AfterEffect, |n| Death::AfterEffect(n % 3 + 1), false, &fault) > 10);
    assert!(enumerate(Death::BeforeEffect, |_| Death::Never, false, &fault) > 10);
    assert_eq!(enumerate(Death::BeforeAnchor, |_| Death::Never, false, &fault), 3);
    assert_eq!(enumerate(Death::AfterAnchor, |_| Death::Never, false, &fault), 3);
}
