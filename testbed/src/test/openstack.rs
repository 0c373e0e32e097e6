//! OpenStack Yoga as `cargo testbed up openstack` starts it, asked over TLS for what a driver needs of it
//! (`tests/openstack.rs`), by the driver (`vim-openstack`: `tests/yoga.rs` its session, `tests/conformance.rs` the port's
//! suite, `tests/scenarios.rs` services, `tests/states.rs` every state of a server, `tests/adoption.rs` what a MANO made,
//! `tests/losses.rs` every call lost, `tests/calls.rs` how many there are), and by the whole of the product (`demo --play
//! cloud`). A cloud that was up before stays up.

use std::time::Duration;

use super::{Tally, output};
use crate::{cli::Play, ui, up::openstack, workspace};

/// The tests wait for real boots: 12 minutes of them on two quiet cores.
const LIMIT: Duration = Duration::from_secs(2700);
/// Where the tests look for the cloud's clients' configuration.
const CLOUDS: &str = "TESTBED_OPENSTACK";

/// Runs it.
pub fn run() -> anyhow::Result<Tally> {
    if let Some(why) = openstack::available() {
        ui::say(&format!("SKIPPED: OpenStack: {why}"));
        return Ok(Tally::skipped());
    }
    let before = openstack::clouds()?.is_some();
    let tally = openstack::up().and_then(|()| {
        let mut tally = tests()?;
        tally += super::scenario(Play::Cloud)?;
        Ok(tally)
    });
    if !before && let Err(e) = openstack::down() {
        ui::error(&e);
    }
    tally
}

fn tests() -> anyhow::Result<Tally> {
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--no-fail-fast"]);
    c.args(["--package", "testbed", "--package", "vim-openstack", "--package", "orchestrator"]);
    for test in [
        "openstack",
        "yoga",
        "states",
        "calls",
        "adoption",
        "losses",
        "conformance",
        "scenarios",
        "openstack_policy",
    ] {
        c.args(["--test", test]);
    }
    c.args(["--", "--show-output"]);
    if let Some(clouds) = openstack::clouds()? {
        c.env(CLOUDS, clouds);
    }
    output::run(&mut c, LIMIT)
}
