//! The OSM back end, and the gate before OSM: on a real NBI where `OSM_NBI_URL` names one, else on what was recorded of one
//! (`mano-osm`'s `tests/`) and on one that breaks on demand (`tests/osm_gateway.rs`). Where `OSM_REACHES_TESTBED` says that it is a
//! whole OSM whose LCM and RO reach this machine, also the main job, end to end: that OSM makes services on the testbed's OpenStack
//! (`demo --play osm`, `osm-sriov`, `osm-faults`, `osm-gate`); with `OSM_CONTROL` its services are killed while it does.

use std::{env, time::Duration};

use super::{Tally, output};
use crate::{
    cli::Play,
    demo::{self, Nbi},
    ui,
    up::openstack,
    workspace,
};

/// A real NBI's operations take their time, and every call of it is lost once.
const LIMIT: Duration = Duration::from_secs(1800);
/// Where the tests look for an NBI.
const NBI: &str = "OSM_NBI_URL";
/// Says that it is no NBI alone.
const WHOLE: &str = "OSM_REACHES_TESTBED";

/// Runs it.
pub fn run() -> anyhow::Result<Tally> {
    match env::var(NBI) {
        Ok(url) if !url.is_empty() => ui::say(&format!("the NBI at {url}")),
        _ => ui::say(&format!(
            "no NBI: recorded exchanges are replayed; for a real one set {NBI} (and OSM_NBI_USER, OSM_NBI_PASSWORD, OSM_NBI_PROJECT, \
             OSM_NBI_CA)"
        )),
    }
    let mut c = workspace::cargo();
    c.args(["test", "--locked", "--no-fail-fast", "--package", "mano-osm", "--package", "mano"]);
    c.args(["--", "--show-output", "--test-threads", "1"]);
    // Their VIM is none, which an NBI alone believes and a whole OSM tries.
    let replayed = env::var_os(WHOLE).is_some();
    if replayed {
        c.env_remove(NBI);
    }
    let mut tally = output::run(&mut c, LIMIT)?;
    for gate in [&["osm-gateway"][..], &["orchestrator", "--test", "osm_gateway"]] {
        let mut c = workspace::cargo();
        c.args(["test", "--locked", "--no-fail-fast", "--package"]).args(gate);
        c.args(["--", "--show-output", "--test-threads", "2"]);
        if replayed {
            c.env_remove(NBI);
        }
        tally += output::run(&mut c, LIMIT)?;
    }
    tally += whole()?;
    Ok(tally)
}

/// The main job by a whole OSM, on the testbed's cloud.
fn whole() -> anyhow::Result<Tally> {
    let skipped = |why: &str| {
        ui::say(&format!("SKIPPED: no service made by a whole OSM: {why}"));
        Ok(Tally::skipped())
    };
    let Some(osm) = Nbi::named()? else { return skipped(&format!("set {NBI}, and {WHOLE}=1")) };
    if env::var_os(WHOLE).is_none() {
        return skipped(&format!(
            "set {WHOLE}=1 if this OSM's LCM and RO reach OpenStack on 127.0.0.1 of this machine"
        ));
    }
    if let Some(why) = openstack::available() {
        return skipped(&why);
    }
    let before = openstack::clouds()?.is_some();
    let tally = openstack::up().and_then(|()| {
        let tried = osm.make_account(&demo::osm_account()?)?;
        match tried.enabled {
            true => plays(),
            false => skipped(&format!("OSM cannot use the testbed's cloud: {}", tried.detail)),
        }
    });
    if !before && let Err(e) = openstack::down() {
        ui::error(&e);
    }
    tally
}

/// The main job, virtual functions, what goes wrong inside OSM, and the gates: until one does not hold.
fn plays() -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for play in [Play::Osm, Play::OsmSriov, Play::OsmFaults, Play::OsmGate] {
        ui::say(&format!("demo --play {}", play.name()));
        tally += super::scenario(play)?;
        if tally.failed > 0 {
            break;
        }
    }
    Ok(tally)
}
