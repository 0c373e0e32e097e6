//! What belongs to no service is shown, and removed by a person's word alone: who, what and why is on record. What a
//! service wants, or an operation is working on, is never taken for it.

use orchestrator::{service::Service as _, views::CleaningView};
use vim::{Kind, NetworkSpec, ObjectKey, Spec, VimDriver as _};

use crate::{
    life::Life,
    world::{World, ns_of},
};

fn link(name: &str) -> Spec {
    Spec::Network(NetworkSpec::new(name, 1500))
}

fn asked(keys: &[&str]) -> CleaningView {
    CleaningView { keys: keys.iter().map(|k| (*k).to_owned()).collect(), reason: "left by a test".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_belongs_to_nobody_goes_and_it_is_on_record() {
    let world = World::new();
    let life = Life::start(&world);
    let deploy = world.deploy("edge");
    life.carry_out(&world, &deploy).await;
    let ns = ns_of(&deploy);
    let standing = world.left();
    assert_eq!(life.engine.strays().await.unwrap().strays, []);
    // One of a service that is not, and one beside a service that is: that is drift, and the service's.
    let stray = ObjectKey::new("ns-0123456789ab/vl/x").unwrap();
    let extra = ObjectKey::new(format!("{ns}/vl/extra")).unwrap();
    for key in [&stray, &extra] {
        world.vim().ensure(key, &link("x")).await.unwrap();
    }
    let shown = life.engine.strays().await.unwrap();
    assert_eq!(shown.strays.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), [stray.as_str()]);
    let site = shown.strays[0].site.clone();
    for refused in [
        extra.as_str(),
        &format!("{ns}/vfw/vfw/0"),
        "ns-0123456789ab/vl/other",
        &format!("{stray}@elsewhere"),
    ] {
        let problem =
            life.engine.clean_strays("olga@op", asked(&[stray.as_str(), refused])).await.unwrap_err();
        assert_eq!(problem.code, "NOT_A_STRAY", "{refused}");
    }
    assert_eq!(life.engine.clean_strays("olga@op", asked(&[])).await.unwrap_err().code, "KEYS");
    assert_eq!(life.engine.strays().await.unwrap().cleaned, [], "nothing was done");
    let named = format!("{stray}@{site}");
    let cleaned = life.engine.clean_strays("olga@op", asked(&[&named])).await.unwrap();
    assert!(cleaned.len() == 1 && cleaned[0].problem.is_none(), "{cleaned:?}");
    let after = life.engine.strays().await.unwrap();
    assert_eq!(after.strays, []);
    let told: Vec<_> =
        after.cleaned.iter().map(|m| (m.who.as_str(), m.decision.as_str(), m.reason.as_str())).collect();
    assert_eq!(told, [("olga@op", "REMOVE", "left by a test"), ("olga@op", "REMOVED", "left by a test")]);
    assert_eq!(after.cleaned[0].findings[0].key, stray);
    world.vim().remove(&extra, Kind::Network).await.unwrap();
    assert_eq!(world.left(), standing, "the service stands as it stood");
    life.end().await;
}
