//! The fuzz targets still compile: they are outside the workspace, so nothing else would notice.
//!
//! Checked where a nightly toolchain is installed, which the project itself never needs; cargo-fuzz is not needed.

use std::{path::Path, process::Command, time::Duration};

use super::Finding;
use crate::{command, workspace::Metadata};

/// The crate, from the root.
const MANIFEST: &str = "fuzz/Cargo.toml";
/// A first run compiles libFuzzer and every dependency.
const CHECK_LIMIT: Duration = Duration::from_secs(1200);
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// What does not compile; and why it was not tried, if so.
pub fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<(Vec<Finding>, Option<String>)> {
    if !root.join(MANIFEST).is_file() {
        return Ok((Vec::new(), None));
    }
    if !has_nightly() {
        return Ok((Vec::new(), Some("no nightly toolchain: `rustup toolchain install nightly`".into())));
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["+nightly", "check", "--quiet", "--bins", "--manifest-path", MANIFEST]);
    cargo.arg("--target-dir").arg(metadata.target_directory.join("fuzz")).current_dir(root);
    // A cargo started by cargo is told which toolchain it is.
    cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    let output = command::capture(&mut cargo, CHECK_LIMIT)?;
    let problem = || format!("a fuzz target does not compile:\n{}", output.tail(20));
    let findings = if output.status.success() { Vec::new() } else { vec![Finding::new(MANIFEST, problem())] };
    Ok((findings, None))
}

fn has_nightly() -> bool {
    let listed = command::capture(Command::new("rustup").args(["toolchain", "list"]), LIST_LIMIT);
    listed.is_ok_and(|o| o.status.success() && o.stdout.lines().any(|l| l.starts_with("nightly")))
}
