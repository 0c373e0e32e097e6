//! Peers: what must be installed ([`apt`], [`signing`]) and what must run ([`tpm`]).

pub mod apt;
pub mod signing;
pub mod tpm;

use crate::{cli::Peer, demo, ui, workspace};

/// Sites of the standard set-up, each with a TPM of its own.
pub const SITES: [&str; 2] = ["edge-a", "edge-b"];

/// `up`.
pub fn up(what: Peer) -> anyhow::Result<()> {
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
    }
}

/// `down`.
pub fn down() -> anyhow::Result<()> {
    let dir = workspace::state_dir()?.join("tpm");
    let ended = tpm::stop_all(&dir)?;
    let demos = demo::down_all()?;
    ui::say(&format!("{ended} software TPMs and {demos} demos ended"));
    Ok(())
}
