//! cinder beside the cloud, on request: Yoga's API and scheduler, and a volume service whose volumes hold nothing
//! (`openstack/volumes.py`). Its catalogue entry is what tells clients that there are volumes, so it is made only here.
//!
//! Tests: `cargo test -p vim-openstack --test volumes`, on a cloud that has it.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::Value;

use super::{http::Client, identity, install, layout::Layout, services};
use crate::{command, interrupt};

/// What it is, beside what nova has brought.
const PACKAGES: [&str; 2] = ["cinder==20.3.2", "tabulate==0.8.9"];
/// Where cinder finds it: any module will do.
const DRIVER: (&str, &str) =
    ("lib/python3.11/site-packages/testbed_volumes.py", include_str!("../../../openstack/volumes.py"));
/// Its tables, on a busy machine.
const SYNC_LIMIT: Duration = Duration::from_secs(300);
/// Until the scheduler has heard of the volume service.
const READY_LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(500);
const PROGRAMS: [&str; 3] = ["cinder-api", "cinder-scheduler", "cinder-volume"];

/// Installs what is missing.
pub fn packages(cache: &Path) -> anyhow::Result<()> {
    let driver = cache.join("venv").join(DRIVER.0);
    fs::write(&driver, DRIVER.1).with_context(|| format!("cannot write {}", driver.display()))?;
    let stamp = cache.join("venv/cinder");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let mut uv = install::uv(&cache.join("venv"));
    command::succeed(uv.args(PACKAGES), install::INSTALL_LIMIT)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Makes its tables, tells keystone, and starts it; what is there is left alone.
pub fn start(layout: &Layout) -> anyhow::Result<()> {
    let file = layout.etc("cinder/cinder.conf");
    let mut manage = services::python(layout, "cinder-manage");
    manage.arg("--config-file").arg(&file).args(["db", "sync"]);
    command::succeed(&mut manage, SYNC_LIMIT)?;
    let token = identity::token(layout)?;
    identity::volumes(layout, &token)?;
    for name in PROGRAMS {
        services::run(layout, name, services::python(layout, name).arg("--config-file").arg(&file))?;
    }
    services::listening(layout, PROGRAMS[0], layout.volumes())?;
    let client = Client { port: layout.volumes(), token: &token };
    interrupt::wait_for("cinder is not ready", READY_LIMIT, || {
        std::thread::sleep(PAUSE);
        let Ok(found) = client.get("/v3/os-services") else { return Ok(None) };
        let all: Vec<&Value> = found["services"].as_array().into_iter().flatten().collect();
        let up = |binary: &str| all.iter().any(|s| s["binary"] == binary && s["state"] == "up");
        Ok((up("cinder-scheduler") && up("cinder-volume")).then_some(()))
    })
}
