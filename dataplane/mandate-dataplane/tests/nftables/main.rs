//! The firewall beside Linux: the same frames in the same order through `nftables` with connection tracking (a bridge in a
//! namespace) and through the engine, and the same verdict for each, or a difference that is named here and explained
//! in `docs/dataplane.md`. A difference that is gone is an error, too.
//!
//! Linux is asked as `nf_conntrack_tcp_loose=0` makes it (a connection begins with a SYN), with all else as it comes.
//! Needs root, `nft` and `br_netfilter`, and says so when it skips.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod cases;
#[path = "../../../dataplane-engine/tests/common/mod.rs"]
mod common;
mod differences;
mod kernel;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, time::Instant};

use dataplane_engine::build;
use kernel::Kernel;

/// Where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Outside = 0,
    Inside = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Outside => Self::Inside,
            Self::Inside => Self::Outside,
        }
    }
}

/// What became of some frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Drop,
    /// Some of them.
    Part,
}

impl Verdict {
    fn of(came: usize, sent: usize) -> Self {
        match came {
            0 => Self::Drop,
            n if n == sent => Self::Pass,
            _ => Self::Part,
        }
    }
}

/// Frames that are decided together: one, or the fragments of one packet.
struct Step {
    name: &'static str,
    from: Side,
    frames: Vec<Vec<u8>>,
}

/// Steps in their order, with addresses or ports of their own.
struct Case {
    name: &'static str,
    steps: Vec<Step>,
}

#[test]
fn decides_as_linux_does() {
    if !support::can_run() || !kernel::can_run() {
        return;
    }
    let configuration = common::firewall(cases::rules(), 4096);
    let mut linux = Kernel::new(&cases::rules());
    let mut ours = build(&configuration).unwrap();
    let began = Instant::now();
    let (mut steps, mut frames) = (0, 0);
    let mut found = BTreeSet::new();
    for case in cases::all() {
        for Step { name, from, frames: sent } in case.steps {
            let theirs = linux.decide(from, &sent);
            let now_us = 1_000_000 + began.elapsed().as_micros() as u64;
            let mut said = vec![];
            for frame in &sent {
                said.push(ours.process(now_us, from as u16, &mut frame.clone()));
            }
            let passed =
                said.iter().filter(|v| matches!(v, dataplane_engine::Verdict::Forward { .. })).count();
            let ours = Verdict::of(passed, sent.len());
            if ours != theirs {
                found.insert(format!("{} / {name}: nftables {theirs:?}, vFW {ours:?} {said:?}", case.name));
            }
            (steps, frames) = (steps + 1, frames + sent.len());
        }
    }
    eprintln!(
        "{steps} steps, {frames} frames, {} of them decided otherwise, {:?}",
        found.len(),
        began.elapsed()
    );
    let explained: BTreeSet<String> = differences::all().collect();
    let unexplained: Vec<&String> =
        found.iter().filter(|f| !explained.iter().any(|e| f.starts_with(e))).collect();
    assert!(unexplained.is_empty(), "without an explanation:\n{unexplained:#?}");
    let gone: Vec<&String> = explained.iter().filter(|e| !found.iter().any(|f| f.starts_with(*e))).collect();
    assert!(gone.is_empty(), "explained, but decided alike:\n{gone:#?}");
}

#[test]
fn every_difference_is_in_the_documentation() {
    let text = include_str!("../../../../docs/dataplane.md");
    for name in differences::names() {
        assert!(text.contains(&format!("| {name} |")), "docs/dataplane.md does not explain `{name}`");
    }
}
