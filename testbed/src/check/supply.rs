//! Licences, bans and sources of everything that is linked, after `deny.toml`: the part of cargo-deny that needs
//! neither another program nor the network. cargo-deny itself adds the advisories (`cargo testbed test` runs it when
//! it is installed).

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context as _;
use serde::Deserialize;

use super::Finding;
use crate::workspace::{Metadata, Package};

/// How cargo names crates.io in a package's source.
const CRATES_IO: [&str; 2] =
    ["registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"];

/// The parts of `deny.toml` that are read here.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    reason: String,
}

/// Every package of the build.
pub fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("deny.toml")?;
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let place = format!("{} {}", package.name, package.version);
        if let Err(problem) = licence(package, &deny.licenses) {
            findings.push(Finding::new(&place, problem));
        }
        if let Some(ban) = deny.bans.deny.iter().find(|b| b.name == package.name) {
            findings.push(Finding::new(&place, format!("is banned: {}", ban.reason)));
        }
        if let Some(source) = package.source.as_deref().filter(|s| !CRATES_IO.contains(s)) {
            findings.push(Finding::new(&place, format!("comes from {source}; only crates.io is allowed")));
        }
    }
    Ok(findings)
}

fn licence(package: &Package, licenses: &Licenses) -> Result<(), String> {
    let expression = package.license.as_deref().ok_or("names no licence in its Cargo.toml")?;
    let allowed: BTreeSet<&str> = licenses
        .exceptions
        .iter()
        .filter(|e| e.name == package.name)
        .flat_map(|e| &e.allow)
        .chain(&licenses.allow)
        .map(String::as_str)
        .collect();
    // Old manifests write `MIT/Apache-2.0`.
    let parsed = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX)
        .map_err(|e| format!("`{expression}` is no SPDX expression: {}", e.reason))?;
    let fits = parsed.evaluate(|r| allowed.contains(r.to_string().as_str()));
    if fits { Ok(()) } else { Err(format!("is under `{expression}`, which deny.toml does not allow")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(license: Option<&str>) -> Package {
        Package {
            id: "x".into(),
            name: "x".into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: None,
            manifest_path: "/x/Cargo.toml".into(),
            dependencies: vec![],
            targets: vec![],
        }
    }

    #[test]
    fn expressions_are_evaluated() {
        let allow = ["MIT", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned).to_vec();
        let mut list = Licenses { allow, exceptions: vec![] };
        let fits = |l: &Licenses, e: &str| licence(&package(Some(e)), l).is_ok();
        assert!(fits(&list, "MIT OR GPL-3.0-only") && fits(&list, "MIT/Apache-2.0"));
        assert!(
            fits(&list, "(MIT OR Zlib) AND Unicode-3.0") && fits(&list, "Apache-2.0 WITH LLVM-exception")
        );
        assert!(
            !fits(&list, "MIT AND GPL-3.0-only") && !fits(&list, "Apache-2.0") && !fits(&list, "nonsense")
        );
        assert!(licence(&package(None), &list).is_err());
        list.exceptions.push(Exception { name: "x".into(), allow: vec!["Zlib".into()] });
        assert!(fits(&list, "Zlib"));
    }
}
