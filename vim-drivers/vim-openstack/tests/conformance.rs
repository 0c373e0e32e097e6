//! The port's suite on a real Yoga: `cargo testbed test openstack` starts one and sets `TESTBED_OPENSTACK`.
//!
//! `CONFORMANCE`: part of a case's name. Cases are independent (each has a home of its own), so they run a few at a time: the
//! cloud mostly waits.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Yoga, clouds, conclude};
use vim::conformance;

/// Cases at a time.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_vim_conforms() {
    let Some(clouds) = clouds() else { return };
    let only = std::env::var("CONFORMANCE").ok();
    let part = |n: usize| {
        let (clouds, only) = (clouds.clone(), only.clone());
        let mine = move |case: &str| {
            let turn = case.bytes().map(usize::from).sum::<usize>() % AT_ONCE == n;
            turn && only.as_deref().is_none_or(|only| case.contains(only))
        };
        async move { conformance::run_where(async || Yoga::new(&clouds), mine).await }
    };
    let reports = futures::future::join_all((0..AT_ONCE).map(part)).await;
    conclude(&reports);
}
