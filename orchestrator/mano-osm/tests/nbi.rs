//! The whole back end against a real OSM NBI, where `OSM_NBI_URL` names one (user, password, project, CA: `OSM_NBI_USER`,
//! `OSM_NBI_PASSWORD`, `OSM_NBI_PROJECT`, `OSM_NBI_CA`). It makes and removes packages, a VIM account and services of names that begin with
//! `mandate-t`, in a project that is otherwise Mandate's alone or nobody's.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::World;
use mano::conformance;

fn skipped() -> bool {
    let skip = common::upstream().is_none();
    if skip {
        println!(
            "SKIPPED: no OSM; set OSM_NBI_URL (and OSM_NBI_USER, OSM_NBI_PASSWORD, OSM_NBI_PROJECT, OSM_NBI_CA) to an NBI's"
        );
    }
    skip
}

/// One at a time: they share the names of their packages.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn the_back_end_conforms() {
    if skipped() {
        return;
    }
    let _turn = TURN.lock().await;
    let make = async || Ok(World::new("none").await);
    let report = conformance::run(make, std::env::var("OSM_NBI_CASE").ok().as_deref()).await;
    for case in &report.cases {
        println!("{:>7} ms  {}", case.elapsed_ms, case.name);
    }
    assert_eq!(report.failures(), Vec::<String>::new());
}
