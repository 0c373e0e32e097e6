//! Drift: what changes behind our back is found within an interval, and without a standing grant it is proposed.

use std::{sync::atomic::Ordering, time::Duration};

use lcm::drift::Deviation;
use ledger_contract::{
    IntentKind,
    records::{Change, Revocable, STANDING_PAYLOAD, StandingGrant},
};
use orchestrator::{
    service::Service as _,
    views::{DriftView, OperationView},
};
use vim::ObjectKey;

use crate::{
    life::Life,
    outage::Line,
    world::{SITES, TENANT, World, now, ns_of, plain, sign, terminate},
};

/// A tenant lets the orchestrator act by itself.
async fn grant(life: &Life, world: &World, actions: &[&str], cooldown_s: u64) {
    let grant = StandingGrant {
        id: "standing-1".into(),
        tenant: TENANT.into(),
        services: Vec::new(),
        actions: actions.iter().map(|a| (*a).to_owned()).collect(),
        budget: 10,
        window_s: 3600,
        cooldown_s,
        not_before: now(),
        not_after: now().plus(3600),
    };
    let request = sign(STANDING_PAYLOAD, &grant, &world.signer(TENANT, "tenant"));
    let committed = life.engine.submit(request).await.unwrap();
    assert!(committed.verdict.approved, "{:?}", committed.verdict);
}

fn an_instance(world: &World) -> ObjectKey {
    world.vim().left().into_iter().find(|k| k.as_str().ends_with("/0")).unwrap()
}

/// The service's operation of an action, once it is as it should be.
async fn operation(
    life: &Life,
    ns: &str,
    action: &str,
    good: impl Fn(&OperationView) -> bool,
) -> OperationView {
    let mut changes = life.engine.changes();
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            changes.borrow_and_update();
            let view = life.engine.ns(ns).await.unwrap();
            if let Some(o) = view.operations.into_iter().find(|o| o.action == action && good(o)) {
                return o;
            }
            changes.changed().await.unwrap();
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("no such {action}: {:?}", life.engine.ns(ns).await.map(|v| v.operations)),
    }
}

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
    let key = an_instance(&world);
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
    let own = life.engine.ns_drift(&format!("{TENANT}/edge")).await.unwrap();
    assert_eq!((own.ns_instance_id.as_str(), &own.findings), (ns.as_str(), findings));
    assert_eq!(own.proposal.as_ref().map(|p| &p.intent.id), Some(&proposal.intent.id));
    assert_eq!((own.mitigations, own.grants, own.flaps), (on_record, vec![], vec![]));
    let seen = life.engine.ns(&ns).await.unwrap();
    assert!(!seen.instances.is_empty());
    for (key, _) in &seen.instances {
        assert_eq!(seen.instance_sites.get(key).map(String::as_str), Some(SITES[0]), "{seen:?}");
    }
    // What is terminated needs no repair any more.
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    look(&life, |l| l.proposals.is_empty() && l.findings.is_empty()).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_grant_lets_a_killed_instance_come_back() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let life = Life::start(&world);
    grant(&life, &world, &["heal"], 0).await;
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let (ns, key) = (ns_of(&deploy), an_instance(&world));
    world.vim().crash(&key);
    let healed = operation(&life, &ns, "heal", |o| o.anchored).await;
    assert_eq!(healed.state, "COMPLETED", "{healed:?}");
    let bundle = world.verified(&life.engine.bundle(&healed.id).await.unwrap());
    assert!(matches!(bundle.intent.action, IntentKind::Heal(_)));
    assert_eq!(bundle.grant.standing.as_deref(), Some("standing-1"));
    let own = life.engine.ns_drift(&ns).await.unwrap();
    let left: Vec<_> = own.grants.iter().map(|g| (g.grant.as_str(), g.used, g.budget, g.next_at)).collect();
    assert_eq!(left, [("standing-1", 1, 10, None)], "{own:?}");
    assert_eq!((own.flaps[0].object.as_str(), own.flaps[0].repairs), (key.as_str(), 1), "{own:?}");
    assert_eq!(own.mitigations[0].decision, "REPAIR");
    look(&life, |l| l.findings.is_empty() && l.proposals.is_empty()).await;
    let on_record = life.engine.mitigations().await.unwrap();
    assert_eq!(on_record.len(), 1, "{on_record:?}");
    assert_eq!(
        (on_record[0].decision.as_str(), on_record[0].grant.as_deref()),
        ("REPAIR", Some("standing-1"))
    );
    assert!(on_record[0].reason.contains(key.as_str()), "{}", on_record[0].reason);
    // It can be scaled, healed, terminated as before.
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    assert_eq!(world.left(), []);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_ledger_repairs_go_on_and_nothing_new_begins() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let line = Line::to(&world);
    let life = Life::of(world.parts(line.clone(), plain));
    grant(&life, &world, &["heal"], 0).await;
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let ns = ns_of(&deploy);
    line.down.store(true, Ordering::SeqCst);
    world.vim().crash(&an_instance(&world));
    let healed = operation(&life, &ns, "heal", |o| o.state == "COMPLETED").await;
    assert!(!healed.anchored);
    life.engine.submit(world.signed(&world.deploy("new"))).await.unwrap_err();
    let gaps = |lines: &[orchestrator::views::TimelineLine]| {
        lines.iter().filter(|l| l.kind == "gap").map(|l| l.state.clone()).collect::<Vec<_>>()
    };
    assert_eq!(gaps(&life.engine.timeline(&ns).await.unwrap()), ["started"]);
    // A restart in the middle of the gap changes nothing.
    life.end().await;
    let life = Life::of(world.parts(line.clone(), plain));
    line.down.store(false, Ordering::SeqCst);
    let healed = operation(&life, &ns, "heal", |o| o.anchored).await;
    let bundle = world.verified(&life.engine.bundle(&healed.id).await.unwrap());
    assert!(bundle.intent.standing.is_some());
    assert_eq!(gaps(&life.engine.timeline(&ns).await.unwrap()), ["done"]);
    assert_eq!(life.carry_out(&world, &terminate("edge")).await.state, "COMPLETED");
    world.nothing_twice();
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ended_is_proposed_or_ends_the_service() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let life = Life::start(&world);
    let mut deploy = world.deploy("edge");
    let IntentKind::Deploy(d) = &mut deploy.action else { unreachable!() };
    d.lease_s = 1;
    life.carry_out(&world, &deploy).await;
    let ns = ns_of(&deploy);
    let overdue = look(&life, |l| !l.proposals.is_empty()).await;
    assert_eq!(overdue.proposals[&ns].intent.action.name(), "terminate");
    grant(&life, &world, &["terminate"], 0).await;
    let ended = operation(&life, &ns, "terminate", |o| o.anchored).await;
    assert_eq!(ended.state, "COMPLETED");
    assert_eq!(world.left(), []);
    life.end().await;
}

