//! All tests of the crate that use it from outside; one module for each subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod crashes;
mod drift;
mod life;
mod mano;
mod placement;
mod planner;
mod platform;
mod sequences;
mod upgrade;
#[path = "common/world.rs"]
mod world;
