//! Peers: what must be installed ([`apt`], [`signing`]) and what must run ([`tpm`], [`openstack`], [`fabric`]).

pub mod apt;
pub mod fabric;
pub mod openstack;
mod ports;
mod process;
pub mod signing;
pub mod tpm;

use crate::{
    cli::{FabricOptions, Peer},
    demo, ui, workspace,
};

/// Sites of the standard set-up, each with a TPM of its own.
pub const SITES: [&str; 2] = ["edge-a", "edge-b"];

/// `up`.
pub fn up(what: Peer, options: &FabricOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        what == Peer::Fabric || *options == FabricOptions::default(),
        "these are options of `cargo testbed up fabric`"
    );
    match what {
        Peer::Deps => apt::install_missing(),
        Peer::Tpm => {
            apt::install_missing()?;
            let dir = workspace::state_dir()?.join("tpm");
            for site in SITES {
                let tpm = tpm::Swtpm::start(&dir, site)?;
                println!("--tpm {site}={}", tpm.tcti());
            }
            ui::say("end them with `cargo testbed down`");
            Ok(())
        }
        Peer::Signing => {
            apt::install_missing()?;
            signing::install()
        }
        Peer::Openstack => openstack::up(),
        Peer::Cinder => openstack::up_volumes(),
        Peer::Fabric => fabric::up(options),
    }
}

/// `down`: of everything, or of the peer named.
pub fn down(what: Option<Peer>) -> anyhow::Result<()> {
    let all = what.is_none();
    if all || matches!(what, Some(Peer::Openstack | Peer::Cinder)) {
        ui::say(&format!("{} processes of OpenStack ended", openstack::down()?));
    }
    if all || what == Some(Peer::Fabric) {
        ui::say(&format!("{} processes of Fabric ended", fabric::down()?));
    }
    if all || what == Some(Peer::Tpm) {
        let ended = tpm::stop_all(&workspace::state_dir()?.join("tpm"))?;
        ui::say(&format!("{ended} software TPMs ended"));
    }
    if all {
        ui::say(&format!("{} demos ended", demo::down_all()?));
    }
    Ok(())
}

/// `status`: what runs; false when something has ended by itself.
pub fn status() -> anyhow::Result<bool> {
    for site in tpm::running(&workspace::state_dir()?.join("tpm"))? {
        println!("tpm {site} up");
    }
    let openstack = openstack::status()?;
    Ok(fabric::status()? && openstack)
}
