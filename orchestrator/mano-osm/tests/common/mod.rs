//! What stands between the driver and an NBI in these tests: every exchange goes through a [`Peer`].
//!
//! With `OSM_NBI_URL` set (user, password, project and CA by `OSM_NBI_USER`, `OSM_NBI_PASSWORD`, `OSM_NBI_PROJECT`, `OSM_NBI_CA`; default
//! admin, admin, admin, none) the peer passes each exchange on to that NBI, and writes them to `tests/recorded/` when
//! `OSM_NBI_RECORD=1`. Without it, it answers what was recorded: the driver must make the very calls that it made then, in
//! their order. In both cases it can lose an answer or a call, as a network would.
#![allow(dead_code)]

pub mod peer;
pub mod world;

pub use peer::{Fault, Peer};
pub use world::World;

/// Is there an NBI to ask?
pub fn upstream() -> Option<String> {
    std::env::var("OSM_NBI_URL").ok().filter(|url| !url.is_empty())
}

/// A variable of the environment, or its default.
pub fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
