//! The orchestrator dies at every journal append, before and after every effect, and before and after every anchor of
//! a deploy, a scale and a terminate; what died is started again on what it left. Afterwards every operation is
//! complete, nothing was done twice, nothing is left, and the evidence verifies.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ledger::Ledger;
use ledger_contract::{
    Intent,
    intent::ScaleDirection,
    records::{ANCHOR_PAYLOAD, Entry},
};

use crate::{
    life::{Death, End, live},
    world::{World, scale, terminate},
};

/// More deaths than any of the three operations has moments of any kind.
const MOST: u32 = 60;
/// More lives than an operation needs when it dies twice.
const LIVES: usize = 3;

fn story(world: &World) -> [Intent; 3] {
    [world.deploy("edge"), scale("edge", ScaleDirection::ScaleOut), terminate("edge")]
}

/// Runs a story in which the orchestrator dies `deaths[0]` into each operation, and then `deaths[1]` into the life
/// after; tells how many deaths there were.
fn run(deaths: [Death; 2]) -> u32 {
    let world = World::new();
    let ledger: Arc<dyn Ledger> = Arc::new(world.log());
    let submitter = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut died = 0;
    for intent in story(&world) {
        let committed = submitter.block_on(ledger.submit(world.signed(&intent))).unwrap();
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
        assert_eq!((verified.operation_id, verified.intent.id), (view.id, intent.id), "{deaths:?}");
        world.nothing_twice();
    }
    assert_eq!(world.left(), [], "{deaths:?}");
    anchored_once(&submitter.block_on(ledger.range(0, 1_000)).unwrap());
    died
}

/// Each of the three operations has one anchor.
fn anchored_once(entries: &[String]) {
    let mut anchors: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for entry in entries.iter().map(|e| serde_json::from_str::<Entry>(e).unwrap()) {
        if entry.request.payload_type == ANCHOR_PAYLOAD {
            assert!(entry.verdict.approved, "{:?}", entry.verdict);
            *anchors.entry(entry.request.payload).or_default() += 1;
        }
    }
    assert_eq!(anchors.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
}

/// Every moment of a kind, until no operation has so many; tells how many deaths were died.
fn enumerate(first: fn(u32) -> Death, second: fn(u32) -> Death) -> u32 {
    let (start, mut all) = (Instant::now(), 0);
    for n in 1..MOST {
        match run([first(n), second(n)]) {
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
    assert!(enumerate(append, |n| append(n * 7 % 11 + 1)) > 90);
}

#[test]
fn before_every_effect() {
    assert!(enumerate(Death::BeforeEffect, never) > 25);
}

#[test]
fn after_every_effect() {
    assert!(enumerate(Death::AfterEffect, |n| Death::AfterEffect(n % 3 + 1)) > 25);
}

#[test]
fn around_every_anchor() {
    assert_eq!(enumerate(Death::BeforeAnchor, never), 3);
    assert_eq!(enumerate(Death::AfterAnchor, never), 3);
}
