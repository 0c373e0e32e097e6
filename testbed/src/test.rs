//! `cargo testbed test`: everything that must hold before a change is good, in the order in which it fails fastest.
//!
//! Each part is one line at the end; its closing line sums all of them and every single test: `N passed, N failed,
//! N skipped`. A test that a missing peer keeps from running prints a line that begins with `SKIPPED`; it is shown and
//! counted.

mod api;
mod fabric;
mod openstack;
mod osm;
mod output;
pub mod systemd;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    check,
    cli::{DemoOptions, Play, TestOptions},
    command, demo, interrupt,
    ui::{self, Paint},
    up, workspace,
};

pub use output::Tally;

/// A build from nothing on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1500);
/// All tests together.
const TEST_LIMIT: Duration = Duration::from_secs(2700);
const TOOL_LIMIT: Duration = Duration::from_secs(300);

/// The parts, in order. `tests` are the crates' own; a crate's name selects it alone.
const PARTS: &[(&str, &str)] = &[
    ("deps", "packages of the distribution"),
    ("fmt", "formatting"),
    ("build", "the workspace builds"),
    ("check", "architecture, licences, documents"),
    ("clippy", "lints, warnings are errors"),
    ("deny", "cargo-deny"),
    ("signing", "tools that others sign with"),
    ("tests", "the crates' tests"),
    ("api", "the API against schemathesis"),
    ("demo", "the main job, end to end"),
    ("systemd", "mandate serve under systemd and cgroup v2, in a guest"),
    ("wan", "one service on several sites, moved under traffic"),
    ("openstack", "OpenStack Yoga, started and asked"),
    ("osm", "the OSM back end, on an NBI or on what was recorded of one"),
    ("fabric", "the contract and its client on a Hyperledger Fabric, started and broken"),
];

/// Minutes that a part takes on a slow machine, where it may be left out for want of time.
const LONG: [(&str, u64); 5] =
    [("api", 5), ("wan", 5), ("openstack", openstack::MINUTES), ("osm", 5), ("fabric", fabric::MINUTES)];

/// Parts that are run when they are named: a guest takes minutes to make, and is slow where it is emulated.
const ON_REQUEST: [&str; 1] = ["systemd"];

/// The time that there is for all of it.
#[derive(Debug, Clone, Copy)]
pub struct Budget(Option<Instant>);

impl Budget {
    fn of(options: &TestOptions) -> Self {
        Self(options.within.map(|minutes| Instant::now() + minute(minutes)))
    }

    /// Whether so many minutes are left.
    pub fn has(self, minutes: u64) -> bool {
        self.left().is_none_or(|left| left >= minute(minutes))
    }

    /// What is left of it; `None`: there is no bound.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }
}

fn minute(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Says that there is too little time for `what` of a part.
fn left_out(what: &str, minutes: u64, part: &str) {
    ui::say(&format!(
        "SKIPPED: {what} may take {minutes} minutes, more than are left of --within (TESTBED_MINUTES); by itself: `cargo testbed test {part}`"
    ));
}

/// Runs the parts (or crates) named, or all; true when nothing failed.
pub fn run(options: &TestOptions) -> anyhow::Result<bool> {
    let crates = crates(&options.names)?;
    let budget = Budget::of(options);
    let wanted = |part: &str| {
        options.names.is_empty() && !ON_REQUEST.contains(&part)
            || options.names.iter().any(|n| n == part)
            || part == "tests" && !crates.is_empty()
    };
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for (part, what) in PARTS.iter().filter(|(part, _)| wanted(part)) {
        interrupt::check()?;
        ui::say(&Paint::Bold.err(&format!("── {part}: {what}")));
        let start = Instant::now();
        let tally = match LONG.iter().find(|(long, minutes)| long == part && !budget.has(*minutes)) {
            Some((_, minutes)) => {
                left_out(part, *minutes, part);
                Tally::skipped()
            }
            None => one(part, &crates, budget).unwrap_or_else(|e| {
                ui::error(&e);
                Tally { failed: 1, ..Tally::default() }
            }),
        };
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        lines.push(format!("{part:8} {:>12}  {tally}", ui::duration(ms)));
        total += tally;
    }
    ui::say("");
    for line in lines {
        ui::say(&line);
    }
    println!("{total}");
    Ok(total.failed == 0)
}

/// The names that are crates of ours; an error for a name that is nothing.
fn crates(names: &[String]) -> anyhow::Result<Vec<String>> {
    let metadata = workspace::Metadata::load(&workspace::root()?)?;
    let members: Vec<&str> = metadata.members().map(|p| p.name.as_str()).collect();
    let mut out = Vec::new();
    for name in names {
        // A part is meant where a crate has its name.
        if PARTS.iter().any(|(part, _)| part == name) {
            continue;
        }
        if members.contains(&name.as_str()) {
            out.push(name.clone());
        } else {
            let parts: Vec<&str> = PARTS.iter().map(|(p, _)| *p).collect();
            anyhow::bail!(
                "`{name}` is neither a part ({}) nor a crate ({})",
                parts.join(", "),
                members.join(", ")
            );
        }
    }
    Ok(out)
}

fn one(part: &str, crates: &[String], budget: Budget) -> anyhow::Result<Tally> {
    match part {
        "deps" => up::apt::install_missing().map(|()| Tally::of(true)),
        "fmt" => fmt(),
        "build" => cargo(&["build", "--locked", "--workspace"], BUILD_LIMIT),
        "check" => check::run().map(Tally::of),
        "clippy" => clippy(),
        "deny" => deny(),
        "signing" => Ok(signing()),
        "tests" => tests(crates),
        "api" => api::run(),
        "demo" => scenario(Play::Main),
        "systemd" => systemd::run(),
        "wan" => scenario(Play::Wan),
        "openstack" => openstack::run(budget),
        "osm" => osm::run(),
        "fabric" => fabric::run(),
        _ => anyhow::bail!("no part `{part}`"),
    }
}

fn cargo(arguments: &[&str], limit: Duration) -> anyhow::Result<Tally> {
    let mut c = workspace::cargo();
    c.args(arguments);
    command::passthrough(&mut c, limit).map(Tally::of)
}

/// Is there such a cargo subcommand? rustup's minimal profile lacks rustfmt and clippy.
fn has(subcommand: &str) -> bool {
    let mut c = workspace::cargo();
    c.args([subcommand, "--version"]);
    command::capture(&mut c, TOOL_LIMIT).is_ok_and(|out| out.status.success())
}

fn component(subcommand: &str, component: &str) -> anyhow::Result<()> {
    if has(subcommand) || !command::exists("rustup") {
        return Ok(());
    }
    let mut c = Command::new("rustup");
    command::passthrough(c.args(["component", "add", component]), TOOL_LIMIT)?;
    Ok(())
}

fn fmt() -> anyhow::Result<Tally> {
    component("fmt", "rustfmt")?;
    if !has("fmt") {
        ui::say("SKIPPED: no rustfmt; `rustup component add rustfmt`");
        return Ok(Tally::skipped());
    }
    cargo(&["fmt", "--all", "--check"], TOOL_LIMIT)
}

fn clippy() -> anyhow::Result<Tally> {
    component("clippy", "clippy")?;
    if !has("clippy") {
        ui::say("SKIPPED: no clippy; `rustup component add clippy`");
        return Ok(Tally::skipped());
    }
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], BUILD_LIMIT)
}

