//! The tools that providers sign with: Python's from PyPI in a virtual environment, for the tests of what they sign.
//!
//! `openssl` is the system's. `cosign` is in no package registry; sigstore-python writes and checks the same bundles.
//! Versions are pinned: what a test was seen to pass with is what it runs with.

use std::{process::Command, time::Duration};

use anyhow::Context as _;

use crate::{command, ui, workspace};

/// pip over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const VENV_LIMIT: Duration = Duration::from_secs(120);

const PACKAGES: [&str; 6] = [
    "sigstore==4.5.1",
    "in-toto==3.1.0",
    "securesystemslib[crypto]==1.6.0",
    "spdx-tools==0.8.5",
    "spdx-python-model==0.0.6",
    "cyclonedx-python-lib[validation]==11.12.0",
];

/// Makes the virtual environment where the tests look for it; one that is complete stays as it is.
pub fn install() -> anyhow::Result<()> {
    let dir = workspace::state_dir()?.join("signing-tools");
    let python = dir.join("bin/python");
    let wanted = PACKAGES.join("\n");
    let stamp = dir.join("installed");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        ui::say("the signing tools are installed");
        return Ok(());
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&dir);
    command::succeed(&mut venv, VENV_LIMIT)
        .context("no virtual environment for the signing tools: install python3-venv")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    command::succeed(&mut pip, INSTALL_LIMIT).context("the signing tools could not be had from PyPI")?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    ui::say(&format!("the signing tools are in {}", dir.display()));
    Ok(())
}
