//! The OSM back end, and the gate before OSM: on a real NBI where `OSM_NBI_URL` names one, else on what was recorded of one
//! (`mano-osm`'s `tests/`) and on one that breaks on demand (`tests/osm_gateway.rs`).

use std::{env, time::Duration};

use super::{Tally, output};
use crate::{ui, workspace};

/// A real NBI's operations take their time, and every call of it is lost once.
const LIMIT: Duration = Duration::from_secs(1800);
/// Where the tests look for an NBI.
const NBI: &str = "OSM_NBI_URL";

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
    let mut tally = output::run(&mut c, LIMIT)?;
    for gate in [&["osm-gateway"][..], &["orchestrator", "--test", "osm_gateway"]] {
        let mut c = workspace::cargo();
        c.args(["test", "--locked", "--no-fail-fast", "--package"]).args(gate);
        c.args(["--", "--show-output", "--test-threads", "2"]);
        tally += output::run(&mut c, LIMIT)?;
    }
    Ok(tally)
}
