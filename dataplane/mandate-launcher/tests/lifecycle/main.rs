//! The launcher on a real swtpm. Needs root and swtpm; says so where they are missing.

#![allow(clippy::unwrap_used)] // helpers of tests are not `#[test]` functions

mod common;
mod crash;
mod launching;
