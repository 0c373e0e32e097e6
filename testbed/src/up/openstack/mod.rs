//! OpenStack Yoga: keystone, glance, placement, nova and neutron from PyPI, with MariaDB, RabbitMQ and HAProxy from the
//! distribution, all on 127.0.0.1, the public endpoints behind TLS with a CA of their own.
//!
//! Everything is the real thing but the machines: nova's FakeDriver boots nothing (`openstack/virt.py` gives it an NFV
//! host's hardware), and one process speaks for the L2 agents (`openstack/agents.py`). Below `.testbed/openstack/`:
//! `cache` stays over `down` (the Python packages, and the databases as they were when first made, so that each `up`
//! begins with the same, empty cloud); everything else is of the running cloud. It must never listen beyond 127.0.0.1, and
//! never end a process that it did not start. Tests: `cargo testbed test openstack`.
//!
//! Policies: each service reads `etc/SERVICE/policy.yaml` and `etc/SERVICE/policy.d/` again when they change, and asks for
//! `https:` rules with `pki/services.crt`; `pki/policy.crt` is for who answers. glance keeps a rule whose file was removed.

mod config;
mod http;
mod identity;
mod install;
mod layout;
mod operator;
mod pki;
mod ready;
mod seed;
mod services;
mod view;
mod volumes;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

use self::layout::Layout;
use super::process::{self, Process};
use crate::{
    interrupt,
    ui::{self, Step},
    workspace,
};

pub use install::available;
pub use layout::{HOSTS, TENANTS};
pub use operator::GATED;
pub use view::{Seen, View};

/// The longest `up`, from nothing on a slow line.
const LOCK_LIMIT: Duration = Duration::from_secs(1500);

fn root() -> anyhow::Result<PathBuf> {
    Ok(workspace::state_dir()?.join("openstack"))
}

/// One `up` or `down` at a time: kept until it is dropped.
fn alone() -> anyhow::Result<Flock<fs::File>> {
    let file = root()?.with_extension("lock");
    let open = || fs::File::options().create(true).append(true).open(&file);
    interrupt::wait_for("another `up` or `down` of OpenStack goes on", LOCK_LIMIT, || {
        Ok(Flock::lock(open()?, FlockArg::LockExclusiveNonblock).ok())
    })
}

/// `up openstack`; what runs already is left alone.
pub fn up() -> anyhow::Result<()> {
    let _alone = alone()?;
    let root = root()?;
    step("packages", || install::install(&root.join("cache")))?;
    let layout = step("configuration", || Layout::make(&root))?;
    if !layout.begun() {
        if !seed::kept(&layout) {
            step("databases, once", || seed::make(&layout))?;
        }
        seed::plant(&layout)?;
    }
    step("services", || services::start(&layout))?;
    step("agents and hosts", || ready::wait(&layout))?;
    println!("export OS_CLIENT_CONFIG_FILE={}", layout.clouds().display());
    ui::say(
        "clouds: admin, mandate, mandate-b, tenant-a, tenant-b; end it with `cargo testbed down openstack`",
    );
    Ok(())
}

/// `up cinder`: the cloud, and cinder in it.
pub fn up_volumes() -> anyhow::Result<()> {
    up()?;
    let _alone = alone()?;
    let root = root()?;
    step("packages of cinder", || volumes::packages(&root.join("cache")))?;
    let layout = Layout::make(&root)?;
    step("cinder", || volumes::start(&layout))
}

/// What a running cloud is reached with; `None`: not up.
pub fn clouds() -> anyhow::Result<Option<PathBuf>> {
    let file = root()?.join("clouds.yaml");
    Ok(file.is_file().then_some(file))
}

/// `down openstack`: how many processes were ended. The cache stays.
pub fn down() -> anyhow::Result<usize> {
    let _alone = alone()?;
    let root = root()?;
    let ended = process::stop_all(&processes(&root)?, services::rank);
    // First, so that what an interrupted `down` leaves is not taken for a cloud.
    let _gone = fs::remove_file(root.join("data/planted"));
    let Ok(entries) = fs::read_dir(&root) else { return Ok(ended) };
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "cache") {
            continue;
        }
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(ended)
}

/// `status`: each process; false when one that was started has ended.
pub fn status() -> anyhow::Result<bool> {
    Ok(process::status("openstack", &processes(&root()?)?))
}

/// Every process that was started, in the order in which they are ended: users before what they use.
fn processes(root: &std::path::Path) -> anyhow::Result<Vec<Process>> {
    process::all(root, services::rank)
}

fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let step = Step::begin(name);
    let done = work();
    step.end(done.is_ok(), "");
    done.with_context(|| format!("openstack: {name}"))
}