/// What the newest approval says of the service may be of a termination, which is attested by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_without_the_ledger_is_attested_as_the_service_was() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let line = Line::to(&world);
    let life = Life::of(world.parts(line.clone(), plain));
    grant(&life, &world, &["heal"], 0).await;
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let ns = ns_of(&deploy);
    let what = Revocable::AttestationKey { site: SITES[0].into() };
    world.govern(&line.inner, "no-more-key", Change::Revoke { what }).await;
    // A termination that comes too late: it changes nothing.
    life.end().await;
    line.held.send_replace(true);
    let life = Life::of(world.parts(line.clone(), plain));
    let mut late = terminate("edge");
    late.not_after = now().plus(1);
    life.submit(&world, &late).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    line.held.send_replace(false);
    assert_eq!(life.anchored(&late.id).await.state, "ROLLED_BACK");
    line.down.store(true, Ordering::SeqCst);
    world.vim().crash(&an_instance(&world));
    let healed = operation(&life, &ns, "heal", |o| o.state == "COMPLETED").await;
    let steps = life.engine.steps(&healed.id).await.unwrap();
    assert!(steps.iter().any(|s| s.action == "attest"), "{steps:?}");
    life.end().await;
}

/// The guard counts what is done without the ledger too: an instance that dies again and again is left to a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_ledger_an_instance_that_keeps_dying_is_left_to_a_person() {
    let mut world = World::new();
    world.config.drift.interval_s = 1;
    let line = Line::to(&world);
    let life = Life::of(world.parts(line.clone(), plain));
    grant(&life, &world, &["heal"], 0).await;
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let ns = ns_of(&deploy);
    line.down.store(true, Ordering::SeqCst);
    let instance = an_instance(&world);
    let mut healed = Vec::new();
    for _ in 0..3 {
        world.vim().crash(&instance);
        let next = |o: &OperationView| o.state == "COMPLETED" && !healed.contains(&o.id);
        let id = operation(&life, &ns, "heal", next).await.id;
        healed.push(id);
    }
    world.vim().crash(&instance);
    let left = look(&life, |l| !l.proposals.is_empty()).await;
    assert_eq!(left.proposals[&ns].code, "FLAPPING");
    life.end().await;
}
