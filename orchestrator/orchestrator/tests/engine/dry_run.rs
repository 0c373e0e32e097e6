//! A dry run plans as an approval would be carried out, tells why there, and leaves nothing anywhere.

use ledger_contract::{
    IntentKind,
    intent::ScaleDirection,
    policy::{Assurance, BySensitivity},
};
use orchestrator::{service::Service as _, views::PlanView};

use crate::{
    life::Life,
    world::{SITES, TENANT, World, intent, scale, terminate},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_is_the_plan_that_is_then_carried_out() {
    let world = World::new();
    let life = Life::start(&world);
    let head = life.engine.ledger_head().await.unwrap();
    let newest = life.engine.newest_event().await.unwrap();
    let deploy = world.deploy("edge");
    let dry = life.engine.plan(deploy.clone()).await.unwrap();
    assert!(dry.feasible && dry.code.is_none(), "{dry:?}");
    assert_eq!(dry.site.as_deref(), Some(SITES[0]));
    let placement = dry.placement.as_ref().unwrap();
    assert!(placement.headline.starts_with("Z = "), "{}", placement.headline);
    assert!(placement.sites.values().all(|s| s == SITES[0]), "{:?}", placement.sites);
    let other = placement.tables.iter().flat_map(|t| &t.rows).filter(|r| r.contains(&SITES[1].to_owned()));
    assert!(other.clone().count() >= placement.sites.len(), "every other site has its reason: {placement:?}");
    assert!(other.clone().all(|r| r.contains(&"COSTS_MORE".to_owned())), "{placement:?}");
    assert_eq!(life.engine.ledger_head().await.unwrap(), head);
    assert_eq!(life.engine.newest_event().await.unwrap(), newest);
    assert_eq!(
        (world.left(), life.engine.services(&orchestrator::journal::Listing::of(true)).await.unwrap()),
        (vec![], vec![])
    );

    let view = life.carry_out(&world, &deploy).await;
    let steps = life.engine.steps(&view.id).await.unwrap();
    let real: Vec<_> = steps.iter().map(|s| (s.id, s.what.as_str(), s.object.as_str())).collect();
    let foretold: Vec<_> = dry.steps.iter().map(|s| (s.id, s.what.as_str(), s.object.as_str())).collect();
    assert_eq!(foretold, real);
    assert_eq!(view.ns_instance_id, dry.ns_instance_id);

    // What stands is planned from as it stands; nothing is placed anew.
    for intent in [scale("edge", ScaleDirection::ScaleOut), terminate("edge")] {
        let dry = life.engine.plan(intent.clone()).await.unwrap();
        assert!(dry.feasible && dry.placement.is_none(), "{dry:?}");
        let view = life.carry_out(&world, &intent).await;
        assert_eq!(life.engine.steps(&view.id).await.unwrap().len(), dry.steps.len(), "{}", intent.id);
    }
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_planned_says_why() {
    let world = World::new();
    let life = Life::start(&world);
    let mut far = world.deploy("far");
    let IntentKind::Deploy(deploy) = &mut far.action else { panic!("a deploy") };
    deploy.placement.jurisdictions = vec!["JP".into()];
    let dry = life.engine.plan(far).await.unwrap();
    assert_eq!((dry.feasible, dry.code.as_deref(), dry.steps.len()), (false, Some("NO_SITE"), 0));
    let placement = dry.placement.unwrap();
    assert!(placement.sites.is_empty());
    for site in SITES {
        let reason =
            |r: &&Vec<String>| r.contains(&site.to_owned()) && r.contains(&"JURISDICTION".to_owned());
        assert!(placement.tables.iter().flat_map(|t| &t.rows).any(|r| reason(&r)), "{placement:?}");
    }
    let none = life.engine.plan(intent(TENANT, "nothing", IntentKind::Terminate {})).await.unwrap();
    assert_eq!((none.feasible, none.code.as_deref()), (false, Some("NO_SUCH_SERVICE")));
    let mut unknown = world.deploy("edge");
    let IntentKind::Deploy(deploy) = &mut unknown.action else { panic!("a deploy") };
    deploy.nsd_package = trust::Digest([7; 32]);
    assert_eq!(life.engine.plan(unknown).await.unwrap_err().code, "UNKNOWN_PACKAGE");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demanded_tee_is_shown_with_what_each_site_has() {
    let mut world = World::new();
    let before = world.deploy("before");
    let life = Life::start(&world);
    life.carry_out(&world, &before).await;
    life.end().await;
    let all = |it| BySensitivity { public: it, internal: it, confidential: it, restricted: it };
    world.change_policy(|data| data.assurance = Some(all(Assurance::Tee))).await;
    let row = |dry: &PlanView, what: &str| {
        let table = dry.demands.clone().unwrap_or_else(|| panic!("no demands: {dry:?}"));
        assert_eq!(table.columns[1..], SITES.map(str::to_owned));
        table.rows.into_iter().find(|r| r[0].contains(what)).unwrap()
    };

    let life = Life::start(&world);
    let dry = life.engine.plan(world.deploy("edge")).await.unwrap();
    assert_eq!((dry.feasible, dry.code.as_deref()), (false, Some("NO_SITE")), "{dry:?}");
    assert_eq!(row(&dry, "measured")[1..], SITES.map(|_| "yes".to_owned()));
    assert!(row(&dry, "TEE")[1..].iter().all(|cell| cell.starts_with("no: ")), "{dry:?}");
    let tables = &dry.placement.as_ref().unwrap().tables;
    for site in SITES {
        let refused = |r: &Vec<String>| r.contains(&site.to_owned()) && r.contains(&"TEE".to_owned());
        assert!(tables.iter().flat_map(|t| &t.rows).any(refused), "{dry:?}");
    }
    // What is not placed anew is shown the same.
    let dry = life.engine.plan(scale("before", ScaleDirection::ScaleOut)).await.unwrap();
    assert!(!dry.feasible && dry.placement.is_none(), "{dry:?}");
    assert!(row(&dry, "TEE")[1].starts_with("no: "));
    // Ending a service demands nothing of its site.
    assert_eq!(life.engine.plan(terminate("before")).await.unwrap().demands, None);
    life.end().await;

    world.config.sites[0].tee = Some("sev-snp".into());
    let life = Life::start(&world);
    let dry = life.engine.plan(world.deploy("edge")).await.unwrap();
    assert_eq!(row(&dry, "TEE")[1], "yes: sev-snp", "{dry:?}");
    life.end().await;
}
