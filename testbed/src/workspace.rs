//! Where the workspace is and what cargo says of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use serde::Deserialize;

use crate::command;

/// The checkout: the directory above this crate.
pub fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the testbed is a directory of the workspace")?;
    let there = root.join("Cargo.toml").is_file();
    anyhow::ensure!(there, "{} is no workspace any more: build the testbed again", root.display());
    Ok(root.to_owned())
}

/// `.testbed/`: what peers and demos keep while they run; ignored by git.
pub fn state_dir() -> anyhow::Result<PathBuf> {
    let dir = root()?.join(".testbed");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut c = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if let Ok(root) = root() {
        c.current_dir(root);
    }
    // What `cargo run` sets for us is not meant for the crates that we build.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            c.env_remove(name);
        }
    }
    c
}

/// `cargo metadata`, the parts we read.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Every package of the build, ours and others'.
    pub packages: Vec<Package>,
    /// Ids of ours.
    pub workspace_members: Vec<String>,
    /// Where binaries are put.
    pub target_directory: PathBuf,
}

/// A package.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Package id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
    /// Where it was had from; absent: this workspace.
    pub source: Option<String>,
    /// Its Cargo.toml.
    pub manifest_path: PathBuf,
    /// What it asks for.
    pub dependencies: Vec<Dependency>,
    /// What is made of it.
    pub targets: Vec<Target>,
}

/// A library or program.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    /// Name.
    pub name: String,
    /// `lib`, `bin`, `test`, …
    pub kind: Vec<String>,
    /// Its first file.
    pub src_path: PathBuf,
}

/// A dependency as asked for.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    /// Package name.
    pub name: String,
    /// Absent: normal; `dev` or `build`.
    pub kind: Option<String>,
}

impl Metadata {
    /// Asks cargo about the workspace at `root`.
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let mut c = cargo();
        c.current_dir(root).args(["metadata", "--format-version", "1", "--filter-platform", host_target()]);
        let out = command::succeed(&mut c, Duration::from_secs(300))?;
        serde_json::from_str(&out.stdout).context("cargo metadata")
    }

    /// Our packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|p| self.workspace_members.contains(&p.id))
    }
}

fn host_target() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" }
}