/// Licences, bans and sources are in `check` as well; the advisories are only here.
/// CI installs cargo-deny (a minute or two of CPU, unoptimised); a developer's machine is left as it is.
fn deny() -> anyhow::Result<Tally> {
    if !has("deny") && std::env::var_os("CI").is_some() {
        cargo(&["install", "--locked", "--debug", "cargo-deny"], BUILD_LIMIT)?;
    }
    if !has("deny") {
        ui::say(
            "SKIPPED: no cargo-deny (licences, bans and sources are in `check` too); \
                 `cargo install --locked cargo-deny`",
        );
        return Ok(Tally::skipped());
    }
    let mut tally = cargo(&["deny", "-L", "error", "check", "licenses", "bans", "sources"], TOOL_LIMIT)?;
    tally += advisories()?;
    Ok(tally)
}

/// Advisories need their database, which is fetched from where it is published.
fn advisories() -> anyhow::Result<Tally> {
    let mut c = workspace::cargo();
    c.args(["deny", "-L", "error", "check", "advisories"]);
    let out = command::capture(&mut c, TOOL_LIMIT)?;
    if !out.status.success() && out.stderr.contains("failed to fetch advisory database") {
        ui::say("SKIPPED: advisories: their database cannot be fetched from here");
        return Ok(Tally::skipped());
    }
    if !out.status.success() {
        ui::say(&out.tail(60));
    }
    Ok(Tally::of(out.status.success()))
}

/// Python's signing tools, from PyPI. Without them the tests that need them say so themselves.
fn signing() -> Tally {
    match up::signing::install() {
        Ok(()) => Tally::of(true),
        Err(e) => {
            ui::say(&format!("SKIPPED: {e:#}"));
            Tally::skipped()
        }
    }
}

fn tests(crates: &[String]) -> anyhow::Result<Tally> {
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--no-fail-fast"]);
    match crates {
        [] => c.arg("--workspace"),
        some => c.args(some.iter().flat_map(|name| ["--package", name])),
    };
    // Captured output is read for SKIPPED lines and not shown.
    c.args(["--", "--show-output"]);
    output::run(&mut c, TEST_LIMIT)
}

fn scenario(play: Play) -> anyhow::Result<Tally> {
    let report = demo::run(&DemoOptions { play, ..DemoOptions::default() })?;
    Ok(Tally { passed: report.passed(), failed: report.failed(), skipped: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_is_a_part_and_is_left_out_when_its_minutes_are_not_there() {
        for (long, _) in LONG {
            assert!(PARTS.iter().any(|(part, _)| *part == long), "{long}");
        }
        let within = |within| Budget::of(&TestOptions { names: vec![], within });
        assert!(within(None).has(u64::from(u32::MAX)) && within(None).left().is_none());
        assert!(within(Some(6)).has(5) && !within(Some(5)).has(6) && !within(Some(0)).has(1));
    }
}
