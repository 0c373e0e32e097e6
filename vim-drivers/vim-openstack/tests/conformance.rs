//! The port's suite on a real Yoga: `cargo testbed test openstack` starts one and sets `TESTBED_OPENSTACK`.
//!
//! `CONFORMANCE`: part of a case's name. Cases are independent (each has a home of its own), so they run a few at a time: the
//! cloud mostly waits.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Mutex;

use common::{Yoga, clouds, conclude};
use futures::StreamExt as _;
use vim::conformance;

/// Cases at a time.
const AT_ONCE: usize = 5;
/// The longest, which begin first, and each in parts: nothing is waited for at the end.
const PARTS: usize = 3;
const LONG: [&str; 3] = [
    "every_change_behind_its_back_is_seen_and_put_right",
    "ensure_completes_what_is_half_made",
    "remove_clears_what_is_half_made",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_vim_conforms() {
    let Some(clouds) = clouds() else { return };
    let only = std::env::var("CONFORMANCE").ok();
    let names = Mutex::new(Vec::new());
    let named = |case: &str| {
        names.lock().unwrap().push(case.to_owned());
        false
    };
    conformance::run_where(async || Yoga::new(&clouds), named).await;
    let mut names = names.into_inner().unwrap();
    names.retain(|case| only.as_deref().is_none_or(|only| case.contains(only)));
    names.sort_by_key(|case| LONG.iter().position(|long| long == case).unwrap_or(LONG.len()));
    let parts = names.into_iter().flat_map(|name| {
        let of = if LONG.contains(&name.as_str()) { PARTS } else { 1 };
        (0..of).map(move |n| (name.clone(), (n, of)))
    });
    let one = |(name, part): (String, (usize, usize))| {
        let clouds = clouds.clone();
        async move { conformance::run_where(async || Yoga::part(&clouds, part), move |case| case == name).await }
    };
    let reports: Vec<_> = futures::stream::iter(parts.map(one)).buffer_unordered(AT_ONCE).collect().await;
    conclude(&reports);
}
