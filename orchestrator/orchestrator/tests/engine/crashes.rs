//! The orchestrator dies at every journal append of every operation, and before and after every effect and every anchor
//! of a deploy, a scale and a terminate; what died is started again on what it left. Afterwards every operation is
//! complete, nothing was done twice, nothing is left, and the evidence verifies.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ledger::Ledger;
use ledger_contract::{
    Intent, IntentKind,
    intent::{Heal, Isolate, Migrate, PlacementHints, Rollback, ScaleDirection, Update, VnfParams},
    records::{ANCHOR_PAYLOAD, Entry},
};
use vim::ObjectKey;

use crate::{
    life::{Death, End, live},
    world::{SITES, TENANT, World, intent, ns_of, scale, terminate},
};

/// More deaths than any of the operations has moments of any kind.
const MOST: u32 = 120;
/// More lives than an operation needs when it dies twice.
const LIVES: usize = 3;

/// An intent, and what happens to the service before it is submitted.
type Chapter = (Intent, fn(&World, &str));
/// What is told of one service.
type Story = fn(&World) -> Vec<Chapter>;

fn nothing(_: &World, _: &str) {}

fn short(world: &World) -> Vec<Chapter> {
    [world.deploy("edge"), scale("edge", ScaleDirection::ScaleOut), terminate("edge")]
        .map(|i| (i, nothing as fn(&World, &str)))
        .into()
}

/// An instance dies, a member moves, a configuration is changed and taken back, and at last all is cut.
fn long(world: &World) -> Vec<Chapter> {
    let deploy = world.deploy("edge");
    let IntentKind::Deploy(first) = deploy.action.clone() else { panic!("a deploy") };
    let asked = |kind| intent(TENANT, "edge", kind);
    let heal = asked(IntentKind::Heal(Heal { targets: vec![], cause: "it is down".into() }));
    let placement = PlacementHints { sites: vec![SITES[1].into()], ..PlacementHints::default() };
    let migrate = asked(IntentKind::Migrate(Migrate { members: vec![], placement }));
    let mut vnf_params = first.vnf_params.clone();
    vnf_params.insert("vlb".into(), VnfParams { weights: vec![2, 1], ..first.vnf_params["vlb"].clone() });
    let update = asked(IntentKind::Update(Box::new(Update {
        nsd_package: first.nsd_package,
        sla: None,
        lease_s: None,
        vnf_params,
    })));
    let rollback = asked(IntentKind::Rollback(Box::new(Rollback {
        to: deploy.id.clone(),
        nsd_package: first.nsd_package,
        vnf_params: first.vnf_params.clone(),
        reason: "the weights are wrong".into(),
    })));
    let isolate =
        asked(IntentKind::Isolate(Isolate { targets: vec![], capture_ms: 0, reason: "an alarm".into() }));
    let down: fn(&World, &str) =
        |world, ns| world.vim().crash(&ObjectKey::new(format!("{ns}/vfw/vfw/0")).unwrap());
    vec![
        (deploy, nothing),
        (heal, down),
        (migrate, nothing),
        (update, nothing),
        (rollback, nothing),
        (isolate, nothing),
        (terminate("edge"), nothing),
    ]
}

/// Runs a story in which the orchestrator dies `deaths[0]` into each operation, and then `deaths[1]` into the life
/// after; tells how many deaths there were.
fn run(story: Story, deaths: [Death; 2]) -> u32 {
    let world = World::new();
    let ledger: Arc<dyn Ledger> = Arc::new(world.log());
    let submitter = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut died, chapters) = (0, story(&world));
    let ns = ns_of(&chapters[0].0);
    for (intent, before) in &chapters {
        before(&world, &ns);
        let committed = submitter.block_on(ledger.submit(world.signed(intent))).unwrap();
        assert!(committed.entry.verdict.approved, "{deaths:?}: {:?}", committed.entry.verdict);
        let mut lives = 0;
        let view = loop {
            assert!(lives < LIVES, "{deaths:?}: {} never ends", intent.id);
            let death = deaths.get(lives).copied().unwrap_or(Death::Never);
            match live(&world, &ledger, &intent.id, death) {
                End::Died => died += 1,
                End::Anchored(view) => break view,
            }
            lives += 1;
        };
        assert_eq!(view.state, "COMPLETED", "{deaths:?}: {view:?}");
        let bundle = world.journal().bundle(&view.id).unwrap().unwrap();
        let verified = world.verified(&bundle);
        assert_eq!((&verified.operation_id, &verified.intent.id), (&view.id, &intent.id), "{deaths:?}");
        world.nothing_twice();
    }
    assert_eq!(world.left(), [], "{deaths:?}");
    anchored_once(&submitter.block_on(ledger.range(0, 1_000)).unwrap(), chapters.len());
    died
}

/// Each of the operations has one anchor.
fn anchored_once(entries: &[String], operations: usize) {
    let mut anchors: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for entry in entries.iter().map(|e| serde_json::from_str::<Entry>(e).unwrap()) {
        if entry.request.payload_type == ANCHOR_PAYLOAD {
            assert!(entry.verdict.approved, "{:?}", entry.verdict);
            *anchors.entry(entry.request.payload).or_default() += 1;
        }
    }
    assert_eq!(anchors.values().copied().collect::<Vec<_>>(), vec![1; operations]);
}

/// Every moment of a kind, until no operation has so many; tells how many deaths were died.
fn enumerate(story: Story, first: fn(u32) -> Death, second: fn(u32) -> Death) -> u32 {
    let (start, mut all) = (Instant::now(), 0);
    for n in 1..MOST {
        match run(story, [first(n), second(n)]) {
            0 => {
                eprintln!("{:?}: {} moments, {all} deaths in {:?}", first(n), n - 1, start.elapsed());
                return all;
            }
            died => all += died,
        }
    }
    panic!("an operation has more than {MOST} moments");
}

fn never(_: u32) -> Death {
    Death::Never
}

fn append(n: u32) -> Death {
    Death::AfterAppend(n.into())
}

#[test]
fn after_every_append_and_again_while_it_recovers() {
    assert!(enumerate(short, append, |n| append(n * 7 % 11 + 1)) > 90);
}

#[test]
fn after_every_append_of_heal_migrate_update_rollback_and_isolate() {
    assert!(enumerate(long, append, |n| append(n * 5 % 13 + 1)) > 200);
}

#[test]
fn after_every_effect_of_heal_migrate_update_rollback_and_isolate() {
    assert!(enumerate(long, Death::AfterEffect, |n| Death::AfterEffect(n % 3 + 1)) > 80);
}

#[test]
fn before_every_effect() {
    assert!(enumerate(short, Death::BeforeEffect, never) > 25);
}

#[test]
fn after_every_effect() {
    assert!(enumerate(short, Death::AfterEffect, |n| Death::AfterEffect(n % 3 + 1)) > 25);
}

#[test]
fn around_every_anchor() {
    assert_eq!(enumerate(short, Death::BeforeAnchor, never), 3);
    assert_eq!(enumerate(short, Death::AfterAnchor, never), 3);
}
