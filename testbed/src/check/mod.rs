//! `cargo testbed check`: what the compiler does not enforce of `docs/architecture.md`.
//!
//! Dependency directions ([`graph`]), unsafe code, purity and the lint table ([`source`]), licences, bans and sources
//! after `deny.toml` ([`supply`]), that every command the documents show exists ([`docs`]), that the tests they name do
//! ([`promises`]), and that the fuzz targets compile ([`fuzz`]). The tests at the end run it on a workspace that breaks every rule.

mod docs;
mod fuzz;
mod graph;
mod promises;
mod source;
mod supply;

use std::path::Path;

use crate::{
    ui::{self, Paint},
    workspace::{self, Metadata},
};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `path:line`, or a crate.
    pub place: String,
    /// What is wrong, and what is right.
    pub problem: String,
}

impl Finding {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

/// One group of rules and what broke them.
#[derive(Debug)]
pub struct Group {
    /// For people.
    pub name: &'static str,
    /// Empty: it holds.
    pub findings: Vec<Finding>,
    /// Why a part of it could not be checked, and how it can.
    pub skipped: Option<String>,
}

/// Checks this workspace; true when nothing was found.
pub fn run() -> anyhow::Result<bool> {
    let root = workspace::root()?;
    let groups = all(&root)?;
    for group in &groups {
        report(group);
    }
    Ok(groups.iter().all(|g| g.findings.is_empty()))
}

/// Every group of rules over the workspace at `root`.
pub fn all(root: &Path) -> anyhow::Result<Vec<Group>> {
    let metadata = Metadata::load(root)?;
    let sources = source::read(&metadata, root)?;
    let (documents, skipped) = docs::check(root, &metadata)?;
    let (targets, untried) = fuzz::check(root, &metadata)?;
    let group = |name, findings| Group { name, findings, skipped: None };
    Ok(vec![
        group("dependency directions", graph::check(&metadata)),
        group("the lint table is inherited", source::lints(&metadata)?),
        group("unsafe code only in dpdk-sys and dpdk", source::unsafe_code(&sources)),
        group("pure crates have no I/O, async, clock or randomness", source::purity(&metadata, &sources)),
        group("only the wiring names concrete drivers", source::drivers(&sources)),
        group("licences, bans and sources (deny.toml)", supply::check(root, &metadata)?),
        Group { name: "documented commands exist", findings: documents, skipped },
        group("tests that documents name exist", promises::check(root, &metadata)?),
        Group { name: "fuzz targets compile", findings: targets, skipped: untried },
    ])
}

fn report(group: &Group) {
    let ok = group.findings.is_empty();
    let mark = if ok { Paint::Green.err("✓") } else { Paint::Red.err("✗") };
    ui::say(&format!("{mark} {}", group.name));
    for f in &group.findings {
        ui::say(&format!("    {}: {}", Paint::Cyan.err(&f.place), f.problem));
    }
    if let Some(why) = &group.skipped {
        ui::say(&format!("    {} {why}", Paint::Yellow.err("SKIPPED:")));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn member(root: &Path, name: &str, dependencies: &str, source: &str) {
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"Apache-2.0\"\n\
             publish = false\n{dependencies}"
        );
        write(root, &format!("{name}/Cargo.toml"), &manifest);
        write(root, &format!("{name}/src/lib.rs"), source);
    }

    fn workspace(root: &Path, members: &[&str]) {
        write(root, "Cargo.toml", &format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n"));
        write(
            root,
            "deny.toml",
            "[licenses]\nallow = [\"Apache-2.0\"]\n[bans]\ndeny = []\n[sources]\nallow-registry = []\n",
        );
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn a_workspace_that_breaks_every_rule() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        workspace(root, &["lcm", "vim-host", "stray"]);
        let lcm = "//! A clock and a file.\nuse std::{fs, time::SystemTime};\npub fn x() { unsafe {} }\n";
        member(root, "lcm", "[dependencies]\nvim-host = { path = \"../vim-host\" }\n", lcm);
        member(root, "vim-host", LINTS, "//! Fine: `unsafe` in prose.\n");
        member(root, "stray", LINTS, "");
        let shown =
            "`cargo test -p vim-host it_holds`, `--test nowhere`; `A=1 cargo test -p gone -- --nocapture`\n";
        write(root, "README.md", &format!("```sh\ncargo testbed frobnicate\n```\n{shown}"));
        let lints = "\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n";
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap() + lints;
        write(root, "Cargo.toml", &manifest);

        let found: Vec<String> = all(root)
            .unwrap()
            .into_iter()
            .flat_map(|g| g.findings)
            .map(|f| format!("{}: {}", f.place, f.problem))
            .collect();
        for (place, word) in [
            ("lcm", "vim-host"),
            ("stray", "table"),
            ("lcm/Cargo.toml", "[lints]"),
            ("lcm/src/lib.rs:3", "unsafe"),
            ("lcm/src/lib.rs:2", "std::fs"),
            ("lcm/src/lib.rs:2", "std::time::SystemTime"),
            ("README.md:2", "frobnicate"),
            ("README.md:4", "no test there has `it_holds`"),
            ("README.md:4", "vim-host has no test `nowhere`"),
            ("README.md:4", "no package `gone`"),
        ] {
            assert!(
                found.iter().any(|f| f.starts_with(place) && f.contains(word)),
                "{place} {word}: {found:#?}"
            );
        }
        assert_eq!(found.len(), 10, "and nothing else: {found:#?}");
    }

    #[test]
    fn a_workspace_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        workspace(root, &["lcm", "vim"]);
        member(
            root,
            "lcm",
            &format!("{LINTS}[dependencies]\nvim = {{ path = \"../vim\" }}\n"),
            "//! Pure.\n",
        );
        member(root, "vim", LINTS, "use std::net::IpAddr;\npub fn x(_: IpAddr) {}\n");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap() + "[workspace.lints.rust]\n";
        write(root, "Cargo.toml", &manifest);
        for group in all(root).unwrap() {
            assert_eq!(group.findings, [], "{}", group.name);
        }
    }
}
