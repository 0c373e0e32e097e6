//! OpenStack Yoga as `cargo testbed up openstack` starts it, asked over TLS for what a driver needs of it
//! (`tests/openstack.rs`), by the driver (`vim-openstack`: `tests/yoga.rs` its session, `tests/conformance.rs` the port's
//! suite, `tests/scenarios.rs` services, `tests/states.rs` every state of a server, `tests/adoption.rs` what a MANO made,
//! `tests/losses.rs` every call lost, `tests/calls.rs` how many there are), and by the whole of the product (`demo --play
//! cloud`). A cloud that was up before stays up. What waits for many boots comes last, and is left out, loudly, where the time
//! that was given does not last.

use std::time::Duration;

use super::{Budget, Tally, output};
use crate::{cli::Play, ui, up::openstack, workspace};

/// The tests wait for real boots: 12 minutes of them on two quiet cores, half an hour on two that others use too.
const LIMIT: Duration = Duration::from_secs(2700);
/// What the cloud, [`FIRST`] and the play take on a slow machine.
pub const MINUTES: u64 = 25;
/// What [`LAST`] takes there.
const LAST_MINUTES: u64 = 30;
const FIRST: [&str; 5] = ["openstack", "yoga", "openstack_policy", "calls", "conformance"];
const LAST: [&str; 4] = ["states", "adoption", "losses", "scenarios"];
/// Where the tests look for the cloud's clients' configuration.
const CLOUDS: &str = "TESTBED_OPENSTACK";

/// Runs it.
pub fn run(budget: Budget) -> anyhow::Result<Tally> {
    if let Some(why) = openstack::available() {
        ui::say(&format!("SKIPPED: OpenStack: {why}"));
        return Ok(Tally::skipped());
    }
    let before = openstack::clouds()?.is_some();
    let tally = openstack::up().and_then(|()| {
        let mut tally = tests(&FIRST, budget)?;
        tally += super::scenario(Play::Cloud)?;
        if budget.has(LAST_MINUTES) {
            tally += tests(&LAST, budget)?;
        } else {
            super::left_out(&LAST.join(", "), LAST_MINUTES, "openstack");
            tally += Tally { skipped: LAST.len(), ..Tally::default() };
        }
        Ok(tally)
    });
    if !before && let Err(e) = openstack::down() {
        ui::error(&e);
    }
    tally
}

fn tests(programs: &[&str], budget: Budget) -> anyhow::Result<Tally> {
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--no-fail-fast"]);
    c.args(["--package", "testbed", "--package", "vim-openstack", "--package", "orchestrator"]);
    c.args(programs.iter().flat_map(|program| ["--test", program]));
    c.args(["--", "--show-output"]);
    if let Some(clouds) = openstack::clouds()? {
        c.env(CLOUDS, clouds);
    }
    output::run(&mut c, budget.left().map_or(LIMIT, |left| left.min(LIMIT)))
}
