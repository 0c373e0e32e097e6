//! Drift: what changes behind our back is found within an interval, and without a standing grant it is proposed.

use std::time::Duration;

use lcm::drift::Deviation;
use orchestrator::{service::Service as _, views::DriftView};

use crate::{
    life::Life,
    world::{World, ns_of, terminate},
};

/// The first look that is as it should be.
async fn look(life: &Life, good: impl Fn(&DriftView) -> bool) -> DriftView {
    let mut changes = life.engine.changes();
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            changes.borrow_and_update();
            let view = life.engine.drift().await.unwrap();
            if good(&view) {
                return view;
            }
            changes.changed().await.unwrap();
        }
    });
    found.await.expect("no such look")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_behind_our_back_is_found_and_proposed_once() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let calm = look(&life, |l| l.services == 1).await;
    assert!(calm.findings.is_empty());
    let (ns, vim) = (ns_of(&deploy), world.vim());
    let key = vim.left().into_iter().find(|k| k.as_str().ends_with("/0")).unwrap();
    vim.vanish(&key);
    let found = look(&life, |l| !l.proposals.is_empty() && !l.findings.is_empty()).await;
    let findings = &found.findings[&ns];
    assert_eq!(findings.len(), 1, "{found:?}");
    assert_eq!((findings[0].deviation, &findings[0].key), (Deviation::Missing, &key));
    let proposal = &found.proposals[&ns];
    assert_eq!((proposal.code.as_str(), proposal.intent.action.name()), ("NO_STANDING_GRANT", "heal"));
    assert_eq!(life.engine.mitigations().await.unwrap().len(), 1);
    // The next look finds the same, and says it once.
    look(&life, |l| l.at_ms > found.at_ms).await;
    let on_record = life.engine.mitigations().await.unwrap();
    assert_eq!(on_record.len(), 1, "{on_record:?}");
    assert_eq!(
        (on_record[0].decision.as_str(), on_record[0].who.as_str()),
        ("PROPOSE", "operator/orchestrator")
    );
    let timeline = life.engine.timeline(&ns).await.unwrap();
    assert!(timeline.iter().any(|l| l.kind == "mitigation" && l.what.contains("MISSING")), "{timeline:?}");
    // What is terminated needs no repair any more.
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    look(&life, |l| l.proposals.is_empty() && l.findings.is_empty()).await;
    life.end().await;
}
